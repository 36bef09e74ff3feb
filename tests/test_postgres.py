"""A study whose trials are in PostgreSQL: a real server, made here and killed here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from programs import free_port

from orchestrator import __main__ as cli
from orchestrator.curve import Result
from orchestrator.objectives import Session
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.recipe import Run
from tests.test_faults import REAL, a_study, decisions, disturbed

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # Debian's are not on the PATH
INITDB = shutil.which("initdb") or next((str(p / "initdb") for p in INSTALLED[::-1]), None)
PASSWORD = "hush/h@sh"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("here"),
    pytest.mark.skipif(INITDB is None, reason="needs PostgreSQL (apt install postgresql)"),
]


class Server:
    """PostgreSQL in a folder of its own, on a port of its own, asking for a password."""

    def __init__(self, folder: Path) -> None:
        assert INITDB
        self.programs, self.data = Path(INITDB).resolve().parent, folder / "data"
        self.user = "postgres" if os.getuid() == 0 else None  # it refuses to be root's
        if self.user:
            shutil.chown(folder, self.user)
        self.port = free_port()
        word = folder / "password"
        word.write_text(PASSWORD)
        if self.user:
            shutil.chown(word, self.user)
        self.do("initdb", "-U", "ada", "-A", "scram-sha-256", f"--pwfile={word}", "--no-sync")
        self.start()

    def url(self, password: str = PASSWORD) -> str:
        """Return the address that a study is given."""
        secret = quote(password, safe="")
        return f"postgresql+psycopg://ada:{secret}@127.0.0.1:{self.port}/postgres"

    def do(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs on this server's data."""
        subprocess.run(
            [self.programs / program, "-D", self.data, *arguments],
            check=True,
            user=self.user,
            cwd="/",
            stdout=subprocess.DEVNULL,  # a pipe would be held open by the server
            stderr=subprocess.DEVNULL,
        )

    def start(self) -> None:
        """Start it and wait until it answers; what a killed one left is taken over."""
        log = self.data.parent / "log"
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self.data.parent}"
        end = time.monotonic() + 60
        while True:
            try:
                self.do("pg_ctl", "-w", "-l", str(log), "-o", options, "start")
                return
            except subprocess.CalledProcessError:  # the killed one's children are still going
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)

    def kill(self) -> None:
        """As a power cut does it."""
        os.kill(int((self.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path: its parents are ours alone
        made = Server(Path(folder))
        yield made
        made.do("pg_ctl", "-m", "immediate", "-w", "stop")


def database(server: Server) -> dict[str, str]:
    return {"name": "url", "url": server.url()}


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
