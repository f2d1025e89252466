"""Custom masks from the command line, with some missing, and with the class ids 5, 9 and 40."""

import json
import shutil

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from ranking_det.engine import main, run
from tests.cases import ROOT, run_commands

LAZY, TWIN = "configs/shapes/quick/mask_rs.py", "configs/shapes/mask_rs.yaml"
YOLACT = "configs/shapes/quick/yolact_ce.py"
SMALL = ["train.device=cpu", "dataloader.train.total_batch_size=2", "train.log_period=1"]
TWIN_SMALL = ["MODEL.DEVICE=cpu", "SOLVER.IMS_PER_BATCH=2", "SOLVER.EPOCHS=0", "SOLVER.MAX_ITER=2"]


def flags(root):
    args = []
    for split in ("train", "val"):
        args += [f"--{split}-json", f"{root}/{split}.json", f"--{split}-images", f"{root}/{split}"]
    return args


def add_masks(root, target, rle=False):
    """Copy the data and add masks, except for the first object of each image.

    The mask of the second object has no area.
    """
    shutil.copytree(root, target, dirs_exist_ok=True)
    for split in ("train", "val"):
        content = json.loads((target / f"{split}.json").read_text())
        for i, annotation in enumerate(content["annotations"]):
            x, y, width, height = annotation["bbox"]
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            masks = {0: None, 1: [[x, y, x, y, x, y]], 2: [corners]}  # missing, without area
            if masks[i % 3]:
                annotation["segmentation"] = masks[i % 3]
            if rle and i % 3 == 2:
                columns = np.zeros((64, 48), dtype=int)
                columns[x : x + width, y : y + height] = 1
                changes = np.flatnonzero(np.diff(columns.ravel(), prepend=0)).tolist()
                counts = np.diff([0, *changes, columns.size]).tolist()
                annotation["segmentation"] = {"size": [48, 64], "counts": counts}
        crowd = {"size": [48, 64], "counts": [0, 480, 48 * 64 - 480]}
        content["annotations"].append(
            {"id": 99, "image_id": 100, "category_id": 9, "iscrowd": 1, "area": 480}
            | {"bbox": [0, 0, 10, 48], "segmentation": crowd}
        )
        (target / f"{split}.json").write_text(json.dumps(content))
    return target


@pytest.fixture(scope="module")
def outputs(custom_data, tmp_path_factory):
    """The folder of all outputs; one process runs all commands, because starting one is slow."""
    outputs = tmp_path_factory.mktemp("masks")
    data, rle = (
        add_masks(custom_data, outputs / "data"),
        add_masks(custom_data, outputs / "rle", rle=True),
    )
    four_classes = add_masks(custom_data, outputs / "more")
    for path in four_classes.glob("*.json"):  # a fourth class for fine-tuning
        content = json.loads(path.read_text())
        content["categories"].append({"id": 41, "name": "gray"})
        path.write_text(json.dumps(content))

    def lazy(name, *args, config=LAZY):
        return ["--config-file", config, *args, *SMALL, f"train.output_dir={outputs}/{name}"]

    def yolact(*args):
        return lazy("yolact", *args, config=YOLACT)

    last = f"train.init_checkpoint={outputs}/run/model_final.pth"
    commands = [
        lazy("run", *flags(data), "--keep-empty-images", "train.max_iter=2")
        + ["train.eval_period=0"],
        lazy("run", *flags(data), "--keep-empty-images", "--resume", "train.max_iter=3"),
        lazy("run", *flags(data)[4:], "--eval-only"),
        lazy("run", "--predict", f"{custom_data}/val", "--output", f"{outputs}/predictions"),
        lazy("run", *flags(data)[:4], "--preview", "3", "--output", f"{outputs}/preview"),
        lazy("tuned", *flags(four_classes), last, "train.max_iter=1", "train.eval_period=0"),
        ["--config-file", TWIN, *flags(rle), *TWIN_SMALL, f"OUTPUT_DIR={outputs}/yaml"],
        yolact(*flags(rle), "train.max_iter=2", "train.eval_period=0"),
        yolact(*flags(rle)[4:], "--eval-only"),
        yolact("--predict", f"{custom_data}/val", "--output", f"{outputs}/yolact_predictions"),
        yolact(*flags(rle)[:4], "--preview", "3", "--output", f"{outputs}/yolact_preview"),
    ]
    # Other tests cover the pictures of a training run, which take as long as all the rest.
    run_commands(commands, pictures=False)
    return outputs


def test_the_classes_of_all_heads_are_those_of_the_file(outputs):
    for name in ("run", "yaml"):
        checkpoint = torch.load(outputs / name / "model_final.pth", weights_only=True)
        assert checkpoint["class_names"] == ["red", "green", "blue"]
        assert checkpoint["category_ids"] == [5, 9, 40]
        shapes = {key: len(v) for key, v in checkpoint["model"].items() if v.dim()}
        assert shapes["roi_heads.box_predictor.cls_score.weight"] == 3
        assert shapes["roi_heads.box_predictor.bbox_pred.weight"] == 12
        assert shapes["roi_heads.mask_head.predictor.weight"] == 3
    assert checkpoint["iteration"] == 1
    checkpoint = torch.load(outputs / "run" / "model_final.pth", weights_only=True)
    assert checkpoint["iteration"] == 2  # resumed


