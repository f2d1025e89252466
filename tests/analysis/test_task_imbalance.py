"""The imbalance command averages the ratios that a training run has logged."""

import json

import pytest

from ranking_det.analysis.__main__ import main

RECORDS = [
    {"iteration": 19, "rpn/negatives_per_positive": 100.0, "stage0/negatives_per_positive": 40.0},
    {"iteration": 39, "rpn/negatives_per_positive": 200.0, "stage0/negatives_per_positive": 60.0},
    {"iteration": 39, "bbox/AP": 3.0},
    {"iteration": 59, "rpn/negatives_per_positive": 600.0, "stage0/negatives_per_positive": 80.0},
]


def write(path, records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return str(path)


@pytest.fixture
def metrics(tmp_path):
    return write(tmp_path / "metrics.json", RECORDS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"iterations": 60, "negatives_per_positive": {"rpn": 300, "stage0": 60}}),
        (
            ["--iterations", "40"],
            {"iterations": 40, "negatives_per_positive": {"rpn": 150, "stage0": 50}},
        ),
        (
            ["--iterations", "50"],
            {"iterations": 40, "negatives_per_positive": {"rpn": 150, "stage0": 50}},
        ),
    ],
)
def test_the_ratio_of_each_head_is_averaged_over_the_first_iterations(
    metrics, words, expected, tmp_path, capsys
):
    output = tmp_path / "imbalance.json"
    assert main(["imbalance", "--metrics", metrics, *words, "--output", str(output)]) == 0
    assert json.loads(output.read_text()) == expected
    printed = capsys.readouterr().out.splitlines()
    rpn = expected["negatives_per_positive"]["rpn"]
    assert f"first {expected['iterations']} iterations" in printed[0]
    assert printed[1].split() == ["rpn", f"1:{rpn}.0"] and len(printed) == 4


def test_metrics_without_a_prefix_are_those_of_a_dense_detector_and_no_file_is_needed(
    tmp_path, capsys
):
    path = write(tmp_path / "m.json", [{"iteration": 0, "negatives_per_positive": 6676.04}])
    assert main(["imbalance", "--metrics", path]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["dense", "1:6,676.0"]
    assert list(tmp_path.iterdir()) == [tmp_path / "m.json"]


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (None, [], "metrics.json' does not exist (current folder:"),
        (b"\xff\xfe", [], "expected the metrics.json of a training run"),
        (b"[1, 2]\n", [], "expected the metrics.json of a training run"),
        (b'{"images": []}\n', [], "expected the metrics.json of a training run"),
        (b'{"iteration": 0, "loss_box": 1.0}\n', [], "which has negatives_per_positive, got"),
        (b'{"iteration": 0, "negatives_per_positive": "x"}\n', [], "expected the metrics.json"),
        (b'{"iteration": 0, "negatives_per_positive": NaN}\n', [], "expected the metrics.json"),
        (b'{"iteration": 0, "negatives_per_positive": 1%s}\n' % (b"0" * 400), [], "expected the"),
        (b'{"iteration": "0", "negatives_per_positive": 1}\n', ["--iterations", "9"], "expected t"),
        (b"9" * 9999 + b"\n" + b"[" * 99999, [], "expected the metrics.json of a training run"),
        (b'{"iteration": 19, "negatives_per_positive": 1.0}\n', ["--iterations", "0"], "at least"),
        (b'{"iteration": 19, "negatives_per_positive": 1.0}\n', ["--iterations", "9"], "more than"),
    ],
)
def test_bad_input_gives_one_line_and_writes_nothing(content, words, message, tmp_path, capsys):
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_bytes(content)
    output = ["--output", str(tmp_path / "out.json")]
    assert main(["imbalance", "--metrics", str(path), *output, *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert error.startswith("python -m ranking_det.analysis: error: ")
    assert not (tmp_path / "out.json").exists()


COMMANDS = "data olrp detections report fit sweep pairs imbalance"


@pytest.mark.parametrize("command", COMMANDS.split())
def test_the_help_of_each_analysis_has_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert f"python -m ranking_det.analysis {command} " in text.partition("example")[2]
