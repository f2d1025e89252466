"""Evaluate AP and oLRP by COCO's or LVIS's rules: a Detectron2 evaluator and a command.

The command, for result files, is ``python -m ranking_det.evaluation``.
"""

from ranking_det.library_warnings import hide_in_commands

hide_in_commands()
from ranking_det.evaluation.evaluator import DetectionEvaluator  # noqa: E402
from ranking_det.evaluation.metrics import average_precision, detection_metrics  # noqa: E402

__all__ = ["DetectionEvaluator", "average_precision", "detection_metrics"]
