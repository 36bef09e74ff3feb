"""The terminal: plain lines in logs, one live line on a terminal, summary.json's own numbers."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.recipe import Decision
from orchestrator.record import StudyRecord
from orchestrator.report.terminal import Terminal
from tests import records


class Screen(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


def play(terminal: Terminal, record: StudyRecord, folder: Path) -> None:
    """Tell the terminal a whole study."""
    terminal.study_started(record.study, record.device, ["lr_range", "final"], record.notes)
    for stage in record.stages:
        terminal.stage_started(stage.decision.stage)
        terminal.round_started(len(stage.outcomes), None)
        for o in stage.outcomes:
            terminal.run_started(stage.decision.stage, o.run, o.key)
            for loss in o.curve.held_out_loss:
                terminal.point(o.run, o.key, records.Point(1, 0.5, 0.1, 0.9, loss, loss))
            terminal.run_ended(stage.decision.stage, o, "horizontal")
        terminal.decided(stage.decision)
    terminal.finished(record, folder)
    terminal.close()


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., list[str]]:
    def tell(record: StudyRecord) -> list[str]:
        stream = io.StringIO()
        play(Terminal(stream=stream), record, tmp_path)
        return stream.getvalue().splitlines()

    return tell


def test_a_log_has_a_line_per_decision_and_per_lost_run(
    told: Callable[..., list[str]],
) -> None:
    """Nothing per point, nothing per finished run, no control characters."""
    lines = told(records.study())
    reasons = [s.decision.reason for s in records.study().stages]
    assert all(any(reason in line for line in lines) for reason in reasons)
    assert len([line for line in lines if line.startswith("  pruned")]) == 4
    (failed,) = [line for line in lines if line.startswith("  failed")]
    assert failed.endswith("weight decay 1e-05 seed 0: RuntimeError: <out of memory> & more")
    assert len(lines) < 25
    assert "\x1b" not in "".join(lines)


def test_the_ending_agrees_with_the_summary(told: Callable[..., list[str]]) -> None:
    """Recipe, test results and their spread are those of summary.json."""
    record = records.study()
    lines = "\n".join(told(record))
    summary = json.loads(json.dumps(record.summary()))
    final = summary["final"]
    for stat in (final["test_metric"], *(b["test_metric"] for b in final["baselines"])):
        assert f"{stat['mean']:.4f} ± {stat['std']:.4f} (n = {stat['n']})" in lines
    assert f"max_lr {summary['recipe']['max_lr']}" in lines
    assert "2 min 3 s of training, 48 s of all else, 2 min 51 s in all" in lines
    assert "(n = 3), mean ± standard deviation over seeds\nrange_test" in lines
    assert lines.count("deviation over seeds") == 1
    assert "untuned           test accuracy 0.9628 ± 0.0012 (n = 3); the answer is better" in lines
    assert "'plan=[final]' recipe.max_lr=0.0892" in lines


def test_without_a_metric_the_loss_is_told(told: Callable[..., list[str]]) -> None:
    """A task with no metric is compared by its test loss."""
    assert any("test loss 0.220 ± 0.010 (n = 3)" in x for x in told(records.study(metric=None)))


@pytest.mark.parametrize("status", ["undecided", "interrupted", "failed"])
def test_no_answer_is_not_told_as_one(told: Callable[..., list[str]], status: str) -> None:
    """The status and its reason stand there; no test result, nothing to use."""
    lines = told(records.study(status))  # type: ignore[arg-type]
    assert any(line.startswith(status) and "stopped by hand" in line for line in lines)
    ending = "\n".join(lines[-8:])
    assert "recipe so far" in ending
    assert "test accuracy" not in ending
    assert "to use it" not in ending


@pytest.mark.parametrize(
    ("decision", "remark"),
    [
        (Decision("m", "m", "0.9: best", tied_with=(0.97,)), "0.9: best [a tie with 0.97]"),
        (Decision("m", "m", "0.9: a tie with 0.97", tied_with=(0.97,)), "0.9: a tie with 0.97 ("),
        (
            Decision("m", "m", "0.9 it is", {"max_momentum": 0.9}, incumbent_kept=True),
            "0.9 it is [kept as it was]",
        ),
        (Decision("m", "m", "0.9 stays", {"max_momentum": 0.9}, incumbent_kept=True), "stays ("),
    ],
)
def test_ties_and_kept_values_are_said_once(decision: Decision, remark: str) -> None:
    """What the sentence leaves out is added, what it says is not repeated."""
    stream = io.StringIO()
    Terminal(stream=stream).decided(decision)
    assert remark in stream.getvalue()


def test_a_replayed_stage_says_so() -> None:
    """A stage whose runs were all known trained nothing."""
    stream = io.StringIO()
    terminal = Terminal(stream=stream)
    terminal.stage_started("momentum")
    terminal.decided(Decision("momentum", "momentum", "0.9"))
    assert "(no new runs)" in stream.getvalue()


def test_a_terminal_gets_a_live_line(tmp_path: Path) -> None:
    """On a terminal the run in progress is shown, and every permanent line stays whole."""
    screen = Screen()
    play(Terminal(stream=screen), records.study(), tmp_path)
    shown = screen.getvalue()
    assert "\x1b[" in shown
    assert "1/14 momentum 0.99 seed 0" in shown
    assert "max_momentum 0.95: held-out loss 0.251" in shown
    assert shown.endswith("\n")


def test_runs_side_by_side_are_all_on_the_live_line() -> None:
    """Worker processes train several: each is named, also when another has reported last."""
    screen, stage = Screen(), records.study().stages[1]
    terminal = Terminal(stream=screen)
    first, second, third = stage.outcomes[:3]
    terminal.stage_started("momentum")
    terminal.round_started(3, None)
    for outcome in (first, second):
        terminal.run_started("momentum", outcome.run, outcome.key)
    assert f"2/3 2 runs: {first.run.label}, {second.run.label}" in screen.getvalue()
    terminal.run_ended("momentum", first, "")
    terminal.run_started("momentum", third.run, third.key)
    assert f"3/3 2 runs: {second.run.label}, {third.run.label}" in screen.getvalue()
    terminal.close()


@pytest.mark.parametrize(
    ("name", "value", "quiet"),
    [("NO_COLOR", "1", False), ("CI", "1", False), ("TERM", "dumb", False), ("A", "", True)],
)
def test_plain_lines_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, quiet: bool
) -> None:
    """NO_COLOR, CI, a dumb terminal and quiet give plain text even on a terminal."""
    monkeypatch.setenv(name, value)
    screen = Screen()
    play(Terminal(quiet, stream=screen), records.study(), tmp_path)
    assert "\x1b" not in screen.getvalue()


def test_warnings_become_notes_while_a_study_runs() -> None:
    """A warning of the tracker is seen, once, and only between start and close."""
    stream = io.StringIO()
    terminal = Terminal(stream=stream)
    terminal.study_started("demo", "cpu", ["final"], [])
    logging.getLogger("orchestrator.tracking").warning("tracking stopped")
    terminal.close()
    logging.getLogger("orchestrator.tracking").warning("unheard")
    assert stream.getvalue().count("tracking stopped") == 1
    assert "unheard" not in stream.getvalue()


def test_an_ascii_stream_is_no_error(tmp_path: Path) -> None:
    """Where the stream cannot write ± the line is written all the same."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    play(Terminal(stream=stream), records.study(), tmp_path)
    stream.flush()
    assert b"test accuracy 0.9736 ? 0.0012" in raw.getvalue()


def test_mlflow_is_named_only_if_the_study_was_tracked(tmp_path: Path) -> None:
    """`mlflow ui` shows nothing of a study with tracking=none, so it is not offered."""
    for tracking, offered in (("name: mlflow", True), ("name: none", False)):
        (tmp_path / "config.yaml").write_text(f"tracking: {{{tracking}}}\n")
        stream = io.StringIO()
        Terminal(stream=stream).finished(replace(records.study(), status="complete"), tmp_path)
        assert ("mlflow ui, then Model training" in stream.getvalue()) is offered


def test_plain_lines_do_not_import_rich() -> None:
    """rich and matplotlib are paid for only where they are used."""
    code = (
        "import sys, orchestrator.report.terminal as t; t.Terminal().note('x');"
        "assert not {'rich', 'matplotlib', 'mlflow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=30)
