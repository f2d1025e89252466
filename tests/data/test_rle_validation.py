"""Validation of compressed RLE masks, compared with pycocotools and with a plain loop."""

import time

import numpy as np
import pytest
from pycocotools import mask as mask_util

from ranking_det.data.coco_json.faults import Faults
from ranking_det.data.coco_json.mask_rules import keep_usable_masks, rle_faults
from ranking_det.data.coco_json.rle_validation import is_whole

SIZE = (37, 50)
AREA = SIZE[0] * SIZE[1]


def random_masks(count, seed=0):
    """Return noise (the shortest runs), blocks (longer runs), an empty and a full mask."""
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


def compress(runs):
    """Compress any runs to characters, in a loop that follows the format."""
    text = ""
    for i, run in enumerate(runs):
        number = run - runs[i - 2] if i > 2 else run
        has_more_digits = True
        while has_more_digits:
            low, number = number & 0x1F, number >> 5
            has_more_digits = number != (-1 if low & 0x10 else 0)
            text += chr(48 + low + (0x20 if has_more_digits else 0))
    return text


VALID_RUNS = [3, 10, 200, 7, 500, 1, AREA - 721]


def test_every_mask_from_pycocotools_is_complete_as_text_and_as_bytes():
    for counts in (counts_of(mask) for mask in random_masks(259)):
        assert is_whole(counts, AREA) and is_whole(counts.decode(), AREA)
        assert not is_whole(counts, AREA + 1)
    assert is_whole(counts_of(np.eye(3000, 2000)), 6_000_000)


def test_the_reference_writes_the_same_characters_as_pycocotools():
    rle = {"size": list(SIZE), "counts": VALID_RUNS}
    assert mask_util.frPyObjects(rle, *SIZE)["counts"] == compress(VALID_RUNS).encode()


BROKEN = {
    "cut short": compress(VALID_RUNS)[:-1],
    "cut within a number": compress([*VALID_RUNS[:-1], 5000])[:-1],
    "an empty string": "",
    "a run is missing": compress(VALID_RUNS[:-1]),
    "a run too many": compress([*VALID_RUNS, 1]),
    "a run below 0": compress([3, 10, -1, AREA - 12]),
    "a run below 0 with the right sum": compress([3, 10, 200, -7, AREA - 206]),
    "the first run below 0": compress([-3, AREA + 3]),
    "only an unfinished number": "o",
    "an endless number": "o" * 40,
    "numbers that overflow": ("o" * 12 + "O") * 9,
    "garbage": "no RLE at all",
    "a character below the range": compress(VALID_RUNS) + "!",
    "a character above the range": compress(VALID_RUNS) + "~",
    "a NUL character": compress(VALID_RUNS) + "\0",
    "a character beyond ASCII": compress(VALID_RUNS) + "é",
    "a lone surrogate": "\ud800",
    "a byte beyond ASCII": compress(VALID_RUNS).encode() + b"\xff",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_mask_is_not_whole(case):
    assert is_whole(compress(VALID_RUNS), AREA)
    assert not is_whole(BROKEN[case], AREA)


def test_is_whole_agrees_with_a_plain_loop_if_one_character_is_changed():
    """Some changes keep the sum of the runs, so the text is another valid mask."""
    rng = np.random.default_rng(1)
    text = counts_of(random_masks(9)[7]).decode()
    changed = []
    for _ in range(400):
        position = rng.integers(len(text))
        changed.append(text[:position] + chr(rng.integers(40, 120)) + text[position + 1 :])
    results = [is_whole(counts, AREA) for counts in changed]
    assert results == [is_whole_by_loop(counts) for counts in changed]
    assert 0 < sum(results) < 100


def is_whole_by_loop(text):
    """Return whether a mask is valid, character by character."""
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


def test_only_compressed_masks_of_images_with_a_size_are_decoded():
    size, faults = [SIZE[0], SIZE[1]], Faults("own.json")
    broken_rle = {"size": size, "counts": "no RLE"}
    entries = [
        {"image_id": 1},
        {"image_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]},
        {"image_id": 1, "segmentation": {"size": size, "counts": VALID_RUNS}},
        {"image_id": 1, "segmentation": broken_rle},
        {"image_id": 1, "segmentation": broken_rle | {"size": None}},
        {"image_id": 1, "segmentation": broken_rle | {"counts": compress(VALID_RUNS).encode()}},
    ]
    usable = keep_usable_masks(entries, {1: (SIZE[1], SIZE[0])}, faults)
    assert [entry.get("segmentation") for entry in usable[3:5]] == [[], []]
    assert usable[:3] == entries[:3] and usable[5] == entries[5]
    texts = {row.place: row.text for row in faults.rows}
    assert list(texts) == ["annotations[3]", "annotations[4]"]
    assert f"expected runs that sum to {AREA} pixels" in texts["annotations[3]"]
    assert "'size': expected the image's" in texts["annotations[4]"]
    assert not list(rle_faults(broken_rle, None))


def test_checking_a_mask_takes_less_than_200_microseconds():
    counts = [counts_of(mask) for mask in random_masks(40)][::2] * 100  # 50 characters
    start = time.process_time()
    assert all(is_whole(text, AREA) for text in counts)
    assert (time.process_time() - start) / len(counts) < 200e-6  # about 20e-6 when written
