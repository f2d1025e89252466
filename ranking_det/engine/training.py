"""The training loop: Detectron2's trainer, with the hooks and checkpoints of this project."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase, TrainerBase, default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from ranking_det.data.stream import goes_on
from ranking_det.engine.best import BestCheckpoint
from ranking_det.engine.checkpoint import (
    FINAL,
    RunCheckpointer,
    after_full_disk,
    find_resumable,
    load_weights,
)
from ranking_det.engine.classes import save_config
from ranking_det.engine.experiment import Experiment
from ranking_det.engine.guards import TrainingGuard
from ranking_det.engine.output_folder import drop_rows_after, put_aside
from ranking_det.engine.precision import build_trainer
from ranking_det.engine.results import PictureWriter
from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)


def train(
    experiment: Experiment,
    loader: Any,
    weights: str,
    evaluate: Callable[[nn.Module], dict[str, Any]],
    *,
    resume_at: int | None,
) -> None:
    """Train from ``weights``, or go on with the run whose checkpoint they are.

    A training that was stopped after its last step gets its final checkpoint and its evaluation.

    Args:
        experiment: the config, its schedule fitted to the data.
        loader: gives the batches, from ``resume_at`` on if it can.
        weights: a checkpoint, or "" to start from scratch.
        evaluate: called with the model, for the metrics.
        resume_at: the iteration to go on at, at most the last one plus 1; None for a new training,
            which puts an earlier one in the output folder aside.

    Raises:
        UserError: the weights or states are of another config, or the disk is full.
    """
    settings, schedule = experiment.settings(), experiment.schedule()[0]
    model = experiment.model()
    optimizer = experiment.optimizer(model)
    ddp_model = distribute(model, settings.device, **settings.ddp)
    trainer = build_trainer(ddp_model, loader, optimizer, settings.amp, settings.device)
    checkpointer = RunCheckpointer(ddp_model, settings.output_dir, extras={}, trainer=trainer)
    exact = goes_on(loader) and settings.seed >= 0
    trainer.register_hooks(
        _step_hooks(experiment, ddp_model, optimizer, checkpointer, evaluate, exact)
    )
    # On a resume too: of another model's checkpoint the optimizer would only report a size.
    load_weights(model, weights, whole=resume_at is not None)
    with _full_disk_in_one_line(settings.output_dir):
        if resume_at is None:
            states = {}
            _make_room(settings.output_dir)
        else:
            states = _load_states(checkpointer, weights, experiment.keys.weights)
            _drop_rows(settings.output_dir, resume_at)
        checkpointer.extras = save_config(experiment)
        if resume_at is not None:
            how = _how_exactly(exact, states, checkpointer.extras)
            logger.info("Resuming %s at iteration %d, %s", weights, resume_at, how)
        trainer.register_hooks(_writing_hooks(experiment, ddp_model, checkpointer))
        if resume_at == schedule.max_iter:
            _finish(trainer, checkpointer, weights, schedule.max_iter)
        else:
            trainer.train(resume_at or 0, schedule.max_iter)


def _make_room(output_dir: str) -> None:
    """Put an earlier training aside, now that all processes have read the weights.

    Those may be of the earlier training.
    """
    comm.synchronize()
    if comm.is_main_process():
        put_aside(output_dir)


def _load_states(checkpointer: RunCheckpointer, path: str, key: str) -> dict[str, Any]:
    """Load weights, optimizer and hooks; return what else the checkpoint holds.

    Raises:
        UserError: they do not fit; ``key`` is where the user writes weights to start from.
    """
    try:
        return checkpointer.load(path)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{path!r}: its optimizer or other states do not fit this config ({error}); "
            f"start from its weights with {key}={path} in another folder or with --overwrite"
        ) from error


def _drop_rows(output_dir: str, resume_at: int) -> None:
    if comm.is_main_process():
        drop_rows_after(Path(output_dir, "metrics.json"), resume_at - 1)


def _finish(
    trainer: TrainerBase, checkpointer: RunCheckpointer, weights: str, max_iter: int
) -> None:
    """End a training that was stopped after its last step, as if it had not been."""
    if Path(weights).name == f"{FINAL}.pth":
        logger.info("The training is finished: its final checkpoint is evaluated again")
    trainer.iter = trainer.start_iter = trainer.max_iter = max_iter
    with EventStorage(max_iter) as trainer.storage:
        trainer.before_train()
        if Path(weights).name != f"{FINAL}.pth":
            trainer.iter = max_iter - 1  # what the states of a final checkpoint say
            checkpointer.save(FINAL, iteration=max_iter - 1)
            trainer.iter = max_iter
        trainer.after_train()


@contextmanager
def _full_disk_in_one_line(output_dir: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = f"{output_dir}: {error.strerror}"
        raise UserError(f"{reason}; {after_full_disk(output_dir)}") from error


def _how_exactly(same_images: bool, found: dict[str, Any], extras: dict[str, Any]) -> str:
    if not same_images:
        return "with weights, optimizer and iteration; the order of the images begins anew"
    if comm.is_main_process() and found.get("config") != extras["config"]:
        return "with another config than it was written with; the optimizer's settings are its own"
    if comm.get_world_size() == 1:
        return "exactly as if it had not stopped"
    return (
        "with the same images as if it had not stopped, and the main process's statistics for all"
    )


def distribute(model: nn.Module, device: str, **options: Any) -> nn.Module:
    """The model for all processes; itself if there is one."""
    if not str(device).startswith("cuda"):
        options["device_ids"] = None  # of GPUs
    distributed: nn.Module = create_ddp_model(model, **options)
    return distributed


def _step_hooks(
    experiment: Experiment,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    checkpointer: RunCheckpointer,
    evaluate: Callable[[nn.Module], dict[str, Any]],
    exact: bool,
) -> list[HookBase | None]:
    """What belongs to a step, some with states that a checkpoint has."""
    settings, schedule = experiment.settings(), experiment.schedule()[0]
    names = experiment.names("test")
    first = f"{names[0]}/" if len(experiment.test_sets()) > 1 else ""
    metrics = [f"{first}bbox/AP", f"{first}segm/AP"]
    return [
        _Seed(settings.seed) if exact else None,
        TrainingGuard(),
        hooks.IterationTimer(),
        hooks.LRScheduler(optimizer, experiment.scheduler(optimizer)),
        *experiment.hooks(model),
        _Evaluation(schedule.eval_period, lambda: evaluate(model)),
        BestCheckpoint(checkpointer, metrics) if comm.is_main_process() else None,
    ]


def _writing_hooks(
    experiment: Experiment, model: nn.Module, checkpointer: RunCheckpointer
) -> list[HookBase | None]:
    """What writes into the output folder after a step, from the moment when they are built."""
    settings, schedule = experiment.settings(), experiment.schedule()[0]
    output_dir, names = settings.output_dir, experiment.names("test")
    pictures = (
        PictureWriter(output_dir, model, lambda: experiment.test_loader(names[0]), names[0])
        if names
        else None
    )
    if not comm.is_main_process():
        return [pictures]
    writers = default_writers(output_dir, schedule.max_iter)
    return [
        # Before the checkpoint, so that a resumed run does not miss the row of its last step; and
        # the checkpoint is after the evaluation, so that it knows the best.
        hooks.PeriodicWriter(writers, period=settings.log_period),
        _periodic(checkpointer, schedule.checkpoint_period, settings.max_to_keep),
        pictures,
    ]


def _periodic(
    checkpointer: RunCheckpointer, period: int, max_to_keep: int | None
) -> hooks.PeriodicCheckpointer:
    """Detectron2's, which counts the checkpoints from before a resume among those to keep."""
    hook = hooks.PeriodicCheckpointer(checkpointer, period, max_to_keep=max_to_keep)
    last = find_resumable(checkpointer.save_dir)
    earlier = sorted(
        str(path)
        for path in Path(checkpointer.save_dir).glob("model_[0-9]*[0-9].pth")
        if str(path) <= last
    )
    # A run that was killed before it removed one has one too many.
    surplus = len(earlier) - max_to_keep if max_to_keep else 0
    for path in earlier[: max(0, surplus)]:
        Path(path).unlink()
    hook.recent_checkpoints = earlier[max(0, surplus) :]
    return hook


class _Evaluation(hooks.EvalHook):
    """Detectron2's, but without the evaluation at the end if the last step has failed.

    At a full disk, say: the results would look like those of a training that has ended.
    """

    def after_train(self) -> None:
        """Evaluate."""
        if self.trainer.iter == self.trainer.max_iter:
            super().after_train()


class _Seed(HookBase):
    """Seed the random numbers of a step by its iteration, so that a resumed run has the same."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        """Seed torch; the loader seeds its samples itself."""
        words = [self.seed, self.trainer.iter, comm.get_rank()]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))
