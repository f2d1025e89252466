"""The criteria of configs/common, and rules for all configs."""

import ast

import pytest
from detectron2.config import LazyConfig, instantiate

from ranking_det.criteria import Criterion
from tests.modeling.cases import CONFIGS

CRITERIA = CONFIGS / "common" / "criteria.py"
# Functions that build parts of the criteria.
HELPERS = {"pointwise", "focal", "in_halves"}
NAMES = {
    node.name for node in ast.parse(CRITERIA.read_text()).body if isinstance(node, ast.FunctionDef)
}


@pytest.mark.parametrize("name", sorted(NAMES - HELPERS))
def test_every_criterion_can_be_built(name):
    (make,) = LazyConfig.load(str(CRITERIA), (name,))
    node = make()
    if name == "alrp":
        node.balance.period = 1  # a run config sets it to the iterations of its epoch
    assert isinstance(instantiate(node), Criterion)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=lambda path: path.stem)
def test_no_config_has_a_lambda_or_deletes_values(path):
    """A config overrides values of its base, never deletes them; a lambda cannot be saved."""
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, (ast.Lambda, ast.Delete)), node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in ("pop", "popitem", "clear"), node.lineno
