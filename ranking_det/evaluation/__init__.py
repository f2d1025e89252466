"""AP by the rules of COCO and of LVIS: as Detectron2's evaluator, and of result files.

``python -m ranking_det.evaluation lvis --help`` is the command.
"""

import warnings

with warnings.catch_warnings():
    # Importing Detectron2 has torch deprecate torch.jit.script, above every line of the command;
    # in __main__ it would be too late.
    warnings.filterwarnings("ignore", ".*torch.jit.script.* is deprecated", FutureWarning)
    from ranking_det.evaluation.evaluator import DetectionEvaluator
    from ranking_det.evaluation.metrics import average_precision

__all__ = ["DetectionEvaluator", "average_precision"]
