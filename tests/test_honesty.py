"""What is said of a study is the same everywhere, and never better than it is."""

import html
import io
import json
import re
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from records import study as a_record

from orchestrator import __main__ as cli
from orchestrator.config.schema import Config
from orchestrator.figures.numbers import rate
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.record import StudyRecord
from orchestrator.report.html import render
from orchestrator.report.terminal import Terminal
from orchestrator.report.text import against, spread
from orchestrator.study.walk import run_study
from orchestrator.tracking import mlflow

# MLflow's own import warns, and an error there would end the tracking.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TRAINED = {  # seconds of real training, with an accuracy and both baselines
    "objective": {"name": "training"},
    "data": {"name": "digits", "train_examples": 300},
    "model": {"name": "mlp"},
    "plan": ["lr_range", "momentum", "final"],
    "stages": {"momentum": {"candidates": [0.95]}, "final": {"epochs": 2}},
    "recipe": {"batch_size": 16},
    "threads": 1,
}
KEYS = {"test_accuracy": "test_metric", "test_loss": "test_loss"}
MARKS = r"(?s)<(style|script)\b.*?</\1>|<[^>]+>"


@pytest.fixture(autouse=True)
def _all_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for MLflow's import (seconds, on a busy machine more), also after Ctrl-C."""
    monkeypatch.setattr(mlflow, "FLUSH_SECONDS", 120.0)
    monkeypatch.setattr(mlflow, "LEAVING_SECONDS", 120.0)


class Told(NamedTuple):
    """One study in the four places that tell of it."""

    record: StudyRecord
    terminal: str
    summary: dict[str, Any]
    page: str  # the report's words, without its marks
    tags: dict[str, str]  # MLflow's, of the parent run
    metrics: dict[str, float]
    status: str  # MLflow's, of the parent run


def told(**changes: Any) -> Told:
    """Run a study on the fake objective with MLflow in the working folder, and read all four."""
    base = {"study_name": "s", "effort": "thorough", "objective": {"name": "quadratic"}}
    mapping = {**base, **changes}
    stream = io.StringIO()
    record = run_study(Config.from_mapping(mapping), Terminal(stream=stream))
    folder = Path("runs/s")
    page = html.unescape(re.sub(MARKS, " ", (folder / "report.html").read_text()))
    with sqlite3.connect("mlflow.db") as db:
        [(run, status)] = db.execute(
            "select r.run_uuid, r.status from runs r join tags t on t.run_uuid = r.run_uuid"
            " where t.key = 'kind' and t.value = 'study'"
        ).fetchall()
        tags = dict(db.execute("select key, value from tags where run_uuid = ?", [run]).fetchall())
        metrics = dict(
            db.execute("select key, value from latest_metrics where run_uuid = ?", [run]).fetchall()
        )
    db.close()
    summary = json.loads((folder / "summary.json").read_text())
    return Told(record, stream.getvalue(), summary, " ".join(page.split()), tags, metrics, status)


def rows(page: str) -> list[list[str]]:
    """Return the cells of each row of the report's tables."""
    return [
        [
            html.unescape(re.sub(MARKS, "", cell)).strip()
            for cell in re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row)
        ]
        for row in re.findall(r"(?s)<tr.*?</tr>", page)
    ]


