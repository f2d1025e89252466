"""The evaluation command rejects faulty files with a one-line message."""

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
    check_rejected,
    ground_truth,
    mask,
    result,
    write,
)


def edit(section, index, **changes):
    def change(content):
        entry = (content if section is None else content[section])[index]
        entry.update(changes)
        for key in [key for key, value in changes.items() if value is ...]:
            del entry[key]
        return content

    return change


GT, RESULTS = "--ground-truth", "--results"
FAULTS = {
    "a result for an unknown image": (
        RESULTS,
        edit(None, 1, image_id=7),
        "result[1]: 'image_id': expected the id of an image in the ground truth, got 7",
    ),
    "an unknown category": (
        RESULTS,
        edit(None, 0, category_id=1),
        "'category_id': expected the id of a category in the ground truth, got 1",
    ),
    "no score": (RESULTS, edit(None, 0, score=...), "res.json: result[0]: has no 'score'"),
    "a score of text": (
        RESULTS,
        edit(None, 0, score="high"),
        "'score': expected a finite number, got 'high'",
    ),
    "no box": (RESULTS, edit(None, 0, bbox=...), "result[0]: has no 'bbox'"),
    "half a box": (
        RESULTS,
        edit(None, 0, bbox=[1, 2]),
        "'bbox': expected 4 numbers x, y, width, height, got [1, 2]",
    ),
    "not a list": (
        RESULTS,
        lambda content: {"results": content},
        "res.json: expected a list of results, got dict",
    ),
    "predictions without images": (
        RESULTS,
        lambda content: {"annotations": content},
        "res.json: has no 'categories', which COCO and LVIS files have",
    ),
    "a result of a number": (RESULTS, lambda content: [3], "result[0]: expected an object, got 3"),
    "no categories": (GT, lambda content: {"images": []}, "gt.json: has no 'categories'"),
    "no annotations": (
        GT,
        lambda content: {**content, "annotations": []},
        "gt.json: has no 'annotations', so there is no AP",
    ),
    "an object of an unknown category": (
        GT,
        edit("annotations", 1, category_id=77),
        "'category_id': expected the id of a category in the file, got 77",
    ),
    "the same id twice": (GT, edit("images", 1, id=1), "another image has the id 1"),
    "no frequency": (
        GT,
        edit("categories", 0, frequency=...),
        "categories[0]): has no 'frequency'",
    ),
    "a wrong frequency": (
        GT,
        edit("categories", 0, frequency="x"),
        "'frequency': expected 'r', 'c' or 'f', got 'x'",
    ),
    "a name that no file can hold": (
        GT,
        edit("categories", 0, name="\ud800"),
        r"categories[0]): 'name': expected characters that UTF-8 can encode, got '\ud800'",
    ),
    "a score beyond floats": (
        RESULTS,
        edit(None, 0, score=10**400),
        "result[0]: 'score': expected a finite number, got 10000",
    ),
    "a box beyond floats": (
        RESULTS,
        edit(None, 0, bbox=[1, 2, 3, 10**400]),
        "'bbox': expected finite numbers, got [1, 2, 3, 10",
    ),
    "a result of negative size": (
        RESULTS,
        edit(None, 0, bbox=[1, 2, -3, 4]),
        "result[0]: 'bbox': expected a width and height of at least 0, got [1, 2, -3, 4]",
    ),
    "a crowd of 2": (GT, edit("annotations", 1, iscrowd=2), "'iscrowd': expected 0 or 1, got 2"),
    "a list in a list": (
        GT,
        edit("images", 0, neg_category_ids=[[3]]),
        "'neg_category_ids': expected ids of categories, got [3]",
    ),
    "ids as text": (
        GT,
        edit("images", 0, not_exhaustive_category_ids=["4"]),
        "'not_exhaustive_category_ids': expected ids of categories, got '4'",
    ),
    "an image of width 0": (
        GT,
        edit("images", 0, width=0),
        "'width': expected 1 to 65535, got 0",
    ),
    "a COCO file": (GT, edit("images", 0, neg_category_ids=...), "images[0]): has no 'neg_cate"),
    "a negative limit": ("--max-faults", None, "--max-faults: expected at least 0, got -1"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_faulty_file_gives_a_one_line_error_and_nothing_is_written(files, case, capsys):
    flag, change, message = FAULTS[case]
    if change is None:
        files[flag] = "-1"
    else:
        path = Path(files[flag])
        write(path, change(json.loads(path.read_text())))
    check_rejected(files, message, capsys)


@pytest.mark.parametrize("flag", [GT, RESULTS])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("[{", "invalid JSON"),
        ("\xff", "invalid JSON"),
        (f"[{'1' * 5000}]", "cannot be read as JSON (Exceeds the limit"),
        (gzip.compress(b"[]", mtime=0), "it is compressed by gzip; unpack it"),
        ("[]".encode("utf-16"), "cannot be read as JSON: it is not text in UTF-8"),
    ],
)
def test_a_missing_or_invalid_json_gives_a_one_line_error(files, flag, text, message, capsys):
    path = Path(files[flag])
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    check_rejected(files, message, capsys)
    files[flag] = str(path.parent)
    check_rejected(files, "is a folder, not a file", capsys)


