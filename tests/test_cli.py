"""The command line: what it prints and returns, run as a user runs it or in this process."""

import os
import shlex
import shutil
import subprocess
import sys
import threading
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from orchestrator import __main__ as cli
from orchestrator.commands.help import HELP
from orchestrator.config.compose import BUILTIN, compose, parse
from orchestrator.config.schema import Config
from orchestrator.report.text import command
from orchestrator.study import walk
from tests import records

STUDIES = sorted(file.stem for file in (BUILTIN / "study").glob("*.yaml"))
GROUPS = sorted(p.name for p in BUILTIN.iterdir() if p.is_dir() and p.name != "study")
CHOICES = [
    f"{group}={f.stem}" for group in GROUPS for f in sorted((BUILTIN / group).glob("*.yaml"))
]
PRUNERS = [
    "hyperband",
    "median",
    "patient",
    "percentile",
    "successive_halving",
    "threshold",
    "wilcoxon",
]
PRESETS = [
    "model=resnet9_small",
    *(f"pruner={name}" for name in PRUNERS),
]  # not names of the schema
ADAPTERS = ["objective=lightning", "objective=transformers"]  # name what is the user's to give


pytestmark = pytest.mark.usefixtures("here")


def user_conf(here: Path, name: str, text: str) -> None:
    file = here / "conf" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


