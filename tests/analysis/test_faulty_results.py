"""Faulty results give one line in every analysis, and degenerate ones give defined numbers."""

import json
import math

import pytest

from ranking_det.analysis.__main__ import main
from ranking_det.visualization import detection_page
from tests.evaluation.cases import BOX, FAR, A, B, ground_truth, random_set, result, write

COMMANDS = ["detections", "olrp", "fit", "sweep", "report"]
GOOD = result(1, A, BOX, 0.8)
SMALL_MASK = {"size": [10, 10], "counts": "T3"}


def run(command, folder, content, results, iou_type="bbox"):
    """Run an analysis of COCO's format; return its exit status."""
    for image in content["images"]:
        image.pop("neg_category_ids", None), image.pop("not_exhaustive_category_ids", None)
    truth, path = write(folder / "gt.json", content), write(folder / "res.json", results)
    words = ["--ground-truth", truth, "--iou-type", iou_type, "--output", f"{folder}/out"]
    return main([command, *words, "--results", f"a={path}" if command == "report" else path])


@pytest.mark.parametrize(
    ("results", "iou_type", "message"),
    [
        ([result(9, A, BOX, 0.8)], "bbox", "'image_id': expected the id of an image"),
        ([result(1, 77, BOX, 0.8)], "bbox", "'category_id': expected the id of a category"),
        ([GOOD | {"score": math.nan}], "bbox", "'score': expected a finite number, got nan"),
        ([GOOD | {"score": -math.inf}], "bbox", "'score': expected a finite number, got -inf"),
        ([GOOD | {"segmentation": SMALL_MASK}], "segm", "10"),
        ([{k: v for k, v in GOOD.items() if k != "segmentation"}], "segm", "'segmentation'"),
        ({"a": 1}, "bbox", "expected a list of results, got dict"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_faulty_results_give_one_line_and_nothing_is_written(
    command, results, iou_type, message, tmp_path, capsys
):
    assert run(command, tmp_path, ground_truth((1, A, BOX)), results, iou_type) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("python -m ranking_det.analysis: error: ") and not printed.out
    assert message in printed.err and len(printed.err.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"gt.json", "res.json"}


def one_class(content):
    return content | {"categories": [c for c in content["categories"] if c["id"] == A]}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_warning_says_that_most_images_with_objects_have_no_result(
    command, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(detection_page, "draw_figure", no_picture)
    content = one_class(ground_truth(*[(i, A, BOX) for i in range(1, 10)], images=30))
    results = [result(i, A, BOX, 0.8) for i in range(1, 6)]  # images without objects do not count
    assert run(command, tmp_path, content, results) == 0
    assert "Warning" not in capsys.readouterr().out
    assert run(command, tmp_path, content, results[:4]) == 0
    warning = "res.json has no result for 5 of 9 images with objects: is this the ground truth of"
    assert capsys.readouterr().out.count(warning) == 1


DEGENERATE = {
    "no results": (ground_truth((1, A, BOX)), []),
    "no true positive": (ground_truth((1, A, BOX)), [result(1, A, FAR, 0.8)]),
    "no objects": (ground_truth((1, A, BOX, {"iscrowd": 1})), [GOOD, result(1, B, FAR, 0.5)]),
    "one image": (ground_truth((1, A, BOX), images=1), [GOOD]),
    "one class": (one_class(ground_truth((1, A, BOX), (2, A, FAR))), [GOOD]),
    "equal scores": (random_set(0, images=4)[0], [r | {"score": 1} for r in random_set(0, 4)[1]]),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("command", COMMANDS)
def test_degenerate_results_give_defined_numbers_or_one_line(
    command, case, tmp_path, capsys, monkeypatch
):
    # Drawing takes most of the time: here only the numbers of the figures count.
    monkeypatch.setattr(detection_page, "draw_figure", no_picture)
    status = run(command, tmp_path, *json.loads(json.dumps(DEGENERATE[case])))
    error = capsys.readouterr().err
    if command == "fit" and case in ("no results", "no true positive", "no objects", "one image"):
        expected = "at least 2 images" if case == "one image" else "match an object at IoU .5"
        assert status == 2 and expected in error and error.count("\n") == 1
        return
    assert status == 0, error
    written = tmp_path / "out" / "report.json" if command == "report" else tmp_path / "out"
    json.loads(written.read_text(), parse_constant=pytest.fail)  # no NaN or Infinity


def no_picture(name, title, plot, numbers, size=None):
    json.dumps(numbers, allow_nan=False)
    return detection_page.DetectionFigure(name, title, b"", numbers)
