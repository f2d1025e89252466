"""Quick configs of R-CNNs train, and differ only in the parts given in their names."""

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.data import DatasetMapper
from detectron2.data.transforms import NoOpTransform
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from PIL import Image

from benchmarks.detectron2_rcnn import detectron2_rcnn
from ranking_det.data.repeat import repeat_rare
from ranking_det.engine.run_config import load_config
from tests.configs.test_quick import NAMES as DENSE
from tests.modeling.cases import CONFIGS, load, make_batch

NAMES = ["faster_rs", "faster_plus_rs", "faster_ce", "mask_rs", "mask_ce", "cascade_rs"]
LONG_TAILED = "mask_rs_lvis"
MASKS = ["yolact_ce", "yolact_rs"]  # one-stage detectors with masks: test_masks_quick.py


def build(name):
    torch.manual_seed(0)
    return instantiate(load(f"quick/{name}.py").model)


def step(model, batch):
    with EventStorage(0):
        losses = model(batch)
    sum(losses.values()).backward()
    return losses


@pytest.mark.parametrize(
    ("name", "counts"),
    [(name, counts) for name in NAMES for counts in ((3, 5), (0, 0))] + [("mask_rs", (0, 4))],
)
def test_a_step_gives_every_parameter_a_finite_gradient(name, counts):
    model = build(name)
    losses = step(model, make_batch(counts, sizes=((64, 64),)))
    assert all(loss.isfinite() for loss in losses.values())
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_the_losses_of_the_rpn_the_boxes_and_the_masks_have_different_names():
    box = {"loss_rank", "loss_sort", "loss_box"}
    rpn = {"loss_rpn_rank", "loss_rpn_sort", "loss_rpn_box"}
    assert step(build("faster_rs"), make_batch((2, 3))).keys() == box | rpn
    assert step(build("mask_rs"), make_batch((2, 3))).keys() == box | rpn | {"loss_mask"}


@pytest.mark.parametrize("name", NAMES)
def test_detections_are_instances_as_in_detectron2(name):
    model = build(name).eval()
    with torch.no_grad():
        outputs = model(make_batch((1, 1), sizes=((96, 128), (64, 64))))
    for output, (height, width) in zip(outputs, ((96, 128), (64, 64))):
        instances = output["instances"]
        assert 0 < len(instances) <= 100 and (instances.scores.diff() <= 0).all()
        boxes = instances.pred_boxes.tensor
        assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= width).all()
        assert (boxes[:, [1, 3]] <= height).all()
        assert instances.pred_classes.min() >= 0 and instances.pred_classes.max() < 12
        assert instances.has("pred_masks") == name.startswith("mask")
        if instances.has("pred_masks"):
            assert instances.pred_masks.shape == (len(instances), height, width)
            assert instances.pred_masks.dtype == torch.bool


@pytest.mark.parametrize("sampled", [True, False])
def test_cross_entropy_gives_the_losses_and_gradients_of_detectron2s_mask_rcnn(sampled):
    cfg = load("quick/mask_ce.py").model
    cfg.proposal_generator.assigner.low_quality = "anchor"
    if not sampled:
        cfg.proposal_generator.sampler = cfg.roi_heads.sampler = None
    model, reference = instantiate(cfg).train(), instantiate(detectron2_rcnn(cfg)).train()
    weights = model.state_dict()
    for part in ("weight", "bias"):
        name = f"roi_heads.box_predictor.cls_score.{part}"
        parameter = weights[name]
        background = torch.zeros_like(parameter[:1])
        weights[name] = torch.cat([parameter, background])
    reference.load_state_dict(weights)
    losses, gradients = [], []
    for detector in (model, reference):
        torch.manual_seed(1)  # for the same samples
        with EventStorage(0):
            outputs = detector(make_batch((3, 4), sizes=((128, 128),) * 2))
        sum(outputs.values()).backward()
        losses.append(outputs)
        gradients.append({name: p.grad for name, p in detector.named_parameters()})
    for name, reference_name in (
        ("loss_cls", "loss_cls"),
        ("loss_box", "loss_box_reg"),
        ("loss_mask", "loss_mask"),
        ("loss_rpn_cls", "loss_rpn_cls"),
        ("loss_rpn_box", "loss_rpn_loc"),
    ):
        loss, reference_loss = losses[0][name], losses[1][reference_name]
        if name.startswith("loss_rpn") and not sampled:
            # Detectron2 divides by the sample size, even if the sample has fewer anchors.
            continue
        torch.testing.assert_close(loss, reference_loss)
    if sampled:
        for name, gradient in gradients[0].items():
            expected = gradients[1][name][: len(gradient)]
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["faster", "mask"])
def test_ranking_and_cross_entropy_configs_share_proposals_layers_and_training(kind):
    ranking, baseline = load(f"quick/{kind}_rs.py"), load(f"quick/{kind}_ce.py")
    for key in ("optimizer", "dataloader", "lr_multiplier"):
        assert OmegaConf.to_yaml(ranking[key]) == OmegaConf.to_yaml(baseline[key])
    assert {**ranking.train, "output_dir": ""} == {**baseline.train, "output_dir": ""}
    for key in ("anchor_generator", "pre_nms_topk", "post_nms_topk", "head"):
        assert ranking.model.proposal_generator[key] == baseline.model.proposal_generator[key]
    assert list(baseline.model.proposal_generator.post_nms_topk) == [48, 64]
    weights = get_cfg().MODEL.RPN.BBOX_REG_WEIGHTS
    assert tuple(baseline.model.proposal_generator.box2box_transform.weights) == tuple(weights)
    sizes = [
        {name: tuple(p.shape) for name, p in build(f"{kind}_{loss}").named_parameters()}
        for loss in ("rs", "ce")
    ]
    different = {name for name in sizes[0] | sizes[1] if sizes[0].get(name) != sizes[1].get(name)}
    assert not different


