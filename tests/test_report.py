"""The report: formatting, figures that survive anything, a page that tells the truth."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import figures
from orchestrator.clues import Clue
from orchestrator.curve import Curve, Outcome, Point
from orchestrator.figures import interactive, png
from orchestrator.figures.numbers import duration, number, rate
from orchestrator.recipe import Decision, Recipe
from orchestrator.record import StageRecord, Status
from orchestrator.report import html
from orchestrator.report.snippet import pytorch
from orchestrator.report.text import against, balance, counts, more, overrides, spread
from orchestrator.schedules import VARIANTS
from tests import records


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0631, "0.0631"),
        (5e-4, "5e-4"),
        (1.23456e-5, "1.235e-5"),
        (0.0, "0"),
        (0.123456, "0.1235"),
        (123456.7, "123457"),
        (2.5e9, "2.5e9"),
        (-0.5, "-0.5"),
        (64, "64"),
        (1, "1"),
        (True, "yes"),
        ("paper", "paper"),
        (None, "–"),  # noqa: RUF001
        (math.nan, "nan"),
        (math.inf, "inf"),
        ([0.1, 0.2], "0.1, 0.2"),
        ({"mean": 0.5}, "mean 0.5"),
    ],
)
def test_numbers_are_for_people(value: Any, text: str) -> None:
    """Four significant digits, small numbers as 5e-4, nothing raises."""
    assert number(value) == text


def test_rates_have_three_digits() -> None:
    """0.06312 is shown as 0.0631."""
    assert rate(0.06312) == "0.0631"


@pytest.mark.parametrize(
    ("stat", "text"),
    [
        ({"mean": 0.97361, "std": 0.00123, "n": 3}, "0.9736 ± 0.0012 (n = 3)"),
        ({"mean": 97.361, "std": 1.23, "n": 3}, "97.4 ± 1.2 (n = 3)"),
        ({"mean": 0.5, "std": 0.0, "n": 2}, "0.5 ± 0 (n = 2)"),
        ({"mean": 0.5, "std": None, "n": 1}, "0.5 (n = 1)"),
        ({"mean": None, "std": None, "n": 0}, "–"),  # noqa: RUF001
        (None, "–"),  # noqa: RUF001
    ],
)
def test_a_mean_has_the_decimals_its_spread_allows(
    stat: Mapping[str, Any] | None, text: str
) -> None:
    """Two digits of the spread decide; without a spread there is none shown."""
    assert spread(stat) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.84, "0.8 s"), (42.4, "42 s"), (200, "3 min 20 s"), (119.7, "2 min"), (7500, "2 h 5 min")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    """Seconds, minutes, hours, at most two of them."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("answer", "other", "larger", "text"),
    [
        ((0.97, 0.001, 3), (0.95, 0.001, 3), True, "better by 0.02"),
        ((0.97, 0.001, 3), (0.95, 0.001, 3), False, "worse by 0.02"),
        ((0.97, 0.02, 3), (0.95, 0.02, 3), True, "tie: within noise"),
        ((0.97, 0.0, 3), (0.97, 0.0, 3), True, "tie: within noise"),
        ((0.97, None, 1), (0.95, None, 1), True, "better by 0.02, noise not measured"),
        ((None, None, 0), (0.95, 0.1, 3), True, "–"),  # noqa: RUF001
    ],
)
def test_a_difference_within_noise_is_a_tie(
    answer: tuple[Any, ...], other: tuple[Any, ...], larger: bool, text: str
) -> None:
    """Beyond two standard errors it is better or worse; one seed measures no noise."""
    names = ("mean", "std", "n")
    stats = [dict(zip(names, values, strict=True)) for values in (answer, other)]
    assert against(*stats, larger) == text


@pytest.mark.parametrize(
    ("log_ratio", "text"),
    [
        (math.log(0.5), "better: test loss 50 % lower, noise 12 %"),
        (math.log(1.1), "tie: test loss 10 % higher, noise 12 %"),
    ],
)
def test_one_seed_is_compared_by_the_noise_that_the_study_measured(
    log_ratio: float, text: str
) -> None:
    """Of the test loss, whatever the metric; two standard deviations are a tie."""
    one, two = {"mean": 0.97, "std": None, "n": 1}, {"mean": 0.95, "std": None, "n": 1}
    assert against(one, two, True, {"log_ratio": log_ratio, "noise": 0.12}) == text


def test_counts_name_what_did_not_end_well() -> None:
    """Pruned and failed runs are named, finished ones only counted."""
    assert counts(["finished", "pruned", "pruned", "failed"]) == "4 runs, 2 pruned, 1 failed"
    assert counts(["finished"]) == "1 run"


