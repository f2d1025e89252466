"""Read ground truth and result files, and evaluate the detections."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple, NoReturn

import numpy as np
from tqdm import tqdm

from ranking_det.data.coco_json.reader import is_lvis
from ranking_det.data.coco_json.results import read_results
from ranking_det.evaluation.ground_truth import describe, read_ground_truth
from ranking_det.evaluation.libraries import check_library
from ranking_det.evaluation.metrics import DetectionEvaluation, Rules, evaluate_detections
from ranking_det.path_checks import check_outputs
from ranking_det.user_errors import quantity

Results = list[dict[str, Any]]


def show_stage(text: str) -> tqdm[NoReturn]:
    """Show on a terminal what the command is doing, until the end of the ``with`` block.

    The libraries that do it report no progress.

    Args:
        text: such as "matching detections".
    """
    return tqdm(desc=text, bar_format="{desc} ...", leave=False, disable=None)


class ResultFiles(NamedTuple):
    """The content of an annotation file and of a result file, and how they are compared.

    Attributes:
        ground_truth: the content of the annotation file, complete for evaluation.
        results: the content of the result file.
        rules: "lvis" if the ground truth has LVIS's fields, else "coco".
        iou_type: "bbox" or "segm".
        lines: a description of the files, a line for each kind of annotation problem, and those
            of :meth:`missing_results`.
    """

    ground_truth: dict[str, Any]
    results: Results
    rules: Rules
    iou_type: str
    lines: list[str]

    def read(self, path: str) -> ResultFiles:
        """Read and check the results of a detector on this ground truth.

        Args:
            path: the result file.

        Raises:
            UserError: the file cannot be read, or its content is faulty.
        """
        with show_stage(f"reading {path}"):
            results = read_results(path, self.ground_truth, self.iou_type)
        count = quantity(len(results), "result", "results")
        lines = [*self.lines, count, *unmatched_images(self.ground_truth, results, path)]
        return self._replace(results=results, lines=lines)

    def part(self, selected: np.ndarray) -> ResultFiles:
        """Return the ground truth and the results of some of the images.

        Args:
            selected: (N,) bool, in the order of the N images.
        """
        content = self.ground_truth
        images = [content["images"][i] for i in np.flatnonzero(selected)]
        ids = {image["id"] for image in images}
        annotations, results = (
            [entry for entry in entries if entry["image_id"] in ids]
            for entries in (content["annotations"], self.results)
        )
        part_content = {**content, "images": images, "annotations": annotations}
        return self._replace(ground_truth=part_content, results=results)

    def evaluate(self) -> DetectionEvaluation:
        """Compute the precision of the detections, and find the objects that they overlap."""
        with show_stage("matching detections"):
            return evaluate_detections(
                self.ground_truth, self.results, self.iou_type, rules=self.rules
            )


def unmatched_images(ground_truth: dict[str, Any], results: Results, path: str) -> list[str]:
    """Warn if most images with objects have no result, as with the annotations of other images.

    It is not an error: a detector with a high score threshold leaves many images without a result.

    Args:
        ground_truth: the content of the annotation file.
        results: the content of the result file.
        path: the result file, for the message.

    Returns:
        The warning as the only line, or no line.
    """
    objects = (entry for entry in ground_truth["annotations"] if not entry["iscrowd"])
    images = {entry["image_id"] for entry in objects}
    num_missing = len(images - {result["image_id"] for result in results})
    if 2 * num_missing <= len(images):
        return []
    return [
        f"Warning: {path} has no result for {num_missing:,} of {len(images):,} images with "
        "objects: is this the ground truth of these results?"
    ]


def read_truth(path: str, iou_type: str) -> ResultFiles:
    """Read and check an annotation file.

    Args:
        path: the file.
        iou_type: "bbox" or "segm".

    Returns:
        Its content, without results.

    Raises:
        UserError: the file cannot be read, or its content is faulty.
    """
    with show_stage(f"reading {path}"):
        ground_truth, notes = read_ground_truth(path, None, iou_type)
    rules: Rules = "lvis" if is_lvis(ground_truth["images"]) else "coco"
    check_library("faster-coco-eval", lvis=rules == "lvis")
    return ResultFiles(
        ground_truth, [], rules, iou_type, [f"{path}: {describe(ground_truth)}", *notes]
    )


def read_result_files(args: argparse.Namespace) -> ResultFiles:
    """Check the paths of a command, and read its ground truth and its results.

    Args:
        args: ``ground_truth``, ``results``, ``iou_type`` and ``output``.

    Raises:
        UserError: a file cannot be read, its content is faulty, or the output cannot be written.
    """
    inputs = {"the ground truth": args.ground_truth, "the results": args.results}
    check_outputs(inputs, {"--output": args.output})
    return read_truth(args.ground_truth, args.iou_type).read(args.results)
