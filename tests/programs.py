"""Programs that tests start: what they show on a terminal, and when a server is there."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen


def shown_on(terminal: int) -> str:
    """Return what is shown on a terminal until the program at its other end is gone; close it."""
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(terminal)
    return shown.decode(errors="replace")


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def until_it_answers(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Return once a server answers, two minutes at most; it must not end before, as `log` says."""
    for _ in range(1200):
        assert server.poll() is None, log.read_text()
        with suppress(OSError), urlopen(address, timeout=60):
            break
        time.sleep(0.1)
