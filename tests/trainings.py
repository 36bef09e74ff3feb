"""Small real trainings for the tests."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from orchestrator.config.optimizer import OptimizerConfig
from orchestrator.config.options import OwnConfig
from orchestrator.config.sections import AnyData, DataConfig, ModelConfig
from orchestrator.curve import Result
from orchestrator.recipe import Run
from orchestrator.schedules import Schedule
from orchestrator.testing import FakeSession
from orchestrator.training.objective import TrainingObjective, TrainingSettings

DIGITS = DataConfig(train_examples=300, held_out_examples=100, test_examples=50)


class Hard(nn.Module):
    """Batch norm and dropout: what a checkpoint most easily forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(144, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        out: Tensor = self.head(self.conv(x))
        return out


def objective(
    data: AnyData = DIGITS,
    model: ModelConfig | OwnConfig | None = None,
    cache: Path = Path("unused"),
    optimizer: OptimizerConfig | None = None,
    **options: Any,
) -> TrainingObjective:
    model = model or ModelConfig(width=0.25)
    how = {"threads": 1, "device": "cpu", **options}
    settings = TrainingSettings(data, model, optimizer or OptimizerConfig(), **how)
    return TrainingObjective(settings, cache)


def a_run(**changes: Any) -> Run:
    schedule = Schedule("paper", 0.01, 0.1, 0.85, 0.95)
    values = {"steps": 40, "batch_size": 32, "points": 4, "replicate": 0, "weight_decay": 1e-3}
    return Run(**{"kind": "train", "schedule": schedule, **values, **changes})


def train(objective: TrainingObjective, run: Run) -> tuple[FakeSession, Result]:
    session = FakeSession(run)
    return session, objective(run, session)


def losses(session: FakeSession) -> list[tuple[float, float]]:
    return [(p.train_loss, p.held_out_loss) for p in session.points]
