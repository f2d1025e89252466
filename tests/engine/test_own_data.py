"""Custom data from the command line: training, resume, evaluation, preview and prediction."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO

from ranking_det.data.shapes import prepare_shapes
from ranking_det.engine import main
from tests.engine.cases import run_commands

ROOT = Path(__file__).parents[2]
LAZY = "configs/shapes/quick/retinanet_atss_rs.py"
TWIN = "configs/shapes/fcos_fcos_rs.yaml"
DETECTRON2 = "configs/shapes/retinanet_atss_rs.yaml", "MODEL.META_ARCHITECTURE=RetinaNet"
SMALL = ["train.device=cpu", "dataloader.train.total_batch_size=2", "train.log_period=1"]
TWIN_SMALL = ["MODEL.DEVICE=cpu", "SOLVER.IMS_PER_BATCH=2", "SOLVER.MAX_ITER=2"]


def flags(root, *splits):
    args = []
    for split in splits or ("train", "val"):
        args += [f"--{split}-json", f"{root}/{split}.json", f"--{split}-images", f"{root}/{split}"]
    return args


@pytest.fixture(scope="module")
def out(own_data, tmp_path_factory):
    """The output folders of all commands, run in one process: starting a process takes seconds."""
    out = tmp_path_factory.mktemp("out")
    best = f"{out}/run/model_best.pth"
    both, val = flags(own_data), flags(own_data, "val")
    prepare_shapes(out, train=4, val=3, size=48, variant="shapes_lvis")
    lvis = []
    for split in ("train", "val"):
        folder = f"{out}/shapes_lvis"
        lvis += [f"--{split}-json", f"{folder}/annotations/instances_{split}.json"]
        lvis += [f"--{split}-images", f"{folder}/{split}"]

    def lazy(*args):
        return ["--config-file", LAZY, *args, *SMALL, f"train.output_dir={out}/run"]

    commands = [
        lazy(*both, "--keep-empty-images"),
        lazy(*both, "--keep-empty-images", "--resume"),
        lazy(*val, "--eval-only"),
        lazy("--predict", f"{own_data}/val", "--output", f"{out}/predictions"),
        lazy(*flags(own_data, "train"), "--preview", "2", "--output", f"{out}/preview"),
        ["--config-file", TWIN, *both, *TWIN_SMALL, f"OUTPUT_DIR={out}/yaml"],
        lazy("--predict", f"{own_data}/val/0.png", f"train.init_checkpoint={best}"),
        ["--config-file", DETECTRON2[0], *both, DETECTRON2[1], *TWIN_SMALL]
        + [f"OUTPUT_DIR={out}/detectron2"],
        ["--config-file", DETECTRON2[0], "--predict", f"{own_data}/val/0.png", DETECTRON2[1]]
        + ["MODEL.DEVICE=cpu", f"OUTPUT_DIR={out}/detectron2"],
        ["--config-file", LAZY, *lvis, *SMALL, "train.epochs=1", f"train.output_dir={out}/lvis"],
        ["--config-file", f"{out}/run/config.yaml", "--predict", f"{own_data}/val/0.png"]
        + ["--output", f"{out}/again", f"train.output_dir={out}/run"],
    ]
    # 9 images in batches of 2 are 5 iterations per epoch: first 1 epoch, then 2.
    commands[0].append("train.epochs=1")
    commands[1].append("train.epochs=2")
    run_commands(commands)
    return out


def test_the_classes_of_the_model_are_those_of_the_file(out):
    checkpoint = torch.load(out / "run" / "model_final.pth", weights_only=True)
    assert checkpoint["class_names"] == ["red", "green", "blue"]
    assert checkpoint["category_ids"] == [5, 9, 40]
    assert "own_train" in checkpoint["config"]
    # 3 classes and 3 anchor scales.
    assert checkpoint["model"]["head.cls_score.weight"].shape[0] == 9
    classes = json.loads((out / "run" / "classes.json").read_text())
    assert classes[2] == {"id": 40, "name": "blue"}


def test_the_log_summarises_the_files_and_the_adapted_schedule(out):
    log = (out / "run" / "log.txt").read_text()
    assert "COCO format, 9 images (3 without objects), 18 objects, 3 classes: red, green" in log
    assert "9 images in batches of 2 (0.25 x the reference batch of 8)" in log  # with empty images
    assert "max_iter: 400 -> 5" in log and "lr: 0.002 -> 0.0005" in log
    assert "Resuming" in log and "at iteration 5" in log


def test_the_evaluation_uses_the_class_names_of_the_file(out):
    with (out / "run" / "per_class_ap.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["red", "green", "blue"]
    assert [row["objects"] for row in rows] == ["3", "3", "3"]
    assert "AP-blue" in json.loads((out / "run" / "results.json").read_text())["bbox"]


def test_predictions_have_the_category_ids_of_the_file_and_are_drawn(out, own_data):
    predictions = COCO(str(out / "predictions" / "predictions.json"))
    assert sorted(predictions.getCatIds()) == [5, 9, 40] and len(predictions.getImgIds()) == 4
    assert {a["category_id"] for a in predictions.anns.values()} <= {5, 9, 40}
    assert len(list((out / "predictions").glob("*.jpg"))) == 4


def test_the_saved_config_of_a_run_can_be_used_to_predict(out):
    again = json.loads((out / "again" / "predictions.json").read_text())
    first = json.loads((out / "predictions" / "predictions.json").read_text())
    scores = [a["score"] for a in first["annotations"] if a["image_id"] == 1]
    assert [a["score"] for a in again["annotations"]] == scores


def test_overrides_can_follow_the_images_of_predict(out):
    predictions = COCO(str(out / "run" / "predictions" / "predictions.json"))
    assert len(predictions.getImgIds()) == 1


def test_evaluating_weights_on_classes_in_another_order_is_an_error(
    own_data, out, tmp_path, capsys
):
    content = json.loads((own_data / "val.json").read_text())
    content["categories"][0]["id"], content["categories"][1]["id"] = 9, 5
    (tmp_path / "val.json").write_text(json.dumps(content))
    args = ["--val-json", str(tmp_path / "val.json"), "--val-images", f"{own_data}/val"]
    config = ["--config-file", str(ROOT / LAZY), "--eval-only", *args]
    assert main([*config, *SMALL, f"train.output_dir={out}/run"]) == 2
    output = capsys.readouterr().err
    assert "expected weights trained on the 3 classes of the data set 'own_val'" in output
    assert "(class 0 is 'red' there and 'green' in the data set)" in output


def test_a_preview_is_drawn(out):
    assert len(list((out / "preview").glob("preview_*.png"))) == 2


def test_lvis_files_are_evaluated_by_the_lvis_rules(out):
    log = (out / "lvis" / "log.txt").read_text()
    assert "LVIS format, 4 images" in log and "by LVIS's federated rules" in log
    assert "APr" in json.loads((out / "lvis" / "results.json").read_text())["bbox"]


def test_a_yaml_config_can_train_on_custom_data(out):
    checkpoint = torch.load(out / "yaml" / "model_final.pth", weights_only=True)
    assert checkpoint["class_names"] == ["red", "green", "blue"]
    assert (out / "yaml" / "per_class_ap.csv").exists()


def test_a_detectron2_model_can_train_on_custom_data(out):
    checkpoint = torch.load(out / "detectron2" / "model_final.pth", weights_only=True)
    assert checkpoint["class_names"] == ["red", "green", "blue"]
    assert (
        checkpoint["model"]["head.cls_score.weight"].shape[0] == 9
    )  # 3 classes and 3 anchor scales
    content = json.loads((out / "detectron2/predictions/predictions.json").read_text())
    assert [entry["id"] for entry in content["categories"]] == [5, 9, 40]


COUNTED = """
import sys
from collections import Counter
opened = Counter()
def count(event, args):
    if event == "open" and str(args[0]).endswith(("train.json", "val.json")):
        opened[args[0].rpartition("/")[2]] += 1
