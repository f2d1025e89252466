"""Count the reverse pairs of a model on the test sets of its config, head by head.

The candidates are those that training would rank: the assigner, the sampler and the appended
ground-truth boxes are used as in training, but layers such as batch normalization and dropout work
as at inference, the images are resized as for evaluation, and no losses are computed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.utils.events import EventStorage
from detectron2.utils.logger import log_every_n_seconds, setup_logger
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional

from ranking_det.criteria import Candidates, CriterionBase, CriterionOutput
from ranking_det.data.mapper import ImageMapper
from ranking_det.engine.command import Command
from ranking_det.engine.custom_data import log_custom_data
from ranking_det.engine.part_errors import one_line_errors
from ranking_det.engine.plan import make_plan
from ranking_det.engine.run_config import Records, RunConfig, known_mapper
from ranking_det.evaluation.reverse_pairs import HeadPairs
from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)

HEAD = "head"
"""Name of the metric by which :func:`recorded_candidates` recognizes the prefix of a head."""

DENSE = "dense"
"""Name of a head whose metrics have no prefix: that of a dense detector."""


class PairReport(NamedTuple):
    """The reverse pairs of a model.

    Attributes:
        weights: the file of the weights.
        datasets: the names of the data sets.
        class_names: the names of the classes; None if unknown.
        images: number of images with objects in which pairs were counted.
        heads: the pairs by head: its prefix in metrics.json, such as "rpn", "roi" and "stage0";
            "dense" without a prefix, as for dense detectors; "head0" and so on, in the order of the
            calls, if it logs no metrics.
    """

    weights: str
    datasets: list[str]
    class_names: list[str] | None
    images: int
    heads: dict[str, HeadPairs]


def measure_pairs(command: Command, max_images: int | None = None) -> PairReport:
    """Count the reverse pairs of the weights that a command would evaluate.

    Args:
        command: an evaluation.
        max_images: maximum number of images, >= 1, chosen at random with a fixed seed; None for all
            images that have objects.

    Returns:
        The counts.

    Raises:
        UserError: the command, the config, the weights or the data cannot be used, or the model is
            not built from this project's criteria.
        RunError: a part of the model fails.
    """
    plan = make_plan(command)
    config, datasets = plan.config, plan.config.names("test")
    with one_line_errors(plan.model, [plan.output_dir]):
        mapper = _mapper(config)
        setup_logger(name="ranking_det")
        plan.write_data()
        log_custom_data(plan.data, masks=plan.learns_masks)
        plan.prepare_inference()
        records = sample_records(datasets, max_images)
        workers = OmegaConf.select(config.nodes, "dataloader.test.num_workers") or 0
        loader = build_detection_test_loader(records, mapper=mapper, num_workers=workers)
        images, heads = count_reverse_pairs(plan.model, loader, len(records))
    class_names = MetadataCatalog.get(datasets[0]).get("thing_classes")
    return PairReport(plan.weights.path, datasets, class_names, images, heads)


def sample_records(datasets: Sequence[str], max_images: int | None) -> Records:
    """Return the images that have objects, in a random order with a fixed seed.

    Args:
        datasets: registered data sets.
        max_images: maximum number of images, >= 1; None for all.

    Raises:
        UserError: no image has objects.
    """
    records = [
        record
        for name in datasets
        for record in DatasetCatalog.get(name)
        if any(not annotation.get("iscrowd", 0) for annotation in record.get("annotations", ()))
    ]
    if not records:
        raise UserError(f"{', '.join(datasets)}: expected images with objects, got none")
    order = np.random.default_rng(0).permutation(len(records))[:max_images]
    return [records[index] for index in order]


def _mapper(config: RunConfig) -> ImageMapper:
    """Return the mapper of the training set with the augmentations of the test set."""
    if not config.names("test"):
        raise UserError("dataloader.test: expected a loader with dataset.names, got none")
    mapper = config.mapper("train", blank=True)
    training_mapper = known_mapper(mapper, "train")
    training_mapper.augmentations, training_mapper.image_format = config.resizing()
    return mapper


def count_reverse_pairs(
    model: nn.Module, loader: Iterable[list[dict[str, Any]]], num_images: int
) -> tuple[int, dict[str, HeadPairs]]:
    """Count the reverse pairs within each image, for each head of a model.

    Args:
        model: a detector that calls criteria of this project in training. It is not changed.
        loader: batches of one image as for training, with ``instances``. Unreadable images are left
            out.
        num_images: number of batches, for the log.

    Returns:
        The number of images, and the counts by head; see :class:`PairReport`.

    Raises:
        UserError: the model has no criterion of this project, or a score is NaN.
    """
    images, heads = 0, dict[str, HeadPairs]()
    with recorded_candidates(model) as record:
        for number, batch in enumerate(loader, start=1):
            if "unreadable" not in batch[0]:
                images += 1
                for name, (criterion, candidates) in record(batch).items():
                    pairs = heads.setdefault(name, HeadPairs())
                    try:
                        pairs.add(*_arrays(criterion, candidates))
                    except ValueError as error:
                        path = batch[0].get("file_name")
                        raise UserError(f"{name}, {error}, in the image {path!r}") from error
            progress = f"Counted the pairs of {number:,} of {num_images:,} images"
            log_every_n_seconds(logging.INFO, progress, n=5, name=__name__)
    return images, heads


@contextmanager
def recorded_candidates(model: nn.Module) -> Iterator[Any]:
    """Record the candidates of each head as in training, without losses or changes to the model.

    Args:
        model: a detector that calls criteria of this project in training.

    Yields:
        A function from a batch to the criterion and the candidates of each head, by name.

    Raises:
        UserError: the model has no criterion of this project.
    """
    criteria = [part for part in model.modules() if isinstance(part, CriterionBase)]
    if not criteria:
        kind = type(model).__name__
        raise UserError(f"model: expected a detector with a criterion of this project, got {kind}")
    calls: list[tuple[CriterionBase, Candidates]] = []

    def record(batch: list[dict[str, Any]]) -> dict[str, tuple[CriterionBase, Candidates]]:
        calls.clear()
        with EventStorage() as storage, torch.no_grad():
            model(batch)
        # Each recorder returns the index of its call as a metric, which the model logs with the
        # prefix of the head.
        names = {
            int(value): name.rpartition("/")[0] or DENSE
            for name, (value, _) in storage.latest().items()
            if name.rpartition("/")[2] == HEAD
        }
        return {names.get(index, f"head{index}"): call for index, call in enumerate(calls)}

    modes = {part: part.training for part in model.modules()}
    try:
        for part in modes:
            # Only the modules that call a criterion work as in training.
            part.training = any(isinstance(module, CriterionBase) for module in part.modules())
        for criterion in criteria:
            criterion.forward = _recorder(criterion, calls)  # type: ignore[method-assign]
        yield record
    finally:
        for criterion in criteria:
            del criterion.forward
        for part, mode in modes.items():
            part.training = mode


def _recorder(criterion: CriterionBase, calls: list[tuple[CriterionBase, Candidates]]) -> Any:
    """Return a function that replaces the ``forward`` of a criterion and computes no losses."""

    def forward(candidates: Candidates) -> CriterionOutput:
        calls.append((criterion, candidates))
        index = candidates.logits.new_tensor(len(calls) - 1)
        weights = candidates.logits.new_ones(len(candidates.positives))
        return CriterionOutput({}, weights, torch.zeros_like(index), {HEAD: index})

    return forward


def _arrays(criterion: CriterionBase, candidates: Candidates) -> tuple[np.ndarray, ...]:
    """Return the scores, labels, overlaps and levels of the rows."""
    overlap = torch.zeros_like(candidates.labels, dtype=torch.float64)
    overlap[candidates.positives] = candidates.overlap.double()
    columns = ranked_scores(criterion, candidates), candidates.labels, overlap, candidates.level
    return tuple(column.cpu().numpy() for column in columns)


def ranked_scores(criterion: CriterionBase, candidates: Candidates) -> Tensor:
    """Return numbers (R, K) in float32 with the order of the scores at inference.

    These are logits or logarithms, because sigmoids of large logits are equal.

    Args:
        criterion: tells whether the scores are a softmax.
        candidates: R rows, with the logits of a branch if the scores depend on it.
    """
    logits = candidates.logits.float()
    if criterion.softmax:
        background = torch.zeros_like(logits[:, :1])
        return torch.cat([logits, background], dim=1).log_softmax(dim=1)[:, :-1]
    if candidates.branch_logits is not None:
        branch = candidates.branch_logits.float()[:, None]
        return functional.logsigmoid(logits) + functional.logsigmoid(branch)
    return logits
