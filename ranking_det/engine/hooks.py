"""Training hooks: NaN detection, best checkpoint, evaluation, seeding and result pictures.

:func:`seed_step` and :func:`draw_results` are functions for Detectron2's ``CallbackHook``.

:func:`ranking_det.modeling.threshold_watch.watch_scores` checks the score threshold during an
evaluation.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook, PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, distributed, nn

from ranking_det.engine.checkpoint import BEST, REMEDIES, RunCheckpointer, read_best
from ranking_det.engine.preview import draw_detections
from ranking_det.engine.run_config import RunConfig
from ranking_det.engine.stopping import CheckpointRequest
from ranking_det.modeling.input_checks import check_objects, image_name
from ranking_det.user_errors import RunError, UserError, listed
from ranking_det.visualization.training_curves import plot_curves

logger = logging.getLogger(__name__)

STEPS_WITHOUT_POSITIVE = 100
"""Number of consecutive steps without a positive after which a warning is logged."""


class NonFiniteLossError(RunError, FloatingPointError):
    """A loss became NaN or infinite; the message names the loss, the iteration and the images."""


class TrainingGuard(HookBase):
    """Stop training at a NaN or infinite loss or a wrong class; warn if there are no positives.

    Detectron2 checks the losses of the main process only, after the backward pass. The other
    processes then wait until a timeout, and the images are not reported. This hook checks before
    the backward pass. All workers raise :class:`NonFiniteLossError` in the same step, no matter
    which of them had the loss. The weights then stay as they were after the last step, and no
    checkpoint is written.

    The warning uses the number that the model logs as ``num_positives``, summed over all workers.
    There is no warning for a model that logs no such number. An R-CNN logs several, with prefixes,
    and the smallest one is used: with ``proposal_append_gt``, which aLRP Loss does not use, the
    box head has positives whenever there are objects. The warning comes after 100 consecutive steps
    without positives. It is repeated only if positives have appeared in between.

    A class of an object outside 0 to K - 1 is a :class:`UserError` before the step: on a GPU it
    would end the process.

    Register the hook on all workers. It works with any model that returns a dict of losses, or one
    loss, in training.

    Args:
        request: a request for a checkpoint; the same reduction makes all workers agree on it.
        num_classes: K; None if it is not known.
    """

    def __init__(
        self, request: CheckpointRequest | None = None, num_classes: int | None = None
    ) -> None:
        self._request = request or CheckpointRequest()
        self._num_classes = num_classes
        self._removal = ExitStack()
        self._last_images: list[str] = []
        self._empty_steps = 0
        self._objects = 0

    def before_train(self) -> None:
        """Register the forward hooks that check the objects and the losses."""
        model = self.trainer.model
        self._removal.callback(model.register_forward_pre_hook(self._check_objects).remove)
        self._removal.callback(model.register_forward_hook(self._check).remove)

    def after_train(self) -> None:
        """Remove the forward hooks; this is also called after an exception."""
        self._removal.close()

    def _check_objects(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        if model.training and self._num_classes is not None:
            check_objects(_batch(args), self._num_classes)

    def _check(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not model.training or not isinstance(output, (Mapping, Tensor)):
            return
        losses = {"total_loss": output} if isinstance(output, Tensor) else output
        if not losses:
            return
        batch = _batch(args)
        values = torch.stack([loss.detach().float().sum() for loss in losses.values()])
        faulty = (~values.isfinite()).any().float()
        num_objects = sum(len(inputs.get("instances", ())) for inputs in batch)
        request = self._request
        counts = values.new_tensor([request.received, _num_positives()[1], num_objects])
        totals = torch.stack([faulty, *counts])
        if comm.get_world_size() > 1:
            distributed.all_reduce(totals)
        # The only GPU synchronization of a step:
        num_faulty, num_requests, positives, objects = totals.tolist()
        request.agreed = num_requests > 0
        images = [image_name(inputs) for inputs in batch]
        if num_faulty:
            self._stop(model, dict(zip(losses, values.tolist(), strict=True)), images, batch)
        self._last_images = images
        self._count_positives(positives, int(objects))

    def _stop(
        self,
        model: nn.Module,
        losses: dict[str, float],
        images: list[str],
        batch: list[Mapping[str, Any]],
    ) -> None:
        """Raise NonFiniteLossError with the reports of all workers; all of them call this."""
        iteration = self.trainer.iter
        names = [name for name, value in losses.items() if not math.isfinite(value)]
        broken = next((n for n, p in model.named_parameters() if not p.isfinite().all()), "")
        # If the last update broke the weights, the images of the previous step are the cause.
        earlier = bool(broken and self._last_images)
        suspects = ", ".join(self._last_images if earlier else images)
        values = ", ".join(f"{name}={value:g}" for name, value in losses.items())
        reports = comm.all_gather((names, values, suspects, _broken_images(batch)))
        faulty = [(rank, *report[:3]) for rank, report in enumerate(reports) if report[0]]
        name = ", ".join(dict.fromkeys(name for _, names, *_ in faulty for name in names))
        parts = [
            (f"on worker {rank} " if len(reports) > 1 else "") + f"({values}), images {suspects}"
            for rank, _, values, suspects in faulty
        ]
        cause = f". {_explain(broken, iteration, earlier)}" if broken else "."
        pixels = [image for *_, images in reports for image in images]
        remedies = f"{REMEDIES} Check the boxes of these images, too."
        if pixels and not broken:
            remedies = (
                f"The pixels of {listed(pixels)} are NaN or infinite: check the file and the "
                "augmentations."
            )
        raise NonFiniteLossError(
            f"{name} became NaN or infinite at iteration {iteration} {'; '.join(parts)}{cause} "
            f"{remedies}"
        )

    def _count_positives(self, positives: float, objects: int) -> None:
        if positives > 0:
            self._empty_steps = self._objects = 0
            return
        self._empty_steps += 1
        self._objects += objects
        if self._empty_steps == STEPS_WITHOUT_POSITIVE and comm.is_main_process():
            logger.warning(
                "No positives (%s) in the last %d steps, up to iteration %d. The images of these "
                "steps had %d objects in total, but the model learns only background. Likely "
                "causes: anchor sizes (or size ranges of the assigner) that do not fit the objects "
                "in the resized images; class ids outside 0 to num_classes - 1; annotations that "
                "were filtered out (crowds, empty or tiny boxes); images without objects",
                _num_positives()[0],
                self._empty_steps,
                self.trainer.iter,
                self._objects,
            )


class BestCheckpoint(HookBase):
    """Keep the checkpoint with the best metric, even across resumes.

    Detectron2's hook forgets the best metric when a run is resumed. Register this hook after the
    evaluation.

    Args:
        checkpointer: writes model_best.pth.
        metrics: names as the evaluation logs them, such as "bbox/AP". Higher is better. The first
            one that was logged counts.
    """

    def __init__(self, checkpointer: RunCheckpointer, metrics: Sequence[str]) -> None:
        self.checkpointer = checkpointer
        self.metrics = metrics
        self.best: dict[str, float] = {}

    def before_train(self) -> None:
        """On a resume, read model_best.pth: it may be newer than the resumed checkpoint.

        If it is broken, the next evaluation writes it again.
        """
        path = Path(self.checkpointer.save_dir, f"{BEST}.pth")
        if self.trainer.start_iter > 0 and path.is_file():
            try:
                best_in_file = read_best(str(path))
            except UserError as error:
                logger.warning("%s; the next evaluation replaces it", error)
                best_in_file = self.best = {}
            if best_in_file.get("metric", -math.inf) > self.best.get("metric", -math.inf):
                self.best = best_in_file

    def after_step(self) -> None:
        """Write model_best.pth if this step was evaluated and its metric is the best."""
        step, latest = self.trainer.storage.iter, self.trainer.storage.latest()
        name = next((name for name in self.metrics if latest.get(name, (0, -1))[1] == step), "")
        value = latest[name][0] if name else math.nan
        if value > self.best.get("metric", -math.inf):  # False for NaN
            self.best = {"metric": float(value), "iteration": step}
            self.checkpointer.save(BEST, iteration=step, best=self.best)
            logger.info("Best %s so far: %.2f at iteration %d", name, value, step)

    def after_train(self) -> None:
        """Compare the metric of the last evaluation."""
        self.after_step()

    def state_dict(self) -> dict[str, float]:
        """Return the best metric and its iteration."""
        return self.best

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best metric and its iteration.

        Args:
            state_dict: as :meth:`state_dict` returns it.
        """
        self.best = dict(state_dict)


