"""The command on files, as a user runs it, and what it says of wrong ones."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ranking_det.evaluation.command_line import main
from tests.evaluation.cases import NAMES, A, B, ground_truth, mask, result, write

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


def test_crowds_are_not_counted_as_objects(files, tmp_path, capsys, caplog):
    bare, crowd = {"segmentation": None}, {"iscrowd": 1}
    objects = [(1, A, BOX), (1, A, FAR, bare), (2, A, BOX, crowd), (2, A, FAR, crowd | bare)]
    files["--ground-truth"] = write(tmp_path / "gt.json", ground_truth(*objects))
    files["--iou-type"] = "segm"
    assert main(arguments("coco", files)) == 0
    assert "2 images, 2 objects and 2 crowds, 4 categories" in capsys.readouterr().out
    assert "Without a mask to be found by: 1 of 2 objects, 1 of 2 crowds" in caplog.text


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
    "results of another image": (RES, edit(None, 1, image_id=7), "result[1]: 'image_id' is 7, wh"),
    "another category": (RES, edit(None, 0, category_id=1), "'category_id' is 1, which is no cate"),
    "no score": (RES, edit(None, 0, score=...), "res.json: result[0]: has no 'score'"),
    "a score that is none": (RES, edit(None, 0, score="high"), "has 'score' 'high', which is no f"),
    "no box": (RES, edit(None, 0, bbox=...), "result[0]: has no 'bbox'"),
    "half a box": (RES, edit(None, 0, bbox=[1, 2]), "must be 4 numbers x, y, width, height, got"),
    "no list": (RES, lambda content: {"annotations": content}, "must hold a list of results, got"),
    "no result": (RES, lambda content: [3], "result[0]: must be an object, got 3"),
    "no annotations": (GT, lambda content: {"images": []}, "gt.json: has no list 'categories'"),
    "no box of an object": (GT, edit("annotations", 1, bbox=...), "annotations[1]: has no 'bbox'"),
    "a strange object": (
        GT,
        edit("annotations", 1, category_id=77),
        "'category_id' is 77, which i",
    ),
    "the same id twice": (GT, edit("annotations", 1, id=1), "1 ids of 'annotations' are not uniq"),
    "no frequency": (GT, edit("categories", 0, frequency=...), "categories[0]: has no 'frequency'"),
    "a wrong frequency": (
        GT,
        edit("categories", 0, frequency="x"),
        "'frequency' must be 'r', 'c' or",
    ),
    "a name that no file can hold": (
        GT,
        edit("categories", 0, name="\ud800"),
        r"categories[0]: the name '\ud800' holds what",
    ),
    "a score beyond floats": (RES, edit(None, 0, score=10**400), "result[0]: has 'score' 10000"),
    "a box beyond floats": (RES, edit(None, 0, bbox=[1, 2, 3, 10**400]), "'bbox' holds NaN or inf"),
    "a negative box": (
        GT,
        edit("annotations", 1, bbox=[5, 5, 3, -4]),
        "width or height of 'bbox' i",
    ),
    "a crowd or not": (
        GT,
        edit("annotations", 1, iscrowd=None),
        "'iscrowd' must be 0 or 1, got No",
    ),
    "an object to ignore": (GT, edit("annotations", 1, ignore=1), "'ignore' has no effect"),
    "an area of NaN": (
        GT,
        edit("annotations", 1, area=float("nan")),
        "'area' must be a finite num",
    ),
    "an area beyond floats": (
        GT,
        edit("annotations", 1, area=10**400),
        "'area' must be a finite n",
    ),
    "a list in a list": (
        GT,
        edit("images", 0, neg_category_ids=[[3]]),
        "_ids' holds [3], which is",
    ),
    "ids as text": (
        GT,
        edit("images", 0, not_exhaustive_category_ids=["3"]),
        "ids' holds '3', whi",
    ),
    "an id beyond floats": (
        GT,
        edit("images", 0, id=2**63),
        "'id' must be below 2**53, got 922337",
    ),
    "an image of no size": (
        GT,
        edit("images", 0, width=0),
        "'width' must be from 1 to 65535, got 0",
    ),
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
    return said.err


@pytest.mark.parametrize("flag", [GT, RES])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("[{", "no valid JSON"),
        ("\xff", "no valid JSON"),
        (f"[{'1' * 5000}]", "cannot be read as JSON (Exceeds the limit"),
        (gzip.compress(b"[]"), "cannot be read as JSON; it is compressed by gzip: unpack it"),
        ("[]".encode("utf-16"), "cannot be read as JSON; it is no text in UTF-8"),
    ],
)
def test_a_file_that_is_missing_or_no_json_is_named(files, flag, text, message, capsys):
    path = Path(files[flag])
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    check_refused(files, message, capsys)
    files[flag] = str(path.parent)
    check_refused(files, "is a folder, not a file", capsys)


def test_masks_need_masks_of_the_right_size(files, tmp_path, capsys):
    files["--iou-type"] = "segm"
    results = [result(1, A, BOX, 0.8)]
    counts = results[0]["segmentation"]["counts"]
    for change, message in (
        ({"size": [100, 200]}, "'size' must be the image's [height, width] [200, 200], got [100, "),
        ({"counts": [40000]}, "must be a string, as a result's RLE is compressed, got {'size"),
        ({"counts": ""}, "must be a list or a string, got ''"),
        ({"counts": counts[:-1]}, "result[1]: the RLE's 'counts' must decode to runs of 40000 pix"),
        ({"counts": counts[:-1] + "o"}, "result[1]: the RLE's 'counts' must decode to runs"),
        ({"counts": "no RLE"}, "result[1]: the RLE's 'counts' must decode to runs"),
        ({"counts": "é熊"}, "result[1]: the RLE's 'counts' must decode to runs"),
    ):
        changed = [results[0], results[0] | {"segmentation": results[0]["segmentation"] | change}]
        files["--results"] = write(tmp_path / "res.json", changed)
        check_refused(files, message, capsys)
    polygon = results[0] | {"segmentation": [[1, 1, 5, 1, 5, 5]]}
    files["--results"] = write(tmp_path / "res.json", [polygon])
    check_refused(files, "result[0]: 'segmentation' must be an object, got [[1, 1", capsys)
    content = ground_truth((1, A, BOX, {"segmentation": []}))
    files["--ground-truth"] = write(tmp_path / "gt.json", content)
    check_refused(files, "no annotation has a 'segmentation'", capsys)


SHORT = mask(BOX)["counts"][:-1]
BAD_MASKS = {
    "a point of NaN": ([[1, 1, 5, 1, 5, float("nan")]], "'segmentation'[0] must hold finite numb"),
    "a point far away": (
        [[1, 1, 5, 1, 1e9, 5]],
        "is more than an image away from its image of 200",
    ),
    "half a point": (
        [[1, 1, 5, 1, 5]],
        "has 5 numbers; a polygon has x and y of at least 3 points",
    ),
    "text": (
        "RLE",
        "must be a list of polygons, which are lists of numbers, or an RLE object, got",
    ),
    "a number": (3, "must be a list of polygons"),
    "no counts": ({"size": [200, 200]}, "'counts' must be a list or a string, got None"),
    "another size": (
        mask(BOX) | {"size": [100, 400]},
        "[height, width] [200, 200], got [100, 400]",
    ),
    "short counts": ({"size": [200, 200], "counts": [1, 2, 3]}, "integers that sum to the image's"),
    "large counts": ({"size": [200, 200], "counts": [50000]}, "integers that sum to the image's"),
    "cut short": ({"size": [200, 200], "counts": SHORT}, "must decode to runs of 40000 pixels"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_a_faulty_mask_of_an_object_is_one_line_where_masks_are_evaluated(
    files, tmp_path, case, capsys
):
    segmentation, message = BAD_MASKS[case]
    content = ground_truth((1, A, BOX), (1, B, FAR, {"segmentation": segmentation}))
    files["--ground-truth"] = write(tmp_path / "gt.json", content)
    assert main(arguments("lvis", files)) == 0
    Path(files["--output"]).unlink()
    files["--iou-type"] = "segm"
    capsys.readouterr()
    said = check_refused(files, message, capsys)
    assert "gt.json: annotations[1]: " in said


@pytest.mark.parametrize("limit", ["0", "-1", "1" + "0" * 30])
def test_a_limit_out_of_range_is_one_line(files, limit, capsys):
    files["--max-dets"] = limit
    check_refused(files, f"--max-dets must be an integer from 1 to 1,000,000, got {limit}", capsys)


def test_the_ap_of_classes_is_a_table(files, tmp_path, capsys):
    files["--per-class"] = str(tmp_path / "classes.csv")
    table = Path(files["--per-class"])
    for rules, rare in (("lvis", "100.000"), ("coco", "50.000")):
        assert main(arguments(rules, files)) == 0
        lines = table.read_text().split()
        assert lines == ["class,AP", f"rare,{rare}", "common,0.000", "frequent,", "absent,"]
    table.unlink(), Path(files["--output"]).unlink()
    capsys.readouterr()
    content = ground_truth((1, A, BOX))
    content["categories"][0]["name"] = NAMES[A]
    gt = files["--ground-truth"]
    write(Path(gt), content)
    check_refused(files, "2 categories have the name 'rare'; --per-class needs", capsys)
    files["--per-class"] = files["--output"]
    check_refused(files, "out.json is also --output", capsys)
    content["categories"] = content["categories"][1:2]
    write(Path(gt), content)
    files["--per-class"] = str(table)
    write(Path(files["--results"]), [result(1, A, BOX, 0.9)])
    assert main(arguments("lvis", files)) == 0
    assert table.read_text().split() == ["class,AP", "rare,100.000"]  # the only class


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere/out.json", "is no folder that can"),
        (".", "is a folder"),
        ("gt.json", "is also the ground"),
        ("pipe", "is a folder or device, not a file"),
        ("link/out.json", "is no folder that can"),
        ("n" * 255, "no file can have the name nnn"),
        ("pip", "pip.partial is a folder or device, not a file"),
        ("res", "res.partial is also the results"),
    ],
)
def test_an_output_that_cannot_be_is_told_before_the_evaluation(
    files, tmp_path, place, message, capsys
):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pip.partial").mkdir()
    files["--results"] = str(Path(files["--results"]).rename(tmp_path / "res.partial"))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    files["--output"] = str(tmp_path / place)
    check_refused(files, message, capsys)
    assert (tmp_path / "pipe").is_fifo()


def test_an_output_that_is_a_link_is_written_where_it_leads(files, tmp_path):
    (tmp_path / "there").mkdir()
    Path(files["--output"]).symlink_to(tmp_path / "there" / "metrics.json")
    for _ in range(2):  # at first there is nothing
        assert main(arguments("lvis", files)) == 0
        assert Path(files["--output"]).is_symlink()
        assert "AP" in json.loads((tmp_path / "there" / "metrics.json").read_text())
        (tmp_path / "there" / "metrics.json").write_text("of an earlier evaluation")


def test_it_is_a_command_of_the_package_without_a_word_of_its_libraries(files):
    # Both runs in one process, as starting one takes seconds.
    wrong = files | {"--results": "nowhere.json"}
    code = "import runpy, sys\n"
    for run in (wrong, files):
        code += f"sys.argv[1:] = {arguments('lvis', run)!r}\n"
        code += "try: runpy.run_module('ranking_det.evaluation', run_name='__main__')\n"
        code += "except SystemExit as end: print('status', end.code)\n"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONWARNINGS", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.startswith("status 2\n") and done.stdout.endswith("status 0\n")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "the result file 'nowhere.json' does not exist" in done.stderr
    assert json.loads(Path(files["--output"]).read_text())["AP"] == pytest.approx(50)
