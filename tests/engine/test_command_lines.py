"""Invalid command lines of every program: one line, exit status 2, and no file touched."""

import hashlib
import importlib
import json
import os
import shlex
from pathlib import Path

import pytest
import torch

from ranking_det.data.shapes import prepare_shapes
from tests.cases import ROOT, run_function
from tests.data.formats.cases import (
    coco_content,
    labelme_file,
    make_image,
    via_file,
    via_polygon,
    via_region,
    voc_set,
    write_text,
    yolo_set,
)

PROGRAMS = {
    "train_net.py": "ranking_det.engine",
    "convert": "ranking_det.data.convert",
    "shapes": "ranking_det.data.shapes.__main__",
    "evaluation": "ranking_det.evaluation.command_line",
    "analysis": "ranking_det.analysis.__main__",
    "doctor": "ranking_det.doctor",
}
"""The module of each program in command_lines.txt; it has a function ``main(argv)``."""

EVALUATOR = "dataloader.evaluator._target_"
QUICK = "--config-file configs/shapes/quick"
WORDS = {
    "RS": f"{QUICK}/retinanet_atss_rs.py",
    "MASK": f"{QUICK}/mask_rs.py",
    "YAML": "--config-file configs/shapes/retinanet_atss_rs.yaml",
    "COCO": "--train-json coco/train.json --train-images coco/train --val-json coco/val.json "
    "--val-images coco/val",
    "RESULTS": "evaluation coco --iou-type bbox --ground-truth coco/val.json --results",
}
"""The abbreviations in command_lines.txt."""


REGISTERED_CONFIG = """
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..configs.shapes.quick.retinanet_atss_rs import dataloader, lr_multiplier, model, optimizer
from ..configs.shapes.quick.retinanet_atss_rs import train

OBJECT = {{"bbox": [1, 1, 20, 20], "bbox_mode": 1, "category_id": 77}}
IMAGE = {{"file_name": "coco/train/0.jpg", "image_id": 0, "height": 48, "width": 64}}
DatasetCatalog.register("odd", lambda: [{{**IMAGE, "annotations": [OBJECT]}}])
MetadataCatalog.get("odd").set(thing_classes=[str(i) for i in range(12)])
dataloader.{split}.dataset.names = "odd"
"""
"""A config that registers a data set with a class that does not exist."""


MODULE = """
from torch import nn

from detectron2.config import LazyCall as L

from ..configs.shapes.quick.retinanet_atss_rs import dataloader, lr_multiplier, optimizer, train

model = L(nn.Linear)(in_features=2, out_features=3)
"""
"""A config with a module that is not a detector."""


def read_lines():
    """Return the message of each command line of command_lines.txt."""
    text = Path(__file__).with_name("command_lines.txt").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row and not row.startswith("#")]
    return dict(zip(rows[::2], map(str.strip, rows[1::2]), strict=True))


LINES = read_lines()


def write_json(path, content):
    write_text(path, json.dumps(content))


def coco_file(path, change=None, names=("0.jpg", "1.jpg", "2.jpg")):
    """Write a COCO JSON file, optionally with changed content."""
    content = coco_content(names)
    write_json(path, content if change is None else change(content) or content)


def for_each_box(change):
    """Return a function that applies ``change`` to every box of a COCO JSON."""

    def change_all(content):
        for annotation in content["annotations"]:
            annotation["bbox"] = change(*annotation["bbox"])

    return change_all


def set_all(key, **values):
    """Return a function that sets values in every image or annotation."""
    return lambda content: [entry.update(values) for entry in content[key]] and None


