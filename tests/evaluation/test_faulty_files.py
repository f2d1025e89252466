"""What the command says of wrong files, in one line."""

import gzip
import json
from pathlib import Path

import pytest

from ranking_det.evaluation.command_line import main
from tests.evaluation.cases import (
    BOX,
    FAR,
    A,
    B,
    arguments,
    check_refused,
    ground_truth,
    mask,
    result,
    write,
)


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


@pytest.mark.parametrize("flag", [GT, RES])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("[{", "no valid JSON"),
        ("\xff", "no valid JSON"),
        (f"[{'1' * 5000}]", "cannot be read as JSON (Exceeds the limit"),
        (gzip.compress(b"[]", mtime=0), "it is compressed by gzip: unpack it"),
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
