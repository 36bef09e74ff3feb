"""The user's own callables: found, checked, called; and what is never called."""

import re
from functools import partial
from os import system as harmless_looking
from pathlib import Path
from pickle import loads  # noqa: F401  # found by name
from typing import Any

import pytest

from orchestrator.config import user_code
from orchestrator.config.options import OwnConfig
from orchestrator.errors import ConfigError


def net(width: int, num_classes: int = 10) -> dict[str, int]:
    """A user's function that names what it is offered."""
    return {"width": width, "num_classes": num_classes}


def wrapped(**options: Any) -> dict[str, Any]:
    """A user's function that hands everything on, as torchvision's model functions do."""
    return options


def broken(num_classes: int) -> int:
    """A user's function with a mistake."""
    return num_classes + ""  # type: ignore[operator]


class Net:
    """A user's class."""

    def __init__(self, *, num_classes: int) -> None:
        self.num_classes = num_classes

    @classmethod
    def small(cls) -> "Net":
        """Another way to make one."""
        return cls(num_classes=2)


narrow = partial(net, width=1)
by_another_name = partial(harmless_looking, "true")
number = 3


def config(name: str, **arguments: Any) -> OwnConfig:
    return OwnConfig(_target_=f"{__name__}.{name}", **arguments)


@pytest.mark.parametrize(("name", "found"), [("net", net), ("Net", Net), ("narrow", narrow)])
def test_a_callable_of_the_user_is_found(name: str, found: object) -> None:
    """Functions, classes and partials resolve to themselves."""
    assert user_code.resolve(f"{__name__}.{name}") is found


def test_a_method_of_a_class_is_found() -> None:
    """The name may go on below the module."""
    assert user_code.resolve(f"{__name__}.Net.small")().num_classes == 2


def test_a_module_in_the_working_folder_is_found(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the working folder on the path, a file beside the config is enough."""
    (here / "my_own_net.py").write_text("def net(): return 'mine'\n")
    monkeypatch.syspath_prepend(here)
    assert user_code.resolve("my_own_net.net")() == "mine"


@pytest.mark.parametrize(
    "target",
    [
        "builtins.eval",
        "builtins.open",
        "os.system",
        "posix.system",
        "subprocess.run",
        "shutil.rmtree",
        "pickle.loads",
        "importlib.import_module",
        "runpy.run_path",
        "ctypes.CDLL",
        "socket.socket",
        "torch.load",
        "torch.hub.load",
        "numpy.load",
        "hydra.utils.instantiate",
        f"{__name__}.harmless_looking",
        f"{__name__}.by_another_name",
        f"{__name__}.loads",
        f"{__name__}.re.compile",
        "orchestrator.config.user_code.importlib.import_module",
        "numpy.lib.npyio.os.system",
    ],
)
def test_what_could_run_anything_is_refused(target: str) -> None:
    """By its name, and by where it really comes from when it is imported elsewhere."""
    with pytest.raises(ConfigError, match=f"^{re.escape(target)} is not allowed: "):
        user_code.resolve(target)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("net", "'net' is not a name: write package.module.name"),
        ("a..b", "'a..b' is not a name: write package.module.name"),
        ("os system.x", "'os system.x' is not a name: write package.module.name"),
        (
            "no_such_module.net",
            "no_such_module.net: there is no module no_such_module in the working folder or among"
            " the installed packages",
        ),
        (f"{__name__}.Nett", f"{__name__}.Nett: {__name__} has no Nett, did you mean Net?"),
        (f"{__name__}.Pat", f"{__name__}.Pat: {__name__} has no Pat"),  # Path is not from here
        (f"{__name__}.number", f"{__name__}.number is a int, not a class or function"),
    ],
)
def test_what_cannot_be_found_is_one_line(target: str, line: str) -> None:
    """The line names the target, the part that is missing and what comes near."""
    with pytest.raises(ConfigError) as caught:
        user_code.resolve(target)
    assert caught.value.lines == [line]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("import no_such_package", "broken.net: broken imports no_such_package, not installed"),
        ("1 / 0", "broken.net: importing broken fails with ZeroDivisionError: division by zero"),
        ("def f(:", "broken.net: importing broken fails with SyntaxError: "),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(
    body: str, line: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's mistake is named in one line, without a trace through our importer."""
    (here / "broken.py").write_text(body)
    monkeypatch.syspath_prepend(here)
    with pytest.raises(ConfigError) as caught:
        user_code.resolve("broken.net")
    assert caught.value.lines[0].startswith(line)
    assert len(caught.value.lines) == 1


def test_only_what_is_named_is_offered() -> None:
    """A callable gets the offers in its signature; the config wins; **kwargs get no offers."""
    offers = {"num_classes": 3, "input_shape": (1, 8, 8)}
    assert user_code.build(config("net", width=2), **offers) == {"width": 2, "num_classes": 3}
    assert user_code.build(config("net", width=2, num_classes=5), **offers)["num_classes"] == 5
    assert user_code.build(config("wrapped", depth=1), **offers) == {"depth": 1}
    assert user_code.build(config("Net"), **offers).num_classes == 3


def test_unknown_arguments_are_told_before_the_call() -> None:
    """Each is one line, with what the callable takes."""
    with pytest.raises(ConfigError) as caught:
        user_code.build(config("net", wide=2, deep=3))
    assert caught.value.lines == [
        f"{__name__}.net takes no argument wide: it takes width, num_classes",
        f"{__name__}.net takes no argument deep: it takes width, num_classes",
    ]


def test_missing_arguments_are_told_before_the_call() -> None:
    """The line says what is missing and what would have been offered."""
    with pytest.raises(ConfigError, match=r"net needs width: add it beside _target_ .*num_classes"):
        user_code.build(config("net"), num_classes=3)


def test_an_error_of_the_callable_is_one_line_that_says_where() -> None:
    """What goes wrong inside the user's code: the error, and the place in the user's file."""
    with pytest.raises(
        ConfigError, match=r"^test_own.broken raised TypeError: .* \(test_own.py, line \d+\)$"
    ) as caught:
        user_code.build(config("broken"), num_classes=3)
    assert isinstance(caught.value.__cause__, TypeError)
