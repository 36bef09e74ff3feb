"""The tracker that tracks nothing: `tracking=none`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.curve import Outcome, Point
from orchestrator.recipe import Decision, Run


class NoTracker:
    """A `Tracker` whose every call does nothing."""

    def start(
        self,
        config: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Do nothing."""

    def run_started(self, stage: str, run: Run, key: str) -> None:
        """Do nothing."""

    def point(self, key: str, point: Point) -> None:
        """Do nothing."""

    def run_ended(self, stage: str, outcome: Outcome, clue: str) -> None:
        """Do nothing."""

    def known(self, stage: str, outcome: Outcome, clue: str) -> None:
        """Do nothing."""

    def decided(self, decision: Decision, recipe: Mapping[str, Any]) -> None:
        """Do nothing."""

    def quiet(self, silent: bool) -> None:
        """Do nothing."""

    def finish(
        self,
        status: str,
        summary: Mapping[str, Any],
        files: Sequence[Path],
        model: Mapping[str, Any] | None = None,
    ) -> None:
        """Do nothing."""
