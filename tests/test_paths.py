"""Where a study's files are."""

import ast
from pathlib import Path

import orchestrator
from orchestrator.storage.paths import StudyPaths

PACKAGE = Path(orchestrator.__file__).parent
PROPERTIES = [name for name, kind in vars(StudyPaths).items() if isinstance(kind, property)]


def test_all_files_are_in_the_studys_folder(tmp_path: Path) -> None:
    """Each under a name of its own."""
    paths = StudyPaths.of(tmp_path, "s")
    files = [getattr(paths, name) for name in PROPERTIES]
    assert {file.parent for file in files} == {paths.folder} == {tmp_path / "s"}
    assert len(set(files)) == len(files) == len(PROPERTIES)


def test_their_names_are_spelled_once() -> None:
    """No other module has such a name as a string of its own.

    Words without a suffix may mean something else. tracking/model.py writes a folder of MLflow's.
    """
    paths = StudyPaths(Path())
    names = {file.name for name in PROPERTIES if (file := getattr(paths, name)).suffix}
    assert "summary.json" in names
    others = {PACKAGE / "storage" / "paths.py", PACKAGE / "tracking" / "model.py"}
    for file in set(PACKAGE.rglob("*.py")) - others:
        tree = ast.parse(file.read_text())
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not strings & names, file