@pytest.mark.parametrize("schedule", ["paper", "author", "fastai", "torch", "linear", "constant"])
def test_the_snippet_follows_our_schedule(schedule: str) -> None:
    """The pasted code gives the lr and momentum that the study trained with."""
    recipe = Recipe(max_lr=0.1, min_lr=0.01, max_momentum=0.95, schedule=schedule)
    code = pytorch(recipe, 10.0)
    assert code is not None
    compile(code, "snippet", "exec")
    space: dict[str, Any] = {"math": math}
    exec(code[code.index("EPOCHS") : code.index("optimizer =")], space)
    for progress in np.linspace(0, 1, 101):
        ours = VARIANTS[schedule](float(progress), 0.01, 0.1, 0.85, 0.95)
        assert space["rates"](float(progress)) == pytest.approx(tuple(ours), abs=1e-12)


def test_the_snippet_of_a_recipe_without_momentum_asks_for_no_nesterov() -> None:
    """Torch would refuse the pasted code; the steps are the same without."""
    code = pytorch(Recipe(max_lr=0.1, max_momentum=0.0, min_momentum=0.0), 1)
    assert code is not None
    assert "nesterov=False" in code
    assert "nesterov=True" in (pytorch(Recipe(max_lr=0.1), 1) or "")


def test_there_is_no_snippet_without_a_rate() -> None:
    """A recipe that has no max_lr yet cannot be pasted."""
    assert pytorch(Recipe(), 10) is None


def broken_stages() -> dict[str, StageRecord]:
    """Return stages that no figure was made for."""
    nan, inf = math.nan, math.inf
    points = [Point(i + 1, (i + 1) / 5, 0.1, 0.9, nan, (1.0, inf, nan)[i % 3]) for i in range(5)]
    lost = Curve.of([Point(1, 0.1, 0.1, 0.9, nan, nan), Point(2, 0.2, 0.1, 0.9, inf, inf)])
    curves = {
        "nothing": [],
        "empty": [Curve.of([])],
        "one point": [Curve.of(points[:1])],
        "mixed": [Curve.of(points), lost],
        "never finite": [lost],
    }
    stages = {}
    for name, found in curves.items():
        outcomes = tuple(
            Outcome(
                records.run(f"answer {i}"),
                str(i),
                "pruned",
                c,
                records.Result(),
                "lost",
            )
            for i, c in enumerate(found)
        )
        stages[name] = StageRecord(Decision("x", "x", "why"), Recipe(), outcomes)
    return stages