class EvaluationHook(EvalHook):
    """Detectron2's evaluation hook, without NaN, and without a final evaluation of a failed run.

    Undefined metrics, such as the AP of a class without objects, are not recorded: JSON has no NaN,
    so other programs could not read metrics.json. After a failure, such as a full disk, the results
    would look like the results of a finished run.

    Args:
        period: the number of iterations between evaluations; 0 to evaluate only at the end.
        function: evaluates the model; returns a nested dict of metrics.
    """

    def __init__(self, period: int, function: Callable[[], dict[str, Any]]) -> None:
        super().__init__(period, lambda: _defined(function()))

    def after_train(self) -> None:
        """Evaluate if the run has reached its last iteration."""
        if self.trainer.iter == self.trainer.max_iter:
            super().after_train()


class MetricsWriter(PeriodicWriter):
    """Detectron2's hook, which also works if a run stops directly after it has written metrics.

    Detectron2 0.6 then divides by zero, in the estimate of the remaining time. If a file cannot be
    written, the thread of TensorBoard's writer fails, and the next write raises its error here.
    """

    _excepthook = staticmethod(threading.excepthook)

    def before_train(self) -> None:
        """Keep Python from printing a traceback of the writer's thread."""
        self._excepthook = threading.excepthook
        threading.excepthook = self._without_failed_writes

    def _without_failed_writes(self, args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError):
            self._excepthook(args)

    def after_train(self) -> None:
        """Write what is new, and close the files."""
        threading.excepthook = self._excepthook
        for writer in self._writers:
            with suppress(ZeroDivisionError):
                writer.write()
            writer.close()


