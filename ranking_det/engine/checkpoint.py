"""Atomic checkpoint writes; safe and strict loading of weights.

:class:`SafeCheckpointer` reads weights from any source without running code from the file. Weights
that do not fit the model are an error, where Detectron2 would only log a warning.
"""

from __future__ import annotations

import copy
import logging
import pickle
import struct
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import Detectron2Handler, PathManager
from fvcore.common.checkpoint import _IncompatibleKeys
from torch import nn

from ranking_det.criteria import CriterionBase
from ranking_det.engine.command import Command
from ranking_det.engine.failures import output_failure
from ranking_det.engine.output_folder import RESUMABLE, discard_earlier, has_training
from ranking_det.engine.run_checks import check_file
from ranking_det.engine.safe_unpickling import read_torch, read_weights
from ranking_det.files import PARTIAL, rename_whole, write_whole
from ranking_det.user_errors import UserError, listed, reason_of

logger = logging.getLogger(__name__)

# Raised by torch, pickle and Detectron2 for a file that is not a checkpoint or cannot be fetched.
UNREADABLE = (
    *(AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, OverflowError),
    *(RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error),
)
BEST, FINAL = "model_best", "model_final"
# The suffix of a path with which Detectron2's main branch, unlike 0.6, matches parameter names by
# their ends.
HEURISTICS = "?matching_heuristics=True"


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that never runs code from a file (safe unpickling).

    Detectron2 unpickles ``.pkl`` and ``.pyth`` files without restriction. Whether a ``.pth`` file
    can run code depends on torch's version and environment.
    """

    _by_heuristics = False
    misfits: _IncompatibleKeys
    """The entries of the last loaded checkpoint that do not fit the model."""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint as Detectron2 does.

        Args:
            path: a file or URL. With ``?matching_heuristics=True`` at its end, parameter names are
                matched by their ends, as in Detectron2's main branch.
            args: as in Detectron2.
            kwargs: as in Detectron2.

        Returns:
            The content of the checkpoint except weights and states.
        """
        self._by_heuristics = path.endswith(HEURISTICS)
        content: dict[str, Any] = super().load(path.removesuffix(HEURISTICS), *args, **kwargs)
        return content

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_weights(filename)
        return content | {"matching_heuristics": True} if self._by_heuristics else content

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        """Keep the misfits for :func:`load_weights`; fvcore would log some of them twice."""
        self.misfits = incompatible


class _FinalNames(logging.LoggerAdapter):
    """Logger that names a checkpoint by its final name while it has a temporary one."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        return str(msg).replace(f"{PARTIAL}.pth", ".pth"), kwargs


class RunCheckpointer(SafeCheckpointer):
    """Detectron2's checkpointer with atomic writes.

    A checkpoint is written under a temporary name and renamed when it is complete. A kill or a
    full disk therefore leaves the previous checkpoint intact.

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

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth to the output folder.

        Args:
            name: the file name without its suffix.
            kwargs: further entries of the checkpoint, such as the iteration.

        Raises:
            UserError: the disk is full, the folder cannot be written to any more, or a weight is
                NaN or infinite. Earlier checkpoints stay unchanged.
        """
        broken = [n for n, p in self.model.named_parameters() if not p.isfinite().all()]
        if broken:  # the loss of the next step would show it, but too late for this checkpoint
            raise UserError(
                f"{name}.pth: expected finite weights, got NaN or infinity in {len(broken)} "
                f"parameters (the first: {broken[0]}), because a gradient was not finite; try a "
                "lower learning rate, a longer warm-up or gradient clipping"
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
            raise UserError(f"{name}.pth could not be written: {failure}") from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Rename the complete file, and write its name to ``last_checkpoint``.

        Args:
            last_filename_basename: the temporary file name.
        """
        final = last_filename_basename.replace(PARTIAL, "")
        rename_whole(Path(self.save_dir, last_filename_basename), Path(self.save_dir, final))
        if RESUMABLE.fullmatch(final):
            # Discard it before last_checkpoint is written: a folder never has both that file and an
            # earlier run that was put aside.
            discard_earlier(self.save_dir)
            write_whole(Path(self.save_dir, "last_checkpoint"), final)


def how_to_continue(output_dir: str) -> str:
    """Return the advice for a run that was stopped.

    Args:
        output_dir: the output folder of the run.
    """
    last = find_last(output_dir)
    if last:
        return f"continue from {last} with --resume"
    return "start again with --overwrite (there is no checkpoint yet)"


class Checkpoint(NamedTuple):
    """A checkpoint file and its entries other than weights.

    Attributes:
        path: a file or a URL; "" for none.
        extras: see :func:`read_extras`; empty if the file has not been read.
    """

    path: str
    extras: dict[str, Any]

    @property
    def next_iteration(self) -> int:
        """The iteration at which a resumed run starts; 0 if it cannot be resumed."""
        return int(self.extras.get("iteration", -1)) + 1


def read_extras(path: str) -> dict[str, Any]:
    """Read the entries of a checkpoint other than weights and states: iteration, classes and so on.

    Args:
        path: a file or a URL; only local ``.pth`` files have such entries.

    Raises:
        UserError: the file cannot be read.
    """
    if not path.endswith(".pth") or "://" in path:
        return {}
    try:
        content = read_torch(path, mmap=True)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if key not in ("model", "trainer")}


