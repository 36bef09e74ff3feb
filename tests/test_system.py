"""Systems other than Linux, pretended: what they lack does not stop a study."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.system import host

# What Windows has not is taken away after the imports that would notice.
WINDOWS = """
import os, signal, sys
import numpy, optuna, hydra, matplotlib.pyplot, sqlalchemy, rich.console, multiprocessing
from hydra._internal import utils
for module in ("fcntl", "resource"):
    sys.modules[module] = None
for name in ("register_at_fork", "pread", "pwrite", "sysconf", "getloadavg", "sched_getaffinity",
             "getuid", "fork", "killpg"):
    delattr(os, name)
for name in ("SIGALRM", "SIGKILL", "SIGHUP", "setitimer", "ITIMER_REAL", "alarm"):
    delattr(signal, name)
def kill(*_):
    raise AssertionError("on Windows os.kill ends the process")
os.kill = kill
sys.platform = "win32"
"""
MAC = """
import pathlib, sys
read = pathlib.Path.read_text
def read_text(path, *args, **kwargs):
    if str(path).startswith(("/proc", "/sys")):
        raise FileNotFoundError(path)
    return read(path, *args, **kwargs)
pathlib.Path.read_text = read_text
"""
STUDY = """
import orchestrator.study.lock, orchestrator.system.signals
import orchestrator.tracking.machine as machine
from orchestrator import __main__ as cli
machine.Machine().sample()
sys.exit(cli.run(["+study=quadratic", "quiet=true"]))
"""

# The same with real training, after every module of ours was imported there.
TRAINING = """
import importlib, os, pkgutil, sys
import orchestrator
for module in ("pty", "termios", "tty", "pwd", "grp"):
    sys.modules[module] = None
for module in pkgutil.walk_packages(orchestrator.__path__, "orchestrator."):
    importlib.import_module(module.name)
from orchestrator import __main__ as cli
small = "model=mlp plan=[lr_range,final] stages.final.epochs=2 stages.final.seeds=1 threads=1"
small += " recipe.batch_size=64 tracking=none quiet=true"
sys.exit(cli.run(small.split()))
"""
NOT_IN_A_NAME = set('<>:"|?*\\')  # of a file on Windows


def passes(program: str, *options: str) -> None:
    """Run a program in a Python of its own; it must come to its end."""
    done = subprocess.run(
        [sys.executable, *options, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("lacking", [WINDOWS, MAC], ids=["windows", "mac"])
def test_a_study_needs_nothing_that_only_linux_has(lacking: str, here: Path) -> None:
    """Without fcntl, resource, alarms and /proc a study comes to its answer, and goes on."""
    for _ in range(2):  # the second finds what the first left: owners of trials, the lock file
        passes(lacking + STUDY)
    assert Path("runs/quadratic/recipe.yaml").is_file()
    assert [p for p in Path("runs").rglob("*") if NOT_IN_A_NAME & set(p.name)] == []


@pytest.mark.slow
@pytest.mark.parametrize("lacking", [WINDOWS, MAC], ids=["windows", "mac"])
def test_training_needs_nothing_that_only_linux_has(lacking: str, here: Path) -> None:
    """Every module can be imported there, and a network is trained; names of files are plain."""
    first = "import torch, torchvision, sklearn.datasets, pyarrow.parquet, mlflow\n"
    passes(first + lacking + TRAINING, "-W", "ignore")
    assert Path("runs/study/model.pt").is_file()
    assert [p for p in Path("runs").rglob("*") if NOT_IN_A_NAME & set(p.name)] == []


def test_a_process_that_ended_does_not_live() -> None:
    """This one lives, a child that has been waited for does not."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert host.lives(os.getpid())
    assert not host.lives(child.pid)


def test_a_file_is_locked_once(tmp_path: Path) -> None:
    """A second descriptor gets the lock when the first is closed."""
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert host.try_lock(first)
    assert not host.try_lock(second)
    os.close(first)
    assert host.try_lock(second)
    os.close(second)
