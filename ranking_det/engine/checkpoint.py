"""Atomic checkpoint writes; safe and strict loading of weights.

:func:`read_checkpoint` reads weights from any source without running code from the file, and
verifies its checksums. Weights that do not fit the model are an error, where Detectron2 would only
log a warning.
"""

from __future__ import annotations

import copy
import logging
import pickle
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import Detectron2Handler, PathManager
from torch import nn

from ranking_det.criteria import CriterionBase
from ranking_det.engine.command import Command
from ranking_det.engine.failures import output_failure
from ranking_det.engine.output_folder import RESUMABLE, discard_earlier, has_training
from ranking_det.engine.run_checks import LARGEST
from ranking_det.engine.safe_unpickling import read_weights
from ranking_det.files import PARTIAL, partial_path, rename_whole, write_whole
from ranking_det.path_checks import check_file
from ranking_det.user_errors import (
    RunError,
    UserError,
    disable_log,
    listed,
    quantity,
    reason_of,
    show,
)

logger = logging.getLogger(__name__)

# Raised by torch, pickle and Detectron2 for a file that is not a checkpoint or cannot be fetched.
UNREADABLE = (
    *(AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, OverflowError),
    *(RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error),
)
REMEDIES = (
    "Try gradient clipping, a longer warm-up or training without mixed precision (AMP), or start a "
    "new run with a lower learning rate: a run that is continued with --resume keeps that of its "
    "checkpoint."
)
"""What helps against weights and losses that are not finite."""

BEST, FINAL = "model_best", "model_final"
# The suffix of a path with which Detectron2's main branch, unlike 0.6, matches parameter names by
# their ends.
HEURISTICS = "?matching_heuristics=True"


class _FinalNames(logging.LoggerAdapter):
    """Logger that names a checkpoint by its final name while it has a temporary one."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        return str(msg).replace(f"{PARTIAL}.pth", ".pth"), kwargs


class RunCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes and safe unpickling.

    A checkpoint is written under a temporary name and renamed when it is complete. A kill or a
    full disk therefore leaves the previous checkpoint intact.

    Detectron2 unpickles ``.pkl`` and ``.pyth`` files without restriction. Whether a ``.pth`` file
    can run code depends on torch's version and environment. This class never runs code from a file.

    Args:
        model: plain or distributed.
        save_dir: the output folder.
        extras: entries that every checkpoint has in addition to the model, such as the class names.
        checkpointables: as in Detectron2.
    """

    def __init__(self, *args: Any, extras: dict[str, Any], **checkpointables: Any) -> None:
        super().__init__(*args, **checkpointables)
        self.logger = _FinalNames(self.logger, {})
        self.extras = extras

    def _load_file(self, filename: str) -> dict[str, Any]:
        return read_weights(filename)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth to the output folder.

        Args:
            name: the file name without its suffix.
            kwargs: further entries of the checkpoint, such as the iteration.

        Raises:
            RunError: the disk is full, the folder cannot be written to any more, or a weight is NaN
                or infinite. Earlier checkpoints stay unchanged.
        """
        faulty = _not_finite(self.model)
        if faulty:  # the loss of the next step would show it, but too late for this checkpoint
            raise RunError(
                f"{name}.pth: expected finite weights, got {faulty}, because an activation or a "
                f"gradient was not finite. {REMEDIES}"
            )
        partial = Path(self.save_dir, f"{name}{PARTIAL}.pth")
        try:
            super().save(f"{name}{PARTIAL}", **self.extras, **kwargs)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            # torch's zip writer turns a failed write into a RuntimeError.
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            advice = how_to_continue(self.save_dir)
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            failure = output_failure(cause, self.save_dir, advice) or (
                f"cannot write to {self.save_dir} ({reason_of(error)}); free some space and "
                f"{advice}"
            )
            raise RunError(f"{name}.pth could not be written: {failure}") from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Rename the complete file, and write its name to ``last_checkpoint``.

        Args:
            last_filename_basename: the temporary file name.
        """
        final = last_filename_basename.replace(PARTIAL, "")
        rename_whole(Path(self.save_dir, last_filename_basename), Path(self.save_dir, final))
        if RESUMABLE.fullmatch(final):
            # Discard the earlier run before last_checkpoint is written, so that a folder never has
            # both.
            discard_earlier(self.save_dir)
            write_whole(Path(self.save_dir, "last_checkpoint"), final)


