"""The training loop: Detectron2's trainer, with the hooks and checkpoints of this project."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase, default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from torch import nn

from ranking_det.config import ConfigError
from ranking_det.data.stream import goes_on
from ranking_det.engine.best import BestCheckpoint
from ranking_det.engine.checkpoint import BEST, RunCheckpointer, find_last, load_weights
from ranking_det.engine.experiment import Experiment
from ranking_det.engine.guards import TrainingGuard
from ranking_det.engine.precision import build_trainer
from ranking_det.engine.results import PictureWriter

logger = logging.getLogger(__name__)


def train(
    experiment: Experiment,
    loader: Any,
    weights: str,
    extras: dict[str, Any],
    evaluate: Callable[[nn.Module], dict[str, Any]],
    *,
    resume_at: int | None,
) -> None:
    """Train from ``weights``, or go on with the run whose checkpoint they are.

    Args:
        experiment: the config, its schedule fitted to the data.
        loader: gives the batches, from ``resume_at`` on if it can.
        weights: a checkpoint, or "" to start from scratch.
        extras: what every checkpoint is to hold beside weights and states.
        evaluate: called with the model, for the metrics.
        resume_at: the iteration to go on at; None for a new training.
    """
    settings = experiment.settings()
    model = experiment.model()
    optimizer = experiment.optimizer(model)
    ddp_model = distribute(model, settings.device, **settings.ddp)
    trainer = build_trainer(ddp_model, loader, optimizer, settings.amp, settings.device)
    checkpointer = RunCheckpointer(ddp_model, settings.output_dir, extras=extras, trainer=trainer)
    trainer.register_hooks(
        _build_hooks(experiment, ddp_model, optimizer, checkpointer, evaluate, goes_on(loader))
    )
    if resume_at is not None:
        # First alone: of another model's checkpoint the optimizer would only report a size.
        load_weights(model, weights, whole=True)
        try:
            found = checkpointer.load(weights)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise ConfigError(
                f"{weights!r}: its optimizer or other states do not fit this config ({error}); "
                f"start from its weights with {experiment.keys.weights}={weights}"
            ) from error
        logger.info(
            "Resuming %s at iteration %d, %s",
            weights,
            resume_at,
            _how_exactly(goes_on(loader) and settings.seed >= 0, found, extras),
        )
    else:
        load_weights(model, weights, whole=False)
        # A run killed before its first checkpoint or evaluation must not go on with an earlier's.
        if comm.is_main_process():
            for name in ("last_checkpoint", f"{BEST}.pth"):
                if Path(settings.output_dir, name).resolve() != Path(weights).resolve():
                    Path(settings.output_dir, name).unlink(missing_ok=True)
    trainer.train(resume_at or 0, experiment.schedule()[0].max_iter)


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


def _build_hooks(
    experiment: Experiment,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    checkpointer: RunCheckpointer,
    evaluate: Callable[[nn.Module], dict[str, Any]],
    exact: bool,
) -> list[HookBase | None]:
    """Detectron2's hooks, and the project's."""
    settings, schedule = experiment.settings(), experiment.schedule()[0]
    is_main, output_dir = comm.is_main_process(), settings.output_dir
    names = experiment.names("test")
    first = f"{names[0]}/" if len(experiment.test_sets()) > 1 else ""
    return [
        _Seed(settings.seed) if exact and settings.seed >= 0 else None,
        TrainingGuard(),
        hooks.IterationTimer(),
        hooks.LRScheduler(optimizer, experiment.scheduler(optimizer)),
        *experiment.hooks(model),
        hooks.EvalHook(schedule.eval_period, lambda: evaluate(model)),
        BestCheckpoint(checkpointer, [f"{first}bbox/AP", f"{first}segm/AP"]) if is_main else None,
        # After the evaluation, so that a checkpoint knows the best and a resumed run misses none.
        _periodic(checkpointer, schedule.checkpoint_period, settings.max_to_keep)
        if is_main
        else None,
        hooks.PeriodicWriter(
            default_writers(output_dir, schedule.max_iter), period=settings.log_period
        )
        if is_main
        else None,
        PictureWriter(output_dir, model, lambda: experiment.test_loader(names[0]), names[0])
        if names
        else None,
    ]


def _periodic(
    checkpointer: RunCheckpointer, period: int, max_to_keep: int | None
) -> hooks.PeriodicCheckpointer:
    """Detectron2's, which counts the checkpoints from before a resume among those to keep."""
    hook = hooks.PeriodicCheckpointer(checkpointer, period, max_to_keep=max_to_keep)
    last = find_last(checkpointer.save_dir)
    if last:
        hook.recent_checkpoints = sorted(
            str(path)
            for path in Path(checkpointer.save_dir).glob("model_[0-9]*[0-9].pth")
            if str(path) <= last
        )
    return hook


class _Seed(HookBase):
    """Seed the random numbers of a step by its iteration, so that a resumed run has the same."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        """Seed torch; the loader seeds its samples itself."""
        words = [self.seed, self.trainer.iter, comm.get_rank()]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))
