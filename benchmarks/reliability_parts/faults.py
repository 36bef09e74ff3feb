"""The tests that cause each fault for real, as a table: what was done, whether it ended as told."""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import bench

HOME = Path(__file__).resolve().parents[2]
FILES = tuple(f"tests/test_{name}.py" for name in ("faults", "crash", "processes", "honesty"))
WRONG = "tests/test_bad_input.py"


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the tests of faults, the slow ones too; `--quick`: one of them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        only = ["-k", "damaged_checkpoint or plans"] if options.quick else []
        command = [sys.executable, "-m", "pytest", "-q", "-m", "", f"--junitxml={report}", *only]
        command += ["-o", "junit_family=legacy"]  # the only one with properties
        subprocess.run([*command, *FILES, WRONG], cwd=HOME, env={**os.environ}, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    told = {name: text for file in FILES for name, text in _sentences(HOME / file).items()}
    rows = [
        {
            "fault": case.get("name", "").removeprefix("test_").replace("_", " "),
            "end": told.get(case.get("name", "").split("[")[0], ""),
            "outcome": _outcome(case),
            "seconds": float(case.get("time", 0)),
        }
        for case in cases
        if case.get("name", "").split("[")[0] in told
    ]
    return {"rows": rows, "wrong": [kind for case in cases if (kind := _kind(case))]}


def table(result: dict[str, Any]) -> str:
    """Return a row for each test, and one for each kind of wrong request."""
    wrong = result["wrong"]
    whole = ("all", *(sum(w[n] for w in wrong) for n in ("tried", "clean")))
    kinds = bench.markdown(
        ("kind of wrong request", "tried", "one clear line, exit 2, nothing left behind"),
        [*((w["kind"].replace("_", " "), w["tried"], w["clean"]) for w in wrong), whole],
    )
    faults = bench.markdown(
        ("what happens", "how it must end", "outcome"),
        [(r["fault"], r["end"].replace("|", "/"), r["outcome"]) for r in result["rows"]],
    )
    return f"{faults}\n\n{kinds}"


def _kind(case: ElementTree.Element) -> dict[str, Any] | None:
    """Return how many wrong requests of a kind were tried, and how many were refused cleanly."""
    found = {p.get("name", ""): int(p.get("value", 0)) for p in case.iter("property")}
    if "tried" not in found:
        return None
    name = case.get("name", "").partition("[")[2].rstrip("]")
    return {"kind": name, "tried": found["tried"], "clean": found.get("clean", 0)}


def _outcome(case: ElementTree.Element) -> str:
    for name in ("failure", "error", "skipped"):
        if (found := case.find(name)) is not None:
            return f"{name}: {found.get('message', '')[:80]}"
    return "as documented"


def _sentences(file: Path) -> dict[str, str]:
    """Return the docstring of each test."""
    functions = [n for n in ast.parse(file.read_text()).body if isinstance(n, ast.FunctionDef)]
    return {f.name: " ".join((ast.get_docstring(f) or "").split()) for f in functions}
