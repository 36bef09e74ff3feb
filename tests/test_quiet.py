"""Waiting for a quiet machine, with a clock and a load of our own."""

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from nvidia import Driver
from test_inline import Nobody, a_run

from orchestrator.executors.inline import InlineExecutor
from orchestrator.executors.quiet import Quiet, Ticks, ticks, use_of_gpu
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.storage.backend import open_storage
from orchestrator.storage.ledger import Ledger
from orchestrator.system import nvml


class Machine:
    """Two processors; `loads` says what others take of them in each second, the last for ever."""

    def __init__(self, *loads: float) -> None:
        self._loads = self._next(loads)
        self.now = Ticks(100.0, 1000.0, 5.0)
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
        self.now = Ticks(busy + ours + others, total + 2 * seconds, own + ours)

    def quiet(self) -> Quiet:
        return Quiet(lambda: self.now, self.sleep)


def test_a_quiet_machine_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """One look of a second, and not a word; our own work does not count."""
    machine = Machine(0.02)
    assert machine.quiet().wait("trial")
    assert machine.slept == 1
    assert caplog.text == ""


def test_a_busy_machine_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """Until the others are done; both is said."""
    caplog.set_level("INFO")
    machine = Machine(0.5, 0.5, 0.5, 0.0)
    assert machine.quiet().wait("trial")
    assert machine.slept == 4
    assert "trial: waits until the machine is quiet (other programs take 50 %" in caplog.text
    assert "30 s at most (executor.wait_seconds)" in caplog.text
    assert "trial: the machine is quiet after 3 s" in caplog.text


def test_a_machine_that_stayed_quiet_is_not_looked_at_again() -> None:
    """While the last repeat ran nobody else did; where somebody did, it is looked at afresh."""
    machine = Machine(0.0, 0.01, 0.5, 0.0)
    quiet = machine.quiet()
    assert quiet.wait("first")
    machine.sleep(8)  # the first repeat
    assert quiet.wait("second")
    assert machine.slept == 1 + 8
    machine.sleep(8)
    assert quiet.wait("third")
    assert machine.slept == 1 + 8 + 8 + 1


def test_it_is_given_up_after_half_a_minute_once_for_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Later calls look once; when the machine has been quiet there is patience again."""
    caplog.set_level("INFO")
    machine = Machine(*[0.9] * 33, 0.0, *[0.9] * 10, 0.0)
    quiet = machine.quiet()
    assert not quiet.wait("first")
    assert machine.slept == 31
    assert "first: the machine is not quiet (other programs take 90 %" in caplog.text
    assert not quiet.wait("second")
    assert not quiet.wait("third")
    assert machine.slept == 33
    assert quiet.wait("fourth")
    assert quiet.wait("fifth")
    assert machine.slept == 34 + 11


def test_a_short_trial_is_not_worth_a_long_wait(caplog: pytest.LogCaptureFixture) -> None:
    """At most as long as the trial took, told once for a whole round; 0 s switch it off."""
    machine = Machine(0.9)
    quiet = machine.quiet()
    for _ in range(7):
        assert not quiet.wait("trial", 0.5)
    assert machine.slept == 0.5 + 7 * 0.5
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert Quiet(lambda: machine.now, machine.sleep, most_seconds=0).wait("trial", 0.5)
    assert machine.slept == 4


def test_a_gpu_that_others_use_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the processors do; it is asked each time, after a second without work of ours."""
    machine, uses = Machine(0.0), iter([0.9, 0.3, 0.0, 0.0])
    quiet = Quiet(lambda: machine.now, machine.sleep, gpu=lambda: next(uses))
    assert quiet.wait("trial")
    assert "other programs take 90 % of its processors or its GPU" in caplog.text
    assert machine.slept == 3
    machine.sleep(5)
    assert quiet.wait("trial")
    assert machine.slept == 9
    assert Quiet(lambda: None, machine.sleep, gpu=lambda: 0.01).wait("trial")


@pytest.mark.parametrize(
    ("device", "use"),
    [("auto", 0.25), ("cuda", 0.25), ("cuda:1", 0.75), ("cuda:2", None), ("cpu", None)],
)
def test_the_gpu_that_trains_is_the_one_asked(
    device: str, use: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its number among those this process may see; none for the CPU, or without a driver."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nvml, "_library", lambda: Driver(uses=[25, 75]))
    asked = use_of_gpu(device)
    assert (asked and asked()) == use
    monkeypatch.setattr(nvml, "_library", lambda: ctypes.CDLL("no-such-library.so"))
    assert use_of_gpu(device) is None


def test_where_the_system_does_not_tell_nobody_waits(tmp_path: Path) -> None:
    """No /proc/stat: no load, no wait."""
    slept: list[float] = []
    assert Quiet(lambda: None, slept.append).wait("trial")
    assert slept == []
    assert ticks(tmp_path / "stat") is None


def test_processor_time_is_read_as_linux_writes_it(tmp_path: Path) -> None:
    """Hundredths of a second; steal is busy, waiting for disks is not, guests are in user."""
    file = tmp_path / "stat"
    file.write_text("cpu  1000 200 300 5000 400 10 20 30 7 8\ncpu0 1 2 3\n")
    found = ticks(file)
    assert found is not None
    assert found[:2] == pytest.approx((15.6, 69.6))
    file.write_text("nonsense")
    assert ticks(file) is None


def test_only_the_repeat_of_a_timed_run_waits(tmp_path: Path) -> None:
    """The first attempt goes at once: what disturbs it shows, and only then is there a reason.

    A repeat waits as long as the first attempt took.
    """
    machine = Machine(0.5, 0.0)
    objective = QuadraticObjective()
    ledger = Ledger(open_storage("memory", None, tmp_path), "s")
    executor = InlineExecutor(ledger, objective, None, tmp_path, Nobody(), machine.quiet())
    timed = replace(a_run(0.1), timed=True)
    _, first = executor.run("a", [a_run(0.1), timed])
    assert machine.slept == 0
    executor.run("a", [replace(timed, attempt=1)])
    assert machine.slept == pytest.approx(2 * first.result.seconds)
