"""Read metrics of a training run from its metrics.json, without NaN and infinite values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ranking_det.data.coco_json.fields import is_finite_number
from ranking_det.files import read_metrics
from ranking_det.path_checks import check_file
from ranking_det.user_errors import UserError


def read_finite_metrics(
    path: str, is_wanted: Callable[[str], bool], content: str = ""
) -> list[dict[str, Any]]:
    """Read some metrics of a training run. Training that diverges logs NaN, which is left out.

    Args:
        path: the metrics.json.
        is_wanted: tells whether a metric is wanted, by its name.
        content: what the file should have, for the message, such as ", which has x".

    Returns:
        For each iteration with a wanted metric, in order: ``iteration`` and these metrics.

    Raises:
        UserError: the file cannot be read, or has none of the metrics.
    """
    check_file(path, "--metrics")
    try:
        records = read_metrics(path)
    except OSError as error:
        raise UserError(f"--metrics: {path} cannot be read: {error.strerror}") from error
    # A file with other content: bytes, or JSON values that are not records of iterations.
    except (ValueError, KeyError, TypeError, AttributeError):
        records = []
    finite = [
        {
            name: value
            for name, value in record.items()
            if (name == "iteration" or is_wanted(name)) and is_finite_number(value)
        }
        for record in records
    ]
    finite = [record for record in finite if "iteration" in record and len(record) > 1]
    if not finite:
        raise UserError(
            f"--metrics: expected the metrics.json of a training run{content}, got {path!r}"
        )
    return finite
