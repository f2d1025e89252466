"""Evaluate AP by COCO's or LVIS's rules: a Detectron2 evaluator, and a command for result files.

The command is ``python -m ranking_det.evaluation``.
"""

from ranking_det.evaluation.evaluator import DetectionEvaluator
from ranking_det.evaluation.metrics import average_precision

__all__ = ["DetectionEvaluator", "average_precision"]
