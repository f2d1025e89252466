"""R-CNNs and YOLACT train and evaluate on degenerate data; wrong class ids raise UserError."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.transforms import NoOpTransform
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from PIL import Image

from ranking_det.engine.run_config import load_config
from ranking_det.evaluation import DetectionEvaluator
from ranking_det.user_errors import UserError
from tests.cases import ROOT
from tests.modeling.cases import load, load_masked_cascade

NAME = "degenerate"
POLYGONS = [[8.0, 8.0, 40.0, 8.0, 40.0, 30.0]]


def make_annotation(**fields):
    box = {"bbox": [8, 8, 32, 22], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}
    return box | {"segmentation": POLYGONS} | fields


CASES = {
    "no objects at all": [[], []],
    "no objects in one of two images": [[], [make_annotation()]],
    "masks of zero area": [[make_annotation(segmentation=[[8.0, 8.0] * 3])], [make_annotation()]],
    "only masks of zero area": [[make_annotation(segmentation=[[8.0, 8.0] * 3])], []],
    "only crowds": [[make_annotation(iscrowd=1)], [make_annotation(iscrowd=1)]],
    "a crowd over an object": [[make_annotation(iscrowd=1), make_annotation()], []],
    "an object of one pixel": [
        [make_annotation(bbox=[8, 8, 1, 1], segmentation=[[8, 8, 9, 8, 9, 9]])],
        [],
    ],
    "an object as large as the image": [[make_annotation(bbox=[0, 0, 64, 48])], []],
    "many objects in one place": [[make_annotation() for _ in range(100)], []],
}


@pytest.fixture
def register_images(tmp_path):
    """A function that registers images with objects and returns Detectron2's dicts."""

    def register(objects):
        dicts = []
        for i, annotations in enumerate(objects):
            path = tmp_path / f"{i}.png"
            Image.new("RGB", (64, 48), (60 * i, 90, 30)).save(path)
            size = {"height": 48, "width": 64, "image_id": i}
            dicts.append({"file_name": str(path), **size, "annotations": annotations})
        DatasetCatalog.register(NAME, lambda: dicts)
        MetadataCatalog.get(NAME).set(thing_classes=["thing"], evaluator_type="coco")
        return dicts

    yield register
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog:
            catalog.remove(NAME)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "name",
    [
        *("mask_rs", "cascade_rs", "cascade_mask", "yolact_rs"),
        pytest.param("yolact_ce", marks=pytest.mark.slow),
    ],
)
def test_a_detector_with_one_class_trains_and_evaluates_on_degenerate_objects(
    name, case, register_images
):
    dicts = register_images(CASES[case])
    cfg = load_masked_cascade() if name == "cascade_mask" else load(f"quick/{name}.py").model
    (cfg if "yolact" in name else cfg.roi_heads).num_classes = 1
    with_masks = name != "cascade_rs"
    torch.manual_seed(0)
    model = instantiate(cfg).train()
    options = {"augmentations": [NoOpTransform()], "image_format": "RGB"}
    mapper = DatasetMapper(is_train=True, use_instance_mask=with_masks, **options)
    with EventStorage():
        losses = model([mapper(record) for record in dicts])
    assert all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    test_mapper = DatasetMapper(is_train=False, **options)
    metrics = inference_on_dataset(
        model, [[test_mapper(record)] for record in dicts], DetectionEvaluator(NAME)
    )
    # Masks without an area are dropped, so there are none to evaluate.
    has_masks = with_masks and case != "only masks of zero area"
    tasks = ["bbox", "segm"] if has_masks else ["bbox"]
    assert list(metrics) == (tasks if any(CASES[case]) else [])
    has_objects = any(not entry["iscrowd"] for image in CASES[case] for entry in image)
    for task in metrics.values():
        assert (0 <= task["AP"] <= 100) == has_objects  # NaN without an object


@pytest.mark.parametrize("index", [1, -1])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_error_for_an_out_of_range_class_in_a_registered_set_names_the_image(
    split, index, register_images
):
    box = {"bbox": [8, 8, 40, 30], "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0}
    objects = [[{**box, "category_id": 0}], [{**box, "category_id": i} for i in (0, index)]]
    dicts = register_images(objects)
    config = load_config(
        str(ROOT / "configs/shapes/quick/retinanet_atss_rs.py"),
        [f"dataloader.{split}.dataset.names={NAME}"],
    )
    expected = rf"annotation 1 of the image '{dicts[1]['file_name']}': expected category_id 0"
    read = config.records if split == "train" else lambda: config.test_loader(NAME)
    with pytest.raises(UserError, match=rf"^the data set '{NAME}': {expected}, got {index}$"):
        read()
