"""The olrp and detections commands write the numbers of the detections in a result file."""

import json
from pathlib import Path

import pytest

from ranking_det.analysis.__main__ import main
from tests.evaluation.cases import BOX, FAR, A, B, ground_truth, result, write


@pytest.fixture
def files(tmp_path):
    content = ground_truth((1, A, BOX), (1, B, FAR))
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    results = [result(2, A, FAR, 0.9), result(1, A, BOX, 0.8)]
    return {
        "--ground-truth": write(tmp_path / "gt.json", content),
        "--results": write(tmp_path / "res.json", results),
        "--iou-type": "bbox",
        "--output": str(tmp_path / "out.json"),
    }


def run(files, command="olrp"):
    return main([command, *(part for pair in files.items() for part in pair)])


both_commands = pytest.mark.parametrize("command", ["olrp", "detections"])


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_errors_are_written_in_percent_and_the_thresholds_as_scores(files, iou_type, capsys):
    files["--iou-type"] = iou_type
    assert run(files) == 0
    numbers = json.loads(Path(files["--output"]).read_text())
    # Class A: the best prefix has a false and a true positive; class B is not detected.
    assert numbers.pop("classes") == {
        "rare": {"oLRP": 50, "threshold": 0.8},
        "common": {"oLRP": 100, "threshold": None},
        "frequent": {"oLRP": None, "threshold": None},
        "absent": {"oLRP": None, "threshold": None},
    }
    assert numbers == {
        **{"oLRP": 75, "oLRPLoc": 0, "oLRPFP": 50, "oLRPFN": 50},
        **{"oLRPs": None, "oLRPm": 75, "oLRPl": None},
    }
    printed = capsys.readouterr().out
    assert "COCO format, 2 images, 2 objects" in printed and "\noLRP     75.000\n" in printed


def test_the_fields_of_lvis_in_the_ground_truth_select_its_rules(files):
    write(Path(files["--ground-truth"]), ground_truth((1, A, BOX), (1, B, FAR)))
    assert run(files) == 0
    numbers = json.loads(Path(files["--output"]).read_text())
    assert numbers["oLRPFP"] == 0  # the class of the false positive was not annotated there
    assert numbers["classes"]["rare"]["oLRP"] == 0


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--ground-truth", {"images": []}, "gt.json"),
        ("--output", None, "is also the results"),
    ],
)
@both_commands
def test_faulty_files_give_one_line_and_write_nothing(files, command, flag, value, message, capsys):
    if value is None:
        files["--output"] = files["--results"]
    else:
        write(Path(files[flag]), value)
    before = {path: path.read_bytes() for path in Path(files["--results"]).parent.iterdir()}
    assert run(files, command) == 2
    captured = capsys.readouterr()
    first, *others = captured.err.splitlines()
    assert first.startswith("python -m ranking_det.analysis: error: ") and not captured.out
    assert message in captured.err and len(others) <= 1
    assert before == {path: path.read_bytes() for path in Path(files["--results"]).parent.iterdir()}


def test_no_detections_and_one_class_give_defined_numbers(files):
    content = json.loads(Path(files["--ground-truth"]).read_text())
    content["categories"] = [c for c in content["categories"] if c["id"] == A]
    content["annotations"] = content["annotations"][:1]
    write(Path(files["--ground-truth"]), content)
    write(Path(files["--results"]), [])
    assert run(files) == 0
    numbers = json.loads(Path(files["--output"]).read_text())
    assert (numbers["oLRP"], numbers["oLRPFN"]) == (100, 100)
    assert numbers["oLRPLoc"] is numbers["oLRPFP"] is None
    assert numbers["classes"] == {"rare": {"oLRP": 100, "threshold": None}}


