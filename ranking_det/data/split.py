"""Split a data set into training and validation images: seeded, stratified, copies kept together.

If copies or augmentations of an image are in both splits, the validation AP is too high, because
the detector has seen the image. They are recognized by their names, and by a 64-bit perceptual
hash (pHash): the signs of the 8 x 8 lowest frequencies of the image, which change little with
compression, size, noise and brightness.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ranking_det.data.coco_json.fields import identifier, read_fields
from ranking_det.data.coco_json.image_files import ImageFinder
from ranking_det.data.images import UnreadableImageError, read_gray
from ranking_det.user_errors import UserError, quantity

SHARE = 0.2
"""The share of the images for validation."""

NEAR = 8
"""Two images count as copies if their hashes differ in at most this many of 64 bits.

Measured on photographs of mushrooms and kudzu and on blood smears: augmentations by an annotation
tool (flips, 2% noise) differ in at most 2 bits. Copies with JPEG quality 30, half the size,
another aspect ratio, brightness or contrast, or blur differ in at most 8. All 70,509 pairs of
different images differ in 12 bits or more, except two exposures of the same view, which differ in
4.
"""

MAX_HASHED = 20_000
"""If there are more images, only their names are compared, because decoding them takes minutes."""

_SIDE = 32  # pixels; pHash is computed from the image at this size
_DRAFT = 128  # pixels; a JPEG decoder may shrink an image to this size while decoding
_CHUNK = 64  # images that one matrix product compares with all images

# What exports, augmentation scripts and file managers append to the name of an image.
_HASH = re.compile(r"\.rf\.[0-9a-zA-Z]{6,}$")
_AUGMENTED = re.compile(
    r"[_. -]+(aug(mented)?|[hv]?flip(ped)?|rot(ated)?|noise|blur|bright(ness)?)[_-]?\d*$",
    re.IGNORECASE,
)
_COPY = re.compile(r"( ?\(\d+\)|[_ -]+(copy|Kopie|copie)([_ -]?\d+)?)$", re.IGNORECASE)


@dataclass(frozen=True)
class ImageSplit:
    """A split of the images of a COCO JSON.

    Attributes:
        train: the ids of the training images, as in the file.
        val: the ids of the validation images.
        record: seed, share and the file names of both splits, to be written as JSON.
        lines: sentences for the log.
    """

    train: list[Any]
    val: list[Any]
    record: dict[str, Any]
    lines: list[str]


def split_images(
    content: Mapping[str, Any],
    image_root: str,
    *,
    data_name: str = "training data",
    share: float = SHARE,
    seed: int = 0,
) -> ImageSplit:
    """Choose validation images at random.

    The split is stratified by the rarest class of each image, so about the same share of the images
    of each class goes to validation. Copies and augmentations of an image stay on the same side of
    the split. Every class stays in training.

    Args:
        content: the content of a COCO JSON.
        image_root: the folder of its images.
        data_name: the name of the data in messages.
        share: the share of the images for validation, in (0, 1).
        seed: the seed of the random choice. The same seed and names give the same split.

    Returns:
        The split, with at least one image on each side.

    Raises:
        UserError: the images cannot be split, because there is only one or all are copies of
            one; an entry is faulty; or imagehash is not installed.
    """
    images = read_fields(content, data_name, "images", "id", "file_name", "coco_url").entries
    objects = read_fields(content, data_name, "annotations", "image_id", "category_id").columns
    names = [str(image.get("file_name") or image.get("coco_url")) for image in images]
    order = sorted(range(len(images)), key=lambda index: (names[index], str(images[index]["id"])))
    classes_of_id: dict[Any, set[str]] = defaultdict(set)
    for identity, category in zip(objects["image_id"], objects["category_id"], strict=True):
        classes_of_id[identity].add(str(category))
    classes = {i: frozenset(classes_of_id[images[i]["id"]]) for i in order}
    finder = ImageFinder(image_root)
    paths = [finder.find(images[i]) or finder.guess(images[i]) for i in order]
    groups, lines = group_copies([names[i] for i in order], paths)
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in zip(order, groups, strict=True):
        members[group].append(index)
    val_indices = set(_choose(list(members.values()), classes, share, seed))
    sides = {
        "train": [index for index in order if index not in val_indices],
        "val": [index for index in order if index in val_indices],
    }
    text = f"no validation set: split off {len(val_indices):,} of {len(order):,} images at random"
    text += f" with seed {seed}, stratified by the rarest class of each"
    record = {side: [names[index] for index in indices] for side, indices in sides.items()}
    ids = {side: [content["images"][i]["id"] for i in indices] for side, indices in sides.items()}
    return ImageSplit(**ids, record={"seed": seed, "share": share, **record}, lines=[text, *lines])


def subset(content: Mapping[str, Any], image_ids: Iterable[Any]) -> dict[str, Any]:
    """Return a COCO JSON of some images, with all categories.

    Args:
        content: the content of the file; it is not changed.
        image_ids: the ids of the images to keep.

    Returns:
        The content; its entries are those of ``content`` (shared, not copied).
    """
    ids = {identifier(identity) for identity in image_ids}
    sections = {
        name: [entry for entry in content.get(name) or [] if identifier(entry[key]) in ids]
        for name, key in (("images", "id"), ("annotations", "image_id"))
    }
    return {**content, **sections}


def group_by_name(names: Sequence[str]) -> list[int]:
    """Group images by name: copies and augmentations of the same original share a group.

    A number in parentheses marks a copy only if an image has the name without it, because some
    programs number all images like this.

    Args:
        names: the paths of the images, relative to one folder.

    Returns:
        The group number of each image.

    >>> group_by_name(["a.jpg", "a_aug2.png", "a (1).jpg", "b (1).jpg", "b (2).jpg"])
    [0, 0, 0, 1, 2]
    """
    stems = [os.path.splitext(name.replace("\\", "/"))[0] for name in names]
    bases = [_AUGMENTED.sub("", _HASH.sub("", stem)) for stem in stems]
    all_bases = set(bases)
    origins = [shorter if (shorter := _COPY.sub("", base)) in all_bases else base for base in bases]
    numbers: dict[str, int] = {}
    return [numbers.setdefault(origin, len(numbers)) for origin in origins]


def group_copies(names: Sequence[str], paths: Sequence[str | None]) -> tuple[list[int], list[str]]:
    """Group images that are copies or augmentations of each other, by name and by content.

    Args:
        names: the paths of the images, relative to one folder; see :func:`group_by_name`.
        paths: the image files; None for a missing one.

    Returns:
        The group number of each image; sentences for the log.

    Raises:
        UserError: imagehash is not installed.
    """
    by_name = group_by_name(names)
    total, num_named = len(by_name), len(set(by_name))
    lines = []
    if num_named < total:
        lines.append(
            f"judging by file names, the {total:,} images are versions of "
            f"{quantity(num_named, 'original', 'originals')}"
        )
    if total > MAX_HASHED:
        lines.append(f"more than {MAX_HASHED:,} images: only their names are compared")
        return by_name, lines
    hashes = _hash_images(paths)
    for distance in (NEAR, 0):
        groups = join_near(by_name, hashes, distance)
        num_joined = len(set(groups))
        # If one group holds most of the images, they look alike, such as microscope slides or the
        # frames of a fixed camera. Then their hashes say nothing about copies.
        largest, largest_named = (max(Counter(g).values()) for g in (groups, by_name))
        if total < 4 or largest <= max(total / 2, largest_named):
            if num_joined < num_named:
                kind = f"{'near-' * (distance > 0)}duplicate"
                text = quantity(num_named - num_joined, f"image is a {kind}", f"images are {kind}s")
                lines.append(f"{text} of others; duplicates stay in the same split")
            return groups, lines
        lines.append("most images look alike: only exact duplicates stay in the same split")
    return by_name, lines


def _hash_images(paths: Sequence[str | None]) -> np.ndarray:
    """Compute the perceptual hashes of images and of their flips and quarter turns, (N, 8, 64).

    The values are 1 for a set bit and -1 for an unset one; 0 for a file that cannot be read.
    """
    try:
        import imagehash  # noqa: F401
    except ImportError:
        text = "splitting off a validation set needs imagehash, which is not installed"
        raise UserError(f"{text}: pip install imagehash, or give --val") from None
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        hashes = list(pool.map(_hash_image, paths))
    return np.stack(hashes) if hashes else np.zeros((0, 8, 64), np.float32)


def _hash_image(path: str | None) -> np.ndarray:
    import imagehash

    no_hash = np.zeros((8, 64), np.float32)
    try:
        image = read_gray(path or "", _DRAFT)
    except (UnreadableImageError, OSError):  # training reports them
        return no_hash
    small = image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    if np.ptp(np.asarray(small)) < 8:  # no structure: all such images have the same hash
        return no_hash
    turns = [small.rotate(90 * turn) for turn in range(4)]
    turns += [turn.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for turn in turns]
    bits = np.stack([imagehash.phash(turn).hash.ravel() for turn in turns])
    return np.where(bits, 1, -1).astype(np.float32)


def join_near(groups: Sequence[int], hashes: np.ndarray, distance: int) -> list[int]:
    """Join groups that contain images with nearly equal hashes, in any flip or quarter turn.

    Args:
        groups: the group number of each of N images.
        hashes: (N, 8, 64), 1 or -1 for the bits of the image itself and of its 7 turns and flips; 0
            for an image without a hash.
        distance: the number of bits that may differ, at least 0.

    Returns:
        The new group number of each image: the lowest of the groups that were joined.
    """
    joined = np.array(groups)
    # The product of two vectors of signs is 64 minus twice the number of bits that differ.
    min_product = 64 - 2 * distance
    for start in range(0, len(hashes), _CHUNK):
        chunk = hashes[start : start + _CHUNK]
        products = chunk.reshape(-1, 64) @ hashes[:, 0].T
        near = products.reshape(len(chunk), 8, -1).max(axis=1) >= min_product
        # Do not list the pairs: for frames of one camera, nearly all N x N pairs are near.
        for index, row in enumerate(near, start):
            numbers = joined[index:][row[index:]]
            if (numbers != numbers[:1]).any():
                joined[np.isin(joined, numbers)] = numbers.min()
    return joined.tolist()


def _choose(
    groups: Sequence[Sequence[int]], classes: Mapping[int, frozenset[str]], share: float, seed: int
) -> list[int]:
    """Return the images for validation.

    Raises:
        UserError: no group can go to validation.
    """
    counts = Counter(name for members in classes.values() for name in members)
    group_classes = [frozenset().union(*(classes[index] for index in group)) for group in groups]
    strata: dict[str, list[int]] = defaultdict(list)
    for index, names in enumerate(group_classes):
        # Images without objects come last.
        strata[min(names, key=lambda name: (counts[name], name), default="")].append(index)
    generator = random.Random(seed)
    in_train = Counter(name for names in group_classes for name in names)  # groups by class
    val_groups: list[int] = []
    deficit = 0.0  # images that earlier strata were too small to contribute

    def move(index: int) -> bool:
        """Move a group to validation if all its classes stay in training."""
        names = group_classes[index]
        if any(in_train[name] == 1 for name in names) or len(val_groups) + 1 == len(groups):
            return False
        in_train.subtract(names)
        val_groups.append(index)
        return True

    for name in sorted(strata, key=lambda name: (name == "", counts[name], name)):
        members = strata[name]
        generator.shuffle(members)
        num_wanted = share * sum(len(groups[index]) for index in members) + deficit
        for index in members:
            size = len(groups[index])
            if size / 2 <= num_wanted and move(index):
                num_wanted -= size
        deficit = num_wanted
    if not val_groups:
        # The smallest group first.
        by_size = sorted(range(len(groups)), key=lambda index: len(groups[index]))
        if not any(move(index) for index in by_size):
            images = quantity(len(classes), "image", "images")
            text = f"{images} cannot be split into training and validation"
            reason = "a class would be missing from training, or all are copies of one image"
            raise UserError(f"{text}: {reason}; give validation images with --val")
    return [image for index in val_groups for image in groups[index]]
