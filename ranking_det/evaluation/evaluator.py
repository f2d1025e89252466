"""Detectron2 evaluator for AP and oLRP of boxes and masks on COCO and LVIS data sets."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

from ranking_det.data.catalog import DEFAULT_READ_OPTIONS, read_registered
from ranking_det.data.coco_json import reader
from ranking_det.evaluation import ground_truth
from ranking_det.evaluation.fitted_scores import FittedScores
from ranking_det.evaluation.libraries import Library, check_library
from ranking_det.evaluation.metrics import (
    FIELDS,
    Rules,
    choose_max_dets,
    detection_metrics,
    keep_best,
    overall,
)
from ranking_det.files import write_json
from ranking_det.user_errors import UserError, quantity

logger = logging.getLogger(__name__)

Batch = Sequence[Mapping[str, Any]]

MAX_LOGGED_CLASSES = 20
"""The log has the AP of each class unless there are more classes."""


class DetectionEvaluator(DatasetEvaluator):
    """Evaluate AP and oLRP of boxes and masks, by COCO's or LVIS's rules, for Detectron2.

    It uses LVIS's rules if the data set's ``evaluator_type`` is "lvis", else COCO's. The metrics
    are those of Detectron2's COCOEvaluator and LVISEvaluator, by task and in percent, with three
    differences: AP is 0 instead of NaN if a model detects nothing at all, LVIS also has an
    ``AP-<class>`` for each class, and there is oLRP. Keypoints and proposals are not evaluated.

    Args:
        dataset_name: a registered data set. Its ``json_file`` is the ground truth. Without one, the
            ground truth is made from the dataset dicts. ``thing_dataset_id_to_contiguous_id`` maps
            category ids to classes; without it, classes are in the order of the ids.
        tasks: "bbox", "segm" or both; None for boxes, plus masks if the model and the data set have
            them.
        output_dir: folder for the detections in COCO's result format,
            ``coco_instances_results.json`` or ``lvis_instances_results.json``; None for no file.
        library: "faster-coco-eval", or "pycocotools" for COCO's rules.
        max_dets_per_image: maximum number of detections per image; None for 100 of each class
            (COCO) or 300 of all classes (LVIS).

    Set ``fitted`` to calibrate the scores of the detections that are written and evaluated. Their
    file then has another name, ``coco_instances_calibrated_results.json``: fitting again to
    calibrated scores would give thresholds that do not fit the model's scores.

    Raises:
        UserError: the annotation file is missing or faulty, or an argument is invalid.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        *,
        output_dir: str | None = None,
        library: Library = "faster-coco-eval",
        max_dets_per_image: int | None = None,
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        lvis = metadata.get("evaluator_type") == "lvis"
        rules: Rules = "lvis" if lvis else "coco"
        check_library(library, lvis=lvis)
        unknown = set(tasks or ()) - set(FIELDS)
        if unknown:
            expected, value = " or ".join(FIELDS), ", ".join(sorted(unknown))
            raise UserError(f"tasks: expected {expected}, got {value}")
        self.tasks = None if tasks is None else list(tasks)
        self.output_dir = output_dir
        self.library, self.rules = library, rules
        self.max_dets = choose_max_dets(max_dets_per_image, rules, "max_dets_per_image")
        self.dataset_name = dataset_name
        annotations = _read(metadata, dataset_name, lvis)
        # Test sets with unpublished ground truth have no annotations.
        self.annotated = annotations.annotated
        self.ground_truth = ground_truth.complete_for_evaluation(annotations.content)
        self.image_ids = {image["id"] for image in annotations.images}
        self.masks = annotations.masks and ground_truth.has_masks(self.ground_truth)
        if self.annotated and not self.masks and "segm" in (tasks or ()):
            text = "no annotation has a valid 'segmentation'"
            raise UserError(f"{annotations.path}: {text}")
        self.fitted: FittedScores | None = None
        self.category_of, self.classes, self.num_classes = _classes(metadata, annotations)
        self.reset()

    def reset(self) -> None:
        """Remove all detections."""
        self._results: list[dict[str, Any]] = []
        self._unreadable: list[Any] = []
        self._num_images = 0
        self._has_masks = False

    def process(self, inputs: Batch, outputs: Batch) -> None:
        """Add the detections of a batch of images.

        Args:
            inputs: dicts with ``image_id``. Images with ``unreadable`` are not evaluated, so that
                their objects do not count as missed.
            outputs: dicts with ``instances``: ``pred_boxes`` (n, 4) XYXY in pixels, ``scores``
                (n,), ``pred_classes`` (n,), and ``pred_masks`` (n, H, W) if the model has masks.

        Raises:
            UserError: the data set has no such image, or ``tasks`` has "segm" but the model detects
                no masks.
            ValueError: a detection has an unknown class.
        """
        for record, output in zip(inputs, outputs, strict=True):
            identity = record["image_id"]
            if identity not in self.image_ids:
                raise UserError(f"the data set {self.dataset_name!r} has no image {identity!r}")
            if "unreadable" in record:
                self._unreadable.append(identity)
                continue
            instances = output["instances"].to("cpu")
            masks = instances.has("pred_masks")
            if len(instances) and not masks and "segm" in (self.tasks or ()):
                raise UserError("tasks has 'segm', but the model detects no masks")
            for result in instances_to_coco_json(instances, identity):
                label = result["category_id"]
                if not 0 <= label < self.num_classes:
                    expected = f"classes 0 to {self.num_classes - 1} of the data set"
                    raise ValueError(f"image {identity}: expected {expected}, got class {label}")
                # A validation file may have fewer classes than the model.
                if label in self.category_of:
                    result["category_id"] = self.category_of[label]
                    self._results.append(result)
            self._has_masks |= masks
            self._num_images += 1

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compute the metrics from the detections of all processes.

        Returns:
            The metrics in percent by task; see
            :func:`~ranking_det.evaluation.metrics.detection_metrics`. Empty on all but the main
            process, without images, and without annotations.
        """
        comm.synchronize()
        local = (self._results, self._num_images, self._has_masks, self._unreadable)
        gathered = comm.gather(local, dst=0)
        if not comm.is_main_process():
            return {}
        parts, counts, masks, unreadable = zip(*gathered, strict=True)
        results = list(itertools.chain.from_iterable(parts))
        if not sum(counts):
            logger.warning("There are no images to evaluate")
            return {}
        if self.fitted is not None:
            if self.rules == "lvis":  # which results count must not depend on the calibration
                results = keep_best(results, self.max_dets)
            results = self.fitted.calibrate_results(results, self.classes)
        if self.output_dir:
            scores = "" if self.fitted is None else "calibrated_"
            path = Path(self.output_dir, f"{self.rules}_instances_{scores}results.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, results)
        if not self.annotated:
            logger.info("The data set %r has no annotations, so there is no AP", self.dataset_name)
            return {}
        truth = self._readable(set(itertools.chain.from_iterable(unreadable)))
        kind = "LVIS's federated" if self.rules == "lvis" else "COCO's"
        description = ground_truth.describe(truth)
        detections = quantity(len(results), "detection", "detections")
        logger.info("Evaluating %s by %s rules: %s", detections, kind, description)
        tasks = self._choose_tasks(any(masks))
        return {task: self._metrics(truth, results, task) for task in tasks}

    def _readable(self, unreadable: set[Any]) -> dict[str, Any]:
        """Return the ground truth without the unreadable images and their objects."""
        if not unreadable:
            return self.ground_truth
        truth = dict(self.ground_truth)
        for section, key in (("images", "id"), ("annotations", "image_id")):
            truth[section] = [entry for entry in truth[section] if entry[key] not in unreadable]
        left_out = len(self.ground_truth["annotations"]) - len(truth["annotations"])
        text = "%d of %d images cannot be read; AP excludes %s in unreadable images"
        objects = quantity(left_out, "object", "objects")
        logger.warning(text, len(unreadable), len(self.image_ids), objects)
        return truth

    def _choose_tasks(self, detects_masks: bool) -> list[str]:
        if self.tasks is not None:
            return self.tasks
        if detects_masks and not self.masks:
            logger.warning("The data set has no masks: only boxes are evaluated")
        return ["bbox", "segm"] if detects_masks and self.masks else ["bbox"]

    def _metrics(
        self, truth: dict[str, Any], results: list[dict[str, Any]], task: str
    ) -> dict[str, float]:
        if task == "segm":
            ground_truth.fill_masks(truth)
        options = {"rules": self.rules, "library": self.library, "max_dets": self.max_dets}
        metrics = detection_metrics(truth, results, task, classes=self.classes, **options)
        table = create_small_table(overall(metrics))
        scope = "all classes" if self.rules == "lvis" else "each class"
        message = "%s, at most %d detections of %s per image:\n%s"
        logger.info(message, task, self.max_dets, scope, table)
        classes = {k.removeprefix("AP-"): v for k, v in metrics.items() if k.startswith("AP-")}
        if 1 < len(classes) <= MAX_LOGGED_CLASSES:
            values = ", ".join(f"{name} {value:.1f}" for name, value in classes.items())
            logger.info("%s AP of each class: %s", task, values)
        return metrics


def _read(metadata: Any, dataset_name: str, lvis: bool) -> reader.Annotations:
    """Return the checked ground truth of a data set."""
    if metadata.get("json_file") is not None:
        return read_registered(dataset_name, with_images=False)
    where = f"data set {dataset_name!r}"
    if metadata.get("thing_classes") is None:
        raise UserError(f"{where}: has neither 'json_file' nor 'thing_classes' in its metadata")
    content = convert_to_coco_dict(dataset_name)
    return reader.check_content(content, where, replace(DEFAULT_READ_OPTIONS, lvis=lvis))


def _classes(
    metadata: Any, annotations: reader.Annotations
) -> tuple[dict[int, Any], dict[Any, str], int]:
    """Return the category ids by class, the names by category id, and the number of classes."""
    names = {category["id"]: category["name"] for category in annotations.categories}
    class_of = metadata.get("thing_dataset_id_to_contiguous_id")
    if not class_of:
        class_of = {identity: index for index, identity in enumerate(names)}
    # Other code may have registered root categories, which have no objects, as classes.
    class_of = {i: label for i, label in class_of.items() if i not in annotations.root_ids}
    where, unknown = annotations.path, [identity for identity in class_of if identity not in names]
    if unknown:
        raise UserError(f"{where}: has no category {unknown[0]}, which the data set has")
    # LVIS v0.5 has all ids of v1, but for other classes.
    if annotations.lvis and len(class_of) < len(names):
        versions = {count: f" ({name})" for count, name in ground_truth.LVIS_VERSIONS.items()}
        in_file, in_set = (f"{n}{versions.get(n, '')}" for n in (len(names), len(class_of)))
        raise UserError(f"{where}: has {in_file} categories, but the data set has {in_set}")
    classes = metadata.get("thing_classes") or list(names.values())
    if max(class_of.values()) >= len(classes):
        in_file = quantity(len(class_of), "category", "categories")
        in_set = quantity(len(classes), "class", "classes")
        raise UserError(f"{where}: has {in_file}, but the data set has {in_set}")
    by_class = {index: identity for identity, index in class_of.items()}
    return (
        by_class,
        {identity: classes[index] for index, identity in by_class.items()},
        len(classes),
    )
