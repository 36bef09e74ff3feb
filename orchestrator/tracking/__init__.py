"""Trackers record what a study does. A tracker never stops or slows a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.curve import Outcome, Point
from orchestrator.recipe import Decision, Run


class Tracker:
    """Records the events of a study; this base class records nothing (`tracking=none`).

    Every method returns at once and raises nothing.
    """

    def start(
        self,
        config: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Open or reopen the parent run of the study.

        Args:
            config: The config without passwords.
            tags: Tags of the parent run; a parent run with all of them is reopened.
            datasets: {name, context, digest, source, examples} for each part of the data, without
                the sealed test data.
        """

    def run_started(self, stage: str, run: Run, trial_key: str) -> None:
        """Record that a trial starts to train.

        While a timed run trains, nothing may run in the background.

        Args:
            stage: Name of the stage.
            run: What is trained.
            trial_key: The trial's key in later calls.
        """

    def point(self, run: Run, trial_key: str, point: Point) -> None:
        """Record a measurement of a trial.

        Args:
            run: What is trained.
            trial_key: The trial's key.
            point: The measurement.
        """

    def run_ended(self, stage: str, outcome: Outcome, clue: str) -> None:
        """Record that a trial ended: finished, pruned or failed.

        Args:
            stage: Name of the stage.
            outcome: The result of the trial.
            clue: The label of its curve, "" without one.
        """

    def known(self, stage: str, outcome: Outcome, clue: str) -> None:
        """Record a trial of an earlier command, which may have been killed before it recorded it.

        Args:
            stage: Name of the stage.
            outcome: The result of the trial.
            clue: The label of its curve, "" without one.
        """

    def decided(self, decision: Decision) -> None:
        """Record the decision of a stage.

        Args:
            decision: The decision.
        """

    def finish(
        self,
        status: str,
        summary: Mapping[str, Any],
        files: Sequence[Path],
        model: Mapping[str, Any] | None = None,
    ) -> None:
        """Record the end of the study, and write everything that is still queued.

        Args:
            status: As in summary.json.
            summary: The content of summary.json.
            files: The files to keep with the study.
            model: The trained network (see `study.model_files.served`), None without one.
        """
