"""What data, configs and names cannot do: run code, leave the run folder, speak in the report."""

import base64
import hashlib
import io
import json
import logging
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import nodes
from records import study as a_record

from orchestrator import __main__ as cli
from orchestrator.clues import Clue
from orchestrator.config import user_code
from orchestrator.config.problems import shown
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.redact import Formatter, hidden, hidden_in
from orchestrator.report import html
from orchestrator.report.page import templates
from orchestrator.report.terminal import Terminal
from orchestrator.storage.backend import journal
from orchestrator.study import parts
from orchestrator.study.walk import run_study
from orchestrator.tracking.client import Client
from orchestrator.tracking.outbox import Unavailable

SOURCES = sorted(Path(user_code.__file__).parents[1].rglob("*.py"))

# --- no code from data or config


# Messages between a study's own processes, through pipes that only they hold.
BETWEEN_PROCESSES = {"cluster.py", "pool.py", "worker.py"}


def test_nothing_unpickles_evaluates_or_calls_a_shell() -> None:
    """Our own sources hold no pickle load, eval, exec or shell but for what processes exchange."""
    words = (
        r"\bpickle\.loads?\(|\bUnpickler\(|(?<![.\w])eval\(|\bexec\(|\bos\.system\(|\bos\.popen\("
        r"|shell=True|allow_pickle=True|weights_only=False|yaml\.(load|unsafe_load|full_load)\("
        r"|\bmarshal\.load|\bjoblib\.load\(|\binstantiate\("
    )
    found = [
        f"{file.name}:{number}: {line.strip()}"
        for file in SOURCES
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if re.search(words, line.partition("#")[0])
        and not ("pickle" in line and file.name in BETWEEN_PROCESSES)
    ]
    assert found == []


def test_every_load_of_torch_and_numpy_says_that_it_wants_no_pickle() -> None:
    """In the call itself: the defaults of other versions differ."""
    lines = [
        line for file in SOURCES for line in file.read_text("utf-8").splitlines()
        if re.search(r"\b(torch|np)\.load\(", line)
    ]  # fmt: skip
    assert len(lines) >= 3
    safe = ("weights_only=True", "allow_pickle=False")
    assert [line for line in lines if not any(word in line for word in safe)] == []


