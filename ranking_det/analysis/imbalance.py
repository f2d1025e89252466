"""Imbalance of positives and negatives in each head of a training run, from its metrics.json.

With K sigmoid classifiers, a positive row is one positive and K - 1 negative tasks, and a negative
row is K negative tasks (Oksuz et al., ICCV 2021, table S7). Training logs the ratio of each step.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

from ranking_det.data.coco_json.fields import is_finite_number
from ranking_det.engine.pair_counts import DENSE
from ranking_det.engine.run_checks import check_file
from ranking_det.evaluation.command_line import check_outputs
from ranking_det.files import write_json
from ranking_det.user_errors import UserError
from ranking_det.visualization.curves import read_metrics

METRIC = "negatives_per_positive"


def write_imbalance(args: argparse.Namespace) -> list[str]:
    """Average the negative tasks per positive task of each head, and write them as JSON.

    Args:
        args: the arguments of ``python -m ranking_det.analysis imbalance``.

    Returns:
        The lines to print.

    Raises:
        UserError: the metrics cannot be read or have no ratios, or the output file cannot be
            written.
    """
    check_outputs({"the metrics": args.metrics}, {"--output": args.output})
    if args.iterations is not None and args.iterations < 1:
        raise UserError(f"--iterations: expected at least 1, got {args.iterations}")
    records = _read(args.metrics)
    first, length = records[0]["iteration"], args.iterations
    records = [record for record in records if length is None or record["iteration"] < length]
    if not records:
        raise UserError(
            f"--iterations: expected more than {first}, the first logged one, got {length}"
        )
    heads, covered = _average(records), records[-1]["iteration"] + 1
    if args.output:
        write_json(Path(args.output), {"iterations": covered, "negatives_per_positive": heads})
    lines = [f"Positive to negative tasks in the first {covered:,} iterations of {args.metrics}"]
    lines += [f"{name:9} 1:{ratio:,.1f}" for name, ratio in heads.items()]
    return lines + [f"Wrote {args.output}"] * bool(args.output)


def _read(path: str) -> list[dict[str, Any]]:
    """Return the records that have ratios; at least one."""
    check_file(path, "--metrics")
    try:
        records = [
            record
            for record in read_metrics(path)
            if _ratios(record) and is_finite_number(record["iteration"])
        ]
    except OSError as error:
        raise UserError(f"--metrics: {path} cannot be read: {error.strerror}") from error
    # A file with other content: bytes, or JSON values that are not records of iterations.
    except (UnicodeDecodeError, KeyError, TypeError, AttributeError):
        records = []
    if not records:
        raise UserError(
            f"--metrics: expected the metrics.json of a training run, which has {METRIC}, got "
            f"{path}"
        )
    return records


def _ratios(record: dict[str, Any]) -> dict[str, float]:
    """Return the ratios in a record, by head."""
    return {
        name.rpartition("/")[0] or DENSE: value
        for name, value in record.items()
        if name.rpartition("/")[2] == METRIC and is_finite_number(value)
    }


def _average(records: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean ratio of each head."""
    ratios = list(map(_ratios, records))
    heads = dict.fromkeys(head for values in ratios for head in values)
    return {head: fmean(values[head] for values in ratios if head in values) for head in heads}