def write_data_sets(root):
    """Write small data sets of each format, and damaged ones."""
    for split, first in (("train", 0), ("val", 3)):
        names = [f"{i}.jpg" for i in range(first, first + 3)]
        coco_file(root / "coco" / f"{split}.json", names=names)
        for i, name in enumerate(names):
            make_image(root / "coco" / split / name, seed=first + i)
    damaged = root / "bad"
    text = (root / "coco" / "train.json").read_text()
    write_text(damaged / "cut.json", text[: len(text) // 2])
    write_text(damaged / "empty.json", "")
    write_text(damaged / "page.json", "<!DOCTYPE html><title>Log in</title>")
    write_text(damaged / "deep.json", 100_000 * "[")
    (damaged / "latin1.json").write_bytes(text.replace("cat", "Bär").encode("latin-1"))
    write_json(damaged / "list.json", [1, 2, 3])
    for i in range(3):  # tools export the images next to the JSON files
        make_image(damaged / f"{i}.jpg", seed=i)
    coco_file(damaged / "no_objects.json", lambda content: content | {"annotations": []})
    coco_file(damaged / "no_categories.json", lambda content: content.pop("categories") and None)
    fractions = for_each_box(lambda x, y, w, h: [x / 64, y / 48, w / 64, h / 48])
    coco_file(damaged / "normalized.json", fractions)
    coco_file(damaged / "crooked.json", for_each_box(lambda x, y, w, h: [x, y, -w, h]))
    coco_file(damaged / "category.json", set_all("annotations", category_id=77))
    coco_file(damaged / "image.json", set_all("annotations", image_id=77))
    coco_file(damaged / "twice.json", set_all("images", id=1))
    names = [{"id": 7, "name": "Cat"}, {"id": 9, "name": "hound"}]
    coco_file(damaged / "names.json", lambda content: content | {"categories": names})
    result = {"image_id": 0, "category_id": 7, "bbox": [1, 1, 9, 9], "score": 0.5}
    for name, change in {
        "results": {},
        "results_negative": {"bbox": [1, 1, -9, 9]},
        "results_nan": {"score": float("nan")},
        "results_class": {"category_id": 77},
        "results_image": {"image_id": 77},
        "results_text": {"bbox": "1 1 9 9"},
    }.items():
        write_json(damaged / f"{name}.json", [result | change])
    voc_set(root / "voc")
    truncated = voc_set(root / "voc_cut")
    for path in (truncated / "Annotations").iterdir():
        path.write_text(path.read_text()[:90])
    without_images = voc_set(root / "voc_alone")
    for path in (without_images / "JPEGImages").iterdir():
        path.unlink()
    for name, label in {
        "yolo": "0 0.5 0.5 0.2 0.2",
        "yolo_pixels": "0 32 24 20 20",
        "yolo_class": "5 0.5 0.5 0.2 0.2",
        "yolo_words": "cat 0.5 0.5 0.2 0.2",
    }.items():
        for path in (yolo_set(root / name) / "labels").glob("*/*.txt"):
            path.write_text(label + "\n")
    yolo_set(root / "yolo_names", "train: images/train\nval: images/valid\nnc: 3\nnames: [cat]\n")
    via_file(root / "via_empty" / "via.json", [])
    triangle = via_region(via_polygon((1, 1), (20, 1), (1, 20)), label="cat")
    via_file(root / "mixed" / "via.json", [triangle])
    voc_set(root / "mixed" / "voc")
    labelme_file(root / "labelme_cut" / "1.json", [])
    write_text(root / "labelme_cut" / "2.json", '{"version": "5.2.0", "shapes": [')
    voc_set(root / "one", lists=["train"], per_split=1)


def write_configs(root):
    """Write faulty configs."""
    base = '_BASE_: "../configs/shapes/retinanet_atss_rs.yaml"\n'
    for name, text in {
        "syntax.py": "model = dict(\n",
        "raises.py": "model = 1 / 0\n",
        "exits.py": "import sys\n\nsys.exit(3)\n",
        "import.py": "from torchvison import models\n",
        "half.py": "model = dict(a=1)\n",
        "linear.py": MODULE,
        "registered.py": REGISTERED_CONFIG.format(split="train"),
        "registered_val.py": REGISTERED_CONFIG.format(split="test"),
        "empty.py": "",
        "empty.yaml": "",
        "tab.yaml": "SOLVER:\n\tMAX_ITER: 5\n",
        "key.yaml": f"{base}SOLVER:\n  MAXITER: 5\n",
        "type.yaml": f"{base}SOLVER:\n  MAX_ITER: many\n",
        "base.yaml": "_BASE_: nowhere.yaml\n",
        "json.yaml": '{"images": [], "annotations": [], "categories": []}\n',
        "voc.yaml": "<annotation></annotation>\n",
    }.items():
        write_text(root / "my" / name, text)
    (root / "my" / "latin1.yaml").write_bytes("# Größe\n".encode("latin-1"))


def write_weights(path):
    """Write the weights of the quick RetinaNet, in a process of its own: it imports Detectron2."""
    from ranking_det.engine.run_config import load_config

    model = load_config(f"{ROOT}/configs/shapes/quick/retinanet_atss_rs.py", []).model()
    torch.save({"model": model.state_dict()}, path)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with configs, data sets, weights and images, intact and damaged."""
    root = tmp_path_factory.mktemp("workspace")
    (root / "configs").symlink_to(ROOT / "configs")
    prepare_shapes(root / "datasets", train=6, val=2, size=64)
    write_data_sets(root)
    write_configs(root)
    run_function(write_weights, root / "model.pth")
    torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, root / "backbone.pth")
    torch.save(torch.nn.Linear(2, 2).state_dict(), root / "state.pth")
    state = torch.load(root / "model.pth", weights_only=True)["model"]
    state["head.cls_score.bias"][0] = torch.nan
    torch.save({"model": state}, root / "nan.pth")
    whole = (root / "model.pth").read_bytes()
    (root / "cut.pth").write_bytes(whole[: len(whole) // 2])
    make_image(root / "photos" / "a.jpg")
    write_text(root / "photos" / "page.jpg", "<!DOCTYPE html><title>Log in</title>")
    write_text(root / "photos" / "notes.txt", "nothing to see")
    (root / "photos" / "empty").mkdir()
    (root / "images.zip").write_bytes(b"PK\x03\x04")
    write_text(root / "file.txt", "a file")
    os.mkfifo(root / "fifo")
    (root / "taken" / "predictions.json").mkdir(parents=True)
    write_text(root / "run" / "metrics.json", '{"iteration": 5}\n')
    for name in ("locked.json", "locked.yaml"):
        write_text(root / name, "{}").chmod(0)
    (root / "locked").mkdir(mode=0o555)
    return root


def state_of(folder):
    """Return the type, size, time and content of all files and folders in a folder."""
    entries = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            status, digest = os.lstat(path), ""
            is_readable = os.path.isfile(path) and os.access(path, os.R_OK)
            if is_readable and not os.path.islink(path):
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
            entries[path] = (status.st_mode, status.st_size, status.st_mtime_ns, digest)
    return entries


def call_program(line, folder):
    """Run a command line in a folder; return its exit status."""
    os.chdir(folder)
    name, *arguments = shlex.split(" ".join(WORDS.get(word, word) for word in line.split(" ")))
    try:
        return importlib.import_module(PROGRAMS[name]).main(arguments)
    except SystemExit as stop:  # argparse's
        return stop.code


def check_rejection(line, message, workspace, datasets="datasets"):
    """Run a command line, and check its exit status, its message and the files."""
    environment = os.environ | {"DETECTRON2_DATASETS": str(workspace / datasets)}
    before = state_of(workspace)
    completed = run_function(call_program, line, workspace, environment=environment)
    after = state_of(workspace)
    assert completed.value == 2, completed
    # The usage and a list of faults are indented.
    rows = [row for row in completed.stderr.splitlines() if not row.startswith((" ", "usage: "))]
    assert len(rows) == 1 and message in rows[0], completed.stderr
    assert after == before


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_an_invalid_command_line_gives_one_line_and_touches_no_file(line, workspace):
    check_rejection(line, LINES[line], workspace)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--config-file my/linear.py", "model: expected a detector, which takes a list of images"),
        ("RS model.assigner._target_=torch.nn.ReLU", "assigner: expected a module that is called"),
        ("RS model.inference._target_=torch.nn.ReLU", "the layer 'inference' of the model fails:"),
        (
            f"RS {EVALUATOR}=torch.nn.ReLU",
            "dataloader.evaluator: expected a function or class that",
        ),
        (f"RS {EVALUATOR}=detectron2.evaluation.SemSegEvaluator", "dataloader.evaluator cannot be"),
        (
            f"RS COCO {EVALUATOR}=detectron2.evaluation.SemSegEvaluator",
            "dataloader.evaluator canno",
        ),
        (
            "RS COCO dataloader.train.mapper._target_=torch.nn.ReLU",
            "dataloader.train.mapper: the data loader fails: relu(): argument 'input' (position 1)",
        ),
        (
            "RS --train voc dataloader.evaluator.tasks=[kpt]",
            "tasks: expected bbox or segm, got kpt",
        ),
    ],
)
@pytest.mark.parametrize("datasets", ["datasets", "none"])
def test_a_wrong_part_is_rejected_before_the_data_are_written(
    options, message, datasets, workspace
):
    check_rejection(f"train_net.py {options}", message, workspace, datasets)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "train_net.py RS train.output_dir=locked",
        "train_net.py RS train.output_dir=locked/run",
        "train_net.py RS COCO --train-json locked.json",
        "train_net.py RS train.init_checkpoint=locked.json",
        "train_net.py --config-file locked.yaml",
        "convert voc --output locked/out",
        "convert locked.json --output out",
        "shapes --root locked",
        "RESULTS locked.json",
        "RESULTS bad/results.json --output locked/metrics.json",
        "analysis data voc --output locked",
    ],
)
def test_a_command_line_without_file_permissions_gives_one_line(line, workspace):
    if os.access(workspace / "locked.json", os.R_OK):
        pytest.skip("this user may read and write everything")
    check_rejection(line, "locked", workspace)
