"""Resume a run: check the states in a checkpoint, and log what differs from the earlier run."""

from __future__ import annotations

import copy
import itertools
import logging
import math
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import SimpleTrainer, hooks
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn

from ranking_det.data.coco_json.fields import is_finite_number
from ranking_det.engine.checkpoint import UNREADABLE, Checkpoint
from ranking_det.engine.run_config import Records, saved_values
from ranking_det.user_errors import UserError, listed, reason_of, show

logger = logging.getLogger(__name__)

SHOWN = 20
"""Maximum number of differences between two configs that the log lists; it counts the others."""

SOLVER = ("BASE_LR", "MOMENTUM", "NESTEROV", "WEIGHT_DECAY", "BIAS_LR_FACTOR")
"""Beginnings of the keys under SOLVER whose values are in the state of the optimizer."""

SCALER = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
"""The state of the loss scaling in float16 training."""

WITHOUT_EFFECT = (
    *("optimizer.", "train.init_checkpoint", "MODEL.WEIGHTS"),
    *(f"SOLVER.{name}" for name in SOLVER),
)
"""Beginnings of config keys whose values a resumed run takes from the checkpoint."""


def optimizer_name(optimizer: torch.optim.Optimizer) -> str:
    """Return the name of the class of an optimizer, with or without gradient clipping.

    Args:
        optimizer: any optimizer; for gradient clipping, Detectron2 derives a class from its class.
    """
    return type(optimizer).__name__.removesuffix("WithGradientClip")


def check_states(
    checkpoint: Checkpoint,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    key: str,
    *,
    scales: bool,
) -> None:
    """Check that the states in a checkpoint fit the optimizer and the schedule of a resumed run.

    Args:
        checkpoint: the checkpoint to resume.
        optimizer: an optimizer of the model, not the one of the run, because it loads the state.
        scheduler: a scheduler of this optimizer.
        key: the config key of the weights to start from, for the message.
        scales: whether the run scales the loss, as it does in float16.

    Raises:
        UserError: a state is missing, or belongs to another optimizer or model.
    """
    path, states = checkpoint.path, checkpoint.content.get("trainer")
    trained_by = checkpoint.content.get("optimizer")
    try:
        fault = _fault_of_optimizer(states, trained_by, optimizer)
        fault = fault or _fault_of_hooks(states, len(optimizer.param_groups), scheduler)
    except UNREADABLE as error:
        name = optimizer_name(optimizer)
        fault = f"expected states of {name} and its schedule, got others ({reason_of(error)})"
    if not fault and scales:
        scaler = states.get("grad_scaler")
        if not isinstance(scaler, dict) or not all(_is_numeric(scaler.get(key)) for key in SCALER):
            fault = f"expected the state of float16 training, got {show(scaler)}"
    if fault:
        raise UserError(
            f"{path!r} cannot be resumed: {fault}; start a new run from its weights with "
            f"{key}={path}, in another folder or with --overwrite"
        )


def _fault_of_optimizer(states: Any, trained_by: Any, optimizer: torch.optim.Optimizer) -> str:
    """Load the state of an optimizer; describe why it does not fit, or return ""."""
    name = optimizer_name(optimizer)
    if not isinstance(states, dict) or "optimizer" not in states:
        return "expected the state of the optimizer, got none"
    if trained_by not in (None, name):
        return f"expected the state of {name}, got that of {trained_by}"
    saved, groups = states["optimizer"], optimizer.param_groups
    # Only numbers, because newer versions of torch have added flags.
    settings = [key for key in groups[0] if key != "params" and _is_numeric(groups[0][key])]
    missing = set(settings).difference(*saved["param_groups"])
    if missing:
        without = listed(sorted(missing))
        return f"expected the state of {name}, got that of an optimizer without {without}"
    optimizer.load_state_dict(saved)
    expected = _state_after_a_step(optimizer)
    for parameter, entries in optimizer.state.items():
        for entry, value in expected.get(parameter, {}).items():
            if isinstance(value, torch.Tensor) and _shape(entries.get(entry)) != _shape(value):
                got = _described(entries.get(entry))
                return f"expected {entry} of the optimizer of shape {_shape(value)}, got {got}"
    for group, key in itertools.product(optimizer.param_groups, (*settings, "initial_lr")):
        if key in group and not _is_numeric(group[key]):
            return f"expected finite numbers for {key} of the optimizer, got {show(group[key])}"
    return ""


