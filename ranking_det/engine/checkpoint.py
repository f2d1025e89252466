"""Checkpoints: written whole or not at all; read with an error where Detectron2 would go on.

All weights are read here, by :class:`SafeCheckpointer`, whoever wrote the file.
"""

from __future__ import annotations

import copy
import logging
import pickle
import struct
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ranking_det.criteria import CriterionBase
from ranking_det.engine.command import Command
from ranking_det.engine.output_folder import RESUMABLE, discard_earlier, has_training
from ranking_det.engine.run_checks import check_file
from ranking_det.engine.safe_unpickling import read_torch, read_weights
from ranking_det.files import PARTIAL, rename_whole, write_whole
from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)

# What torch, pickle and Detectron2 raise over a file that is no checkpoint, or cannot be fetched.
UNREADABLE = (
    *(AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, OverflowError),
    *(RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error),
)
BEST, FINAL = "model_best", "model_final"
# How Detectron2's main lets a path ask for names to be matched by their ends; 0.6 cannot.
HEURISTICS = "?matching_heuristics=True"


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which runs nothing that is in a file.

    Detectron2 unpickles ``.pkl`` and ``.pyth`` files as they are, and leaves it to torch's version
    and environment what a ``.pth`` may do.
    """

    _by_heuristics = False

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As Detectron2's, on 0.6 too with main's ``?matching_heuristics=True`` behind a path."""
        self._by_heuristics = path.endswith(HEURISTICS)
        content: dict[str, Any] = super().load(path.removesuffix(HEURISTICS), *args, **kwargs)
        return content

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_weights(filename)
        return content | {"matching_heuristics": True} if self._by_heuristics else content


class RunCheckpointer(SafeCheckpointer):
    """Detectron2's checkpointer, which a kill or a full disk leaves with the last good checkpoint.

    A checkpoint is written under a temporary name and renamed when it is whole.

    Args:
        model: plain or distributed.
        save_dir: the output folder.
        extras: what every checkpoint holds beside the model, such as the names of the classes.
        checkpointables: as in Detectron2.
    """

    def __init__(self, *args: Any, extras: dict[str, Any], **checkpointables: Any) -> None:
        super().__init__(*args, **checkpointables)
        self.extras = extras

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth in the output folder.

        Raises:
            UserError: the disk is full, the folder can no longer be written to, or the weights
                are not finite; earlier checkpoints stay as they are.
        """
        broken = [n for n, p in self.model.named_parameters() if not p.isfinite().all()]
        if broken:  # the next step's loss would tell, too late for this checkpoint
            raise UserError(
                f"{len(broken)} parameters are not finite (the first: {broken[0]}), so that "
                f"{name}.pth is not written: a gradient was NaN or infinite. Try a lower learning "
                "rate, a longer warm-up or gradient clipping"
            )
        partial = Path(self.save_dir, f"{name}{PARTIAL}.pth")
        try:
            super().save(f"{name}{PARTIAL}", **self.extras, **kwargs)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            # torch's writer turns a failed write into a RuntimeError.
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"the checkpoint {name}.pth could not be written to {self.save_dir} ({reason}); "
                f"{after_full_disk(self.save_dir)}"
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Give the file, now whole, its name, and point to it."""
        final = last_filename_basename.replace(PARTIAL, "")
        rename_whole(Path(self.save_dir, last_filename_basename), Path(self.save_dir, final))
        if RESUMABLE.fullmatch(final):
            # Before the pointer: a folder with one then has no other training put aside.
            discard_earlier(self.save_dir)
            write_whole(Path(self.save_dir, "last_checkpoint"), final)


def after_full_disk(output_dir: str) -> str:
    """What to do with a training that a full disk has stopped."""
    last = find_last(output_dir)
    if last:
        return f"free some space and go on from {last} with --resume"
    return "free some space and start again with --overwrite; there is no checkpoint yet"


class Checkpoint(NamedTuple):
    """A file of weights, and what was read of it.

    Attributes:
        path: a file, a URL, or "" for none.
        extras: see :func:`read_extras`; empty if it has not been read.
    """

    path: str
    extras: dict[str, Any]

    @property
    def next_iteration(self) -> int:
        """The iteration at which a training goes on from it; 0 if it cannot."""
        return int(self.extras.get("iteration", -1)) + 1


