"""The code behind a user's callable: every module that it imports, as this process runs it."""

import hashlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import changes, run_study
from orchestrator.config.options import OwnConfig
from orchestrator.config.user_modules import code_of
from orchestrator.study.watch import Watch
from orchestrator.training.identity import described, edited

FILES = {
    "mine.py": "import shallow\nfrom pack.inner import deep\nfrom free import alone\n"
    "from functools import partial\nimport torch\n"
    "def net():\n    import late\n    return late.WIDTH\n"
    "narrow = partial(net)\n",
    "shallow.py": "from deeper import WIDTH\n",
    "deeper.py": "WIDTH = 3\n",
    "late.py": "WIDTH = 4\n",
    "pack/__init__.py": "",
    "pack/inner.py": "from . import sibling\nfrom .sibling import deep\n",
    "pack/sibling.py": "deep = 1\n",
    "free/alone.py": "from importlib import import_module\n"
    "nets = list(map(import_module, [f'free.{n}' for n in 'a']))\n",
    "free/a.py": "A = 1\n",
    "stranger.py": "print('nobody imports me')\n",
}


@pytest.fixture
def folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's modules in the working folder, and none of them imported."""
    for name, text in FILES.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    monkeypatch.syspath_prepend(here)
    yield here
    forget(here)


def forget(folder: Path) -> None:
    """Be as a process that has not imported the user's modules."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
    for name in ("free", "pack"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def test_modules_are_found_wherever_the_code_imports_them(folder: Path) -> None:
    """Directly, by another, relatively, in a function, by a computed name; no other is."""
    assert sorted(code_of("mine.net").modules) == [
        "deeper",
        "free.a",
        "free.alone",
        "late",
        "pack",
        "pack.inner",
        "pack.sibling",
        "shallow",
    ]


@pytest.mark.parametrize("name", [name for name in FILES if name != "stranger.py"])
@pytest.mark.parametrize("target", ["net", "narrow"])
def test_an_edit_of_any_of_them_is_another_code(folder: Path, name: str, target: str) -> None:
    """Also where the target is a partial, whose own module is the standard library's."""
    before = code_of(f"mine.{target}")
    forget(folder)
    (folder / name).write_text(FILES[name] + "# edited\n")
    assert code_of(f"mine.{target}") != before


def test_an_edit_elsewhere_is_the_same_code(folder: Path) -> None:
    """A module that nobody imports plays no part."""
    before = code_of("mine.net")
    forget(folder)
    (folder / "stranger.py").write_text("")
    assert code_of("mine.net") == before


def test_a_single_module_is_named_by_its_text_alone(folder: Path) -> None:
    """Keys of studies from before other modules counted stay what they were."""
    text = "def net():\n    return 1\n"
    (folder / "single.py").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert described(OwnConfig(_target_="single.net")) == {
        "_target_": "single.net",
        "source": digest,
    }


def test_an_argument_called_source_stays_in_the_description(folder: Path) -> None:
    """The hash of the code gives way."""
    one, two = (described(OwnConfig(_target_="mine.net", source=s)) for s in ("a", "b"))
    assert (one["source"], two["source"]) == ("a", "b")
    assert one["_source_"] == two["_source_"] == code_of("mine.net").source


def test_a_file_edited_after_its_import_is_told_and_not_taken_for_what_runs(folder: Path) -> None:
    """The hashes stay those of the code in this process; a sentence names the file."""
    before = code_of("mine.net")
    assert edited([OwnConfig(_target_="mine.net")]) == []
    (folder / "shallow.py").write_text("WIDTH = 5\n")
    after = code_of("mine.net")
    assert (after.source, after.modules) == (before.source, before.modules)
    (sentence,) = edited([OwnConfig(_target_="mine.net")])
    assert sentence.startswith("shallow.py changed after this process had imported it")


def test_what_changed_is_named() -> None:
    """The part, and the module where it is not the callable's own."""
    one: dict[str, Any] = {"model": {"_modules_": {"blocks": "a" * 16}, "source": "b" * 16}}
    two: dict[str, Any] = {"model": {"_modules_": {"blocks": "c" * 16}, "source": "d" * 16}}
    none: dict[str, Any] = {"model": {"source": "b" * 16}}
    assert changes.surroundings(one, two) == [
        "the code of model changed (module blocks)",
        "the code of model changed",
    ]
    assert changes.surroundings(none, one) == ["the code of model changed"]


NET = """
from torch import nn

def net(num_classes, input_shape):
    return nn.Sequential(nn.Linear(input_shape[0], WIDTH), nn.ReLU(), nn.Linear(WIDTH, num_classes))
"""
DATA = """
import numpy as np

def data():
    x = np.random.default_rng(0).normal(size=(300, 4))
    y = (x[:, 0] > x[:, 1]).astype(int)
    return x[:200], y[:200], x[200:], y[200:]
"""


def test_a_module_edited_in_the_middle_of_a_study_counts_from_the_restart_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, without_figures: None
) -> None:
    """The first command's runs are those of the code that it imported; the next trains all anew."""
    monkeypatch.syspath_prepend(here)
    (here / "edited_net.py").write_text(f"WIDTH = 4{NET}")
    (here / "edited_data.py").write_text(DATA)
    config = {
        "data": {"_target_": "edited_data.data"},
        "model": {"_target_": "edited_net.net"},
        "plan": ["lr_range", "final"],
        "recipe": {"batch_size": 20},
        "stages": {"final": {"epochs": 3, "seeds": 2, "baselines": False}},
        "tracking": {"name": "none"},
        "threads": 1,
    }
    ended = Watch.run_ended

    def edit(self: Watch, stage: str, outcome: Any) -> None:
        (here / "edited_net.py").write_text(f"WIDTH = 32{NET}")
        ended(self, stage, outcome)

    def keys(record: Any) -> set[str]:
        return {o.key for s in record.stages for o in s.outcomes}

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "run_ended", edit)
        first = run_study(config)
    again = run_study(config)  # in the same process: the old code, its own answer, and a word
    assert keys(again) == keys(first)
    assert any("edited_net.py changed after this process" in note for note in again.notes)
    forget(here)
    fresh = run_study(config)
    assert fresh.status == "complete"
    assert not keys(fresh) & keys(first)
    forget(here)
