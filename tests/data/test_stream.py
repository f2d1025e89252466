"""The training data loader: deterministic samples, exact resuming."""

import random

import numpy as np
import pytest
import torch

from ranking_det.data.stream import build_train_loader, can_resume, seeded


def mapper(record):
    """Return the image and a draw from each random generator."""
    draws = np.random.rand(), random.random(), torch.rand(()).item()
    return {"image": record["image"], "draws": draws}


def take_batches(count, *, images=5, **arguments):
    records = [{"image": i} for i in range(images)]
    arguments = {"mapper": mapper, "total_batch_size": 2} | arguments
    loader = iter(build_train_loader(records, **arguments))
    return [next(loader) for _ in range(count)]


def test_a_loader_that_starts_at_an_iteration_gives_the_same_samples_as_one_from_the_start():
    expected = take_batches(9)
    assert take_batches(5, start_iter=4) == expected[4:]


def test_samples_do_not_depend_on_the_number_of_workers():
    assert take_batches(6, num_workers=2) == take_batches(6)


def test_every_epoch_has_each_image_once_in_a_new_order():
    images = [sample["image"] for batch in take_batches(20) for sample in batch]
    epochs = [images[i : i + 5] for i in range(0, 40, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 4


def test_every_sample_has_different_random_numbers_which_depend_on_the_seed():
    draws = [sample["draws"] for batch in take_batches(10) for sample in batch]
    assert len({number for draw in draws for number in draw}) == 60
    assert take_batches(3) == take_batches(3) != take_batches(3, seed=1)


def test_a_negative_seed_draws_a_new_seed_each_time():
    draws = [[sample["draws"] for sample in take_batches(1, seed=-1)[0]] for _ in range(2)]
    assert draws[0] != draws[1]


def test_a_mapper_may_modify_its_record():
    def remove_image(record):
        assert record.pop("image") is not None
        return record

    assert len(take_batches(9, images=3, mapper=remove_image)) == 9


def test_two_processes_share_an_iteration_in_halves(monkeypatch):
    expected = take_batches(3, total_batch_size=4)
    monkeypatch.setattr("ranking_det.data.stream.comm.get_world_size", lambda: 2)
    halves = []
    for rank in (0, 1):
        monkeypatch.setattr("ranking_det.data.stream.comm.get_rank", lambda rank=rank: rank)
        halves.append(take_batches(3, total_batch_size=4))
    assert [one + other for one, other in zip(*halves)] == expected


def test_a_skipped_image_is_replaced_by_the_next_and_skipping_all_raises_value_error():
    batches = take_batches(5, mapper=lambda record: record if record["image"] != 2 else None)
    images = [sample["image"] for batch in batches for sample in batch]
    assert 2 not in images and len(images) == 10
    with pytest.raises(ValueError, match="the mapper returns None for every image"):
        take_batches(1, mapper=lambda record: None)


def test_seeding_restores_the_random_generators_of_the_caller():
    states = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
    with seeded(0, 3):
        mapper({"image": 0})
    assert (np.random.get_state()[1] == states[0]).all()
    assert random.getstate() == states[1] and torch.equal(torch.get_rng_state(), states[2])


def test_grouping_by_aspect_ratio_uses_detectron2s_loader_which_cannot_resume():
    records = [{"image": i, "width": 4, "height": 3} for i in range(4)]
    options = {"mapper": lambda record: record, "total_batch_size": 2}
    assert can_resume(build_train_loader(records, **options))
    assert not can_resume(build_train_loader(records, aspect_ratio_grouping=True, **options))


def test_no_images_or_an_indivisible_batch_size_raises_value_error(monkeypatch):
    with pytest.raises(ValueError, match="dataset: expected images to train on, got none"):
        take_batches(1, images=0)
    monkeypatch.setattr("ranking_det.data.stream.comm.get_world_size", lambda: 2)
    message = "expected a positive multiple of the number of processes, 2, got 3"
    with pytest.raises(ValueError, match=message):
        take_batches(1, total_batch_size=3)
