"""What a run leaves beside its log and weights: results.json, curves.png and detections.png."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from ranking_det.engine.pictures import draw_detections
from ranking_det.files import write_whole
from ranking_det.visualization.curves import plot_curves

logger = logging.getLogger(__name__)


def write_results(results: Mapping[str, Any], output_dir: str) -> None:
    """Write the metrics of an evaluation to ``output_dir``/results.json, from the main process.

    Without any, one of an earlier evaluation is removed.
    """
    if not comm.is_main_process():
        return
    path = Path(output_dir, "results.json")
    if not results:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_without_nan(results), indent=1, allow_nan=False)
    write_whole(path, text + "\n")


def _without_nan(value: Any) -> Any:
    """NaN as null, for which JSON has no other word: no ground truth, or no detection at all."""
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


class PictureWriter(HookBase):
    """Draw the training curves and a few detections when a training ends.

    Register it after the writers, whose files it reads.

    Args:
        output_dir: holds metrics.json; the pictures go there.
        model: in inference mode gives the detections.
        build_loader: gives the test loader, whose first images with objects are drawn.
        dataset: the name of its data set, for the names of the classes.
    """

    def __init__(
        self, output_dir: str, model: nn.Module, build_loader: Callable[[], Any], dataset: str
    ) -> None:
        self.output_dir = Path(output_dir)
        self.model = model
        self.build_loader = build_loader
        self.dataset = dataset

    def after_train(self) -> None:
        """Draw, unless the training was interrupted."""
        if not comm.is_main_process() or self.trainer.iter < self.trainer.max_iter:
            return
        plot_curves(self.output_dir / "metrics.json", self.output_dir / "curves.png")
        picture = self.output_dir / "detections.png"
        draw_detections(self.model, self.build_loader(), self.dataset, picture)
        logger.info("Curves and detections are drawn in %s", self.output_dir)
