"""The command on files, as a user runs it, and what it says of wrong ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ranking_det.evaluation.command_line import main
from tests.evaluation.cases import NAMES, A, B, ground_truth, result, write

ROOT = Path(__file__).parents[2]
BOX, FAR = [10, 10, 40, 40], [100, 100, 60, 60]
COCO = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
LVIS = [*COCO, "APr", "APc", "APf"]


@pytest.fixture
def files(tmp_path):
    """Of a detection that only COCO's rules call wrong, and one that is right."""
    results = [result(2, A, FAR, 0.9), result(1, A, BOX, 0.8)]
    return {
        "--ground-truth": write(tmp_path / "gt.json", ground_truth((1, A, BOX), (1, B, FAR))),
        "--results": write(tmp_path / "res.json", results),
        "--output": str(tmp_path / "out.json"),
        "--iou-type": "bbox",
    }


def arguments(rules, files):
    return [rules, *(part for pair in files.items() for part in pair)]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_metrics_are_written_in_percent_by_the_rules_asked_for(files, iou_type, capsys):
    files["--iou-type"] = iou_type
    for rules, names, rare in (("lvis", LVIS, 100), ("coco", COCO, 50)):
        assert main(arguments(rules, files)) == 0
        found = json.loads(Path(files["--output"]).read_text())
        assert list(found) == names
        assert found["AP"] == pytest.approx(rare / 2)
        assert found["APs"] is None  # JSON has no NaN
        said = capsys.readouterr().out
        assert "gt.json: LVIS format, 2 images, 2 objects, 4 categories" in said
        assert f"\nAP    {rare / 2:7.3f}\n" in said
    assert found == json.loads(Path(files["--output"]).read_text())
    assert main([*arguments("coco", files), "--library", "pycocotools"]) == 0
    assert json.loads(Path(files["--output"]).read_text()) == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize(("count", "name"), [(1230, "LVIS v0.5"), (1203, "LVIS v1")])
def test_both_versions_of_lvis_are_known_by_name(files, tmp_path, count, name, capsys):
    content = ground_truth((1, A, BOX))
    for i in range(10, 10 + count - len(NAMES)):
        content["categories"].append({"id": i, "name": f"class {i}", "frequency": "r"})
    if name == "LVIS v1":
        for image in content["images"]:
            image["coco_url"] = "http://x.org/val2017/" + image.pop("file_name")
    files["--ground-truth"] = write(tmp_path / "gt.json", content)
    assert main(arguments("lvis", files)) == 0
    assert f"{name}, 2 images, 1 objects, {count:,} categories" in capsys.readouterr().out


def edit(section, index, **changes):
    def do(content):
        entry = (content if section is None else content[section])[index]
        entry.update(changes)
        for key in [key for key, value in changes.items() if value is ...]:
            del entry[key]
        return content

    return do


GT, RES = "--ground-truth", "--results"
FAULTS = {
    "results of another image": (RES, edit(None, 1, image_id=7), "result[1]: has 'image_id' 7, w"),
    "another category": (RES, edit(None, 0, category_id=1), "has 'category_id' 1, which is no cat"),
    "no score": (RES, edit(None, 0, score=...), "res.json: result[0]: has no 'score'"),
    "a score that is none": (RES, edit(None, 0, score="high"), "has 'score' 'high', which is no f"),
    "no box": (RES, edit(None, 0, bbox=...), "result[0]: has no 'bbox'"),
    "half a box": (RES, edit(None, 0, bbox=[1, 2]), "needs 4 finite numbers x, y, width, height"),
    "no list": (RES, lambda content: {"annotations": content}, "must hold a list of results, got"),
    "no result": (RES, lambda content: [3], "result[0]: must be an object, got 3"),
    "no annotations": (GT, lambda content: {"images": []}, "gt.json: has no list 'categories'"),
    "no box of an object": (GT, edit("annotations", 1, bbox=...), "annotations[1]: has no 'bbox'"),
    "a strange object": (GT, edit("annotations", 1, category_id=77), "has 'category_id' 77, which"),
    "the same id twice": (GT, edit("annotations", 1, id=1), "1 ids of 'annotations' are not uniq"),
    "no frequency": (GT, edit("categories", 0, frequency=...), "categories[0]: has no 'frequency'"),
    "a wrong frequency": (GT, edit("categories", 0, frequency="x"), "has 'frequency' 'x', not 'r'"),
    "a file of COCO": (GT, edit("images", 0, neg_category_ids=...), "images[0]: has no 'neg_cate"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_faulty_file_is_one_line_and_leaves_nothing(files, case, capsys):
    flag, change, message = FAULTS[case]
    path = Path(files[flag])
    write(path, change(json.loads(path.read_text())))
    check_refused(files, message, capsys)


def check_refused(files, message, capsys):
    output = Path(files["--output"])
    before = {path: path.read_bytes() for path in output.parent.glob("*") if path.is_file()}
    assert main(arguments("lvis", files)) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1 and not said.out
    assert said.err.startswith("python -m ranking_det.evaluation: error: ")
    assert message in said.err
    assert before == {path: path.read_bytes() for path in output.parent.glob("*") if path.is_file()}


@pytest.mark.parametrize("flag", [GT, RES])
@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "does not exist"), ("[{", "no valid JSON"), ("\xff", "no valid JSON")],
)
def test_a_file_that_is_missing_or_no_json_is_named(files, flag, text, message, capsys):
    path = Path(files[flag])
    path.unlink() if text is None else path.write_text(text)
    check_refused(files, message, capsys)
    files[flag] = str(path.parent)
    check_refused(files, "is a folder, not a file", capsys)


def test_masks_need_masks_of_the_right_size(files, tmp_path, capsys):
    files["--iou-type"] = "segm"
    results = [result(1, A, BOX, 0.8)]
    for change in ({"size": [100, 200]}, {"counts": [1, 2]}):
        changed = [results[0] | {"segmentation": results[0]["segmentation"] | change}]
        files["--results"] = write(tmp_path / "res.json", changed)
        check_refused(files, "of the image's [height, width] [200, 200], got", capsys)
    polygon = results[0] | {"segmentation": [[1, 1, 5, 1, 5, 5]]}
    files["--results"] = write(tmp_path / "res.json", [polygon])
    check_refused(files, "result[0]: 'segmentation' must be an object, got [[1, 1", capsys)
    content = ground_truth((1, A, BOX, {"segmentation": []}))
    files["--ground-truth"] = write(tmp_path / "gt.json", content)
    check_refused(files, "no annotation has a 'segmentation'", capsys)


@pytest.mark.parametrize(
    ("place", "message"),
    [("nowhere/out.json", "is no folder that can"), (".", "is a folder"), ("gt.json", "an input")],
)
def test_an_output_that_cannot_be_is_told_before_the_evaluation(
    files, tmp_path, place, message, capsys
):
    files["--output"] = str(tmp_path / place)
    check_refused(files, message, capsys)


def test_it_is_a_command_of_the_package(files):
    command = [sys.executable, "-W", "ignore", "-m", "ranking_det.evaluation"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments("lvis", files)], env=environment, cwd=ROOT, capture_output=True
    )
    assert done.returncode == 0 and not done.stderr
    assert json.loads(Path(files["--output"]).read_text())["AP"] == pytest.approx(50)
