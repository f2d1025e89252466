"""Evaluate a model on the test sets of its config; write results.json and per_class_ap.csv."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import distributed, nn

from ranking_det.engine.run_checks import check_num_classes
from ranking_det.engine.run_config import RunConfig
from ranking_det.evaluation.fitted_scores import FittedScores
from ranking_det.evaluation.metrics import COLUMNS, per_class_rows
from ranking_det.files import TableRow, without_nan, write_table, write_whole
from ranking_det.modeling.threshold_watch import watch_scores

PER_CLASS_FILE = "per_class_ap.csv"


def evaluate(
    config: RunConfig, model: nn.Module, fitted: FittedScores | None = None
) -> dict[str, Any]:
    """Evaluate a model, log the metrics, and write results.json and per_class_ap.csv.

    Args:
        config: names the test sets and builds their loaders and evaluators.
        model: plain or distributed; each process evaluates its share of the images.
        fitted: calibrates the scores of the detections.

    Returns:
        The metrics by task; with several test sets, by test set and task. Empty on all processes
        except the main one.

    Raises:
        UserError: the model and a test set have different numbers of classes.
    """
    by_set, num_classes = OrderedDict(), config.num_classes(model)
    for name in config.test_sets():
        loader = config.test_loader(name)
        check_num_classes(config.names("test"), num_classes, config.num_classes_keys)
        evaluator = config.evaluator(name)
        if fitted is not None:
            evaluator.fitted = fitted
        _share_statistics(model)
        with watch_scores():
            metrics = inference_on_dataset(config.augment(model), loader, evaluator)
        if comm.is_main_process():
            print_csv_format(metrics)
            by_set[name] = metrics
    results = next(iter(by_set.values())) if len(by_set) == 1 else by_set
    write_results(results, config.train.output_dir)
    if config.names("test"):
        write_per_class(results, config.train.output_dir, config.test_sets())
    return results


def _share_statistics(model: nn.Module) -> None:
    """Copy the batch norm statistics of the main process to all processes.

    In training each process collects its own statistics; checkpoints save those of the main
    process. The state of criteria is not copied.
    """
    if comm.get_world_size() > 1:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                for buffer in module.buffers(recurse=False):
                    distributed.broadcast(buffer, 0)


def write_results(results: Mapping[str, Any], output_dir: str) -> None:
    """Write the metrics of an evaluation to ``output_dir``/results.json, in the main process.

    Args:
        results: the metrics; if empty, the file of an earlier evaluation is removed.
        output_dir: the folder; created if it does not exist.
    """
    text = json.dumps(without_nan(results), indent=1, allow_nan=False) + "\n"
    _replace(Path(output_dir, "results.json"), results, partial(write_whole, content=text))


def _replace(path: Path, content: Any, write: Callable[[Path], None]) -> None:
    """Write a result file in the main process, or remove an earlier one if there is no content."""
    if not comm.is_main_process():
        return
    if content:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    else:
        path.unlink(missing_ok=True)


def write_per_class(results: Mapping[str, Any], output_dir: str, datasets: Sequence[str]) -> None:
    """Write the metrics of each class to ``output_dir``/per_class_ap.csv, in the main process.

    The table has a line per data set and class, with the columns ``dataset``, ``class``, those of
    :data:`ranking_det.evaluation.metrics.COLUMNS` for each task (``bbox_AP``, ``segm_AP``,
    ``bbox_oLRP``; empty where undefined), the number of ground-truth ``objects`` without crowds,
    and the number of ``images`` that have one. The values are the evaluator's ``AP-<class>`` and so
    on. Without an AP no file is written, and the file of an earlier evaluation is removed.

    Args:
        results: the metrics by task; with several data sets, by data set and task.
        output_dir: the folder; created if it does not exist.
        datasets: the names of the evaluated data sets.
    """
    by_dataset = {datasets[0]: results} if len(datasets) == 1 else results
    rows = [row for name in datasets for row in _rows(name, by_dataset.get(name, {}))]
    columns = ["dataset", "class"]
    for name in COLUMNS:
        of_tasks = (column for row in rows for column in row if column.endswith(f"_{name}"))
        columns += dict.fromkeys(of_tasks)
    columns += ["objects", "images"]
    write = partial(write_table, columns=columns, rows=rows)
    _replace(Path(output_dir, PER_CLASS_FILE), rows, write)


def _rows(dataset: str, tasks: Mapping[str, Any]) -> list[TableRow]:
    """Return the lines of a data set; none if its evaluator gives no AP per class."""
    classes = list(MetadataCatalog.get(dataset).get("thing_classes") or [])
    measured = {f"{task}_": entry for task, entry in tasks.items() if isinstance(entry, Mapping)}
    rows = per_class_rows(measured, classes)
    if not any(column.endswith("_AP") for row in rows[:1] for column in row):
        return []
    objects, images = _count(dataset, MetadataCatalog.get(dataset).get("json_file"))
    return [
        {"dataset": dataset, **row, "objects": objects[index], "images": images[index]}
        for index, row in enumerate(rows)
    ]


@cache
def _count(dataset: str, json_file: str | None) -> tuple[Counter[int], Counter[int]]:
    """Count the objects of each class and the images that contain it; cached for later calls."""
    objects: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for record in DatasetCatalog.get(dataset):
        annotations = record.get("annotations", ())
        classes = [a["category_id"] for a in annotations if not a.get("iscrowd", 0)]
        objects.update(classes)
        images.update(set(classes))
    return objects, images