def test_result_masks_must_be_compressed_rle_of_the_image_size(files, tmp_path, capsys):
    files["--iou-type"] = "segm"
    results = [result(1, A, BOX, 0.8)]
    counts = results[0]["segmentation"]["counts"]
    for change, message in (
        (
            {"size": [100, 200]},
            "'size': expected the image's [height, width] [200, 200], got [100, 200]",
        ),
        ({"counts": [40000]}, "'counts': expected a string (results are compressed), got {'size"),
        ({"counts": ""}, "'counts': expected a list or a string, got ''"),
        (
            {"counts": counts[:-1]},
            "result[1]: the RLE's 'counts': expected runs that sum to 40000 pixels",
        ),
        ({"counts": counts[:-1] + "o"}, "result[1]: the RLE's 'counts': expected runs that sum"),
        ({"counts": "no RLE"}, "result[1]: the RLE's 'counts': expected runs that sum"),
        ({"counts": "é熊"}, "result[1]: the RLE's 'counts': expected runs that sum"),
    ):
        changed = [results[0], results[0] | {"segmentation": results[0]["segmentation"] | change}]
        files["--results"] = write(tmp_path / "res.json", changed)
        check_rejected(files, message, capsys)
    polygon = results[0] | {"segmentation": [[1, 1, 5, 1, 5, 5]]}
    files["--results"] = write(tmp_path / "res.json", [polygon])
    check_rejected(files, "result[0]: 'segmentation': expected an object, got [[1, 1", capsys)
    content = ground_truth((1, A, BOX, {"segmentation": []}))
    files["--ground-truth"] = write(tmp_path / "gt.json", content)
    check_rejected(files, "no annotation has a valid 'segmentation'", capsys)


CUT_COUNTS = mask(BOX)["counts"][:-1]
BAD_MASKS = {
    "a point of NaN": (
        [[1, 1, 5, 1, 5, float("nan")]],
        "'segmentation'[0]: expected finite numbers, got [1, 1, 5, 1, 5, nan]",
    ),
    "a point far away": (
        [[1, 1, 5, 1, 1e9, 5]],
        "expected points at most an image away from its image of 200",
    ),
    "half a point": (
        [[1, 1, 5, 1, 5]],
        "'segmentation'[0]: expected x and y of at least 3 points, got 5 numbers",
    ),
    "text": (
        "RLE",
        "expected a list of polygons, which are lists of numbers, or an RLE object, got",
    ),
    "a number": (3, "'segmentation': expected a list of polygons"),
    "no counts": ({"size": [200, 200]}, "'counts': expected a list or a string, got None"),
    "another size": (
        mask(BOX) | {"size": [100, 400]},
        "[height, width] [200, 200], got [100, 400]",
    ),
    "short counts": (
        {"size": [200, 200], "counts": [1, 2, 3]},
        "integers of at least 0 that sum to the image's",
    ),
    "large counts": (
        {"size": [200, 200], "counts": [50000]},
        "integers of at least 0 that sum to the image's",
    ),
    "cut short": (
        {"size": [200, 200], "counts": CUT_COUNTS},
        "expected runs that sum to 40000 pixels",
    ),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_a_faulty_ground_truth_mask_is_dropped_only_if_masks_are_evaluated(
    files, tmp_path, case, capsys
):
    segmentation, message = BAD_MASKS[case]
    content = ground_truth((1, A, BOX), (1, B, FAR, {"segmentation": segmentation}))
    files["--ground-truth"] = write(tmp_path / "gt.json", content)
    assert main([*arguments("lvis", files), "--strict"]) == 0
    assert "mask dropped" not in capsys.readouterr().out
    Path(files["--output"]).unlink()
    files["--iou-type"] = "segm"
    assert main(arguments("lvis", files)) == 0
    assert "corrected: mask dropped: 1" in capsys.readouterr().out
    assert json.loads(Path(files["--output"]).read_text())["AP"] == pytest.approx(50)
    assert main([*arguments("lvis", files), "--strict"]) == 2
    error = capsys.readouterr().err
    assert "gt.json: annotation 2 (annotations[1]): " in error and message in error
    assert error.endswith("; --strict refuses this\n")
