"""Training loop: Detectron2's trainer with this project's hooks and checkpoints."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import (
    AMPTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    default_writers,
    hooks,
)
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from ranking_det.data.stream import can_resume
from ranking_det.engine.checkpoint import (
    FINAL,
    RunCheckpointer,
    how_to_continue,
)
from ranking_det.engine.evaluate import evaluate
from ranking_det.engine.hooks import (
    BestCheckpoint,
    EvaluationHook,
    MetricsWriter,
    TrainingGuard,
    draw_results,
    seed_step,
)
from ranking_det.engine.launching import note_iteration
from ranking_det.engine.output_folder import drop_rows_after, put_aside
from ranking_det.engine.part_errors import named_error
from ranking_det.engine.plan import Plan
from ranking_det.engine.resuming import log_differences, optimizer_name
from ranking_det.engine.run_config import RunConfig
from ranking_det.engine.stopping import CheckpointAndStop, CheckpointRequest, Stopped
from ranking_det.files import write_whole
from ranking_det.user_errors import line_of

logger = logging.getLogger(__name__)


def train_model(
    plan: Plan, loader: Any, statistics_loader: Any, request: CheckpointRequest
) -> None:
    """Train the model of a plan, from the start or resumed.

    A new run moves an earlier one to ``earlier_run/``. If a run was stopped after its last
    step, resuming it writes the final checkpoint and evaluates it.

    Args:
        plan: the checked command; its schedule must be fitted to the data.
        loader: the training loader, which starts at the first iteration of this run if it can.
        statistics_loader: the loader for Detectron2's PreciseBN; None to disable it.
        request: the request for a checkpoint and an early end.

    Raises:
        UserError: the weights or states belong to another config.
        RunError: the disk is full, or a loss became NaN or infinite.
        Stopped: a signal has stopped the run.
    """
    config, weights, resume_at = plan.config, plan.weights.path, plan.resume_at
    settings, max_iter = config.train, config.train.max_iter
    optimizer = config.optimizer(plan.model)
    clip_gradients(optimizer, settings.get("clip_grad_norm") or 0.0)
    # Processes evaluate different numbers of images; broadcasting buffers would then hang.
    options = {**(settings.get("ddp") or {}), "broadcast_buffers": False}
    model = distribute(plan.model, settings.device, **options)
    trainer = build_trainer(model, loader, optimizer, plan.dtype, settings.device)
    checkpointer = RunCheckpointer(model, plan.output_dir, extras={}, trainer=trainer)
    exact = can_resume(loader) and settings.get("seed", 0) >= 0
    trainer.register_hooks(
        _step_hooks(plan, model, optimizer, checkpointer, statistics_loader, exact, request)
    )
    plan.load_weights()
    if resume_at is None:
        if comm.is_main_process():
            put_aside(plan.output_dir)
        checkpointer.extras = _save_extras(plan, optimizer)
    else:
        # A copy, because the content is mapped to a file that this run may delete.
        trainer.load_state_dict(copy.deepcopy(plan.weights.content["trainer"]))
        if comm.is_main_process():
            drop_rows_after(Path(plan.output_dir, "metrics.json"), resume_at - 1)
        extras = checkpointer.extras = _save_extras(plan, optimizer)
        changed = comm.is_main_process() and log_differences(
            plan.weights.extras, extras, trainer, max_iter, resume_at
        )
        manner = _how_exactly(exact, changed)
        logger.info("Resuming %s at iteration %d, %s", weights, resume_at, manner)
    plan.weights.release()
    last = weights if resume_at is not None else ""
    trainer.register_hooks(_writing_hooks(config, model, checkpointer, last))
    trainer.register_hooks([CheckpointAndStop(request, checkpointer)])
    try:
        if resume_at == max_iter:
            _finish(trainer, checkpointer, weights, max_iter)
        else:
            with without_tracebacks(plan):
                trainer.train(resume_at or 0, max_iter)
    except Stopped as stop:
        details = f" at iteration {trainer.iter}; {how_to_continue(plan.output_dir)}"
        raise Stopped(stop.number, details) from stop


def build_trainer(
    model: nn.Module, loader: Any, optimizer: torch.optim.Optimizer, dtype: str, device: str
) -> SimpleTrainer:
    """Build Detectron2's trainer, for full or mixed precision (AMP).

    The losses of this project always compute in float32 or better.

    Args:
        model: plain or distributed.
        loader: the training loader.
        optimizer: the optimizer of the model.
        dtype: "float16" or "bfloat16" for autocast; "" for full precision.
        device: the device of the model.
    """
    if dtype == "float16":
        return AMPTrainer(model, loader, optimizer)
    if dtype:
        # bfloat16 has the exponent range of float32 and needs no loss scaling.
        half = torch.autocast(torch.device(device).type, dtype=getattr(torch, dtype))
        return SimpleTrainer(Autocast(model, half), loader, optimizer)
    return SimpleTrainer(model, loader, optimizer)


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Scale gradients down before each step of an optimizer if they are too long.

    With mixed precision, the gradients are those without the loss scale. After a step without
    finite gradients, in which the loss scale decreases, the optimizer does not step.

    Args:
        optimizer: the optimizer.
        max_norm: the largest L2 norm of the gradient of all parameters together; 0 for no limit.
    """

    def clip(*_: object) -> None:
        groups = optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, max_norm)

    if max_norm:
        optimizer.register_step_pre_hook(clip)


