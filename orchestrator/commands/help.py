"""The help text, from the conf folders: studies, groups and their choices, main keys."""

from __future__ import annotations

import textwrap

from orchestrator.config.compose import conf_folders

HELP = """\
orchestrator finds learning rate, momentum, weight decay and batch size of a neural network
in a few short runs (L. N. Smith, arXiv 1803.09820), then trains and tests the result.

Usage: python -m orchestrator +study=NAME [KEY=VALUE ...]
       python -m orchestrator COMMAND

Commands:
  list                     past studies: status, recipe, test result, time
  show NAME                the closing lines of a study again
  compare A B              two studies side by side: recipes, decisions, cost, settings
  init NAME                write a study of your own to start from: config, network, data
{studies}
Groups, as GROUP=CHOICE:
{groups}
Main keys, with their defaults (the studies set some of them):
  effort=standard          quick: 2.8 final runs, standard: 6, thorough: 20 to 40
  plan=null                the stages in their order: lr_range, first_run, momentum, weight_decay,
                           batch_size, lr_check, final
  stages.NAME.OPTION=...   such as stages.momentum.candidates=[0.95,0.9] stages.final.epochs=10
  recipe.max_lr=null       starting values: also max_momentum, weight_decay, batch_size
  model=mlp                the network; conf/model/ is the place for your own
  data=digits              the data; data.path=... where the files are
  schedule=paper           of the final run and of every short cycle
  pruner=clue              stop diverged and stuck runs; none: prune nothing; hyperband, median,
                           ...: one of Optuna's too; pruner.audit=0.2: check a fifth of the prunes
  tracking=mlflow          none: no MLflow; tracking.uri=...
  objective=training       quadratic: the fake objective, nothing is trained
  executor=inline          processes: train runs in parallel; executor.workers=...
                           ray: on a cluster, on GPUs; executor.address=..., gpus_per_trial=...
  device=auto              cpu, cuda, cuda:0, mps; threads=null, precision=float32
  seed=0                   weights and data order; same seed, same numbers (except measured times)
  dry_run=false            true: estimate what would run and how long it takes, and stop
  budget.max_seconds=null  end the study within this time, with the best recipe so far
  fresh=false              true: start over; false: resume the study if it exists
  study_name=...           results go to runs/<study_name>/

Flags:
  --quiet                  print the closing lines only
  --cfg job                print the composed config and stop
  --multirun               a study for each combination: --multirun +study=digits seed=1,2,3
  --config-dir DIR         a conf folder of your own; ./conf needs no flag. Both add to ours and win
  --shell-completion install=bash   (or zsh) completion: eval "$(python -m orchestrator ...)"

Examples:
  python -m orchestrator +study=digits
  python -m orchestrator +study=digits 'plan=[lr_range,final]' seed=1
  python -m orchestrator +study=cifar_laptop data.path=/where/cifar/is

Exit codes: 0 a recipe was found, 1 none was found, 2 wrong setting, 130 interrupted, 143 terminated
(run the same command to resume).
"""


def text() -> str:
    """Return the help text; reads the conf folders, imports nothing heavy."""
    return HELP.format(studies=_studies(), groups=_groups())


def choices(group: str) -> list[str]:
    """Return the names of a group's files, the user's first."""
    files = [file for conf in conf_folders() for file in sorted((conf / group).glob("*.yaml"))]
    return list(dict.fromkeys(file.stem for file in files))


def groups() -> list[str]:
    """Return the names of all groups but `study`."""
    folders = [f.name for conf in conf_folders() for f in sorted(conf.iterdir()) if f.is_dir()]
    return [name for name in dict.fromkeys(folders) if name != "study" and choices(name)]


def _groups() -> str:
    lines = []
    for group in groups():
        first, *more = textwrap.wrap(", ".join(choices(group)), 72)
        lines += [f"  {group:<23}  {first}", *(f"{'':<27}{line}" for line in more)]
    return "\n".join(lines) + "\n"


def _studies() -> str:
    """Return a line for each study: its name and the first comment of its file."""
    lines = []
    for name in choices("study"):
        file = next(f for c in conf_folders() if (f := c / "study" / f"{name}.yaml").is_file())
        comments = (t for t in file.read_text("utf-8").splitlines() if t.startswith("#"))
        about = next((t for t in comments if "@package" not in t), "#").lstrip("# ")
        lines.append(f"  +study={name:<16} {about}\n")
    return "\nStudies:\n" + "".join(lines)
