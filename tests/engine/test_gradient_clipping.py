"""Gradient clipping: the L2 norm over all parameters, in LazyConfigs and in yaml configs."""

import pytest
import torch
from torch import nn

from ranking_det.engine.run_config import load_config
from ranking_det.engine.training import clip_gradients
from ranking_det.user_errors import UserError
from tests.cases import run_commands
from tests.engine.cases import shapes_environment
from tests.modeling.cases import CONFIGS


def step(max_norm, gradients, scale=None):
    """Return how far a step of SGD with learning rate 1 moves each parameter."""
    parameters = [nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    groups = [{"params": [parameter]} for parameter in parameters]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    clip_gradients(optimizer, max_norm)
    loss = sum((p * torch.tensor(g)).sum() for p, g in zip(parameters, gradients))
    if scale is None:
        loss.backward()
        optimizer.step()
    else:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return [(-parameter).tolist() for parameter in parameters]


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_the_gradient_of_all_parameters_together_is_scaled_down_to_the_norm(scale):
    gradients = [[3.0, 0.0], [0.0, 4.0]]
    assert step(0.0, gradients, scale) == gradients
    assert step(5.1, gradients, scale) == gradients
    clipped = step(1.0, gradients, scale)
    assert clipped[0] == pytest.approx([0.6, 0.0]) and clipped[1] == pytest.approx([0.0, 0.8])


def test_a_run_moves_the_weights_no_farther_than_the_clipped_gradients_allow(tmp_path_factory):
    environment = shapes_environment(tmp_path_factory, train=4, val=1)
    folder = tmp_path_factory.mktemp("run")
    options = ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "3", "SOLVER.EPOCHS", "0"]
    options += ["SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.WARMUP_ITERS", "0", "OUTPUT_DIR"]
    options += [str(folder), "SOLVER.BASE_LR", "1.0", "SOLVER.WEIGHT_DECAY", "0.0"]
    options += ["SOLVER.CLIP_GRAD_NORM", "0.001", "SOLVER.IMS_PER_BATCH", "2"]
    options += ["SOLVER.REFERENCE_BATCH", "0", "SOLVER.MOMENTUM", "0.0", "TEST.EVAL_PERIOD", "0"]
    path = str(CONFIGS / "shapes" / "solov2_rs.yaml")
    run_commands([["--config-file", path, *options]], environment=environment)
    first, last = (
        torch.load(folder / f"model_{name}.pth", weights_only=True)["model"]
        for name in ("0000000", "final")
    )
    is_buffer = ("running_mean", "running_var", "num_batches_tracked", "pixel_mean", "pixel_std")
    moves = [last[name] - first[name] for name in first if not name.endswith(is_buffer)]
    distance = torch.cat([move.flatten() for move in moves]).norm()
    assert 1e-5 < distance <= 2 * 0.001 * 1.001


def test_a_negative_norm_is_a_user_error():
    message = "expected a finite number of at least 0, got -1"
    lazy = str(CONFIGS / "shapes" / "quick" / "solov2_rs.py")
    with pytest.raises(UserError, match=f"train.clip_grad_norm: {message}"):
        load_config(lazy, ["train.clip_grad_norm=-1.0"])
    twin = str(CONFIGS / "shapes" / "solov2_rs.yaml")
    with pytest.raises(UserError, match=f"SOLVER.CLIP_GRAD_NORM: {message}"):
        load_config(twin, ["SOLVER.CLIP_GRAD_NORM", "-1.0"])
