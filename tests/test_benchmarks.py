"""The benchmark commands: that they run from end to end, and the arithmetic that they rest on."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from orchestrator import __main__ as cli

HOME = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HOME / "benchmarks"))


def command(script: str, *arguments: str) -> str:
    """Run a benchmark as a user does, return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    done = subprocess.run(
        [sys.executable, str(HOME / "benchmarks" / script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_everything_that_needs_a_gpu_runs_on_a_cpu_with_tiny_sizes(tmp_path: Path) -> None:
    """`gpu.py --cpu-check` goes through the code of every part and leaves a result of each."""
    parts = import_module("gpu").PARTS
    printed = command("gpu.py", "--cpu-check", "--out", str(tmp_path))
    for part, title in parts.items():
        assert f"## {title}" in printed
        result = json.loads((tmp_path / f"gpu_{part}.json").read_text())
        assert result["command"].endswith("--cpu-check")
    memory = json.loads((tmp_path / "gpu_memory.json").read_text())
    assert all(memory["ok"].values())
    study = json.loads((tmp_path / "gpu_study.json").read_text())
    assert study["sealed"]
    assert study["missing"] == []


@pytest.mark.slow
def test_the_speed_benchmark_runs(tmp_path: Path) -> None:
    """`speed.py --quick` measures every part; all functions that it times are still there."""
    parts = import_module("speed").PARTS
    command("speed.py", "--quick", "--out", str(tmp_path))
    results = {part: json.loads((tmp_path / f"speed_{part}.json").read_text()) for part in parts}
    assert {row["contender"] for row in results["loop"]["rows"]} >= {"orchestrator"}
    assert results["profile"]["missing"] == []
    assert all(row["took"] > 0 for row in results["plan"]["rows"])
    assert "## Where the seconds" in (tmp_path / "speed.md").read_text()


@pytest.mark.parametrize(
    ("command", "package"),
    [
        ("rightness", "rightness_parts"),
        ("archived", "archive"),
        ("gpu", "gpu_parts"),
        ("speed", "speed_parts"),
        ("reliability", "reliability_parts"),
    ],
)
def test_each_page_of_results_is_made_of_the_results(
    command: str, package: str, tmp_path: Path
) -> None:
    """Every part can be imported, and its table of the stored JSON is what the page shows."""
    results = HOME / "benchmarks/results"
    for file in results.glob(f"{command}_*.json"):
        shutil.copy(file, tmp_path)
    parts = import_module(command).PARTS
    assert all(callable(import_module(f"{package}.{part}").run) for part in parts)
    import_module("bench")._write_page(command, package, parts, tmp_path)
    page = f"{command}.md"
    assert (tmp_path / page).read_text() == (results / page).read_text()


# --- what they rest on


def test_each_second_counts_in_one_room() -> None:
    """A room's seconds are without those of the rooms that are entered from it."""
    rooms = import_module("speed_parts.rooms").Rooms()
    inner = rooms.timed("inner", "inner room", lambda: time.sleep(0.05))
    outer = rooms.timed("outer", "outer room", lambda: (time.sleep(0.02), inner()))
    outer()
    assert rooms.seconds["inner room"] >= 0.05
    assert 0.02 <= rooms.seconds["outer room"] < rooms.seconds["inner room"]
    assert len(rooms.calls["inner room"]) == 1


def test_a_missed_goal_says_by_how_much() -> None:
    """The verdict is in per cent of the limit, on the side where the limit is broken."""
    bench = import_module("bench")
    table = bench.goals([bench.Goal("a", 1.2, 1.0), bench.Goal("b", 0.99, 0.98, least=True)])
    assert table.splitlines()[2:] == [
        "| a | at most 1 | 1.2 | no, by 20 % |",
        "| b | at least 0.98 | 0.99 | yes |",
    ]


def test_a_plan_is_held_to_its_range() -> None:
    """A study outside the told range counts against it, whatever the range of all courses."""
    plan = import_module("speed_parts.plan")
    told = {"low": 20.0, "high": 30.0, "likely": 0.8, "least": 10.0, "most": 50.0, "dry_run": 5.0}
    left = [{"stage": "momentum", "low": 8.0, "high": 12.0, "took": 11.0}]
    rows = [
        {**told, "study": "digits", "seed": 1, "took": 25.0, "inside": True, "left": left},
        {**told, "study": "digits", "seed": 2, "took": 31.0, "inside": False, "left": []},
    ]
    share, width = plan._goals(rows)
    assert (share["measured"], share["held"]) == (0.5, False)
    assert (width["measured"], width["held"]) == (1.5, True)
    table = plan.table({"rows": rows, "goals": [share, width]})
    assert "| digits | 2 | 20 to 30 | 80 % | 10 to 50 | 31.0 | no | 5.0 |" in table
    assert "| digits | 1 | momentum | 8 to 12 | 11 |" in table


def test_each_part_has_a_share_of_the_time_and_what_was_left_over() -> None:
    """The last seconds are those of the last part; one without enough is left out."""
    gpu, clock = import_module("gpu"), [0.0]
    options = argparse.Namespace(seconds=100.0, parts=["study", "loop", "marks"])
    begin = gpu.in_turn(options, lambda: clock[0])
    shares = [gpu.SHARES[part] for part in options.parts]
    assert begin("study") == ""
    assert options.until == pytest.approx(100 * shares[0] / sum(shares))
    clock[0] = 99.0
    assert begin("loop") == "0 s are left for it, 6 needed"
    clock[0] = 90.0
    assert begin("marks") == ""
    assert options.until == pytest.approx(100)
    assert set(gpu.SHARES) == set(gpu.PARTS)
    assert sum(gpu.SHARES.values()) == pytest.approx(1)


def test_no_more_rounds_are_begun_than_there_is_time_for() -> None:
    """The first one always is: a table without it would say nothing."""
    contest = import_module("speed_parts.contest")
    case = contest.Case("digits", {"name": "digits"}, {"name": "mlp"}, 32, 20)
    task = contest.Task(case, None, device="cpu", threads=1)
    timings = contest.alternate(task, {"ours": contest.ours}, 3, left=lambda: 0.0)
    assert len(timings["ours"]) == 1


def test_sealed_results_of_a_study_that_is_stopped_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are read out of its journal: when each ended and what it reached."""
    study = import_module("gpu_parts.study")

    def stopped(folder: Path, overrides: list[str], timeout: float) -> None:
        with monkeypatch.context() as there:
            there.chdir(folder)
            assert cli.run(overrides) == 0
        (folder / "runs/cifar/summary.json").unlink()
        raise subprocess.TimeoutExpired([], timeout)

    monkeypatch.setattr(study, "measure", stopped)
    plan = ["plan=[lr_range,final]", "stages.final.seeds=2", "tracking=none", "quiet=true"]
    found = study.followed(["+study=quadratic", "study_name=cifar", *plan], 40.0)
    assert found["status"] == "stopped after 40 s"
    assert [row["recipe"] for row in found["sealed"]].count("answer") == 2
    assert all(row["seconds"] > 0 for row in found["sealed"])
    airbench = {"augmented": [0.94, 0.001], "accuracy": [0.93, 0.001]}
    goals = study._goals(found["sealed"], airbench)
    assert [goal["limit"] for goal in goals] == pytest.approx([180, 93.8, 92.8])
    assert "Stopped after 40 s." in study.table(
        {**found, "goals": goals, "examples_per_second": 1e5, "overrides": []}
    )
    assert len(study._goals([], None)) == 1  # no limit of another command's


@pytest.mark.parametrize(("speed", "epochs"), [(1e3, 5), (25_000.0, 11), (1e6, 20)])
def test_a_faster_gpu_trains_longer_within_what_is_promised(speed: float, epochs: int) -> None:
    """Seven final runs fit between the command's start and its first sealed result."""
    assert import_module("gpu_parts.study")._epochs(speed) == f"epochs={epochs}"


def test_airbench_in_the_units_of_a_mean_loss() -> None:
    """lr 11.5 per 1,024 examples, decoupled from momentum .85, is 1.5 for torch's Nesterov SGD."""
    recipe = import_module("gpu_parts.airbench").Recipe94()
    assert recipe.mean_lr == pytest.approx(1.5, abs=1e-3)
    assert recipe.mean_lr * recipe.mean_decay == pytest.approx(0.0153 / 7.6667, rel=1e-4)
    assert recipe.steps(50_000) == recipe.steps(49_500) == 476


def test_airbench_schedule() -> None:
    """The triangle of the source: .2 at the start, the top at 23 %, .07 at the end."""
    airbench = import_module("gpu_parts.airbench")
    heights = [airbench.height(p) for p in (0, 0.115, 0.23, 0.615, 1)]
    assert heights == pytest.approx([0.2, 0.6, 1.0, 0.535, 0.07])


def test_a_norms_bias_learns_at_its_own_rate_without_a_parameter_group() -> None:
    """SGD on bias / 8 moves the bias as SGD with 64 times the lr and 1/64 of the decay does."""
    airbench = import_module("gpu_parts.airbench")
    moved = []
    for gain, rate in ((8.0, 1.0), (1.0, 64.0)):
        torch.manual_seed(0)
        norm = airbench.Norm(3, gain)
        nn.init.constant_(norm.bias, 0.5 / gain)
        sgd: Any = torch.optim.SGD(
            [norm.bias], 0.01 * rate, momentum=0.85, nesterov=True, weight_decay=0.1 / rate
        )
        x = torch.randn(4, 3, 2, 2)
        for _ in range(3):
            sgd.zero_grad()
            norm(x).pow(2).sum().backward()
            sgd.step()
        moved.append((norm.bias * gain).detach())
    assert torch.allclose(*moved, rtol=1e-5)
    assert not torch.allclose(moved[0], torch.full((3,), 0.5))


def test_airbench_starts_whitened() -> None:
    """The first convolution's responses to the images that it was fitted to have variance 1."""
    airbench = import_module("gpu_parts.airbench")
    torch.manual_seed(0)
    x = torch.randn(64, 3, 8, 8) @ torch.randn(8, 8) + 0.5
    layer = airbench.Whitening(steps=1)
    maps = layer(x)
    assert maps.detach().pow(2).mean((0, 2, 3)) == pytest.approx(1.0, abs=0.02)
    assert maps.requires_grad
    assert not layer(x).requires_grad  # its bias has learnt for as long as it may


@pytest.mark.parametrize("name", ["mlp", "resnet9"])
def test_the_loop_by_hand_trains_what_ours_trains(name: str) -> None:
    """Both learn the digits about as well: neither leaves out work."""
    contest = import_module("speed_parts.contest")
    by_hand = import_module("speed_parts.by_hand")
    model = {"name": name, "width": 0.0625 if name == "resnet9" else 1.0}
    case = contest.Case("digits", {"name": "digits"}, model, 32, 80)
    task = contest.Task(case, None, device="cpu", threads=1)
    timings = contest.alternate(task, {"hand": by_hand.train, "ours": contest.ours}, repeats=2)
    hand, ours = (timings[n][-1].loss for n in ("hand", "ours"))
    assert hand == pytest.approx(ours, rel=0.5)
    assert ours < 2.2  # chance is 2.3


# --- the frontier


@pytest.fixture
def tiny_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Two epochs on the digits, with a cache of its own."""
    monkeypatch.syspath_prepend(str(HOME / "benchmarks/frontier"))
    lab, suite = import_module("lab"), import_module("suite")
    monkeypatch.setattr(lab, "CACHE", tmp_path)
    return lab.Lab(suite._made("tiny", "horizontal", 2, suite.DIGITS, suite.MLP))


def test_a_run_that_a_rivals_pruner_stops_is_not_trained_on(
    tiny_lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends at that report, what is known is not trained again, and it can go on to its end."""
    frontier, search = import_module("lab"), import_module("search")
    found = search.Search(tiny_lab)
    run = search.full_run(found.recipe(0.1, 0.1, 1e-4, 64), tiny_lab.facts)
    ends = run.report_steps()
    trained: list[int] = []
    noted = frontier.Watched.report

    def report(session: Any, point: Any) -> None:
        trained.append(point.step)
        noted(session, point)

    monkeypatch.setattr(frontier.Watched, "report", report)
    stopped = tiny_lab.until(run, lambda point: point.step >= ends[2], resumes=True)
    assert (stopped.state, len(stopped.curve), trained) == ("pruned", 3, ends[:3])
    earlier = tiny_lab.until(run, lambda point: point.step >= ends[1])
    assert (earlier.state, len(earlier.curve), trained) == ("pruned", 2, ends[:3])
    whole = tiny_lab.until(run, lambda point: False, resumes=True)
    assert whole.state == "finished"
    alone = frontier.execute(tiny_lab.objective, run)
    assert whole.curve.held_out_loss.tolist() == alone.curve.held_out_loss.tolist()


def test_the_page_tells_what_studies_had_cost_at_their_milestones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Standard ones; lines of older versions, which do not say it, are left out."""
    monkeypatch.syspath_prepend(str(HOME / "benchmarks/frontier"))
    page = import_module("page")
    line = {"effort": "standard", "cost": {"lr_range": 0.5}, "trained": 1.5, "total": 4.0}
    lines = [line, {**line, "total": 5.0}, {**line, "effort": "thorough", "total": 30.0}]
    found: str = page.prices([*lines, {"effort": "standard", "cost": {"lr_range": 9.0}}])
    assert "| first recipe | 0.50 H | 0.50 H |" in found
    assert "| whole study, with its baseline | 4.50 H | 5.00 H |" in found


def test_ours_is_better_only_beyond_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two standard errors over seeds, and 2 %; where a rival did not train, that decides."""
    monkeypatch.syspath_prepend(str(HOME / "benchmarks/frontier"))
    page = import_module("page")

    def verdict(*ratios: float) -> str:
        own = {("a", seed): ratio for seed, ratio in enumerate(ratios)}
        other = {("a", seed): 1.0 for seed in range(len(ratios))}
        found: str = page.Versus.of(own, other, "a").verdict
        return found

    assert verdict(0.8, 0.82, 0.78) == "better"
    assert verdict(1.25, 1.2, 1.3) == "worse"
    assert verdict(0.8, 1.2, 0.7) == "level"
    assert verdict(0.985, 0.985, 0.985) == "level"
    assert verdict(0.5) == "?"
    assert verdict(float("inf"), 0.5, 0.5) == "worse"
    assert page.Versus.of({("a", 0): 1.0}, {("a", 0): float("inf")}, "a").verdict == "better"
    assert page.Versus.of({("a", 0): 1.0}, {}, "a") is None
