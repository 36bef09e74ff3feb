"""The plan of a study: what it is going to run, how long that takes, and how much is left of it."""

from orchestrator.plan.dry import StudyPlan as StudyPlan
from orchestrator.plan.dry import plan_study as plan_study
