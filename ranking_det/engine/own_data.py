"""Custom COCO or LVIS data from the command line: check, register, and adapt the config."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from detectron2.data import DatasetCatalog

from ranking_det.data.catalog import register_annotations
from ranking_det.data.coco_json.reader import (
    AnnotationSummary,
    check_same_categories,
    read_annotations,
)
from ranking_det.engine.command import Command
from ranking_det.engine.run_config import RunConfig
from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)

NAMES = {"train": "own_train", "val": "own_val"}
"""Names under which the data of a split are registered in Detectron2's catalogs."""


class OwnData(NamedTuple):
    """Summaries of the user's annotation files; None for a split without one."""

    train: AnnotationSummary | None
    val: AnnotationSummary | None


def take_own_data(config: RunConfig, command: Command) -> OwnData:
    """Check the files that the command line names, register them, and set them in the config.

    Args:
        config: gets the data sets and the number of classes.
        command: names the files. They are not read again if it already has their summaries.

    Returns:
        The summaries of the files.

    Raises:
        UserError: a flag is missing, a file or folder does not exist, or a file is faulty.
    """
    data = OwnData(*(command.own_data or (_read(command, split) for split in NAMES)))
    summary = data.train or data.val
    if summary is None:
        if command.keep_empty_images:
            raise UserError("--keep-empty-images needs --train-json")
        if command.allow_outside:
            raise UserError("--allow-outside needs --train-json or --val-json")
        return data
    if data.train is None and (command.trains or command.preview is not None):
        raise UserError("--val-json is given without --train-json FILE --train-images FOLDER")
    if data.val is None and (command.trains or command.eval_only):
        raise UserError("--train-json is given without --val-json FILE --val-images FOLDER")
    if data.train is not None and data.val is not None:
        check_same_categories(data.train, data.val)
    outside = command.allow_outside
    for split, file in zip(NAMES, data, strict=True):
        if file is not None:
            name, folder = NAMES[split], vars(command)[f"{split}_images"]
            register_annotations(name, file.json_file, folder, file, allow_outside=outside)
            config.set_names("train" if split == "train" else "test", name)
    if command.keep_empty_images:
        config.keep_empty_images()
    config.set_num_classes(len(summary.class_names))
    return data


def check_own_names(names: Sequence[str]) -> None:
    """Check that the files of a saved config that was run on custom data are given again.

    Args:
        names: the data sets of the config.

    Raises:
        UserError: a data set stands for custom files that the command line does not name.
    """
    for split, name in NAMES.items():
        if name in names and name not in DatasetCatalog:
            raise UserError(
                f"--{split}-json: expected a file, got none; the config was run on your own data, "
                f"so give --{split}-json FILE --{split}-images FOLDER again"
            )


def check_own_masks(data: OwnData) -> None:
    """Check that the training file has masks, for a model that learns masks.

    Args:
        data: the summaries of the user's files.

    Raises:
        UserError: no annotation of the training file has a mask.
    """
    if data.train is not None and not data.train.num_masks:
        raise UserError(
            f"--train-json: expected masks, got no 'segmentation' in {data.train.json_file}; the "
            "model of the config learns masks, so use a config without masks or a file with them"
        )


def log_own_data(data: OwnData, *, masks: bool) -> None:
    """Log a summary of the user's files; call this after the log file is set up.

    Args:
        data: the summaries of the files.
        masks: whether the model learns masks; if so, objects without a mask are a warning.
    """
    for split, summary in zip(OwnData._fields, data, strict=True):
        if summary is not None:
            names = summary.class_names
            listed = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
            text = (
                f"{split}: {summary.json_file}, {summary.format.upper()} format, "
                f"{summary.num_images} images ({summary.num_empty_images} without objects), "
                f"{summary.num_objects} objects, {len(names)} classes: {listed}"
            )
            logger.info("%s", text)
    if masks and data.train is not None and data.train.num_masks < data.train.num_objects:
        logger.warning(
            "train: %d of %d objects have no mask; only their boxes are learnt",
            data.train.num_objects - data.train.num_masks,
            data.train.num_objects,
        )


def _read(command: Command, split: str) -> AnnotationSummary | None:
    json_file, images = (vars(command)[f"{split}_{part}"] for part in ("json", "images"))
    if json_file is None and images is None:
        return None
    if images is None:
        raise UserError(f"--{split}-json is given without --{split}-images")
    if json_file is None:
        raise UserError(f"--{split}-images is given without --{split}-json")
    return read_annotations(json_file, images, allow_outside=command.allow_outside)
