"""Training advice, in sentences, from the statistics of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ranking_det.data.object_statistics import TINY, ClassCount, Copies, DataStatistics
from ranking_det.engine.custom_data import MANY_CROWDS
from ranking_det.engine.missed_objects import PositiveCounts
from ranking_det.user_errors import percent, quantity

FEW_OBJECTS = 10
"""The advice names classes with fewer objects."""

MAX_DETECTIONS = 100
"""Detections per image that COCO's evaluation and the configs keep."""

LARGE = 64
"""If nearly all boxes are larger than this, in input pixels, half the input size may be enough."""

NOTABLE = 0.05
"""Smaller shares of objects or images are not mentioned."""

FEW_MISSED = 0.01
"""If at most this share of the objects has no positive, the input size needs no change."""


def advise(
    statistics: Mapping[str, DataStatistics],
    copies: Copies,
    positives: PositiveCounts | None,
    num_left_out: int,
    config_file: str | None,
) -> list[str]:
    """Return advice that follows from the statistics; advice on the training images comes first.

    Args:
        statistics: the statistics by split, the training images first.
        copies: the duplicate images in all splits.
        positives: the objects without a positive; None if they were not counted.
        num_left_out: number of images and objects that are left out.
        config_file: the config for which the positives were counted; None if they were not.

    Returns:
        The sentences; at least one.
    """
    (first_name, first), *others = statistics.items()
    lines = [
        *_on_classes(first.classes),
        *_on_sizes(first),
        *(_on_large_objects(first) if positives is None else _on_positives(positives, config_file)),
        *_on_crowding(first),
        *_on_images(first),
    ]
    for name, other in others:
        known_classes = {count.name for count in first.classes if count.objects}
        unknown_classes = [
            count for count in other.classes if count.objects and count.name not in known_classes
        ]
        if unknown_classes:
            lines.append(
                f"The {name} images have objects of {_classes(unknown_classes)} that the "
                f"{first_name} images do not have, so the model cannot learn them."
            )
    lines += _on_copies(copies, several=bool(others))
    if num_left_out:
        lines.append(
            f"Images or objects left out because of annotation problems: {num_left_out:,}."
        )
    return lines or [
        "Nothing stands out: each class has enough objects, and few objects are very small."
    ]


def _classes(counts: Sequence[ClassCount]) -> str:
    names = ", ".join(count.name for count in counts[:5]) + (", ..." if len(counts) > 5 else "")
    return f"{quantity(len(counts), 'class', 'classes')} ({names})"


def _on_classes(counts: Sequence[ClassCount]) -> Iterator[str]:
    absent = [count for count in counts if not count.objects]
    rare = [count for count in counts if 0 < count.objects < FEW_OBJECTS]
    if absent:
        yield f"No objects of {_classes(absent)}, so the model cannot learn them."
    if rare:
        yield (
            f"Fewer than {FEW_OBJECTS} objects of each of {_classes(rare)}: collect more, or "
            "expect the model to miss them."
        )


def _on_sizes(numbers: DataStatistics) -> Iterator[str]:
    tiny = numbers.tiny
    if tiny[1.0] >= NOTABLE:
        yield (
            f"{percent(tiny[1.0])} of the objects are smaller than {TINY} px at the network "
            f"input, which is less than a cell of the finest feature map of many detectors. At 1.5 "
            f"times the input size it would be {percent(tiny[1.5])}, at 2 times "
            f"{percent(tiny[2.0])}."
        )
    bins = numbers.aspect_ratios.bins
    share = (bins[0].count + bins[-1].count) / max(numbers.objects, 1)
    if share >= NOTABLE:
        yield (
            f"{percent(share)} of the boxes have one side more than 4 times as long as the other, "
            "but anchors usually have aspect ratios of at most 2: use anchors with more aspect "
            "ratios, or an assigner that uses the centers of objects."
        )


def _on_large_objects(numbers: DataStatistics) -> Iterator[str]:
    if numbers.input_sizes.low >= LARGE:
        yield (
            f"95% of the objects are larger than {numbers.input_sizes.low:.0f} px at the network "
            "input: half the input size, which trains about four times as fast, may be enough."
        )