def seed_step(trainer: TrainerBase, seed: int) -> None:
    """Seed torch from the iteration before each step, so a resumed run has the same numbers.

    The data loader seeds its samples separately.

    Args:
        trainer: gives the iteration.
        seed: the seed of the run, >= 0.
    """
    entropy = [seed, trainer.iter, comm.get_rank()]
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def draw_results(trainer: TrainerBase, config: RunConfig, model: nn.Module) -> None:
    """Draw the training curves and some detections at the end of a run.

    Nothing is drawn after an interruption. Register the function in the main process, after the
    metric writers, because it reads metrics.json.

    Args:
        trainer: gives the current and the last iteration.
        config: names the output folder, which has metrics.json and gets the pictures, and the test
            set. The first images with objects of the test set are drawn.
        model: a detector in Detectron2's input and output formats.
    """
    if trainer.iter < trainer.max_iter:
        return
    folder, name = Path(config.train.output_dir), config.names("test")[0]
    plot_curves(folder / "metrics.json", folder / "curves.png")
    draw_detections(model, config.test_loader(name), name, folder / "detections.png")
    logger.info("Wrote curves.png and detections.png to %s", folder)


def _defined(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested metrics without those that are NaN."""
    return {
        name: _defined(value) if isinstance(value, Mapping) else value
        for name, value in metrics.items()
        if not (isinstance(value, float) and math.isnan(value))
    }


def _batch(args: tuple[Any, ...]) -> list[Mapping[str, Any]]:
    """Return the images in the arguments of a model, in Detectron2's format."""
    return [inputs for inputs in (args[0] if args else ()) if isinstance(inputs, Mapping)]


def _broken_images(batch: list[Mapping[str, Any]]) -> list[str]:
    """Return the names of the images with pixels that are NaN or infinite."""
    return [
        image_name(inputs)
        for inputs in batch
        if isinstance(inputs.get("image"), Tensor) and not inputs["image"].isfinite().all()
    ]


def _explain(parameter: str, iteration: int, earlier: bool) -> str:
    """Explain that the weights, not the images of this step, made the loss non-finite."""
    if not earlier:
        return f"The weights were not finite from the start (the first: {parameter})."
    return (
        f"The weights were not finite before this step (the first: {parameter}): the gradients of "
        f"iteration {iteration - 1} broke them. The images listed belong to that iteration, and "
        "a checkpoint written after it is broken too."
    )


def _num_positives() -> tuple[str, float]:
    """Return the smallest ``num_positives`` of this step and its name; 1 if none is logged."""
    storage = get_event_storage()
    logged = [
        (name, value)
        for name, (value, iteration) in storage.latest().items()
        if name.endswith("num_positives") and iteration == storage.iter
    ]
    return min(logged, key=lambda entry: entry[1], default=("", 1.0))
