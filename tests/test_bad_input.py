"""Wrong requests by the hundred: each is told in one clear line, before anything is trained.

`KINDS` makes them, by kind of mistake. A case is the arguments of one command; each argument list
holds one mistake, so one line is expected.
"""

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator import __main__ as cli
from orchestrator.study import walk

Case = list[str]
LIMIT_SECONDS = 120.0  # of one command: a second on a good day
QUADRATIC = "+study=quadratic"  # nothing to load: what is wrong is wrong in the config


@pytest.fixture(autouse=True)
def _accepted(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained."""
    ran = SimpleNamespace(status="complete")
    monkeypatch.setattr(walk._Study, "run", lambda *_: ran)  # whoever comes here was accepted


# --- mistakes in the config


def unknown_keys() -> list[Case]:
    """Misspelt or invented keys of the top level."""
    words = "sed Seed studyname study-name plans stage recipes datas modell optimiser lr epochs"
    words += " batch_size momentum gpu device_ max_seconds log_level __class__ _target_ precission"
    return [[f"{word}=1"] for word in words.split()]


def unknown_nested_keys() -> list[Case]:
    """Keys that their section does not have."""
    keys = (
        "recipe.maxlr recipe.lr recipe.momentum recipe.max_lr.value data.pth data.batch model.depth"
        " model.dropuot optimizer.lr optimizer.beta schedule.legs schedule.name.x pruner.patience"
        " executor.workers_ storage.file tracking.url objective.nois stages.momentum.candidate"
        " stages.momentum.seed stages.final.epoch stages.lr_range.steps_ stages.weight_decay.modus"
    )
    return [[f"{key}=1"] for key in keys.split()]


def wrong_types() -> list[Case]:
    """A value of another type than its key wants."""
    numbers = ("abc", "true", "[1]", "{a:1}", "''", "null", "'1'", "1.5", "one")
    values = [[f"seed={value}"] for value in numbers]
    rates = ("abc", "true", "[0.1]", "{a:0.1}", "'0.1'", "1e-", "''", "0,1x")
    values += [[f"recipe.max_lr={value}"] for value in rates]
    values += [[f"fresh={value}"] for value in ("3", "maybe", "[]", "null", "1.5")]
    values += [[f"recipe.batch_size={value}"] for value in ("64.5", "'64'", "null", "[64]")]
    return values


def sections_of_another_type() -> list[Case]:
    """A list or a number where a mapping stands, and the other way round."""
    sections = ("recipe", "stages")
    cases = [[f"{s}={value}"] for s in sections for value in ("3", "x", "[1]", "true", "1.5")]
    cases += [[f"{s}={value}"] for s in ("model", "data") for value in ("3", "[1]", "1.5")]
    cases += [[f"stages.momentum={value}"] for value in ("3", "abc", "[0.9]", "true")]
    cases += [[f"plan={value}"] for value in ("3", "lr_range", "{a:1}", "true")]
    return cases


def out_of_range() -> list[Case]:
    """Numbers beyond their limits."""
    values = {
        "seed": ("-1", "-100"),
        "recipe.max_lr": ("0", "-1", "-1e-9"),
        "recipe.min_lr": ("0", "-0.1"),
        "recipe.max_momentum": ("1", "1.5", "-0.1"),
        "recipe.weight_decay": ("-1", "100", "1e3"),
        "recipe.batch_size": ("0", "-64", "2001"),
        "recipe.dropout": ("-0.1", "1"),
        "threads": ("0", "-1"),
        "stages.momentum.seeds": ("0", "-1"),
        "stages.momentum.margin": ("1", "-0.5"),
        "stages.momentum.candidates": ("[]", "[1]", "[0.9,1.2]", "[-0.1]", "[0.9,0.9]"),
        "stages.momentum.horizons": ("[]", "[0]", "[-1]"),
        "stages.final.epochs": ("0", "-3"),
        "stages.final.seeds": ("0",),
        "pruner.audit": ("-0.1", "1.1"),
        "pruner.above_chance": ("1", "0"),
        "data.image_size": ("3", "0"),
        "data.scale": ("0", "-1"),
        "data.train_examples": ("0", "-5"),
    }
    return [[f"{key}={value}"] for key, row in values.items() for value in row]


def no_finite_numbers() -> list[Case]:
    """Infinite, not a number, or too large for any machine."""
    keys = ("recipe.max_lr", "recipe.weight_decay", "stages.final.epochs", "objective.noise")
    cases = [[f"{key}={value}"] for key in keys for value in ("nan", "inf", "-inf", "1e400")]
    huge = ("recipe.batch_size=1e30", "threads=1e30", "seed=1e300", "seed=" + "9" * 5000)
    return [*cases, *([case] for case in huge)]


def combinations() -> list[Case]:
    """Values that are fine alone."""
    return [
        ["recipe.min_lr=0.2", "recipe.max_lr=0.1"],
        ["recipe.min_lr=1", "recipe.max_lr=0.999"],
        ["recipe.min_momentum=0.95", "recipe.max_momentum=0.9"],
        ["recipe.min_momentum=0.5", "recipe.max_momentum=0.4"],
        ["recipe.max_momentum=0.8"],
        ["plan=[momentum,final]"],
        ["plan=[final]"],
        ["plan=[weight_decay]"],
        ["plan=[batch_size,lr_range]", "stages.final.epochs=2"],
        ["plan=[lr_range,final,momentum]"],
        ["plan=[final,lr_range]"],
        ["storage=url"],
        ["storage.url=sqlite:///x.db"],
        ["storage=memory", "storage.url=sqlite:///x.db"],
        ["objective=training", "data.train_examples=1438", "data.held_out_examples=1438"],
        ["objective=training", "data.train_examples=2000"],
        ["objective=training", "recipe.batch_size=4096"],
        ["objective=quadratic", "objective.train_examples=32"],
        ["stages.batch_size.candidates=[64,4096]"],
        ["stages.weight_decay.candidates=[0.1,0.1]"],
    ]


def grammar() -> list[Case]:
    """What Hydra's grammar of overrides cannot read."""
    words = (
        "= =3 + ~ ++ +++seed=1 seed seed==1 seed=1=2 seed=[1 seed=[1}} seed={ seed={a:1 seed=1]"
        " seed=\"x seed='x recipe.=1 .seed=1 recipe..max_lr=1 seed:1 seed=a:b seed=foo(1)"
        " seed=int(x) seed=range(1,3) seed=choice(1,2) seed=glob(*) seed=1,2 séed=1 seed=ü seed=% "
    )
    cases = [[word] for word in words.split()]
    return [*cases, ["a b"], ["\0=1"], ["recipe.max_lr=" + "[" * 200], ["a" * 3000 + "=1"]]


def removals_and_additions() -> list[Case]:
    """Hydra's + and ~ where there is nothing to add to or to take away."""
    words = (
        "~nope ~recipe.nope ~seed=5 ~plan.0 ~stages.momentum +sed=1 +recipe.lrr=1 +nogroup=x"
        " +model=nope +study= study=cifar ~data.name=cifar10 +stages.x.y=1"
    )
    return [[word] for word in words.split()]


def groups() -> list[Case]:
    """Choices that a group does not have."""
    names = "study= model data schedule pruner executor storage tracking objective optimizer"
    cases = [[f"{name.rstrip('=')}=nope"] for name in names.split()[1:]]
    cases += [["+study=digitz"], ["+study=../study/digits/x"], ["+study=[digits,nope]"]]
    cases += [["model=../../etc/passwd"], ["data=cifar100"], ["model=MLP"]]
    return [*cases, ["data=digits.yaml/x"], ["schedule=1cycle"], ["pruner=medain"]]


def study_names() -> list[Case]:
    """Names that are no names of a folder below runs/."""
    names = (
        "", ".", "..", "...", "../x", "../../etc", "/etc/x", "a/b", "a\\\\b", ".hidden", "a b", "~",
        "ü", "名", "a\u202eb", "a\u0000b", "a\tb", "a:b", "a*b", "a?b", "a|b", "$HOME", "`id`",
        "$(id)", "a;b", "a'b", "<b>", "a" * 81, "a" * 5000, "%2e%2e", "a\\nb",
    )  # fmt: skip
    cases = [[f'study_name="{name}"'] for name in names if '"' not in name]
    return cases + [[f"study_name={value}"] for value in ("null", "[1]", "{a:1}", "1.5")]


def plans() -> list[Case]:
    """Plans of what is no stage."""
    values = (
        "[] [nope] [lr_range,lr_rang] [lr_range,lr_range] [[lr_range]] [{lr_range:1}] [null] [1]"
        " [true] [lr_range,1.5] [''] [lr_range,momentum_range_test]"
        " [lr_range,momentun,final]"
    )
    return [[f"plan={value}"] for value in values.split()]


def stages() -> list[Case]:
    """Entries of stages that cannot be built."""
    cases = [[f"stages.mine.{key}"] for key in ("kind=nope", "kind=3", "kind=null", "seeds=2")]
    cases += [["stages.momentum.kind=lr_rnge"], ["stages.momentum.tie=loser"]]
    cases += [["stages.momentum.mode=range_test"], ["stages.weight_decay.mode=nope"]]
    cases += [["recipe.max_weight_decay=0.1"], ["schedule.weight_decay=cycled"]]
    cases += [[f"+stages={{{name}:{{kind:momentum}}}}"] for name in (1, 1.5, "null", "true")]
    long = "a" * 100
    names = ("a/b", "..", "../../evil", "a b", "ü", ".hidden", "<b>", long, "a:b")
    return [*cases, *([f"stages=${{decode:{name}}}"] for name in ("x",)), *_named_stages(names)]


def _named_stages(names: tuple[str, ...]) -> list[Case]:
    """Commands with a study in ./conf whose stages have these names: the grammar allows none."""
    cases = []
    for number, name in enumerate(names):
        text = f"# @package _global_\nstages: {{'{name}': {{kind: momentum}}}}\n"
        _write(Path(f"conf/study/named{number}.yaml"), text)
        cases.append([f"+study=[quadratic,named{number}]"])
    return cases


def targets() -> list[Case]:
    """The user's own callables that are none, or that are not allowed."""
    names = (
        "3 null '' nodots .a a. a..b no_such_module.net numpy.nope numpy.pi numpy os.system"
        " builtins.eval builtins.exec subprocess.run shutil.rmtree pickle.loads torch.load"
        " importlib.import_module numpy.os.system numpy.load"
    )
    cases = [["objective=training", f"model={{_target_:{name}}}"] for name in names.split()]
    cases = [[case[0], f"model._target_={case[1][16:-1]}"] for case in cases]
    cases += [[f"objective._target_={name}"] for name in ("nope.x", "os.system", "3")]
    cases += [[f"stages.own._target_={name}"] for name in ("nope.x", "numpy.mean", "3")]
    return cases


def interpolations() -> list[Case]:
    """References to what is not there, and what cannot be resolved."""
    values = (
        "${nope} ${recipe.nope} ${seed} ${oc.env:NO_SUCH_VARIABLE} ${nope:1} ${oc.env:} ${ ${}"
        " ${recipe} ${study_name} ${..nope} ${oc.decode:[} ??? ${data.name} ${plan}"
    )
    return [[f"seed={value}"] for value in values.split()]


def flags() -> list[Case]:
    """Flags that there are not, and settings of Hydra itself."""
    words = (
        "--bogus -z --multirum --config-name=nope --config-dir=/nonexistent --config-path=/nope"
        " --info --info=foo --cfg --cfg=foo --resolve --hydra-help --experimental-rerun=x.pickle"
        " --shell-completion -cn hydra.run.dir=/tmp/x hydra.output_subdir=x hydra.job.chdir=true"
        " hydra.mode=MULTIRUN hydra/launcher=joblib hydra.sweep.dir=x hydra.job.name=x"
        " +hydra.callbacks.x._target_=os.system +hydra.job.env_set.X=1 ~hydra.run"
        " hydra.searchpath=[file:///nonexistent]"
    )
    return [*([word] for word in words.split()), ["--package", "x"], ["--cfg", "job", "-p", "nope"]]


def pruners() -> list[Case]:
    """Pruners that cannot work, ours and Optuna's."""
    also = (
        "3 [] {} {name:nope} {name:3} {name:median,n_startup_trials:x} {name:median,nope:1}"
        " {name:percentile} {name:percentile,percentile:101} {name:threshold} {name:patient}"
        " {name:hyperband,min_resource:0} {name:median,n_warmup_steps:500}"
        " {name:successive_halving,reduction_factor:1}"
    )
    cases = [[f"pruner.also={value}"] for value in also.split()]
    return [*cases, ["pruner.name=3"], ["pruner.name=clues"], ["pruner.stuck_after=2"]]


def addresses() -> list[Case]:
    """Databases and servers that are none, devices that are not there."""
    urls = ("foo", "nope://x", "://", "sqlite", "http://", "postgres//u:p@h/d", "sqlite:///no/x.db")
    cases = [["storage=url", f'storage.url="{url}"'] for url in urls]
    cases += [["storage.name=redis"], ["tracking.name=wandb"], ["tracking.uri=3"]]
    cases += [[f"device={d}"] for d in ("gpu", "cuda:x", "cuda:-1", "''", "CPU", "tpu", "cuda:")]
    return [*cases, ["objective=training", "device=cuda:99"], ["precision=float16"], ["runs=''"]]


# --- mistakes that only the data show


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _arrays(**changes: Any) -> dict[str, Any]:
    """Return small, well-made data with `changes`."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {
        "x_train": rng.random((60, 4)).astype(np.float32),
        "y_train": np.arange(60) % 3,
        "x_test": rng.random((15, 4)).astype(np.float32),
        "y_test": np.arange(15) % 3,
    }
    return {k: v for k, v in {**made, **changes}.items() if v is not None}


ON_DATA = ["objective=training", "data=arrays", "recipe.batch_size=8"]


def _saved(number: int, kind: str, **changes: Any) -> Case:
    path = Path(f"{kind}{number}.npz")
    np.savez(path, **_arrays(**changes))
    return [*ON_DATA, f"data.path={path}", "stages.batch_size.candidates=[8,16]"]


def data_files() -> list[Case]:
    """Data files that are missing, truncated, or something else than their name says."""
    np.savez("whole.npz", **_arrays())
    whole = Path("whole.npz").read_bytes()
    contents = {
        "empty.npz": b"", "torn.npz": whole[: len(whole) // 2], "short.npz": whole[:10],
        "flipped.npz": whole[:200] + bytes(b ^ 255 for b in whole[200:500]) + whole[500:],
        "text.npz": b"x,y\n1,2\n", "pickle.npz": b"\x80\x04N.",
        "zip.npz": b"PK\x05\x06" + bytes(18),
        "zeros.npz": bytes(5000), "page.npz": b"<html>404</html>", "end.npz": whole[:-30],
    }  # fmt: skip
    for name, content in contents.items():
        Path(name).write_bytes(content)
    np.save("array.npy", np.zeros(3))
    np.savez("objects.npz", **_arrays(x_train=np.array([{}, []], dtype=object)))
    Path("folder.npz").mkdir()
    names = (*contents, "array.npy", "objects.npz", "folder.npz", "nope.npz", "no/such/folder.npz")
    cases = [[*ON_DATA, f"data.path={name}"] for name in names]
    return [*cases, ON_DATA, *_cifar_files()]


def _cifar_files() -> list[Case]:
    """Folders that are no CIFAR-10, and torn or mislabelled copies of it."""
    for name in ("nothing", "cut/cifar-10-batches-py", "parquet"):
        Path(name).mkdir(parents=True)
    for i in range(1, 6):
        Path(f"cut/cifar-10-batches-py/data_batch_{i}").write_bytes(b"\x80\x02}q")
    for part in ("train", "test"):
        Path(f"parquet/{part}.parquet").write_bytes(b"PAR1 no more")
    base = ["objective=training", "data=cifar10", "data.download=false"]
    places = ("data.path=nothing", "data.path=cut", "data.path=parquet", "data.path=nope", "")
    return [[*base, *filter(None, [place])] for place in places]


def contents() -> list[Case]:
    """Arrays that no training can use."""
    nan = _arrays()["x_train"].copy()
    nan[7, 2] = np.nan
    inf = np.where(np.isnan(nan), np.inf, nan)
    changes: list[dict[str, Any]] = [
        {"y_train": np.zeros(60, int), "y_test": np.zeros(15, int)},
        {"x_train": np.zeros((1, 4)), "y_train": np.zeros(1, int)},
        {"x_train": np.zeros((0, 4)), "y_train": np.zeros(0, int)},
        {"x_test": np.zeros((0, 4)), "y_test": np.zeros(0, int)},
        {"x_train": nan},
        {"x_train": inf},
        {"x_test": np.full((15, 4), np.nan)},
        {"y_train": -(np.arange(60) % 3)},
        {"y_test": np.full(15, -1)},
        {"y_train": np.linspace(0, 1, 60)},
        {"y_train": np.zeros((60, 3), int)},
        {"y_train": np.zeros(60, complex)},
        {"y_train": np.array(["cat"] * 60)},
        {"y_train": np.arange(59) % 3},
        {"y_train": None},
        {"x_test": None},
        {"x_train": np.zeros(60)},
        {"x_train": np.zeros((60, 2, 2, 2, 2))},
        {"x_train": np.array([["a"] * 4] * 60)},
        {"x_train": np.zeros((60, 4), complex)},
        {"x_test": np.zeros((15, 5))},
        {"x_train": np.zeros((60, 0)), "x_test": np.zeros((15, 0))},
        {"x_train": np.datetime64("2020-01-01") + np.zeros((60, 4), int)},
    ]
    return [_saved(i, "contents", **change) for i, change in enumerate(changes)]


def requests_of_data() -> list[Case]:
    """More, or other examples than the data have."""
    wants = (
        "train_examples=100 train_examples=60 held_out_examples=60 held_out_examples=61"
        " test_examples=16 image_size=8 image_size=4 train_examples=59:held_out_examples=2"
        " train_examples=1e12 test_examples=1e12"
    )
    plain = _saved(0, "wants")
    cases = [[*plain, *(f"data.{part}" for part in want.split(":"))] for want in wants.split()]
    images = np.zeros((60, 1, 9, 9), np.uint8)
    sizes = [_saved(1, "wants", x_train=images, x_test=images[:15]) for _ in range(4)]
    cases += [[*c, f"data.image_size={n}"] for c, n in zip(sizes, (4, 5, 8, 10), strict=True)]
    return [*cases, [*_saved(2, "wants"), "model=resnet9"], [*_saved(3, "wants"), "data.seed=-1"]]


MODELS = """
import torch
from torch import nn

class Parameterless(nn.Module):
    def forward(self, x): return x[:, :3]
class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3).requires_grad_(False)
    def forward(self, x): return self.linear(x)