def _on_positives(positives: PositiveCounts, config_file: str | None) -> Iterator[str]:
    shares = {part.scale: part.missed / positives.objects for part in positives.inputs}
    at_config_size = next(part for part in positives.inputs if part.scale == 1)
    best = min(positives.inputs, key=lambda part: (part.missed, part.scale))
    width, height = at_config_size.width, at_config_size.height
    size = f"{width:,} × {height:,} px, the median input size of {config_file}"
    missed = f"{percent(shares[1.0])} of the objects have no positive"
    if shares[1.0] <= FEW_MISSED:
        smaller = [part for part in positives.inputs if shares[part.scale] <= FEW_MISSED][0]
        smaller_text = ""
        if smaller.scale < 1:
            smaller_text = (
                f", and at {smaller.scale:g} times the size {percent(shares[smaller.scale])}"
            )
        yield f"At {size}, {missed}{smaller_text}: the anchors and the assigner fit."
        return
    if shares[best.scale] > 0.75 * shares[1.0]:
        text = (
            f"even at {best.scale:g} times the size it would be {percent(shares[best.scale])}, so "
            "cut the images into tiles, or use other anchors or another assigner"
        )
        if best.scale <= 1:
            text = "no larger input helps, so use other anchors or another assigner"
    else:
        # Of the sizes with 3/4 of the best one's improvement, take the closest to the config's.
        limit = shares[best.scale] + 0.25 * (shares[1.0] - shares[best.scale])
        choices = [part for part in positives.inputs if shares[part.scale] <= limit]
        part = min(choices, key=lambda part: abs(part.scale - 1))
        text = (
            f"at {part.scale:g} times the size, {part.width:,} × {part.height:,} px, it would be "
            f"{percent(shares[part.scale])} (in the config, set the sizes in the augmentations of "
            "dataloader.train.mapper and dataloader.test.mapper)"
        )
    yield f"At {size}, {missed}, so the model gets no training signal from them; {text}."


def _on_crowding(numbers: DataStatistics) -> Iterator[str]:
    most, crowding = numbers.objects_per_image.maximum, numbers.crowding
    if most > MAX_DETECTIONS:
        yield (
            f"An image has up to {most:,.0f} objects, but {MAX_DETECTIONS} detections per image "
            'are kept and evaluated by default: raise both limits (docs/evaluation.md, "How many '
            'detections"), in training, evaluation and prediction.'
        )
    share = crowding.same_class / max(numbers.objects, 1)
    if share >= NOTABLE:
        yield (
            f"{percent(share)} of the objects overlap another one of their class with an IoU above "
            "0.5: NMS would remove one of the two detections, so raise its threshold, or use "
            "Soft-NMS."
        )
    if crowding.duplicate_pairs:
        yield (
            f"{quantity(crowding.duplicate_pairs, 'pair', 'pairs')} of nearly equal boxes of the "
            "same class: probably duplicate annotations."
        )
    annotations = numbers.objects + numbers.crowds
    if numbers.crowds > MANY_CROWDS * annotations:
        yield (
            f"{percent(numbers.crowds / annotations)} of the annotations are crowds, which are not "
            "used for training; --crowds-are-objects treats them as objects."
        )


def _on_images(numbers: DataStatistics) -> Iterator[str]:
    share = numbers.empty_images / numbers.images
    if share >= NOTABLE:
        yield (
            f"{percent(share)} of the images have no objects and are skipped in training, unless "
            "--keep-empty-images is given."
        )


def _on_copies(copies: Copies, *, several: bool) -> Iterator[str]:
    if copies.across:
        yield (f"Images with a duplicate in an earlier split: {copies.across:,}. They inflate AP.")
    if copies.surplus:
        text = f"Duplicates or augmentations of other images: {copies.surplus:,}."
        if not several:
            text += " A random split would put some of them in both splits; "
            text += "train_net.py keeps them together."
        yield text
