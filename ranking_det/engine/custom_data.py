"""Custom COCO or LVIS data from the command line: check, register, and adapt the config."""

from __future__ import annotations

import csv
import itertools
import logging
import math
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from ranking_det.data.catalog import register_annotations
from ranking_det.data.coco_json.faults import CORRECTED, CUT, LEFT_OUT, NOTED, SHOWN, SKIPPED, Fault
from ranking_det.data.coco_json.reader import (
    IGNORED,
    AnnotationSummary,
    ReadOptions,
    read_annotations,
    summarize,
)
from ranking_det.data.conversion_plan import ConversionPlan, plan_conversion
from ranking_det.engine.command import Command
from ranking_det.engine.run_config import RunConfig
from ranking_det.files import write_table
from ranking_det.modeling.interface import interface_of
from ranking_det.user_errors import UserError, quantity

logger = logging.getLogger(__name__)

NAMES = {"train": "own_train", "val": "own_val"}
"""Names under which the data of a split are registered in Detectron2's catalogs."""

FAULTS_FILE = "data_faults.csv"
"""The table of the entries that were left out, cut, corrected or noted."""

NUM_DECODED = 200
"""Images of a file that are decoded before training or evaluation, without --check-images."""

MANY_CROWDS = 0.05
"""Share of crowds above which a warning is logged; in COCO it is 1%."""

_OPTIONS = ("strict", "max_faults", "crowds_are_objects", "allow_outside")


class CustomData(NamedTuple):
    """Summaries and faults of the user's data.

    Attributes:
        train: the summary of the training file; None without one.
        val: the summary of the validation file; None without one.
        source_lines: sentences for the log about the conversion from another format.
        source_faults: the images and objects that the conversion left out.
    """

    train: AnnotationSummary | None
    val: AnnotationSummary | None
    source_lines: Sequence[str] = ()
    source_faults: Sequence[Fault] = ()

    @property
    def summaries(self) -> tuple[AnnotationSummary | None, AnnotationSummary | None]:
        """The summaries of both files."""
        return self.train, self.val

    @property
    def faults(self) -> list[Fault]:
        """The faults of the conversion and of both files."""
        faults_of_files = (summary.faults for summary in self.summaries if summary is not None)
        return [*self.source_faults, *itertools.chain(*faults_of_files)]


def convert_custom_data(
    config: RunConfig, command: Command
) -> tuple[Command, ConversionPlan | None]:
    """Convert the data sets of ``--train`` and ``--val`` to COCO JSON in memory.

    Args:
        config: names the output folder, where the JSON files belong.
        command: names the data sets.

    Returns:
        The command with the JSON files and image folders, and the conversion, which the caller has
        to write. Without such data sets, or if a parent process has converted them, the unchanged
        command and None.

    Raises:
        UserError: a data set is missing, of an unknown format, or too faulty; or training or
            validation images are missing.
    """
    paths = command.train, command.val
    if paths == (None, None) or command.custom_data is not None:
        return command, None
    if command.train is None and (command.trains or command.preview is not None):
        raise UserError("--val is given without --train FOLDER_OR_FILE")
    # The split is the same for all training seeds, so that the APs of the runs can be compared.
    options = _options(command)
    sources = plan_conversion(*paths, config.train.output_dir, options=options)
    sources.cache()
    files = {}
    for split, side in (("train", sources.train), ("val", sources.val)):
        if side is not None:
            files |= {f"{split}_json": side.json_file, f"{split}_images": side.image_root}
    return replace(command, **files), sources


def prepare_custom_data(
    config: RunConfig, command: Command, sources: ConversionPlan | None = None
) -> CustomData:
    """Check the files that the command line names, register them, and set them in the config.

    Args:
        config: the config, in which the data sets and the number of classes are set.
        command: names the files. They are not read again if it already has their summaries.
        sources: the conversion that makes the files; None without one.

    Returns:
        The summaries and faults of the files.

    Raises:
        UserError: a flag is missing, a file or folder does not exist, or a file is faulty.
    """
    options = _options(command)
    if command.custom_data is None:
        notes = (sources.lines, sources.faults) if sources else ()
        data = CustomData(*(_read_split(command, split, options) for split in NAMES), *notes)
    else:
        data = CustomData(*command.custom_data)
    if data.train is None and data.val is None:
        _check_no_options(command)
        return data
    if data.train is None and (command.trains or command.preview is not None):
        raise UserError("--val-json is given without --train-json FILE --train-images FOLDER")
    if data.val is None and (command.trains or command.eval_only):
        raise UserError("--train-json is given without --val-json FILE --val-images FOLDER")
    for split, summary in zip(NAMES, data.summaries, strict=True):
        if summary is not None:
            config.set_names("train" if split == "train" else "test", NAMES[split])
    if command.keep_empty_images:
        config.keep_empty_images()
    register_custom_data(config, command, data)
    return data


