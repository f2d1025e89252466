"""Read ground truth and result files, and evaluate the detections."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np

from ranking_det.data.coco_json.reader import is_lvis
from ranking_det.data.coco_json.results import read_results
from ranking_det.evaluation.ground_truth import describe, read_ground_truth
from ranking_det.evaluation.libraries import check_library
from ranking_det.evaluation.metrics import DetectionEvaluation, Rules, evaluate_detections
from ranking_det.path_checks import check_outputs
from ranking_det.user_errors import counted

Results = list[dict[str, Any]]


class ResultFiles(NamedTuple):
    """The content of an annotation file and of a result file, and how they are compared.

    Attributes:
        ground_truth: the content of the annotation file, complete for evaluation.
        results: the content of the result file.
        rules: "lvis" if the ground truth has LVIS's fields, else "coco".
        iou_type: "bbox" or "segm".
        lines: a description of the files, and a line for each kind of annotation problem.
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
        results = read_results(path, self.ground_truth, self.iou_type)
        count = counted(len(results), "result", "results")
        return self._replace(results=results, lines=[*self.lines, count])

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
        return evaluate_detections(self.ground_truth, self.results, self.iou_type, rules=self.rules)


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