def how_to_continue(output_dir: str) -> str:
    """Return the advice for a run that was stopped.

    Args:
        output_dir: the output folder of the run.
    """
    try:
        last = find_last(output_dir)
    except UserError:  # a resumed run has not replaced last_checkpoint yet
        return "continue with --resume"
    if last:
        return f"continue from {last} with --resume"
    return "start again with --overwrite (there is no checkpoint yet)"


class Checkpoint(NamedTuple):
    """A checkpoint file and its content.

    Attributes:
        path: a file or a URL; "" for none.
        content: "model" with the weights, "trainer" with the states of a run, and the extras.
        note: why the last checkpoint of the folder could not be resumed instead; "" if this is the
            last one.
    """

    path: str
    content: dict[str, Any]
    note: str = ""

    @property
    def extras(self) -> dict[str, Any]:
        """The entries other than weights and states: iteration, classes and so on."""
        return {key: v for key, v in self.content.items() if key not in ("model", "trainer")}

    @property
    def next_iteration(self) -> int:
        """The iteration at which a resumed run starts."""
        return int(self.content["iteration"]) + 1

    def release(self) -> None:
        """Drop weights and states, which also frees the disk space of a file that was deleted."""
        for key in ("model", "trainer"):
            self.content.pop(key, None)


def read_checkpoint(path: str) -> Checkpoint:
    """Read a checkpoint without running code from the file, and verify its checksums.

    Args:
        path: a file or URL; "" for none. With ``?matching_heuristics=True`` at its end, parameter
            names are matched by their ends, as in Detectron2's main branch.

    Raises:
        UserError: the file does not exist, is not a checkpoint, contains objects other than plain
            data, or has changed since it was written.
    """
    if not path:
        return Checkpoint("", {})
    file = path.removesuffix(HEURISTICS)
    try:
        content = read_weights(PathManager.get_local_path(file))
        _check_weights(content["model"])
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    if file != path:
        content["matching_heuristics"] = True
    return Checkpoint(path, content)


FITTED = "fitted_scores"
"""The entry of a checkpoint with calibrators and thresholds; training does not write it."""


def add_entry(checkpoint: Checkpoint, name: str, value: Any) -> None:
    """Write a checkpoint again, atomically, with one more entry.

    Args:
        checkpoint: a checkpoint that was read from a torch file.
        name: the name of the entry; an earlier one is replaced.
        value: plain values, lists and dicts.

    Raises:
        UserError: the file cannot be written. It then stays unchanged.
    """
    path = Path(checkpoint.path).resolve()
    partial = partial_path(path)
    try:
        torch.save({**checkpoint.content, name: value}, partial)
        rename_whole(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{checkpoint.path!r} cannot be written ({reason_of(error)})") from error


def read_best(path: str) -> dict[str, float]:
    """Read the best metric and its iteration from the best checkpoint.

    Args:
        path: ``model_best.pth``.

    Returns:
        ``metric`` and ``iteration``; an empty dict if the checkpoint does not have them.

    Raises:
        UserError: the file is broken.
    """
    best = read_checkpoint(path).content.get("best") or {}
    if best and not (isinstance(best, dict) and isinstance(best.get("metric"), float)):
        raise UserError(f"{path!r}: best: expected a metric and its iteration, got {show(best)}")
    return best


def _check_weights(weights: Any) -> None:
    if not isinstance(weights, dict):
        raise ValueError(f"model: expected weights by name, got a {type(weights).__name__}")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, (torch.Tensor, np.ndarray)):
            kind = type(value).__name__
            raise ValueError(f"model: expected only weights, got {show(name)} of type {kind}")


def _unreadable(path: str, error: BaseException) -> UserError:
    return UserError(f"{path!r} cannot be read as a checkpoint ({reason_of(error)})")


def find_last(output_dir: str) -> str:
    """Return the path of the last checkpoint of an output folder, or "" if there is none.

    Args:
        output_dir: the output folder of a run, which has the file ``last_checkpoint``.

    Raises:
        UserError: ``last_checkpoint`` does not have the name of a checkpoint of its folder.
    """
    pointer = Path(output_dir, "last_checkpoint")
    if not pointer.is_file():
        return ""
    with pointer.open("rb") as file:
        name = file.read(300).decode(errors="replace").strip()
    if not name.isprintable() or not name.endswith(".pth") or Path(name).name != name:
        raise UserError(
            f"{pointer}: expected the name of a checkpoint in this folder, such as "
            f"{FINAL}.pth, got {show(name)}"
        )
    return str(Path(output_dir, name))


