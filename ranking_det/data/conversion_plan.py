"""Prepare custom data sets of any format for training: plan in memory, then write.

    OUTPUT_DIR/data/
        train.json  val.json    unless the source is COCO JSON already
        split.json              seed, share and names, if validation images were split off
        ranking_det.json        the state of the source at the conversion; written last
        eval/                   the same files, for validation images without training images

The images stay where they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ranking_det.data.coco_json.faults import Fault
from ranking_det.data.coco_json.reader import ReadOptions, cache_annotations, load_json
from ranking_det.data.formats import via, yolo
from ranking_det.data.formats.coco_files import CocoSplit
from ranking_det.data.formats.file_tree import CONVERSION, FileTree
from ranking_det.data.formats.sources import ALL, Source, convert, find_source, used_classes
from ranking_det.data.split import SHARE, split_images, subset
from ranking_det.files import write_json, write_whole
from ranking_det.user_errors import UserError, nearest

VERSION = 1
"""The version of the conversion. Data that another version converted are converted again."""

FOLDER = "data"
"""The folder of the conversion in the output folder of a run."""


class Side(NamedTuple):
    """The training or the validation images.

    Attributes:
        json_file: the path of the COCO JSON; unless it is the source, the plan has to write it.
        image_root: the folder of the images.
        content: the content of the JSON; read-only.
        is_source: whether the JSON is a file of the user, so no conversion writes it.
    """

    json_file: str
    image_root: str
    content: dict[str, Any]
    is_source: bool


@dataclass
class ConversionPlan:
    """Data sets that have been read and converted in memory.

    Attributes:
        folder: the folder to write to.
        train: the training images; None if they were not requested.
        val: the validation images; None if they were not requested.
        lines: sentences for the log.
        faults: the images and objects that were left out.
        record: the content of split.json; None if nothing was split.
        stamp: a digest that changes when a file of the sources or a setting changes.
        is_written: whether the files are written already, by this plan or by an earlier command.
    """

    folder: Path
    train: Side | None
    val: Side | None
    lines: list[str]
    faults: list[Fault] = field(default_factory=list)
    record: dict[str, Any] | None = None
    stamp: str = ""
    is_written: bool = False

    def cache(self) -> None:
        """Pass the content to the reader of annotation files, so it need not read the files."""
        for name, side in (("train", self.train), ("val", self.val)):
            if side is not None:
                text = side.json_file if side.is_source else f"{side.image_root}: {name} images"
                cache_annotations(side.json_file, side.content, text)

    def write(self) -> None:
        """Write the files, each atomically.

        ranking_det.json comes last, so that an interrupted conversion does not count as complete.

        Raises:
            OSError: the folder cannot be written.
        """
        if self.is_written:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / CONVERSION).unlink(missing_ok=True)
        for side in (self.train, self.val):
            if side is not None and not side.is_source:
                # A COCO file of the user may have NaN, which write_json refuses.
                write_whole(Path(side.json_file), json.dumps(side.content) + "\n")
        if self.record is None:
            (self.folder / "split.json").unlink(missing_ok=True)
        else:
            write_json(self.folder / "split.json", self.record)
        sides = {"train": self.train, "val": self.val}
        content = {
            "stamp": self.stamp,
            "lines": self.lines,
            "faults": self.faults,
            **{
                name: side and [side.json_file, side.image_root, side.is_source]
                for name, side in sides.items()
            },
        }
        write_json(self.folder / CONVERSION, content)
        self.is_written = True
        self.cache()  # the files are new, but need not be parsed again


def plan_conversion(
    train: str | None,
    val: str | None,
    output_dir: str,
    seed: int = 0,
    options: ReadOptions | None = None,
) -> ConversionPlan:
    """Find the formats of data sets and convert them in memory; write nothing.

    With ``train`` alone, its own validation images are used; if it has none, a share of its
    training images is split off. Images of a test split are used only if ``val`` names them. An
    earlier conversion in ``output_dir`` is read instead if its sources have not changed.

    Args:
        train: the folder or file of the training images; None to plan only validation images.
        val: the folder or file of the validation images; None to find them in ``train``.
        output_dir: the output folder of the run.
        seed: the seed of the split, if there are no validation images.
        options: ``max_faults`` and ``strict`` limit the faulty objects and the faulty images.

    Returns:
        The plan, whose ``write`` writes the files.

    Raises:
        UserError: a source is missing, of an unknown format or too faulty; has no training or
            validation images; validation has a class that training does not have; or the images
            cannot be split.
    """
    if train is None and val is None:
        raise UserError("expected a source of training or validation images, got none")
    options = options or ReadOptions()
    folder = Path(os.path.abspath(output_dir), FOLDER, "" if train is not None else "eval")
    paths = [path for path in dict.fromkeys((train, val)) if path is not None]
    settings = [VERSION, seed, SHARE, options.max_faults, options.strict, options.allow_outside]
    stamp = _stamp(paths, output_dir, settings)
    earlier_plan = _read_earlier_plan(folder, stamp)
    if earlier_plan is not None:
        return earlier_plan
    sources = {path: find_source(path, options, exclude=output_dir) for path in paths}
    if any(map(_reads_outside, sources.values())):
        stamp = ""  # the stamp does not cover files elsewhere, so they are converted each time
    plan = ConversionPlan(folder, None, None, [], stamp=stamp)
    if (folder / CONVERSION).exists():
        plan.lines.append(f"the data or the settings have changed since the conversion in {folder}")
    sides = _choose_splits(train, val, sources)
    _name_placeholders(sides)
    class_names = _class_names(sides)
    parts = {name: convert(source, split, class_names) for name, (source, split) in sides.items()}
    for path, source in sources.items():
        prefix = f"{path}: " if len(sources) > 1 else ""
        plan.lines += [f"{prefix}{line}" for line in source.lines]
        plan.faults += source.faults.rows
    if train is not None and val is not None:
        plan.lines += _compare_images(parts, val)
    if val is None and "val" not in parts:
        parts = _split_training_images(parts["train"], plan, str(train), seed)
    plan.train, plan.val = (_make_side(folder, name, parts.get(name)) for name in ("train", "val"))
    return plan


def _choose_splits(
    train: str | None, val: str | None, sources: Mapping[str, Source]
) -> dict[str, tuple[Source, str]]:
    """Return the source and the split of each side; no validation side if it is to be split off."""
    sides = {}
    if train is not None:
        source = sources[train]
        split = _first_split(source, ("train", "trainval", ALL), "training")
        sides["train"] = source, split
        if val is None and split == "train" and "val" in source.splits:
            sides["val"] = source, "val"
    if val is not None:
        sides["val"] = sources[val], _first_split(sources[val], ("val", "test", ALL), "validation")
        if train == val and sides["train"] == sides["val"]:
            raise UserError(f"{val}: the same images for training and validation")
    return sides


def _first_split(source: Source, splits: Sequence[str], kind: str) -> str:
    """Return the first of the splits that a source has; for validation, accept its only split."""
    available = source.splits
    if len(available) == 1 and kind == "validation":
        return next(iter(available))
    for split in splits:
        if split in available:
            return split
    text = f"{source.path}: has no {kind} images (it has {', '.join(available)})"
    raise UserError(f"{text}; give the folder of the {kind} images itself")


def _name_placeholders(sides: Mapping[str, tuple[Source, str]]) -> None:
    """Give VIA regions without a class the class of the other side, if it has only one."""
    if len(sides) < 2 or sides["train"][0] is sides["val"][0]:
        return
    pair = [sides[name][0] for name in ("train", "val")]
    for source, other_source in (pair, pair[::-1]):
        if source.format == via.NAME and source.classes == [via.NO_CLASS] != other_source.classes:
            if len(other_source.classes) != 1:
                continue
            source.classes = list(other_source.classes)
            for images in source.images.values():
                for image in images:
                    for obj in image.objects:
                        obj.name = other_source.classes[0]
            source.faults.remark(f"regions without a class are read as {other_source.classes[0]!r}")


def _class_names(sides: Mapping[str, tuple[Source, str]]) -> list[str]:
    """Return the class names of the training images or, without them, of the validation images.

    Raises:
        UserError: validation has objects of another class. COCO files are compared when read.
    """
    source, split = sides.get("train") or sides["val"]
    # YOLO and COCO JSON list all classes, with or without objects.
    lists_all_classes = source.files or source.format == yolo.NAME
    classes = source.classes if lists_all_classes else used_classes(source.images[split])
    val_source, val_split = sides.get("val") or (source, split)
    known_classes = set(classes)
    for image in val_source.images.get(val_split, []):
        for obj in image.objects:
            if obj.name not in known_classes:
                text = f"{obj.place}: expected a class of {source.path}, got {obj.name!r}"
                raise UserError(f"{text}{nearest(obj.name or '', classes)}")
    return classes


def _compare_images(parts: Mapping[str, CocoSplit], val: str) -> list[str]:
    """Return a line if images of validation are training images too, such as links to them.

    Raises:
        UserError: all of them are.
    """
    train_files, val_files = (_image_files(parts[name]) for name in ("train", "val"))
    common = train_files & val_files
    if val_files and common == val_files:
        raise UserError(f"{val}: the same images for training and validation")
    text = f"training images among the validation images: {len(common):,} of {len(val_files):,}"
    return [f"{text}, such as {min(common)}"] if common else []


def _image_files(part: CocoSplit) -> set[str]:
    root = os.path.realpath(part.image_root)
    names = (image.get("file_name") for image in part.content["images"] if isinstance(image, dict))
    return {os.path.realpath(os.path.join(root, name)) for name in names if isinstance(name, str)}


def _split_training_images(
    train: CocoSplit, plan: ConversionPlan, data_name: str, seed: int
) -> dict[str, CocoSplit]:
    split = split_images(
        train.content, train.image_root, data_name=data_name, share=SHARE, seed=seed
    )
    plan.record = split.record
    plan.lines += [*split.lines, f"the split is written to {plan.folder / 'split.json'}"]
    return {
        name: CocoSplit(subset(train.content, ids), train.image_root, None)
        for name, ids in (("train", split.train), ("val", split.val))
    }


def _make_side(folder: Path, name: str, part: CocoSplit | None) -> Side | None:
    if part is None:
        return None
    json_file = part.json_file or str(folder / f"{name}.json")
    return Side(json_file, part.image_root, part.content, part.json_file is not None)


def _stamp(paths: Sequence[str], output_dir: str, settings: Iterable[Any]) -> str:
    """Return a digest of the settings and of the names, sizes and times of the source files."""
    digest = hashlib.sha256(json.dumps(list(settings)).encode())
    for path in paths:
        absolute = os.path.abspath(path)
        digest.update(os.fsencode(absolute))
        tree = FileTree(
            os.path.dirname(absolute) if os.path.isfile(absolute) else absolute, output_dir
        )
        for file in dict.fromkeys([*tree.files, *tree.images]):
            with contextlib.suppress(OSError):
                status = os.stat(file)
                digest.update(os.fsencode(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0"))
    return digest.hexdigest()


def _reads_outside(source: Source) -> bool:
    """Return whether labels lie outside the source, such as in a folder next to the images."""
    root_prefix = os.path.join(source.root, "")
    images = (image for members in source.images.values() for image in members)
    return any(not obj.place.startswith(root_prefix) for image in images for obj in image.objects)


def _read_earlier_plan(folder: Path, stamp: str) -> ConversionPlan | None:
    """Return the conversion that an earlier command wrote; None unless it has this stamp."""
    try:
        source = json.loads((folder / CONVERSION).read_text(encoding="utf-8"))
        if source["stamp"] != stamp:
            return None
        train, val = (
            side and Side(side[0], side[1], load_json(side[0], "annotation file"), side[2])
            for side in (source["train"], source["val"])
        )
        faults = [Fault(*fault) for fault in source["faults"]]
        split_file = folder / "split.json"
        record = json.loads(split_file.read_text("utf-8")) if split_file.exists() else None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    if not all(side is None or os.path.isdir(side.image_root) for side in (train, val)):
        return None
    lines = [
        *source["lines"],
        f"reusing the conversion in {folder}: its source files have not changed",
    ]
    return ConversionPlan(folder, train, val, lines, faults, record, stamp, is_written=True)
