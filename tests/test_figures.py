"""What the figures show: the interval of the range test, and where in the runs the clues stand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from curves import curve

from orchestrator import figures
from orchestrator.curve import Curve, Outcome, Result
from orchestrator.figures import Figure, clue_strip, interactive, png
from orchestrator.figures.clue_strip import _beside
from orchestrator.figures.lr_range import _levels
from orchestrator.figures.style import PROGRESS
from orchestrator.recipe import Decision, Recipe
from orchestrator.record import StageRecord
from orchestrator.report import html
from tests import records

# The first point of a run is measured after some training: below the untrained loss (2.3) or above.
OVERFIT = curve(
    [*np.geomspace(1.7, 0.5, 12), *np.linspace(0.52, 0.8, 8)], np.geomspace(1.8, 0.01, 20)
)
LEVEL = curve([*np.geomspace(1.4, 0.3, 12), *[0.3] * 8])
JUMP = curve([*np.geomspace(2.8, 0.4, 8), 0.9, *[0.4] * 11])
ABOVE = curve([4.0, *np.linspace(4.1, 6, 19)])


def stage(kind: str, shapes: dict[str, list[Curve]]) -> StageRecord:
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
    return StageRecord(
        Decision("x", kind, "why"), Recipe(), tuple(outcomes), records.clues(outcomes)
    )


def drawn(stage: StageRecord, metric: str | None = None) -> Figure:
    figure = figures.of(stage, metric)
    assert figure is not None
    return figure


def texts(figure: Figure) -> list[str]:
    return [w.text for column in figure.columns for panel in column for w in panel.words]


@pytest.mark.parametrize("kind", ["momentum", "final"])
def test_clues_stand_beneath_the_curves(kind: str) -> None:
    """A row for each candidate and clue that is not the goal, with its number of runs."""
    figure = drawn(
        stage(kind, {"answer": [OVERFIT, OVERFIT, LEVEL], "untuned": [LEVEL, JUMP], "b": [LEVEL]})
    )
    assert texts(figure) == ["answer: overfitting, 2 of 3", "untuned: unstable, 1 of 2"]
    strip = figure.columns[0][-1]
    overfit, _, unstable = strip.bars
    assert (overfit.low, overfit.high) == pytest.approx((0.6, 1.0))  # minimum at step 120 of 200
    assert (unstable.low, unstable.high) == pytest.approx((0.4, 0.45))
    assert "held-out loss rose from 0.52 to 0.8" in overfit.text
    canvas = png.draw(figure)
    assert canvas.axes[-1].get_xlim() == canvas.axes[0].get_xlim()


@pytest.mark.parametrize("kind", ["momentum", "final"])
def test_runs_that_reach_the_goal_have_no_strip(kind: str) -> None:
    """Horizontal throughout: the figure is the curves and nothing else."""
    figure = drawn(stage(kind, {"answer": [LEVEL, LEVEL]}))
    assert texts(figure) == []
    assert len(figure.columns[0]) == (1 if kind == "momentum" else 3)


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


def test_a_run_above_the_untrained_loss_from_its_first_point_is_shown_as_the_study_read_it() -> (
    None
):
    """The record's clue stands beneath the curve: none is read with the first loss as chance."""
    found = stage("momentum", {"a": [ABOVE]})
    figure = drawn(found)
    assert texts(figure) == ["a: diverged"]
    [bar] = figure.columns[0][-1].bars
    assert (bar.low, bar.high) == pytest.approx((0.05, 0.1))  # steps 10 to 20 of 200
    sentence = "held-out loss 4.1 is above 1.3 x the untrained loss (2.3) and rising (steps 10-20)"
    assert bar.text == f"a seed 0: {sentence}"
    assert sentence in html.render(replace(records.study(), stages=(found,)), {})


def test_the_range_test_shows_interval_both_rates_and_all_rules() -> None:
    """max and min lr as lines, the spread between ramps as a band, a mark for each rule."""
    figure = drawn(records.lr_range_stage())
    [[panel]] = figure.columns
    band, *rates = panel.spans
    assert (band.low, band.high) == (0.0583, 0.0687)
    assert [(r.low, r.text) for r in rates] == [
        (0.0631, "max lr 0.0631"),
        (0.00631, "min lr 0.00631"),
    ]
    assert [mark.text for mark in panel.marks] == [
        "within drop: 0.0631 (used)",
        "steepest: 0.0215",
        "minimum over 10: 0.0133",
    ]
    assert figure.x.log
    assert {k for line in panel.lines for k in line.groups} >= {"train loss", "smoothed"}


