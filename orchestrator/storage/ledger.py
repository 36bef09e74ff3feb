"""The ledger: finds and stores the outcomes of runs in Optuna's studies.

One Optuna study per stage, one trial per run. A trial has the key of its run (except audits, see
`Job.trial_key`), so a run that any stage has trained before is not trained again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.changes import differences, surroundings
from orchestrator.curve import Curve, Outcome, Result, State
from orchestrator.errors import ConfigError, StorageError, storing
from orchestrator.recipe import Run
from orchestrator.system.host import lives

log = logging.getLogger(__name__)
FORMAT = 1  # of the data stored with a trial: increase it when older outcomes cannot be read

# Optuna refuses a parameter whose type of distribution changes within a study, but its limits may
# change. Usual limits, which a dashboard's plots show, and the widest ones.
USUAL: dict[str, FloatDistribution | IntDistribution] = {
    "max_lr": FloatDistribution(1e-6, 100, log=True),
    "min_lr": FloatDistribution(1e-8, 100, log=True),
    "max_momentum": FloatDistribution(0, 1),
    "min_momentum": FloatDistribution(0, 1),
    "weight_decay": FloatDistribution(0, 1),
    "batch_size": IntDistribution(1, 1000),
    "dropout": FloatDistribution(0, 1),
    "steps": IntDistribution(1, 10_000),
    "replicate": IntDistribution(0, 100),
}
WIDEST: dict[str, BaseDistribution] = {
    "max_lr": FloatDistribution(1e-300, 1e300, log=True),
    "min_lr": FloatDistribution(1e-300, 1e300, log=True),
    "batch_size": IntDistribution(1, 2**30),
    "steps": IntDistribution(1, 2**40),
    "replicate": IntDistribution(0, 2**30),
}
STATES: dict[State, TrialState] = {
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Ledger:
    """The outcomes of one study, in one Optuna storage.

    A pruned outcome is found only for the same pruner and the same comparison (`seen`, a name of
    what the pruner compared the run with). Every method raises StorageError if the storage cannot
    be read or written.

    Args:
        pruner: Name of the pruner with its settings.
        context: The objective's context, stored with each outcome, so that `why` can return what
            changed.
        formats: Versions of what determines results. A study with others raises ConfigError.
        sole: No other process works on this study: trials in state RUNNING are from a dead one.
        check: Called before each write; raises StorageError if this process must not write.
    """

    def __init__(
        self,
        storage: BaseStorage,
        study: str,
        pruner: str = "",
        *,
        context: Callable[[Run], Mapping[str, Any]] | None = None,
        formats: Mapping[str, int] | None = None,
        sole: bool = False,
        check: Callable[[], None] | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = storage
        self._study = study
        self._pruner = pruner
        self._studies: dict[str, optuna.Study] = {}
        # Outcomes by trial key, then by pruner, "" if not pruned: strings that Optuna keeps anyway.
        self._known: dict[str, dict[str, str]] = defaultdict(dict)
        self._ahead: set[str] = set()  # trial keys of runs that no stage has asked for yet
        self._before: dict[str, list[dict[str, Any]]] = {}  # stage: outcomes of earlier commands
        self._context, self._sole, self._damaged = context, sole, 0
        self._check = check or (lambda: None)
        self._formats = {"ledger": FORMAT, **(formats or {})}
        self.id = ""
        with storing("the study's trials"):
            names = [n for n in optuna.get_all_study_names(storage) if n.startswith(f"{study}/")]
            studies = {n: optuna.load_study(study_name=n, storage=storage) for n in names}
        for name, found in studies.items():
            self._refuse_others(found.user_attrs.get("formats", {}))
            with storing("the study's trials"):
                self._load(name.removeprefix(f"{study}/"), found)
        if self._damaged:
            log.warning(
                "%d damaged outcomes in the journal are not used: their runs are trained again",
                self._damaged,
            )
        self.id = self.id or uuid.uuid4().hex  # stored with every Optuna study

    def _refuse_others(self, found: Mapping[str, int]) -> None:
        ours = self._formats
        if other := [k for k in found if k in ours and found[k] != ours[k]]:
            what = ", ".join(f"{k} version {found[k]}, now {ours[k]}" for k in other)
            raise ConfigError(
                f"study {self._study} was written by another version of this program ({what}): its"
                " results cannot be compared; fresh=true renames them and starts over,"
                " study_name=... starts another study"
            )

    def _load(self, stage: str, study: optuna.Study) -> None:
        self.id = study.user_attrs.get("id", self.id)
        for trial in study.get_trials(deepcopy=False):
            owner = trial.user_attrs.get("owner", "")
            if trial.state == TrialState.RUNNING and (self._sole or not _alive(owner)):
                study.tell(trial.number, state=TrialState.FAIL)
            elif (stored := self._remember(trial)) and "context" in stored:
                kept = {"run": stored["run"], "context": stored["context"]}
                self._before.setdefault(stage, []).append(kept)

    def _remember(self, trial: FrozenTrial) -> dict[str, Any] | None:
        """Add a trial that has an outcome; return it, None without one or if it is damaged."""
        attrs = trial.user_attrs
        if "outcome" not in attrs or trial.state == TrialState.FAIL:
            return None
        stored = _unsealed(attrs.get("key", ""), attrs["outcome"])
        if stored is None:
            self._damaged += 1
            return None
        self._keep(trial)
        return stored

    def _keep(self, trial: FrozenTrial) -> None:
        attrs = trial.user_attrs
        pruner = attrs["pruner"] if trial.state == TrialState.PRUNED else ""
        self._known[attrs["key"]][pruner] = attrs["outcome"]
        if "ahead" in attrs:
            self._ahead.add(attrs["key"])

    def why(self, stage: str, runs: Sequence[Run], settings: Sequence[str] = ()) -> str:
        """Return why the first round of a stage, `runs`, must be trained again.

        That is how it differs from the most similar run that the stage had before: in the context
        (model, data...), or else in the run itself (a setting of the stages, or another decision of
        an earlier stage); then `settings`, what the user changed, are returned instead. "" if the
        stage had one of `runs` before, or is new.
        """
        before = self._before.get(stage, [])
        if not before or self._context is None:
            return ""
        nearest: list[str] = []
        for run in runs:
            new = _plain({"run": run.spec(), "context": self._context(run)})
            for old in before:
                changed = surroundings(old["context"], new["context"])
                if not changed and old["run"] == new["run"]:
                    return ""
                changed = changed or [*settings] or differences(old["run"], new["run"])
                if not nearest or len(changed) < len(nearest):
                    nearest = changed
        return ", ".join(nearest)

    def surroundings(self, run: Run) -> list[str]:
        """Return how the run's context differs from that of the most similar stored run.

        [] without a difference or without stored runs.
        """
        if self._context is None:
            return []
        new = _plain(self._context(run))
        told = [
            surroundings(old["context"], new)
            for stage in self._before.values()
            for old in stage
            if old["run"].get("opens_test") == run.opens_test
        ]
        return min(told, key=len, default=[])

    def study(self, stage: str, pruner: optuna.pruners.BasePruner | None = None) -> optuna.Study:
        """Return the Optuna study of a stage, made if missing."""
        if stage not in self._studies:
            study = optuna.create_study(
                study_name=f"{self._study}/{stage}",
                storage=self._storage,
                sampler=optuna.samplers.RandomSampler(seed=0),  # not used: all values are given
                pruner=pruner or optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            if "id" not in study.user_attrs:
                study.set_user_attr("id", self.id)
                study.set_user_attr("formats", self._formats)
            self._studies[stage] = study
        return self._studies[stage]

    def find(
        self, trial_key: str, run: Run, seen: str = "", *, prunable: bool = True
    ) -> Outcome | None:
        """Return the outcome of the trial with this key, None if it has to be trained.

        Failed runs are never found, so the next command retries them. If a run was pruned and
        finished later in another stage, the pruned outcome is found, so that a study replays
        exactly; except where the run must not be pruned.
        """
        texts, text = self._known.get(trial_key, {}), None
        if prunable and run.prunable:
            text = texts.get(self._named(seen))
        text = text or texts.get("")
        if text is None:
            return None
        stored = json.loads(text)
        return Outcome(
            run=run,
            key=trial_key,
            state=stored["state"],
            curve=Curve.from_json(stored["curve"]),
            result=Result(**stored["result"]),
            reason=stored["reason"],
        )

    def known(self, run_key: str, run: Run) -> Outcome | None:
        """Return the outcome of the run with this key under any pruner, None without one.

        None too for a run that was trained ahead until a stage asks for it (`asked`), so that it
        counts in the budget when it would have been trained without workers.
        """
        if run_key in self._ahead:
            return None
        names = self._known.get(run_key, {})
        seen = (name.removeprefix(self._pruner).strip() for name in names)
        return next((found for s in seen if (found := self.find(run_key, run, s))), None)

    def asked(self, trial_keys: Iterable[str]) -> None:
        """Note that a stage asks for these runs."""
        self._ahead.difference_update(trial_keys)

    def _named(self, seen: str) -> str:
        return f"{self._pruner} {seen}".rstrip()

    def ask(
        self, stage: str, run: Run, trial_key: str, seen: str = "", *, ahead: bool = False
    ) -> optuna.Trial:
        """Open a trial for a run, with the run's hyper-parameters as its parameters.

        `ahead`: the stage has not asked for it.
        """
        self._check()
        more = {"ahead": True} if ahead else {}
        with storing("the study's trials"):
            return self._ask(stage, run, trial_key, seen, more)

    def _ask(
        self, stage: str, run: Run, trial_key: str, seen: str, more: Mapping[str, Any]
    ) -> optuna.Trial:
        params, study = run.params(), self.study(stage)
        opened = optuna.create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions={name: _distribution(name, params[name]) for name in params},
            user_attrs={
                "key": trial_key,
                "label": run.label,
                "kind": run.kind,
                "pruner": self._named(seen),
                "owner": _owner(),
                **more,
            },
        )
        # One write; Study.enqueue_trial and ask write once for each parameter and attribute.
        number = self._storage.get_study_id_from_name(study.study_name)
        return optuna.Trial(study, self._storage.create_new_trial(number, opened))

    def tell(self, stage: str, trial: optuna.Trial, outcome: Outcome) -> None:
        """Close a trial with its outcome."""
        stored = {
            "state": outcome.state,
            "reason": outcome.reason,
            "result": asdict(outcome.result),
            "curve": outcome.curve.to_json(),
            "run": outcome.run.spec(),
        }
        if self._context is not None:
            stored["context"] = dict(self._context(outcome.run))
        self._check()
        with storing("the study's trials"):
            trial.set_user_attr("outcome", _sealed(outcome.key, stored))
            if outcome.reason:
                trial.set_user_attr("reason", outcome.reason)
            study, state = self.study(stage), STATES[outcome.state]
            values = None if outcome.state != "finished" else [outcome.value]
            ended = study.tell(trial, values, state=state)
        if outcome.state != "failed":
            self._keep(ended)

    def abandon(self, stage: str, trial: optuna.Trial) -> None:
        """Close a trial whose run was interrupted; the next command trains it again.

        If the storage cannot be written it stays open, and the next command closes it.
        """
        try:
            with storing(f"trial {trial.number} stays open"):
                self.study(stage).tell(trial, state=TrialState.FAIL)
        except StorageError as error:  # the study ends anyway, for another reason to be reported
            log.warning("%s", error)


def _distribution(name: str, value: float) -> BaseDistribution:
    usual = USUAL[name]
    return usual if usual.low <= value <= usual.high else WIDEST.get(name, usual)


def _sealed(trial_key: str, stored: dict[str, Any]) -> str:
    """Return an outcome as JSON, with a checksum of itself and of its trial's key."""
    text = json.dumps(stored, default=str)
    return f'{text[:-1]}, "seal": "{_digest(trial_key, text)}"}}'


def _unsealed(trial_key: str, text: str) -> dict[str, Any] | None:
    """Return what `_sealed` was given, None if the checksum is wrong; old outcomes have none."""
    try:
        stored: dict[str, Any] = json.loads(text)
        seal = stored.pop("seal", None)
    except (ValueError, AttributeError):
        return None
    return stored if seal in (None, _digest(trial_key, json.dumps(stored))) else None


def _digest(trial_key: str, text: str) -> str:
    return hashlib.sha256(f"{trial_key} {text}".encode()).hexdigest()[:16]


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value as it is after a round trip through JSON."""
    found: dict[str, Any] = json.loads(json.dumps(value, default=str))
    return found


def _owner() -> str:
    return f"{os.getpid()}@{socket.gethostname()}"


def _alive(owner: str) -> bool:
    """Whether the process that owns a trial is alive; assumed so for one on another host."""
    pid, _, host = owner.partition("@")
    if not pid.isdigit():
        return False
    if host != socket.gethostname():
        return True
    return int(pid) != os.getpid() and lives(int(pid))