def _is_numeric(value: Any) -> bool:
    """Return whether a setting of an optimizer is a finite number or several, such as betas."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_numeric, value))
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and bool(value.isfinite())
    return is_finite_number(value)


def _state_after_a_step(optimizer: torch.optim.Optimizer) -> dict[nn.Parameter, dict[str, Any]]:
    """Return the state that an optimizer has for each parameter after its first step.

    The step is made on torch's meta device, where nothing is computed. The state is empty for an
    optimizer that cannot make a step there.
    """
    on_meta = copy.copy(optimizer)  # without the state of a scheduler, which has changed ``step``
    on_meta.state = defaultdict(dict)
    on_meta.param_groups = [{**group} for group in optimizer.param_groups]
    pairs = []
    for group in on_meta.param_groups:
        parameters = group["params"]
        group["params"] = [nn.Parameter(torch.empty_like(p, device="meta")) for p in parameters]
        pairs += zip(parameters, group["params"], strict=True)
    for _, parameter in pairs:
        parameter.grad = torch.empty_like(parameter)
    try:
        on_meta.step()
    except Exception:  # such as one that reads a value
        return {}
    return {parameter: on_meta.state[meta] for parameter, meta in pairs if meta in on_meta.state}


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def _described(value: Any) -> str:
    # The value itself would not help: load_state_dict has turned a text into a generator.
    return f"shape {_shape(value)}" if isinstance(value, torch.Tensor) else "no tensor"


def _fault_of_hooks(states: Any, num_groups: int, scheduler: Any) -> str:
    """Describe why the states of the schedule and the best metric do not fit, or return ""."""
    hook_states = states.get("hooks", {})
    schedule, best = hook_states.get("LRScheduler", {}), hook_states.get("BestCheckpoint", {})
    if isinstance(scheduler, LRMultiplier):
        step, rates = schedule.get("last_epoch"), schedule.get("base_lrs")
        if type(step) is not int or step < 0:
            return f"expected the number of steps of its schedule, got {show(step)}"
        if len(rates) != num_groups or not all(map(math.isfinite, rates)):
            return f"expected {num_groups} finite learning rates, got {show(rates)}"
    if best and not isinstance(best.get("metric"), float):
        return f"expected the best metric as a number, got {show(best.get('metric'))}"
    return ""


def describe_training_data(records: Records) -> dict[str, Any]:
    """Return facts about a training set, from which a resumed run detects changes.

    Args:
        records: its images in Detectron2's format.

    Returns:
        The numbers of images and objects, and a CRC-32 of file names, classes and boxes.
    """
    objects, checksum = 0, 0
    for record in records:
        annotations = record.get("annotations") or ()
        facts = [(entry.get("category_id"), list(entry.get("bbox", ()))) for entry in annotations]
        name = Path(str(record.get("file_name"))).name  # the folder may have moved
        checksum = zlib.crc32(repr((name, facts)).encode("utf-8", "replace"), checksum)
        objects += len(facts)
    return {"images": len(records), "objects": objects, "annotations": f"{checksum:08x}"}


def log_differences(
    states: dict[str, Any],
    extras: dict[str, Any],
    trainer: SimpleTrainer,
    max_iter: int,
    resume_at: int,
) -> bool:
    """Log what differs from the run that wrote a checkpoint: config, training data, learning rate.

    Args:
        states: the extras of the checkpoint that is resumed.
        extras: the extras of the checkpoints of this run.
        trainer: the trainer with the states of the checkpoint.
        max_iter: the length of this run in iterations.
        resume_at: the next iteration.

    Returns:
        Whether the config or the data have changed.
    """
    changes = config_changes(str(states.get("config") or ""), extras["config"])
    if changes:
        more = [f"and {len(changes) - SHOWN} more"] if len(changes) > SHOWN else []
        text = "\n  ".join(["", *changes[:SHOWN], *more])
        logger.warning("Changed since the checkpoint was written:%s", text)
    data_change = _data_change(states.get("training_data"), extras["training_data"])
    if data_change:
        logger.warning("The training data have changed: %s", data_change)
    _log_learning_rate(trainer, max_iter, resume_at)
    return bool(changes or data_change)


def config_changes(before: str, after: str) -> list[str]:
    """Compare two saved configs value by value.

    Args:
        before: the text of a ``config.yaml``; "" if it is unknown.
        after: the text of another.

    Returns:
        A line for each value that differs, except for output folders: ``train.seed: 1 -> 2``. The
        list is empty if a text is empty or is not yaml.
    """
    old, new = saved_values(before), saved_values(after)
    if not old or not new:
        return []
    lines = []
    for key in dict.fromkeys([*old, *new]):
        sides = [show(side[key]) if key in side else "(none)" for side in (old, new)]
        if sides[0] != sides[1] and not key.lower().endswith("output_dir"):
            note = " (no effect: a resumed run keeps the value of its checkpoint)"
            lines.append(f"{key}: {' -> '.join(sides)}{note * key.startswith(WITHOUT_EFFECT)}")
    return lines


def _data_change(before: Any, after: dict[str, Any]) -> str:
    """Describe how the facts about two training sets differ; "" if they are equal or unknown."""
    if not isinstance(before, dict) or not after or before == after:
        return ""
    counts = [
        f"{name}: {before.get(name)} -> {after[name]}"
        for name in ("images", "objects")
        if before.get(name) != after[name]
    ]
    return (
        ", ".join(counts)
        or "other boxes, classes or file names, with the same number of images and objects"
    )


def _log_learning_rate(trainer: SimpleTrainer, max_iter: int, resume_at: int) -> None:
    """Warn if the schedule of this run has another learning rate than the checkpoint."""
    scheduler = next(h.scheduler for h in trainer._hooks if isinstance(h, hooks.LRScheduler))
    groups = trainer.optimizer.param_groups
    if resume_at >= max_iter:
        return
    if isinstance(scheduler, ParamScheduler):
        factor = scheduler(resume_at / max_iter)
        rates = [group.get("initial_lr", group["lr"]) * factor for group in groups]
    elif isinstance(scheduler, LRMultiplier):
        rates = scheduler.get_lr()
    else:
        return
    before, after = max(float(group["lr"]) for group in groups), max(rates)
    if not math.isclose(before, after, rel_tol=0.01):
        logger.warning(
            "The learning rate changes from %.3g to %.3g after iteration %d, because the schedule "
            "of this run is not that of the checkpoint: it is stretched to the %d iterations of "
            "the run, and %d are done. To continue with a low learning rate, start a new run "
            "from the weights",
            *(before, after, resume_at, max_iter, resume_at),
        )
