"""Reverse pairs of a model on its test sets: how often the scores have the wrong order."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ranking_det.engine.command import parse
from ranking_det.engine.reverse_pair_counts import measure_pairs
from ranking_det.engine.run_config import load_config
from ranking_det.evaluation.reverse_pairs import MINED
from ranking_det.files import write_json
from ranking_det.path_checks import check_outputs
from ranking_det.user_errors import UserError, quantity


def write_pairs(args: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """Count the reverse pairs of a model and write their ratios and counts as JSON.

    Args:
        args: the arguments of ``python -m ranking_det.analysis pairs``.
        overrides: overrides of keys of the config.

    Returns:
        The lines to print.

    Raises:
        UserError: the config, the weights, the data or the output file cannot be used.
        RunError: a part of the model fails.
    """
    inputs = {"the config": args.config_file, "the weights": args.weights or ""}
    check_outputs({name: path for name, path in inputs.items() if path}, {"--output": args.output})
    if args.max_images is not None and args.max_images < 1:
        raise UserError(f"--max-images: expected at least 1, got {args.max_images}")
    arguments = ["--config-file", args.config_file, "--eval-only"]
    arguments += ["--trust-config"] if args.trust_config else []
    arguments += [] if args.val is None else ["--val", args.val]
    if args.weights is not None:
        config = load_config(args.config_file, overrides, trust=args.trust_config)
        overrides = [*overrides, f"{config.user_key('train.init_checkpoint')}={args.weights}"]
    report = measure_pairs(parse([*arguments, *overrides]), args.max_images)
    heads = {name: head.to_json(report.class_names) for name, head in report.heads.items()}
    content = {
        "config": args.config_file,
        "weights": report.weights,
        "datasets": report.datasets,
        "images": report.images,
        "mined_per_positive": MINED,
        "heads": heads,
    }
    write_json(Path(args.output), content)
    images = quantity(report.images, "image", "images")
    lines = [f"{report.weights}: reverse pairs in {images} with objects"]
    lines += [f"{name:9} {_describe(head)}" for name, head in heads.items()]
    return [*lines, f"Wrote {args.output}"]


def _describe(head: dict[str, Any]) -> str:
    """Return the ratios of a head as a line."""
    parts = []
    for kind in ("foreground_background", "positive_negative"):
        ratios = (f"{_ratio_text(head[kind][name])} {name}" for name in ("all", "mined"))
        parts.append(f"{kind.replace('_', '-')} {', '.join(ratios)}")
    parts.append(f"positive-positive {_ratio_text(head['positive_positive'])}")
    return "; ".join(parts)


def _ratio_text(counts: dict[str, Any]) -> str:
    return "undefined" if counts["ratio"] is None else f"{counts['ratio']:.4f}"