def find_resumable(output_dir: str) -> Checkpoint | None:
    """Find the checkpoint to resume: the last one or, if it is broken, the latest intact one.

    Args:
        output_dir: the output folder of the run.

    Returns:
        The checkpoint; None if the folder has none that can be resumed.
    """
    note = "the file last_checkpoint is missing"
    try:
        last = find_last(output_dir)
        if last:
            return _read_resumable(last)
    except UserError as error:
        note = str(error)
    paths = Path(output_dir).glob("model_*.pth")
    earlier = map(_read_or_skip, (str(path) for path in paths if RESUMABLE.fullmatch(path.name)))
    latest = max(filter(None, earlier), key=lambda c: (c.next_iteration, c.path), default=None)
    return latest and latest._replace(note=note)


def _read_or_skip(path: str) -> Checkpoint | None:
    """Read a checkpoint; return None if a run cannot be resumed from it."""
    try:
        return _read_resumable(path)
    except UserError:
        return None


def _read_resumable(path: str) -> Checkpoint:
    """Read a checkpoint; raise UserError if a run cannot be resumed from it."""
    check_file(path, "the last checkpoint")
    checkpoint = read_checkpoint(path)
    check_extras(checkpoint)
    iteration = checkpoint.content.get("iteration")
    if iteration is None:
        raise UserError(f"{path!r} has no iteration")
    if type(iteration) is not int or not 0 <= iteration < LARGEST:
        expected = f"an integer from 0 to {LARGEST - 1}"
        raise UserError(f"{path!r}: iteration: expected {expected}, got {show(iteration)}")
    return checkpoint


def check_extras(checkpoint: Checkpoint) -> None:
    """Check the class names, the category ids and the config in a checkpoint.

    Args:
        checkpoint: any checkpoint; it need not have these entries.

    Raises:
        UserError: an entry has another type.
    """
    content = checkpoint.content
    names, ids, config = (content.get(key) for key in ("class_names", "category_ids", "config"))
    count = f"{len(names)} " if isinstance(names, list) else ""
    faults = [
        ("class_names", "a list of names", names, not _is_list(names, str) or not names),
        (
            "category_ids",
            f"a list of {count}category ids",
            ids,
            not _is_list(ids, (int, str)) or (count and len(ids) != len(names)),
        ),
        ("config", "the text of a config.yaml", config, not isinstance(config, str)),
    ]
    for entry, expected, value, is_faulty in faults:
        if value is not None and is_faulty:
            path = checkpoint.path
            raise UserError(f"{path!r}: {entry}: expected {expected}, got {show(value)}")


def _is_list(value: Any, kind: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, kind) for entry in value)


def find_weights(
    command: Command, weights: str, output_dir: str, keys: tuple[str, str]
) -> Checkpoint:
    """Find the checkpoint to evaluate, to predict with, to resume or to start from.

    Args:
        command: the command, which determines the purpose.
        weights: the file or URL of the weights that the config names; "" for none.
        output_dir: the output folder. ``--resume`` takes its last checkpoint; ``--eval-only`` and
            ``--predict`` do so if ``weights`` is empty.
        keys: the config keys of ``weights`` and ``output_dir``, for messages.

    Raises:
        UserError: there are no weights to evaluate, to predict with or to resume, or the file does
            not exist, cannot be downloaded or cannot be read.
    """
    weights_key, folder_key = keys
    if command.resume:
        return _find_resumed(output_dir, folder_key)
    flag = "--eval-only" if command.eval_only else "--predict" if command.predict else ""
    last = find_last(output_dir) if flag and not weights else ""
    if weights:
        check_file(weights.removesuffix(HEURISTICS), weights_key)
        _download(weights.removesuffix(HEURISTICS), weights_key)
    elif last:
        check_file(last, f"the last checkpoint of {folder_key}={output_dir}")
    elif flag:
        raise UserError(
            f"{flag}: expected weights, got none; give {weights_key}=FILE (there is no checkpoint "
            f"in {folder_key}={output_dir})"
        )
    checkpoint = read_checkpoint(weights or last)
    if flag:
        check_extras(checkpoint)
    return checkpoint


