"""The pages for people: what they say is what the program does."""

import dataclasses
import difflib
import importlib.util
import inspect
import json
import os
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import LANGUAGES, PAGES, ROOT, Block, blocks, links

import orchestrator
from orchestrator import __main__ as cli
from orchestrator.config import choices, schema
from orchestrator.config.compose import compose, parse
from orchestrator.config.options import options_of
from orchestrator.stages import STAGES


def _named(path: Path) -> str:
    return path.name


# --- the references of the config and of the API


def _generator(name: str = "generate"):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_the_config_is_what_the_schema_says() -> None:
    """docs/config.md is as `make docs` writes it."""
    assert (ROOT / "docs/config.md").read_text("utf-8") == _generator().page()


API = _generator("api_page")
DOCUMENTED = [thing for group in API.GROUPS.values() for thing in group]


def test_the_reference_of_the_api_is_what_the_docstrings_say() -> None:
    """docs/api.md is as `make docs` writes it, and has every public name."""
    assert (ROOT / "docs/api.md").read_text("utf-8") == API.page()
    assert {name for name in dir(orchestrator) if name in orchestrator._HOMES} <= {
        thing.__name__ for thing in DOCUMENTED
    }


@pytest.mark.parametrize("thing", DOCUMENTED, ids=lambda thing: thing.__name__)
def test_a_public_docstring_names_every_parameter_and_result(thing: Any) -> None:
    """Args has the parameters of the signature in their order, Attributes the fields of a value.

    What a function returns is in Returns, or in a first sentence that begins with "Return".
    """
    parts = API.sections(thing)
    functions = [thing] if inspect.isfunction(thing) or "Args" in parts else []
    if inspect.isclass(thing):
        functions += [made for _, made in API.members(thing) if inspect.isfunction(made)]
    for function in functions:
        signature, own = inspect.signature(function), API.sections(function)
        names = [name for name in signature.parameters if name not in ("self", "cls")]
        assert list(API.items(own.get("Args", ""))) == names, function
        if inspect.isfunction(function) and signature.return_annotation != "None":
            assert "Returns" in own or own[""].startswith("Return "), function
    if "Args" not in parts and "Attributes" in parts and dataclasses.is_dataclass(thing):
        fields = [field.name for field in dataclasses.fields(thing)]
        assert list(API.items(parts["Attributes"])) == fields


@pytest.mark.parametrize("key", ["", *choices.SECTIONS, *STAGES])
def test_every_setting_has_a_meaning(key: str) -> None:
    """A line of text for each key, where it is declared."""
    if key in STAGES:
        models = [options_of(STAGES[key], "kind")]
    elif variants := choices.variants(key):
        models = [made() for made in variants.values()]
    else:
        models = [choices.SECTIONS.get(key, schema.Config)]
    for model in models:
        missing = [name for name, (_, meaning) in _generator().fields(model) if not meaning]
        assert not missing, model


# --- the table of files in docs/design.md


def _table() -> dict[str, str]:
    """Return the rows of "Which file for what": the text by file or folder."""
    section = (ROOT / "docs/design.md").read_text("utf-8").split("## Which file for what")[1]
    return dict(re.findall(r"^\| `(\S+)` \| (.+) \|$", section.split("\n## ")[0], re.M))


PACKAGE = ROOT / "orchestrator"
FOLDERS = sorted({file.parent for file in PACKAGE.rglob("*.py")} - {PACKAGE})


def test_the_table_of_files_has_every_file_and_folder() -> None:
    """Its rows are the modules at the top level and the folders with modules, no others."""
    folders = {f"{folder.relative_to(PACKAGE).as_posix()}/" for folder in FOLDERS}
    assert set(_table()) == folders | {file.name for file in PACKAGE.glob("*.py")}


@pytest.mark.parametrize("folder", FOLDERS, ids=_named)
def test_the_table_of_files_names_every_file_of_a_folder(folder: Path) -> None:
    """Each module once, and no module that is not there; an `__init__.py` may be left out."""
    row = _table()[f"{folder.relative_to(PACKAGE).as_posix()}/"]
    named = re.findall(r"`(\w+\.py)`", row)
    files = {file.name for file in folder.glob("*.py")}
    assert sorted(set(named)) == sorted(named)
    assert files - {"__init__.py"} <= set(named) <= files


# --- what the pages tell to do


def _run(command: str, where: Path, ends_well: bool = True) -> str:
    """Run a line of shell as the reader does, with our Python; return what it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ours = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environ = os.environ | {"PATH": path, "PYTHONPATH": ours, "COLUMNS": "200"}
    done = subprocess.run(
        command,
        shell=True,
        cwd=where,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0 or not ends_well, f"{command}: {done.stdout}"
    return done.stdout


def _follow(page: Path, where: Path, slow: bool) -> None:
    """Do what a page says, from its top to its end, in an empty folder."""
    script = ""
    for block in blocks(page):
        if block.mark.startswith("not run") or (block.slow and not slow):
            continue
        if block.file:
            (where / block.file).parent.mkdir(parents=True, exist_ok=True)
            (where / block.file).write_text(block.text)
        elif block.language == "python":
            script += block.text
        for command, output in block.commands:
            printed = _run(command, where, ends_well=not output)
            missing = [line for line in output if line.strip() not in printed]
            assert not missing, f"{block}: {printed}"
    if script:
        (where / "of_the_page.py").write_text(script)
        _run("python of_the_page.py", where)


def _to_run(page: Path, slow: bool) -> bool:
    return any(block.slow if slow else not block.mark for block in blocks(page))


@pytest.mark.parametrize("page", [p for p in PAGES if _to_run(p, slow=False)], ids=_named)
def test_what_a_page_says_works(page: Path, here: Path) -> None:
    """Its commands end well and print what is shown; its files are written, its code runs."""
    _follow(page, here, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if _to_run(p, slow=True)], ids=_named)
def test_all_that_a_page_says_works(page: Path, here: Path) -> None:
    """The same with whole studies."""
    _follow(page, here, slow=True)


@pytest.mark.parametrize("page", [p for p in PAGES if _to_run(p, slow=True)], ids=_named)
def test_what_takes_long_is_at_least_a_right_request(
    page: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Studies of blocks that are slow or not run: composed and checked with the page's files."""
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("STUDY_DATABASE", "postgresql+psycopg://me@host/trials")
    for block in blocks(page):
        if block.file:
            (here / block.file).parent.mkdir(parents=True, exist_ok=True)
            (here / block.file).write_text(block.text)
        if block.mark == "slow" or block.mark.startswith("not run"):
            for words in filter(None, (_study(command) for command, _ in block.commands)):
                assert schema.Config.from_mapping(compose(parse(words))), block


