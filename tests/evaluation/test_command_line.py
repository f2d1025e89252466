"""The evaluation command: metrics, tables, and errors about its arguments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ranking_det.evaluation.command_line import main
from tests.evaluation.cases import (
    BOX,
    FAR,
    NAMES,
    A,
    B,
    arguments,
    check_rejected,
    ground_truth,
    result,
    write,
)

ROOT = Path(__file__).parents[2]
COCO = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
LVIS = [*COCO, "APr", "APc", "APf"]
OLRP = ["oLRP", "oLRPLoc", "oLRPFP", "oLRPFN", "oLRPs", "oLRPm", "oLRPl"]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_metrics_of_the_chosen_rules_are_written_in_percent(files, iou_type, capsys):
    files["--iou-type"] = iou_type
    for rules, names, rare in (("lvis", LVIS, 100), ("coco", COCO, 50)):
        assert main(arguments(rules, files)) == 0
        values = json.loads(Path(files["--output"]).read_text())
        assert list(values) == names + OLRP
        assert values["AP"] == pytest.approx(rare / 2)
        assert values["APs"] is None  # JSON has no NaN
        printed = capsys.readouterr().out
        assert "gt.json: LVIS format, 2 images, 2 objects, 4 categories" in printed
        assert f"\nAP      {rare / 2:7.3f}\n" in printed
    assert values == json.loads(Path(files["--output"]).read_text())
    assert main([*arguments("coco", files), "--library", "pycocotools"]) == 0
    assert json.loads(Path(files["--output"]).read_text()) == pytest.approx(values, abs=1e-9)


def test_crowds_do_not_count_as_objects(files, tmp_path, capsys, caplog):
    no_mask, crowd = {"segmentation": None}, {"iscrowd": 1}
    objects = [(1, A, BOX), (1, A, FAR, no_mask), (2, A, BOX, crowd), (2, A, FAR, crowd | no_mask)]
    files["--ground-truth"] = write(tmp_path / "gt.json", ground_truth(*objects))
    files["--iou-type"] = "segm"
    assert main(arguments("coco", files)) == 0
    assert "2 images, 2 objects and 2 crowds, 4 categories" in capsys.readouterr().out
    assert "Without a mask, so never matched: 1 of 2 objects, 1 of 2 crowds" in caplog.text


@pytest.mark.parametrize(("count", "name"), [(1230, "LVIS v0.5"), (1203, "LVIS v1")])
def test_both_versions_of_lvis_are_recognized(files, tmp_path, count, name, capsys):
    content = ground_truth((1, A, BOX))
    for i in range(10, 10 + count - len(NAMES)):
        content["categories"].append({"id": i, "name": f"class {i}", "frequency": "r"})
    if name == "LVIS v1":
        for image in content["images"]:
            image["coco_url"] = "http://x.org/val2017/" + image.pop("file_name")
    files["--ground-truth"] = write(tmp_path / "gt.json", content)
    assert main(arguments("lvis", files)) == 0
    assert f"{name}, 2 images, 1 object, {count:,} categories" in capsys.readouterr().out


@pytest.mark.parametrize("limit", ["0", "-1", "1" + "0" * 30])
def test_max_dets_out_of_range_is_rejected_with_one_line(files, limit, capsys):
    files["--max-dets"] = limit
    message = f"--max-dets: expected an integer from 1 to 1,000,000, got {limit}"
    check_rejected(files, message, capsys)


def test_per_class_writes_the_ap_of_each_class_as_csv(files, tmp_path, capsys):
    files["--per-class"] = str(tmp_path / "classes.csv")
    table = Path(files["--per-class"])
    # By COCO's rules, the best detection of the class is a false positive: LRP is (0 + 1) / 2.
    for rules, rare in (("lvis", "100.000,0.000"), ("coco", "50.000,50.000")):
        assert main(arguments(rules, files)) == 0
        header, *lines = table.read_text().split()
        assert header == "class,AP,oLRP,threshold"
        others = ["common,0.000,100.000,", "frequent,,,", "absent,,,"]
        assert lines == [f"rare,{rare},0.800", *others]
    table.unlink(), Path(files["--output"]).unlink()
    capsys.readouterr()
    content = ground_truth((1, A, BOX), (1, B, FAR))
    content["categories"][0]["name"] = NAMES[A]
    gt = files["--ground-truth"]
    write(Path(gt), content)
    check_rejected(files, f"category {B} has the same name, 'rare'", capsys)
    files["--per-class"] = files["--output"]
    check_rejected(files, "out.json is also --output", capsys)
    content = ground_truth((1, A, BOX))
    content["categories"] = content["categories"][1:2]
    write(Path(gt), content)
    files["--per-class"] = str(table)
    write(Path(files["--results"]), [result(1, A, BOX, 0.9)])
    assert main(arguments("lvis", files)) == 0
    assert table.read_text().split() == [
        "class,AP,oLRP,threshold",
        "rare,100.000,0.000,0.900",  # a single class
    ]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere/out.json", "is not a writable folder"),
        (".", "is a folder"),
        ("gt.json", "is also the ground"),
        ("pipe", "is a folder or device, not a file"),
        ("link/out.json", "is not a writable folder"),
        ("n" * 255, "no file can have the name nnn"),
        ("pip", "pip.partial is a folder or device, not a file"),
        ("res", "res.partial is also the results"),
    ],
)
def test_an_output_that_cannot_be_written_is_rejected_before_evaluation(
    files, tmp_path, place, message, capsys
):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pip.partial").mkdir()
    files["--results"] = str(Path(files["--results"]).rename(tmp_path / "res.partial"))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    files["--output"] = str(tmp_path / place)
    check_rejected(files, message, capsys)
    assert (tmp_path / "pipe").is_fifo()


def test_an_output_that_is_a_symlink_is_written_to_its_target(files, tmp_path):
    (tmp_path / "there").mkdir()
    Path(files["--output"]).symlink_to(tmp_path / "there" / "metrics.json")
    for _ in range(2):  # the first time, the target does not exist
        assert main(arguments("lvis", files)) == 0
        assert Path(files["--output"]).is_symlink()
        assert "AP" in json.loads((tmp_path / "there" / "metrics.json").read_text())
        (tmp_path / "there" / "metrics.json").write_text("from an earlier evaluation")


def test_the_module_runs_as_a_command_without_warnings_from_libraries(files):
    # Both runs share one process, because starting one takes seconds.
    missing = files | {"--results": "nowhere.json"}
    code = "import runpy, sys\nsys.argv[0] = '-m'\n"
    for run in (missing, files):
        code += f"sys.argv[1:] = {arguments('lvis', run)!r}\n"
        code += "try: runpy.run_module('ranking_det.evaluation', run_name='__main__')\n"
        code += "except SystemExit as end: print('status', end.code)\n"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONWARNINGS", None)
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert process.stdout.startswith("status 2\n") and process.stdout.endswith("status 0\n")
    assert len(process.stderr.splitlines()) == 1, process.stderr
    assert "the result file 'nowhere.json' does not exist" in process.stderr
    assert json.loads(Path(files["--output"]).read_text())["AP"] == pytest.approx(50)


def test_notes_on_the_ground_truth_are_printed_and_the_fault_limit_holds(files, tmp_path, capsys):
    objects = [(1, A, BOX), (1, B, FAR), *[(2, B, [5, 5, 0, 9])] * 11]
    files["--ground-truth"] = write(tmp_path / "gt.json", ground_truth(*objects))
    assert main(arguments("lvis", files)) == 2
    assert (
        "11 faults (box without size 11); --max-faults 11 accepts this (13 objects"
        in capsys.readouterr().err
    )
    assert main([*arguments("lvis", files), "--max-faults", "11"]) == 0
    printed = capsys.readouterr().out
    assert (
        "LVIS format, 2 images, 2 objects, 4 categories\nleft out: box without size: 11\n"
        in printed
    )
    assert main([*arguments("lvis", files), "--max-faults", "11", "--strict"]) == 2
    assert "11 faults (box without size 11); --strict refuses this" in capsys.readouterr().err


def test_the_flag_crowds_are_objects_evaluates_crowds_as_objects(files, tmp_path, capsys):
    objects = [(1, A, BOX, {"iscrowd": 1}), (1, A, FAR)]
    files["--ground-truth"] = write(tmp_path / "gt.json", ground_truth(*objects))
    assert main(arguments("coco", files)) == 0
    assert "1 object and 1 crowd" in capsys.readouterr().out
    assert main([*arguments("coco", files), "--crowds-are-objects"]) == 0
    printed = capsys.readouterr().out
    assert "2 objects, 4 cat" in printed and "noted: crowd, treated as an object: 1" in printed


def test_image_sizes_are_needed_for_masks_but_not_for_boxes(files, tmp_path, capsys):
    content = ground_truth((1, A, BOX), (1, B, FAR))
    for image in content["images"]:
        del image["width"], image["height"]
    files["--ground-truth"] = write(tmp_path / "gt.json", content)
    assert main(arguments("lvis", files)) == 0
    assert json.loads(Path(files["--output"]).read_text())["AP"] == pytest.approx(50)
    files["--iou-type"] = "segm"
    assert main(arguments("lvis", files)) == 2
    assert "has no 'width'" in capsys.readouterr().err


def test_a_byte_order_mark_and_text_ids_are_accepted(files):
    for flag, key in (("--ground-truth", "images"), ("--results", None)):
        path = Path(files[flag])
        content = json.loads(path.read_text())
        for entry in content["annotations"] if key else content:
            entry["image_id"] = f"uuid-{entry['image_id']}"
        for entry in content["images"] if key else ():
            entry["id"] = f"uuid-{entry['id']}"
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert main(arguments("lvis", files)) == 0
    assert json.loads(Path(files["--output"]).read_text())["AP"] == pytest.approx(50)


def test_predictions_json_is_matched_by_the_names_of_images_and_classes(files, tmp_path, capsys):
    names = {A: "rare", B: "common"}
    predictions = {
        "images": [{"id": 1, "file_name": "photos/2.png"}, {"id": 2, "file_name": "1.png"}],
        "categories": [{"id": i, "name": names[old]} for i, old in enumerate((B, A))],
        "annotations": [
            {**result(1, 1, FAR, 0.9), "id": 1, "iscrowd": 0, "area": 3600},
            {**result(2, 1, BOX, 0.8), "id": 2, "iscrowd": 0, "area": 1600},
        ],
    }
    assert main(arguments("lvis", files)) == 0
    expected = json.loads(Path(files["--output"]).read_text())
    files["--results"] = write(tmp_path / "predictions.json", predictions)
    assert main(arguments("lvis", files)) == 0
    assert json.loads(Path(files["--output"]).read_text()) == expected
    predictions["images"][0]["file_name"] = "photos/3.png"
    write(tmp_path / "predictions.json", predictions)
    capsys.readouterr()
    check_rejected(files, "the ground truth has no entry for the image '3.png'", capsys)