def _download(path: str, key: str) -> None:
    """Download weights to Detectron2's cache; do nothing for a local file."""
    if "://" not in path:
        return
    try:
        with disable_log():  # it logs a failure that our message names
            local = PathManager.get_local_path(path)
    except UNREADABLE as error:
        reason = str(error)
    else:
        if Path(local).is_file():
            return
        reason = "unknown kind of address"
    url = path.replace(Detectron2Handler.PREFIX, Detectron2Handler.S3_DETECTRON2_PREFIX)
    raise UserError(
        f"{key}: cannot download {url} ({reason}); download this file on another machine, and "
        f"give its path with {key}=FILE"
    )


def _find_resumed(output_dir: str, key: str) -> Checkpoint:
    checkpoint = find_resumable(output_dir)
    if checkpoint is not None:
        return checkpoint
    reason = ""
    try:
        last = find_last(output_dir)
        if last:
            _read_resumable(last)
    except UserError as error:
        reason = f" that can be resumed ({error})"
    replaces = has_training(Path(output_dir))
    remedy = "start again with --overwrite" if replaces else "start without --resume"
    raise UserError(
        f"--resume: expected a checkpoint in {key}={output_dir}, got none{reason}; {remedy}"
    )


def _not_finite(model: nn.Module) -> str:
    """Describe the parameters and buffers that have NaN or infinity; "" if there are none.

    Infinite running statistics of batch normalization make the detections wrong, but no loss.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    names = [name for name, tensor in tensors if not tensor.isfinite().all()]
    if not names:
        return ""
    count = quantity(len(names), "parameter or buffer", "parameters and buffers")
    return f"NaN or infinity in {count} (the first: {names[0]!r})"


def load_weights(model: nn.Module, weights: Checkpoint | str, *, strict: bool) -> None:
    """Load only the weights of a checkpoint into a model.

    The state that a criterion collects in training (steps, averages, balances) is loaded only if
    ``strict``: a new run starts with fresh state.

    Args:
        model: the model to load into, not distributed.
        weights: a checkpoint, or the path to read it from (see :func:`read_checkpoint`); "" to
            leave the model as it was initialized.
        strict: whether the checkpoint must have every parameter, as for an evaluation. Otherwise it
            must have at least one, as when a run starts from the weights of a backbone.

    Raises:
        UserError: the checkpoint belongs to another model, has a weight that is NaN or infinite, or
            cannot be read.
    """
    checkpoint = read_checkpoint(weights) if isinstance(weights, str) else weights
    path, content = checkpoint.path, checkpoint.content
    if not path:
        return
    logger.info("Loading the weights of %s", path)
    criteria = [] if strict else [m for m in model.modules() if isinstance(m, CriterionBase)]
    criterion_states = [copy.deepcopy(criterion.state_dict()) for criterion in criteria]
    try:
        # Detectron2 modifies the dict that it receives.
        state = {**content, "model": copy.copy(content["model"])}
        misfits = RunCheckpointer(model, extras={})._load_model(state)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    for criterion, criterion_state in zip(criteria, criterion_states, strict=True):
        criterion.load_state_dict(criterion_state)
    shapes = {
        key: f" ({shape} there, {model_shape} here)"
        for key, shape, model_shape in misfits.incorrect_shapes
    }
    missing = {*misfits.missing_keys, *shapes}
    names = [name for name, _ in model.named_parameters()]
    absent = [name for name in names if name in missing]
    if len(absent) == len(names) or (strict and absent):
        raise UserError(
            f"{path!r} is a checkpoint of another model: {len(absent)} of the model's {len(names)} "
            f"parameters are missing or have another shape (the first: {absent[0]!r})"
        )
    faulty = _not_finite(model)
    if faulty:
        raise UserError(f"{path!r}: expected finite weights, got {faulty}")
    criterion_buffers = {id(buffer) for criterion in criteria for buffer in criterion.buffers()}
    absent += [
        name
        for name, buffer in model.named_buffers()
        if name in missing and id(buffer) not in criterion_buffers
    ]
    if absent:
        logger.warning(
            "%s missing from the checkpoint or different in shape, so the initial values stay: %s",
            quantity(len(absent), "parameter or buffer is", "parameters and buffers are"),
            listed([f"{name}{shapes.get(name, '')}" for name in absent], shown=20),
        )
    if misfits.unexpected_keys:
        logger.warning(
            "%s not used by the model: %s",
            quantity(
                len(misfits.unexpected_keys),
                "entry of the checkpoint is",
                "entries of the checkpoint are",
            ),
            listed(misfits.unexpected_keys, shown=20),
        )
