"""The classes of a run: beside its weights, in its checkpoints, and back from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from ranking_det.engine.checkpoint import read_extras
from ranking_det.engine.experiment import Experiment
from ranking_det.files import write_whole
from ranking_det.user_errors import UserError


def classes_of(experiment: Experiment) -> tuple[list[str] | None, list[int] | None]:
    """The names of the classes, and their ids in the annotations, if the data sets tell."""
    for name in (*experiment.names("train"), *experiment.names("test")):
        metadata = MetadataCatalog.get(name)
        names = metadata.get("thing_classes")
        if names is not None:
            class_of = metadata.get("thing_dataset_id_to_contiguous_id") or {}
            ids = sorted(class_of, key=class_of.__getitem__)
            return list(names), ids if len(ids) == len(names) else list(range(len(names)))
    return None, None


def save_config(experiment: Experiment) -> dict[str, Any]:
    """Write config and classes beside the weights; return them for the checkpoints too."""
    names, ids = classes_of(experiment)
    folder = Path(experiment.settings().output_dir)
    if comm.is_main_process():
        experiment.save(str(folder / "config.yaml"))
        if names is not None:
            entries = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]
            write_whole(folder / "classes.json", json.dumps(entries, indent=1) + "\n")
    comm.synchronize()
    config = (folder / "config.yaml").read_text() if comm.is_main_process() else ""
    return {"class_names": names, "category_ids": ids, "config": config}


def check_trained_classes(experiment: Experiment, weights: str, split: str) -> None:
    """Raise UserError if the weights were trained on other classes, or in another order."""
    known = read_extras(weights).get("class_names") if weights else None
    for name in experiment.names(split):
        here = MetadataCatalog.get(name).get("thing_classes")
        if known is not None and here is not None and list(known) != list(here):
            i = next((i for i, (a, b) in enumerate(zip(known, here, strict=False)) if a != b), None)
            first = "" if i is None else f": class {i} is {known[i]!r} there and {here[i]!r} here"
            raise UserError(
                f"{weights!r} was trained on {len(known)} classes, which are not the {len(here)} "
                f"of the data set {name!r}{first}"
            )


def take_classes(experiment: Experiment, weights: str) -> None:
    """As many classes as the checkpoint says it was trained with."""
    names = read_extras(weights).get("class_names") if weights else None
    if names is not None and experiment.settings().num_classes is not None:
        experiment.set_data(None, None, len(names), keep_empty=False)
