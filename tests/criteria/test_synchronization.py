"""Count the synchronizations of host and GPU in a training step.

A call synchronizes if the host needs its result or the shape of its result. The calls are counted
on the CPU. The checks of values are disabled, as they are on a GPU.
"""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ranking_det import checks
from ranking_det.criteria import (
    BoxTargets,
    Candidates,
    ConstantBalance,
    Criterion,
    RankDet,
    UniformWeight,
    candidates,
)
from ranking_det.labels import BACKGROUND, IGNORE

aten = torch.ops.aten
SYNCHRONIZING = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten._unique.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.masked_select.default,
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
MASKS = (torch.bool, torch.uint8)


class _Operations(TorchDispatchMode):
    """Record operations that synchronize, including operations of the backward pass."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        masked = function in INDEXING and any(
            index is not None and index.dtype in MASKS for index in args[1]
        )
        repeats = function is aten.repeat_interleave.Tensor and not (kwargs or {}).get(
            "output_size"
        )
        if function in SYNCHRONIZING or masked or repeats:
            self.waits.append(str(function))
        return function(*args, **(kwargs or {}))


class _Lists(TorchFunctionMode):
    """Record calls of ``tolist``, which is not an operation on the CPU."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.tolist:
            self.waits.append("tolist")
        return function(*args, **(kwargs or {}))


def synchronizations(run):
    with _Operations() as operations, _Lists() as lists:
        run()
    return operations.waits + lists.waits


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.item(),
        lambda x: int(x),
        lambda x: bool(x > 0),
        lambda x: x.view(1).tolist(),
        lambda x: x.view(1)[x.view(1) > 0],
        lambda x: x.view(1).clone().__setitem__(x.view(1) > 0, torch.ones(1)),
        lambda x: torch.unique(x.view(1)),
        lambda x: torch.bincount(x.view(1).long(), minlength=3),
        lambda x: torch.nonzero(x.view(1)),
        lambda x: torch.repeat_interleave(x.view(1), torch.tensor([2])),
    ],
)
def test_the_counter_detects_a_synchronization(run):
    assert len(synchronizations(lambda: run(torch.tensor(1.0)))) == 1


def batch(images, classes, levels, rows=60):
    """Make candidates of several images; the last image has no positives."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.full((images, rows), BACKGROUND)
    labels[:, ::4] = torch.randint(0, classes, labels[:, ::4].shape, generator=generator)
    labels[:, 1::7] = IGNORE
    labels[-1] = BACKGROUND
    labels = labels.flatten()
    positives = int((labels >= 0).sum())
    corner = 50 * torch.rand(positives, 2, generator=generator)
    anchors = torch.cat([corner, corner + 20], dim=1)
    outputs = torch.randn(positives, 4, generator=generator).requires_grad_()
    return Candidates(
        logits=torch.randn(images * rows, classes, generator=generator).requires_grad_(),
        labels=labels,
        positives=(labels >= 0).nonzero().squeeze(1),
        image=torch.arange(images).repeat_interleave(rows),
        level=(torch.arange(rows) * levels // rows).repeat(images),
        num_images=images,
        boxes=BoxTargets(
            outputs=outputs,
            boxes=anchors + outputs,
            anchors=anchors,
            gt_boxes=anchors + 3 * torch.rand(positives, 4, generator=generator),
        ),
    )


CLASSIFICATIONS = {
    "rankdet": RankDet,
    "rankdet ohem": lambda: RankDet(negatives="ohem"),
    "rankdet sigmoid": lambda: RankDet(distance="sigmoid"),
}


def synchronizations_of_a_step(build, scope, *size):
    step = batch(*size)
    criterion = Criterion(
        classification=build(),
        instance_weight=UniformWeight(),
        balance=ConstantBalance(1.0),
        rank_scope=scope,
    )
    return synchronizations(lambda: sum(criterion(step).losses.values()).backward())


@pytest.mark.parametrize("scope", ["image", "gpu"])
@pytest.mark.parametrize("name", CLASSIFICATIONS)
def test_a_step_of_rankdet_synchronizes_at_most_four_times_for_any_size(name, scope, monkeypatch):
    for module in (checks, candidates):
        monkeypatch.setattr(module, "should_check_values", lambda tensor: False)
    for size in ((1, 1, 1), (2, 3, 2), (5, 20, 4)):
        assert len(synchronizations_of_a_step(CLASSIFICATIONS[name], scope, *size)) <= 4
