"""A PostgreSQL server for tests: a real one, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from programs import free_port

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # Debian's are not on the PATH
INITDB = shutil.which("initdb") or next((str(p / "initdb") for p in INSTALLED[::-1]), None)
PASSWORD = "hush/h@sh"
needs_postgres = pytest.mark.skipif(
    INITDB is None, reason="needs PostgreSQL (apt install postgresql)"
)


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

    def restart(self) -> None:
        """Stop it, which closes all connections, and start it again."""
        self.do("pg_ctl", "-m", "fast", "-w", "stop")
        self.start()


@contextmanager
def a_server() -> Iterator[Server]:
    """Return a context with a server."""
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path: its parents are ours alone
        made = Server(Path(folder))
        try:
            yield made
        finally:
            made.do("pg_ctl", "-m", "immediate", "-w", "stop")
