"""Masks in one stage from the command line: custom data, exact resuming, and overfitting."""

import json
import os
import shutil

import pytest
import torch
from pycocotools.coco import COCO

from ranking_det.data.shapes import prepare_shapes
from tests.cases import run_commands
from tests.engine.cases import shapes_environment
from tests.engine.test_custom_masks import add_masks, flags

CONFIG = "configs/shapes/quick/solov2_{}.py"
SMALL = ["train.device=cpu", "dataloader.train.total_batch_size=2", "train.log_period=1"]


@pytest.fixture(scope="module")
def outputs(custom_data, tmp_path_factory):
    """The folder of all outputs of a run on polygons and RLE, with class ids 5, 9 and 40.

    Most objects have no mask, and one is a crowd.
    """
    outputs = tmp_path_factory.mktemp("masks")
    data = add_masks(custom_data, outputs / "data", rle=True)
    overrides = [*SMALL, f"train.output_dir={outputs}/run"]
    overrides += ["dataloader.train.mapper.augmentations.0.short_edge_length=64"]

    def command(*options):
        return ["--config-file", CONFIG.format("rs"), *options, *overrides]

    train = [*flags(data), "--keep-empty-images"]
    predict = ["--predict", f"{custom_data}/val", "--output", f"{outputs}/predictions"]
    preview = [*flags(data)[:4], "--preview", "3", "--output", f"{outputs}/preview"]
    commands = [
        [*command(*train), "train.max_iter=2", "train.eval_period=0"],
        [*command(*train, "--resume"), "train.max_iter=3"],
        command(*predict),
        command(*preview),
    ]
    run_commands(commands, pictures=False)
    return outputs


def test_custom_masks_train_and_are_evaluated(outputs):
    checkpoint = torch.load(outputs / "run" / "model_final.pth", weights_only=True)
    assert checkpoint["category_ids"] == [5, 9, 40] and checkpoint["iteration"] == 2
    assert checkpoint["model"]["head.category.weight"].shape[0] == 3
    results = json.loads((outputs / "run" / "results.json").read_text())
    assert "AP-blue" in results["segm"] and "oLRP" in results["segm"] and "AP" in results["bbox"]


def test_predictions_are_rle_with_the_boxes_of_the_masks(outputs):
    predictions = COCO(str(outputs / "predictions" / "predictions.json"))
    annotations = list(predictions.anns.values())
    assert {annotation["category_id"] for annotation in annotations} <= {5, 9, 40}
    for annotation in annotations[:5]:
        mask = predictions.annToMask(annotation)
        assert mask.shape == (48, 64) and isinstance(annotation["segmentation"]["counts"], str)
        rows, columns = mask.nonzero()
        x, y, width, height = annotation["bbox"]
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
    assert annotations


def test_a_preview_shows_the_cells(outputs):
    assert len(list((outputs / "preview").glob("preview_*.png"))) == 3


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path_factory):
    environment = shapes_environment(tmp_path_factory, train=7, val=2)
    root = tmp_path_factory.mktemp("resume")
    config = ["--config-file", CONFIG.format("rs")]
    options = [*SMALL, "train.max_iter=6", "train.epochs=0"]
    options += ["train.eval_period=0", "train.checkpointer.period=3", "model.max_masks=4"]
    command = [*config, *options, f"train.output_dir={root}/whole"]
    run_commands([command], environment=environment)
    (root / "part").mkdir()
    for name in ("model_0000002.pth", "config.yaml", "metrics.json"):
        shutil.copy(root / "whole" / name, root / "part" / name)
    (root / "part" / "last_checkpoint").write_text("model_0000002.pth")
    command = [*config, "--resume", *options, f"train.output_dir={root}/part"]
    run_commands([command], environment=environment)
    assert "Resuming" in (root / "part" / "log.txt").read_text()
    whole, part = (
        torch.load(root / name / "model_final.pth", weights_only=True)["model"]
        for name in ("whole", "part")
    )
    assert all(torch.equal(value, part[name]) for name, value in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["rs", "focal"])
def test_four_images_are_overfitted_to_mask_ap_60(loss, tmp_path, tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    prepare_shapes(root, train=4, val=1, size=128)
    options = ["--config-file", CONFIG.format(loss), *SMALL, "train.max_iter=160"]
    options += ["train.epochs=0", "train.reference_batch=0", "train.eval_period=160"]
    options += ["dataloader.train.total_batch_size=4", f"train.output_dir={tmp_path}"]
    options += ["dataloader.test.dataset.names=shapes_train"]
    # Enlarged, because masks have a quarter of the image's sides: at 128 px, coarse masks of small
    # objects limit the AP to about 60.
    for split in ("train", "test"):
        for key in ("short_edge_length", "max_size"):
            options.append(f"dataloader.{split}.mapper.augmentations.0.{key}=192")
    environment = os.environ | {"DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"}
    run_commands([options], environment=environment, pictures=False)
    assert json.loads((tmp_path / "results.json").read_text())["segm"]["AP"] >= 60
