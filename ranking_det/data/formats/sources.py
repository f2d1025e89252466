"""Recognise the format of a data set by its files, and convert it to COCO JSON.

    source = find_source("BCCD_Dataset")
    source.summary       # found: Pascal VOC, 205 train, 87 val and 72 test images, 3 classes
    convert(source, "train").content["annotations"]

All annotation files are read once, by :func:`find_source`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ranking_det.data.coco_json.reader import load_json
from ranking_det.data.formats import coco_files, labelme, via, voc, yolo
from ranking_det.data.formats.annotated_images import (
    TOLERATED,
    TOLERATED_SHARE,
    AnnotatedImage,
    FaultyFile,
    Findings,
    common_root,
    to_coco,
)
from ranking_det.data.formats.coco_files import CocoFile
from ranking_det.data.formats.file_tree import FileTree, suffix_of
from ranking_det.user_errors import UserError

FORMATS = {
    "coco": coco_files.NAME,
    "labelme": labelme.NAME,
    "via": via.NAME,
    "voc": voc.NAME,
    "yolo": yolo.NAME,
}
"""The names of the formats by their short names for the command line."""

ALL = "all"
"""The split of the images of a source without splits."""

_MAX_JSON = 200  # more JSON files than this are only those of LabelMe, one per image
_ORDER = ("train", "trainval", "val", "test", ALL)


@dataclass
class Source:
    """A data set with its annotations in memory.

    Attributes:
        path: the folder or file as the user gave it.
        root: its absolute folder.
        format: the name of its format, one of :data:`FORMATS`.
        classes: the names of its classes, over all splits.
        images: the annotated images by split; empty for COCO JSON.
        files: the COCO files by split; empty for other formats.
        findings: what was left out, and the notes.
    """

    path: str
    root: str
    format: str
    classes: list[str]
    images: dict[str, list[AnnotatedImage]]
    files: dict[str, CocoFile]
    findings: Findings

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
        num_classes = f"{len(self.classes)} class{'es' * (len(self.classes) != 1)}"
        return f"found: {self.format}, {images} {nouns}, {num_classes}"

    @property
    def lines(self) -> list[str]:
        """The summary, the notes, and what was left out."""
        images = {image.path: image for images in self.images.values() for image in images}
        num_objects = sum(len(image.objects) for image in images.values())
        lines = self.findings.lines(len(images), num_objects)
        rest = self.splits.get(ALL)
        if rest and len(self.splits) > 1:
            lines.append(f"{rest:,} images that belong to no split are not used")
        return [self.summary, *lines]


class Converted(NamedTuple):
    """A split of a data set as COCO JSON.

    Attributes:
        content: images, annotations and categories.
        image_root: the folder to which each ``file_name`` is relative.
        json_file: the file that has this content already; None if it is converted.
        faults: the images and objects that were left out.
    """

    content: dict[str, Any]
    image_root: str
    json_file: str | None
    faults: list[FaultyFile]


class _JsonFiles(NamedTuple):
    coco: dict[str, Any]
    via: dict[str, Any]
    labelme: list[str]
    others: list[str]


def find_source(
    path: str,
    *,
    format_name: str | None = None,
    class_attribute: str | None = None,
    exclude: str | None = None,
) -> Source:
    """Recognise the format of a folder or file, and read its annotations.

    Args:
        path: the folder of a data set; or its data.yaml, or a COCO, VIA or LabelMe JSON.
        format_name: the only format to look for, "coco", "labelme", "via", "voc" or "yolo"; None
            for all.
        class_attribute: for VIA, the region attribute that names the class; None for the one that
            most regions have.
        exclude: a folder to skip, such as the output folder of a run.

    Returns:
        The data set.

    Raises:
        UserError: there is nothing of a known format, or of several formats; or too much of it
            cannot be read.
    """
    if not os.path.exists(path):
        raise UserError(
            f"the folder or file {path!r} does not exist (current folder: {os.getcwd()})"
        )
    is_file = os.path.isfile(path)
    if is_file and suffix_of(path) not in (".json", ".yaml", ".yml"):
        expected = "expected a folder, a data.yaml, or a COCO, VIA or LabelMe JSON"
        raise UserError(f"{path}: {expected}, got a file {suffix_of(path)}")
    full = os.path.abspath(path)
    tree = FileTree(os.path.dirname(full) if is_file else full, exclude)
    findings = Findings()
    is_json = is_file and suffix_of(path) == ".json"
    if is_json:
        load_json(full, "annotation file")  # says what is wrong with a broken file
    paths = [full] if is_json else [] if is_file else tree.with_suffix(".json")
    json_files = _sort_json(paths)
    found: dict[str, Any] = {
        "coco": json_files.coco,
        "via": json_files.via,
        "labelme": json_files.labelme,
        "voc": [] if is_file else voc.find_files(tree),
        "yolo": None,
    }
    if not is_json:
        found["yolo"] = yolo.find_files(tree, full if is_file else None)
    found = {name: files for name, files in found.items() if files and format_name in (None, name)}
    if len(found) != 1:
        raise UserError(_describe_failure(path, tree, found, json_files.others))
    ((name, files),) = found.items()
    source = _read(path, tree, name, files, findings, class_attribute)
    _check(source)
    return source


def _sort_json(paths: Sequence[str]) -> _JsonFiles:
    """Sort JSON files by their formats. Broken files count as others."""
    files = _JsonFiles({}, {}, [], [])
    for path in paths[:_MAX_JSON]:
        try:
            content = load_json(path, "annotation file")
        except UserError:
            files.others.append(path)
            continue
        if coco_files.is_coco(content):
            files.coco[path] = content
        elif labelme.is_labelme(content):
            files.labelme.append(path)
        elif via.metadata_of(content) is not None:
            files.via[path] = content
        else:
            files.others.append(path)
    if len(files.labelme) > len(files.others):
        # The reader of LabelMe's files says which of them are broken.
        return files._replace(labelme=sorted([*files.labelme, *files.others, *paths[_MAX_JSON:]]))
    return files


def _describe_failure(
    path: str, tree: FileTree, found: Mapping[str, Any], other_json: Sequence[str]
) -> str:
    if len(found) > 1:
        names = " and ".join(FORMATS[name] for name in found)
        way = "give the file or folder of one of them"
        command = f"python -m ranking_det.data.convert --from {'|'.join(found)}"
        return f"{path}: annotations of several formats ({names}); {way}, or convert with {command}"
    if os.path.isfile(path):
        return f"{path}: expected COCO, VIA (version 2) or LabelMe annotations, got other JSON"
    suffixes = Counter(suffix_of(file) or "without extension" for file in tree.files)
    files = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common(5))
    looked = "Pascal VOC (*.xml), YOLO (data.yaml, or *.txt of images), COCO, VIA, LabelMe (*.json)"
    hint = f" ({tree.relative(other_json[0])} is of another kind)" if other_json else ""
    return f"{path}: no annotations; looked for {looked}; found {files or 'no files'}{hint}"


def _read(
    path: str,
    tree: FileTree,
    name: str,
    files: Any,
    findings: Findings,
    class_attribute: str | None,
) -> Source:
    classes: list[str] | None = None
    images: dict[str, list[AnnotatedImage]] = {}
    coco: dict[str, CocoFile] = {}
    if name == "coco":
        coco = coco_files.find_splits(tree.root, files)
        classes = coco_files.used_classes(coco)
    elif name == "voc":
        images = voc.read(tree, files, findings)
    elif name == "yolo":
        images, classes = yolo.read(tree, files, findings)
    elif name == "via":
        images = via.read(tree, files, findings, class_attribute)
    else:
        images = labelme.read(tree, files, findings)
    if classes is None:
        of_objects = {
            obj.name for members in images.values() for image in members for obj in image.objects
        }
        classes = sorted(name for name in of_objects if name is not None)
    images = {split: _merge(members, findings) for split, members in images.items() if members}
    return Source(path, tree.root, FORMATS[name], classes, images, coco, findings)


def _merge(images: Sequence[AnnotatedImage], findings: Findings) -> list[AnnotatedImage]:
    """Sort images by path; keep one of several with the same objects.

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
        findings.note("images that are annotated twice in the same way are taken once")
    return list(merged.values())


