"""Name the part of a run that fails: a layer of the model, the data loader or the optimizer.

Many values of a config can be wrong without any constructor refusing them: channels that do not
match, a stride that leaves no pixel. They fail in a library when the part computes for the first
time.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import nn
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ranking_det.data.mapper import ImageMapper
from ranking_det.engine.failures import run_failure
from ranking_det.user_errors import RunError, UserError, reason_of

LIBRARIES = {"PIL", "cv2", "detectron2", "fvcore", "numpy", "torch", "torchvision"}
"""Packages whose errors can be due to a value of the config; errors of others are bugs."""


ONE_VALUE = "Expected more than 1 value per channel"
"""The start of torch's message for batch normalization of a single value."""


def named_error(
    error: Exception, model: nn.Module, folders: Iterable[str | None], advice: Callable[[], str]
) -> UserError | RunError | None:
    """Return the one-line error that a command reports for an error in the middle of a run.

    Args:
        error: any error, with its traceback.
        model: the model of the run, not distributed.
        folders: the folders that the run writes to.
        advice: returns how to continue.

    Returns:
        The error; None if only a traceback can help to find the cause.
    """
    if isinstance(error, (UserError, RunError)):
        return error
    return run_failure(error, folders, advice) or part_error(error, model)


@contextmanager
def one_line_errors(
    model: nn.Module,
    folders: Iterable[str | None],
    advice: Callable[[], str] = lambda: "start the command again",
) -> Iterator[None]:
    """Turn an error in the middle of a run into the one-line error that the command reports.

    Args:
        model: the model of the run, not distributed.
        folders: the folders that the run writes to.
        advice: returns how to continue.

    Raises:
        UserError: as it was raised.
        RunError: a part of the run fails; see :func:`named_error`. Other errors stay as they are.
    """
    try:
        yield
    except Exception as error:
        reported_error = named_error(error, model, folders, advice)
        if reported_error is None or reported_error is error:
            raise
        raise reported_error from error


def part_error(error: Exception, model: nn.Module) -> RunError | None:
    """Turn an error that a library raises for a part of the run into a one-line RunError.

    Args:
        error: the error, with its traceback.
        model: the model of the run, not distributed.

    Returns:
        The error that names the part; None if the error does not come from a library, but from
        this project or from code of the user. Such an error needs its traceback.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not frames or _package(frames[-1]) not in LIBRARIES:
        return None
    names = {id(module): name for name, module in model.named_modules()}
    part = ""
    for frame in frames:
        part = _part(frame, names) or part
    if not part:
        return None
    # A data loading process sends its error as a text that ends with the error itself.
    lines = str(error).strip().splitlines()
    is_sent = len(lines) > 1 and lines[0].startswith("Caught ")
    if is_sent and not _is_raised_by_library(lines):
        return None
    remedy = "check the values of this part in the config"
    if ONE_VALUE in str(error):
        remedy = "use at least 2 images per process, or larger images"
    return RunError(f"{part} fails: {lines[-1] if is_sent else reason_of(error)}; {remedy}")


def _is_raised_by_library(lines: list[str]) -> bool:
    """Return whether the traceback that a data loading process has sent ends in a library."""
    files = [re.match(r'\s*File "(.+)", line', line) for line in lines]
    last = [Path(match[1]) for match in files if match][-1:]
    folders = [Path(sys.modules[name].__path__[0]) for name in LIBRARIES & sys.modules.keys()]
    return any(path.is_relative_to(folder) for path in last for folder in folders)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _part(frame: FrameType, names: dict[int, str]) -> str:
    """Return the part of the run whose method the frame executes, or ""."""
    owner = frame.f_locals.get("self")
    if id(owner) in names:
        name = names[id(owner)]
        return f"the layer {name!r} of the model" if name else "the model"
    if isinstance(owner, (ImageMapper, torch.utils.data.DataLoader, _BaseDataLoaderIter)):
        return "the data loader"
    if isinstance(owner, torch.optim.Optimizer):
        return "the optimizer"
    is_backward = frame.f_code.co_name == "backward" and _package(frame) == "torch"
    return "the backward pass of the model" if is_backward else ""
