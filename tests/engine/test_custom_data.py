"""Custom data from the command line: training, resume, evaluation, preview and prediction."""

import csv
import json
import os
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from ranking_det.data.shapes import prepare_shapes
from ranking_det.engine import main
from ranking_det.engine import plan as plan_module
from ranking_det.engine.command import Command
from ranking_det.engine.custom_data import warn_of_equal_files
from tests.cases import ROOT, run_commands, run_function

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
def harmless(custom_data, tmp_path_factory):
    """Files with harmless faults: text ids, a root category, crowds, flat and clipped boxes.

    The validation file lacks a class and has other category ids; the test file has no annotations.
    """
    folder = tmp_path_factory.mktemp("harmless")
    for split in ("train", "val"):
        content = json.loads((custom_data / f"{split}.json").read_text())
        for image in content["images"]:
            image["id"] = f"uuid-{image['id']}"
        for annotation in content["annotations"]:
            annotation["image_id"] = f"uuid-{annotation['image_id']}"
            annotation["id"] = str(annotation["id"])
        content["categories"].append({"id": 77, "name": "colors", "supercategory": "none"})
        for category in content["categories"][:3]:
            category["supercategory"] = "colors"
        if split == "train":
            content["annotations"][0]["bbox"] = [3, 3, 0, 9]
            content["annotations"][1]["bbox"] = [50, 3, 17, 9]
            for annotation in content["annotations"][2:4]:
                annotation["iscrowd"] = 1
        else:
            del content["categories"][1]
            remaining = [a for a in content["annotations"] if a["category_id"] != 9]
            content["annotations"] = remaining
            ids = {5: 1, 40: 0, 77: 2}
            for category in content["categories"]:
                category["id"] = ids[category["id"]]
            for annotation in remaining:
                annotation["category_id"] = ids[annotation["category_id"]]
            test = {key: content[key] for key in ("images", "categories")}
            (folder / "test.json").write_text(json.dumps(test))
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def outputs(custom_data, harmless, tmp_path_factory):
    """The folder with the output folders of all commands."""
    outputs = tmp_path_factory.mktemp("out")
    best = f"{outputs}/run/model_best.pth"
    both, val = flags(custom_data), flags(custom_data, "val")
    prepare_shapes(outputs, train=4, val=3, size=48, variant="shapes_lvis")
    lvis = []
    for split in ("train", "val"):
        folder = f"{outputs}/shapes_lvis"
        lvis += [f"--{split}-json", f"{folder}/annotations/instances_{split}.json"]
        lvis += [f"--{split}-images", f"{folder}/{split}"]

    def lazy(*args):
        return ["--config-file", LAZY, *args, *SMALL, f"train.output_dir={outputs}/run"]

    commands = [
        lazy(*both, "--keep-empty-images"),
        lazy(*both, "--keep-empty-images", "--resume"),
        lazy(*val, "--eval-only"),
        lazy("--predict", f"{custom_data}/val", "--output", f"{outputs}/predictions"),
        lazy(*flags(custom_data, "train"), "--preview", "2", "--output", f"{outputs}/preview"),
        ["--config-file", TWIN, *both, *TWIN_SMALL, f"OUTPUT_DIR={outputs}/yaml"],
        lazy("--predict", f"{custom_data}/val/0.png", f"train.init_checkpoint={best}"),
        ["--config-file", f"{outputs}/run/config.yaml", "--predict", f"{custom_data}/val/0.png"]
        + ["--output", f"{outputs}/again", f"train.output_dir={outputs}/run"],
    ]

    def tiny(name, *args):
        return ["--config-file", LAZY, *args, *SMALL, f"train.output_dir={outputs}/{name}"]

    data = [part.replace(f"{custom_data}/val.json", f"{harmless}/val.json") for part in both]
    data[1] = f"{harmless}/train.json"
    unannotated = [part.replace("/val.json", "/test.json") for part in data]
    commands += [
        tiny("harmless", *data, "train.max_iter=1"),
        tiny("harmless", "--eval-only", *data[4:]),
        tiny("harmless", "--preview", "1", "--output", f"{outputs}/harmless_preview", *data[:4]),
        tiny("crowds", *data, "--crowds-are-objects", "train.max_iter=1", "train.eval_period=0"),
    ]
    with_pictures = [
        ["--config-file", DETECTRON2[0], *both, DETECTRON2[1], *TWIN_SMALL]
        + [f"OUTPUT_DIR={outputs}/detectron2"],
        ["--config-file", DETECTRON2[0], "--predict", f"{custom_data}/val/0.png", DETECTRON2[1]]
        + ["MODEL.DEVICE=cpu", f"OUTPUT_DIR={outputs}/detectron2"],
        tiny("lvis", *lvis, "train.epochs=1"),
        tiny("no_ap", *unannotated, "train.max_iter=1"),
        tiny("no_ap", "--eval-only", *unannotated[4:]),
    ]
    # 9 images in batches of 2 are 5 iterations per epoch: first 1 epoch, then 2.
    commands[0].append("train.epochs=1")
    commands[1].append("train.epochs=2")
    run_commands(commands, pictures=False)
    run_commands(with_pictures)
    return outputs


