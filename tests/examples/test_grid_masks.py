"""Tests of examples/grid_masks.py, a detector outside the package: learning and all commands."""

import json
import re

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from PIL import Image, ImageDraw

from examples.grid_masks import CenterRegion, GridMasks
from ranking_det.labels import BACKGROUND
from ranking_det.modeling import add_ranking_config
from ranking_det.modeling.yaml_keys import learns_masks
from tests.cases import ROOT, run_commands

CONFIG = "examples/grid_masks_shapes.py"


def make_model(num_classes=3):
    torch.manual_seed(0)
    model = LazyConfig.load(str(ROOT / CONFIG)).model
    model.num_classes = num_classes
    return instantiate(model)


def make_image(size=(64, 64), boxes=((6, 6, 30, 40), (30, 24, 62, 60)), bitmaps=False):
    """Make a gray image with a triangle for each box, each of another color and class."""
    height, width = size
    canvas, instances = Image.new("RGB", (width, height), (90, 90, 90)), Instances(size)
    polygons = []
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        polygons.append([np.array([x1, y1, x2, y1, x1, y2], dtype=np.float64)])
        color = tuple(255 * (channel == i) for channel in range(3))
        ImageDraw.Draw(canvas).polygon(polygons[-1][0].tolist(), color)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes))
    instances.gt_masks = PolygonMasks(polygons)
    if bitmaps:
        instances.gt_masks = BitMasks.from_polygon_masks(instances.gt_masks, height, width)
    image = torch.from_numpy(np.array(canvas).transpose(2, 0, 1).copy())
    return {"image": image, "instances": instances, "height": height, "width": width}


def test_a_cell_is_assigned_to_the_smallest_object_with_the_cell_in_its_center():
    x, y = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="xy")
    centers = torch.stack([x, y], dim=2).reshape(-1, 2) * 8 + 4
    cells = torch.cat([centers - 32, centers + 32], dim=1)
    boxes = torch.tensor([[8.0, 8, 40, 40], [17, 17, 22, 21]])
    valid = torch.ones(36, dtype=torch.bool)
    valid[20] = False
    labels, index = CenterRegion(size=0.5)([cells], [boxes], [torch.tensor([2, 1])], valid)
    expected = torch.full((6, 6), -1)
    expected[1:5, 1:5] = 0  # three cells wide instead of two: both edges count
    expected[2, 2], expected[3, 2] = 1, -1
    assert torch.equal(index.reshape(6, 6), expected)
    assert labels[0] == BACKGROUND and labels[14:16].tolist() == [1, 2]


def test_yaml_configs_build_the_detector():
    cfg = get_cfg()
    add_ranking_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "GridMasks"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.CRITERION.merge_from_other_cfg(
        type(cfg)(
            {
                "NAME": "Criterion",
                "CLASSIFICATION": {"NAME": "RankSort"},
                "LOCALIZATION": {"NAME": "MaskDice"},
            }
        )
    )
    model = build_model(cfg)
    assert type(model) is META_ARCH_REGISTRY.get("GridMasks") is GridMasks
    assert model.num_classes == 80
    assert learns_masks(cfg)  # so the loader loads them


