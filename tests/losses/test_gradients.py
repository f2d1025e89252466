"""Assigned gradients: activation checkpointing, second derivatives, torch.compile."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from ranking_det.losses import (
    alrp_loss,
    ap_loss,
    ape_loss,
    class_specific_ranking_loss,
    cross_entropy,
    focal,
    global_ranking_loss,
    iou_guided_ranking_loss,
    quality_focal,
    rank_sort_loss,
    varifocal,
)
from ranking_det.losses.kernels.gradients import LossTerm, attach_gradients
from tests.losses.cases import random_case

CASE = random_case(10, 38)
LABELS = torch.full((16,), -1)
LABELS[::3] = torch.tensor([0, 1, 2, 0, 1, 2])
GROUPS = torch.arange(10) % 3
# Functions of (48,) logits, or (16, 3) for losses of rows and classes, and of (10,) qualities.
ASSIGNED_GRADIENTS = {
    "rank_sort": lambda x, q: sum(rank_sort_loss(x, CASE.positives, q)),
    "ap": lambda x, q: ap_loss(x, CASE.positives),
    "ap limited": lambda x, q: ap_loss(x, CASE.positives, distance="sigmoid", max_negatives=20),
    "alrp": lambda x, q: sum(alrp_loss(x, CASE.positives, 1 - q)),
    "ape": lambda x, q: ape_loss(x, CASE.positives, q),
    "global": lambda x, q: global_ranking_loss(x[:10], x[10:]),
    "class_specific": lambda x, q: class_specific_ranking_loss(x.view(16, 3), LABELS),
    "iou_guided": lambda x, q: iou_guided_ranking_loss(x[:10], q, GROUPS),
}
AUTOGRAD_GRADIENTS = {
    "focal": lambda x, q: focal(x.view(16, 3), LABELS),
    "quality_focal": lambda x, q: quality_focal(x.view(16, 3), LABELS, q[:6]),
    "varifocal": lambda x, q: varifocal(x.view(16, 3), LABELS, q[:6]),
    "cross_entropy": lambda x, q: cross_entropy(x.view(16, 3), LABELS),
}


def leaves():
    return CASE.logits.detach().clone().requires_grad_(), CASE.quality.clone().requires_grad_()


def gradients(loss, inputs, **options):
    return torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True, **options)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("name", ASSIGNED_GRADIENTS | AUTOGRAD_GRADIENTS)
def test_activation_checkpointing_does_not_change_gradients(name, use_reentrant):
    loss = (ASSIGNED_GRADIENTS | AUTOGRAD_GRADIENTS)[name]
    plain, checkpointed = leaves(), leaves()
    expected = gradients(loss(*plain), plain)
    # Reentrant checkpoints do not support torch.autograd.grad.
    checkpoint(loss, *checkpointed, use_reentrant=use_reentrant).backward()
    for leaf, gradient in zip(checkpointed, expected):
        actual = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        assert torch.equal(actual, gradient)


@pytest.mark.parametrize("name", ASSIGNED_GRADIENTS)
def test_a_second_derivative_gives_a_one_line_error(name):
    inputs = leaves()
    loss = ASSIGNED_GRADIENTS[name](*inputs)
    with pytest.raises(
        RuntimeError, match="^create_graph: expected False, got True; this .* once.*$"
    ):
        gradients(loss, inputs, create_graph=True)
    first = gradients(loss, inputs, retain_graph=True)
    with torch.enable_grad():
        second = gradients(loss, inputs)
    assert any(gradient.any() for gradient in first)
    assert all(torch.equal(one, other) for one, other in zip(first, second))


def test_gradients_of_parts_are_scaled_by_the_incoming_gradient_and_added():
    logits = torch.zeros(4, requires_grad=True)
    dense = LossTerm(torch.tensor(2.0), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    sparse = LossTerm(torch.tensor(3.0), torch.tensor([10.0, 20.0]), torch.tensor([3, 0]))
    first, second = attach_gradients(logits, dense, sparse)
    (first * 2 + second * 0.5).backward()
    assert logits.grad.tolist() == [12.0, 4.0, 6.0, 13.0]


def test_torch_compile_gives_the_same_gradient():
    gradient = torch.arange(4.0)

    def doubled(logits):
        return attach_gradients(2 * logits, LossTerm(torch.tensor(3.0), gradient))[0]

    logits = torch.zeros(4, requires_grad=True)
    torch.compile(doubled, backend="aot_eager", fullgraph=True)(logits).backward()
    assert torch.equal(logits.grad, 2 * gradient)


def test_the_worked_example_of_assigned_gradients_is_rank_and_sort_loss_with_the_hard_step():
    logits = torch.tensor([2.0, 1.5, 0.7, 0.0, -2.0], requires_grad=True)
    ranking = rank_sort_loss(logits, torch.tensor([1, 3]), torch.ones(2), delta=0.0).ranking
    assert ranking.item() == 0.5
    assert gradients(ranking, logits)[0].tolist() == [0.375, -0.25, 0.125, -0.25, 0.0]