def test_a_schedule_that_is_short_for_lack_of_images_gives_a_warning_unless_the_user_set_it(
    outputs,
):
    log = (outputs / "run" / "log.txt").read_text()
    first, resumed = re.findall(r"WARNING: (The run has only .*)", log)[:2]
    assert first == (
        "The run has only 5 iterations (1 epochs of your images), too few to learn much: raise "
        "train.epochs, or set train.max_iter=1000 or more"
    )
    assert "only 10 iterations (2 epochs" in resumed
    # The command of this run sets train.max_iter=1.
    assert "The run has only" not in (outputs / "harmless" / "log.txt").read_text()


@pytest.mark.parametrize(("flag", "split"), [("--eval-only", "val"), ("--resume", "train")])
def test_a_run_on_custom_data_asks_for_the_data_again(flag, split, outputs, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["--config-file", LAZY, flag, *SMALL, f"train.output_dir={outputs}/run"]) == 2
    assert capsys.readouterr().err == (
        f"train_net.py: error: --{split}: expected a folder or file, got none; '{outputs}/run/"
        f"model_final.pth' was trained on your own data, so give them again: --{split} "
        f"FOLDER_OR_FILE, or --{split}-json FILE --{split}-images FOLDER"
        + ", or the --train of the run if its validation images were split off" * (split == "val")
        + "\n"
    )


