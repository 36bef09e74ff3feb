"""Pruners that act on clues: in a study of stages, and in plain Optuna."""

from orchestrator.pruners.clue import CluePruner, ClueRules
from orchestrator.pruners.cycles import report_cycles

__all__ = ["CluePruner", "ClueRules", "report_cycles"]
