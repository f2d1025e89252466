"""Imbalance of positives and negatives in each head of a training run, from its metrics.json.

With K sigmoid classifiers, a positive row is one positive and K - 1 negative tasks, and a negative
row is K negative tasks (Oksuz et al., ICCV 2021, table S7). Training logs the ratio of each step.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

from ranking_det.analysis.training_metrics import read_finite_metrics
from ranking_det.engine.reverse_pair_counts import DENSE
from ranking_det.files import write_json
from ranking_det.path_checks import check_outputs
from ranking_det.user_errors import UserError, quantity

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
    records = read_finite_metrics(args.metrics, _is_ratio, f", which has {METRIC}")
    first, length = records[0]["iteration"], args.iterations
    records = [record for record in records if length is None or record["iteration"] < length]
    if not records:
        raise UserError(
            f"--iterations: expected more than {first}, the first logged iteration, got {length}"
        )
    heads, num_iterations = _average(records), records[-1]["iteration"] + 1
    if args.output:
        write_json(
            Path(args.output), {"iterations": num_iterations, "negatives_per_positive": heads}
        )
    length_text = quantity(num_iterations, "iteration", "iterations")
    lines = [f"Positive to negative tasks in the first {length_text} of {args.metrics}"]
    lines += [f"{name:9} 1:{ratio:,.1f}" for name, ratio in heads.items()]
    return lines + [f"Wrote {args.output}"] * bool(args.output)


def _is_ratio(name: str) -> bool:
    return name.rpartition("/")[2] == METRIC


def _average(records: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean ratio of each head."""
    names = dict.fromkeys(name for record in records for name in record if _is_ratio(name))
    return {
        name.rpartition("/")[0] or DENSE: fmean(r[name] for r in records if name in r)
        for name in names
    }
