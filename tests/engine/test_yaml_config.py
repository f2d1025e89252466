from pathlib import Path

import pytest

from ranking_det.config import ConfigError
from ranking_det.engine.yaml_config import load_yaml_config

CONFIG = str(Path(__file__).parents[2] / "configs" / "shapes" / "retinanet_atss_rs.yaml")


def test_overrides_are_pairs_or_key_equals_value():
    cfg = load_yaml_config(CONFIG, ["SOLVER.MAX_ITER", "7", "SOLVER.BASE_LR=0.5"])
    assert cfg.SOLVER.MAX_ITER == 7 and cfg.SOLVER.BASE_LR == 0.5


def test_an_argument_of_a_component_can_be_given_though_the_file_has_it_not():
    cfg = load_yaml_config(CONFIG, ["MODEL.ASSIGNER.TOPK", "5"])
    assert cfg.MODEL.ASSIGNER.TOPK == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.MAX_ITR", "7"], r"no key 'MAX_ITR' .*'SOLVER.MAX_ITR' \(did you mean 'MAX_ITER'"),
        (["SOLVRE.MAX_ITER", "7"], r"no key 'SOLVRE' .*\(did you mean 'SOLVER'"),
        (["SOLVER.MAX_ITER", "x"], "MAX_ITER|mismatch"),
        (["SOLVER.MAX_ITER"], "overrides of a yaml config are pairs KEY value"),
    ],
)
def test_a_wrong_override_is_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml_config(CONFIG, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {RETINANETT: {NUM_CLASSES: 3}}", "no key 'RETINANETT' .*did you mean 'RETINANET'"),
        ("MODEL: {MASK_ON: [}", "while parsing"),
        ("SOLVER: {MAX_ITER: abc}", "MAX_ITER|mismatch"),
    ],
)
def test_a_faulty_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml_config(str(path), [])
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match="'no/such.yaml' does not exist"):
        load_yaml_config("no/such.yaml", [])