class Autocast(nn.Module):
    """Wrapper that runs a model's training forward pass under autocast (AMP).

    On a CPU, strided convolutions on maps with one column run in single precision, because torch's
    gradients of their weights in bfloat16 can be NaN. Such maps are the coarsest ones of small
    images, p6 and p7.

    Args:
        model: plain or distributed.
        context: a ``torch.autocast``.
    """

    def __init__(self, model: nn.Module, context: torch.autocast) -> None:
        super().__init__()
        self.model = model
        self.context = context
        for layer in model.modules() if context.device == "cpu" else ():
            if isinstance(layer, nn.Conv2d) and max(layer.stride) > 1:
                layer.forward = partial(_convolve, layer.forward)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the losses of the model, computed under autocast.

        Args:
            batched_inputs: a batch in Detectron2's format.
        """
        with self.context:
            losses: dict[str, torch.Tensor] = self.model(batched_inputs)
        return losses


def _convolve(forward: Callable[[torch.Tensor], torch.Tensor], maps: torch.Tensor) -> torch.Tensor:
    """Run a strided convolution, in single precision if the maps have one column."""
    if maps.shape[-1] > 1 or not torch.is_autocast_enabled("cpu"):
        return forward(maps)
    with torch.autocast("cpu", enabled=False):
        return forward(maps.float())


def distribute(model: nn.Module, device: str, **options: Any) -> nn.Module:
    """Wrap a model in DistributedDataParallel if there are several processes.

    Args:
        model: the model, on its device.
        device: such as "cuda" or "cpu".
        options: arguments of DistributedDataParallel.

    Returns:
        The wrapped model; the model itself if there is one process.
    """
    if not str(device).startswith("cuda"):
        options["device_ids"] = None  # valid for GPUs only
    distributed: nn.Module = create_ddp_model(model, **options)
    return distributed


@contextmanager
def without_tracebacks(plan: Plan) -> Iterator[None]:
    """Log one line, not Detectron2's traceback, for an error that the command reports in one line.

    Args:
        plan: the plan of the run.
    """

    def advice() -> str:
        return how_to_continue(plan.output_dir)

    def shorten(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, Exception):
            return True
        reported_error = named_error(error, plan.model, [plan.output_dir], advice)
        if reported_error is not None:
            record.msg, record.args = "Training ends: %s", (line_of(reported_error),)
            record.exc_info = None
        return True

    trainer_logger = logging.getLogger(TrainerBase.__module__)
    trainer_logger.addFilter(shorten)
    try:
        yield
    finally:
        trainer_logger.removeFilter(shorten)


def _save_extras(plan: Plan, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Write config.yaml and classes.json; return the extras of checkpoints, which contain both."""
    config = plan.config
    names, ids = config.class_names()
    folder = Path(config.train.output_dir)
    if comm.is_main_process():
        config.save(folder / "config.yaml")
        if names is not None and ids is not None:
            entries = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]
            write_whole(folder / "classes.json", json.dumps(entries, indent=1) + "\n")
    comm.synchronize()
    text = (folder / "config.yaml").read_text() if comm.is_main_process() else ""
    return {
        "class_names": names,
        "category_ids": ids,
        "config": text,
        "optimizer": optimizer_name(optimizer),
        "training_data": plan.training_data,
    }