def test_an_array_file_with_a_pickle_in_it_runs_nothing(here: Path) -> None:
    """An object array is refused before it is unpickled."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path("ran").touch, ())

    bomb = np.array([Bomb()], dtype=object)
    np.savez("bomb.npz", x_train=bomb, y_train=bomb, x_test=bomb, y_test=bomb)
    mapping = {"data": {"name": "arrays", "path": "bomb.npz"}, "study_name": "s"}
    with pytest.raises(ConfigError, match=r"not a readable \.npz file"):
        run_study(Config.from_mapping(mapping))
    assert [p.name for p in here.iterdir()] == ["bomb.npz"]


@pytest.mark.parametrize(
    "node",
    [
        "callbacks: {x: {_target_: os.mkdir, path: ran}}",
        "launcher: {_target_: os.mkdir, path: ran}",
        "sweeper: {_target_: os.mkdir, path: ran}",
        "job_logging: {version: 1, handlers: {x: {(): os.mkdir, path: ran}}}",
        "hydra_logging: {version: 1, handlers: {x: {(): os.mkdir, path: ran}}}",
        "run: {dir: ran}",
        "output_subdir: ran",
        "mode: MULTIRUN",
    ],
)
def test_what_a_config_file_tells_hydra_to_call_is_not_called(
    node: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pasted study with callbacks, launchers or loggers of Hydra's composes, and that is all."""
    (here / "conf/study").mkdir(parents=True)
    text = f"# @package _global_\nhydra:\n  {node}\nseed: -1\n"
    (here / "conf/study/pasted.yaml").write_text(text)
    assert cli.run(["+study=[quadratic,pasted]"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [p.name for p in here.iterdir()] == ["conf"]


DANGEROUS = """\
os.system os.popen os.execv os.remove os.environ.clear posix.system subprocess.run subprocess.Popen
builtins.eval builtins.exec builtins.open builtins.compile builtins.__import__ shutil.rmtree
pickle.loads pickle.Unpickler marshal.loads importlib.import_module importlib.reload runpy.run_path
ctypes.CDLL socket.socket sys.exit code.interact pty.spawn tempfile.mktemp pathlib.Path.unlink
multiprocessing.Process threading.Thread logging.config.dictConfig functools.reduce operator.call
types.FunctionType urllib.request.urlretrieve http.server.test webbrowser.open timeit.timeit
torch.load torch.hub.load torch.jit.load torch.serialization.load torch.utils.cpp_extension.load
torch.utils.collect_env.run torch.utils.benchmark.Timer torch.package.PackageImporter
numpy.load numpy.memmap numpy.save numpy.testing.runstring numpy.lib.npyio.load
pandas.read_pickle pandas.eval joblib.load cloudpickle.loads yaml.unsafe_load
hydra.utils.instantiate hydra.utils.call omegaconf.OmegaConf.load mlflow.pyfunc.load_model
sqlalchemy.create_engine pip.main IPython.start_ipython
""".split()  # noqa: SIM905  # sixty lines otherwise


@pytest.mark.parametrize("target", DANGEROUS)
def test_a_dangerous_target_is_refused(target: str) -> None:
    """By name, without importing or calling anything."""
    with pytest.raises(ConfigError, match="is not allowed"):
        user_code.resolve(target)


HELPER = """
import os, functools, operator, pickle, subprocess
from os import system as harmless
from builtins import eval as model
run = functools.partial(harmless, "true")
cached = functools.lru_cache(harmless)
caller = operator.methodcaller("unlink")
popen = subprocess.Popen
class Net:
    go = staticmethod(os.system)
    loads = pickle.loads
def net(): return None
environ = os.environ
"""


ALIASES = """\
harmless model run cached caller popen os.system os.path.os.remove Net.go Net.loads
net.__globals__.__getitem__ net.__class__ Net.__subclasses__ Net.__init__.__globals__.get
environ.clear environ.__setitem__ functools.partial pickle.loads
""".split()  # noqa: SIM905  # as above


@pytest.mark.parametrize("name", ALIASES)
def test_a_dangerous_callable_is_refused_under_another_name(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aliases, partials, attributes and dunder paths lead to the same refusal."""
    (here / "helper_of_tests.py").write_text(HELPER)
    monkeypatch.syspath_prepend(here)
    with pytest.raises(ConfigError, match="is not allowed"):
        user_code.resolve(f"helper_of_tests.{name}")


# --- no path outside the run folder


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "..", "/etc/x", "a\\b", "ü", "", ".x", "a b", "<b>"]
)
def test_no_name_of_a_study_or_stage_leaves_the_run_folder(name: str, here: Path) -> None:
    """Both become names of files: only plain names pass."""
    with pytest.raises(ConfigError, match="study_name: "):
        Config.from_mapping({"study_name": name})
    with pytest.raises(ConfigError, match="is not allowed as a name"):
        Config.from_mapping({"stages": {name: {"kind": "momentum"}}})


def test_a_study_writes_only_below_its_runs_folder(here: Path) -> None:
    """With tracking=none a whole study leaves `runs` and nothing else."""
    mapping = {"study_name": "s", "objective": {"name": "quadratic"}, "tracking": {"name": "none"}}
    run_study(
        Config.from_mapping({**mapping, "plan": ["lr_range"]}), Terminal(stream=io.StringIO())
    )
    assert [p.name for p in here.iterdir()] == ["runs"]
    assert {p.name for p in (here / "runs").iterdir()} <= {"s", ".cache"}


# --- the report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\u202etxt.exe\x00\x1b[31m"


def saying(text: str) -> Any:
    """Return a record in which every free text is `text`."""
    record = a_record()
    stages = []
    for stage in record.stages:
        outcomes = tuple(
            replace(o, run=replace(o.run, label=text + o.run.label), reason=text)
            for o in stage.outcomes
        )
        rows = [{text: text, "n": 1}]
        decision = replace(stage.decision, reason=text)
        decision = replace(decision, evidence={**decision.evidence, "rows": rows})
        clues = dict.fromkeys((o.key for o in outcomes), Clue("unstable", 1, 9, text))
        stages.append(replace(stage, decision=decision, outcomes=outcomes, clues=clues))
    return replace(
        record, stages=stages, reason=text, notes=(text,), device=text, machine=text,
        versions={text: text}, metric=text, study=text, overrides=(text,),
    )  # fmt: skip


class Tags(HTMLParser):
    """What a browser sees: names of tags, and of their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]


def test_hostile_texts_are_shown_and_never_run() -> None:
    """Labels, reasons, notes, clues, columns, names: no tag, no open quote, no hidden mark."""
    record = saying(HOSTILE)
    page = html.render(record, html.drawings(record))
    assert "&lt;script&gt;alert(1)" in page
    ours = page[: page.index("<script>/**")]  # before plotly.js
    for mark in ("<script>", "\u202e", "\x00", "\x1b"):
        assert mark not in ours
    seen = Tags()
    seen.feed(page)
    figures = len(record.stages)
    assert seen.names.count("script") == figures + 2  # data, plotly.js, our own
    assert seen.names.count("img") == figures
    assert not [name for name in seen.attributes if name.startswith("on")]


def test_hostile_texts_in_the_data_of_figures_stay_text() -> None:
    """Plotly.js knows some markup and fills in templates: neither comes through from a name."""
    label = HOSTILE + "%{y}</script><b>\u2028"
    stages = [
        replace(s, outcomes=tuple(replace(o, run=replace(o.run, label=label)) for o in s.outcomes))
        for s in a_record().stages
    ]
    record = replace(a_record(), stages=stages, metric=label)
    drawn = html.drawings(record)
    assert len(drawn) == len(stages)
    page = html.render(record, drawn)
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert len(blocks) == len(drawn)
    for block in blocks:
        assert not re.search("[<>&\u2028\u2029]", block)
        shown = json.dumps(json.loads(block), ensure_ascii=False)
        assert "\u202e" not in shown
        assert "<img" not in shown
        assert "%{y}<" not in shown
        assert set(re.findall(r"<[^>]*>", shown)) <= {"<b>", "</b>", "<br>", "<extra>", "</extra>"}
    assert "&lt;script&gt;" in shown


def test_the_page_runs_no_script_but_its_own() -> None:
    """Its policy names two scripts by hash, and the data are no script."""
    page = html.render(a_record(), html.drawings(a_record()))
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]*)"', page)
    assert policy
    assert "default-src 'none'" in policy[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert re.findall(r"'sha256-([^']*)'", policy[1]) == hashes
    assert "unsafe-inline" not in policy[1].split("script-src")[1]


# --- passwords


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host/db",
        "postgresql://me:se/c@r:secret@host:5432/db",
        "postgresql:///db?user=me&password=secret",
        "https://secret@mlflow.example",
        "could not open postgresql://me:secret@host/db: refused",
        "mysql+pymysql://a:secret@h/d?ssl_key=secret",
    ],
)
def test_addresses_are_shown_without_their_passwords(url: str) -> None:
    """In texts, in nested values and in error lines."""
    assert "secret" not in hidden(url)
    assert "secret" not in repr(hidden_in({"a": [url, {"b": url}]}))
    assert "secret" not in shown(url)
    record = logging.LogRecord("x", 30, "f", 1, "at %s", (url,), None)
    assert "secret" not in Formatter().format(record)


