"""A Ray cluster of two nodes on this machine, for tests: small, and gone at their end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from orchestrator.system import signals

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray (pip install '.[ray]')")
# Ray opens files and sockets that are closed when the process ends.
quiet_ray = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
SMALL = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}


@contextmanager
def a_local_ray(processors: int = 2) -> Iterator[None]:
    """Return a context with a cluster on this machine, which this process has joined."""
    from orchestrator.executors.cluster import ray

    ray.init(
        address="local",
        num_cpus=processors,
        object_store_memory=80_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        yield
    finally:
        ray.shutdown()


class TwoNodes:
    """A head and another node, one processor each. `address`: where a study finds it."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *_path()])
        with signals.kept():
            self._cluster = Cluster(initialize_head=True, head_node_args=dict(SMALL))
            self.address = str(self._cluster.address)
            self.other = self._cluster.add_node(**SMALL)

    def kill_other(self) -> None:
        """Kill all processes of the other node."""
        self._cluster.remove_node(self.other, allow_graceful=False)

    def add(self) -> None:
        """Add a node in the place of the one that was killed; wait until the head knows."""
        with signals.kept():
            self.other = self._cluster.add_node(**SMALL)
        self._cluster.wait_for_nodes(60)

    def kill_head(self) -> None:
        """Kill all processes of the head: the cluster is lost."""
        for processes in self._cluster.head_node.all_processes.values():
            for process in processes:
                process.process.kill()

    def close(self) -> None:
        """Stop it."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()


def _path() -> list[str]:
    return [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