sys.addaudithook(count)
from ranking_det.engine import main
assert main({command!r}) == 0
print(dict(opened))
"""


def test_a_training_reads_each_annotation_file_once(own_data, tmp_path):
    command = ["--config-file", LAZY, *flags(own_data), *SMALL, "train.max_iter=2"]
    command += ["train.eval_period=1", f"train.output_dir={tmp_path}/out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-W", "ignore", "-c", COUNTED.replace("{command!r}", repr(command))]
    completed = subprocess.run(program, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert completed.stdout.splitlines()[-1] == "{'train.json': 1, 'val.json': 1}", (
        completed.stderr[-3000:]
    )
    assert (tmp_path / "out" / "detections.png").is_file()
    assert (tmp_path / "out" / "per_class_ap.csv").is_file()


def broken(root, tmp_path, **changes):
    """Write a copy of the training file with changed entries; return the flags for it."""
    content = json.loads((root / "train.json").read_text())
    for section, (index, change) in changes.items():
        content[section][index].update(change)
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    return ["--train-json", str(path), "--train-images", f"{root}/train", *flags(root, "val")]


WRONG = {
    "a box outside": (
        lambda root, tmp: broken(root, tmp, annotations=(3, {"bbox": [60, 4, 20, 20]})),
        r"train.json: annotation 4 \(annotations\[3\]\): .*outside",
    ),
    "an unknown category": (
        lambda root, tmp: broken(root, tmp, annotations=(3, {"category_id": 6})),
        r"train.json: annotation 4 .*category.* 6",
    ),
    "a missing image": (
        lambda root, tmp: broken(root, tmp, images=(0, {"file_name": "none.png"})),
        r"train.json: image 100 .*none.png",
    ),
    "other classes in validation": (
        lambda root, tmp: broken(root, tmp, categories=(2, {"name": "cyan"})),
        "category 40 is 'cyan' in .* and 'blue' in",
    ),
    "a folder that does not exist": (
        lambda root, tmp: [*flags(root, "train")[:3], f"{root}/nowhere", *flags(root, "val")],
        "nowhere' does not exist",
    ),
    "no images for a file": (
        lambda root, tmp: flags(root, "train")[:2],
        "--train-json is given without --train-images",
    ),
    "no validation": (
        lambda root, tmp: flags(root, "train"),
        "--train-json is given without --val-json FILE --val-images FOLDER",
    ),
    "no training": (
        lambda root, tmp: flags(root, "val"),
        "--val-json is given without --train-json FILE --train-images FOLDER",
    ),
    "empty images without a training file": (
        lambda root, tmp: ["--keep-empty-images"],
        "--keep-empty-images needs --train-json",
    ),
    "flags that exclude each other": (
        lambda root, tmp: ["--eval-only", "--preview", "3"],
        "--eval-only, --resume, --overwrite, --preview, --predict: expected at most one of these "
        "flags, got --eval-only and --preview",
    ),
    "predictions without weights": (
        lambda root, tmp: ["--predict", "none.jpg", f"train.output_dir={tmp}/trained"],
        "--predict: expected weights, got none; .* in train.output_dir=.*/trained",
    ),
    "a preview by two processes": (
        lambda root, tmp: ["--num-gpus", "2", "--preview", "3"],
        "--preview: expected one process, got 2",
    ),
    "a preview of no images": (
        lambda root, tmp: ["--preview", "0"],
        "--preview: expected at least 1, got 0",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_user_error_is_reported_before_anything_is_written(
    case, own_data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    make, message = WRONG[case]
    args = [*make(own_data, tmp_path), *SMALL]
    if "output_dir" not in " ".join(args):
        args.append(f"train.output_dir={tmp_path / 'out'}")
    assert main(["--config-file", LAZY, *args]) == 2
    output = capsys.readouterr().err
    assert len(output.splitlines()) == 1 and re.search(message, output), output
    assert not (tmp_path / "out").exists()


def run(args):
    program = [sys.executable, "-W", "ignore", "train_net.py", "--config-file", LAZY, *args]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(program, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image_stops_the_training_and_is_named(workers, own_data, tmp_path):
    shutil.copytree(own_data, tmp_path / "data")
    for path in (tmp_path / "data" / "train").glob("*.png"):
        path.write_bytes(path.read_bytes()[:-30])  # the header is intact
    options = [*SMALL, f"dataloader.train.num_workers={workers}"]
    completed = run([*flags(tmp_path / "data"), *options, f"train.output_dir={tmp_path}/out"])
    assert completed.returncode == 2
    last = completed.stderr.strip().splitlines()[-1]
    assert last.startswith("train_net.py: error: the image '") and "data/train/" in last
