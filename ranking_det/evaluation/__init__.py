"""Evaluate AP by COCO's or LVIS's rules: a Detectron2 evaluator, and a command for result files.

The command is ``python -m ranking_det.evaluation``.
"""

import warnings

with warnings.catch_warnings():
    # Importing Detectron2 makes torch warn about torch.jit.script, before the command prints
    # anything. A filter in __main__ would come too late.
    warnings.filterwarnings("ignore", ".*torch.jit.script.* is deprecated", FutureWarning)
    from ranking_det.evaluation.evaluator import DetectionEvaluator
    from ranking_det.evaluation.metrics import average_precision

__all__ = ["DetectionEvaluator", "average_precision"]
