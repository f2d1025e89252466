"""The user's own COCO or LVIS files, from the command line."""

from __future__ import annotations

import argparse
import logging
from typing import NamedTuple

from detectron2.data import DatasetCatalog

from ranking_det.data import (
    AnnotationSummary,
    check_same_categories,
    read_annotations,
    register_annotations,
)
from ranking_det.engine.experiment import Experiment
from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)

NAMES = {"train": "own_train", "val": "own_val"}
"""Of the sets in Detectron2's catalogs."""


class OwnData(NamedTuple):
    """The files that were given; None for a split that was not."""

    train: AnnotationSummary | None
    val: AnnotationSummary | None


def take_own_data(experiment: Experiment, args: argparse.Namespace) -> OwnData:
    """Check the files of the command line, register them, and set them in the config.

    Args:
        experiment: gets the data sets and the number of classes.
        args: ``train_json``, ``train_images``, ``val_json``, ``val_images``, ``keep_empty_images``,
            ``allow_outside``, and what is to be done: ``eval_only``, ``preview``, ``predict``.

    Raises:
        UserError: a file or folder is missing on the command line or on the disk, or is faulty.
    """
    # Processes that this one starts need not check the files again.
    if getattr(args, "own_data", None) is None:
        args.own_data = OwnData(_read(args, "train"), _read(args, "val"))
    data: OwnData = args.own_data
    if data.train is None and data.val is None:
        if args.keep_empty_images:
            raise UserError("--keep-empty-images needs --train-json")
        if args.allow_outside:
            raise UserError("--allow-outside needs --train-json or --val-json")
        return data
    trains = not (args.eval_only or args.preview is not None or args.predict)
    if data.train is None and (trains or args.preview is not None):
        raise UserError("--val-json is given without --train-json FILE --train-images FOLDER")
    if data.val is None and (trains or args.eval_only):
        raise UserError("--train-json is given without --val-json FILE --val-images FOLDER")
    _check_masks(experiment, data.train)
    if data.train is not None and data.val is not None:
        check_same_categories(data.train, data.val)
    for split, given in zip(OwnData._fields, data, strict=True):
        if given is not None:
            images = getattr(args, f"{split}_images")
            register_annotations(
                NAMES[split],
                given.json_file,
                images,
                given,
                allow_outside=args.allow_outside,
            )
    summary = data.train or data.val
    assert summary is not None  # one of them is there
    experiment.set_data(
        None if data.train is None else NAMES["train"],
        None if data.val is None else NAMES["val"],
        len(summary.class_names),
        keep_empty=args.keep_empty_images,
    )
    return data


def check_own_names(names: list[str]) -> None:
    """Raise UserError if the config that a run has left names files that were not given again."""
    for split, name in NAMES.items():
        if name in names and name not in DatasetCatalog:
            raise UserError(
                f"the config was run on files of the command line: give --{split}-json FILE "
                f"--{split}-images FOLDER again"
            )


def _check_masks(experiment: Experiment, train: AnnotationSummary | None) -> None:
    if train is not None and experiment.learns_masks() and not train.num_masks:
        raise UserError(
            f"{train.json_file}: no annotation has a 'segmentation', but the model of the config "
            "learns masks; take a config without masks, or a file with them"
        )


def log_own_data(data: OwnData, *, masks: bool) -> None:
    """Say what was found, once the log is there; ``masks`` if the model learns them."""
    for split, summary in zip(OwnData._fields, data, strict=True):
        if summary is not None:
            logger.info(
                "%s: %s, %s format, %d images (%d without objects), %d objects, %d classes: %s",
                split,
                summary.json_file,
                summary.format.upper(),
                summary.num_images,
                summary.num_empty_images,
                summary.num_objects,
                len(summary.class_names),
                ", ".join(summary.class_names[:20]) + (" ..." * (len(summary.class_names) > 20)),
            )
    if masks and data.train is not None and data.train.num_masks < data.train.num_objects:
        logger.warning(
            "train: %d of %d objects have no mask: only their boxes are learnt",
            data.train.num_objects - data.train.num_masks,
            data.train.num_objects,
        )


def _read(args: argparse.Namespace, split: str) -> AnnotationSummary | None:
    json_file = getattr(args, f"{split}_json")
    images = getattr(args, f"{split}_images")
    if json_file is None and images is None:
        return None
    if json_file is None or images is None:
        given, absent = ("json", "images") if images is None else ("images", "json")
        raise UserError(f"--{split}-{given} is given without --{split}-{absent}")
    return read_annotations(json_file, images, allow_outside=args.allow_outside)
