"""Count reverse pairs: pairs of candidates whose scores are in the wrong order.

RankDetNet (Liu et al., CVPR 2021, table 3) has three kinds of pairs. A pair is reversed if

- foreground-background: the score of a positive for its class is below the highest score that a
  background row has for any class;
- positive-negative: the score of a positive for its class is below the score for that class of a
  row of background or of another class;
- positive-positive: of two positives of a class, the one that overlaps its object more has the
  lower score.

Pairs with equal scores or equal overlaps are left out. The ratio of reverse pairs to all pairs is 0
for a perfect ranking. For random scores it is about .5, but K / (K + 1) for foreground-background
pairs, because their background has the highest of K scores.

Shapes:
    R: rows, the candidates of one image
    K: classes
    P: positives, the rows whose label is a class
    N: negatives
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ranking_det.labels import BACKGROUND, IGNORE

MINED = 3
"""Number of mined negatives per positive, as in RankDetNet."""


@dataclass
class PairCounts:
    """Counts of the three kinds of pairs; the last axis has the reverse pairs and all pairs.

    Attributes:
        foreground_background: (2, 2) int64, for all background rows and for the mined ones.
        positive_negative: (K, 2, 2) int64, by class, for all negatives and for the mined ones.
        positive_positive: (K, 2) int64, by class.
    """

    foreground_background: np.ndarray
    positive_negative: np.ndarray
    positive_positive: np.ndarray

    def add(self, other: PairCounts) -> None:
        """Add the counts of another image.

        Args:
            other: its counts, for the same number of classes.
        """
        for part in fields(self):
            vars(self)[part.name] += vars(other)[part.name]

    def ratios(self) -> dict[str, Any]:
        """Return the ratios and counts of all classes together, for JSON."""
        return {
            "foreground_background": _all_and_mined_ratios(self.foreground_background),
            "positive_negative": _all_and_mined_ratios(self.positive_negative.sum(axis=0)),
            "positive_positive": _ratio(self.positive_positive.sum(axis=0)),
        }


@dataclass
class HeadPairs:
    """Pairs of one head of a detector, summed over images.

    Attributes:
        merged: the pairs of all levels together; None before the first image.
        levels: for each level, the pairs whose two rows are both on it.
        positives: number of positives.
        negatives: number of background rows.
    """

    merged: PairCounts | None = None
    levels: list[PairCounts] = field(default_factory=list)
    positives: int = 0
    negatives: int = 0

    def add(
        self, scores: np.ndarray, labels: np.ndarray, overlap: np.ndarray, level: np.ndarray
    ) -> None:
        """Count the pairs within an image, exactly and without a pair matrix.

        The mined negatives are the ``MINED`` x P negatives with the highest scores. P counts the
        positives of all classes for foreground-background pairs, and those of the class for
        positive-negative pairs.

        Args:
            scores: (R, K) floats; only their order matters.
            labels: (R,) integers, a class 0..K-1, BACKGROUND or IGNORE.
            overlap: (R,) floats, the IoU of each positive and its object; not used for other rows.
            level: (R,) integers, the feature level of each row, 0 for the finest.

        Raises:
            ValueError: a score is NaN.
        """
        num_classes, highest = scores.shape[1], scores.max(axis=1)
        if np.isnan(highest).any():
            raise ValueError("scores: expected numbers, got NaN")
        self.merged = self.merged or no_pairs(num_classes)
        self.merged.add(_count_pairs(scores, highest, labels, overlap))
        self.positives += int((labels >= 0).sum())
        self.negatives += int((labels == BACKGROUND).sum())
        for index in range(int(level.max(initial=-1)) + 1):
            if index == len(self.levels):
                self.levels.append(no_pairs(num_classes))
            on_level = np.where(level == index, labels, IGNORE)
            self.levels[index].add(_count_pairs(scores, highest, on_level, overlap))

    def to_json(self, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the ratios and counts: merged, by class and by level.

        Args:
            class_names: the names of the K classes. Indices replace them if they are missing or
                their number is not K, as for the single class of a region proposal network.
        """
        merged = self.merged or no_pairs(0)
        count = len(merged.positive_positive)
        names = list(class_names or ())
        if len(names) != count:
            names = [str(index) for index in range(count)]
        by_class = zip(names, merged.positive_negative, merged.positive_positive, strict=True)
        return {
            "positives": self.positives,
            "negatives": self.negatives,
            **merged.ratios(),
            "classes": {
                name: {
                    "positive_negative": _all_and_mined_ratios(negatives),
                    "positive_positive": _ratio(positives),
                }
                for name, negatives, positives in by_class
            },
            "levels": [level.ratios() for level in self.levels],
        }