def read_strictly(path):
    """Read JSON without NaN and infinities, which Python accepts."""
    return json.loads(Path(path).read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_all_numbers_are_written_overall_and_by_class(files, iou_type, capsys):
    files["--iou-type"] = iou_type
    assert run(files, "detections") == 0
    numbers = read_strictly(files["--output"])
    assert (numbers["rules"], numbers["iou_type"]) == ("coco", iou_type)
    assert numbers["score_threshold"] == 0.8
    overall, classes = numbers["overall"], numbers["classes"]
    assert list(classes) == ["rare", "common", "frequent", "absent"]
    # Class A has a false and a true positive, class B a missed object.
    assert overall["AP"] == pytest.approx(25) and overall["oLRP"] == 75
    assert overall["pooledAP"] == pytest.approx(100 * 0.5 * 51 / 101)
    assert (classes["rare"]["oLRP"], classes["rare"]["threshold"]) == (50, 0.8)
    point = {"true_positives": 1, "false_positives": 1, "num_objects": 1}
    point |= {"precision": 0.5, "recall": 1, "f1": pytest.approx(2 / 3)}
    assert classes["rare"]["at_threshold"] == point
    assert classes["rare"]["curve"]["threshold"] == [0.9, 0.8]
    correlation = {"count": 1, "pearson": None, "spearman": None, "kendall": None}
    assert overall["correlation"] == correlation
    assert overall["errors"]["background"] == {"count": 1, "AP": pytest.approx(25)}
    # Without its only object, class B has no AP; the mean is that of class A.
    assert overall["errors"]["missed"] == {"count": 1, "AP": pytest.approx(25)}
    assert classes["common"]["errors"]["missed"] == {"count": 1, "AP": None}
    assert classes["absent"]["AP"] is classes["absent"]["at_threshold"]["f1"] is None
    assert numbers["confusion_matrix"] == {
        "classes": [*classes, "background"],
        "counts": [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], *[[0] * 5] * 2, [1, 0, 0, 0, 0]],
    }
    printed = " ".join(capsys.readouterr().out.split())
    assert "AP50 lost: background 25.000" in printed and "score threshold 0.800" in printed


def test_a_score_threshold_selects_the_detections_that_count(files, capsys):
    assert run(files | {"--score-threshold": "0.85"}, "detections") == 0
    numbers = read_strictly(files["--output"])
    point = numbers["overall"]["at_threshold"]
    assert numbers["score_threshold"] == 0.85
    assert (point["true_positives"], point["false_positives"]) == (0, 1)
    assert run(files | {"--score-threshold": "2"}, "detections") == 0
    assert read_strictly(files["--output"])["overall"]["at_threshold"]["precision"] is None
    capsys.readouterr()
    assert run(files | {"--score-threshold": "nan"}, "detections") == 2
    assert "--score-threshold: expected a finite number, got nan" in capsys.readouterr().err


def test_all_numbers_of_one_image_with_one_class_are_written(files):
    content = json.loads(Path(files["--ground-truth"]).read_text())
    content |= {"images": content["images"][:1], "categories": [{"id": A, "name": "rare"}]}
    content["annotations"] = content["annotations"][:1]
    write(Path(files["--ground-truth"]), content)
    write(Path(files["--results"]), [result(1, A, BOX, 0.8)])
    assert run(files, "detections") == 0
    numbers = read_strictly(files["--output"])
    assert numbers["overall"]["AP"] == numbers["classes"]["rare"]["AP"] == pytest.approx(100)
    assert numbers["classes"]["rare"]["oLRP"] == 0
    assert numbers["overall"]["pooledAP"] == pytest.approx(100)
    assert numbers["confusion_matrix"]["counts"] == [[1, 0], [0, 0]]


def test_all_numbers_of_an_empty_file_are_defined(files):
    write(Path(files["--results"]), [])
    assert run(files, "detections") == 0
    numbers = read_strictly(files["--output"])
    assert numbers["score_threshold"] is None
    assert numbers["overall"]["pooledAP"] == numbers["overall"]["at_threshold"]["recall"] == 0
    assert numbers["overall"]["at_threshold"]["precision"] is None


def test_all_numbers_follow_the_rules_of_lvis_for_its_files(files):
    write(Path(files["--ground-truth"]), ground_truth((1, A, BOX), (1, B, FAR)))
    assert run(files, "detections") == 0
    numbers = read_strictly(files["--output"])
    assert numbers["rules"] == "lvis" and "APr" in numbers["overall"]
    # The class of the false positive was not annotated there.
    assert numbers["classes"]["rare"]["at_threshold"]["precision"] == 1
    assert numbers["overall"]["errors"]["background"]["count"] == 0


def test_overrides_are_not_accepted_without_a_config(files, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["olrp", *(part for pair in files.items() for part in pair), "a=1"])
    assert "unknown arguments: a=1" in capsys.readouterr().err
