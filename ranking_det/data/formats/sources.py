"""Recognize the format of a data set by its files, and convert it to COCO JSON.

    source = find_source("BCCD_Dataset")
    source.summary       # found: Pascal VOC, 205 train, 87 val and 72 test images, 3 classes
    convert(source, "train").content["annotations"]

All annotation files are read once, by :func:`find_source`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ranking_det.data.coco_json.faults import FAULT_LIMIT, FAULT_SHARE, LEFT_OUT, SKIPPED, Faults
from ranking_det.data.coco_json.image_files import UNREADABLE
from ranking_det.data.coco_json.reader import ReadOptions, load_json
from ranking_det.data.formats import coco_files, labelme, via, voc, yolo
from ranking_det.data.formats.annotated_images import (
    AnnotatedImage,
    FaultError,
    Size,
    counting,
    to_coco,
)
from ranking_det.data.formats.coco_files import CocoSplit
from ranking_det.data.formats.file_tree import FileTree, suffix_of
from ranking_det.data.images import IMAGE_SUFFIXES, UnreadableImageError, read_header
from ranking_det.user_errors import UserError, quantity

FORMATS = {"coco": coco_files.NAME, "labelme": labelme.NAME, "via": via.NAME}
FORMATS |= {"voc": voc.NAME, "yolo": yolo.NAME}
"""The names of the formats by their short names for the command line."""

ALL = "all"
"""The split of the images of a source without splits."""

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_MAX_JSON = 200  # only a LabelMe data set, with one file per image, has more JSON files than this
_ORDER = ("train", "trainval", "val", "test", ALL)


@dataclass
class Source:
    """A data set with its annotations in memory.

    Attributes:
        path: the folder or file as the user gave it.
        root: the absolute path of the folder of the data set.
        format: the name of its format, one of :data:`FORMATS`.
        classes: the names of its classes, over all splits.
        images: the annotated images by split, each with its size; empty for COCO JSON.
        files: the COCO files by split; empty for other formats.
        faults: what was left out, and remarks. COCO files are checked later, when they are used.
    """

    path: str
    root: str
    format: str
    faults: Faults
    classes: list[str] = field(default_factory=list)
    images: dict[str, list[AnnotatedImage]] = field(default_factory=dict)
    files: dict[str, CocoSplit] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, int]:
        """The number of images by split, in the order train, trainval, val, test, all."""
        sizes = {split: len(images) for split, images in self.images.items()}
        sizes |= {split: len(file.content["images"]) for split, file in self.files.items()}
        return {split: sizes[split] for split in sorted(sizes, key=_ORDER.index)}

    @property
    def summary(self) -> str:
        """One line that says what was found."""
        sizes = {split: size for split, size in self.splits.items() if split != ALL}
        if "train" in sizes:
            sizes.pop("trainval", None)  # the images of train and val again
        counts = [f"{size:,} {split}" for split, size in sizes.items()]
        if not counts:
            counts = [f"{self.splits[ALL]:,}"]
        images = " and ".join(filter(None, [", ".join(counts[:-1]), counts[-1]]))
        nouns = "image" if images == "1" else "images"
        num_classes = quantity(len(self.classes), "class", "classes")
        return f"found: {self.format}, {images} {nouns}, {num_classes}"

    @property
    def lines(self) -> list[str]:
        """The summary, the remarks, and what was left out."""
        faults = self.faults
        first = {(row.action, row.kind): row for row in reversed(faults.rows)}
        lines = [self.summary, *faults.remarks]
        for (action, kind), count in sorted(faults.counts.items()):
            lines.append(f"{action}: {kind}: {count}; the first: {first[action, kind]}")
        unsplit = self.splits.get(ALL)
        if unsplit and len(self.splits) > 1:
            forms = "image that belongs to no split is", "images that belong to no split are"
            lines.append(f"{quantity(unsplit, *forms)} not used")
        return lines


def find_source(
    path: str,
    options: ReadOptions | None = None,
    *,
    format_name: str | None = None,
    class_attribute: str | None = None,
    exclude: str | None = None,
) -> Source:
    """Recognize the format of a folder or file, and read its annotations.

    Args:
        path: the folder of a data set; or its data.yaml, or a COCO, VIA or LabelMe JSON.
        options: ``max_faults`` and ``strict`` limit the faulty objects and the faulty images, and
            ``allow_outside`` accepts images of a ``data.yaml`` outside its folder. COCO JSON is
            checked later, when it is used.
        format_name: the only format to look for, "coco", "labelme", "via", "voc" or "yolo"; None
            for all.
        class_attribute: for VIA, the region attribute that names the class; None for the one that
            most regions have.
        exclude: a folder to skip, such as the output folder of a run.

    Returns:
        The data set.

    Raises:
        UserError: there are no annotations of a known format, or some of several formats; or too
            many objects or images are faulty.
    """
    if not os.path.exists(path):
        text = f"the folder or file {path!r} does not exist (current folder: {os.getcwd()})"
        raise UserError(text)
    absolute, suffix = os.path.abspath(path), suffix_of(path) if os.path.isfile(path) else None
    if suffix not in (None, ".json", ".yaml", ".yml"):
        expected = "expected a folder, a data.yaml, or a COCO, VIA or LabelMe JSON"
        file_kind = f"a file {suffix}" if suffix else "a file without extension"
        hint = "; give its folder" if suffix in (".xml", ".txt", *IMAGE_SUFFIXES) else ""
        hint = "; unpack it" if suffix in _ARCHIVES else hint
        raise UserError(f"{path}: {expected}, got {file_kind}{hint}")
    tree = FileTree(absolute if suffix is None else os.path.dirname(absolute), exclude)
    files: dict[str, Any] = {}
    if suffix == ".json":
        load_json(absolute, "annotation file")  # says what is wrong with a broken file
        files = _sort_json([absolute])
    elif suffix is None:
        files = _sort_json(tree.with_suffix(".json")) | {"voc": voc.find_files(tree)}
    if suffix != ".json":
        files["yolo"] = yolo.find_files(tree, absolute if suffix else None)
    if suffix is None:
        _check_broken(files)
    names = [name for name in FORMATS if files.get(name) and format_name in (None, name)]
    if len(names) != 1:
        raise UserError(_describe_failure(path, tree, names, files.get("others", [])))
    source = Source(path, tree.root, FORMATS[names[0]], Faults(path))
    options = options or ReadOptions()
    _read(source, tree, names[0], files[names[0]], class_attribute, options.allow_outside)
    if not source.files:
        _check(source, options)
    return source


def _sort_json(paths: Sequence[str]) -> dict[str, Any]:
    """Sort JSON files by format: contents by path for "coco" and "via", paths for the others."""
    coco_contents, via_contents = {}, {}
    labelme_paths, other_paths, broken_paths = [], [], []
    for path in paths[:_MAX_JSON]:
        try:
            content = load_json(path, "annotation file")
        except UserError:
            content = None
            broken_paths.append(path)
        if coco_files.is_coco(content):
            coco_contents[path] = content
        elif labelme.is_labelme(content):
            labelme_paths.append(path)
        elif via.metadata_of(content) is not None:
            via_contents[path] = content
        else:
            other_paths.append(path)
    if len(labelme_paths) > len(other_paths):
        # Most files are LabelMe files, so its reader gets all and reports those that are broken.
        labelme_paths = sorted([*labelme_paths, *other_paths, *paths[_MAX_JSON:]])
    return {
        "coco": coco_contents,
        "via": via_contents,
        "labelme": labelme_paths,
        "others": other_paths,
        "broken": broken_paths,
    }


def _check_broken(files: Mapping[str, Any]) -> None:
    """Raise UserError for a broken JSON file that may belong to a split."""
    # A LabelMe file describes one image, and its reader counts the broken ones.
    if files["broken"] and not any(files[name] for name in ("voc", "yolo", "labelme")):
        try:
            load_json(files["broken"][0], "annotation file")
        except UserError as error:
            hint = "correct or remove it, or give the file of other images"
            raise UserError(f"{error}; {hint}") from None


def _describe_failure(
    path: str, tree: FileTree, names: Sequence[str], other_json: Sequence[str]
) -> str:
    if names:
        formats = " and ".join(FORMATS[name] for name in names)
        advice = "give the file or folder of one of them"
        command = f"python -m ranking_det.data.convert --from {'|'.join(names)}"
        message = f"{path}: annotations of several formats ({formats})"
        return f"{message}; {advice}, or convert with {command}"
    if os.path.isfile(path):
        return f"{path}: expected COCO, VIA (version 2) or LabelMe annotations, got other JSON"
    suffixes = Counter(suffix_of(file) or "without extension" for file in tree.files)
    files = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common(5))
    searched_files = (
        "Pascal VOC (*.xml), YOLO (data.yaml, or *.txt of images), COCO, VIA, LabelMe (*.json)"
    )
    unread_files = [*other_json, *tree.with_suffix(".xml")]
    hint = (
        f" ({tree.relative(unread_files[0])} is broken or has another format)"
        if unread_files
        else ""
    )
    return f"{path}: no annotations; looked for {searched_files}; found {files or 'no files'}{hint}"


def _read(
    source: Source,
    tree: FileTree,
    name: str,
    files: Any,
    class_attribute: str | None,
    allow_outside: bool,
) -> None:
    """Read the files of a format into a source."""
    if name == "coco":
        source.files = coco_files.find_splits(tree.root, files)
        source.classes = coco_files.class_names(list(source.files.values()))
        return
    if name == "yolo":
        splits, source.classes = yolo.read(tree, files, source.faults, allow_outside=allow_outside)
    elif name == "via":
        splits = via.read(tree, files, source.faults, class_attribute)
    else:
        splits = (voc if name == "voc" else labelme).read(tree, files, source.faults)
    sizes: dict[str, Size | None] = {}
    for split, images in splits.items():
        merged = _merge(images, source.faults)
        readable = [image for image in merged if _read_size(image, sizes, source.faults)]
        if readable:
            source.images[split] = readable
    source.classes = source.classes or used_classes(*source.images.values())


def used_classes(*parts: Sequence[AnnotatedImage]) -> list[str]:
    """Return the sorted names of the classes that have objects.

    Args:
        *parts: annotated images.
    """
    return sorted({obj.name or "" for images in parts for image in images for obj in image.objects})


def _merge(images: Sequence[AnnotatedImage], faults: Faults) -> list[AnnotatedImage]:
    """Sort images by path; if one is annotated several times with equal objects, keep it once.

    Raises:
        UserError: two annotation files have different objects for one image.
    """
    merged: dict[str, AnnotatedImage] = {}
    for image in sorted(images, key=lambda image: image.path):
        first = merged.setdefault(image.path, image)
        if first is image:
            continue
        pair = [[(obj.name, obj.box) for obj in other.objects] for other in (first, image)]
        if pair[0] != pair[1]:
            places = [obj.place for other in (first, image) for obj in other.objects[:1]]
            text = f"{image.path} has two annotations with different objects"
            raise UserError(f"{text} ({' and '.join(places)}); keep one of them")
        faults.remark("images with two identical annotations are used once")
    return list(merged.values())


def _read_size(image: AnnotatedImage, sizes: dict[str, Size | None], faults: Faults) -> bool:
    """Read the size of an image, once per file, unless it is known; return whether it is known."""
    if image.size is None and image.path not in sizes:
        sizes[image.path] = None
        with counting(faults, SKIPPED, image.path):
            try:
                # Annotation tools show the image after its EXIF rotation.
                sizes[image.path] = read_header(image.path).upright
            except (UnreadableImageError, OSError) as error:
                raise FaultError(UNREADABLE, f"cannot be read ({error})") from None
    image.size = image.size or sizes[image.path]
    return image.size is not None


def _check(source: Source, options: ReadOptions) -> None:
    """Refuse a source without objects, with too many faults, or with unclear splits."""
    members = {image.path: image for images in source.images.values() for image in images}
    num_objects = sum(len(image.objects) for image in members.values())
    faults = source.faults
    if options.strict:
        faults.check(LEFT_OUT, SKIPPED, hint="; --strict refuses this")
    for action, count, noun in (
        (SKIPPED, len(members), "images"),
        (LEFT_OUT, num_objects, "objects"),
    ):
        total = count + faults.total(action)
        faults.check_limit([action], total, f"{noun} in total", options.max_faults)
    if not num_objects:
        reason = f"; the first fault: {faults.rows[0]}" if faults.rows else ""
        raise UserError(f"{source.path}: {source.format} annotations without objects{reason}")
    unsplit = [image for image in source.images.get(ALL, []) if image.objects]
    if len(source.images) > 1 and len(unsplit) > max(FAULT_LIMIT, FAULT_SHARE * len(members)):
        split_names = ", ".join(split for split in source.splits if split != ALL)
        raise UserError(
            f"{source.path}: {len(unsplit):,} annotated images, such as {unsplit[0].path}, are in "
            f"no folder of a split ({split_names}); give one folder as training and another as "
            "validation images"
        )
    train, val = ({image.path for image in source.images.get(s, [])} for s in ("train", "val"))
    if train & val:
        first = min(train & val)
        text = quantity(len(train & val), "image is", "images are")
        faults.remark(f"{text} in train and in val, such as {first}")


def convert(source: Source, split: str, classes: Sequence[str] | None = None) -> CocoSplit:
    """Convert a split to the content of a COCO JSON. COCO JSON is returned as it is.

    Args:
        source: the data set.
        split: one of ``source.splits``.
        classes: the names of the classes in the order of their ids, which may include classes that
            the source does not have; None for the source's classes.

    Returns:
        The content. Boxes may stick out of their images or have no size.

    Raises:
        UserError: the source has no such split.
    """
    if split not in source.splits:
        split_list = ", ".join(source.splits)
        raise UserError(f"{source.path}: has no {split} images (it has {split_list})")
    if split in source.files:
        return source.files[split]
    names = source.classes if classes is None else classes
    return CocoSplit(*to_coco(source.images[split], names, source.root), None)
