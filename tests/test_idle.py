"""Waiting for an idle machine, with a clock and a load of our own."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from nvidia import pretend
from test_inline import Nobody, a_run

from orchestrator.executors.idle import IdleWait, use_of_gpu
from orchestrator.executors.inline import InlineExecutor
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.storage.backend import open_storage
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.states import Folder
from orchestrator.system import host


class Machine:
    """Two processors; `loads` says what others take of them in each second, the last for ever."""

    def __init__(self, *loads: float) -> None:
        self._loads = self._next(loads)
        self.now = host.ProcessorTimes(100.0, 1000.0, 5.0)
        self.slept = 0.0

    @staticmethod
    def _next(loads: tuple[float, ...]) -> Iterator[float]:
        yield from loads
        while True:
            yield loads[-1]

    def sleep(self, seconds: float) -> None:
        """Let time pass: we take a hundredth of a processor, others what they do."""
        self.slept += seconds
        ours, others = 0.01 * seconds, next(self._loads) * 2 * seconds
        busy, total, own = self.now
        self.now = host.ProcessorTimes(busy + ours + others, total + 2 * seconds, own + ours)

    def idle(self) -> IdleWait:
        return IdleWait(lambda: self.now, self.sleep)


def test_an_idle_machine_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """One look of a second, and not a word; our own work does not count."""
    machine = Machine(0.02)
    assert machine.idle().wait("trial")
    assert machine.slept == 1
    assert caplog.text == ""


def test_a_busy_machine_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """Until the others are done; both is said."""
    caplog.set_level("INFO")
    machine = Machine(0.5, 0.5, 0.5, 0.0)
    assert machine.idle().wait("trial")
    assert machine.slept == 4
    assert "trial: waits until the machine is idle (other programs use 50 %" in caplog.text
    assert "30 s at most (executor.wait_seconds)" in caplog.text
    assert "trial: the machine is idle after 3 s" in caplog.text


def test_a_machine_that_stayed_idle_is_not_looked_at_again() -> None:
    """While the last repeat ran nobody else did; where somebody did, it is looked at afresh."""
    machine = Machine(0.0, 0.01, 0.5, 0.0)
    idle = machine.idle()
    assert idle.wait("first")
    machine.sleep(8)  # the first repeat
    assert idle.wait("second")
    assert machine.slept == 1 + 8
    machine.sleep(8)
    assert idle.wait("third")
    assert machine.slept == 1 + 8 + 8 + 1


def test_it_is_given_up_after_half_a_minute_once_for_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Later calls look once; when the machine has been idle there is patience again."""
    caplog.set_level("INFO")
    machine = Machine(*[0.9] * 33, 0.0, *[0.9] * 10, 0.0)
    idle = machine.idle()
    assert not idle.wait("first")
    assert machine.slept == 31
    assert "first: the machine is not idle (other programs use 90 %" in caplog.text
    assert not idle.wait("second")
    assert not idle.wait("third")
    assert machine.slept == 33
    assert idle.wait("fourth")
    assert idle.wait("fifth")
    assert machine.slept == 34 + 11


def test_a_short_trial_is_not_worth_a_long_wait(caplog: pytest.LogCaptureFixture) -> None:
    """At most as long as the trial took, told once for a whole round; 0 s switch it off."""
    machine = Machine(0.9)
    idle = machine.idle()
    for _ in range(7):
        assert not idle.wait("trial", 0.5)
    assert machine.slept == 0.5 + 7 * 0.5
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert IdleWait(lambda: machine.now, machine.sleep, max_seconds=0).wait("trial", 0.5)
    assert machine.slept == 4


def test_a_gpu_that_others_use_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the processors do; it is asked each time, after a second without work of ours."""
    machine, uses = Machine(0.0), iter([0.9, 0.3, 0.0, 0.0])
    idle = IdleWait(lambda: machine.now, machine.sleep, gpu=lambda: next(uses))
    assert idle.wait("trial")
    assert "other programs use 90 % of its processors or its GPU" in caplog.text
    assert machine.slept == 3
    machine.sleep(5)
    assert idle.wait("trial")
    assert machine.slept == 9
    assert IdleWait(lambda: None, machine.sleep, gpu=lambda: 0.01).wait("trial")


@pytest.mark.parametrize(
    ("device", "use"),
    [("auto", 0.25), ("cuda", 0.25), ("cuda:1", 0.75), ("cuda:2", None), ("cpu", None)],
)
def test_the_gpu_that_trains_is_the_one_asked(
    device: str, use: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its number among those this process may see; none for the CPU, or without a driver."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pretend(monkeypatch, uses=[25, 75])
    asked = use_of_gpu(device)
    assert (asked and asked()) == use
    pretend(monkeypatch, uses=None)
    assert use_of_gpu(device) is None


def test_where_the_system_hides_its_load_nobody_waits() -> None:
    """No processor times: no load, no wait."""
    slept: list[float] = []
    assert IdleWait(lambda: None, slept.append).wait("trial")
    assert slept == []


def test_only_the_repeat_of_a_timed_run_waits(tmp_path: Path) -> None:
    """The first attempt goes at once: what disturbs it shows, and only then is there a reason.

    A repeat waits as long as the first attempt took.
    """
    machine = Machine(0.5, 0.0)
    objective = QuadraticObjective()
    ledger = Ledger(open_storage("memory", None, tmp_path), "s")
    executor = InlineExecutor(
        ledger, objective, None, Folder(tmp_path / "checkpoints"), Nobody(), machine.idle()
    )
    timed = replace(a_run(0.1), timed=True)
    _, first = executor.run("a", [a_run(0.1), timed])
    assert machine.slept == 0
    executor.run("a", [replace(timed, attempt=1)])
    assert machine.slept == pytest.approx(2 * first.result.seconds)
