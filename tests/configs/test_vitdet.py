"""ViTDet, which needs Detectron2's main: `make test-main` runs these tests."""

import importlib.util

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from ranking_det.engine.lazy_config import load_lazy_config
from ranking_det.user_errors import UserError
from tests.configs.cases import check_step
from tests.modeling.cases import CONFIGS, make_batch

PATH = str(CONFIGS / "coco" / "mask_rs_vitdet_b.py")
HAS_VIT = importlib.util.find_spec("detectron2.modeling.backbone.vit") is not None
HAS_VIT_AND_TIMM = (
    HAS_VIT and importlib.util.find_spec("timm") is not None
)  # main's ViT imports timm


@pytest.mark.skipif(HAS_VIT, reason="this Detectron2 has ViT")
def test_the_error_without_vit_names_the_detectron2_that_has_it():
    with pytest.raises(UserError, match="ViTDet needs Detectron2's main: 0.6 has no ViT") as caught:
        load_lazy_config(PATH, [])
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not HAS_VIT_AND_TIMM, reason="needs Detectron2's main, which has ViT, and timm")
def test_a_small_vit_trains_with_layer_wise_learning_rates():
    cfg = load_lazy_config(PATH, [])
    assert cfg.model.backbone.square_pad == 1024
    cfg.model.backbone.square_pad = 128
    cfg.model.proposal_generator.post_nms_topk = [32, 32]
    small = {"img_size": 128, "embed_dim": 32, "depth": 2, "num_heads": 2, "drop_path_rate": 0.0}
    cfg.model.backbone.net.update(small | {"window_block_indexes": [0]})
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    assert len({group["lr"] for group in optimizer.param_groups}) > 2
    check_step(model)
    with torch.no_grad():
        outputs = model.eval()(make_batch((1, 2), sizes=((96, 128),)))
    assert len(outputs) == 2 and outputs[0]["instances"].has("pred_masks")


@pytest.mark.skipif(not HAS_VIT_AND_TIMM, reason="needs Detectron2's main, which has ViT, and timm")
def test_training_images_are_scaled_at_random_and_cropped(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(path)
    polygon = [[8, 8, 48, 8, 48, 38, 8, 38]]
    annotation = {"bbox": [8, 8, 40, 30], "bbox_mode": 1, "category_id": 3, "segmentation": polygon}
    item = {"file_name": str(path), "height": 48, "width": 64, "annotations": [annotation]}
    mapper = instantiate(load_lazy_config(PATH, []).dataloader.train.mapper)
    results = [mapper(item) for _ in range(10)]
    assert len({result["image"].shape for result in results}) > 2
    assert all(max(result["image"].shape) <= 1024 for result in results)
    assert all(result["instances"].has("gt_masks") for result in results)
