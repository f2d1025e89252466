"""A training step of the papers' configs: one of each kind by default, all in the slow tests."""

import re

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage

from ranking_det.criteria import CriterionSchedule
from ranking_det.engine.lazy_config import load_lazy_config
from tests.configs.cases import build_model, check_step, make_batch_of_all_sizes
from tests.modeling.cases import CONFIGS, make_batch

NAMES = [
    f"{path.parent.name}/{path.stem}"
    for folder in ("coco", "lvis", "cityscapes", "ablations")
    for path in sorted((CONFIGS / folder).glob("*.py"))
    if "vitdet" not in path.stem
]
# One config for each assigner, criterion and architecture.
KINDS = {
    "coco/retinanet_paa_rs_r50_12ep",
    "coco/retinanet_maxiou_ap_r50_100ep_512",
    "coco/retinanet_atss_alrp_r50_100ep_512",
    "coco/retinanet_paastar_ape_r50_48ep_512",
    "coco/retinanet_atss_rankdet_r50_dcn_24ep",
    "coco/fcos_fcos_focal_r50_12ep",
    "coco/cascade_mask_rs_r50_12ep",
    "coco/cascade_ce_r50_12ep",
    "coco/mask_rs_r50_12ep",
    "coco/faster_alrp_r50_100ep_512",
    "coco/mask_ce_r50_12ep",
    "coco/solov2_light_rs_r34_36ep",
    "coco/solov2_light_focal_r34_36ep",
    "coco/mask_plus_rs_r50_12ep",
    "coco/yolact_rs_r50_55ep",
}
MOST_PARAMETERS = 250_000_000
"""Weights, gradients and momentum of this many parameters take 3 GB."""


def load(name):
    """Load a config with few proposals, for time, and without initial weights."""
    cfg = load_lazy_config(str(CONFIGS / f"{name}.py"), ["train.init_checkpoint="])
    if "proposal_generator" in cfg.model:
        cfg.model.proposal_generator.post_nms_topk = [32, 32]
    return cfg


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_step_gives_finite_gradients_to_the_trainable_parameters(name):
    torch.manual_seed(0)
    with EventStorage(0):
        check_step(build_model(load(name)))


def test_rpn_and_box_head_log_the_ratios_that_the_ablations_name():
    text = (CONFIGS / "ablations" / "README.md").read_text()
    names = re.findall(r"`(\S*negatives_per_positive)`", text)
    model = build_model(load("coco/faster_rs_r50_12ep"))
    with EventStorage(0) as storage, torch.no_grad():
        model(make_batch((3, 2), sizes=((128, 128),), num_classes=80))
    ratios = [storage.latest()[name][0] for name in names]
    anchors = 3 * sum((128 // stride) ** 2 for stride in (4, 8, 16, 32, 64))
    assert names == ["rpn/negatives_per_positive", "roi/negatives_per_positive"]
    assert 10 < ratios[0] < 2 * anchors / 5 and 79 <= ratios[1] < 80 * 2 * (32 + 5) / 5


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_config_takes_an_optimizer_step(name):
    """The step uses the paper's learning rate without its warm-up."""
    cfg = load(name)
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > MOST_PARAMETERS:
        pytest.skip(f"{count:,} parameters")
    cfg.optimizer.params.model = model
    optimizer, criterion = instantiate(cfg.optimizer), getattr(model, "criterion", None)
    stages = criterion.stages if isinstance(criterion, CriterionSchedule) else [criterion]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for stage in stages:
        # From the initial weights: a full step from random weights can make the next one diverge.
        model.load_state_dict(before, strict=False)
        if criterion is not None:
            model.criterion = stage
        optimizer.zero_grad()
        with EventStorage(0):
            check_step(model, make_batch_of_all_sizes())
        optimizer.step()
        for name, parameter in model.named_parameters():
            has_gradient = parameter.grad is not None and parameter.grad.any().item()
            assert parameter.isfinite().all(), name
            assert not torch.equal(parameter, before[name]) or not has_gradient, name
