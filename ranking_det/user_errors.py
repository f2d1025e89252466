"""The one exception for mistakes of the user, and what its messages suggest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user, or what the machine refuses, such as a full disk.

    Its one line says what is wrong and what would be right.
    """


def nearest(word: str, choices: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the choice most like ``word``, or the choices if none is alike.

    >>> nearest("tokp", ["topk", "delta"])
    " (did you mean 'topk'?)"
    """
    names = sorted(choices)
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {lower[close[0]]!r}?)"
    return f" (known: {', '.join(names)})" if names else ""


def show(value: object) -> str:
    """The value as a message shows it, cut short if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