class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
    def forward(self, x): return x[:, :3]
class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
    def forward(self, x): return self.linear(x).detach()
class NoGrad(Detached):
    def forward(self, x):
        with torch.no_grad(): return self.linear(x)
class Argmax(Detached):
    def forward(self, x): return self.linear(x).argmax(1)
class Whole(Detached):
    def forward(self, x): return self.linear(x).long()
class Tuple(Detached):
    def forward(self, x): return self.linear(x), x
class Nothing(Detached):
    def forward(self, x): self.linear(x)
class Raises(Detached):
    def forward(self, x): raise RuntimeError("two\\nlines")
class RaisesInInit(nn.Module):
    def __init__(self): raise KeyError("width")
class NoForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
class Exits(Detached):
    def forward(self, x): raise SystemExit(0)
class Stops(nn.Module):
    def __init__(self): raise SystemExit("no")
class Needs(nn.Module):
    def __init__(self, depth): super().__init__()
def wide(): return nn.Linear(5, 3)
def one(): return nn.Linear(4, 1)
def flat(): return nn.Sequential(nn.Linear(4, 3), nn.Flatten(0))
def images(): return nn.Conv2d(1, 3, 3)
def none(): return None
def number(): return 3
def given(): return nn.Linear
def nan_weights():
    net = nn.Linear(4, 3); nn.init.constant_(net.weight, float("nan")); return net