def test_an_image_size_other_than_in_training_gives_a_warning(
    outputs, custom_data, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    messages = []
    monkeypatch.setattr(
        plan_module.logger, "warning", lambda text, *args: messages.append(text % args)
    )
    key = "dataloader.test.mapper.augmentations.0.short_edge_length"
    command = ["--config-file", LAZY, "--predict", f"{custom_data}/val/0.png", "--output"]
    command += [str(tmp_path), *SMALL, f"train.output_dir={outputs}/run"]
    assert main(command) == main([*command, f"{key}=64"]) == 0
    (message,) = messages
    assert f"{key}: 128 in that run, 64 now; repeat the overrides" in message


def test_the_classes_of_the_model_are_those_of_the_file(outputs):
    checkpoint = torch.load(outputs / "run" / "model_final.pth", weights_only=True)
    assert checkpoint["class_names"] == ["red", "green", "blue"]
    assert checkpoint["category_ids"] == [5, 9, 40]
    assert "own_train" in checkpoint["config"]
    # 3 classes and 3 anchor scales.
    assert checkpoint["model"]["head.cls_score.weight"].shape[0] == 9
    classes = json.loads((outputs / "run" / "classes.json").read_text())
    assert classes[2] == {"id": 40, "name": "blue"}


def test_the_log_summarizes_the_files_and_the_adapted_schedule(outputs):
    log = (outputs / "run" / "log.txt").read_text()
    assert "COCO format, 9 images (3 without objects), 18 objects, 3 classes: red, green" in log
    assert "9 images in batches of 2 (0.25 x the reference batch of 8)" in log  # with empty images
    assert "max_iter: 400 -> 5" in log and "lr: 0.002 -> 0.0005" in log
    assert "Resuming" in log and "at iteration 5" in log


def test_the_evaluation_uses_the_class_names_of_the_file(outputs):
    with (outputs / "run" / "per_class_ap.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["red", "green", "blue"]
    assert [row["objects"] for row in rows] == ["3", "3", "3"]
    assert "AP-blue" in json.loads((outputs / "run" / "results.json").read_text())["bbox"]


def test_predictions_have_the_category_ids_of_the_file_and_are_drawn(outputs, custom_data):
    predictions = COCO(str(outputs / "predictions" / "predictions.json"))
    assert sorted(predictions.getCatIds()) == [5, 9, 40] and len(predictions.getImgIds()) == 4
    assert {a["category_id"] for a in predictions.anns.values()} <= {5, 9, 40}
    assert len(list((outputs / "predictions").glob("*.jpg"))) == 4


def test_the_saved_config_of_a_run_can_be_used_to_predict(outputs):
    repeated = json.loads((outputs / "again" / "predictions.json").read_text())
    first = json.loads((outputs / "predictions" / "predictions.json").read_text())
    scores = [a["score"] for a in first["annotations"] if a["image_id"] == 1]
    assert [a["score"] for a in repeated["annotations"]] == scores


def test_overrides_can_follow_the_images_of_predict(outputs):
    predictions = COCO(str(outputs / "run" / "predictions" / "predictions.json"))
    assert len(predictions.getImgIds()) == 1


def test_evaluating_weights_on_an_unknown_class_is_an_error(custom_data, outputs, tmp_path, capsys):
    content = json.loads((custom_data / "val.json").read_text())
    content["categories"][1]["name"] = "Green"
    (tmp_path / "val.json").write_text(json.dumps(content))
    args = ["--val-json", str(tmp_path / "val.json"), "--val-images", f"{custom_data}/val"]
    config = ["--config-file", str(ROOT / LAZY), "--eval-only", *args]
    assert main([*config, *SMALL, f"train.output_dir={outputs}/run"]) == 2
    output = capsys.readouterr().err
    assert "val.json: category 9: expected a class of " in output
    assert "model_final.pth, got 'Green' (did you mean 'green'?)" in output


def rows_of(folder):
    with (folder / "data_faults.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_harmless_faults_are_logged_and_written_to_a_table(outputs, harmless):
    log = (outputs / "harmless" / "log.txt").read_text()
    assert "train: harmless/train.json, COCO" in log.replace(f"{harmless}", "harmless")
    assert "9 images (3 without objects), 15 objects and 2 crowds, 3 classes: red, green" in log
    for note in (
        "train: left out: box without size: 1",
        "train: corrected: box clipped to its image: 1",
        "train: noted: root category: 1",
        "train: converted: annotations: 'id' written as str: 18",
    ):
        assert note in log
    assert "train: crowds ('iscrowd': 1) are not learned: 2 of 17 annotations" in log
    assert "data_faults.csv" in log
    rows = rows_of(outputs / "harmless")
    assert [row["kind"] for row in rows if row["file"].endswith("train.json")] == [
        "root category",
        "box without size",
        "box clipped to its image",
    ]
    (row,) = [row for row in rows if row["action"] == "left out"]
    assert row["place"] == "annotations[0]" and row["id"] == "1" and row["image"] == "uuid-100"
    # The evaluation has replaced only the rows of its file.
    assert [row["kind"] for row in rows if row["file"].endswith("val.json")] == ["root category"]
    assert rows_of(outputs / "harmless_preview")[1] == row


def test_validation_may_have_fewer_classes_under_other_ids(outputs):
    results = json.loads((outputs / "harmless" / "results.json").read_text())["bbox"]
    assert "AP-red" in results and "AP-blue" in results
    written = json.loads((outputs / "harmless" / "coco_instances_results.json").read_text())
    assert {result["category_id"] for result in written} <= {0, 1}
    assert {result["image_id"] for result in written} <= {f"uuid-{100 + i}" for i in range(4)}
    with (outputs / "harmless" / "per_class_ap.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], row["objects"]) for row in rows] == [
        ("red", "3"),
        ("green", "0"),
        ("blue", "3"),
    ]


def test_the_flag_crowds_are_objects_trains_on_crowds(outputs):
    # Later commands of the same process append to this log.
    log = (outputs / "crowds" / "log.txt").read_text().split("Command line:")[1]
    assert "9 images (3 without objects), 17 objects, 3 classes" in log
    assert "train: noted: crowd, treated as an object: 2" in log
    assert "which are not learned" not in log


def test_training_without_validation_annotations_finishes_without_ap(outputs):
    log = (outputs / "no_ap" / "log.txt").read_text().split("Command line:")[1]
    assert (outputs / "no_ap" / "model_final.pth").is_file()
    (line,) = [line for line in log.splitlines() if "has no annotations, so there is no AP" in line
               and "WARNING" in line]  # fmt: skip
    assert "val: " in line and "test.json" in line
    assert not (outputs / "no_ap" / "results.json").exists()
    assert not (outputs / "no_ap" / "model_best.pth").exists()
    assert (outputs / "no_ap" / "curves.png").is_file()


def test_evaluating_a_file_without_annotations_writes_the_detections(outputs):
    assert json.loads((outputs / "no_ap" / "coco_instances_results.json").read_text())


def test_a_preview_is_drawn(outputs):
    assert len(list((outputs / "preview").glob("preview_*.png"))) == 2


def test_lvis_files_are_evaluated_by_the_lvis_rules(outputs):
    log = (outputs / "lvis" / "log.txt").read_text()
    assert "LVIS format, 4 images" in log and "by LVIS's federated rules" in log
    assert "APr" in json.loads((outputs / "lvis" / "results.json").read_text())["bbox"]


def test_a_yaml_config_can_train_on_custom_data(outputs):
    checkpoint = torch.load(outputs / "yaml" / "model_final.pth", weights_only=True)
    assert checkpoint["class_names"] == ["red", "green", "blue"]
    assert (outputs / "yaml" / "per_class_ap.csv").exists()


def test_a_detectron2_model_can_train_on_custom_data(outputs):
    checkpoint = torch.load(outputs / "detectron2" / "model_final.pth", weights_only=True)
    assert checkpoint["class_names"] == ["red", "green", "blue"]
    assert (
        checkpoint["model"]["head.cls_score.weight"].shape[0] == 9
    )  # 3 classes and 3 anchor scales
    content = json.loads((outputs / "detectron2/predictions/predictions.json").read_text())
    assert [entry["id"] for entry in content["categories"]] == [5, 9, 40]


def count_opened(command):
    """Return the exit status of a command, and how often it opens each annotation file."""
    opened = Counter()

    def count(event, args):
        if event == "open" and str(args[0]).endswith(("train.json", "val.json")):
            opened[args[0].rpartition("/")[2]] += 1

    sys.addaudithook(count)
    return main(command), dict(opened)


def test_training_reads_each_annotation_file_once(custom_data, tmp_path):
    command = ["--config-file", LAZY, *flags(custom_data), *SMALL, "train.max_iter=2"]
    command += ["train.eval_period=1", f"train.output_dir={tmp_path}/out"]
    completed = run_function(count_opened, command)
    assert completed.value == (0, {"train.json": 1, "val.json": 1}), completed.stderr[-3000:]
    assert (tmp_path / "out" / "detections.png").is_file()
    assert (tmp_path / "out" / "per_class_ap.csv").is_file()


def changed_training_file(root, tmp_path, **changes):
    """Write a copy of the training file with changed entries; return the flags for it."""
    content = json.loads((root / "train.json").read_text())
    for section, (index, change) in changes.items():
        content[section][index].update(change)
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    return ["--train-json", str(path), "--train-images", f"{root}/train", *flags(root, "val")]


def normalized_boxes(root, tmp_path):
    content = json.loads((root / "train.json").read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [value / 64 for value in annotation["bbox"]]
    (tmp_path / "train.json").write_text(json.dumps(content))
    train = ["--train-json", f"{tmp_path}/train.json", "--train-images", f"{root}/train"]
    return [*train, *flags(root, "val")]


USER_ERRORS = {
    "a box outside with --strict": (
        lambda root, tmp: [
            *changed_training_file(root, tmp, annotations=(3, {"bbox": [60, 4, 20, 20]})),
            "--strict",
        ],
        r"train.json: annotation 4 \(annotations\[3\]\): .*sticks out.*--strict refuses this",
    ),
    "a box outside and a limit of 0": (
        lambda root, tmp: [
            *changed_training_file(root, tmp, annotations=(3, {"bbox": [65, 4, 20, 20]})),
            *("--max-faults", "0"),
        ],
        r"train.json: annotation 4 \(annotations\[3\]\): .*outside.*--max-faults 1 accepts this",
    ),
    "normalized boxes": (
        normalized_boxes,
        "train.json: 18 of 18 boxes lie within 0 to 1 and look normalized",
    ),
    "an unknown category": (
        lambda root, tmp: changed_training_file(root, tmp, annotations=(3, {"category_id": 6})),
        r"train.json: annotation 4 .*category.* 6",
    ),
    "a missing image": (
        lambda root, tmp: changed_training_file(root, tmp, images=(0, {"file_name": "none.png"})),
        r"train.json: image 100 .*none.png",
    ),
    "other classes in validation": (
        lambda root, tmp: changed_training_file(root, tmp, categories=(1, {"name": "greens"})),
        r"val.json: category 9: expected a class of .*train.json, got 'green' .*mean 'greens'",
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
        "--keep-empty-images needs --train or --train-json",
    ),
    "a limit without a file": (
        lambda root, tmp: ["--max-faults", "3"],
        "--max-faults needs --train, --val, --train-json or --val-json",
    ),
    "a negative limit": (
        lambda root, tmp: [*flags(root), "--max-faults", "-1"],
        "--max-faults: expected at least 0, got -1",
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
    "a limit of no pixels": (
        lambda root, tmp: ["--max-pixels", "0"],
        "--max-pixels: expected at least 1, got 0",
    ),
    "a check of images without a file": (
        lambda root, tmp: ["--check-images"],
        "--check-images needs --train, --val, --train-json or --val-json",
    ),
    "a preview of more images than there are": (
        lambda root, tmp: ["--preview", "10", *flags(root)],
        "--preview: expected at most 9, the number of training images, got 10",
    ),
    "a preview of no images": (
        lambda root, tmp: ["--preview", "0"],
        "--preview: expected at least 1, got 0",
    ),
}


@pytest.mark.parametrize("case", USER_ERRORS)
def test_a_user_error_is_reported_before_anything_is_written(
    case, custom_data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    make, message = USER_ERRORS[case]
    args = [*make(custom_data, tmp_path), *SMALL]
    if "output_dir" not in " ".join(args):
        args.append(f"train.output_dir={tmp_path / 'out'}")
    assert main(["--config-file", LAZY, *args]) == 2
    output = capsys.readouterr().err
    assert len(output.splitlines()) == 1 and re.search(message, output), output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_images_are_skipped_in_training_and_in_evaluation(workers, custom_data, tmp_path):
    shutil.copytree(custom_data, tmp_path / "data")
    for split in ("train", "val"):
        path = min((tmp_path / "data" / split).glob("*.png"))
        path.write_bytes(path.read_bytes()[:-30])  # the header is intact
    options = [*SMALL, f"dataloader.train.num_workers={workers}", "train.max_iter=8"]
    args = [*flags(tmp_path / "data"), "--check-images", *options]
    run_commands([["--config-file", LAZY, *args, f"train.output_dir={tmp_path}/out"]])
    log = (tmp_path / "out" / "log.txt").read_text()
    for split in ("train", "val"):
        assert re.search(rf"{split}: decoded (\d+) of \1 images in .* s; 1 of them cannot", log)
        assert f"{split}: skipped: unreadable image: 1" in log
    assert len(re.findall(r"Skipping the image '.*png': it cannot be read", log)) == 1
    assert "1 unreadable image was skipped in training, " in log
    assert re.search(r"1 of \d+ images cannot be read; AP excludes", log)
    with (tmp_path / "out" / "data_faults.csv").open() as file:
        actions = [row["action"] for row in csv.DictReader(file) if "unreadable" in row["kind"]]
    assert actions == ["skipped"] * 2


def test_a_data_set_without_readable_images_is_rejected(custom_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    shutil.copytree(custom_data, tmp_path / "data")
    for path in (tmp_path / "data" / "train").glob("*.png"):
        path.write_bytes(path.read_bytes()[:-30])
    args = ["--config-file", LAZY, *flags(tmp_path / "data"), *SMALL]
    assert main([*args, f"train.output_dir={tmp_path}/out"]) == 2
    assert "; none of the opened images can be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_with_more_pixels_than_max_pixels_are_rejected(
    custom_data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # restored at the end
    shutil.copytree(custom_data, tmp_path / "data")  # new paths: results are cached by path
    args = ["--config-file", LAZY, *flags(tmp_path / "data"), "--max-pixels", "1000", *SMALL]
    assert main([*args, f"train.output_dir={tmp_path}/out"]) == 2
    message = "it has more than 1000 pixels; --max-pixels N permits up to N"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_the_same_file_for_training_and_validation_gives_a_warning(link, tmp_path, caplog):
    paths = [tmp_path / "train.json", tmp_path / "val.json"]
    for path in paths:
        path.write_text("{}")
    command = Command(config_file="", train_json=str(paths[0]), val_json=str(paths[1]))
    warn_of_equal_files(command)
    warn_of_equal_files(Command(config_file=""))
    assert not caplog.messages
    if link is None:
        command = replace(command, val_json=str(paths[0]))
    else:
        paths[1].unlink()
        link(*paths)
    warn_of_equal_files(command)
    (message,) = caplog.messages
    assert "AP is measured on the training images" in message
