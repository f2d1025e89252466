"""Data sets of other formats from the command line: --train and --val."""

import json
import pickle
import re

import pytest
import torch
from PIL import Image

from ranking_det.engine import main
from ranking_det.engine.command import parse
from ranking_det.engine.plan import make_plan
from tests.cases import ROOT, run_commands
from tests.data.formats.cases import (
    BOXES,
    coco_set,
    make_image,
    via_file,
    via_polygon,
    via_region,
    voc_set,
    voc_text,
    write_text,
    yolo_set,
)

CONFIG = ["--config-file", "configs/shapes/quick/retinanet_atss_rs.py"]
MASKS = ["--config-file", "configs/shapes/quick/mask_rs.py"]
SMALL = ["train.device=cpu", "dataloader.train.total_batch_size=2", "train.max_iter=1"]
SMALL += ["train.log_period=1"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The folder with the output folders of all commands, which run in one process."""
    outputs = tmp_path_factory.mktemp("out")
    voc, yolo = voc_set(outputs / "voc"), yolo_set(outputs / "yolo")
    flat = voc_text([("cat", 3, 3, 0, 9), ("cat", 10, 20, 30, 15)], name="0.jpg")
    write_text(voc / "Annotations" / "0.xml", flat)
    coco_set(outputs / "coco")
    for i in range(5):  # no split
        make_image(outputs / "unsplit" / f"{i}.jpg", seed=i)
        text = voc_text([(name, *box) for name, box in BOXES.items()], name=f"{i}.jpg")
        write_text(outputs / "unsplit" / f"{i}.xml", text)
    outline = via_polygon((5, 5), (40, 5), (40, 30))
    for split in ("train", "val"):
        via_file(outputs / "via" / split / "via.json", [via_region(outline, plant="fern")])

    def command(name, *args, config=CONFIG):
        return [*config, *args, *SMALL, f"train.output_dir={outputs}/run_{name}"]

    run_commands(
        [
            command("voc", "--preview", "1", "--train", str(voc)),
            command("voc", "--train", str(voc), "train.eval_period=0"),
            command("voc", "--train", str(voc), "--resume", "train.max_iter=2"),
            command("voc", "--eval-only", "--val", str(yolo)),
            command("coco", "--train", str(outputs / "coco"), "train.eval_period=0"),
            command("unsplit", "--train", str(outputs / "unsplit"), "train.eval_period=0"),
            command("two", "--num-gpus", "2", "--train", str(yolo), "--val", str(voc)),
            command("via", "--train", str(outputs / "via"), "train.eval_period=0", config=MASKS),
        ],
        pictures=False,
    )
    return outputs


def log_of(outputs, name):
    return (outputs / f"run_{name}" / "log.txt").read_text()


def test_a_model_learns_the_classes_of_a_pascal_voc_folder(outputs):
    weights = torch.load(outputs / "run_voc" / "model_final.pth", weights_only=True)
    assert weights["class_names"] == ["cat", "dog"]
    log = log_of(outputs, "voc")
    assert "found: Pascal VOC, 2 train and 2 val images, 2 classes" in log
    assert "2 images (0 without objects), 3 objects, 2 classes: cat, dog" in log
    assert "train: left out: box without size: 1" in log


def test_the_message_of_a_fault_names_the_file_of_the_source(outputs):
    lines = (outputs / "run_voc" / "data_faults.csv").read_text().splitlines()
    (fault,) = [line for line in lines if "box without size" in line]
    assert "Annotations/0.xml,object 1," in fault


def test_the_conversion_is_written_once_and_reused(outputs):
    folder = outputs / "run_voc" / "data"
    files = {"train.json", "val.json", "ranking_det.json"}
    # The evaluation of other images has a folder of its own.
    assert {path.name for path in folder.iterdir()} == files | {"eval"}
    assert {path.name for path in (folder / "eval").iterdir()} == files - {"train.json"}
    content = json.loads((folder / "train.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [
        "JPEGImages/0.jpg",
        "JPEGImages/1.jpg",
    ]
    # The preview has written the conversion, and both training runs use it.
    log = log_of(outputs, "voc")
    assert log.count(": its source files have not changed") == 2
    assert "Resuming" in log


def test_an_evaluation_reads_a_folder_of_another_format(outputs):
    commands = log_of(outputs, "voc").split("Command line:")
    (log,) = [log for log in commands if "eval_only=True" in log]
    assert "found: YOLO, 2 train and 2 val images, 2 classes" in log
    assert "val: " in log and "2 images (0 without objects), 4 objects" in log
    assert "AP-dog" in json.loads((outputs / "run_voc" / "results.json").read_text())["bbox"]


def test_a_coco_export_is_used_without_conversion(outputs):
    log = log_of(outputs, "coco")
    assert "found: COCO JSON, 2 train and 2 val images, 2 classes" in log
    assert f"train: {outputs}/coco/train/_annotations.coco.json" in log
    assert {path.name for path in (outputs / "run_coco" / "data").iterdir()} == {"ranking_det.json"}


def test_validation_images_are_split_off_if_there_are_none(outputs):
    record = json.loads((outputs / "run_unsplit" / "data" / "split.json").read_text())
    assert len(record["train"]) == 4 and len(record["val"]) == 1 and record["seed"] == 0
    assert "no validation set: split off 1 of 5 images" in log_of(outputs, "unsplit")


def test_several_processes_read_the_conversion_of_the_main_process(outputs):
    log = log_of(outputs, "two")
    assert log.count(f"{outputs}/yolo: found: YOLO") == 1 and "Process 0 of 2" in log
    assert (outputs / "run_two" / "model_final.pth").is_file()


def test_the_planned_data_can_be_sent_to_other_processes(outputs):
    command = parse(
        [*CONFIG, "--train", f"{outputs}/voc", *SMALL, f"train.output_dir={outputs}/sent"]
    )
    data = make_plan(command, starts_others=True).data
    assert data.train is not None and data.source_lines
    assert pickle.loads(pickle.dumps(data)) == data


def test_polygons_are_trained_as_masks(outputs):
    log = log_of(outputs, "via")
    assert "loss_mask" in log and "1 class: fern" in log


USER_ERRORS = {
    "both kinds of flags": (
        lambda root: ["--train", str(root), "--val-json", "val.json"],
        "--val-json: expected this flag only without --train",
    ),
    "a folder that does not exist": (
        lambda root: ["--train", f"{root}/none"],
        r"none' does not exist",
    ),
    "no data set": (lambda root: ["--train", str(root / "JPEGImages")], "no annotations; looked"),
    "no training images": (lambda root: ["--val", str(root)], "--val is given without --train"),
    "an unknown class": (
        lambda root: ["--train", str(root), "--val", str(yolo_of_birds(root.parent))],
        "expected a class of .*, got 'bird'",
    ),
}


def yolo_of_birds(folder):
    return yolo_set(folder / "birds", "train: images/train\nval: images/val\nnames: [cat, bird]\n")


@pytest.mark.parametrize("case", USER_ERRORS)
def test_an_unusable_data_set_gives_one_line_and_nothing_is_written(
    case, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    make, message = USER_ERRORS[case]
    voc_set(tmp_path / "voc")
    args = [*CONFIG, *make(tmp_path / "voc"), *SMALL, f"train.output_dir={tmp_path}/run"]
    assert main(args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
    assert not (tmp_path / "run").exists()


def test_the_error_for_too_many_faults_names_the_source(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    root = voc_set(tmp_path / "voc")
    boxes = [("cat", 3, 3, 0, 9)] * 20 + [("cat", 10, 20, 30, 15)] * 20
    write_text(root / "Annotations" / "0.xml", voc_text(boxes, name="0.jpg"))
    args = [*CONFIG, "--train", str(root), *SMALL, f"train.output_dir={tmp_path}/run"]
    assert main(args) == 2
    error = capsys.readouterr().err
    assert "20 faults (box without size 20)" in error and "0.xml, object 1: " in error
    assert not (tmp_path / "run").exists()
    assert main([*args[:4], "--max-faults", "20", "--preview", "1", *args[4:]]) == 0
    assert Image.open(next((tmp_path / "run" / "preview").glob("*.png"))).size[0] > 64
