"""Find the fitted scores of a model: in its checkpoint, or in a file next to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ranking_det.engine.checkpoint import FITTED, HEURISTICS, Checkpoint
from ranking_det.engine.command import Command
from ranking_det.evaluation.evaluator import DetectionEvaluator
from ranking_det.evaluation.fitted_scores import (
    SUFFIX,
    FittedScores,
    parse_fitted_scores,
    read_fitted_scores,
)
from ranking_det.user_errors import UserError


def find_fitted(
    command: Command, weights: Checkpoint, names: list[str] | None, evaluator: Any
) -> FittedScores | None:
    """Find and check the calibrators and thresholds for ``--fitted``.

    Args:
        command: the parsed command line.
        weights: the checkpoint of the model.
        names: the names of the model's classes; None if they are unknown.
        evaluator: the config node of the evaluator.

    Returns:
        The fitted scores; None without ``--fitted``.

    Raises:
        UserError: the fitted scores are missing, faulty or for other classes, or the evaluator of
            the config cannot use them.
    """
    if not command.fitted:
        return None
    fitted, where = _read_fitted(command.fitted, weights)
    if names is None:
        raise UserError("--fitted: expected a model whose classes have names, got one without")
    fitted.check_classes(names, where)
    target = evaluator.get("_target_") if command.eval_only else DetectionEvaluator
    if not (isinstance(target, type) and issubclass(target, DetectionEvaluator)):
        raise UserError(
            "dataloader.evaluator: expected ranking_det.evaluation.DetectionEvaluator for "
            f"--fitted, got {getattr(target, '__qualname__', repr(target))}"
        )
    return fitted


def _read_fitted(file: str | bool, weights: Checkpoint) -> tuple[FittedScores, str]:
    """Read the file, else the entry of the checkpoint, else the file next to the checkpoint."""
    if isinstance(file, str):
        return read_fitted_scores(file), file
    path = Path(weights.path.removesuffix(HEURISTICS))
    if FITTED in weights.content:
        return parse_fitted_scores(weights.content[FITTED], repr(str(path))), repr(str(path))
    fitted_path = path.with_suffix(SUFFIX)
    if not fitted_path.is_file():
        raise UserError(
            f"--fitted: expected fitted scores in {str(path)!r} or {str(fitted_path)!r}, got none; "
            "evaluate with --eval-only and then run python -m ranking_det.analysis fit "
            f"--ground-truth ANNOTATIONS --results RESULTS --iou-type bbox --checkpoint {path} "
            f"--output {fitted_path}"
        )
    if fitted_path.stat().st_mtime < path.stat().st_mtime:
        raise UserError(
            f"--fitted: expected {str(fitted_path)!r} to be newer than {str(path)!r}, got an older "
            "file, which may have been fitted for other weights; fit again, or use it anyway with "
            f"--fitted {fitted_path}"
        )
    return read_fitted_scores(fitted_path), str(fitted_path)
