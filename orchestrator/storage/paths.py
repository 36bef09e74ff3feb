"""The names of a study's files and folders; no other module spells them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StudyPaths:
    """The files in the `folder` of one study, `runs/<study_name>/`. None of them need exist."""

    folder: Path

    @classmethod
    def of(cls, runs: str | Path, study: str) -> StudyPaths:
        """Return the files of the study of this name; `runs` is the config's."""
        return cls(Path(runs) / study)

    @property
    def config(self) -> Path:
        """The config; written before anything else."""
        return self.folder / "config.yaml"

    @property
    def summary(self) -> Path:
        """The results for scripts (see `StudyRecord.summary`)."""
        return self.folder / "summary.json"

    @property
    def recipe(self) -> Path:
        """The recipe as a Hydra config."""
        return self.folder / "recipe.yaml"

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.folder / "report.html"

    @property
    def figures(self) -> Path:
        """The folder of the report's figures, one PNG file a stage."""
        return self.folder / "figures"

    @property
    def log(self) -> Path:
        """The log of all commands."""
        return self.folder / "study.log"

    @property
    def lock(self) -> Path:
        """The file that the running command holds locked."""
        return self.folder / "lock"

    @property
    def journal(self) -> Path:
        """Optuna's storage, unless the config names another."""
        return self.folder / "optuna.journal"

    @property
    def spool(self) -> Path:
        """Events that the tracker could not send yet."""
        return self.folder / "tracking.spool.jsonl"

    @property
    def weights(self) -> Path:
        """The trained network of the answer, as a torch state_dict."""
        return self.folder / "model.pt"

    @property
    def program(self) -> Path:
        """The same network as a torch.export program."""
        return self.folder / "model.pt2"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints and networks, unless the config names another."""
        return self.folder / "checkpoints"