BATCHES = {
    "polygons": [make_image(), make_image()],
    "bitmaps": [make_image(bitmaps=True), make_image()],
    "sizes": [make_image((40, 90)), make_image((64, 64))],
    "one image without objects": [make_image(), make_image(boxes=())],
    "no objects": [make_image(boxes=()), make_image(boxes=())],
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_step_has_finite_losses_and_gradients(name):
    model = make_model().train()
    losses = model(BATCHES[name])
    assert set(losses) == {"loss_rank", "loss_sort", "loss_mask"}
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert any(parameter.grad.any() for parameter in model.parameters()) == (name != "no objects")


def test_an_object_without_a_mask_does_not_train_the_masks():
    model = make_model().train()
    batch = [make_image(), make_image()]
    before = model(batch)
    batch[0]["instances"].gt_masks.polygons[0] = []
    after = model(batch)
    assert before["loss_mask"] != after["loss_mask"]
    assert all(loss.isfinite() for loss in after.values())


def test_the_detector_overfits_two_images():
    model = make_model().train()
    batch = [make_image(), make_image(boxes=((30, 4, 60, 30), (4, 30, 34, 60), (44, 40, 60, 60)))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
    with torch.no_grad():
        outputs = model.eval()([inputs | {"height": 128, "width": 128} for inputs in batch])
    for inputs, output in zip(batch, outputs, strict=True):
        objects, detections = inputs["instances"], output["instances"][: len(inputs["instances"])]
        assert detections.image_size == (128, 128) and detections.pred_masks.shape[1:] == (128, 128)
        assert sorted(detections.pred_classes.tolist()) == objects.gt_classes.tolist()
        truth = BitMasks.from_polygon_masks(objects.gt_masks, 64, 64).tensor[
            detections.pred_classes
        ]
        truth = truth.repeat_interleave(2, 1).repeat_interleave(2, 2)
        intersection, union = (truth & detections.pred_masks), (truth | detections.pred_masks)
        assert (intersection.sum((1, 2)) / union.sum((1, 2))).min() > 0.7


def test_find_positives_returns_the_positives_of_a_training_step():
    model = make_model().train()
    batch = [make_image((40, 90)), make_image(boxes=()), make_image()]
    candidates = []
    model.criterion.register_forward_pre_hook(lambda _, inputs: candidates.append(*inputs))
    model(batch)
    positives = model.find_positives(batch)
    image = candidates[0].image[candidates[0].positives]
    assert [len(image_positives.index) for image_positives in positives] == image.bincount(
        minlength=3
    ).tolist()
    labels = torch.cat([b["instances"].gt_classes[f.index] for b, f in zip(batch, positives)])
    assert torch.equal(labels, candidates[0].labels[candidates[0].positives])
    assert positives[0].are_points and len(positives[1].index) == 0


def write_set(folder, split, count):
    """Write images with triangles of two classes, and a COCO JSON with their masks."""
    images, annotations = [], []
    (folder / split).mkdir()
    for i in range(count):
        x, y = 4 * (i % 5), 3 * (i % 4)
        inputs = make_image(boxes=((x, y, x + 28, y + 30), (30, 30, 60 - x, 60 - y)))
        canvas = Image.fromarray(inputs["image"].permute(1, 2, 0).numpy())
        canvas.save(folder / split / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 64})
        for label, (box, polygons) in enumerate(
            zip(inputs["instances"].gt_boxes, inputs["instances"].gt_masks.polygons)
        ):
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1) / 2,
                    "iscrowd": 0,
                    "segmentation": [polygon.tolist() for polygon in polygons],
                }
            )
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content))


def test_every_command_runs_on_custom_data(tmp_path):
    for split, count in (("train", 16), ("val", 3)):
        write_set(tmp_path, split, count)
    output = tmp_path / "output"
    data = [
        word
        for split in ("train", "val")
        for word in (f"--{split}-json", f"{tmp_path}/{split}.json")
        + (f"--{split}-images", f"{tmp_path}/{split}")
    ]
    common = ["--config-file", CONFIG, *data, f"train.output_dir={output}"]
    steps = ["train.eval_period=1000", "train.log_period=5"]
    image_paths = [str(tmp_path / "val" / f"{i}.png") for i in range(2)]
    commands = [
        [*common, "train.max_iter=12", *steps],
        ["--resume", *common, "train.max_iter=24", *steps],
        ["--preview", "2", *common],
        ["--predict", *image_paths, "--config-file", CONFIG, f"train.output_dir={output}"],
        ["--eval-only", *common],
    ]
    process = run_commands(commands)
    assert re.search(r"Starting training from iteration 12", process.stdout)
    assert len(list((output / "preview").glob("*.png"))) == 2
    predictions = json.loads((output / "predictions" / "predictions.json").read_text())
    assert predictions
    results = json.loads((output / "results.json").read_text())
    assert {"bbox", "segm"} <= set(results)
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    dice = [record["mean_dice"] for record in records if "mean_dice" in record]
    assert 0 < dice[0] < dice[-1] < 1
