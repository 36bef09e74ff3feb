"""Studies from Python: what the command line does, as a function."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.record import StudyRecord


def run_study(
    config: Config | Mapping[str, Any] | None = None,
    *,
    study: str | None = None,
    overrides: Sequence[str] = (),
    quiet: bool = True,
) -> StudyRecord:
    """Run a study, or resume it, and return its record.

    Give either `study` and `overrides`, as on the command line, or a whole `config`. The same
    settings give the same result as on the command line. Ctrl-C, or a notebook's stop button,
    returns a record with status "interrupted"; the same call resumes the study. Signal handlers of
    the calling program are not changed.

    Args:
        config: A `Config`, or a mapping; missing keys have their defaults.
        study: Name of a study config: "digits" is `+study=digits`. A ./conf folder is read too.
        overrides: Settings as on the command line, such as "recipe.batch_size=128".
        quiet: False prints what the command line prints.

    Returns:
        The record: `status` ("complete" if a recipe was found), `recipe`, `decisions`, `folder`
        (report.html and the other files) and `summary()`, the values of summary.json.

    Raises:
        ConfigError: A setting is wrong; nothing has run.
        StorageError: The study's files or its database cannot be read or written.
        TypeError: Both a config and a study or overrides were given.

    >>> record = run_study(study="quadratic", overrides=["plan=[lr_range,momentum,final]"])
    >>> record.status
    'complete'
    >>> [decision.stage for decision in record.decisions]
    ['lr_range', 'momentum', 'final']
    >>> 0.01 < record.recipe.max_lr < 10
    True
    >>> run_study({"recipe": {"max_lr": -1}})
    Traceback (most recent call last):
    orchestrator.errors.ConfigError: recipe.max_lr: -1 is not allowed: must be greater than 0
    """
    asked: list[str] = []
    if config is None:
        from orchestrator.config.compose import compose, parse

        asked = [*([f"+study={study}"] if study else []), *overrides]
        config = compose(parse(asked))
    elif study or overrides:
        raise TypeError("run_study takes a config, or study and overrides, not both")
    checked = config if isinstance(config, Config) else Config.from_mapping(config)

    from orchestrator.report.terminal import Terminal
    from orchestrator.study import walk as studies

    terminal = Terminal(checked.quiet, io.StringIO() if quiet else None)
    return studies.run_study(checked, terminal, asked)


def tune(
    train: Callable[..., Any],
    *,
    steps: int,
    batch_size: int,
    train_examples: int | None = None,
    overrides: Sequence[str] = (),
    quiet: bool = False,
) -> StudyRecord:
    """Find max_lr, momentum, weight decay and batch size of your own training loop.

    The same call resumes the study. `train(orchestrator.trial_of(record.recipe, steps=...))` then
    trains with the recipe that was found. docs/plain-loop.md has an example.

    Args:
        train: The loop as a function `train(trial)`. It makes a new model and optimiser, calls
            `trial.apply(optimizer, step)` before each of `trial.steps` updates and
            `trial.report(...)` if `trial.due(step)`, and returns `trial.result(...)`.
        steps: Updates of a final run with `batch_size`.
        batch_size: Training examples of an update.
        train_examples: Number of training examples, for epochs and the limit of batch sizes. None:
            a final run counts as one epoch.
        overrides: Settings as on the command line. Without `study_name` the study has the name of
            the function.
        quiet: True prints nothing.

    Returns:
        The record, as of `run_study`.

    Raises:
        ConfigError: A setting or the function is wrong; nothing has run.
        StorageError: The study's files or its database cannot be read or written.
    """
    from orchestrator.config import user_code
    from orchestrator.config.compose import compose, parse

    name = user_code.named(train)
    values = compose(parse([f"study_name={name.rpartition('.')[2].strip('<>')}", *overrides]))
    if values["executor"]["name"] == "processes" and user_code.is_given(name):
        raise ConfigError(
            f"executor.name: 'processes' cannot import {name}: put the function into a module, or"
            " choose executor=inline"
        )
    values["recipe"]["batch_size"] = batch_size
    given = {k: v for k, v in values["objective"].items() if k != "name"}
    values["objective"] = {"_target_": name, **given, "steps": steps}
    if train_examples is not None:
        values["objective"]["train_examples"] = train_examples
    return run_study(values, quiet=quiet)