def _options(command: Command) -> ReadOptions:
    decoded = math.inf if command.check_images else NUM_DECODED
    return ReadOptions(**{name: vars(command)[name] for name in _OPTIONS}, max_decoded=decoded)


def _check_no_options(command: Command) -> None:
    """Raise UserError if the command has an option for custom data, but no data."""
    if command.keep_empty_images:
        raise UserError("--keep-empty-images needs --train or --train-json")
    for name in (*_OPTIONS, "check_images"):
        if vars(command)[name] not in (False, None):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} needs --train, --val, --train-json or --val-json")


def register_custom_data(
    config: RunConfig,
    command: Command,
    data: CustomData,
    class_names: Sequence[str] | None = None,
    classes_of: str = "",
) -> None:
    """Register the user's files, with the classes of the training file or of a checkpoint.

    Args:
        config: the config, in which the number of classes is set.
        command: names the image folders.
        data: the summaries of the files.
        class_names: the classes of a checkpoint; None for those of the training file, or of the
            validation file if there is no other.
        classes_of: the checkpoint, for messages.

    Raises:
        UserError: the validation file has a category that is not among the classes.
    """
    for split, summary in zip(NAMES, data.summaries, strict=True):
        if summary is None:
            continue
        if class_names is None:
            class_names, classes_of = summary.class_names, summary.json_file
        folder = vars(command)[f"{split}_images"]
        register_annotations(NAMES[split], folder, summary, class_names, classes_of)
    if class_names is not None:
        config.set_num_classes(len(class_names))


def read_custom_masks(command: Command, data: CustomData, model: nn.Module) -> CustomData:
    """Read the user's files again with their masks, if the model learns masks.

    Args:
        command: names the files.
        data: the summaries of the files.
        model: a detector.

    Returns:
        The summaries; for a model that learns masks they count the masks.

    Raises:
        UserError: the training file has no masks, or --strict refuses a faulty mask.
    """
    if not interface_of(model).learns_masks:
        return data
    summaries: list[AnnotationSummary | None] = []
    for split, summary in zip(NAMES, data.summaries, strict=True):
        if summary is not None and not summary.options.masks:
            summary = _read_split(command, split, replace(summary.options, masks=True))
        summaries.append(summary)
    data = data._replace(train=summaries[0], val=summaries[1])
    if data.train is not None and not data.train.num_masks:
        flag, path = "--train-json", data.train.json_file
        if command.train is not None:  # the JSON file is converted data, and not yet written
            flag, path = "--train", command.train
        raise UserError(
            f"{flag}: expected masks, got only boxes in {path}; the model of the config learns "
            "masks, so use a config without masks or data with them"
        )
    for split, summary in zip(NAMES, data.summaries, strict=True):
        if summary is not None:
            class_names = MetadataCatalog.get(NAMES[split]).thing_classes
            folder = vars(command)[f"{split}_images"]
            register_annotations(NAMES[split], folder, summary, class_names)
    return data


def check_custom_names(names: Sequence[str]) -> None:
    """Check that the command line names the custom data that a saved config was run on.

    Args:
        names: the data sets of the config.

    Raises:
        UserError: a data set stands for custom files that the command line does not name.
    """
    for split, name in NAMES.items():
        if name in names and name not in DatasetCatalog:
            raise missing_custom_data(split, "the config was run")


def missing_custom_data(split: str, usage: str) -> UserError:
    """Return the error for a command that needs the user's data again.

    Args:
        split: "train" or "val".
        usage: a clause that says how the data were used, such as "the config was run".
    """
    text = (
        f"--{split}: expected a folder or file, got none; {usage} on your own data, so give "
        f"them again: --{split} FOLDER_OR_FILE, or --{split}-json FILE --{split}-images FOLDER"
    )
    if split == "val":
        text += ", or the --train of the run if its validation images were split off"
    return UserError(text)


