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
    """Run a study, or go on with it, and return what came out.

    Either `study` and `overrides`, as on the command line (`study="digits"` is `+study=digits`; a
    ./conf folder counts), or a whole `config`: a `Config`, or a mapping whose missing keys have
    their defaults. The answer is the same as the command line's for the same settings. `quiet`
    False prints what the command line prints.

    The record has `status` ("complete" if there is an answer), `recipe`, `decisions`, `folder`
    (report.html and the rest), and `summary()`, the plain values of summary.json. Ctrl-C, or a
    notebook's stop button, gives a record with status "interrupted"; the same call goes on. Signal
    handlers are left alone. Raises ConfigError if the request is wrong, StorageError if what a
    study keeps cannot be opened.

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
    """Find max_lr, momentum, weight decay and batch size of a training loop of your own.

    `train(trial)`: the loop as a function. It makes model and optimiser anew, calls
    `trial.apply(optimizer, step)` before each of `trial.steps` updates and `trial.report(...)`
    where `trial.due(step)`, and returns `trial.result(...)` (see `training.function.trial.Trial`
    and docs/plain-loop.md). `steps`: updates of a final run, with `batch_size`. `train_examples`:
    how many there are, which tells epochs and bounds batch sizes. `overrides`: settings as on the
    command line; the study is called after the function unless `study_name` is among them.

    Returns and raises what `run_study` does; the same call goes on where it was stopped.
    `train(orchestrator.trial_of(record.recipe, steps=...))` then trains by what was found.
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
