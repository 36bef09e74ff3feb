"""The project's own files: version, licence, CI, what a wheel holds and whether it works."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_changelog_tells_of_this_version() -> None:
    """The newest version in CHANGELOG.md is that of pyproject.toml; the newest stand first."""
    versions = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == PROJECT["version"]
    assert versions == sorted(versions, reverse=True)


def test_the_licence_is_the_one_that_is_declared() -> None:
    """LICENSE is what pyproject.toml and README.md call it."""
    assert "LICENSE" in PROJECT["license-files"]
    assert (ROOT / "LICENSE").read_text().startswith(f"{PROJECT['license']} License")
    assert (ROOT / "README.md").read_text().rstrip().endswith(PROJECT["license"])


def test_ci_runs_what_a_developer_runs() -> None:
    """The workflow calls `make test` and has no checks of its own."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make test"]


def test_the_commit_hooks_are_the_checks_of_make() -> None:
    """Every tool of `make check` is a hook, from .venv; nothing is fetched."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    entries = [hook["entry"] for hook in hooks["repos"][0]["hooks"]]
    rule = (ROOT / "Makefile").read_text().split("\ncheck:")[1].split("\n\n")[0]
    checks = re.findall(r"\$\(BIN\)/(.+)", rule)
    assert [e.split("/")[-1].replace(" --force-exclude", "") for e in entries] == [
        check.removesuffix(" .") for check in checks
    ]


def test_after_make_run_the_reader_is_told_how_its_commands_work() -> None:
    """They are for an active environment: make says so at the end, README where it starts."""
    rule = (ROOT / "Makefile").read_text().split("\nrun:")[1].split("\n\n")[0]
    assert rule.rstrip().splitlines()[-1].endswith('. $(BIN)/activate"')
    start = (ROOT / "README.md").read_text().split("make run")[1]
    assert start.splitlines()[1].startswith(". .venv/bin/activate")


@pytest.mark.slow
def test_a_wheel_works_where_there_is_no_checkout(tmp_path: Path) -> None:
    """Built, put into a folder of its own, run from an empty one: a whole study; and the sdist."""
    dist, target, work = tmp_path / "dist", tmp_path / "target", tmp_path / "work"
    work.mkdir()
    # The build backend that pyproject.toml names must be installed: nothing is fetched.
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(dist)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as held:
        names = set(held.namelist())
    package = ROOT / "orchestrator"
    data = {str(p.relative_to(ROOT)) for p in package.rglob("*") if p.is_file()}
    data = {name for name in data if "__pycache__" not in name}
    conf = {f"orchestrator/{p.relative_to(ROOT)}" for p in (ROOT / "conf").rglob("*.yaml")}
    assert data | conf | {"orchestrator/py.typed"} <= names
    with tarfile.open(sdist) as held:
        inside = {name.partition("/")[2] for name in held.getnames()}
    assert data | {"README.md", "LICENSE", "CHANGELOG.md", "conf/orchestrator.yaml"} <= inside
    assert not [name for name in inside if re.match(r"runs/\w|\.venv|mlruns", name)]
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "--target", str(target), str(wheel)],
        check=True,
        capture_output=True,
    )
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "+study=quadratic"],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (work / "runs/quadratic/report.html").is_file()