def _finish(
    trainer: SimpleTrainer, checkpointer: RunCheckpointer, weights: str, max_iter: int
) -> None:
    """Finish a run that was stopped after its last step, as if it had not been stopped."""
    if Path(weights).name == f"{FINAL}.pth":
        logger.info("Training is finished: evaluating its final checkpoint again")
    trainer.iter = trainer.start_iter = trainer.max_iter = max_iter
    with EventStorage(max_iter) as trainer.storage:
        trainer.before_train()
        if Path(weights).name != f"{FINAL}.pth":
            trainer.iter = max_iter - 1  # the iteration in the state of a final checkpoint
            checkpointer.save(FINAL, iteration=max_iter - 1)
            trainer.iter = max_iter
        trainer.after_train()


def _how_exactly(same_images: bool, changed: bool) -> str:
    """Describe for the log how exactly a resumed run continues the earlier one."""
    if not same_images:
        return "with its weights, optimizer and iteration; the order of the images starts over"
    if changed:
        return (
            "with a changed config or data; the settings of the optimizer come from the checkpoint"
        )
    if comm.get_world_size() == 1:
        return "exactly as if it had not stopped"
    return (
        "with the same images as an uninterrupted run; all processes get the batch norm "
        "statistics of the main process"
    )


def _step_hooks(
    plan: Plan,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    checkpointer: RunCheckpointer,
    statistics_loader: Any,
    exact: bool,
    request: CheckpointRequest,
) -> list[HookBase | None]:
    """Build the hooks that act on a step; the state of some of them is in checkpoints."""
    config, settings, sets = plan.config, plan.config.train, plan.config.test_sets()
    prefix = f"{sets[0]}/" if len(sets) > 1 else ""
    metrics = [f"{prefix}bbox/AP", f"{prefix}segm/AP"]
    period = settings.eval_period
    seed = partial(seed_step, seed=settings.get("seed", 0))
    return [
        hooks.CallbackHook(before_step=seed) if exact else None,
        hooks.CallbackHook(before_step=note_iteration) if comm.is_main_process() else None,
        TrainingGuard(request, config.num_classes(plan.model)),
        hooks.IterationTimer(),
        hooks.LRScheduler(optimizer, config.scheduler(optimizer)),
        hooks.PreciseBN(period, model, statistics_loader, settings.precise_bn.num_iter)
        if statistics_loader is not None
        else None,
        EvaluationHook(period, lambda: evaluate(config, model)),
        BestCheckpoint(checkpointer, metrics) if comm.is_main_process() else None,
    ]


def _writing_hooks(
    config: RunConfig, model: nn.Module, checkpointer: RunCheckpointer, last: str
) -> list[HookBase | None]:
    """Build the hooks that write to the output folder; building them already opens files.

    ``last`` is the path of the resumed checkpoint, or "".
    """
    if not comm.is_main_process():
        return []
    settings, checkpoint_settings = config.train, config.train.checkpointer
    writers = default_writers(settings.output_dir, settings.max_iter)
    draw = partial(draw_results, config=config, model=model)
    return [
        # Metrics are written before the checkpoint, so a resumed run does not miss the row of its
        # last step. The checkpoint comes after the evaluation, so it has the best metric.
        MetricsWriter(writers, settings.log_period),
        _periodic(
            checkpointer, checkpoint_settings.period, checkpoint_settings.get("max_to_keep"), last
        ),
        hooks.CallbackHook(after_train=draw) if config.names("test") else None,
    ]


def _periodic(
    checkpointer: RunCheckpointer, period: int, max_to_keep: int | None, last: str
) -> hooks.PeriodicCheckpointer:
    """Build Detectron2's periodic checkpointer; ``max_to_keep`` includes earlier checkpoints."""
    hook = hooks.PeriodicCheckpointer(checkpointer, period, max_to_keep=max_to_keep)
    paths = map(str, Path(checkpointer.save_dir).glob("model_[0-9]*[0-9].pth"))
    earlier = sorted(path for path in paths if path <= last)
    # A run that was killed before it removed a checkpoint has one too many.
    surplus = max(0, len(earlier) - max_to_keep) if max_to_keep else 0
    for path in earlier[:surplus]:
        Path(path).unlink()
    hook.recent_checkpoints = earlier[surplus:]
    return hook