def _unreadable(path: str, error: BaseException) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(f"{path!r} cannot be read as a checkpoint ({reason})")


def find_last(output_dir: str) -> str:
    """Return the path of the last checkpoint of an output folder, or "" if there is none."""
    pointer = Path(output_dir, "last_checkpoint")
    return str(Path(output_dir, pointer.read_text().strip())) if pointer.is_file() else ""


def find_resumable(output_dir: str) -> Checkpoint | None:
    """Find the checkpoint to resume: the last one or, if it is broken, the latest intact one.

    Args:
        output_dir: the output folder of the run.

    Returns:
        The checkpoint; None if the folder has none that can be resumed.
    """
    last = find_last(output_dir)
    checkpoint = _read_or_skip(last) if last else None
    if checkpoint is not None:
        return checkpoint
    paths = Path(output_dir).glob("model_*.pth")
    earlier = map(_read_or_skip, (str(path) for path in paths if RESUMABLE.fullmatch(path.name)))
    return max(filter(None, earlier), key=lambda c: (c.next_iteration, c.path), default=None)


def _read_or_skip(path: str) -> Checkpoint | None:
    """Read a checkpoint; return None if a run cannot be resumed from it."""
    try:
        checkpoint = Checkpoint(path, read_extras(path))
    except UserError:
        return None
    return checkpoint if checkpoint.next_iteration else None


def find_weights(
    command: Command, weights: str, output_dir: str, keys: tuple[str, str]
) -> Checkpoint:
    """Find the checkpoint to evaluate, to predict with, to resume or to start from.

    The extras of the checkpoint are read, except for a run that only starts from its weights.

    Args:
        command: the command, which determines the purpose.
        weights: the file or URL of the weights that the config names; "" for none.
        output_dir: the output folder. ``--resume`` takes its last checkpoint; ``--eval-only`` and
            ``--predict`` do so if ``weights`` is empty.
        keys: the config keys of ``weights`` and ``output_dir``, for messages.

    Raises:
        UserError: there are no weights to evaluate, to predict with or to resume, or the file does
            not exist or cannot be downloaded.
    """
    weights_key, folder_key = keys
    if command.resume:
        return _find_resumed(output_dir, folder_key)
    flag = "--eval-only" if command.eval_only else "--predict" if command.predict else ""
    last = find_last(output_dir) if flag else ""
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
    path = weights or last
    return Checkpoint(path, read_extras(path) if flag else {})


def _download(path: str, key: str) -> None:
    """Download weights to Detectron2's cache; do nothing for a local file."""
    if "://" not in path:
        return
    try:
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
    last, reason = find_last(output_dir), ""
    if last:
        try:
            check_file(last, "the last checkpoint")
            read_extras(last)
            reason = f" that can be resumed ({last!r} has no iteration)"
        except UserError as error:
            reason = f" that can be resumed ({error})"
    replaces = has_training(Path(output_dir))
    remedy = "start again with --overwrite" if replaces else "start without --resume"
    raise UserError(
        f"--resume: expected a checkpoint in {key}={output_dir}, got none{reason}; {remedy}"
    )


def load_weights(model: nn.Module, path: str, *, whole: bool) -> None:
    """Load only the weights of a checkpoint into a model, without running code from the file.

    The state that a criterion collects in training (steps, averages, balances) is loaded only if
    ``whole``: a new run starts with fresh state.

    Args:
        model: gets the weights; not distributed.
        path: a checkpoint, or "" to leave the model as it was initialised.
        whole: whether the checkpoint must have every parameter, as for an evaluation. Otherwise it
            must have at least one, as when a run starts from the weights of a backbone.

    Raises:
        UserError: the file does not exist, is not a checkpoint, contains objects other than plain
            data, or belongs to another model.
    """
    if not path:
        return
    criteria = [] if whole else [m for m in model.modules() if isinstance(m, CriterionBase)]
    memories = [copy.deepcopy(criterion.state_dict()) for criterion in criteria]
    checkpointer = SafeCheckpointer(model)
    try:
        checkpointer.load(path, checkpointables=[])
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    for criterion, memory in zip(criteria, memories, strict=True):
        criterion.load_state_dict(memory)
    misfits = checkpointer.misfits
    shapes = {
        key: f" ({there} there, {here} here)" for key, there, here in misfits.incorrect_shapes
    }
    missing = {*misfits.missing_keys, *shapes}
    names = [name for name, _ in model.named_parameters()]
    absent = [name for name in names if name in missing]
    if len(absent) == len(names) or (whole and absent):
        raise UserError(
            f"{path!r} is a checkpoint of another model: {len(absent)} of the model's {len(names)} "
            f"parameters are missing or have another shape (the first: {absent[0]!r})"
        )
    criterion_buffers = {id(buffer) for criterion in criteria for buffer in criterion.buffers()}
    absent += [
        name
        for name, buffer in model.named_buffers()
        if name in missing and id(buffer) not in criterion_buffers
    ]
    if absent:
        logger.warning(
            "%d parameters and buffers are missing from the checkpoint, or have another shape "
            "there, and keep their initial values: %s",
            len(absent),
            listed([f"{name}{shapes.get(name, '')}" for name in absent], shown=20),
        )
    if misfits.unexpected_keys:
        logger.warning(
            "%d entries of the checkpoint are not used by the model: %s",
            len(misfits.unexpected_keys),
            listed(misfits.unexpected_keys, shown=20),
        )
