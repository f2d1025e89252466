"""The schedule of a run: iterations, periods, learning rate and warm-up."""

import math

import pytest
from fvcore.common.param_scheduler import ConstantParamScheduler, CosineParamScheduler

from ranking_det.engine.schedule import Schedule, fit_schedule
from ranking_det.solver import PerEpoch, warm_up

WRITTEN = Schedule(max_iter=87_960, epoch=7330, lr=0.01, checkpoint_period=7330, eval_period=29_320)
COCO = {"epochs": 12, "num_images": 117_266, "batch": 16, "reference_batch": 16}


def fit(fixed=(), **changes):
    return fit_schedule(WRITTEN, fixed=fixed, **(COCO | changes))


def test_the_reference_data_and_batch_do_not_change_the_schedule():
    assert fit() == (WRITTEN, [])


def test_half_the_batch_size_gives_twice_the_iterations_and_half_the_learning_rate():
    fitted, lines = fit(batch=8)
    assert fitted == Schedule(12 * 14_659, 14_659, 0.005, 14_659, 4 * 14_659)
    assert "(0.5 x the reference batch of 16)" in lines[0]
    assert "14,659 iterations per epoch" in lines[0]
    assert "lr: 0.01 -> 0.005" in lines and "max_iter: 87960 -> 175908" in lines


def test_other_data_keep_the_number_of_epochs_and_the_share_of_the_periods():
    fitted, _ = fit(num_images=500)
    assert fitted == Schedule(12 * 32, 32, 0.01, 32, 4 * 32)


def test_fields_that_the_user_has_set_are_kept():
    fitted, lines = fit(["max_iter", "lr"], batch=8)
    assert fitted == WRITTEN._replace(epoch=14_659) and lines == []


def test_the_number_of_images_seen_is_kept_if_the_config_has_no_epochs():
    fitted, _ = fit(epochs=0, batch=32, num_images=500)
    assert (fitted.max_iter, fitted.lr) == (43_980, 0.02)


def test_nothing_is_scaled_without_a_reference_batch():
    assert fit(epochs=0, reference_batch=0, batch=3)[0]._replace(epoch=7330) == WRITTEN


def test_periods_of_a_short_run_are_at_least_1_and_an_evaluation_period_of_0_stays():
    fitted, _ = fit(num_images=1)
    assert fitted == Schedule(12, 1, 0.01, 1, 4)
    without_evaluation = fit_schedule(
        WRITTEN._replace(eval_period=0), **(COCO | {"num_images": 1})
    )[0]
    assert without_evaluation.eval_period == 0 and type(without_evaluation.eval_period) is int


@pytest.mark.parametrize("max_iter", [2_000, 87_960])
def test_the_warm_up_has_the_same_number_of_iterations_for_any_length(max_iter):
    schedule = warm_up(ConstantParamScheduler(1.0), factor=0.001, iterations=500, max_iter=max_iter)
    assert schedule(0) == pytest.approx(0.001)
    assert schedule(250 / max_iter) == pytest.approx(0.001 + 0.999 / 2)
    assert schedule(500 / max_iter) == 1.0


def test_the_warm_up_is_at_most_a_third_of_a_short_run():
    schedule = warm_up(ConstantParamScheduler(1.0), factor=0.0, iterations=500, max_iter=300)
    assert schedule(1 / 6) == pytest.approx(0.5) and schedule(1 / 3) == 1.0


@pytest.mark.parametrize("length", [7, 3665])
def test_a_schedule_per_epoch_keeps_the_factor_of_the_first_iteration_of_the_epoch(length):
    cosine = CosineParamScheduler(1.0, 0.0)
    schedule = PerEpoch(cosine, iterations_per_epoch=length, max_iter=55 * length)
    for iteration in [*range(3 * length), *range(54 * length - 1, 55 * length)]:
        expected = 0.5 + 0.5 * math.cos(math.pi * (iteration // length) / 55)
        assert schedule(iteration / (55 * length)) == pytest.approx(expected), iteration
    warmed = warm_up(schedule, factor=0.1, iterations=5, max_iter=55 * length)
    assert [warmed(i / (55 * length)) for i in (0, 5)] == pytest.approx([0.1, 1.0])


def test_a_schedule_per_epoch_needs_the_length_of_an_epoch():
    with pytest.raises(ValueError, match="iterations_per_epoch: expected at least 1, got 0"):
        PerEpoch(CosineParamScheduler(1.0, 0.0), iterations_per_epoch=0, max_iter=100)
