from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from torch import nn

from ranking_det.layers import HardNMS, ScoreVoting, Survivors
from ranking_det.modeling import DetectorInterface, add_ranking_config, interface_of
from ranking_det.modeling.interface import DetectorAdapter
from ranking_det.modeling.yaml_keys import learns_masks, num_classes_keys

CONFIGS = Path(__file__).parents[2] / "configs" / "shapes"
KEYS = "MODEL.RETINANET.NUM_CLASSES", "MODEL.ROI_HEADS.NUM_CLASSES"


def build(name, **changes):
    model = LazyConfig.load(str(CONFIGS / name)).model
    for key, value in changes.items():
        model[key] = value
    return instantiate(model)


@pytest.mark.parametrize(
    ("name", "masks"),
    [
        ("retinanet_atss_rs.py", False),
        ("quick/fcos_atss_rs.py", False),
        ("quick/mask_rs.py", True),
        ("quick/cascade_rs.py", False),
        ("quick/solov2_rs.py", True),
    ],
)
def test_a_model_implements_the_interface_itself_or_has_an_adapter(name, masks):
    model = build(name)
    interface = interface_of(model)
    assert (interface.num_classes, interface.learns_masks) == (12, masks)
    assert interface.input_format == "RGB"
    dense = isinstance(model, DetectorInterface)
    assert (interface is model) == dense
    assert interface.num_classes_key == KEYS[not dense]


def test_a_model_without_a_registered_adapter_gets_the_default_adapter():
    adapter = interface_of(nn.Linear(2, 2))
    assert type(adapter) is DetectorAdapter
    assert (adapter.num_classes, adapter.learns_masks, adapter.input_format) == (None, False, "BGR")
    assert adapter.num_classes_key is None and adapter.find_positives([{}]) is None


def test_a_custom_detector_overrides_only_the_methods_it_supports():
    class Custom(DetectorInterface, nn.Module):
        learns_masks = True

        def __init__(self):
            super().__init__()
            self.num_classes = 3

    model = Custom()
    assert interface_of(model) is model and model.find_positives([]) is None
    message = "model: expected a detector with test-time augmentation, got Custom"
    with pytest.raises(ValueError, match=message):
        model.augment_inference(min_sizes=[8], max_size=9, flip=False)


@pytest.mark.parametrize(
    ("architecture", "keys", "masks"),
    [
        ("RankingRetinaNet", KEYS[:1], False),
        ("RankingFCOS", KEYS[:1], False),
        ("RankingSOLOv2", KEYS[:1], True),
        ("GeneralizedRCNN", KEYS[1:], True),
        ("RetinaNet", KEYS, False),  # Detectron2's class names no key, so both may apply
        ("SemanticSegmentor", KEYS, False),
    ],
)
def test_the_meta_architecture_of_a_yaml_config_determines_its_num_classes_keys(
    architecture, keys, masks
):
    cfg = get_cfg()
    add_ranking_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = architecture, True
    assert num_classes_keys(cfg) == keys and learns_masks(cfg) == masks


class FirstTwo(HardNMS):
    """Keep the first two boxes and count the calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, boxes, scores, classes, limit):
        self.calls += 1
        rows = torch.arange(min(2, len(boxes)))
        return Survivors(rows, scores[rows], boxes[rows])


def test_dense_inference_box_predictor_and_rpn_all_use_the_given_suppression():
    image = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "height": 64, "width": 64}
    dense, rcnn = build("retinanet_atss_rs.py").eval(), build("quick/faster_rs.py").eval()
    parts = dense.inference, rcnn.proposal_generator, rcnn.roi_heads.box_predictor
    for part in parts:
        part.suppression = FirstTwo()
    with torch.no_grad():
        for model in (dense, rcnn):
            (output,) = model([image])
            assert len(output["instances"]) == 2
    assert [part.suppression.calls for part in parts] == [1, 1, 1]


@pytest.mark.parametrize(
    ("file", "key", "node"),
    [
        ("mask_rs.yaml", "BOX_PREDICTOR", {"NAME": "SoftNMS", "METHOD": "gaussian"}),
        ("retinanet_atss_rs.yaml", "INFERENCE", {"NAME": "HardNMS", "IOU_THRESH": 0.3}),
    ],
)
def test_a_yaml_config_can_compose_the_suppression(file, key, node):
    cfg = get_cfg()
    add_ranking_config(cfg)
    cfg.merge_from_file(str(CONFIGS / file))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL[key].SUPPRESSION = CfgNode({"NAME": "ScoreVoting", "SUPPRESSION": CfgNode(node)})
    model = build_model(cfg)
    part = model.roi_heads.box_predictor if key == "BOX_PREDICTOR" else model.inference
    assert isinstance(part.suppression, ScoreVoting)
    assert type(part.suppression.suppression).__name__ == node["NAME"]
