"""The output on the terminal while a study runs: decisions, warnings, and one live line.

rich is imported only for a real terminal; elsewhere the lines are plain text.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.curve import Outcome, Point, State
from orchestrator.figures.numbers import duration, number, rate
from orchestrator.recipe import Decision, Run
from orchestrator.record import StudyRecord
from orchestrator.redact import hidden
from orchestrator.report.ending import ending
from orchestrator.report.text import between, counts, planned
from orchestrator.system.host import silence

if TYPE_CHECKING:
    from rich.progress import Progress

    from orchestrator.plan import StudyPlan
    from orchestrator.plan.estimate import Range

WIDTH = 16  # of the column of names
REFRESH_SECONDS = 0.1


class Terminal:
    """Prints the progress of a study on `stream` (standard output by default).

    A terminal shows one live line for the run in progress, below the permanent lines. A pipe, a
    file, NO_COLOR, CI or TERM=dumb get plain lines: one decision per stage, and errors. Warnings of
    the program are shown as notes between `study_started` and `close`. `quiet`: only the closing
    lines; warnings are in study.log.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._quiet = quiet
        fancy = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._fancy = fancy and not quiet and not any(map(os.environ.get, ("NO_COLOR", "CI")))
        self._progress: Progress | None = None
        self._task: Any = None
        self._drawn = 0.0
        self._stage, self._began = "", time.monotonic()
        self._states: list[State] = []
        self._running: dict[Run, float] = {}  # and how far they are
        self._number = self._of = 0  # the run's place in its round, and how many there are
        self._left = ""
        self._handler = _Notes(self)

    def study_started(
        self, name: str, device: str, plan: Sequence[str], notes: Sequence[str]
    ) -> None:
        """Print the study's name, plan, device and notes."""
        logging.getLogger("orchestrator").addHandler(self._handler)
        self._line(name, f"{', '.join(plan)} on {device}", "bold")
        for text in notes:
            self.note(text)

    def planned(self, plan: StudyPlan) -> None:
        """Print the plan of a dry run: what a study would run, and what it would cost."""
        self._print(plan.study, f"the plan of a study on {plan.device}; nothing is kept", "bold")
        for text in plan.notes:
            self.note(text)
        for name, text in planned(plan):
            self._print(name, text)

    def stage_started(self, name: str) -> None:
        """Show that a stage starts."""
        self._stage, self._began, self._states = name, time.monotonic(), []
        self._running.clear()

    def round_started(self, runs: int, left: Range | None) -> None:
        """Show a round of `runs` runs; `left`: the seconds left of the study, None if not known."""
        self._number, self._of = 0, runs
        self._left = f"{between(left)} left" if left else ""

    def run_started(self, stage: str, run: Run, trial_key: str) -> None:
        """Show the next run of the round."""
        self._number += 1
        self._running[run] = 0.0
        labels = [run.name for run in self._running]  # several in worker processes
        several = f"{len(labels)} runs: " if len(labels) > 1 else ""
        place = f"{self._number}/{self._of}"
        self._show(f"{place} {several}{', '.join(labels)}", self._done(), self._left)

    def point(self, run: Run, trial_key: str, point: Point) -> None:
        """Show the progress and losses of a run."""
        self._running[run] = point.progress
        if self._progress is not None and time.monotonic() - self._drawn > REFRESH_SECONDS:
            losses = (
                f"held-out {number(point.held_out_loss, 3)}, train {number(point.train_loss, 3)}"
            )
            self._show(None, self._done(), ", ".join(filter(None, (losses, self._left))))

    def _done(self) -> float:
        """Return the mean progress of the runs in progress."""
        return sum(self._running.values()) / len(self._running)

    def run_ended(self, stage: str, outcome: Outcome, clue: str) -> None:
        """Print a line for a run that did not finish."""
        self._running.pop(outcome.run, None)
        self._states.append(outcome.state)
        if outcome.state != "finished":
            reason = outcome.reason or clue or "no reason given"
            self._line(f"  {outcome.state}", f"{outcome.run.name}: {reason}", "yellow")

    def decided(self, decision: Decision, left: Range | None = None) -> None:
        """Print a stage's decision, the cost of its runs, and the time left."""
        self._hide()
        spent = "no new runs"
        if self._states:
            spent = f"{counts(self._states)}, {duration(time.monotonic() - self._began)}"
            spent += f"; {between(left)} left" if left and left.high else ""
        style = "green" if decision.answered else "bold red"
        self._line(decision.stage, f"{decision.reason}{remarks(decision)} ({spent})", style)

    def finished(self, record: StudyRecord, folder: Path) -> None:
        """Print the closing lines of a study that ended."""
        self._hide()
        self.ending(record.summary(), folder)

    def ending(self, summary: Mapping[str, Any], folder: Path) -> None:
        """Print the closing lines of a study from its summary.json."""
        for name, text, style in ending(summary, folder):
            self._print(name, text, style)

    def note(self, text: str) -> None:
        """Print a note."""
        self._line("note", text, "dim")

    def close(self) -> None:
        """Remove the live line and the handler of warnings."""
        self._hide()
        logging.getLogger("orchestrator").removeHandler(self._handler)

    def _line(self, name: str, text: str, style: str = "") -> None:
        """Print a line before the closing lines, unless `quiet`."""
        if not self._quiet:
            self._print(name, text, style)

    def _print(self, name: str, text: str, style: str = "") -> None:
        """Print a permanent line; on a terminal it wraps within its column."""
        if not self._fancy:
            line = f"{name:<{WIDTH}}  {text}".rstrip()
            coding = getattr(self._stream, "encoding", None) or "utf-8"
            try:
                print(line.encode(coding, "replace").decode(coding), file=self._stream, flush=True)
            except BrokenPipeError:  # as in `... | head -1`: the study continues
                silence(self._stream)
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = self._progress.console if self._progress else Console(file=self._stream)
        grid = Table.grid(padding=(0, 2))
        grid.add_column(min_width=WIDTH, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(name, style), Text(text))
        console.print(grid)

    def _show(self, run: str | None, progress: float, losses: str) -> None:
        """Draw the live line; `run` None: the same run as before."""
        if not self._fancy:
            return
        if self._progress is None:
            self._progress = _live_line(self._stream)
            self._task = self._progress.add_task("", total=1.0, stage=self._stage, losses="")
        if run is not None:
            self._progress.update(self._task, description=run)
        self._progress.update(self._task, completed=progress, stage=self._stage, losses=losses)
        self._progress.start()  # nothing if it has started
        self._progress.refresh()
        self._drawn = time.monotonic()

    def _hide(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _Notes(logging.Handler):
    """Prints the program's warnings, from any thread, between the other lines."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self._terminal.note(hidden(record.getMessage().partition("\n")[0]))  # no traceback


def _live_line(stream: TextIO) -> Progress:
    """Return a progress line without a thread, which would disturb a timed run."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn(f"{{task.fields[stage]:<{WIDTH}}} ", style="cyan", markup=False),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[losses]}", style="dim", markup=False),
        console=Console(file=stream),
        auto_refresh=False,
        transient=True,
    )


def remarks(decision: Decision) -> str:
    """Return what the decision's reason does not contain: a tie, or that the value was kept."""
    said = decision.reason.lower()
    tied = ", ".join(rate(v) for v in decision.tied_with)
    found = [f"a tie with {tied}"] if tied and "tie" not in said else []
    silent = not any(word in said for word in ("kept", "stay", "stand"))
    if decision.incumbent_kept and decision.values and silent:
        found.append("kept as it was")
    return f" [{'; '.join(found)}]" if found else ""