def test_a_one_stage_detector_trains_evaluates_and_predicts_masks(outputs):
    checkpoint = torch.load(outputs / "yolact" / "model_final.pth", weights_only=True)
    assert checkpoint["category_ids"] == [5, 9, 40]
    shapes = {key: len(value) for key, value in checkpoint["model"].items() if value.dim()}
    assert shapes["head.cls_score.weight"] == 3 * 3 and shapes["mask_branch.semantic.weight"] == 3
    log = (outputs / "yolact" / "log.txt").read_text()
    assert "train: no mask for 12 of 18 objects: they are learned without masks" in log
    results = json.loads((outputs / "yolact" / "results.json").read_text())
    assert "AP-blue" in results["bbox"] and "AP-blue" in results["segm"]
    predictions = COCO(str(outputs / "yolact_predictions" / "predictions.json"))
    assert {a["category_id"] for a in predictions.anns.values()} <= {5, 9, 40}
    assert predictions.annToMask(next(iter(predictions.anns.values()))).shape == (48, 64)
    assert len(list((outputs / "yolact_preview").glob("preview_*.png"))) == 3


def test_objects_without_a_mask_are_logged_and_train_the_box_head(outputs):
    log = (outputs / "run" / "log.txt").read_text()
    assert "train: no mask for 12 of 18 objects: they are learned without masks" in log
    assert "train: corrected: mask dropped: 6" in log  # masks without area
    losses = [
        json.loads(line) for line in (outputs / "run" / "metrics.json").read_text().splitlines()
    ]
    assert all(line["loss_mask"] > 0 for line in losses if "loss_mask" in line)
    log = (outputs / "yaml" / "log.txt").read_text()  # some masks of this run are RLE
    assert "train: no mask for 12 of 18 objects: they are learned without masks" in log


def test_boxes_and_masks_are_evaluated_per_class(outputs):
    results = json.loads((outputs / "run" / "results.json").read_text())
    assert "AP-blue" in results["bbox"] and "AP-blue" in results["segm"]
    assert (
        (outputs / "run" / "per_class_ap.csv")
        .read_text()
        .startswith("dataset,class,bbox_AP,segm_AP")
    )


def test_predictions_have_masks_and_the_category_ids_of_the_file(outputs):
    predictions = COCO(str(outputs / "predictions" / "predictions.json"))
    assert {a["category_id"] for a in predictions.anns.values()} <= {5, 9, 40}
    for annotation in list(predictions.anns.values())[:5]:
        assert predictions.annToMask(annotation).shape == (48, 64)
        assert isinstance(annotation["segmentation"]["counts"], str)


def test_a_preview_is_drawn(outputs):
    assert len(list((outputs / "preview").glob("preview_*.png"))) == 3


def test_heads_for_other_classes_keep_their_initial_weights_and_are_logged(outputs):
    log = (outputs / "tuned" / "log.txt").read_text()
    (line,) = [line for line in log.splitlines() if "so the initial values stay" in line]
    assert "6 parameters and buffers" in line
    for name in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor"):
        assert f"roi_heads.{name}.weight" in line
    checkpoint = torch.load(outputs / "tuned" / "model_final.pth", weights_only=True)
    assert checkpoint["model"]["roi_heads.mask_head.predictor.weight"].shape[0] == 4


@pytest.mark.parametrize(
    ("config", "small", "folder"),
    [(LAZY, SMALL, "train.output_dir"), (TWIN, TWIN_SMALL, "OUTPUT_DIR")],
)
def test_a_file_without_masks_is_an_error_before_anything_is_written(
    config, small, folder, custom_data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    options = [*flags(custom_data), *small, f"{folder}={tmp_path / 'out'}"]
    assert main(["--config-file", config, *options]) == 2
    output = capsys.readouterr().err
    assert len(output.splitlines()) == 1
    assert "--train-json: expected masks, got only boxes in " in output
    assert "train.json; the model of the config learns masks" in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "library=pycocotools",
            "supports only COCO's rules; LVIS's rules need faster-coco-eval",
        ),
        ("tasks=[boxes]", "tasks: expected bbox or segm, got boxes"),
    ],
)
def test_an_option_that_the_evaluator_rejects_is_an_error_before_training(
    option, message, custom_data, tmp_path, monkeypatch, capsys
):
    data, outputs = add_masks(custom_data, tmp_path / "data"), tmp_path / "out"
    for path in data.glob("*.json"):
        content = json.loads(path.read_text())
        for image in content["images"]:
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for category in content["categories"]:
            category |= {"frequency": "f", "image_count": 3}
        path.write_text(json.dumps(content))
    outputs.mkdir()
    (outputs / "last_checkpoint").write_text("model_of_an_earlier_run.pth")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(run, "train_model", lambda *_, **__: pytest.fail("it trains"))
    monkeypatch.setattr(run, "set_up", lambda *_: None)  # it would leave files and log handlers
    options = [
        *flags(data),
        *SMALL,
        f"dataloader.evaluator.{option}",
        f"train.output_dir={outputs}",
    ]
    assert main(["--config-file", LAZY, "--overwrite", *options]) == 2
    output = capsys.readouterr().err
    assert len(output.splitlines()) == 1 and message in output
    assert [path.name for path in outputs.iterdir()] == ["last_checkpoint"]