@pytest.mark.parametrize("kind", ["lr_range", "momentum", "batch_size", "final", "of_the_user"])
@pytest.mark.parametrize("name", broken_stages())
def test_figures_survive_odd_input(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No outcomes, no points, NaN, inf, all pruned: nothing raises, and no points are no figure."""
    monkeypatch.setattr(png, "DPI", 30)
    stage = broken_stages()[name]
    if kind == "lr_range":
        ramps = [replace(o, run=replace(o.run, kind="ramp")) for o in stage.outcomes]
        stage = replace(stage, outcomes=tuple(ramps))
    evidence = {"field": "max_momentum", "rules": {"steepest": None, "x": math.nan}}
    decision = replace(
        stage.decision, kind=kind, evidence=evidence if kind != "of_the_user" else {}
    )
    figure = figures.of(replace(stage, decision=decision), None)
    assert (figure is None) == (name in ("nothing", "empty"))
    if figure:
        assert png.png(figure).startswith(b"\x89PNG")
        json.dumps(interactive.plots(figure), allow_nan=False)


def test_figures_leave_matplotlib_as_it_was() -> None:
    """Drawing changes no setting of the reader's own matplotlib and keeps no figure open."""
    import matplotlib as mpl
    from matplotlib import pyplot

    before, numbers = dict(mpl.rcParams), pyplot.get_fignums()
    figure = figures.of(records.lr_range_stage())
    assert figure
    png.png(figure)
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == numbers


class Page(HTMLParser):
    """Collects text, tags and attributes; complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.stack: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag and where it points to."""
        self.links += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that it closes the last one open."""
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect the text that a reader sees."""
        if self.stack and self.stack[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Path, list[Path]]:
    folder = tmp_path_factory.mktemp("report")
    files = html.write(records.study(), folder)
    return Page((folder / "report.html").read_text()), folder, files


def test_the_page_opens_with_the_answer(page: tuple[Page, Path, list[Path]]) -> None:
    """Test result, both baselines and the recipe come before any stage."""
    text = page[0].text
    top = text[: text.index("lr range max_lr")]
    assert "test accuracy 0.9736 ± 0.0012 (n = 3)" in top
    assert "untuned 0.9628 ± 0.0012 (n = 3) better by 0.011" in top
    assert "max_lr 0.0892 batch_size" in top
    assert "max_momentum 0.95 momentum, tie with 0.97" in top
    assert "weight_decay 5e-4 weight_decay, kept" in top
    assert " ".join(overrides(records.study().recipe.values())) in top


def test_every_stage_has_sentence_figure_and_table(page: tuple[Page, Path, list[Path]]) -> None:
    """All five decisions are there, each with a picture inside the page itself."""
    found, folder, files = page
    for stage in records.study().stages:
        assert stage.decision.reason in found.text
        assert folder / "figures" / f"{stage.decision.stage}.png" in files
    pictures = [link for link in found.links if link.startswith("data:image/png;base64,")]
    assert len(pictures) == 5
    assert all(path.is_file() for path in files)


def test_the_page_needs_no_network(page: tuple[Page, Path, list[Path]]) -> None:
    """Nothing in it points outside, and its policy lets nothing be fetched.

    Addresses in plotly.js (of maps, of its own cloud) are for functions that the page does not use.
    """
    assert all(link.startswith("data:") for link in page[0].links)
    text = (page[1] / "report.html").read_text()
    ours = re.sub(r"<script>/\*\*.*?</script>", "", text, flags=re.S)
    assert len(ours) < len(text) - 1_000_000
    assert not re.search(r"https?://|@import|url\(", ours)
    assert "default-src 'none'; img-src data:" in text


def test_a_page_without_figures_does_not_carry_the_library() -> None:
    """An unfinished study's report is a few kilobytes."""
    assert len(html.render(records.study("interrupted"), {})) < 60_000


def test_reasons_are_escaped(page: tuple[Page, Path, list[Path]]) -> None:
    """What a user's code wrote into an error reaches the reader as text, not as markup."""
    assert "RuntimeError: <out of memory> & more" in page[0].text
    assert "<out of memory>" not in (page[1] / "report.html").read_text()


@pytest.mark.parametrize("status", ["undecided", "interrupted", "failed"])
def test_an_unfinished_study_is_never_shown_as_complete(status: Status) -> None:
    """The status stands at the top, there is no answer, no score and nothing to paste."""
    found = Page(html.render(records.study(status), {})).text
    assert f"Study digits {status}" in found
    assert "The recipe so far" in found
    assert "stopped by hand" in found
    for word in ("The answer", "Train with it again", "test accuracy", "PyTorch"):
        assert word not in found


def test_without_a_metric_the_loss_is_compared() -> None:
    """A task with no metric is judged by its test loss, where smaller is better."""
    found = Page(html.render(records.study(metric=None), {})).text
    assert "test loss 0.220 ± 0.010 (n = 3)" in found
    assert "untuned 0.310 ± 0.010 (n = 3) better by 0.09" in found


def test_a_study_without_stages_is_a_page() -> None:
    """Interrupted before the first decision there is still something to read."""
    record = replace(records.study("interrupted"), stages=(), recipe=Recipe())
    assert "not known" in Page(html.render(record, {})).text


def test_a_figure_that_fails_does_not_cost_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The page is written without the picture, and the log says why."""

    def fail(*_: Any) -> Callable[..., Any]:
        raise ValueError("no canvas")

    monkeypatch.setattr(figures, "of", fail)
    with caplog.at_level(logging.ERROR):
        files = html.write(records.study(), tmp_path)
    assert files == [tmp_path / "report.html"]
    assert "no canvas" in caplog.text


def test_the_balance_of_regularisation_names_all_that_regularises() -> None:
    """Each with its value and the direction in which it regularises more; dropout too."""
    study = replace(records.study(), model_dropout=0.2)
    rows = {name: (value, more) for name, value, more in balance(study.summary())}
    assert rows["dropout"] == ("0.2 (the model's own)", "larger")
    assert rows["batch_size"][1] == "smaller"
    assert set(rows) == {
        "max_lr",
        "max_momentum",
        "batch_size",
        "weight_decay",
        "dropout",
        "lr / (1 - momentum)",
        "lr x weight_decay",
    }
    page = html.render(study, {})
    assert "Balance of regularisation" in page
    assert "regularises more when" in page
    none = {n: v for n, v, _ in balance(records.study().summary())}
    assert none["dropout"] == "none"


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [("sgd", "decay is coupled L2."), ("adamw", "decay is decoupled: each"), ("my.Own", None)],
)
def test_the_page_says_how_weight_decay_acts(optimizer: str, said: str | None) -> None:
    """As the optimiser has it; of one of the user's own that is not known."""
    study = records.study()
    page = html.render(replace(study, recipe=replace(study.recipe, optimizer=optimizer)), {})
    balance = page.split("Balance of regularisation")[1].split("</p>")[0]
    assert said in balance if said else "coupled" not in balance


@pytest.mark.parametrize(("of_model", "said"), [(None, "none"), (0.2, "0.2 (the model's own)")])
def test_a_dropout_that_was_not_chosen_reads_the_same_everywhere(
    of_model: float | None, said: str
) -> None:
    """In the recipe's table as in the balance: the model's own, or none."""
    page = html.render(replace(records.study(), model_dropout=of_model), {})
    told = re.findall(r">dropout</t[hd]>\s*<td[^>]*>([^<]*)<", page)
    assert [unescape(text) for text in told] == [said, said]


def test_a_chosen_dropout_is_in_the_code_to_paste_and_in_the_overrides() -> None:
    """The recipe in plain PyTorch sets the modules; without a choice it leaves them alone."""
    chosen = replace(records.study().recipe, dropout=0.3)
    code = pytorch(chosen, 3)
    assert code is not None
    assert "module.p = 0.3" in code
    compile(code, "snippet", "exec")
    assert "recipe.dropout=0.3" in overrides(chosen.values())
    assert "Dropout" not in (pytorch(records.study().recipe, 3) or "")


def test_options_that_are_on_are_in_the_overrides() -> None:
    """Quoted for the shell where that needs it; what is off is left out."""
    options = {"decay_norms_and_biases": False, "frozen": ["0.*"], "ema": 0.99}
    told = overrides(replace(records.study().recipe, optimizer_options=options).values())
    assert told[-3:] == [
        "optimizer.decay_norms_and_biases=false",
        "'optimizer.frozen=[\"0.*\"]'",
        "optimizer.ema=0.99",
    ]
    assert not [o for o in overrides(records.study().recipe.values()) if "optimizer" in o]


@pytest.mark.parametrize(
    ("short", "cuts", "said"),
    [
        (0.6, {}, "twice the epochs: about 22 % less loss; a larger budget: nothing"),
        (0.3, {}, "twice the epochs: no lower loss"),
        (0.6, {"lr_check": "left out"}, "a larger budget: also lr_check"),
        (0.6, {"final": "without baselines"}, "a larger budget: also the baselines"),
        (None, {}, ""),
    ],
)
def test_the_page_says_what_more_training_is_expected_to_bring(
    short: float | None, cuts: dict[str, str], said: str
) -> None:
    """By the answer's full run and its longest short cycle, and by what the budget left out."""
    study = records.study()
    assert study.final is not None
    recipe = study.recipe
    answer = replace(
        records.run("answer", lr=recipe.max_lr or 0.1, momentum=recipe.max_momentum, steps=400),
        weight_decay=recipe.weight_decay,
        batch_size=recipe.batch_size,
        dropout=recipe.dropout,
    )
    full = replace(answer, opens_test=True)
    outcomes = [records.outcome(full, records.falling(full, 0.355, noise=0), test=(0.4, 0.9))]
    if short is not None:
        part = replace(answer, steps=100)
        outcomes.append(records.outcome(part, records.falling(part, short - 0.01, noise=0)))
    final = replace(study.final, outcomes=tuple(outcomes))
    told = replace(
        study,
        stages=(replace(study.stages[0], outcomes=()), final),
        budget={"final_runs": 6, "cuts": cuts},
    )
    found = more(told.summary())
    assert said in found if said else not found
    assert said in html.render(told, {})


def test_the_runs_of_the_stages_add_up_to_those_of_the_study() -> None:
    """A run that two stages look at is paid for once: it counts for the first of them."""
    record = records.study()
    momentum, decay = record.stages[1], record.stages[2]
    shared = replace(decay, outcomes=(*decay.outcomes, *momentum.outcomes))
    page = html.render(replace(record, stages=(*record.stages[:2], shared, *record.stages[3:])), {})
    cost = page.split("What it cost")[1].split("</table>")[0]
    counts = [int(n) for n in re.findall(r">(\d+) runs?\b", cost)]
    assert sum(counts[:-1]) == counts[-1] == len(record.outcomes)


@pytest.mark.parametrize(("unstable", "said"), [(2, False), (3, True)])
def test_where_most_runs_jump_it_is_said_what_that_means(unstable: int, said: bool) -> None:
    """More than half of the runs of a stage, not one of many."""
    found = records.study().stages[1]
    keys = [o.key for o in found.outcomes][:5]
    labels = ["unstable"] * unstable + ["horizontal"] * (5 - unstable)
    clues = [Clue(label, 0, 9, "why") for label in labels]
    stage = replace(found, clues=dict(zip(keys, clues, strict=True)))
    page = html.render(replace(records.study(), stages=(stage,)), {})
    assert ("The loss of most runs here jumped" in page) is said
