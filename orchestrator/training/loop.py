"""The training loop: trains a run from its start, or its checkpoint, to its result."""

from __future__ import annotations

import logging
import math

from orchestrator.curve import Point, Result
from orchestrator.objectives import Session, StopRun
from orchestrator.recipe import Run
from orchestrator.system import signals
from orchestrator.training import checkpoint
from orchestrator.training.trainer import Setup, Trainer

log = logging.getLogger(__name__)


def train(setup: Setup, run: Run, session: Session) -> Result:
    """Do a run of kind "train" or "ramp", from its checkpoint if the session has one.

    A resumed run reports its earlier points again, then continues as if uninterrupted. A run whose
    loss is not finite ends with that report, since it never recovers. After a signal it writes a
    checkpoint at the next step and raises Interrupted. Raises StopRun from the session, ValueError
    for too large a batch.
    """
    setup.warm_up(run)
    trainer, points = _resumed(setup, run, session)
    keeper = checkpoint.Keeper(session)

    def keep() -> None:
        keeper.save(trainer.state_dict(), points)
        signals.check()

    for point in points:
        session.report(point)
    for stop in run.report_steps():
        if stop <= trainer.step:
            continue
        if points and not _finite(points[-1]):
            break
        points.append(trainer.to(stop, keeper.is_due, keep))
        try:
            session.report(points[-1])
        except (StopRun, KeyboardInterrupt) as end:
            if getattr(end, "pruned", True):  # an audit, or a resumed study, continues from here
                keeper.save(trainer.state_dict(), points)
            raise
        if stop < run.steps and keeper.is_due():
            keep()
    if run.keeps_end:
        keeper.save(trainer.state_dict(), points)
    return _result(trainer, session)


def _resumed(setup: Setup, run: Run, session: Session) -> tuple[Trainer, list[Point]]:
    """Return the trainer and its points as in the checkpoint, or at the start without one."""
    trainer = Trainer(setup, run)
    saved = session.load()
    if saved is None:
        return trainer, []
    try:
        state, points = checkpoint.read(saved)
        trainer.load_state_dict(state)
        return trainer, points
    except Exception as error:  # damaged, foreign or older bytes may raise anything
        log.warning("%s: its checkpoint cannot be used, it starts over (%s)", run.label, error)
        return Trainer(setup, run), []  # a new one: this one may be partly restored


def _finite(point: Point) -> bool:
    return math.isfinite(point.train_loss) and math.isfinite(point.held_out_loss)


def _result(trainer: Trainer, session: Session) -> Result:
    tested, test_blocks = (math.nan, math.nan), list[float]()
    if trainer.run.opens_test:
        inputs, data = trainer.setup.inputs, trainer.setup.data
        tested = trainer.evaluate(inputs.placed(data.open_test()), blocks=test_blocks)
        session.save_model(checkpoint.model_bytes(trainer.answer))
    blocks = {"held_out_blocks": trainer.held_out_blocks, "test_blocks": test_blocks}
    return Result(
        trainer.seconds,
        trainer.step * trainer.run.batch_size,
        *tested,
        measured={name: losses for name, losses in blocks.items() if losses},
        evaluation_seconds=trainer.evaluation_seconds,
    )