def test_texts_without_a_password_stay_as_they_are() -> None:
    """A mail address, a plain URL, a seed key."""
    for text in ("a@b.c", "sqlite:///x.db", "https://host/x?y=1", "key=3"):
        assert hidden(text) == text


def test_passwords_are_nowhere_in_the_report() -> None:
    """Whatever text of a record holds an address: not in a sentence, a table, code or a figure."""
    record = saying("postgresql://me:hunter2@host/db ")
    drawn = html.drawings(record)
    assert len(drawn) == len(record.stages)
    page = html.render(record, drawn)
    assert page.count("postgresql://***@host/db") > 100
    assert "hunter2" not in page


def test_no_template_of_the_report_makes_markup_of_a_text() -> None:
    """Such a text would keep its passwords; only figures are JSON, whose texts are cleaned."""
    found = templates()
    assert found.loader
    for name in found.list_templates():
        tree = found.parse(found.loader.get_source(found, name)[0])
        filters = list(tree.find_all(nodes.Filter))
        assert {f.name for f in filters} <= {
            "base64", "sha256", "plots", "tojson", "length", "round",
        }  # fmt: skip
        assert {f.node.name for f in filters if f.name == "tojson"} <= {"plots"}
        assert not list(tree.find_all((nodes.Concat, nodes.EvalContextModifier)))


