"""docs/notebook.ipynb: it runs as it stands, and says today what is stored in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import orchestrator

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


def texts(cell: Any) -> str:
    """Return what a cell printed and returned, as text."""
    outputs = cell.get("outputs", [])
    printed = [o["text"] for o in outputs if o.output_type == "stream"]
    return "".join([*printed, *(o["data"]["text/plain"] for o in outputs if "data" in o)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_notebook_says_what_is_stored_in_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Executed anew, each cell gives its stored text; a trained network's numbers may differ."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(Path(orchestrator.__file__).parent.parent))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("IPYTHONDIR", str(here / "ipython"))
    stored, again = (nbformat.read(NOTEBOOK, as_version=4) for _ in range(2))
    NotebookClient(again, timeout=300, resources={"metadata": {"path": os.getcwd()}}).execute()
    compared = 0
    for old, new in zip(stored.cells, again.cells, strict=True):
        if "lr_range_test(" in old.source:  # torch's last bits differ from machine to machine
            assert texts(new).startswith("True max_lr")
        elif old.cell_type == "code":
            assert texts(new) == texts(old), old.source
            compared += 1
    assert compared > 5
    outputs = [output for cell in stored.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