def _check(source: Source) -> None:
    members = {image.path: image for images in source.images.values() for image in images}
    num_objects = sum(len(image.objects) for image in members.values())
    findings = source.findings
    if not source.files:
        findings.check(source.path, len(members), num_objects)
        if not num_objects:
            first = [*findings.images, *findings.objects][:1]
            reason = f"; the first fault: {first[0]}" if first else ""
            text = f"{source.format} annotations without objects"
            raise UserError(f"{source.path}: {text}{reason}")
    rest = [image for image in source.images.get(ALL, []) if image.objects]
    if len(source.images) > 1 and len(rest) > max(TOLERATED, TOLERATED_SHARE * len(members)):
        named = ", ".join(split for split in source.splits if split != ALL)
        text = (
            f"{len(rest):,} annotated images, such as {rest[0].path}, are in no folder of a split"
        )
        way = "give one folder as training and another as validation images"
        raise UserError(f"{source.path}: {text} ({named}); {way}")
    paths = {split: {image.path for image in images} for split, images in source.images.items()}
    both = paths.get("train", set()) & paths.get("val", set())
    if both:
        findings.note(f"{len(both):,} images are in train and in val, such as {min(both)}")


def convert(source: Source, split: str, classes: Sequence[str] | None = None) -> Converted:
    """Convert a split to the content of a COCO JSON.

    COCO JSON is returned as it is. Image sizes that the annotations do not give are read from the
    image files.

    Args:
        source: the data set.
        split: one of ``source.splits``.
        classes: the names of the classes in the order of their ids, which may have more than the
            source; None for those of the source.

    Returns:
        The content. Boxes may stick out of their images or have no size.

    Raises:
        UserError: the source has no such split, or too many of its images cannot be read.
    """
    if split not in source.splits:
        known = ", ".join(source.splits)
        raise UserError(f"{source.path}: has no {split} images (it has {known})")
    if split in source.files:
        file = source.files[split]
        return Converted(file.content, file.image_root, file.json_file, [])
    images = source.images[split]
    root = common_root([image.path for image in images], source.root)
    findings = Findings()
    content = to_coco(images, source.classes if classes is None else classes, root, findings)
    findings.check(source.path, len(content["images"]), len(content["annotations"]))
    if not content["images"]:
        raise UserError(f"{source.path}: no {split} image can be read; {findings.images[0]}")
    noted = source.findings
    noted.images += [fault for fault in findings.images if fault not in noted.images]
    return Converted(content, root, None, [*noted.images, *noted.objects])
