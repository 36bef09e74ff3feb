"""The tests marked `gpu`, in a process of their own."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[2]
NO_TESTS = 5  # pytest's exit code where none was selected


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run them (with --cpu-check they are only collected)."""
    only = ["--collect-only"] if options.cpu_check else []
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *only]
    if not (HOME / "tests").is_dir():
        return {"passed": None, "last": "there is no folder of tests here"}
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=240)
    lines = (done.stdout or done.stderr).strip().splitlines()
    if done.returncode == NO_TESTS:
        return {"passed": None, "last": "no test is marked gpu"}
    if done.returncode:
        print("\n".join(lines[-40:]), flush=True)
    return {"passed": done.returncode == 0, "last": lines[-1] if lines else ""}


def table(result: dict[str, Any]) -> str:
    """Return one sentence."""
    verdict = {True: "passed", False: "FAILED", None: "nothing ran"}[result["passed"]]
    return f"`pytest -m gpu`: {verdict} ({result['last']})."
