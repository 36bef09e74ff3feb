"""The tests marked `gpu`, in a process of their own."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu_parts.place import left

HOME = Path(__file__).resolve().parents[2]
MARK = "pytest.mark.gpu"


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run them (with --cpu-check they are only collected)."""
    files = [str(f) for f in sorted((HOME / "tests").glob("test_*.py")) if MARK in f.read_text()]
    if not files:
        return {"passed": None, "last": "no test here is marked gpu"}
    only = ["--collect-only"] if options.cpu_check else []
    # Warnings are errors with our versions alone: those of this machine may have others to give.
    command = [sys.executable, "-m", "pytest", *files, "-m", "gpu", "-q", "-W", "default", *only]
    try:
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider"],
            cwd=HOME,
            capture_output=True,
            text=True,
            timeout=left(options),
        )
    except subprocess.TimeoutExpired as late:
        told = late.stdout or b""
        lines = (told.decode() if isinstance(told, bytes) else told).splitlines()
        print("\n".join(lines[-10:]), flush=True)
        return {"passed": None, "last": f"not at an end after {late.timeout:.0f} s"}
    lines = (done.stdout or done.stderr).strip().splitlines()
    if done.returncode:
        print("\n".join(lines[-40:]), flush=True)
    return {"passed": done.returncode == 0, "last": lines[-1] if lines else ""}


def table(result: dict[str, Any]) -> str:
    """Return one sentence."""
    verdict = {True: "passed", False: "FAILED", None: "no verdict"}[result["passed"]]
    return f"`pytest -m gpu`: {verdict} ({result['last']})."
