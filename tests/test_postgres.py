"""A study whose trials are in PostgreSQL: a real server, made here and killed here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from postgres import PASSWORD, Server, a_server, needs_postgres

from orchestrator import __main__ as cli
from orchestrator.curve import Result
from orchestrator.objectives import Session
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.recipe import Run
from tests.test_faults import REAL, a_study, decisions, disturbed

pytestmark = [pytest.mark.usefixtures("here", "without_figures"), needs_postgres]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with a_server() as made:
        yield made


def database(server: Server) -> dict[str, Any]:
    return {"name": "url", "url": server.url(), "retry_seconds": 1}


@pytest.mark.slow
def test_the_answer_is_that_of_the_journal(server: Server) -> None:
    """A second command tells it again, fresh=true finds it again; no file holds the password."""
    journal = a_study(study_name="journal")
    record = a_study(study_name="database", storage=database(server))
    assert record.status == "complete", record.reason
    assert decisions(record) == decisions(journal)
    assert not Path("runs/database/optuna.journal").exists()
    again = a_study(study_name="database", storage=database(server))
    assert decisions(again) == decisions(journal)
    fresh = a_study(study_name="database", storage=database(server), fresh=True)
    assert decisions(fresh) == decisions(journal)
    written = [p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()]
    assert not [text for text in written if quote(PASSWORD, safe="").encode() in text]


@pytest.mark.slow
def test_a_killed_server_ends_the_study_and_it_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 in the middle: it says what to do, and with the server back nothing is done twice."""
    undisturbed = a_study(study_name="journal")
    trained: list[Run] = []

    def call(self: QuadraticObjective, run: Run, session: Session) -> Result:
        trained.append(run)
        if len(trained) == 5:
            server.kill()
        return REAL(self, run, session)

    disturbed(monkeypatch, call)
    record = a_study(study_name="killed", storage=database(server))
    assert record.status == "failed"
    assert "run the same command to resume" in record.reason
    assert PASSWORD not in record.reason
    assert len(trained) == 5
    assert cli.run(["+study=quadratic", "storage=url", f"storage.url={server.url()}"]) == 2
    server.start()
    record = a_study(study_name="killed", storage=database(server))
    assert record.status == "complete", record.reason
    assert decisions(record) == decisions(undisturbed)
    assert trained[5] == trained[4]
    assert not [run for run in trained[5:] if run in trained[:4]]


def test_a_wrong_password_is_one_line_without_it(
    server: Server, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, the server's own words, no folder."""
    url = server.url("wrong-word")
    assert cli.run(["+study=quadratic", "storage=url", f"storage.url={url}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("storage.url: ")
    assert err.count("\n") == 1
    assert "password authentication failed" in err
    assert "wrong-word" not in err
    assert list(here.iterdir()) == []
