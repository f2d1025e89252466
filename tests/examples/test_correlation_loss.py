"""Tests of examples/correlation_loss.py: values, gradient, contract and a training step."""

import doctest

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from examples import correlation_loss as example
from examples.correlation_loss import CorrelatedAP, correlation_loss
from ranking_det.criteria import Criterion
from tests.contracts import check_criterion, check_ranking_loss
from tests.criteria.cases import LABELS, make_candidates
from tests.losses.cases import CASES
from tests.modeling.cases import CONFIGS, make_batch


@pytest.mark.parametrize("name", ["two positives", "300 positives", "wide", "offset"])
def test_the_loss_is_one_minus_pearsons_coefficient(name):
    logits, positives, quality = CASES[name]
    scores = logits.detach()[positives].numpy()
    expected = 1 - np.corrcoef(scores, quality.numpy())[0, 1]
    assert correlation_loss(logits, positives, quality).item() == pytest.approx(expected)


def test_the_gradient_agrees_with_finite_differences():
    logits, positives, quality = CASES["no negative"]
    assert torch.autograd.gradcheck(lambda x: correlation_loss(x, positives, quality), logits)


def test_equal_scores_have_a_finite_gradient_that_sorts_them_by_iou():
    logits = torch.zeros(4, requires_grad=True)
    quality = torch.tensor([0.9, 0.5, 0.1])
    correlation_loss(logits, torch.tensor([0, 1, 2]), quality).backward()
    assert logits.grad.isfinite().all() and logits.grad[3] == 0
    assert logits.grad[0] < logits.grad[1] < logits.grad[2]


def test_correlation_loss_satisfies_the_contract_of_ranking_losses():
    check_ranking_loss(correlation_loss)


@pytest.mark.parametrize("rank_scope", ["gpu", "image"])
def test_a_criterion_with_correlation_loss_satisfies_the_contract(rank_scope):
    check_criterion(lambda: Criterion(classification=CorrelatedAP(), rank_scope=rank_scope))


def test_the_weight_scales_only_the_correlation_loss():
    light, heavy = (CorrelatedAP(weight)(make_candidates(LABELS)) for weight in (0.1, 0.4))
    torch.testing.assert_close(heavy["loss_corr"], 4 * light["loss_corr"])
    assert heavy["loss_cls"] == light["loss_cls"]


def test_the_error_names_the_wrong_argument():
    with pytest.raises(ValueError, match="weight: expected a finite number of at least 0, got -1"):
        CorrelatedAP(weight=-1)
    with pytest.raises(ValueError, match="delta: expected a finite number of at least 0, got -2"):
        CorrelatedAP(delta=-2)


def test_a_step_trains_every_parameter():
    config = LazyConfig.load(str(CONFIGS.parent / "examples" / "correlation_loss_shapes.py"))
    torch.manual_seed(0)
    model = instantiate(config.model)
    losses = model(make_batch((4, 0)))
    assert set(losses) == {"loss_cls", "loss_corr", "loss_box"}
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    losses = model(make_batch((0, 0)))
    assert sum(losses.values()) == 0


def test_the_docstring_example_is_correct():
    assert doctest.testmod(example).failed == 0
