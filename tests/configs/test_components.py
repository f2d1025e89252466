"""Building components of yaml configs: constructors, nesting, and error messages."""

import pytest

from ranking_det import assigners, criteria
from ranking_det.components import build_component
from ranking_det.user_errors import UserError


def build(node, namespace=criteria):
    return build_component(node, namespace, "MODEL.X")


def test_values_of_a_node_are_passed_to_the_constructor():
    assert build({"NAME": "ATSS", "TOPK": 5}, assigners).topk == 5
    assert build({"NAME": "ATSS"}, assigners).topk == assigners.ATSS().topk


def test_nested_nodes_are_built_first():
    node = {
        "NAME": "Criterion",
        "CLASSIFICATION": {"NAME": "RankSort", "DELTA": 0.25},
        "LOCALIZATION": {"NAME": "SmoothL1", "WEIGHTS": [10.0, 10.0, 5.0, 5.0]},
    }
    criterion = build(node)
    assert criterion.classification.delta == 0.25
    assert criterion.localization[0].weights == (10.0, 10.0, 5.0, 5.0)


def test_an_int_is_accepted_for_a_float():
    assert build({"NAME": "RankSort", "DELTA": 1}).delta == 1


def test_a_name_with_a_dot_is_imported():
    assert isinstance(build({"NAME": "ranking_det.criteria.GIoU"}), criteria.GIoU)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"TOPKK": 9}, r"PAA has no argument 'topkk' \(did you mean 'topk'\?\)"),
        ({"TOPK": "nine"}, "MODEL.X.topk: expected int for PAA, got 'nine'"),
        ({"BOX_WEIGHT": "x"}, "MODEL.X.box_weight: expected float for PAA, got 'x'"),
    ],
)
def test_arguments_that_are_passed_on_to_a_base_class_are_checked(node, message):
    assert build({"NAME": "PAA", "TOPK": 5, "BOX_WEIGHT": 2}, assigners).topk == 5
    with pytest.raises(UserError, match=message):
        build({"NAME": "PAA"} | node, assigners)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"NAME": "RankSrt"},
            r"a component of ranking_det.criteria, got 'RankSrt' \(did you mean 'RankSort'\?\)",
        ),
        ({"NAME": "rank_sort"}, r"did you mean 'RankSort'"),
        ({"NAME": "RankSort", "DELTAS": 1.0}, r"no argument 'deltas' \(did you mean 'delta'\?\)"),
        ({"NAME": "RankSort", "DELTA": "x"}, "MODEL.X.delta: expected float for RankSort, got 'x'"),
        ({"NAME": "RankSort", "DELTA": True}, "delta: expected float for RankSort, got True"),
        (
            {"NAME": "RankSort", "DELTA": -1.0},
            "MODEL.X: delta: expected a finite number",
        ),
        ({"NAME": "Criterion"}, "missing 1 required keyword-only argument: 'classification'"),
        (
            {"NAME": "Criterion", "CLASSIFICATION": "RankSort"},
            "expected Classification for",
        ),
        ({"DELTA": 1.0}, "MODEL.X.NAME: expected a component's name, got none"),
        (
            {"NAME": "no.such.thing"},
            "MODEL.X.NAME: expected a class that can be imported, got 'no.such.thing'",
        ),
        (
            {"NAME": "Criterion", "CLASSIFICATION": {"NAME": "RankSort", "DELT": 1.0}},
            r"MODEL.X.CLASSIFICATION: RankSort has no argument 'delt' \(did you mean 'delta'",
        ),
    ],
)
def test_each_mistake_raises_user_error_with_one_line_that_names_it(node, message):
    with pytest.raises(UserError, match=message) as caught:
        build(node)
    assert "\n" not in str(caught.value)
