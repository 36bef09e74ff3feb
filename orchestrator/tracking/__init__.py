"""Trackers: who is told what happens. A tracker never stops or slows a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.curve import Outcome, Point
from orchestrator.recipe import Decision, Run

SPOOL = "tracking.spool.jsonl"  # in a study's folder: what could not be sent yet


class Tracker:
    """What the study tells; this one passes it on to nobody (`tracking=none`).

    Every call returns at once and none raises.
    """

    def start(
        self,
        config: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """A study run begins (or goes on): open or reopen its parent run.

        `datasets`: {name, context, digest, source, examples} of each part of the data that is open.
        """

    def run_started(self, stage: str, run: Run, key: str) -> None:
        """A trial begins to train. `key` names it in the calls that follow."""

    def point(self, key: str, point: Point) -> None:
        """A trial measured something."""

    def run_ended(self, stage: str, outcome: Outcome, clue: str) -> None:
        """A trial ended (finished, pruned or failed); `clue` is the label of its curve."""

    def known(self, stage: str, outcome: Outcome, clue: str) -> None:
        """A trial was trained by an earlier command, which may have been killed before it told."""

    def decided(self, decision: Decision) -> None:
        """A stage decided."""

    def quiet(self, silent: bool) -> None:
        """While True, do nothing in the background: a timed run is on the clock."""

    def finish(
        self,
        status: str,
        summary: Mapping[str, Any],
        files: Sequence[Path],
        model: Mapping[str, Any] | None = None,
    ) -> None:
        """The study ended; `status` as in summary.json. Flushes everything, then returns.

        `model`: what a server needs of the trained network, see `study.model_files.served`.
        """
