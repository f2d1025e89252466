"""The report compares the detections of several detectors on an HTML page."""

import base64
import hashlib
import json
import re
import shutil
import subprocess

import pytest

from ranking_det.analysis.__main__ import main
from ranking_det.evaluation.metrics import detection_metrics
from ranking_det.visualization import detection_page
from ranking_det.visualization.detection_page import Row, make_cells
from tests.data.formats.cases import make_image
from tests.evaluation.cases import BOX, FAR, NAMES, A, B, ground_truth, prepare, result, write

SCRIPT = "<script>alert(1)</script>"
RATIO = {"ratio": 0.25, "reverse": 1, "pairs": 4}
HEAD = {"foreground_background": {"all": RATIO, "mined": RATIO}, "positive_positive": RATIO}
PAIRS = {"heads": {"dense": HEAD | {"positive_negative": {"all": RATIO, "mined": RATIO}}}}


def coco(*objects, **options):
    content = ground_truth(*objects, **options)
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    return content


def report(folder, content, results, *arguments):
    """Write the files and run the command; return its exit status."""
    truth = write(folder / "gt.json", content)
    named = [
        f"{name}={write(folder / f'{i}.json', entries)}"
        for i, (name, entries) in enumerate(results.items())
    ]
    words = ["--ground-truth", truth, "--results", *named, "--output", str(folder / "out")]
    return main(["report", *words, *map(str, arguments)])


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OBJECTS = [(1, A, BOX), (1, B, FAR), (2, A, BOX)]
FIRST = [result(2, A, BOX, 0.9), result(1, B, BOX, 0.8), result(1, A, BOX, 0.7)]
SECOND = [result(2, A, BOX, 0.6), result(1, A, [12, 10, 40, 40], 0.5), result(1, B, FAR, 0.4)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the folder of a report on two detectors, which replaced an earlier report."""
    folder = tmp_path_factory.mktemp("report")
    content = coco(*OBJECTS)
    names = {A: f"{SCRIPT}", B: "$a$ & {{b}}"}
    for category in content["categories"]:
        category["name"] = names.get(category["id"], category["name"])
    make_image(folder / "images" / "1.png")
    (folder / "out" / "report_pictures").mkdir(parents=True)
    for name in ("report.html", "notes.txt", "report_pictures/scores_7.png"):
        (folder / "out" / name).write_text("earlier")
    records = [{"iteration": i, "total_loss": 2.0 - i, "bbox/AP": i} for i in range(2)]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, records)))
    pairs = write(folder / "pairs.json", PAIRS)
    arguments = ["--metrics", f"{SCRIPT}={folder}/metrics.json", "--pairs", f"second={pairs}"]
    arguments += ["--images", folder / "images"]
    assert report(folder, content, {SCRIPT: FIRST, "second": SECOND}, *arguments) == 0
    return folder


def test_the_numbers_are_those_of_the_evaluation(made):
    numbers = json.loads((made / "out" / "report.json").read_text())
    content = prepare(json.loads((made / "gt.json").read_text()), "coco")
    for name, results in ((SCRIPT, FIRST), ("second", SECOND)):
        expected = detection_metrics(content, results, "bbox")
        overall = numbers["methods"][name]["overall"]
        assert overall["AP"] == pytest.approx(expected["AP"])
        assert overall["oLRP"] == pytest.approx(expected["oLRP"])
    worst = numbers["images"]["worst"]
    assert [image["name"] for image in worst] == ["1.png"]
    assert [entry["error"] for entry in worst[0]["methods"].values()] == [0.5, 0]
    assert [image["name"] for image in numbers["images"]["best"]] == ["2.png"]
    assert numbers["pairs"]["second"]["dense"]["positive–positive"] == 0.25


def test_the_page_has_both_detectors_in_each_section_and_marks_the_best(made):
    page = (made / "out" / "report.html").read_text()
    sections = re.split("<h2 id=", page)[1:]
    titles = ["metrics", "precision-recall", "scores", "thresholds", "errors", "classes"]
    titles += ["images", "training"]
    assert [section.split('"')[1] for section in sections] == titles
    for section in sections[:1] + sections[3:-1]:
        assert "second" in section and "&lt;script&gt;" in section
    assert 'class=" best"' in sections[0]
    # One picture of each of two images for each detector, and the figures.
    assert page.count("data:image/jpeg") == 4
    pictures = sorted(path.stem for path in (made / "out" / "report_pictures").glob("*.png"))
    assert page.count("data:image/png") == len(pictures) - 4
    assert {"reverse_pairs_1", "training_1", "worst_1_2", "best_1_1", "confusion_2"} <= {*pictures}


def test_each_picture_has_its_numbers_and_those_of_an_earlier_report_are_gone(made):
    folder = made / "out" / "report_pictures"
    stems = {path.stem for path in folder.glob("*.json")}
    drawn = {
        re.sub(r"(worst|best)_(\d+)_\d+", r"\1_\2", path.stem) for path in folder.glob("*.png")
    }
    assert stems == drawn and "scores_7" not in drawn
    assert (made / "out" / "notes.txt").read_text() == "earlier"
    histogram = json.loads((folder / "scores_2.json").read_text())
    assert histogram["method"] == "second" and sum(histogram["true_positives"]) == 3


def test_names_are_escaped_and_the_page_loads_no_other_files(made):
    page = (made / "out" / "report.html").read_text()
    assert SCRIPT not in page and page.count("<script") == 1 and "$a$ &amp; {{b}}" in page
    texts = re.sub(r"base64,[^\"]+", "", page)
    assert not re.findall(r"(?:https?:)?//[^ ]|@import|url\(", texts)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [400, 1280])
def test_chromium_sorts_the_classes_and_the_page_is_not_wider_than_the_window(
    made, width, tmp_path
):
    code = f"""
        const frame = document.createElement("p");
        document.body.append(frame);
        document.body.style.width = "{width}px";
        const button = document.querySelectorAll(".sortable button")[1];
        button.click();
        const rows = [...document.querySelectorAll(".sortable tbody tr")];
        frame.textContent = "wide:" + document.body.scrollWidth + " objects:"
            + rows.map((row) => row.cells[1].textContent).join(",");
    """
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    page = (made / "out" / "report.html").read_text()
    # The policy of the page allows its own script only.
    page = page.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    (tmp_path / "page.html").write_text(page.replace("</body>", f"<script>{code}</script></body>"))
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    words += [f"--user-data-dir={tmp_path}/profile", f"--window-size={width},800"]
    run = subprocess.run(
        [*words, f"file://{tmp_path}/page.html"], capture_output=True, text=True, timeout=120
    )
    (wide,) = re.findall(r"wide:(\d+) objects:2,1,0,0<", run.stdout)
    assert int(wide) <= width


@pytest.mark.parametrize("case", ["empty", "no true positive", "logits"])
def test_degenerate_detections_give_a_page_without_undefined_numbers(case, tmp_path, monkeypatch):
    # Drawing takes most of the time: here only the numbers of the figures count.
    monkeypatch.setattr(detection_page, "draw_figure", no_picture)
    content, options, rules = coco(*OBJECTS), [], "coco"
    results = {"empty": [], "no true positive": [result(2, A, FAR, 0.9)]}
    results["logits"] = [entry | {"score": 9 * entry["score"] - 4} for entry in FIRST]
    if case == "empty":  # one image, one class, masks
        content = coco((1, A, BOX), images=1)
        content["categories"] = [c for c in content["categories"] if c["name"] == NAMES[A]]
        options = ["--iou-type", "segm"]
    elif case == "no true positive":
        content, rules = ground_truth(*OBJECTS, negative={2: [A]}), "lvis"
    assert report(tmp_path, content, {"a": results[case]}, *options) == 0
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert numbers["rules"] == rules
    method = numbers["methods"]["a"]
    first = detection_metrics(prepare(coco(*OBJECTS), "coco"), FIRST, "bbox")["AP"]
    expected = {"empty": 0, "no true positive": 0, "logits": first}[case]
    assert method["overall"]["AP"] == pytest.approx(expected)
    assert (method["calibration"] is None) == (case == "logits")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "nan" not in re.sub(r"base64,[^\"]+", "", page).lower().replace("nano", "")
    assert ("No false positive outranks an object." in page) == (case != "logits")
    assert "they need scores from 0 to 1" in page or case != "logits"


def no_picture(name, title, plot, numbers, size=None):
    json.dumps(numbers, allow_nan=False)
    return detection_page.DetectionFigure(name, title, b"", numbers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content": coco()}, "has no 'annotations'"),
        ({"words": ["--results", "a.json"]}, "--results: expected NAME=FILE, got 'a.json'"),
        ({"words": ["--results", "a=x", "a=y"]}, "expected different names, got 'a' twice"),
        ({"words": ["--metrics", "b=x"]}, "--metrics: expected a name from --results (a), got 'b'"),
        ({"words": ["--metrics", "a=missing"]}, "--metrics: 'missing' does not exist"),
        ({"words": ["--metrics", "a=gt.json"]}, "--metrics: expected the metrics.json"),
        ({"words": ["--pairs", "a=gt.json"]}, "--pairs: expected the JSON of `analysis pairs`"),
        ({"words": ["--images", "missing"]}, "the image folder 'missing' does not exist"),
        ({"words": ["--images", "."]}, "--images: '.' has no image of the ground truth"),
        ({"words": ["--output", "gt.json"]}, "--output: expected a writable folder"),
        ({"words": ["--output", "."]}, "expected a folder other than that of --ground-truth, got"),
        (
            {"words": ["--output", "out", "--images", "out/report_pictures"]},
            "--output: expected a folder other than that of --images, got 'out/report_pictures'",
        ),
    ],
)
def test_user_mistakes_give_one_line_and_write_nothing(
    changes, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    content = changes.get("content", coco(*OBJECTS))
    status = report(
        tmp_path, content, changes.get("results", {"a": FIRST}), *changes.get("words", [])
    )
    error = capsys.readouterr().err
    assert status == 2 and message in error
    assert error.count("\n") == 1 and error.startswith("python -m ranking_det.analysis: error: ")
    assert {path.name for path in files(tmp_path)} == {"gt.json", "0.json"}


def test_the_best_number_is_marked_unless_all_look_equal():
    numbers = [{"x": value} for value in (1.04, 1.0, None, 0.5)]

    def best(row, entries):
        return [cell.best for cell in make_cells(row, entries)]

    assert best(Row("x", "", ("x",), 1, 1), numbers) == [True, True, False, False]
    assert best(Row("x", "", ("x",), -1, 1), numbers) == [False, False, False, True]
    assert best(Row("x", "", ("x",), 0, 1), numbers) == [False] * 4
    assert best(Row("x", "", ("x",)), numbers[:2]) == [False, False]
    assert best(Row("x", "", ("x",)), numbers[2:]) == [False, False]
    assert [cell.text for cell in make_cells(Row("x", "", ("x",), 1, 2), numbers)] == [
        *("1.04", "1.00", "–", "0.50")
    ]
