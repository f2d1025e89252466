"""Hooks of a training: its guard, the best checkpoint, evaluations, seeds and pictures.

The last two are functions for Detectron2's ``CallbackHook``.

The watch on the score threshold of an evaluation is
:func:`ranking_det.modeling.threshold_watch.watch_scores`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, distributed, nn

from ranking_det.engine.checkpoint import BEST, RunCheckpointer, read_extras
from ranking_det.engine.preview import draw_detections
from ranking_det.engine.run_config import RunConfig
from ranking_det.visualization.curves import plot_curves

logger = logging.getLogger(__name__)

STEPS_WITHOUT_POSITIVE = 100
"""Steps in a row without a positive after which a warning is due."""

REMEDIES = (
    "Try a lower learning rate, a longer warm-up, gradient clipping or training without mixed "
    "precision (AMP), and check the boxes of these images."
)


class NonFiniteLossError(FloatingPointError):
    """A loss became NaN or infinite; the message names it, the iteration and the images."""


class TrainingGuard(HookBase):
    """Stop at the first loss that is NaN or infinite, and warn when there are no positives.

    Detectron2 looks at the losses of the main process only, after the backward pass: the others
    then wait for it until a timeout, and nobody knows the images. This one looks before, and all
    workers raise :class:`NonFiniteLossError` in the same step, whichever had the loss. The weights
    are then as the last step left them, and no checkpoint is written.

    The warning counts what the model logs as ``num_positives``, over all workers; a model that logs
    none is not watched for it. An R-CNN logs several, with prefixes, and the fewest count: its box
    head has positives whenever there are objects, if the objects' boxes are among the proposals
    (``proposal_append_gt``, which aLRP Loss goes without). It comes after 100 steps in a row, and
    again only when positives came back and vanished once more.

    Register it on all workers. It works with any model whose training output is a dict of losses,
    or one loss.
    """

    def __init__(self) -> None:
        self._removal = ExitStack()
        self._last_images: list[str] = []
        self._empty_steps = 0
        self._objects = 0

    def before_train(self) -> None:
        """Begin to look at what the model returns."""
        handle = self.trainer.model.register_forward_hook(self._check)
        self._removal.callback(handle.remove)

    def after_train(self) -> None:
        """Leave the model as it was; also called after an exception."""
        self._removal.close()

    def _check(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not model.training or not isinstance(output, (Mapping, Tensor)):
            return
        losses = {"total_loss": output} if isinstance(output, Tensor) else output
        if not losses:
            return
        batch = [inputs for inputs in (args[0] if args else ()) if isinstance(inputs, Mapping)]
        values = torch.stack([loss.detach().float().sum() for loss in losses.values()])
        faulty = (~values.isfinite()).any().float()
        num_objects = sum(len(inputs.get("instances", ())) for inputs in batch)
        counts = values.new_tensor([_num_positives()[1], num_objects])
        totals = torch.stack([faulty, *counts])
        if comm.get_world_size() > 1:
            distributed.all_reduce(totals)
        num_faulty, positives, objects = totals.tolist()  # the one synchronisation of a step
        images = [str(inputs.get("image_id", inputs.get("file_name", "?"))) for inputs in batch]
        if num_faulty:
            self._stop(model, dict(zip(losses, values.tolist(), strict=True)), images)
        self._last_images = images
        self._count_positives(positives, int(objects))

    def _stop(self, model: nn.Module, losses: dict[str, float], images: list[str]) -> None:
        """Raise, with what all workers know; each of them comes here."""
        iteration = self.trainer.iter
        names = [name for name, value in losses.items() if not math.isfinite(value)]
        broken = next((n for n, p in model.named_parameters() if not p.isfinite().all()), "")
        # After a broken update the images of this step are not those that did it.
        earlier = bool(broken and self._last_images)
        suspects = ", ".join(self._last_images if earlier else images)
        values = ", ".join(f"{name}={value:g}" for name, value in losses.items())
        reports = comm.all_gather((names, values, suspects))
        faulty = [(rank, *report) for rank, report in enumerate(reports) if report[0]]
        name = ", ".join(dict.fromkeys(name for _, names, *_ in faulty for name in names))
        parts = [
            (f"on worker {rank} " if len(reports) > 1 else "") + f"({values}), images {suspects}"
            for rank, _, values, suspects in faulty
        ]
        cause = f". {_explain(broken, iteration, earlier)}" if broken else "."
        raise NonFiniteLossError(
            f"{name} became NaN or infinite at iteration {iteration} {'; '.join(parts)}{cause} "
            f"{REMEDIES}"
        )

    def _count_positives(self, positives: float, objects: int) -> None:
        if positives > 0:
            self._empty_steps = self._objects = 0
            return
        self._empty_steps += 1
        self._objects += objects
        if self._empty_steps == STEPS_WITHOUT_POSITIVE and comm.is_main_process():
            logger.warning(
                "No positive (%s) in the last %d steps, up to iteration %d, whose images had %d "
                "objects in all: nothing but background is learnt. Likely causes: anchor sizes (or "
                "the assigner's size ranges) that do not fit the sizes of the objects in the "
                "resized images; class ids outside 0 to num_classes - 1; annotations that were "
                "filtered out (crowd, empty or tiny boxes); images without objects",
                _num_positives()[0],
                self._empty_steps,
                self.trainer.iter,
                self._objects,
            )


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
            written = read_extras(str(path)).get("best") or {}
            if written.get("metric", -math.inf) > self.best.get("metric", -math.inf):
                self.best = written

    def after_step(self) -> None:
        """Compare, if this step was evaluated."""
        step, latest = self.trainer.storage.iter, self.trainer.storage.latest()
        name = next((name for name in self.metrics if latest.get(name, (0, -1))[1] == step), "")
        value = latest[name][0] if name else math.nan
        if value > self.best.get("metric", -math.inf):  # NaN is not
            self.best = {"metric": float(value), "iteration": step}
            self.checkpointer.save(BEST, iteration=step, best=self.best)
            logger.info("%s %.2f at iteration %d is the best", name, value, step)

    def after_train(self) -> None:
        """Compare after the last evaluation."""
        self.after_step()

    def state_dict(self) -> dict[str, float]:
        """The best metric and its iteration."""
        return self.best

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self.best = dict(state_dict)


class Evaluation(EvalHook):
    """Detectron2's, but without the evaluation at the end if the last step has failed.

    At a full disk, say: the results would look like those of a training that has ended.
    """

    def after_train(self) -> None:
        """Evaluate."""
        if self.trainer.iter == self.trainer.max_iter:
            super().after_train()


def seed_step(trainer: TrainerBase, seed: int) -> None:
    """Seed torch before a step by its iteration, so that a resumed run has the same numbers.

    The loader seeds its samples itself.
    """
    words = [seed, trainer.iter, comm.get_rank()]
    torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))


def draw_results(trainer: TrainerBase, config: RunConfig, model: nn.Module) -> None:
    """Draw the training curves and a few detections when a training ends, not interrupted.

    Register it in the main process, after the writers, whose files it reads.

    Args:
        trainer: tells whether the training has ended.
        config: names the output folder, which holds metrics.json and gets the pictures, and the
            test set whose first images with objects are drawn.
        model: in inference mode gives the detections.
    """
    if trainer.iter < trainer.max_iter:
        return
    folder, name = Path(config.train.output_dir), config.names("test")[0]
    plot_curves(folder / "metrics.json", folder / "curves.png")
    draw_detections(model, config.test_loader(name), name, folder / "detections.png")
    logger.info("Curves and detections are drawn in %s", folder)


def _explain(parameter: str, iteration: int, earlier: bool) -> str:
    """Why the images of this step are not to blame."""
    if not earlier:
        return f"The weights were not finite from the start (the first: {parameter})."
    return (
        f"The weights were not finite before this step (the first: {parameter}): the gradients of "
        f"iteration {iteration - 1} broke them, so the images named are those of that iteration, "
        "and a checkpoint written after it is broken too."
    )


def _num_positives() -> tuple[str, float]:
    """The least that the model logged in this step, and its name; 1 if it logs no such number."""
    storage = get_event_storage()
    logged = [
        (name, value)
        for name, (value, iteration) in storage.latest().items()
        if name.endswith("num_positives") and iteration == storage.iter
    ]
    return min(logged, key=lambda entry: entry[1], default=("", 1.0))
