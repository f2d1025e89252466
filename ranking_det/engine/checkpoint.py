"""Loading weights, with an error where Detectron2 would go on with random ones."""

from __future__ import annotations

import argparse
import copy
import logging
import pickle
from pathlib import Path

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ranking_det.config import ConfigError
from ranking_det.engine.errors import check_file

logger = logging.getLogger(__name__)

# What torch, pickle and Detectron2 raise over a file that is no checkpoint, or cannot be fetched.
UNREADABLE = (
    AssertionError,
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


def find_last(output_dir: str) -> str:
    """The path of the last checkpoint of a run, or "" if there is none."""
    pointer = Path(output_dir, "last_checkpoint")
    return str(Path(output_dir, pointer.read_text().strip())) if pointer.is_file() else ""


def find_weights(
    args: argparse.Namespace, given: str, output_dir: str, keys: tuple[str, str]
) -> str:
    """The checkpoint to evaluate, to resume or to start from; "" to start from scratch.

    Args:
        args: ``eval_only`` and ``resume`` of the command line.
        given: the weights that the config names, or "".
        output_dir: the run's folder, whose last checkpoint is what a run resumes, and what is
            evaluated where none is given.
        keys: how messages name the two.

    Raises:
        ConfigError: there are no weights to evaluate or to resume, or no such file.
    """
    last = find_last(output_dir)
    if last and (args.resume or (args.eval_only and not given)):
        check_file(last, f"the last checkpoint of {keys[1]}={output_dir},")
    if args.resume and not args.eval_only:
        if not last:
            raise ConfigError(f"--resume: no checkpoint in {keys[1]}={output_dir}")
        return last
    if given:
        check_file(given, "the checkpoint")
        return given
    if args.eval_only and not last:
        raise ConfigError(
            f"--eval-only has no weights: give {keys[0]} (there is no checkpoint in "
            f"{keys[1]}={output_dir})"
        )
    return last if args.eval_only else ""


def load_weights(checkpointer: DetectionCheckpointer, path: str, *, whole: bool) -> None:
    """Load the model's weights, and nothing else, from a checkpoint.

    What a criterion remembers of a training (steps, averages, balances) is left as it is unless
    ``whole``: a new training begins its own.

    Args:
        checkpointer: holds the model.
        path: a checkpoint, or "" to leave the model as it was initialised.
        whole: every parameter must be in the checkpoint, as for evaluation. Otherwise some must,
            as when a training starts from a backbone's weights.

    Raises:
        ConfigError: there is no such file, it is no checkpoint, or it is one of another model.
    """
    if not path:
        return
    missing: list[str] = []
    model: nn.Module = checkpointer.model
    criterion = None if whole else getattr(model, "criterion", None)
    memory = {} if criterion is None else copy.deepcopy(criterion.state_dict())
    hook = model.register_load_state_dict_post_hook(
        lambda _, keys: missing.extend(keys.missing_keys)
    )
    try:
        checkpointer.load(path, checkpointables=[])
    except UNREADABLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path!r} cannot be read as a checkpoint ({reason})") from error
    finally:
        hook.remove()
    if criterion is not None:
        criterion.load_state_dict(memory)
    names = [name for name, _ in model.named_parameters()]
    absent = [name for name in names if name in set(missing)]
    if len(absent) == len(names) or (whole and absent):
        raise ConfigError(
            f"the checkpoint {path!r} is of another model: it lacks {len(absent)} of the model's "
            f"{len(names)} parameters, or has them in another shape (the first: {absent[0]!r})"
        )
    if absent:
        logger.warning("%d of %d parameters start afresh: %s", len(absent), len(names), absent)
