"""AP by the rules of COCO and of LVIS: as Detectron2's evaluator, and of result files.

``python -m ranking_det.evaluation lvis --help`` is the command.
"""

from ranking_det.evaluation.evaluator import DetectionEvaluator
from ranking_det.evaluation.metrics import average_precision

__all__ = ["DetectionEvaluator", "average_precision"]