def _pets(where: Path) -> None:
    """Write what docs/own.md says of images in folders: two classes that differ in brightness."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, examples in (("train", 40), ("test", 10)):
        for kind, brightness in (("cats", 60), ("dogs", 180)):
            folder = where / "pets" / part / kind
            folder.mkdir(parents=True)
            for i in range(examples):
                pixels = rng.integers(brightness - 40, brightness + 40, (20 + i % 3, 24, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


def _fashion(where: Path) -> None:
    """Write FashionMNIST as torchvision's download leaves it, but small."""
    folder = where / "data" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, examples in (("train", 120), ("t10k", 30)):
        labels = np.arange(examples) % 10
        images = rng.integers(0, 20, (examples, 28, 28)) + 20 * labels[:, None, None]
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape)
            data = head + array.astype(np.uint8).tobytes()
            (folder / f"{part}-{name}-ubyte").write_bytes(data)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("source", "files", "channels", "examples"),
    [("folder", _pets, 3, 20), ("torchvision", _fashion, 1, 30)],
)
@pytest.mark.usefixtures("here", "without_figures")
def test_a_documented_source_of_images_is_trained_on(
    source: str, files: Callable[[Path], None], channels: int, examples: int, here: Path
) -> None:
    """The commands that own.md shows, with a small network, on small files: to a test result."""
    commands = (c for b in blocks(ROOT / "docs/own.md") for c, _ in b.commands)
    (documented,) = (words for c in commands if f"data={source}" in (words := _study(c) or []))
    files(here)
    small = "study_name=own plan=[final] recipe.max_lr=0.02 recipe.batch_size=10 threads=1"
    small += " stages.final.epochs=1 stages.final.seeds=1 tracking=none quiet=true model=conv3"
    words = [word for word in documented if not word.startswith("model=")]
    assert cli.run([*words, *small.split()]) == 0
    summary = json.loads((here / "runs/own/summary.json").read_text())
    assert f"{examples} of {examples} test images" in summary["notes"][0]
    assert (summary["inputs"]["dims"], len(summary["inputs"]["mean"])) == (3, channels)
    assert summary["final"]["test_metric"]["n"] == 1


def _study(command: str) -> list[str] | None:
    """Return the overrides of a command that runs a study, None for another."""
    words = shlex.split(command, comments=True)
    if words[:3] != ["python", "-m", "orchestrator"] or not any("=" in w for w in words):
        return None
    return words[3:]


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_every_block_says_what_it_is(page: Path) -> None:
    """A language that the tests know, a known mark; and no command hides outside of blocks."""
    for block in blocks(page):
        assert block.language in LANGUAGES, block
        assert re.fullmatch(r"|slow|slow: uses .+|not run: \w.+", block.mark), block
    assert not re.search(r"^    (python|make|pip|\$) ", page.read_text("utf-8"), re.M)


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    """Relative to the page; headings of pages too."""
    for link in links(page):
        path, _, heading = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if heading:
            assert heading in _headings(target), link


def _headings(page: Path) -> set[str]:
    lines = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", ["plain-loop", "lightning", "transformers"])
def test_a_diff_is_that_of_the_example(page: str) -> None:
    """What changes in a script: the page shows the files of examples/, before and after."""
    (shown,) = (b.text for b in blocks(ROOT / f"docs/{page}.md") if b.language == "diff")
    folder = ROOT / "examples" / page.replace("-", "_")
    before, after = ((folder / f"{n}.py").read_text().splitlines(True) for n in ("before", "after"))
    assert shown == "".join([*difflib.unified_diff(before, after, n=1)][2:])


def test_every_target_of_make_that_a_page_names_exists() -> None:
    """`make run` and the like, in blocks that are not run since they install things."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    named = [
        word
        for page in PAGES
        for block in blocks(page)
        for word in re.findall(r"^make ([\w-]+)", block.text, re.M)
    ]
    assert named
    assert set(named) <= set(targets)


def test_a_block_is_read_with_its_mark_and_its_output(tmp_path: Path) -> None:
    """The reader of pages itself: marks, file names, lines that go on, shown output."""
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n<!-- slow -->\n```sh\na \\\n  b\nc # why\n```\n\n"
        "```console\n$ d\nout\n```\n\n```yaml\n# conf/x.yaml\nk: 1\n```\n"
    )
    first, second, third = blocks(page)
    assert first == Block(page, 4, "sh", "a \\\n  b\nc # why\n", "slow")
    assert [command for command, _ in first.commands] == ["a    b", "c # why"]
    assert second.commands == [("d", ["out"])]
    assert third.file == "conf/x.yaml"
