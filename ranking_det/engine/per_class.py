"""The AP of each class as a table that spreadsheets read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from ranking_det.evaluation.metrics import class_precision
from ranking_det.evaluation.tables import precision_cell, write_table

__all__ = ["FILE_NAME", "write_per_class"]

FILE_NAME = "per_class_ap.csv"

Row = dict[str, str | int]


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
    path = Path(output_dir, FILE_NAME)
    if not rows:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = dict.fromkeys(column for row in rows for column in row if column.endswith("_AP"))
    write_table(path, ["dataset", "class", *columns, "objects", "images"], rows)


def _rows(dataset: str, tasks: Mapping[str, Any]) -> list[Row]:
    """The lines of a data set; none if its evaluator gives no AP of classes."""
    classes = list(MetadataCatalog.get(dataset).get("thing_classes") or [])
    found = {
        task: class_precision(metrics, classes)
        for task, metrics in tasks.items()
        if isinstance(metrics, Mapping)
    }
    found = {task: values for task, values in found.items() if values}
    if not found:
        return []
    objects, images = _count(dataset, MetadataCatalog.get(dataset).get("json_file"))
    rows: list[Row] = []
    for index, name in enumerate(classes):
        row: Row = {"dataset": dataset, "class": name}
        for task, values in found.items():
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
        found = [a["category_id"] for a in annotations if not a.get("iscrowd", 0)]
        objects.update(found)
        images.update(set(found))
    return objects, images