def test_the_four_places_tell_the_same_numbers(here: Path) -> None:
    """Recipe, test results, baselines and cost: terminal, summary.json, report and MLflow."""
    t = told(**TRAINED)
    assert t.summary["status"] == t.tags["status"] == "complete"
    assert t.status == "FINISHED"
    lines = dict(line.split(maxsplit=1) for line in t.terminal.splitlines() if " " in line)
    table = rows(Path("runs/s/report.html").read_text())
    compared = 0
    for field, value in t.summary["recipe"].items():
        assert t.tags[f"answer.{field}"] == str(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            compared += 1
            assert f"{field} {rate(value)}" in lines["recipe"]
            assert [field, rate(value)] in [row[:2] for row in table]
            assert t.metrics[f"answer/{field}"] == value
    final = t.summary["final"]
    for name, result in (("answer", final), *((b["name"], b) for b in final["baselines"])):
        compared += 1
        accuracy = spread(result["test_metric"])
        assert lines[name].startswith(f"test accuracy {accuracy}")
        assert [name.replace("_", " "), accuracy] in [row[:2] for row in table]
        for kind in ("test_accuracy", "test_loss"):
            key, stat = kind if name == "answer" else f"{name}/{kind}", result[KEYS[kind]]
            assert t.metrics[key] == stat["mean"]
            assert t.metrics[f"{key}_std"] == stat["std"]
    assert t.metrics["cost/examples"] == t.summary["cost"]["examples"]
    assert f"{t.summary['cost']['examples']:,}" in t.page
    for stage in t.summary["stages"]:
        compared += 1
        assert lines[stage["name"]].startswith(stage["reason"])
        assert stage["reason"] in t.page
        assert stage["reason"] in t.tags["mlflow.note.content"]
    assert compared == 12


def test_an_undecided_study_says_so_everywhere(here: Path) -> None:
    """A flat problem: no place says complete, none has a max_lr, and the command exits with 1."""
    t = told(objective={"name": "quadratic", "start_loss": 1e-9})
    assert t.record.status == t.summary["status"] == t.tags["status"] == "undecided"
    assert t.status == "FAILED"
    assert "undecided" in t.terminal
    assert "undecided" in t.page
    assert t.summary["recipe"]["max_lr"] is None
    for text in (t.terminal, t.page):
        assert not re.search(r"\bcomplete\b|The answer\b|to use it", text)
    assert t.summary["reason"] in t.tags["reason"]
    arguments = ["+study=quadratic", "objective.start_loss=1e-9", "study_name=again"]
    assert cli.run(arguments) == 1


def test_an_interrupted_study_is_never_called_complete(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle: interrupted in all four places, and the answer only "so far"."""
    train, calls = QuadraticObjective.__call__, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(QuadraticObjective, "__call__", interrupted)
    t = told()
    assert t.record.status == t.summary["status"] == t.tags["status"] == "interrupted"
    assert t.status == "KILLED"
    assert "interrupted" in t.terminal
    assert "recipe so far" in t.terminal
    assert "interrupted" in t.page
    assert "The recipe so far" in t.page
    for text in (t.terminal, t.page):
        assert not re.search(r"\b(is|was) complete\b|The answer\b|to use it", text)
    assert t.summary["final"] is None
    assert not Path("runs/s/model.pt").exists()


@pytest.mark.parametrize("status", ["undecided", "interrupted", "failed"])
def test_the_report_of_no_answer_offers_no_answer(status: Any) -> None:
    """No score, no overrides to train with, no code to paste."""
    page = render(a_record(status), {})
    assert "The recipe so far" in page
    assert f'class="status {status}"' in page
    for text in ("Train with it again", "plain PyTorch", 'class="score"', "<h2>The answer"):
        assert text not in page


@pytest.mark.parametrize("gain", [0.0, 0.001, 0.019, -0.019])
def test_a_tie_is_never_shown_as_a_win(gain: float) -> None:
    """Within two standard errors the word is tie, on either side, whichever way is better."""
    ours, other = ({"mean": 0.9 + g, "std": 0.0173, "n": 3} for g in (gain, 0.0))
    for larger in (True, False):
        assert against(ours, other, larger) == "tie: within noise"


def test_one_seed_is_never_shown_as_a_win_beyond_noise() -> None:
    """Where noise was not measured that is said with the difference."""
    one = {"mean": 0.9, "std": None, "n": 1}
    assert against(one, {**one, "mean": 0.5}, True).endswith("noise not measured")


def test_the_report_names_the_tied_values() -> None:
    """A decision that is a tie says so beside the value it chose, and in its stage."""
    record = a_record()
    top, *stages = re.split("<h2[^>]*>(?=lr range|momentum|weight|batch|final)", render(record, {}))
    ties = {s.decision.stage: s.decision.tied_with for s in record.stages if s.decision.tied_with}
    assert set(ties) == {"momentum", "weight_decay", "batch_size"}
    for name, values in ties.items():
        (part,) = (text for text in stages if text.startswith(name.replace("_", " ")))
        for value in values:
            assert f"tie with {rate(value)}" in top
            assert f"within noise: {rate(value)}" in part
