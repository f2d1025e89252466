"""The data report: ``python -m ranking_det.analysis data``."""

import csv
import json
import os
import re

import pytest

from ranking_det.analysis.__main__ import main
from ranking_det.engine.run_config import load_config
from tests.data.formats.cases import (
    coco_content,
    coco_set,
    make_image,
    voc_set,
    voc_text,
    write_json,
    write_text,
    yolo_set,
)

QUICK = "configs/shapes/quick/retinanet_atss_rs.py"


def describe(*arguments, output):
    """Run the command; return the content of data.json and of data.html."""
    assert main(["data", *map(str, arguments), "--output", str(output)]) == 0
    return json.loads((output / "data.json").read_text()), (output / "data.html").read_text()


def test_the_report_on_a_folder_counts_images_objects_and_faults(tmp_path, capsys):
    root = voc_set(tmp_path / "voc", per_split=3)
    # An object without a box, which the format's reader leaves out, and a box without a size.
    boxes = [("cat", 10, 20, 30, 15), ("cat", 5, 5, 0, 0)]
    text = voc_text(boxes, name="0.jpg")
    text = text.replace("<object>", "<object><name>x</name></object><object>", 1)
    write_text(root / "Annotations" / "0.xml", text)
    numbers, page = describe(root, output=tmp_path / "out")
    train, val = numbers["splits"]["train"], numbers["splits"]["val"]
    assert (train["images"], train["objects"], val["objects"]) == (3, 5, 6)
    counts = {row["name"]: (row["objects"], row["images"]) for row in train["classes"]}
    assert counts == {"cat": (3, 3), "dog": (2, 2)}
    assert train["sizes"]["maximum"] == pytest.approx((64 * 48) ** 0.5)
    assert numbers["positives"] is None and "--config-file" in numbers["positives_note"]
    assert page.count("<img ") == 6 and "The train images" in page
    with (tmp_path / "out" / "data_faults.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == [fault["kind"] for fault in numbers["faults"]]
    assert len(rows) == 2 and all(row["kind"] in page for row in rows)
    assert numbers["faults"][1]["file_name"] == "JPEGImages/0.jpg"
    printed = capsys.readouterr().out
    assert (
        "left out because of annotation problems: 2." in printed
        and "Fewer than 10 objects" in printed
    )
    assert printed.splitlines()[:-1] == numbers["advice"]


def test_names_are_escaped_and_the_page_loads_no_other_files(tmp_path):
    script = "<script>alert(1)</script>"
    root = yolo_set(
        tmp_path / "a", f"train: images/train\nnames: ['{script}', '$a$ & {{{{b}}}}']\n"
    )
    make_image(root / "images" / "train" / "<b>.jpg", seed=5)
    write_text(root / "labels" / "train" / "<b>.txt", "0 0.5 0.5 0.2 0.2\n")
    invalid_utf8 = os.fsdecode(b"\xff")
    make_image(root / "images" / "train" / f"{invalid_utf8}.jpg", seed=6)
    write_text(root / "labels" / "train" / f"{invalid_utf8}.txt", "0 0.5 0.5 0.2 0.2\n")
    numbers, page = describe(root, "--split", "train", output=tmp_path / "out")
    assert [row["name"] for row in numbers["splits"]["train"]["classes"]][0] == script
    assert "&lt;script&gt;alert(1)" in page and "&lt;b&gt;.jpg" in page
    assert page.count("<img ") == 4 and "train/?.jpg" in page
    assert "$a$ &amp; {{b}}" in page
    assert "<script" not in page and "<b>.jpg" not in page
    assert not re.findall(r"(?:https?:)?//|@import|url\(", re.sub(r"base64,[^\"]+", "", page))


@pytest.mark.parametrize("place", ["no folder", "another folder", "one of two"])
def test_a_coco_json_is_reported_with_all_some_or_none_of_its_images(place, tmp_path):
    write_json(tmp_path / "a" / "train.json", coco_content(["0.jpg", "1.jpg"]))
    arguments = [tmp_path / "a" / "train.json"]
    if place != "no folder":
        arguments += ["--images", tmp_path / "images"]
        for name in ("0.jpg", "1.jpg")[: 1 + (place == "another folder")]:
            make_image(tmp_path / "images" / name, seed=int(name[0]))
    numbers, page = describe(*arguments, output=tmp_path / "out")
    assert numbers["splits"]["all"]["objects"] == 4
    expected = {"no folder": 0, "one of two": 1, "another folder": 2}
    assert page.count("<img ") == expected[place]
    warning = {
        "no folder": "no folder has its images ",
        "one of two": "Training would reject these images: ",
        "another folder": "Fewer than 10 objects",
    }
    assert warning[place] in numbers["advice"][0]
    assert "/1.jpg" in numbers["advice"][0] or place != "one of two"


def test_a_config_adds_counts_of_objects_without_a_positive(tmp_path, capsys):
    root = coco_set(tmp_path / "a")
    boxes = {"cat": (10, 20, 30, 15), "dot": (50, 5, 2, 2)}
    write_json(root / "train" / "_annotations.coco.json", coco_content(["train0.jpg"], boxes))
    arguments = [root, "--config-file", QUICK, "model.assigner.topk=3"]
    numbers, page = describe(*arguments, output=tmp_path / "out")
    positives = numbers["positives"]
    assert (positives["split"], positives["images"], positives["objects"]) == ("train", 1, 2)
    assert [part["width"] for part in positives["inputs"]] == [64, 96, 128, 192, 256]
    shares = [part["missed"] / 2 for part in positives["inputs"]]
    assert shares[0] > 0 and "The model gets no training signal from them" in page
    assert numbers["splits"]["train"]["input_sizes"]["maximum"] == pytest.approx(2 * 450**0.5)
    assert any(line.startswith("At 128 × 96 px") for line in numbers["advice"])
    # A second run replaces the page of the first.
    describe(root, "--split", "val", output=tmp_path / "out")
    assert "no training signal" not in (tmp_path / "out" / "data.html").read_text()


def test_a_saved_config_with_a_component_of_the_user_needs_trust_config(tmp_path, capsys):
    make_image(tmp_path / "0.jpg")
    content = coco_content(["0.jpg"], {"cat": (10, 20, 30, 15)})
    write_json(tmp_path / "train.json", content)
    saved = tmp_path / "config.yaml"
    load_config(QUICK, ["model.assigner._target_=examples.topk_iou.TopKIoU"]).save(saved)
    arguments = [tmp_path / "train.json", "--config-file", saved]
    assert main(["data", *map(str, arguments), "--output", str(tmp_path / "out")]) == 2
    assert "got 'examples.topk_iou.TopKIoU'; if you trust" in capsys.readouterr().err
    numbers, _ = describe(*arguments, "--trust-config", output=tmp_path / "out")
    assert numbers["positives"]["objects"] == 1


def test_the_model_is_built_with_the_classes_of_the_data(tmp_path):
    make_image(tmp_path / "0.jpg")
    boxes = {f"class {i}": (i, i, 20 + i, 20) for i in range(20)}  # the config has 12 classes
    write_json(tmp_path / "train.json", coco_content(["0.jpg"], boxes))
    config = QUICK.replace("atss", "paa")  # an assigner that uses the scores of the classes
    arguments = [tmp_path / "train.json", "--config-file", config]
    numbers, _ = describe(*arguments, output=tmp_path / "out")
    assert numbers["positives"]["objects"] == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "'missing' does not exist"),
        (["a", "--split", "test"], "--split test: a has train, val"),
        (["a", "--images", "a"], "--images is for a COCO or LVIS JSON, but DATA is a"),
        (["c.json", "--images", "nowhere"], "the image folder 'nowhere' does not exist"),
        (["a", "model.num_classes=3"], "model.num_classes=3: overrides need --config-file FILE"),
        (["a", "--config-file", "no.py"], "no.py"),
        (["a", "--max-faults", "-1"], "--max-faults: expected at least 0, got -1"),
        (["a", "--output", "c.json"], "--output: expected a writable folder, got 'c.json'"),
        (["a", "--output", "a"], "--output: expected a folder other than that of DATA, got 'a'"),
        (["c.json", "--output", "."], "--output: expected a folder other than that of DATA, got"),
        (["outside.json", "--images", "a"], "1 of 1 images lies outside the image folder 'a'"),
        (["boxes.json", "--images", "a"], "boxes.json: 12 of 12 boxes "),
    ],
)
def test_user_mistakes_give_one_line_and_exit_status_2(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    voc_set(tmp_path / "a")
    write_json(tmp_path / "c.json", coco_content(["0.jpg"]))
    write_json(tmp_path / "outside.json", coco_content(["../0.jpg"]))
    shares = {str(i): (0.1, 0.1, 0.4, 0.05 * (i + 1)) for i in range(12)}
    write_json(tmp_path / "boxes.json", coco_content(["0.jpg"], shares))
    assert main(["data", "--output", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("python -m ranking_det.analysis: error: ")
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_report_includes_images_outside_the_folder_with_allow_outside(tmp_path):
    make_image(tmp_path / "0.jpg")
    (tmp_path / "a").mkdir()
    write_json(tmp_path / "outside.json", coco_content(["../0.jpg"]))
    arguments = [tmp_path / "outside.json", "--images", tmp_path / "a", "--allow-outside"]
    numbers, _ = describe(*arguments, output=tmp_path / "out")
    assert numbers["splits"]["all"]["images"] == 1


def test_the_parser_rejects_unknown_arguments(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["data", "x", "--output", "y", "--confg", "z"])
    assert "unknown arguments: --confg" in capsys.readouterr().err
