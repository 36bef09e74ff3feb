"""The lease on a study in a database, and a database that is away for a while."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, ProgrammingError

from orchestrator.errors import ConfigError, StorageError
from orchestrator.storage import lease as leases
from orchestrator.storage import patient
from orchestrator.storage.lease import Lease, leased
from orchestrator.storage.patient import Patience


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    """Any database will do: what is asked of it is plain SQL."""
    made = sa.create_engine(f"sqlite:///{tmp_path / 'studies.db'}")
    yield made
    made.dispose()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LOOK_SECONDS", 0.05)


def a_lease(engine: sa.Engine, seconds: float = 1.0, owner: str = "") -> Lease:
    made = Lease(engine, "s", seconds, Patience(1.0))
    made._owner = owner or made._owner
    return made


def elsewhere(engine: sa.Engine, seconds: float = 1.0) -> Lease:
    """The lease of a command on another machine, which is not seen to live or die."""
    return a_lease(engine, seconds, owner="7@elsewhere abc")


def test_a_study_has_one_owner(engine: sa.Engine) -> None:
    """While it renews its lease another command is refused, and told who it is."""
    with (
        leased(elsewhere(engine, 2.0), print),
        pytest.raises(ConfigError, match="study s is being run by process 7@elsewhere: wait"),
    ):
        a_lease(engine, 5.0).take(print)


def test_the_lease_of_a_dead_owner_is_taken_over_when_it_ends(engine: sa.Engine) -> None:
    """Not before; and the waiting command says what it waits for."""
    elsewhere(engine, 2.0).take(print)  # and never renewed: sqlite's clock has whole seconds
    notes: list[str] = []
    began = time.monotonic()
    a_lease(engine, 2.0).take(notes.append)
    assert time.monotonic() - began > 0.5
    assert notes == ["waits up to 2 s for the lease of process 7@elsewhere abc"]


def test_that_of_a_process_of_this_machine_that_has_ended_is_taken_over_at_once(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to wait for the end of a lease after a kill -9."""
    a_lease(engine, 600).take(print)
    monkeypatch.setattr(leases, "lives", lambda pid: False)
    a_lease(engine, 600).take(print)


def test_a_released_lease_is_free(engine: sa.Engine) -> None:
    """The next command takes it without a wait, on whatever machine."""
    with leased(elsewhere(engine, 600), print):
        pass
    with leased(a_lease(engine, 600), print) as held:
        held.check()


def test_an_owner_that_was_cut_off_for_too_long_must_not_write(engine: sa.Engine) -> None:
    """Another command has taken the study over by then."""
    late = a_lease(engine, 600)
    late.take(print)
    late._until = 0.0
    with engine.begin() as connection:
        connection.execute(sa.update(leases.STUDIES).values(owner="7@elsewhere abc"))
    with pytest.raises(StorageError, match="another command has taken over study s"):
        late.check()


def test_an_owner_that_was_cut_off_and_not_replaced_goes_on(engine: sa.Engine) -> None:
    """Its lease is renewed before it writes."""
    late = a_lease(engine, 600)
    late.take(print)
    late._until = 0.0
    late.check()
    assert late._until > time.monotonic()


def test_of_two_commands_that_start_at_once_one_has_the_lease(engine: sa.Engine) -> None:
    """Whatever the order of their steps."""
    leases.STUDIES.create(engine)
    for _ in range(5):
        two = [a_lease(engine, 600, owner=f"{n}@elsewhere x") for n in (1, 2)]
        with ThreadPoolExecutor(2) as threads:
            claimed = sorted(threads.map(Lease._claim, two))
        assert claimed == [False, True]
        for each in two:
            each._write(owner="")


def test_what_is_kept_comes_with_the_lease(engine: sa.Engine) -> None:
    """Values of one command are those of the next, until the study starts over."""
    with leased(a_lease(engine), print) as first:
        first.keep(summary={"cost": 1})
        first.keep(config={"seed": 0})
    with leased(elsewhere(engine), print) as second:
        assert second.kept == {"summary": {"cost": 1}, "config": {"seed": 0}}
        second.forget()
    with leased(a_lease(engine), print) as third:
        assert third.kept == {}


class Away:
    """A call that fails so often before it succeeds."""

    def __init__(self, times: int, error: type[Exception] = OperationalError) -> None:
        self.left, self.error, self.asked = times, error, list[bool]()

    def __call__(self, again: bool) -> str:
        self.asked.append(again)
        if self.left:
            self.left -= 1
            raise RuntimeError("Optuna's words") from self.error("select", {}, Exception("gone"))
        return "there"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses, which are not made."""
    found: list[float] = []
    monkeypatch.setattr(patient, "_sleep", found.append)
    return found


def test_a_call_is_tried_again_with_growing_pauses(pauses: list[float]) -> None:
    """A call learns that it was tried before: what was cut off may have arrived."""
    call = Away(8)
    assert Patience(60).retry(call) == "there"
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert call.asked == [False] + [True] * 8


def test_a_call_is_given_up_after_the_stated_time(pauses: list[float]) -> None:
    """And later calls of the same outage at once, so that the command ends."""
    patience = Patience(0.0)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Optuna's words"):
            patience.retry(Away(1))
    assert pauses == []
    assert patience.retry(Away(0)) == "there"


def test_what_is_not_about_the_connection_is_not_tried_again(pauses: list[float]) -> None:
    """Wrong SQL is wrong the next time."""
    with pytest.raises(RuntimeError, match="Optuna's words"):
        Patience(60).retry(Away(1, ProgrammingError))
    assert pauses == []