# --- help


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["+study=digits", "--help"]])
def test_help_names_every_study(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No arguments at all are a question for help, and help is no error."""
    assert cli.run(arguments) == 0
    text = capsys.readouterr().out
    assert all(f"+study={name} " in text for name in STUDIES)
    assert "Examples:" in text


def test_help_names_the_users_studies(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A study in ./conf is listed with its first line of comment."""
    user_conf(here, "study/mine.yaml", "# @package _global_\n# My own net\nseed: 3\n")
    cli.run(["--help"])
    line = next(t for t in capsys.readouterr().out.splitlines() if "+study=mine" in t)
    assert line.split(maxsplit=1)[1] == "My own net"


def test_every_main_key_in_the_help_has_its_true_default() -> None:
    """`KEY=VALUE` at the start of a line of the help is what the config says without it."""
    composed = compose(parse([]))
    words = [line.split()[0] for line in HELP.splitlines() if line.startswith("  ")]
    shown = dict(word.split("=") for word in words if "=" in word)
    assert [key for key, value in shown.items() if value == "..."] == [
        "stages.NAME.OPTION",
        "study_name",
    ]
    for key, value in shown.items():
        if value != "...":
            found = reduce(lambda part, name: part[name], key.split("."), composed)
            default = found["name"] if isinstance(found, dict) else found
            assert yaml.safe_load(value) == default, key


# --- composing


def test_the_conf_folder_says_the_defaults_of_the_schema() -> None:
    """conf/orchestrator.yaml is there to be read: it must not differ from the schema."""
    composed = compose(parse([]))
    assert Config.from_mapping(composed) == Config.from_mapping({})


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_a_valid_config(name: str) -> None:
    """Each file in conf/study composes, passes the schema and has its own name."""
    composed = compose(parse([f"+study={name}"]))
    assert Config.from_mapping(composed).study_name == name


@pytest.mark.parametrize("choice", [c for c in CHOICES if c not in ADAPTERS])
def test_every_choice_of_a_group_says_the_defaults_of_the_schema(choice: str) -> None:
    """A group's file sets what its name alone sets in the schema; a preset sets what it holds."""
    group, name = choice.split("=")
    held = yaml.safe_load((BUILTIN / group / f"{name}.yaml").read_text())
    section = held if choice in PRESETS else {"name": name}
    url = {"url": "sqlite:///x.db"} if choice == "storage=url" else {}
    composed = compose(parse([choice, *(f"++storage.{key}={value}" for key, value in url.items())]))
    assert Config.from_mapping(composed) == Config.from_mapping({group: {**section, **url}})


def test_presets_set_something() -> None:
    """They are files of the groups, and each differs from what its section's name alone sets."""
    assert set(PRESETS) <= set(CHOICES)
    for choice in PRESETS:
        group, _ = choice.split("=")
        config = Config.from_mapping(compose(parse([choice])))
        name = getattr(config, group).name
        assert config != Config.from_mapping({group: {"name": name}})


def test_the_command_line_wins_over_the_study() -> None:
    """In either order; groups and single values."""
    for arguments in (
        ["data=digits", "seed=5", "+study=cifar", "recipe.batch_size=16"],
        ["+study=cifar", "data=digits", "seed=5", "recipe.batch_size=16"],
    ):
        composed = compose(parse(arguments))
        found = composed["data"]["name"], composed["seed"], composed["recipe"]["batch_size"]
        assert found == ("digits", 5, 16)


def test_the_users_conf_wins_over_ours(here: Path) -> None:
    """A study of the same name in ./conf replaces ours and can build on our groups."""
    text = "# @package _global_\ndefaults:\n  - override /model: conv3\n  - _self_\nseed: 77\n"
    user_conf(here, "study/digits.yaml", text)
    composed = compose(parse(["+study=digits"]))
    assert (composed["seed"], composed["model"]["name"]) == (77, "conv3")


def test_a_users_study_can_build_on_ours(here: Path) -> None:
    """`defaults: [digits, _self_]` takes our study and changes it."""
    text = "# @package _global_\ndefaults: [digits, _self_]\nstudy_name: mine\n"
    user_conf(here, "study/mine.yaml", text)
    composed = compose(parse(["+study=mine"]))
    assert (composed["study_name"], composed["recipe"]["batch_size"]) == ("mine", 32)


def test_another_projects_conf_folder_does_no_harm(here: Path) -> None:
    """A ./conf/config.yaml of something else is not taken for our primary config."""
    user_conf(here, "config.yaml", "db: postgres\n")
    assert compose(parse([]))["study_name"] == "study"


def test_cfg_job_prints_the_composed_config(capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra's own way to look at the config works, and runs nothing."""
    assert cli.run(["+study=digits", "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["study_name"] == "digits"


# --- wrong requests

WRONG = [
    (
        "+study=digitz",
        "Could not find 'study/digitz' Available options in 'study': cifar cifar_lap",
    ),
    ("study=cifar", "To append to your default list use +study=cifar"),
    ("+study=", "Available options in 'study': cifar cifar_laptop digits"),
    (
        "data=mnist",
        "Could not find 'data/mnist' Available options in 'data': arrays cifar10 digits",
    ),
    ("sed=1", "sed: unknown key: must be one of study_name"),
    ("+sed=1", "sed: unknown key: must be one of study_name"),
    ("recipe.maxlr=1", "recipe.maxlr: unknown key: must be one of max_lr, min_lr"),
    ("recipe.max_lr=-1", "recipe.max_lr: -1 is not allowed: must be greater than 0"),
    ("recipe.max_lr=1,2", "Ambiguous value for argument 'recipe.max_lr=1,2'"),
    ("seed=abc", "seed: 'abc' is not allowed: must be a whole number"),
    ("seed=", "seed: '' is not allowed: must be a whole number"),
    ("seed", "seed: no such command: must be one of list, show, compare, init, or settings as KEY"),
    ("lisst", "did you mean list?"),
    ("show", "show: the command is: python -m orchestrator show NAME"),
    ("plan=[", "cannot read plan=["),
    ("plan.0=x", "plan: {'0': 'x'} is not allowed: must be a list in square brackets"),
    ("~plan.0", "Could not delete from config. 'plan.0' does not exist."),
    ("seed=${nope}", "Interpolation key 'nope' not found"),
    ("stages.momentum.candidates=[]", "stages.momentum.candidates: [] is not allowed: must be a"),
    ("stages.momentum.candidates=[1]", "stages.momentum.candidates.0: 1 is not allowed: must be"),
    ("recipe.max_momentum=1", "recipe.max_momentum: 1 is not allowed: must be less than 1"),
    ("recipe.batch_size=5000", "recipe.batch_size: 5000 is not allowed: must be at most 1198"),
    ("study_name=../../x", "study_name: '../../x' is not allowed: must not start with a dot"),
    (
        "study_name=наука",
        "cannot read study_name=наука: must be 1 to 80 letters, digits, '.', '_' or",
    ),
    ("storage=url", "storage.url: must be given for storage.name=url, such as sqlite:///trials.db"),
    ("hydra.searchpath=[file:///nonexistent]", "path=/nonexistent is not available"),
    ("--bogus", "unrecognized arguments: --bogus (see --help)"),
    ("--config-name=nope", "Cannot find primary config 'nope'"),
    ("--config-dir=/nonexistent", "Additional config directory '/nonexistent' not found"),
]


@pytest.mark.parametrize(("argument", "line"), WRONG, ids=[w[0] for w in WRONG])
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    argument: str, line: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one line that names the key and what is allowed, no folder made."""
    assert cli.run([argument]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert line in err
    assert err.count(f"read {argument}") <= 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed: [1\n", "line 3: the [ of line 2 is not closed before this"),
        ("data: {path: x\nseed: 3\n", "line 3: the { of line 2 is not closed before this"),
        ("seed: 3\n\tquiet: 1\n", "line 3: a tab: indent with spaces"),
        ("seed: 3\n quiet: 1\n", "line 3: a KEY: VALUE in a wrong place: check the indentation"),
        ("runs: @home\n", "line 2: '@' cannot begin a value: put the value in quotes"),
    ],
)
def test_broken_yaml_of_the_user_is_one_line(
    text: str, line: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the file, the place in it and the mistake, without the parser's jargon."""
    user_conf(here, "study/mine.yaml", f"# @package _global_\n{text}")
    assert cli.run(["+study=mine"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"conf/study/mine.yaml, {line}")
    assert err.count("\n") == 1


def test_several_mistakes_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each."""
    assert cli.run(["+study=digits", "seed=abc", "recipe.maxlr=1", "device=gpu"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["recipe.maxlr", "device", "seed"]


# --- running


@pytest.mark.parametrize(
    ("status", "code"), [("complete", 0), ("undecided", 1), ("failed", 1), ("interrupted", 130)]
)
def test_the_exit_code_says_how_the_study_ended(
    status: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 an answer, 1 none, 130 interrupted."""
    seen: list[Config] = []

    def run_study(config: Config, *_: Any) -> SimpleNamespace:
        seen.append(config)
        return SimpleNamespace(status=status)

    monkeypatch.setattr(walk, "run_study", run_study)
    assert cli.run(["+study=quadratic", "seed=9"]) == code
    assert (seen[0].study_name, seen[0].seed) == ("quadratic", 9)


def test_a_request_found_wrong_by_the_study_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data that is nowhere is known only when it is looked for; exit code 2 all the same."""

    def run_study(config: Config, *_: Any) -> None:
        raise cli.ConfigError("data.path: nothing there")

    monkeypatch.setattr(walk, "run_study", run_study)
    assert cli.run(["+study=quadratic"]) == 2
    assert capsys.readouterr().err == "data.path: nothing there\n"


def test_ctrl_c_while_starting_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupt outside the study's own care still ends in one line and 130."""

    def run_study(config: Config, *_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(walk, "run_study", run_study)
    assert cli.run(["+study=quadratic"]) == 130
    assert capsys.readouterr().err == "interrupted: run the same command to resume\n"


def test_a_stray_module_in_the_working_folder_shadows_nothing(here: Path) -> None:
    """`python -m` puts the working folder first on the path; a types.py there must not matter."""
    (here / "http.py").write_text("raise RuntimeError('shadowed')\n")
    command = [sys.executable, "-m", "orchestrator", "+study=quadratic", "seed=-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "seed: -1 is not allowed: must be at least 0\n")


def test_conf_inside_the_package_is_found_from_any_folder(here: Path) -> None:
    """As in a wheel: conf lies in the package, the command is given somewhere else."""
    site, elsewhere = here / "site", here / "elsewhere"
    shutil.copytree(Path(cli.__file__).parent, site / "orchestrator")
    shutil.copytree(BUILTIN, site / "orchestrator" / "conf", dirs_exist_ok=True)
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "+study=cifar", "--cfg", "job"],
        capture_output=True,
        text=True,
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
    )
    assert yaml.safe_load(done.stdout)["study_name"] == "cifar"
    assert list(elsewhere.iterdir()) == []


def test_starting_imports_nothing_heavy() -> None:
    """Help and wrong requests answer at once: torch, MLflow and matplotlib are not touched."""
    code = (
        "import sys; from orchestrator import __main__ as cli; cli.run(['--help']);"
        "cli.run(['+study=digits', 'seed=-1']);"
        "print({'torch', 'mlflow', 'matplotlib', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nset()\n")


def test_what_is_registered_for_the_exit_still_runs() -> None:
    """The command ends faster than Python would, and loses neither that nor a line of output."""
    code = (
        "import atexit, sys; from orchestrator import __main__ as cli;"
        "atexit.register(print, 'at exit'); sys.argv[1:] = ['--help']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("orchestrator finds")
    assert done.stdout.endswith("to resume).\nat exit\n")


def test_a_thread_that_works_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's thread may have something to write yet: then Python ends as it always does."""
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("left at once"))
    working = threading.Event()
    thread = threading.Thread(target=working.wait)
    thread.start()
    try:
        with pytest.raises(SystemExit, match="3"):
            cli.leave(3)
    finally:
        working.set()
        thread.join()


def test_another_network_gets_nothing_meant_for_the_studys_own(here: Path) -> None:
    """+study=digits model=mine passes no option of the digits network on to it."""
    (here / "conf" / "model").mkdir(parents=True)
    (here / "conf" / "model" / "mine.yaml").write_text("_target_: mynet.net\n")
    for name in ("digits", "cifar", "cifar_laptop"):
        composed = compose(parse([f"+study={name}", "model=mine"]))
        assert composed["model"] == {"_target_": "mynet.net"}


# --- flags


@pytest.mark.usefixtures("without_figures")
def test_quiet_prints_the_answer_only(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--quiet: the closing lines and nothing before them, which `show` prints too."""
    assert cli.run(["--quiet", "+study=quadratic", "plan=[lr_range,final]"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("\ncomplete          quadratic\n")
    assert cli.run(["show", "quadratic"]) == 0
    assert capsys.readouterr().out == said
    command = next(x for x in said.splitlines() if x.startswith("to use it")).split(maxsplit=3)[3]
    assert command.startswith("python -m orchestrator +study=quadratic study_name=quadratic-again")
    assert cli.run([*shlex.split(command)[3:], "--quiet"]) == 0


def test_what_belongs_to_the_search_is_not_in_the_command_to_use_the_recipe() -> None:
    """Budget, dry run and starting over are left out; all else stays as typed."""
    typed = [
        "+study=digits",
        "budget.max_seconds=60",
        "fresh=true",
        "seed=2",
    ]
    line = command({**records.study().summary(), "study": "digits", "overrides": typed})
    assert line.startswith(
        "python -m orchestrator +study=digits seed=2 study_name=digits-again 'plan=[final]'"
    )


def test_a_config_dir_wins_over_ours(here: Path) -> None:
    """--config-dir is for the user's own conf: its groups and studies are found, and win."""
    for name, text in (
        ("study/digits.yaml", "# @package _global_\nstudy_name: theirs\n"),
        ("model/own.yaml", "_target_: mynet.net\n"),
    ):
        file = here / "elsewhere" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    composed = compose(parse(["--config-dir", "elsewhere", "+study=digits", "model=own"]))
    assert composed["study_name"] == "theirs"
    assert composed["model"] == {"_target_": "mynet.net"}


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["+study=quadratic", "tracking=none"], "runs/quadratic/summary.json"),
        (["--help"], "."),
        (["+study=quadratic", "--cfg", "job"], "."),
    ],
)
def test_a_reader_that_has_gone_stops_nothing(arguments: list[str], left: str, here: Path) -> None:
    """As in `... | head -1`: no traceback, and a study goes on to its end."""
    command = [sys.executable, "-m", "orchestrator", *arguments]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.stdout is not None
    done.stdout.close()
    _, said = done.communicate(timeout=60)
    assert (done.returncode, said) == (0, "")
    assert Path(left).exists()


def test_a_reader_that_goes_before_the_last_words_is_no_error(
    monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    """What is still in the buffer is lost without a word."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", buffering=1 << 20) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.run(["--help"]) == 0
