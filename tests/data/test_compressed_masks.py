"""Compressed masks, judged as pycocotools writes and reads them."""

import time

import numpy as np
import pytest
from pycocotools import mask as mask_util

from ranking_det.data.coco_json.compressed_masks import BATCH, are_whole
from ranking_det.data.coco_json.rules import broken_masks

SIZE = (37, 50)
AREA = SIZE[0] * SIZE[1]


def random_masks(count, seed=0):
    """Noise has the shortest runs; blocks have longer ones; all and nothing the longest."""
    rng = np.random.default_rng(seed)
    masks = [np.zeros(SIZE), np.ones(SIZE)]
    while len(masks) < count:
        block = np.zeros(SIZE)
        top, left = rng.integers(0, 30, 2)
        block[top : top + rng.integers(1, 30), left : left + rng.integers(1, 30)] = 1
        masks += [block, rng.random(SIZE) < rng.random()]
    return masks


def counts_of(mask):
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]


def write(runs):
    """The characters of runs, whatever they are; a loop straight from the format."""
    text = ""
    for i, run in enumerate(runs):
        number = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            low, number = number & 0x1F, number >> 5
            more = number != (-1 if low & 0x10 else 0)
            text += chr(48 + low + (0x20 if more else 0))
    return text


WHOLE = [3, 10, 200, 7, 500, 1, AREA - 721]


def test_every_mask_of_pycocotools_is_whole_as_text_and_as_bytes():
    counts = [counts_of(mask) for mask in random_masks(2 * BATCH + 3)]
    assert are_whole(counts, [AREA] * len(counts)).all()
    assert are_whole([own.decode() for own in counts], [AREA] * len(counts)).all()
    assert not are_whole(counts, [AREA + 1] * len(counts)).any()
    large = counts_of(np.eye(3000, 2000))
    assert are_whole([large, counts[5], large], [6_000_000, AREA, 6_000_000]).all()
    assert are_whole([], []).shape == (0,)


def test_the_characters_are_those_of_pycocotools():
    rle = {"size": list(SIZE), "counts": WHOLE}
    assert mask_util.frPyObjects(rle, *SIZE)["counts"] == write(WHOLE).encode()


BROKEN = {
    "cut short": write(WHOLE)[:-1],
    "cut within a number": write([*WHOLE[:-1], 5000])[:-1],
    "nothing": "",
    "too short": write(WHOLE[:-1]),
    "too long": write([*WHOLE, 1]),
    "a run below 0": write([3, 10, -1, AREA - 12]),
    "a run below 0, of the right sum": write([3, 10, 200, -7, AREA - 206]),
    "the first run below 0": write([-3, AREA + 3]),
    "only a number that goes on": "o",
    "a number without end": "o" * 40,
    "numbers that overflow": ("o" * 12 + "O") * 9,
    "garbage": "no RLE at all",
    "characters below": write(WHOLE) + "!",
    "characters above": write(WHOLE) + "~",
    "a zero": write(WHOLE) + "\0",
    "no ASCII": write(WHOLE) + "é",
    "a lone surrogate": "\ud800",
    "bytes that are no ASCII": write(WHOLE).encode() + b"\xff",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_mask_is_told_and_its_neighbours_are_not(case):
    good = [counts_of(mask) for mask in random_masks(6)]
    counts = [*good[:3], BROKEN[case], *good[3:], write(WHOLE)]
    expected = [own is not counts[3] for own in counts]
    assert are_whole(counts, [AREA] * len(counts)).tolist() == expected
    assert are_whole([BROKEN[case]], [AREA]).tolist() == [False]


def test_no_change_of_a_character_is_missed():
    """Held against a loop; some changes leave the sum as it is, and are as good as another mask."""
    rng = np.random.default_rng(1)
    text = counts_of(random_masks(9)[7]).decode()
    changed = []
    for _ in range(400):
        place = rng.integers(len(text))
        changed.append(text[:place] + chr(rng.integers(40, 120)) + text[place + 1 :])
    found = are_whole(changed, [AREA] * len(changed)).tolist()
    assert found == [read(own) for own in changed]
    assert 0 < sum(found) < 100


def read(text):
    """Whether a mask is whole, character by character."""
    runs, number, shift = [], 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return False
        number |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            number -= (1 << shift) if code & 0x10 else 0
            runs.append(number + runs[-2] if len(runs) > 2 else number)
            number, shift = 0, 0
    return shift == 0 and min(runs) >= 0 and sum(runs) == AREA


def test_only_masks_that_may_be_whole_are_decoded():
    size, sizes = [SIZE[0], SIZE[1]], {1: (SIZE[1], SIZE[0]), 2: None}
    broken = {"size": size, "counts": "no RLE"}
    entries = [
        3,
        {"image_id": 1},
        {"image_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]},
        {"image_id": 1, "segmentation": {"size": size, "counts": WHOLE}},
        {"image_id": 1, "segmentation": broken},
        {"image_id": 1, "segmentation": broken | {"size": None}},
        {"image_id": 2, "segmentation": broken},
        {"image_id": [], "segmentation": broken},
        {"image_id": 1, "segmentation": broken | {"counts": write(WHOLE).encode()}},
    ]
    found = list(broken_masks(entries, sizes))
    assert [index for index, _ in found] == [4]
    assert f"must decode to runs of {AREA} pixels" in found[0][1][1]


def test_millions_of_masks_take_minutes_and_not_hours():
    counts = [counts_of(mask) for mask in random_masks(40)][::2] * 100  # 50 characters
    start = time.process_time()
    assert are_whole(counts, [AREA] * len(counts)).all()
    assert (time.process_time() - start) / len(counts) < 200e-6  # a tenth of it here
