"""Quick configs of dense detectors differ only in the parts given in their names."""

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from tests.modeling import cases
from tests.modeling.cases import CONFIGS, make_batch

FOLDER = CONFIGS / "shapes" / "quick"
# R-CNNs are in test_rcnn_quick.py.
NAMES = sorted(
    path.stem for path in FOLDER.glob("*.py") if path.stem.startswith(("fcos_", "retinanet_"))
)
CLASS_NAMES = {
    "fcos": "RankingFCOS",
    "retinanet": "RankingRetinaNet",
    "maxiou": "MaxIoU",
    "atss": "ATSS",
    "paa": "PAA",
    "paastar": "NormalizedPAA",
}


def load(name):
    return cases.load(f"quick/{name}.py")


def class_name(node):
    target = node._target_
    return target.split(".")[-1] if isinstance(target, str) else target.__name__


@pytest.mark.parametrize("name", NAMES)
def test_a_step_trains_every_parameter(name):
    torch.manual_seed(0)
    model = instantiate(load(name).model)
    losses = model(make_batch((4, 0)))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_config_name_contains_the_model_and_the_assigner(name):
    cfg = load(name)
    model, assigner, _ = name.split("_", 2)
    assert class_name(cfg.model) == CLASS_NAMES[model]
    assert class_name(cfg.model.assigner) == (CLASS_NAMES | {"fcos": "FCOS"})[assigner]
    assert cfg.train.output_dir == f"output/shapes/quick/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_all_other_settings_equal_those_of_the_base_config(name):
    cfg, base = load(name), load("retinanet_atss_rs")
    for key in ("optimizer", "dataloader"):
        assert OmegaConf.to_yaml(cfg[key]) == OmegaConf.to_yaml(base[key])
    assert {**cfg.train, "output_dir": ""} == {**base.train, "output_dir": ""}
    assert (cfg.train.max_iter, cfg.model.inference.score_thresh) == (400, 0.0)
    assert cfg.dataloader.test.mapper.augmentations[0].max_size == 128
    inference = {**cfg.model.inference}
    assert inference.pop("nms", "hard") == ("linear" if "rankdet" in name else "hard")
    assert inference.pop("score_voting", False) == ("_paa_" in name)
    assert inference == {**base.model.inference}
    if "rankdet" not in name:
        assert OmegaConf.to_yaml(cfg.lr_multiplier) == OmegaConf.to_yaml(base.lr_multiplier)


def test_rankdetnet_restarts_the_learning_rate_with_its_second_stage():
    cfg = load("retinanet_atss_rankdet")
    schedule = instantiate(cfg.lr_multiplier)
    stages = cfg.model.criterion.stages
    assert [class_name(stage.classification) for stage in stages] == ["Focal", "RankDet"]
    switch = cfg.model.criterion.shares[0]
    cfg.train.max_iter = 60  # the stages scale with it
    assert instantiate(cfg.model.criterion).ends == [30, 60]
    assert schedule(switch - 1e-3) < 1e-3 < 0.99 < schedule(switch)
    assert schedule(1 - 1e-3) < 1e-3