def test_the_plus_model_changes_only_the_neck():
    plain, plus = load("quick/faster_rs.py").model, load("quick/faster_plus_rs.py").model
    assert plus.backbone.bottom_up == plain.backbone.bottom_up
    assert plus.backbone.out_channels == plain.backbone.out_channels
    plus.backbone = plain.backbone
    assert plus == plain


@pytest.mark.parametrize("name", NAMES)
def test_all_other_settings_equal_those_of_the_dense_config(name):
    cfg, base = load(f"quick/{name}.py"), load("quick/retinanet_atss_rs.py")
    assert cfg.train.output_dir == f"output/shapes/quick/{name}"
    changed = ("output_dir", "epochs", "max_iter", "eval_period", "checkpointer")
    assert {**cfg.train, **dict.fromkeys(changed)} == {**base.train, **dict.fromkeys(changed)}
    assert cfg.train.max_iter == round(cfg.train.epochs * cfg.train.iterations_per_epoch)
    length = 250 if "cascade" in name else 275 if "mask" in name else 325
    assert cfg.train.max_iter == cfg.train.eval_period == length
    assert OmegaConf.to_yaml(cfg.optimizer) == OmegaConf.to_yaml(base.optimizer)
    assert cfg.dataloader.train.mapper.get("masks", False) == name.startswith("mask")
    assert cfg.dataloader.test == base.dataloader.test


@pytest.mark.parametrize("name", NAMES)
def test_set_num_classes_changes_the_number_of_classes_of_all_heads(name):
    path = str(CONFIGS / "shapes" / "quick" / f"{name}.py")
    config = load_config(path, ["train.device=cpu"])
    assert config.nodes.model.roi_heads.num_classes == 12
    assert config.num_classes_keys == ["model.roi_heads.num_classes"]
    config.set_num_classes(5)
    assert config.nodes.model.roi_heads.num_classes == 5
    heads = config.model().roi_heads
    predictors = heads.box_predictor if name == "cascade_rs" else [heads.box_predictor]
    assert heads.num_classes == 5 and {predictor.num_classes for predictor in predictors} == {5}
    if name.startswith("mask"):
        assert heads.mask_head.predictor.out_channels == 5


def test_crowds_are_background_and_a_batch_of_only_crowds_trains(tmp_path):
    Image.new("RGB", (96, 96)).save(tmp_path / "image.png")
    crowd = {
        "bbox": [10, 10, 40, 30],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 1,
        "segmentation": [[10, 10, 50, 10, 50, 40]],
    }
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[NoOpTransform()],
        image_format="RGB",
        use_instance_mask=True,
    )
    record = {"file_name": str(tmp_path / "image.png"), "height": 96, "width": 96}
    batch = [
        mapper({**record, "annotations": [{**crowd}, {**crowd, "iscrowd": 0}]}),
        mapper({**record, "annotations": [{**crowd}]}),
    ]
    assert [len(inputs["instances"]) for inputs in batch] == [1, 0]
    for part in (batch, batch[1:]):
        losses = step(build("mask_rs"), part)
        assert all(loss.isfinite() for loss in losses.values())


def test_every_quick_config_is_tested_here_or_as_a_one_stage_detector():
    paths = (CONFIGS / "shapes" / "quick").glob("*.py")
    names = {path.stem for path in paths if not path.stem.startswith("solov2")}
    assert names - set(DENSE) == {*NAMES, LONG_TAILED, *MASKS}
    assert all("roi_heads" in load(f"quick/{name}.py").model for name in NAMES)


def test_the_config_for_long_tailed_shapes_differs_in_data_and_classes():
    cfg, base = load(f"quick/{LONG_TAILED}.py"), load("quick/mask_rs.py")
    assert OmegaConf.to_yaml(cfg.optimizer) == OmegaConf.to_yaml(base.optimizer)
    source = cfg.dataloader.train.dataset
    assert source._target_ is repeat_rare and source.dataset.names == "shapes_lvis_train"
    assert cfg.dataloader.evaluator.dataset_name == "shapes_lvis_val"
    assert cfg.train.max_iter == cfg.train.epochs * cfg.train.iterations_per_epoch
    model = build(LONG_TAILED)
    step(model, make_batch((4, 0), num_classes=98))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.roi_heads.box_predictor.cls_score.out_features == 98
