"""The best checkpoint of a training."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase

from ranking_det.engine.checkpoint import BEST, RunCheckpointer, read_extras

logger = logging.getLogger(__name__)


class BestCheckpoint(HookBase):
    """Keep the checkpoint with the best metric, across resumes too.

    Detectron2's forgets the best when a run is resumed. Register it after the evaluation.

    Args:
        checkpointer: writes model_best.pth.
        metrics: as the evaluation logs them, such as "bbox/AP"; more is better, and the first that
            there is counts.
    """

    def __init__(self, checkpointer: RunCheckpointer, metrics: Sequence[str]) -> None:
        self.checkpointer = checkpointer
        self.metrics = metrics
        self.best: dict[str, float] = {}

    def before_train(self) -> None:
        """On a resume, look at the best that is there: it may be later than the checkpoint."""
        path = Path(self.checkpointer.save_dir, f"{BEST}.pth")
        if self.trainer.start_iter > 0 and path.is_file():
            found = read_extras(str(path)).get("best") or {}
            if found.get("metric", -math.inf) > self.best.get("metric", -math.inf):
                self.best = found

    def after_step(self) -> None:
        """Compare, if this step was evaluated."""
        storage = self.trainer.storage
        latest = storage.latest()
        found = [name for name in self.metrics if latest.get(name, (0, -1))[1] == storage.iter]
        value, iteration = latest[found[0]] if found else (math.nan, -1)
        if math.isnan(value):
            return
        if value > self.best.get("metric", -math.inf):
            self.best = {"metric": float(value), "iteration": iteration}
            self.checkpointer.save(BEST, iteration=iteration, best=self.best)
            logger.info("%s %.2f at iteration %d is the best", found[0], value, iteration)

    def after_train(self) -> None:
        """Compare after the last evaluation."""
        self.after_step()

    def state_dict(self) -> dict[str, float]:
        """The best metric and its iteration."""
        return self.best

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self.best = dict(state_dict)