def test_passwords_are_nowhere_in_what_a_study_leaves(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database and a tracking server with credentials: no file and no line shows them."""
    monkeypatch.setattr(parts, "open_storage", lambda *_: journal(here / "elsewhere.journal"))
    mapping = {
        "study_name": "s",
        "objective": {"name": "quadratic"},
        "plan": ["lr_range"],
        "storage": {"name": "url", "url": "postgresql://me:hunter2@host/db"},
        "tracking": {"uri": "http://me:hunter2@127.0.0.1:1"},
    }
    stream = io.StringIO()
    record = run_study(Config.from_mapping(mapping), Terminal(stream=stream))
    assert record.status == "complete"
    assert "hunter2" not in stream.getvalue() + json.dumps(record.summary())
    written = [p for p in here.rglob("*") if p.is_file()]
    assert {"config.yaml", "study.log", "summary.json", "report.html"} <= {p.name for p in written}
    assert [p for p in written if b"hunter2" in p.read_bytes()] == []


def test_a_wrong_address_is_told_without_its_password(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where Hydra or the schema repeat the value."""
    url = "postgresql://me:hunter2@host/db"
    for arguments in (
        [f'storage.url="{url}"'],
        ["storage=url", f"+nope={url}"],
        [f"seed={url}"],
        [f"seed=[{url}"],
        [f"study_name={url}"],
        ["storage=url", f"storage.url={url}", "seed=1,2"],
    ):
        assert cli.run(["+study=quadratic", *arguments]) == 2
        assert "hunter2" not in capsys.readouterr().err


@pytest.mark.parametrize(("users", "found"), [(None, "true"), ("false", "false")])
def test_mlflow_reports_nothing_to_its_makers_unless_the_user_says_so(
    here: Path, monkeypatch: pytest.MonkeyPatch, users: str | None, found: str
) -> None:
    """The switch is set when MLflow is imported: by the user's own module, or by us."""
    name = "MLFLOW_DISABLE_TELEMETRY"
    if users is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, users)
    (here / "conf/model").mkdir(parents=True)
    (here / "conf/model/mine.yaml").write_text("_target_: imports_it.net\n")
    (here / "imports_it.py").write_text(f"import os\nseen = os.environ['{name}']\nnet = dict\n")
    cli.run(["+study=quadratic", "model=mine", "quiet=true", "plan=[lr_range]"])
    assert sys.modules["imports_it"].seen == found

    class Stub:
        def __getattr__(self, asked: str) -> object:
            raise RuntimeError(os.environ[name])

    monkeypatch.setitem(sys.modules, "mlflow", Stub())
    if users is None:
        monkeypatch.delenv(name)
    with pytest.raises(Unavailable, match=found):
        Client.open("s", "sqlite:///x.db", here)
