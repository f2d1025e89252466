"""Mixed precision (AMP): the choice of the dtype, and losses in float32."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from torch import nn

from ranking_det.engine.run_checks import choose_dtype
from ranking_det.engine.training import Autocast, build_trainer
from ranking_det.user_errors import UserError
from tests.modeling.cases import load, make_batch


@pytest.mark.parametrize(
    ("amp", "device", "dtype"),
    [
        ({}, "cpu", ""),
        ({"enabled": False, "dtype": "float16"}, "cpu", ""),
        ({"enabled": True}, "cpu", "bfloat16"),
        ({"enabled": True}, "cuda", "float16"),
        ({"enabled": True, "dtype": "bfloat16"}, "cuda:1", "bfloat16"),
    ],
)
def test_the_default_half_precision_depends_on_the_device(amp, device, dtype):
    assert choose_dtype(amp, device) == dtype


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (
            "float16",
            "train.amp.dtype: expected auto or bfloat16 on cpu, got 'float16', which needs a GPU",
        ),
        ("half", "train.amp.dtype: expected one of auto, float16, bfloat16, got 'half'"),
    ],
)
def test_an_unsupported_half_precision_raises_user_error(dtype, message):
    with pytest.raises(UserError, match=message):
        choose_dtype({"enabled": True, "dtype": dtype}, "cpu")


class Convolution(nn.Module):
    """A strided convolution that returns its map."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, maps):
        return self.layer(maps)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [((1, 1), torch.float32), ((3, 1), torch.float32), ((1, 3), torch.bfloat16)],
    ids=str,
)
def test_strided_convolutions_of_one_column_run_in_single_precision_on_a_cpu(size, dtype):
    """Torch's gradients of their weights in bfloat16 are NaN in one of about ten calls."""
    model = Autocast(Convolution(), torch.autocast("cpu", dtype=torch.bfloat16))
    maps = model(torch.ones(2, 8, *size, dtype=torch.bfloat16))
    assert maps.dtype == dtype
    maps.float().sum().backward()
    assert model.model.layer.weight.grad.dtype == torch.float32


class Watch(nn.Module):
    """Record the dtypes of the logits that a criterion gets and of the losses that it returns."""

    def __init__(self, criterion):
        super().__init__()
        self.criterion = criterion

    def forward(self, candidates):
        self.logits = candidates.logits.dtype
        output = self.criterion(candidates)
        self.losses = {loss.dtype for loss in output.losses.values()}
        self.boxes = candidates.boxes.boxes.dtype
        return output


@pytest.mark.parametrize(
    "name",
    [
        "quick/retinanet_atss_rs.py",
        "quick/fcos_fcos_rs.py",
        "quick/retinanet_atss_ape.py",
        "quick/retinanet_paa_focal.py",
        "quick/yolact_rs.py",
    ],
)
def test_a_step_in_half_precision_trains_every_parameter_and_ranks_in_single_precision(name):
    torch.manual_seed(0)
    model = instantiate(load(name).model).train()
    model.criterion = watch = Watch(model.criterion)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    loader = [make_batch((3, 0))] * 2
    trainer = build_trainer(model, loader, optimizer, "bfloat16", "cpu")
    with EventStorage() as trainer.storage:
        trainer.run_step()
    assert watch.logits == torch.bfloat16 and watch.boxes == torch.float32
    assert watch.losses == {torch.float32}
    for parameter in model.parameters():
        assert parameter.dtype == torch.float32 and parameter.grad.isfinite().all()
    changed = [not torch.equal(p, old) for p, old in zip(model.parameters(), before)]
    assert sum(changed) > 0.9 * len(changed)