def warn_of_equal_files(command: Command) -> None:
    """Log a warning if ``--train-json`` and ``--val-json`` are the same file.

    Data sets of ``--train`` and ``--val`` are compared when they are converted.

    Args:
        command: names the files.
    """
    train, val = command.train_json, command.val_json
    if train and val and os.path.samefile(train, val):
        logger.warning(
            "--train-json and --val-json are the same file, %s: AP is measured on the training "
            "images, and does not say how well the model detects objects in other images",
            val,
        )


def log_custom_data(data: CustomData, *, masks: bool) -> None:
    """Log a summary of the user's files; call this after the log file is set up.

    Args:
        data: the summaries and faults of the files.
        masks: whether the model learns masks; if so, objects without a mask are a warning.
    """
    for line in data.source_lines:
        logger.info("%s", line)
    for split, summary in zip(NAMES, data.summaries, strict=True):
        if summary is not None:
            _log_summary(split, summary)
    if masks and data.train is not None and data.train.num_masks < data.train.num_objects:
        logger.warning(
            "train: no mask for %d of %d objects: they are learned without masks",
            data.train.num_objects - data.train.num_masks,
            data.train.num_objects,
        )


def _log_summary(split: str, summary: AnnotationSummary) -> None:
    names, crowds = summary.class_names, summary.num_crowds
    crowd_text = f" and {quantity(crowds, 'crowd', 'crowds')}" if crowds else ""
    name_list = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
    text = (
        f"{split}: {summary.json_file}, {summary.format.upper()} format, "
        f"{quantity(summary.num_images, 'image', 'images')} ({summary.num_empty_images} without "
        f"objects), {quantity(summary.num_objects, 'object', 'objects')}{crowd_text}, "
        f"{quantity(len(names), 'class', 'classes')}: {name_list}"
    )
    logger.info("%s", text)
    for note in summary.notes:
        is_fault = note.startswith((LEFT_OUT, CUT, CORRECTED, SKIPPED, f"{NOTED}: {IGNORED}"))
        logger.log(logging.WARNING if is_fault else logging.INFO, "%s: %s", split, note)
    shown_actions = (LEFT_OUT, CUT, CORRECTED, SKIPPED)
    faults = [fault for fault in summary.faults if fault.action in shown_actions]
    for fault in faults[:SHOWN]:
        logger.info("%s: %s: %s", split, fault.action, fault)
    total = summary.num_objects + crowds
    crowds -= sum(fault.kind == IGNORED for fault in summary.faults)
    if crowds > MANY_CROWDS * total:
        use = "learned" if split == "train" else "evaluated as objects"
        logger.warning(
            "%s: crowds ('iscrowd': 1) are not %s: %d of %d annotations; "
            "--crowds-are-objects treats them as objects",
            *(split, use, crowds, total),
        )
    if not summary.annotated:
        logger.warning("%s: %s has no annotations, so there is no AP", split, summary.json_file)


def write_faults(
    faults: Iterable[Fault], folder: str | Path, replaced: Collection[str] | None = None
) -> None:
    """Write a table of the entries that were left out, cut, corrected or noted, and log its path.

    The table, ``data_faults.csv``, has the columns ``file``, ``place``, ``id``, ``image`` (the id
    of the image), ``kind``, ``action`` and ``text``. Without such entries it is not written, and an
    earlier table is removed.

    Args:
        faults: the faults.
        folder: the folder of the table; created if it does not exist.
        replaced: the files whose rows in an earlier table are replaced; None to replace all rows.
    """
    path = Path(folder, FAULTS_FILE)
    rows = [fault._asdict() for fault in faults]
    count = len(rows)
    if replaced is not None and path.is_file():
        files = {*replaced, *(row["file"] for row in rows)}
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["file"] not in files] + rows
    if not rows:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, Fault._fields, rows)
    if count:
        lines = quantity(count, "fault or note", "faults and notes")
        logger.info("Wrote %s of the data to %s", lines, path)


def _read_split(command: Command, split: str, options: ReadOptions) -> AnnotationSummary | None:
    json_file, images = (vars(command)[f"{split}_{part}"] for part in ("json", "images"))
    if json_file is None and images is None:
        return None
    if images is None:
        raise UserError(f"--{split}-json is given without --{split}-images")
    if json_file is None:
        raise UserError(f"--{split}-images is given without --{split}-json")
    annotations = read_annotations(json_file, images, options, needs_objects=split == "train")
    return summarize(annotations, options)
