"""UserError, the exception for user errors, and helpers for messages, other texts and commands."""

from __future__ import annotations

import difflib
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from logging.handlers import MemoryHandler


class UserError(ValueError):
    """An error that the user can fix before a run: a wrong flag, config or file.

    The message is one line. It says what is wrong and what would be right.
    """


class RunError(RuntimeError):
    """A failure in the middle of a run that no check could foresee, such as a full disk.

    The message is one line. It says what has failed, why, and how to continue.
    """


def run_command(program: str, work: Callable[[], str]) -> int:
    """Run a command; print its result on stdout, or an error as one line on stderr.

    Args:
        program: the name of the command, for the message.
        work: returns the text to print, with its line ends.

    Returns:
        The exit status: 2 for a :class:`UserError` or an OSError, 1 for a :class:`RunError`, else
        0.
    """
    try:
        sys.stdout.write(work())
    except (UserError, RunError, OSError) as error:
        sys.stderr.write(f"{program}: error: {error}\n")
        return 1 if isinstance(error, RunError) else 2
    return 0


@contextmanager
def disable_log() -> Iterator[None]:
    """Disable all logging, for checks whose only message is the error."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)


@contextmanager
def record_log() -> Iterator[list[logging.LogRecord]]:
    """Record the messages that are logged before the log file exists; yield their list.

    The loggers are those of Detectron2, which :func:`detectron2.utils.logger.setup_logger` sets up.
    """
    memory = MemoryHandler(sys.maxsize, flushLevel=sys.maxsize)
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "ranking_det")]
    states = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        logger.addHandler(memory)
    try:
        yield memory.buffer
    finally:
        for logger, (level, propagate) in zip(loggers, states, strict=True):
            logger.setLevel(level)
            logger.propagate = propagate
            logger.removeHandler(memory)


def line_of(error: BaseException) -> str:
    """Return the message of an error without the traceback of a data loading worker.

    Args:
        error: the error. An error from a worker contains the worker's traceback, which ends with
            the type and the message of the original error.
    """
    return str(error).rpartition(f"{type(error).__qualname__}: ")[2].strip()


def nearest(word: str, choices: Iterable[str]) -> str:
    """Suggest the choice most similar to ``word``, or list all choices if none is similar.

    Args:
        word: the word that the user gave.
        choices: the valid words.

    Returns:
        The end of a message: `` (did you mean 'x'?)``, `` (known: x, y)``, or "" without
        choices.

    >>> nearest("tokp", ["topk", "delta"])
    " (did you mean 'topk'?)"
    """
    names = sorted(choices)
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {lower[close[0]]!r}?)"
    return f" (known: {', '.join(names)})" if names else ""


def reason_of(error: BaseException) -> str:
    """Return the message of an error of another package as one line, for a message.

    A message of a single word, such as the missing key of a KeyError, does not explain the error.
    The result then also names the function that raised the error, or the condition that failed.

    Args:
        error: the error. C++ stack traces, as torch adds them, are cut.

    >>> reason_of(KeyError("topk"))
    "unknown name 'topk'"
    """
    text = " ".join(str(error).split())
    text = re.split(r" ?(?:Exception raised from|C\+\+ CapturedTraceback)", text)[0]
    if " " in text and not isinstance(error, KeyError):
        return text
    if isinstance(error, KeyError):
        key = error.args[0] if error.args else ""
        if isinstance(key, str) and " " in key:  # a sentence
            return " ".join(key.split())
        text = f"unknown name {text}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.name.startswith("<")]
    place = f" in {frames[-1].name}" if frames else ""
    if isinstance(error, AssertionError) and frames and frames[-1].line:
        place += f": {frames[-1].line}"
    return f"{text or type(error).__name__}{place}"


def show(value: object) -> str:
    """Return the ``repr`` of a value, cut to 60 characters, for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def quantity(count: int, one: str, many: str) -> str:
    """Return a count with its noun in the singular or plural, for a message.

    Args:
        count: the count.
        one: what follows a count of 1.
        many: what follows any other count.

    >>> quantity(1, "image is", "images are"), quantity(1200, "image is", "images are")
    ('1 image is', '1,200 images are')
    """
    return f"{count:,} {one if count == 1 else many}"


def listed(items: Sequence[str], shown: int = 5) -> str:
    """Join the first items of a list, and say how many more there are, for a message.

    Args:
        items: the items.
        shown: the maximum number of items in the text.

    >>> listed(["a", "b", "c"], shown=2)
    'a, b and 1 more'
    """
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more


def percent(share: float) -> str:
    """Return a share as a percentage: a whole number from 10% on, else with one decimal place.

    Args:
        share: in [0, 1].

    Returns:
        The text.

    >>> [percent(share) for share in (0.123, 0.0456, 0.0001, 0)]
    ['12%', '4.6%', '<0.1%', '0%']
    """
    if 0 < share < 0.001:
        return "<0.1%"
    digits = 0 if share >= 0.0995 or share == 0 else 1
    return f"{100 * share:.{digits}f}%"
