"""The ledger: runs in, outcomes out. The only room that knows Optuna's storage.

One Optuna study per stage, one trial per run. A run's key is kept with its trial, so a run that
any stage has trained before is known and is not trained again.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.curve import Curve, Outcome, Result, State
from orchestrator.recipe import Run

# Wide and fixed: Optuna refuses a parameter whose kind of distribution changes within a study.
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "max_lr": FloatDistribution(1e-300, 1e300, log=True),
    "min_lr": FloatDistribution(1e-300, 1e300, log=True),
    "max_momentum": FloatDistribution(0, 1),
    "min_momentum": FloatDistribution(0, 1),
    "weight_decay": FloatDistribution(0, 1),
    "batch_size": IntDistribution(1, 2**30),
    "dropout": FloatDistribution(0, 1),
    "steps": IntDistribution(1, 2**40),
    "replicate": IntDistribution(0, 2**30),
}
STATES: dict[State, TrialState] = {
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class FlockLock:
    """A lock for Optuna's journal that dies with its process.

    Optuna's own leaves a symlink behind when killed, and the next writer then waits 30 seconds.
    """

    def __init__(self, path: str) -> None:
        self._path = path + ".flock"
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Take the lock, waiting for it."""
        import fcntl

        self._file = open(self._path, "a")  # noqa: SIM115  # closed by release
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Give the lock back."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def journal(path: Path) -> BaseStorage:
    """Open the journal file at `path`, made if missing. A torn last line is cut off first.

    One torn line (full disk, power loss) would be glued to the next write and spoil the file.
    """
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)
    lock: Any = FlockLock(str(path)) if os.name == "posix" else None
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


class Ledger:
    """Runs and outcomes of one study, in one Optuna storage.

    `pruner` names the pruner and its settings: a pruned outcome is known only to the same pruner
    that saw the same (`seen`, a name of what it compared the run with).
    """

    def __init__(self, storage: BaseStorage, study: str, pruner: str = "") -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = storage
        self._study = study
        self._pruner = pruner
        self._studies: dict[str, optuna.Study] = {}
        self._known: dict[tuple[str, str], FrozenTrial] = {}  # by key, and pruner if pruned
        self.id = ""
        for name in optuna.get_all_study_names(storage):
            if name.startswith(f"{study}/"):
                self._load(name)
        self.id = self.id or uuid.uuid4().hex  # kept with every Optuna study that is made

    def _load(self, name: str) -> None:
        study = optuna.load_study(study_name=name, storage=self._storage)
        self.id = study.user_attrs.get("id", self.id)
        for trial in study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and not _alive(trial.user_attrs.get("owner", "")):
                study.tell(trial.number, state=TrialState.FAIL)
            else:
                self._remember(trial)

    def _remember(self, trial: FrozenTrial) -> None:
        attrs = trial.user_attrs
        if "outcome" in attrs and trial.state != TrialState.FAIL:
            pruner = attrs["pruner"] if trial.state == TrialState.PRUNED else ""
            self._known[attrs["key"], pruner] = trial

    def study(self, stage: str, pruner: optuna.pruners.BasePruner | None = None) -> optuna.Study:
        """Return the Optuna study of a stage, made if missing."""
        if stage not in self._studies:
            study = optuna.create_study(
                study_name=f"{self._study}/{stage}",
                storage=self._storage,
                sampler=optuna.samplers.RandomSampler(seed=0),  # every trial is enqueued
                pruner=pruner or optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            if "id" not in study.user_attrs:
                study.set_user_attr("id", self.id)
            self._studies[stage] = study
        return self._studies[stage]

    def find(self, key: str, run: Run, seen: str = "", *, prunable: bool = True) -> Outcome | None:
        """Return the outcome of the run with this key, None if it has to be trained.

        Failed runs are never found: the next command tries them again. Of a run that was pruned and
        has finished elsewhere since, the pruned outcome is found, so that a study repeats what it
        did; unless the run may not be pruned.
        """
        trial = None
        if prunable and run.prunable:
            trial = self._known.get((key, self._named(seen)))
        trial = trial or self._known.get((key, ""))
        if trial is None:
            return None
        stored = json.loads(trial.user_attrs["outcome"])
        return Outcome(
            run=run,
            key=key,
            state=stored["state"],
            curve=Curve.from_json(stored["curve"]),
            result=Result(**stored["result"]),
            reason=stored["reason"],
        )

    def _named(self, seen: str) -> str:
        return f"{self._pruner} {seen}".rstrip()

    def ask(self, stage: str, run: Run, key: str, seen: str = "") -> optuna.Trial:
        """Open a trial for a run, with the run's hyper-parameters as its parameters."""
        study = self.study(stage)
        attrs = {
            "key": key,
            "label": run.label,
            "kind": run.kind,
            "pruner": self._named(seen),
            "owner": _owner(),
        }
        params = run.params()
        study.enqueue_trial(params, user_attrs=attrs)
        while True:
            trial = study.ask({name: DISTRIBUTIONS[name] for name in params})
            if trial.user_attrs.get("key") == key:
                return trial
            # Left waiting by a process that died between enqueue and ask; proposed anew if needed.
            study.tell(trial, state=TrialState.FAIL)

    def tell(self, stage: str, trial: optuna.Trial, outcome: Outcome) -> None:
        """Close a trial with its outcome."""
        stored = {
            "state": outcome.state,
            "reason": outcome.reason,
            "result": asdict(outcome.result),
            "curve": outcome.curve.to_json(),
            "run": outcome.run.spec(),
        }
        trial.set_user_attr("outcome", json.dumps(stored))
        if outcome.reason:
            trial.set_user_attr("reason", outcome.reason)
        study, state = self.study(stage), STATES[outcome.state]
        values = None if outcome.state != "finished" else [outcome.value]
        self._remember(study.tell(trial, values, state=state))

    def abandon(self, stage: str, trial: optuna.Trial) -> None:
        """Close a trial whose run was interrupted; the next command trains it again."""
        self.study(stage).tell(trial, state=TrialState.FAIL)


def open_storage(name: str, url: str | None, folder: Path) -> BaseStorage:
    """Return the storage that the config names: "journal" (in `folder`), "memory" or "url"."""
    if name == "memory":
        return optuna.storages.InMemoryStorage()
    if name == "url":
        return optuna.storages.get_storage(url)
    return journal(folder / "optuna.journal")


def set_aside(storage: BaseStorage, study: str, suffix: str) -> None:
    """Rename the Optuna studies of `study` by `suffix`; nothing is deleted but the old names."""
    for name in optuna.get_all_study_names(storage):
        if name.startswith(f"{study}/"):
            stage = name.removeprefix(f"{study}/")
            optuna.copy_study(
                from_study_name=name,
                from_storage=storage,
                to_storage=storage,
                to_study_name=f"{study}{suffix}/{stage}",
            )
            optuna.delete_study(study_name=name, storage=storage)


def _owner() -> str:
    return f"{os.getpid()}@{socket.gethostname()}"


def _alive(owner: str) -> bool:
    """Whether the process that owns a trial lives; a process on another host is taken to live."""
    pid, _, host = owner.partition("@")
    if not pid.isdigit():
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return int(pid) != os.getpid()
