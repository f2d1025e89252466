"""One-stage detectors with masks learn four images by heart, with ranking and standard losses."""

import json

import pytest

from tests.cases import run_commands
from tests.configs.test_rcnn_quick import MASKS
from tests.engine.cases import shapes_environment


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKS)
def test_a_detector_overfits_four_images_to_a_mask_ap_of_60(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp(name)
    command = ["--config-file", f"configs/shapes/quick/{name}.py"]
    command += ["dataloader.test.dataset.names=shapes_train", f"train.output_dir={folder}"]
    command += ["dataloader.train.total_batch_size=4", "train.reference_batch=4"]
    # Objects of 14 pixels and more: the prototypes have a pixel for each 4 x 4 of the image.
    for split in ("train", "test"):
        command += [
            f"dataloader.{split}.mapper.augmentations.0.{key}=256"
            for key in ("short_edge_length", "max_size")
        ]
    command += ["train.max_iter=150", "train.eval_period=150", "train.checkpointer.period=150"]
    environment = shapes_environment(tmp_path_factory, train=4, val=1)
    run_commands([command], pictures=False, environment=environment)
    results = json.loads((folder / "results.json").read_text())
    assert results["segm"]["AP"] >= 60 and results["bbox"]["AP"] >= 60
