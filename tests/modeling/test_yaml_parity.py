import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import build_model
from omegaconf import OmegaConf

from ranking_det.engine.run_config import load_config
from ranking_det.engine.yaml_config import load_yaml_config
from tests.modeling.cases import CONFIGS, make_batch

FASTER_PLUS = ["MODEL.MASK_ON", "False", "MODEL.BACKBONE.NAME", "build_resnet_carafe_fpn_backbone"]
# Common config, its model, the key of the number of classes, yaml twin, overrides of the twin.
TWINS = [
    ("retinanet_r18", "model", "num_classes", "retinanet_atss_rs", []),
    ("fcos_r18", "model", "num_classes", "fcos_fcos_rs", []),
    ("solov2", "small", "num_classes", "solov2_rs", []),
    ("rcnn_r18", "mask", "roi_heads.num_classes", "mask_rs", []),
    ("rcnn_r18", "cascade", "roi_heads.num_classes", "cascade_rs", []),
    ("rcnn_r18", "cascade_mask", "roi_heads.num_classes", "cascade_rs", ["MODEL.MASK_ON", "True"]),
    ("yolact_r18", "model", "num_classes", "yolact_rs", []),
    ("rcnn_r18", "faster_plus", "roi_heads.num_classes", "mask_rs", FASTER_PLUS),
]


@pytest.mark.parametrize(("common", "name", "classes", "file", "changes"), TWINS)
def test_the_yaml_twin_builds_the_model_of_the_lazyconfig(common, name, classes, file, changes):
    cfg = LazyConfig.load(str(CONFIGS / "common" / "models" / f"{common}.py"))[name]
    OmegaConf.update(cfg, classes, 12)
    lazy = instantiate(cfg)
    path = str(CONFIGS / "shapes" / f"{file}.yaml")
    twin = build_model(load_yaml_config(path, ["MODEL.DEVICE", "cpu", *changes]))
    assert str(twin) == str(lazy)
    twin.load_state_dict(lazy.state_dict(), strict=True)
    batch = make_batch((3, 0, 5))
    # The yaml's anchor sizes are rounded to a thousandth of a pixel.
    torch.testing.assert_close(twin(batch), lazy(batch), rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        detections = [model.eval()(batch)[0]["instances"] for model in (twin, lazy)]
    torch.testing.assert_close(detections[0].scores, detections[1].scores, rtol=1e-3, atol=1e-5)
    assert len(detections[0]) == len(detections[1]) > 0


def test_the_number_of_classes_of_an_rcnn_can_be_set_for_another_data_set():
    path = str(CONFIGS / "shapes" / "mask_rs.yaml")
    config = load_config(path, ["MODEL.DEVICE", "cpu"])
    assert config.yaml.MODEL.ROI_HEADS.NUM_CLASSES == 12
    assert config.num_classes_keys == ("MODEL.ROI_HEADS.NUM_CLASSES",)
    config.set_num_classes(5)
    heads = config.model().roi_heads
    assert heads.num_classes == heads.box_predictor.num_classes == 5
    assert heads.mask_head.predictor.out_channels == 5


def test_a_cascade_from_yaml_can_have_one_mask_head():
    path = str(CONFIGS / "shapes" / "cascade_rs.yaml")
    options = ["MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.EVERY_STAGE", "False"]
    heads = load_config(path, ["MODEL.DEVICE", "cpu", *options]).model().roi_heads
    assert [stage.mask_head is not None for stage in heads.stages()] == [True, False, False]
    assert "mask_head.predictor.weight" in heads.state_dict()  # as Detectron2 names it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.SAMPLER.NAME", "RandomSampelr"], "got 'RandomSampelr' .* mean 'RandomSampler'"),
        (["MODEL.SAMPLER.NAME", "NegativeCap"], "MODEL.SAMPLER: .*max_negatives"),
        (["MODEL.KEYPOINT_ON", "True"], "MODEL.KEYPOINT_ON: expected False, got True; .*keypoints"),
        (["MODEL.RPN_CRITERION.NAME", "Criterio"], "got 'Criterio' .* mean 'Criterion'"),
    ],
)
def test_the_error_names_the_wrong_part_of_an_rcnn(options, message):
    path = str(CONFIGS / "shapes" / "mask_rs.yaml")
    with pytest.raises(ValueError, match=message):
        load_config(path, ["MODEL.DEVICE", "cpu", *options]).model()


def test_a_yaml_config_can_set_the_samplers_of_an_rcnn():
    path = str(CONFIGS / "shapes" / "mask_rs.yaml")
    options = ["MODEL.RPN_SAMPLER.NAME", "RandomSampler", "MODEL.SAMPLER.NAME", "NegativeCap"]
    options += ["MODEL.SAMPLER.MAX_NEGATIVES", "64", "MODEL.ROI_MASK_HEAD.MAX_ROIS", "50"]
    model = load_config(path, ["MODEL.DEVICE", "cpu", *options]).model()
    assert model.proposal_generator.sampler.size == 256
    assert model.roi_heads.sampler.max_negatives == 64 and model.roi_heads.max_mask_rois == 50
