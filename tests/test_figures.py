"""What the figures show: the interval of the range test, and where in the runs the clues stand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from curves import curve

from orchestrator import clues
from orchestrator.curve import Outcome, Result
from orchestrator.recipe import Decision, Recipe
from orchestrator.record import StageRecord
from orchestrator.report import figures, html
from orchestrator.report.figures import clue_strip
from orchestrator.report.figures.lr_range import _levels
from tests import records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OVERFIT = curve(
    [*np.geomspace(2.3, 0.5, 12), *np.linspace(0.52, 0.8, 8)], np.geomspace(2.3, 0.01, 20)
)
LEVEL = curve([*np.geomspace(2.3, 0.3, 12), *[0.3] * 8])
JUMP = curve([*np.geomspace(2.3, 0.4, 8), 0.9, *[0.4] * 11])


def stage(kind: str, shapes: dict[str, list[clues.Curve]]) -> StageRecord:
    """Return a stage whose candidates have these curves, one per seed, with the clues read."""
    outcomes = [
        Outcome(
            records.run(f"{name} seed {i}", steps=200, replicate=i),
            f"{name}{i}",
            "finished",
            shape,
            Result(),
        )
        for name, found in shapes.items()
        for i, shape in enumerate(found)
    ]
    labels = {o.key: clues.read(o.curve, records.CHANCE).label for o in outcomes}
    return StageRecord(Decision("x", kind, "why"), Recipe(), tuple(outcomes), labels)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("kind", ["momentum", "final"])
def test_clues_stand_beneath_the_curves(kind: str) -> None:
    """A row for each candidate and clue that is not the goal, with its number of runs."""
    figure = figures.of(
        stage(kind, {"answer": [OVERFIT, OVERFIT, LEVEL], "untuned": [LEVEL, JUMP], "b": [LEVEL]})
    )
    assert texts(figure) == ["answer: overfitting, 2 of 3 runs", "untuned: unstable, 1 of 2 runs"]
    strip = figure.axes[-1]
    overfit, _, unstable = strip.patches
    assert overfit.get_x() == pytest.approx(0.6)  # the minimum is at step 120 of 200
    assert overfit.get_x() + overfit.get_width() == pytest.approx(1.0)
    assert (unstable.get_x(), unstable.get_width()) == pytest.approx((0.4, 0.05))
    assert strip.get_xlim() == figure.axes[0].get_xlim()


@pytest.mark.parametrize("kind", ["momentum", "final"])
def test_runs_that_reach_the_goal_have_no_strip(kind: str) -> None:
    """Horizontal throughout: the figure is the curves and nothing else."""
    figure = figures.of(stage(kind, {"answer": [LEVEL, LEVEL]}))
    assert texts(figure) == []
    assert len(figure.axes) == (1 if kind == "momentum" else 3)


def test_at_most_ten_rows_and_those_the_gravest() -> None:
    """Of fourteen candidates the overfitting ones are kept, in the order of the legend."""
    shapes = {f"c{i:02}": [JUMP if i < 7 else OVERFIT] for i in range(14)}
    rows = clue_strip.rows(
        stage("momentum", shapes),
        stage("momentum", shapes).outcomes,
        lambda o: o.run.label[:3],
        shapes,
    )
    assert [row.label for row in rows] == ["unstable"] * 3 + ["overfitting"] * 7
    assert [row.name for row in rows] == sorted(row.name for row in rows)


def test_a_clue_that_cannot_be_found_again_stands_at_the_end() -> None:
    """The record's label holds: its place is then where the run ended, its words the outcome's."""
    found = stage("momentum", {"a": [LEVEL]})
    lost = replace(found.outcomes[0], state="pruned", reason="diverged: as the pruner said")
    record = replace(found, outcomes=(lost,), clues={lost.key: "diverged"})
    clue = clue_strip.clue_of(record, lost)
    assert clue == clues.Clue("diverged", 200, 200, "diverged: as the pruner said")
    assert texts(figures.of(record)) == ["a: diverged"]


def test_a_clue_has_its_sentence() -> None:
    """The same words that the pruner and the report use."""
    found = stage("momentum", {"a": [OVERFIT]})
    clue = clue_strip.clue_of(found, found.outcomes[0])
    assert clue is not None
    assert clue.reason.startswith("held-out loss rose from 0.52 to 0.8 while train loss fell")
    assert clue.reason.endswith("(steps 120-200)")


def test_the_range_test_shows_interval_both_rates_and_all_rules() -> None:
    """max and min lr as lines, the spread between ramps as a band, a mark for each rule."""
    record = records.lr_range_stage()
    figure = figures.of(record)
    [axes] = figure.axes
    lines = {
        line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() in ("-", "--")
    }
    assert {0.0631, 0.00631} <= lines
    assert {text.get_text() for text in axes.texts} == {"max lr 0.0631", "min lr 0.00631"}
    [band] = axes.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((0.0583, 0.0687))
    marks = {line.get_label() for line in axes.get_lines() if line.get_gid() == "rule"}
    assert marks == {
        "within drop: 0.0631 (chosen)",
        "steepest: 0.0215",
        "minimum over 10: 0.0133",
    }


def test_a_train_loss_near_zero_does_not_press_the_held_out_loss_flat() -> None:
    """The axis ends below the held-out loss, not below the train loss."""
    shape = replace(OVERFIT, train_loss=np.geomspace(2.3, 1e-6, 20))
    low, _ = figures.of(stage("final", {"answer": [shape]})).axes[0].get_ylim()
    assert 0.1 < low < 0.5


def test_marks_at_the_same_rate_stand_above_each_other() -> None:
    """The second within a hair's breadth goes up, a third that fits goes down again."""
    assert _levels([0.1, 0.101, 0.5, 0.102], 1e-5, 1.0) == [0, 1, 0, 2]


def test_the_page_says_each_clue_in_a_sentence() -> None:
    """In the table of runs, where a pruned run has its reason."""
    page = html.render(replace(records.study(), stages=(stage("momentum", {"a": [OVERFIT]}),)), {})
    assert "held-out loss rose from 0.52 to 0.8 while train loss fell" in page
