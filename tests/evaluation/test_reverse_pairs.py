"""Reverse pairs equal direct loops over all pairs, with ties, ignored rows and empty inputs."""

import math

import numpy as np
import pytest

from ranking_det.evaluation.reverse_pairs import MINED, HeadPairs, count_inversions
from ranking_det.labels import BACKGROUND, IGNORE


def ratio(pairs):
    """Return the ratio and the counts of pairs of (score that should be higher, other score)."""
    untied = [(high, low) for high, low in pairs if high != low]
    reverse = sum(high < low for high, low in untied)
    value = reverse / len(untied) if untied else None
    return {"ratio": value, "reverse": reverse, "pairs": len(untied)}


def over_negatives(groups):
    """Return the ratios over groups of (scores of positives, scores of negatives)."""
    mined = [(high, sorted(low, reverse=True)[: MINED * len(high)]) for high, low in groups]
    return {
        name: ratio([(a, b) for high, low in chosen for a in high for b in low])
        for name, chosen in (("all", groups), ("mined", mined))
    }


def by_loop(images, num_classes, level=None):
    """Return the ratios by the definitions, on a level or on all, and those of each class."""
    across, ordered = {c: [] for c in range(num_classes)}, {c: [] for c in range(num_classes)}
    foreground_background = []
    for scores, labels, overlap, levels in images:
        rows = [r for r in range(len(labels)) if level is None or levels[r] == level]
        positives = [r for r in rows if labels[r] >= 0]
        background = [max(scores[r]) for r in rows if labels[r] == BACKGROUND]
        high = [scores[r][labels[r]] for r in positives]
        foreground_background.append((high, background))
        for c in range(num_classes):
            same = [r for r in positives if labels[r] == c]
            others = [r for r in rows if labels[r] not in (c, IGNORE)]
            across[c].append(([scores[r][c] for r in same], [scores[r][c] for r in others]))
            ordered[c] += [
                (scores[i][c], scores[j][c]) for i in same for j in same if overlap[i] > overlap[j]
            ]
    every = [group for groups in across.values() for group in groups]
    merged = {
        "foreground_background": over_negatives(foreground_background),
        "positive_negative": over_negatives(every),
        "positive_positive": ratio([pair for pairs in ordered.values() for pair in pairs]),
    }
    classes = {
        str(c): {
            "positive_negative": over_negatives(across[c]),
            "positive_positive": ratio(ordered[c]),
        }
        for c in range(num_classes)
    }
    return merged, classes


def make_image(rng, rows, num_classes, values, labels):
    """Make random rows; few different ``values`` give many ties."""
    scores = rng.integers(0, values, (rows, num_classes)).astype(np.float32)
    overlap = rng.integers(0, values, rows) / values
    return scores, rng.choice(labels, rows), overlap, np.sort(rng.integers(0, 3, rows))


def count(images):
    head = HeadPairs()
    for image in images:
        head.add(*image)
    return head


@pytest.mark.parametrize("values", [2, 5, 10**6])
@pytest.mark.parametrize(
    ("num_classes", "labels"),
    [
        (3, [BACKGROUND, BACKGROUND, IGNORE, 0, 1, 2]),
        (3, [BACKGROUND] * 30 + [2]),
        (1, [BACKGROUND, BACKGROUND, IGNORE, 0]),
        (2, [0, 1]),
        (2, [BACKGROUND]),
        (2, [IGNORE]),
    ],
)
def test_the_counts_equal_loops_over_all_pairs(num_classes, labels, values):
    rng = np.random.default_rng(values + num_classes)
    sizes = (0, 1, 2, 30, 60)
    images = [make_image(rng, rows, num_classes, values, labels) for rows in sizes]
    head = count(images)
    numbers = head.to_json()
    merged, classes = by_loop(images, num_classes)
    levels = [by_loop(images, num_classes, level)[0] for level in range(len(head.levels))]
    every_label = np.concatenate([image[1] for image in images])
    assert numbers == {
        "positives": int((every_label >= 0).sum()),
        "negatives": int((every_label == BACKGROUND).sum()),
        **merged,
        "classes": classes,
        "levels": levels,
    }
    assert len(levels) == 3


def test_a_small_example_has_the_ratios_counted_by_hand():
    # Two positives of class 0 (the better one has the lower score), one of class 1, a background.
    scores = np.array([[2.0, 0.0], [3.0, 1.0], [5.0, 4.0], [2.5, 0.5]])
    head = count([(scores, np.array([0, 0, 1, -1]), np.array([0.9, 0.6, 0.7, 0]), np.zeros(4))])
    numbers = head.to_json(["cat", "dog"])
    # Foreground 2, 3 and 4 against background 2.5.
    mean = {"ratio": 1 / 3, "reverse": 1, "pairs": 3}
    assert numbers["foreground_background"] == {"all": mean, "mined": mean}
    # Cat: 2 and 3 against 5 and 2.5. Dog: 4 against 0, 1 and .5.
    assert numbers["positive_negative"]["all"] == {"ratio": 3 / 7, "reverse": 3, "pairs": 7}
    assert numbers["classes"]["dog"]["positive_negative"]["all"]["ratio"] == 0
    assert numbers["positive_positive"] == {"ratio": 1.0, "reverse": 1, "pairs": 1}
    assert numbers["classes"]["dog"]["positive_positive"]["ratio"] is None
    assert list(count([]).to_json()["classes"]) == []


def test_random_scores_give_a_half_and_a_perfect_order_gives_zero():
    rng = np.random.default_rng(0)
    labels = rng.choice([BACKGROUND] * 20 + [0], 5000)
    overlap, level = rng.random(5000), np.zeros(5000)
    numbers = count([(rng.random((5000, 1)), labels, overlap, level)]).to_json()
    ratios = numbers["positive_negative"]["all"], numbers["positive_positive"]
    assert all(0.47 < part["ratio"] < 0.53 for part in ratios)
    # The 3 P highest of 20 P negatives are above .85.
    assert numbers["positive_negative"]["mined"]["ratio"] > 0.85
    perfect = count([((overlap * (labels == 0))[:, None], labels, overlap, level)]).to_json()
    assert perfect["positive_negative"]["all"]["reverse"] == 0
    assert perfect["positive_positive"]["reverse"] == 0


def test_infinite_scores_are_counted_and_nan_raises_value_error():
    scores = np.array([[math.inf], [-math.inf], [math.inf]])
    labels, overlap, level = np.array([0, 0, -1]), np.array([0.5, 0.6, 0.0]), np.zeros(3)
    numbers = count([(scores, labels, overlap, level)]).to_json()
    assert numbers["foreground_background"]["all"] == {"ratio": 1.0, "reverse": 1, "pairs": 1}
    assert numbers["positive_positive"]["ratio"] == 1
    scores[2] = math.nan
    with pytest.raises(ValueError, match="scores: expected numbers, got NaN"):
        count([(scores, labels, overlap, level)])


@pytest.mark.parametrize("size", [0, 1, 2, 3, 31, 64, 65])
def test_inversions_are_counted_strictly(size):
    values = np.random.default_rng(size).integers(0, max(size // 2, 1), size)
    expected = sum(values[i] > values[j] for i in range(size) for j in range(i + 1, size))
    assert count_inversions(values) == expected


def test_100_000_positives_of_a_class_are_counted_exactly():
    # A matrix of all pairs would have 10^10 entries.
    values = np.arange(100_000)
    assert count_inversions(values[::-1]) == 100_000 * 99_999 // 2
    assert count_inversions(values) == 0
