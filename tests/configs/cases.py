"""Helpers for the tests of configs."""

from tests.modeling.cases import make_batch


def check_step(model):
    losses = model(make_batch((3, 0), sizes=((128, 128),), num_classes=80))
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
