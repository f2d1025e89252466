"""Check that the loop baselines of the benchmark compute the same losses."""

import pytest
import torch


@pytest.mark.parametrize("stage", ["init", "mid", "late"])
@pytest.mark.parametrize("name", ["rank_sort", "ape"])
def test_a_loop_baseline_has_the_same_gradient_as_its_loss(name, stage):
    pytest.importorskip("fvcore")
    from benchmarks.loss_problems import Problem

    problem = Problem(stage, 40, 2000, "cpu")
    problem.run(name)
    expected = problem.logits.grad
    problem.run(f"{name}_loop")
    torch.testing.assert_close(problem.logits.grad, expected, rtol=1e-4, atol=1e-8)
    if name == "ape":
        torch.testing.assert_close(problem.ape_loop(), problem.ape())
