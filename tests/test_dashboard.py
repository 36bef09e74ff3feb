"""optuna-dashboard on a study's journal: what its pages are made of is sensible."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from programs import free_port, until_it_answers

from orchestrator import __main__ as cli

Ask = Callable[[str], Any]
PLAN = ["lr_range", "momentum", "final"]
SERVE = "from optuna_dashboard._cli import main; main()"


@pytest.fixture
def ask(here: Path, without_figures: None) -> Iterator[Ask]:
    """Return a function that asks a dashboard on the journal of a small study."""
    study = ["+study=quadratic", "study_name=seen", f"plan=[{','.join(PLAN)}]", "quiet=true"]
    assert cli.run([*study, "tracking=none"]) == 0
    host, port = "127.0.0.1", str(free_port())
    address = f"http://{host}:{port}/api"
    command = [sys.executable, "-c", SERVE, "runs/seen/optuna.journal", "--server", "wsgiref"]
    with (
        Path("dashboard.log").open("wb") as log,
        subprocess.Popen([*command, "--host", host, "--port", port], stdout=log, stderr=log) as it,
    ):
        try:
            until_it_answers(it, f"{address}/studies", Path("dashboard.log"))
            yield lambda path: _answer(f"{address}/{path}")
        finally:
            it.kill()


def _answer(address: str) -> Any:
    with urlopen(address, timeout=60) as found:
        return json.load(found)


@pytest.mark.slow
def test_the_dashboard_shows_each_stage_as_a_study(ask: Ask) -> None:
    """In the plan's order; trials with their values, curves, words and axes that fit the values."""
    studies = ask("studies")["study_summaries"]
    assert [s["study_name"] for s in studies] == [f"seen/{stage}" for stage in PLAN]
    assert all(s["directions"] == ["minimize"] for s in studies)
    found = [ask(f"studies/{s['study_id']}") for s in studies]
    assert all(study["has_intermediate_values"] for study in found)
    assert {t["state"] for study in found for t in study["trials"]} <= {"Complete", "Pruned"}
    trained = [t for study in found for t in study["trials"] if t["intermediate_values"]]
    assert len(trained) > 10
    for trial in trained:
        curve = [point["value"] for point in trial["intermediate_values"]]
        if trial["state"] == "Complete":
            assert trial["values"] == [pytest.approx(curve[-1], rel=0.2)]
        _readable({a["key"]: a["value"] for a in trial["user_attrs"]}, trial["state"])
    momentum = found[1]
    tried = {p["param_external_value"] for t in momentum["trials"] for p in t["params"]
             if p["name"] == "max_momentum"}  # fmt: skip
    assert len(tried) > 2
    _axes(momentum)


def _readable(attrs: dict[str, str], state: str) -> None:
    """Which run it is and why it was stopped, in words."""
    assert "seed" in attrs["label"]
    assert attrs["kind"] in ("ramp", "train")
    assert state != "Pruned" or " " in attrs["reason"]
    assert json.loads(attrs["outcome"])["curve"]["held_out_loss"]


def _axes(study: dict[str, Any]) -> None:
    """Each parameter has one range, of few powers of ten, in all trials."""
    ranges = {s["name"]: s["distribution"] for s in study["union_search_space"]}
    assert (
        len(ranges) == len(study["union_search_space"]) == len(study["intersection_search_space"])
    )
    assert ranges["max_lr"]["log"]
    assert ranges["max_lr"]["high"] / ranges["max_lr"]["low"] <= 1e8
    assert ranges["steps"]["high"] <= 10_000
