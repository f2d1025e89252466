import pytest
import torch

from ranking_det.losses import rank_sort_loss
from ranking_det.losses.kernels import constants
from ranking_det.losses.kernels.interval_sums import IntervalSums
from ranking_det.losses.kernels.ramps import Ramps, range_sums
from ranking_det.losses.kernels.ranked_logits import gather_ranked_logits
from ranking_det.losses.kernels.sigmoid_sums import SigmoidSums
from tests.losses.cases import CASES, DELTAS, assert_close, random_case


def dense_sums(case, delta):
    """Compute both sums with the full P x N matrix, the second with the weights 1..P."""
    is_positive = torch.zeros(len(case.logits), dtype=torch.bool)
    is_positive[case.positives] = True
    logits = case.logits.detach()
    x = logits[None, ~is_positive] - logits[case.positives, None]
    steps = (x >= 0).double() if delta == 0 else (x / (2 * delta) + 0.5).clamp(0, 1)
    received = torch.zeros_like(logits)
    received[~is_positive] = torch.arange(1.0, len(steps) + 1, dtype=torch.float64) @ steps
    return steps.sum(1), received


def assert_exact(case, delta):
    sums = IntervalSums(gather_ranked_logits(case.logits, case.positives, []), delta)
    counted, received = dense_sums(case, delta)
    assert_close(sums.false_positives, counted, 1e-10)
    weights = torch.arange(1.0, len(counted) + 1, dtype=torch.float64)
    assert_close(sums.gradient(weights, torch.zeros_like(weights)), received, 1e-10)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_chunk_size_does_not_change_the_sums(chunk, delta, monkeypatch):
    monkeypatch.setattr(constants, "CHUNK", chunk)
    assert_exact(random_case(13, 100), delta)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("cells", [0, 4, 5, 64, 10_000])
@pytest.mark.parametrize("name", ["ties", "wide", "narrow", "all equal", "offset", "one logit"])
def test_the_number_of_grid_cells_does_not_change_the_sums(name, cells, delta, monkeypatch):
    monkeypatch.setattr(constants, "MAX_CELLS", cells)
    assert_exact(CASES[name], delta)


def test_outliers_that_squeeze_all_logits_into_one_cell_do_not_change_the_sums():
    case = random_case(200, 5000)
    logits = case.logits.detach().clone()
    logits[case.positives[0]], logits[case.positives[1]] = 1e7, -1e7
    assert_exact(case._replace(logits=logits), 0.5)


def test_sums_over_positives_far_from_zero_equal_the_sums_near_zero():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(30, generator=generator, dtype=torch.float64) * 0.01
    values = 0.5 + 0.01 * torch.rand(30, generator=generator, dtype=torch.float64)
    far = (scores - 1e4) + 1e4  # the scores in the precision that floats have at 1e4
    expected = Ramps(far, 0.5).over_steps(values)
    actual = Ramps(far - 1e4, 0.5).over_steps(values)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)


def test_range_sums_do_not_lose_small_terms_next_to_large_ones():
    values = torch.tensor([1e15, 1e-3, 2e-3, -1e15, 4e-3], dtype=torch.float64)
    first, last = torch.tensor([1, 4, 0, 2]), torch.tensor([3, 5, 5, 2])
    assert range_sums(values, first, last).tolist() == pytest.approx([3e-3, 4e-3, 7e-3, 0])


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_the_block_size_of_pairs_of_positives_does_not_change_the_sorting_error(rows, monkeypatch):
    case = random_case(40, 60, ties=True)
    expected = rank_sort_loss(*case).sorting.item()
    monkeypatch.setattr(constants, "PAIRS", rows * 40)
    assert rank_sort_loss(*case).sorting.item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(("rows", "pairs"), [(1, 1), (3, 10), (64, 1 << 18)])
@pytest.mark.parametrize("cutoff", [-4.0, None])
def test_the_block_size_does_not_change_the_sigmoid_sums(rows, pairs, cutoff, monkeypatch):
    monkeypatch.setattr(constants, "SIGMOID_ROWS", rows)
    monkeypatch.setattr(constants, "PAIRS", pairs)
    case = random_case(20, 80, spread=2.0)
    sums = SigmoidSums(gather_ranked_logits(case.logits, case.positives, []), 8.0, cutoff)
    is_positive = torch.zeros(100, dtype=torch.bool)
    is_positive[case.positives] = True
    logits = case.logits.detach()
    x = 8 * (logits[None, ~is_positive] - logits[case.positives, None])
    in_range = x > (-torch.inf if cutoff is None else cutoff)
    assert_close(sums.false_positives, (torch.sigmoid(x) * in_range).sum(1), 1e-12)
    softplus = -torch.nn.functional.logsigmoid(-x) * in_range
    assert_close(sums.softplus, softplus.sum(1), 1e-12)
    weights = torch.arange(1.0, 21, dtype=torch.float64)
    received = sums.gradient(weights, torch.zeros_like(weights))[~is_positive]
    assert_close(received, weights @ (torch.sigmoid(x) * in_range), 1e-12)


def test_the_gradient_reuses_the_memory_of_the_slots():
    case = random_case(10, 500)
    for dtype in (torch.float32, torch.float64):
        logits = case.logits.detach().to(dtype)
        sums = IntervalSums(gather_ranked_logits(logits, case.positives, []), 0.5)
        address = sums._slots.data_ptr()
        weights = torch.ones(10, dtype=torch.float64)
        assert sums.gradient(weights, weights).data_ptr() == address


@pytest.mark.parametrize("gap", [1e-30, 1e-150, 1e-300])
def test_tiny_differences_between_logits_give_finite_sums(gap):
    logits = torch.tensor([0.0, gap], dtype=torch.float64)
    sums = IntervalSums(gather_ranked_logits(logits, torch.tensor([0]), []), delta=0.25)
    assert sums.false_positives.item() == pytest.approx(0.5)
