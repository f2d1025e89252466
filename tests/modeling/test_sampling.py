import pytest
import torch

from ranking_det.labels import BACKGROUND, IGNORE
from ranking_det.modeling import NegativeCap, RandomSampler

LABELS = torch.tensor([BACKGROUND] * 50 + [3, 0, 7] * 10 + [IGNORE] * 20)[
    torch.randperm(100, generator=torch.Generator().manual_seed(0))
]


def test_a_random_sample_has_the_given_size_and_share_of_positives_and_no_ignored_rows():
    rows = RandomSampler(size=40, positive_fraction=0.25)(LABELS)
    assert len(rows.unique()) == 40 and (rows.diff() > 0).all()
    assert (LABELS[rows] >= 0).sum() == 10 and (LABELS[rows] == BACKGROUND).sum() == 30
    assert len(RandomSampler(size=400)(LABELS)) == 80


def test_a_negative_cap_keeps_all_positives_and_the_given_number_of_negatives():
    rows = NegativeCap(max_negatives=7)(LABELS)
    assert (rows.diff() > 0).all()
    assert (LABELS[rows] >= 0).sum() == 30 and (LABELS[rows] == BACKGROUND).sum() == 7
    assert len(NegativeCap(max_negatives=0)(LABELS)) == 30
    samples = [set(NegativeCap(7)(LABELS).tolist()) for _ in range(20)]
    assert any(sample != samples[0] for sample in samples)


@pytest.mark.parametrize("sampler", [RandomSampler(8), NegativeCap(8)])
def test_an_image_without_candidates_has_an_empty_sample(sampler):
    assert len(sampler(LABELS[:0])) == 0


def test_options_out_of_range_raise_value_error():
    with pytest.raises(ValueError, match="size: expected an integer of at least 1, got 0"):
        RandomSampler(size=0)
    with pytest.raises(ValueError, match="positive_fraction: expected a number of at most 1"):
        RandomSampler(positive_fraction=2.0)
    with pytest.raises(ValueError, match="max_negatives: expected an integer of at least 0"):
        NegativeCap(max_negatives=-1)
