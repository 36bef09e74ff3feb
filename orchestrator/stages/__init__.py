"""The stages of a study, by kind."""

from orchestrator.stages.batch_size import BatchSize
from orchestrator.stages.dropout import Dropout
from orchestrator.stages.expected.first_run import FirstRun
from orchestrator.stages.final import Final
from orchestrator.stages.lr_check import LRCheck
from orchestrator.stages.lr_range import LRRange
from orchestrator.stages.momentum import Momentum
from orchestrator.stages.stage import Stage
from orchestrator.stages.weight_decay import WeightDecay

STAGES: dict[str, type[Stage]] = {
    stage.kind: stage
    for stage in (LRRange, FirstRun, Momentum, WeightDecay, Dropout, BatchSize, LRCheck, Final)
}