def read_extras(path: str) -> dict[str, Any]:
    """What a checkpoint holds beside weights and states: iteration, classes and so on.

    Raises:
        UserError: it cannot be read.
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
    """The path of the last checkpoint of a run, or "" if there is none."""
    pointer = Path(output_dir, "last_checkpoint")
    return str(Path(output_dir, pointer.read_text().strip())) if pointer.is_file() else ""


def find_resumable(output_dir: str) -> Checkpoint | None:
    """The last checkpoint of a run or, if that is missing or broken, the latest that is whole."""
    last = find_last(output_dir)
    checkpoint = _read_or_skip(last) if last else None
    if checkpoint is not None:
        return checkpoint
    paths = Path(output_dir).glob("model_*.pth")
    others = map(_read_or_skip, (str(path) for path in paths if RESUMABLE.fullmatch(path.name)))
    return max(filter(None, others), key=lambda c: (c.next_iteration, c.path), default=None)


def _read_or_skip(path: str) -> Checkpoint | None:
    """The checkpoint if a training can go on from it."""
    try:
        checkpoint = Checkpoint(path, read_extras(path))
    except UserError:
        return None
    return checkpoint if checkpoint.next_iteration else None


def find_weights(
    command: Command, given: str, output_dir: str, keys: tuple[str, str]
) -> Checkpoint:
    """The checkpoint to evaluate, to predict with, to resume or to start from.

    It is read unless a training only starts from its weights.

    Args:
        command: says which of these.
        given: the weights that the config names, or "".
        output_dir: the run's folder, whose last checkpoint is what a run resumes, and what is
            evaluated or predicted with where none is given.
        keys: how messages name the two.

    Raises:
        UserError: there are no weights to evaluate, to predict with or to resume, or no such
            file.
    """
    if command.resume:
        return _find_resumed(output_dir, keys[1])
    needs = "--eval-only" if command.eval_only else "--predict" if command.predict else ""
    last = find_last(output_dir) if needs else ""
    if given:
        check_file(given.removesuffix(HEURISTICS), "the checkpoint")
    elif last:
        check_file(last, f"the last checkpoint of {keys[1]}={output_dir},")
    elif needs:
        raise UserError(
            f"{needs} has no weights: give {keys[0]} (there is no checkpoint in "
            f"{keys[1]}={output_dir})"
        )
    path = given or last
    return Checkpoint(path, read_extras(path) if needs else {})


def _find_resumed(output_dir: str, key: str) -> Checkpoint:
    checkpoint = find_resumable(output_dir)
    if checkpoint is not None:
        return checkpoint
    last, reason = find_last(output_dir), ""
    if last:
        try:
            check_file(last, "the last checkpoint")
            read_extras(last)
            reason = f" to go on from: {last!r} has no iteration"
        except UserError as error:
            reason = f" to go on from: {error}"
    begun = has_training(Path(output_dir))
    way_out = "start again with --overwrite" if begun else "start without --resume"
    raise UserError(f"--resume: no checkpoint in {key}={output_dir}{reason}; {way_out}")


def load_weights(model: nn.Module, path: str, *, whole: bool) -> None:
    """Load a model's weights, and nothing else, from a checkpoint; nothing in it is run.

    What a criterion remembers of a training (steps, averages, balances) is left as it is unless
    ``whole``: a new training begins its own.

    Args:
        model: gets the weights; not distributed.
        path: a checkpoint, or "" to leave the model as it was initialised.
        whole: every parameter must be in the checkpoint, as for evaluation. Otherwise some must,
            as when a training starts from a backbone's weights.

    Raises:
        UserError: there is no such file, it is no checkpoint, or holds more than data, or it is
            one of another model.
    """
    if not path:
        return
    missing: list[str] = []
    criteria = [] if whole else [m for m in model.modules() if isinstance(m, CriterionBase)]
    memories = [copy.deepcopy(criterion.state_dict()) for criterion in criteria]
    hook = model.register_load_state_dict_post_hook(
        lambda _, keys: missing.extend(keys.missing_keys)
    )
    try:
        SafeCheckpointer(model).load(path, checkpointables=[])
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    finally:
        hook.remove()
    for criterion, memory in zip(criteria, memories, strict=True):
        criterion.load_state_dict(memory)
    names = [name for name, _ in model.named_parameters()]
    absent = [name for name in names if name in set(missing)]
    if len(absent) == len(names) or (whole and absent):
        raise UserError(
            f"the checkpoint {path!r} is of another model: it lacks {len(absent)} of the model's "
            f"{len(names)} parameters, or has them in another shape (the first: {absent[0]!r})"
        )
    if absent:
        logger.warning("%d of %d parameters start afresh: %s", len(absent), len(names), absent)