"""


def models() -> list[Case]:
    """Networks that cannot be trained on these data."""
    _write(Path("bad_models.py"), MODELS)
    defined = [line.split()[1].split("(")[0].rstrip(":") for line in MODELS.splitlines()
               if line.startswith(("class ", "def "))]  # fmt: skip
    base = [*_saved(0, "model"), "+model._target_=bad_models"]
    cases = [[*base[:-1], f"model={{_target_:bad_models.{name}}}"] for name in defined]
    _write(Path("conf/model/none_of_ours.yaml"), "{}\n")
    own = [[*c[:-1], "model=none_of_ours", f"+model._target_=bad_models.{c[-1].split('.')[1][:-1]}"]
           for c in cases]  # fmt: skip
    return [*own, [*_saved(1, "model"), "model.width=1e-9", "model=resnet56"]]


KINDS: dict[str, Callable[[], list[Case]]] = {
    f.__name__: f
    for f in (
        unknown_keys, unknown_nested_keys, wrong_types, sections_of_another_type, out_of_range,
        no_finite_numbers, combinations, grammar, removals_and_additions, groups, study_names,
        plans, stages, targets, interpolations, flags, pruners, addresses, data_files, contents,
        requests_of_data, models,
    )
}  # fmt: skip


class Hangs(BaseException):
    """The command did not end in time. No Exception, so that it is not told as a mistake."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise Hangs in whatever is still being done after so many seconds."""

    def late(*_: object) -> None:
        raise Hangs(f"no end after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def everything() -> set[Path]:
    return {p for p in Path().rglob("*") if "__pycache__" not in p.parts}


def complaints(case: Case, capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    """Give the command; yield what is wrong with how it was refused."""
    before = everything()
    arguments = case if any(c.startswith("+study=") for c in case) else [QUADRATIC, *case]
    try:
        with limited(LIMIT_SECONDS):
            code: object = cli.run(arguments)
    except BaseException as error:  # SystemExit too
        code = f"{type(error).__name__}: {error}"
    out, err = capsys.readouterr()
    if code != 2:
        yield f"ended with {code}"
    if err.count("\n") != 1 or not 10 < len(err) <= 800 or not err.endswith("\n"):
        yield f"is told in {err.count(chr(10))} lines, {len(err)} characters"
    if "Traceback" in err or "++" in err.replace("+++", ""):
        yield "shows our own workings"
    if out:
        yield f"prints {out[:100]!r}"
    if made := everything() - before:
        yield f"leaves {sorted(map(str, made))}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_mistake_of_a_kind_is_one_clear_line(
    kind: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    """Exit code 2, one line, no trace, nothing on the disk; ten cases of each kind at least."""
    cases = KINDS[kind]()
    assert len(cases) >= 10
    record_property("tried", len(cases))  # for the reliability benchmark's table
    wrong = [
        f"{' '.join(case)[-200:]}: {' and '.join(found)}"
        for case in cases
        if (found := list(complaints(case, capsys)))
    ]
    record_property("clean", len(cases) - len(wrong))
    assert not wrong, "\n".join(wrong)


def test_a_command_that_does_not_end_is_noticed(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps "none hangs" in the test above from passing unseen: its limit works."""

    def hang(*_: object) -> None:
        while True:
            time.sleep(60)

    monkeypatch.setattr(sys.modules[__name__], "LIMIT_SECONDS", 0.1)
    monkeypatch.setattr(cli, "run", hang)
    assert "ended with Hangs: no end after 0.1 s" in complaints(["seed=-1"], capsys)


def test_there_are_three_hundred_cases_of_twenty_kinds(here: Path) -> None:
    """The generator is as large as it is said to be, and no case is there twice."""
    cases = [tuple(case) for make in KINDS.values() for case in make()]
    assert len(KINDS) >= 20
    assert len(set(cases)) >= 300


@pytest.mark.parametrize(
    "arguments", [["seed=-1"], ["study_name=../x"], ["objective=training", "data=arrays"]]
)
def test_a_real_command_says_it_as_well(arguments: Case, here: Path) -> None:
    """In a process of its own: exit code 2, one line, an empty folder."""
    command = [sys.executable, "-m", "orchestrator", QUADRATIC, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert list(here.iterdir()) == []


def test_several_mistakes_are_one_line_each(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten mistakes in ten places are ten lines, each of which begins with its key."""
    mistakes = textwrap.dedent("""\
        seed=-1
        sed=1
        recipe.max_lr=0
        recipe.maxlr=1
        device=gpu
        threads=0
        plan=[nope]
        pruner.audit=2
        stages.momentum.seeds=0
        data.scale=0""").splitlines()
    assert cli.run([QUADRATIC, *mistakes]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert {line.split(":")[0].removesuffix(".0") for line in lines} == {
        m.split("=")[0] for m in mistakes
    }