def no_pairs(num_classes: int) -> PairCounts:
    """Return pair counts that are all 0.

    Args:
        num_classes: K, >= 0.
    """
    shapes = (2, 2), (num_classes, 2, 2), (num_classes, 2)
    return PairCounts(*(np.zeros(shape, np.int64) for shape in shapes))


def count_inversions(values: np.ndarray) -> int:
    """Count the pairs i < j with values[i] > values[j] by merge sort, in O(n log n).

    Args:
        values: (n,) numbers without NaN.
    """
    count, width, inversions = len(values), 1, 0
    padded = 1 << max(count - 1, 0).bit_length()
    # The padding has the highest rank and comes last, so it adds no inversions.
    ranks = np.full(padded, count)
    ranks[:count] = np.unique(values, return_inverse=True)[1]
    while width < padded:
        blocks = ranks.reshape(-1, 2 * width)
        # Both halves of a block are sorted. The stable sort merges them in linear time.
        order = blocks.argsort(axis=1, kind="stable")
        is_left = order < width
        left_before = is_left.cumsum(axis=1)
        inversions += int((width - left_before)[~is_left].sum())
        ranks = np.take_along_axis(blocks, order, axis=1).ravel()
        width *= 2
    return inversions


def _count_pairs(
    scores: np.ndarray, highest: np.ndarray, labels: np.ndarray, overlap: np.ndarray
) -> PairCounts:
    """Count the pairs of an image in O(R C log P) time for the C classes that have positives.

    The highest scores (R,) are those over all classes.
    """
    counts = no_pairs(scores.shape[1])
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        return counts
    background = highest[labels == BACKGROUND]
    counts.foreground_background = _count_across(scores[rows, labels[rows]], background)
    for label in np.unique(labels[rows]):
        is_positive = labels == label
        positives = scores[is_positive, label]
        negatives = scores[~is_positive & (labels != IGNORE), label]
        counts.positive_negative[label] = _count_across(positives, negatives)
        counts.positive_positive[label] = _count_within(positives, overlap[is_positive])
    return counts


def _count_across(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Count the pairs of positives and negatives: (2, 2), all and mined; reverse and total."""
    ascending = np.sort(positives)
    num_mined = min(MINED * len(positives), len(negatives))
    mined = np.partition(negatives, len(negatives) - num_mined)[len(negatives) - num_mined :]
    counts = []
    for scores in (negatives, mined):
        # Most negatives are below all positives. Leaving them out first saves most of the time.
        high = scores[scores >= ascending[0]]
        lower = np.searchsorted(ascending, high, "left")
        ties = np.searchsorted(ascending, high, "right") - lower
        counts.append((lower.sum(), len(positives) * len(scores) - ties.sum()))
    return np.array(counts)


def _count_within(scores: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Count the pairs of positives of a class: (2,), reverse and total."""
    # Pairs with equal overlaps are in the order of their scores, so they add no inversions.
    order = np.lexsort((scores, overlap))
    reverse = count_inversions(scores[order])
    both = np.stack([scores, overlap], axis=1)
    ties = _ties(scores) + _ties(overlap) - _ties(both)
    return np.array([reverse, len(scores) * (len(scores) - 1) // 2 - ties])


def _ties(values: np.ndarray) -> int:
    """Count the pairs of equal numbers or rows."""
    counts = np.unique(values, axis=0, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _ratio(counts: np.ndarray) -> dict[str, float | int | None]:
    reverse, pairs = counts.tolist()
    return {"ratio": reverse / pairs if pairs else None, "reverse": reverse, "pairs": pairs}


def _all_and_mined_ratios(counts: np.ndarray) -> dict[str, Any]:
    return {"all": _ratio(counts[0]), "mined": _ratio(counts[1])}
