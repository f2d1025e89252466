from types import SimpleNamespace

import pytest
import torch

from ranking_det.assigners import gaussian_mixture
from ranking_det.assigners.gaussian_mixture import (
    classify,
    fit_two_gaussians,
    in_float64,
)
from tests.assigners.reference import mixture


def uniform(count, generator):
    return torch.rand(count, generator=generator, dtype=torch.float64)


DISTRIBUTIONS = {
    "uniform": uniform,
    "skewed": lambda n, g: 4 * uniform(n, g) ** 3,
    "two groups": lambda n, g: torch.cat([0.2 * uniform(n // 2, g), 3 + uniform(n - n // 2, g)]),
    "huge": lambda n, g: 1e5 * uniform(n, g),
    "small": lambda n, g: 1e-4 * uniform(n, g),
    "far from 0": lambda n, g: 1e3 + uniform(n, g),
    "negative": lambda n, g: -3 * uniform(n, g),
    "all equal": lambda n, g: torch.full((n,), 0.7, dtype=torch.float64),
    "two values": lambda n, g: 1.3 * (torch.arange(n) % 3 == 0).double(),
    "one outlier": lambda n, g: torch.cat([torch.full((1,), 50.0).double(), uniform(n - 1, g)]),
}


def scatter(rows, generator, columns=46):
    """Put samples at random columns of a NaN matrix; also return where they are."""
    values = torch.full((len(rows), columns), torch.nan, dtype=torch.float64)
    exists = torch.zeros(len(rows), columns, dtype=torch.bool)
    for i, row in enumerate(rows):
        columns_of_row = torch.randperm(columns, generator=generator)[: len(row)]
        values[i, columns_of_row] = row
        exists[i, columns_of_row] = True
    return values, exists


def assert_agrees_with_scikit_learn(values, exists, fit):
    labels, likelihood = classify(values, fit)
    for i in range(len(values)):
        column = values[i, exists[i]][:, None].numpy()
        reference = mixture(column[:, 0])
        for actual, expected in (
            (fit.means[i], reference.means_[:, 0]),
            (fit.variances[i], reference.covariances_[:, 0, 0]),
            (fit.weights[i], reference.weights_),
            (labels[i, exists[i]], reference.predict(column)),
            (likelihood[i, exists[i]], reference.score_samples(column)),
        ):
            torch.testing.assert_close(actual, torch.from_numpy(expected), rtol=1e-6, atol=1e-9)
        assert bool(fit.converged[i]) == reference.converged_


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_every_row_agrees_with_scikit_learn(kind):
    generator = torch.Generator().manual_seed(5)
    sizes = [2, 2, 3, 4, 9, 17, 45, 45, 46, 46]
    values, exists = scatter([DISTRIBUTIONS[kind](n, generator) for n in sizes], generator)
    assert_agrees_with_scikit_learn(values, exists, fit_two_gaussians(values, exists))


@pytest.mark.parametrize("every", [1, 3, 8, 1000])
def test_rows_that_need_different_numbers_of_iterations_do_not_affect_each_other(
    monkeypatch, every
):
    monkeypatch.setattr(gaussian_mixture, "CHECK_EVERY", every)
    generator = torch.Generator().manual_seed(6)
    rows = [make(45, generator) for make in DISTRIBUTIONS.values()]
    values, exists = scatter(rows, generator)
    assert_agrees_with_scikit_learn(values, exists, fit_two_gaussians(values, exists))


def test_a_row_that_reaches_the_iteration_limit_is_not_converged(monkeypatch):
    monkeypatch.setattr(gaussian_mixture, "TOLERANCE", 1e-9)
    monkeypatch.setattr(gaussian_mixture, "MAX_ITERATIONS", 20)
    values = uniform(45, torch.Generator().manual_seed(0))[None].repeat(2, 1)
    values[1] = 1.0
    fit = fit_two_gaussians(values, torch.ones_like(values) > 0)
    assert fit.converged.tolist() == [False, True]


def test_rows_without_samples_and_empty_matrices_have_finite_mixtures():
    values = torch.tensor([[torch.nan, torch.inf], [1.0, 2.0]])
    fit = fit_two_gaussians(values, torch.tensor([[False, False], [True, True]]))
    assert all(part.isfinite().all() for part in fit)
    for shape in ((0, 4), (3, 0), (0, 0)):
        fit = fit_two_gaussians(torch.zeros(shape), torch.zeros(shape) > 0)
        assert fit.means.shape == (shape[0], 2) and fit.means.isfinite().all()


def test_half_precision_is_fitted_in_float64():
    values = torch.tensor([[0.5, 0.75, 4.0, 4.5, 5.0]])
    exists = torch.ones_like(values) > 0
    for half in (torch.bfloat16, torch.float16):
        for actual, expected in zip(
            fit_two_gaussians(values.to(half), exists), fit_two_gaussians(values, exists)
        ):
            torch.testing.assert_close(actual, expected)


def test_values_on_a_device_without_float64_move_to_the_cpu():
    numbers = torch.ones(2)
    metal = SimpleNamespace(device=SimpleNamespace(type="mps"), cpu=lambda: numbers)
    assert in_float64(metal).dtype == torch.float64


def test_the_error_names_the_wrong_argument():
    values = torch.zeros(2, 3)
    with pytest.raises(
        ValueError, match=r"values: expected a float tensor \(G, C\), got torch.int"
    ):
        fit_two_gaussians(values.long(), values > 0)
    with pytest.raises(ValueError, match=r"values: expected a float .* of shape \(3,\)"):
        fit_two_gaussians(values[0], values[0] > 0)
    with pytest.raises(ValueError, match=r"exists: expected bool of shape \(2, 3\), .* \(2, 2\)"):
        fit_two_gaussians(values, values[:, :2] > 0)
