from dataclasses import replace

import numpy as np
import pytest

from ranking_det.analysis.advice import advise
from ranking_det.data.object_statistics import Bin, Copies, Crowding, ImageObjects, measure
from ranking_det.engine.missed_objects import MissedObjects, PositiveCounts

NO_COPIES = Copies([], 0, 0, [])


def statistics(side=40.0, classes=("cat",), shape=(1.0, 1.0), count=20, **changes):
    """Return statistics of an image with a row of objects, each of ``side`` times ``shape``."""
    corners = np.stack(np.meshgrid(np.arange(count) * 500.0, [0.0]), axis=-1).reshape(-1, 2)
    boxes = np.concatenate([corners, corners + np.multiply(side, shape)], axis=1)
    labels = np.arange(count) % len(classes)
    image = ImageObjects("x", None, (100, 100), boxes, labels, [None] * count)
    return replace(measure([image], classes, np.ones(1)), **changes)


def positive_counts(*missed):
    scales = (0.5, 0.75, 1.0, 1.5, 2.0)
    inputs = [
        MissedObjects(scale, round(100 * scale), round(80 * scale), number, [number])
        for scale, number in zip(scales, missed)
    ]
    return PositiveCounts(1, 1, 1000, [Bin("< 4", 1000)], inputs)


def advice(numbers, positives=None, copies=NO_COPIES, left_out=0, **other_splits):
    lines = advise({"train": numbers} | other_splits, copies, positives, left_out, "shapes.py")
    return "\n".join(lines)


def test_a_data_set_without_problems_gets_one_sentence():
    assert advice(statistics()).startswith("Nothing stands out")


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (statistics(side=5), "100% of the objects are smaller than 8 px at the network input"),
        (statistics(side=5), "At 1.5 times the input size it would be 100%, at 2 times 0%."),
        (statistics(side=90), "95% of the objects are larger than 90 px at the network input"),
        (
            statistics(shape=(1, 5)),
            "100% of the boxes have one side more than 4 times as long as the other",
        ),
        (statistics(count=101), "An image has up to 101 objects, but 100 detections"),
        (statistics(classes="abc"), "Fewer than 10 objects of each of 3 classes (a, b, c)"),
        (statistics(classes=["a", *"bcdefg"], count=1), "6 classes (b, c, d, e, f, ...), so"),
        (statistics(crowding=Crowding(4, 0, 0)), "20% of the objects overlap another one"),
        (
            statistics(crowding=Crowding(0, 0, 3)),
            "3 pairs of nearly equal boxes of the same class: probably duplicate annotations.",
        ),
        (statistics(crowds=5), "20% of the annotations are crowds"),
        (statistics(images=4, empty_images=3), "75% of the images have no objects"),
    ],
)
def test_each_problem_of_the_data_gets_a_sentence_of_advice(numbers, expected):
    assert expected in advice(numbers)


@pytest.mark.parametrize(
    ("missed", "expected"),
    [
        ((300, 9, 2, 0, 0), "have no positive, and at 0.75 times the size 0.9%: the anchors and"),
        ((300, 40, 10, 0, 0), "1.0% of the objects have no positive: the anchors and the"),
        ((900, 700, 400, 90, 80), "from them; at 1.5 times the size, 150 × 120 px, it would be 9"),
        (
            (900, 700, 400, 300, 80),
            "at 2 times the size, 200 × 160 px, it would be 8.0% (in the config, set the sizes",
        ),
        ((900, 900, 800, 800, 700), "even at 2 times the size it would be 70%, so cut the images"),
        ((80, 80, 80, 90, 95), "no larger input helps, so use other anchors"),
        ((20, 90, 400, 500, 600), "at 0.75 times the size, 75 × 60 px, it would be 9.0%"),
    ],
)
def test_the_advice_names_the_input_size_that_helps(missed, expected):
    text = advice(statistics(side=90), positive_counts(*missed))
    assert expected in text
    assert text.startswith("At 100 × 80 px, the median input size of shapes.py")
    assert "larger than" not in text  # this advice needs no config and is given only without one


def test_the_advice_names_duplicates_unknown_classes_and_faults():
    copies = Copies([["train/a", "val/b"]], 3, 2, [])
    val_statistics = statistics(classes=["cat", "dog"])
    text = advice(statistics(), None, copies, 7, val=val_statistics)
    assert "The val images have objects of 1 class (dog) that the train images do not have" in text
    assert "Images with a duplicate in an earlier split: 2." in text and "random split" not in text
    assert "Images or objects left out because of annotation problems: 7." in text
    assert (
        "A random split would put some of them in both splits; train_net.py keeps them together."
    ) in advice(statistics(), None, copies)
