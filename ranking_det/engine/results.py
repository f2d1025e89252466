"""What an evaluation leaves: results.json, and the AP of each class for spreadsheets."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from ranking_det.evaluation.metrics import class_precision
from ranking_det.evaluation.tables import precision_cell, write_table
from ranking_det.files import write_whole

PER_CLASS_FILE = "per_class_ap.csv"

Row = dict[str, str | int]


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


def write_per_class(results: Mapping[str, Any], output_dir: str, datasets: Sequence[str]) -> None:
    """Write ``output_dir``/per_class_ap.csv after an evaluation, from the main process.

    A line per data set and class: ``dataset``, ``class``, an AP in percent for each task
    (``bbox_AP``, ``segm_AP``), empty for a class without ground truth, and the number of ground
    truth ``objects`` (without crowds) and of ``images`` that have one. The AP are the evaluator's
    ``AP-<class>`` entries; where there are none there is no file, and one of an earlier evaluation
    is removed.

    Args:
        results: what the evaluation returns: metrics by task, and by data set before that
            if there are several.
        output_dir: the folder; created if it is not there.
        datasets: the names of the data sets evaluated.
    """
    if not comm.is_main_process():
        return
    by_dataset = {datasets[0]: results} if len(datasets) == 1 else results
    rows = [row for name in datasets for row in _rows(name, by_dataset.get(name, {}))]
    path = Path(output_dir, PER_CLASS_FILE)
    if not rows:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = dict.fromkeys(column for row in rows for column in row if column.endswith("_AP"))
    write_table(path, ["dataset", "class", *columns, "objects", "images"], rows)


def _rows(dataset: str, tasks: Mapping[str, Any]) -> list[Row]:
    """The lines of a data set; none if its evaluator gives no AP of classes."""
    classes = list(MetadataCatalog.get(dataset).get("thing_classes") or [])
    precision = {
        task: class_precision(metrics, classes)
        for task, metrics in tasks.items()
        if isinstance(metrics, Mapping)
    }
    precision = {task: values for task, values in precision.items() if values}
    if not precision:
        return []
    objects, images = _count(dataset, MetadataCatalog.get(dataset).get("json_file"))
    rows: list[Row] = []
    for index, name in enumerate(classes):
        row: Row = {"dataset": dataset, "class": name}
        for task, values in precision.items():
            row[f"{task}_AP"] = precision_cell(values[name])
        rows.append(row | {"objects": objects[index], "images": images[index]})
    return rows


@cache
def _count(dataset: str, json_file: str | None) -> tuple[Counter[int], Counter[int]]:
    """By class the objects, and the images that have one; read once, for every evaluation."""
    objects: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for record in DatasetCatalog.get(dataset):
        annotations = record.get("annotations", ())
        classes = [a["category_id"] for a in annotations if not a.get("iscrowd", 0)]
        objects.update(classes)
        images.update(set(classes))
    return objects, images