def test_short_cycles_stand_in_the_figure_of_the_range_test() -> None:
    """A circle at the end of each of the last length, by its max_lr; lost ones are not drawn."""
    found = records.lr_range_stage()
    ends = {0.02: 1.2, 0.06: 0.9, 0.18: math.inf}
    cycles = []
    for steps in (30, 60):
        for lr, loss in ends.items():
            run = records.run(f"to {lr}", lr=lr, steps=steps)
            cycles.append(records.outcome(run, records.falling(run, loss, noise=0)))
    figure = drawn(replace(found, outcomes=(*found.outcomes, *cycles)))
    circles = [mark for mark in figure.columns[0][0].marks if "cycles" in mark.groups]
    assert [mark.x for mark in circles] == [0.02, 0.06]
    assert circles[1].y == pytest.approx(0.9, abs=0.02)
    assert "end of a short cycle, by its max lr" in [entry.label for entry in figure.legend]


def test_the_range_test_shows_the_accuracy_where_there_is_one() -> None:
    """Beneath the losses, against the same lr: a line per ramp."""
    record = records.lr_range_stage()
    measured = tuple(
        replace(o, curve=replace(o.curve, metric=o.curve.progress)) for o in record.outcomes
    )
    [[_, scores]] = drawn(replace(record, outcomes=measured), "accuracy").columns
    assert scores.y.label == "held-out accuracy"
    assert len(scores.lines) == len(measured)


def test_batch_sizes_stand_against_time_with_loss_and_accuracy_beside_each_other() -> None:
    """Two columns; one where the task has no metric."""
    found = records.batch_size_stage(records.lr_range_stage().recipe)
    [[loss], [accuracy]] = drawn(found, "accuracy").columns
    assert (loss.y.label, accuracy.y.label) == ("held-out loss", "held-out accuracy")
    assert loss.lines[0].x.tolist() == found.outcomes[1].curve.seconds.tolist()
    bare = tuple(
        replace(o, curve=replace(o.curve, metric=np.full(len(o.curve), np.nan)))
        for o in found.outcomes
    )
    assert len(drawn(replace(found, outcomes=bare)).columns) == 1


def test_weight_decays_that_were_judged_by_range_tests_are_drawn_against_lr() -> None:
    """One curve per value, on a logarithmic axis, with the recipe's max lr as a line."""
    found = records.weight_decay_stage(records.lr_range_stage().recipe)
    ramps = tuple(replace(o, run=replace(o.run, kind="ramp")) for o in found.outcomes)
    figure = drawn(replace(found, outcomes=ramps))
    [[panel]] = figure.columns
    assert figure.x.log
    assert len(panel.lines) == 4  # the fifth failed before its first point
    assert panel.lines[0].x.tolist() == ramps[3].curve.lr.tolist()  # in the order of the values
    assert [span.text for span in panel.spans] == ["max lr 0.0631"]


def test_a_train_loss_near_zero_does_not_press_the_held_out_loss_flat() -> None:
    """The axis ends below the held-out loss, not below the train loss."""
    shape = replace(OVERFIT, train_loss=np.geomspace(2.3, 1e-6, 20))
    y = drawn(stage("final", {"answer": [shape]})).columns[0][0].y
    assert y.range
    assert 0.1 < y.range[0] < 0.5


def test_words_without_room_beside_their_bars_stand_at_an_end_of_the_axis() -> None:
    """A bar over most of the run leaves no room for a sentence on a phone."""
    assert _beside(PROGRESS, 0.3, 0.9) == (pytest.approx(0), False)
    assert _beside(PROGRESS, 0.1, 0.9) == (pytest.approx(1.03), True)
    assert _beside(PROGRESS, 0.1, 0.2) == (0.2, False)
    assert _beside(PROGRESS, 0.8, 1.0) == (0.8, True)


def test_both_renderers_draw_all_of_a_figure() -> None:
    """As many curves on the screen as in the file, and each trace is in the legend's reach."""
    for found in records.study().stages:
        figure = drawn(found, "accuracy")
        canvas = png.draw(figure)
        ticks = [t.get_text() for axes in canvas.axes for t in axes.get_xticklabels()]
        assert not [text for text in ticks if "$" in text and png.STYLE["text.parse_math"] is False]
        sent = interactive.plots(figure)
        lines = sum(len(panel.lines) for column in figure.columns for panel in column)
        assert sum(t.get("mode") == "lines" for plot in sent for t in plot["data"]) == lines
        assert sum(len(axes.get_lines()) for axes in canvas.axes) >= lines
        for plot in sent:
            assert len(plot["groups"]) == len(plot["data"])
            curves = [g for g, t in zip(plot["groups"], plot["data"], strict=True) if "line" in t]
            assert all(curves)


def test_marks_at_the_same_rate_stand_above_each_other() -> None:
    """The second within a hair's breadth goes up, a third that fits goes down again."""
    assert _levels([0.1, 0.101, 0.5, 0.102], 1e-5, 1.0) == [0, 1, 0, 2]


def test_the_page_says_each_clue_in_a_sentence() -> None:
    """In the table of runs, where a pruned run has its reason."""
    page = html.render(replace(records.study(), stages=(stage("momentum", {"a": [OVERFIT]}),)), {})
    assert "held-out loss rose from 0.52 to 0.8 while train loss fell" in page
