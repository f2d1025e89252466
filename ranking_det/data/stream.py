"""A training loader whose every sample follows from a seed and a position.

Position p of the stream is sample p mod S of epoch p div S, for S images in a new order each epoch.
Iteration i at B images takes positions i B to i B + B - 1, whatever the number of processes and
loading workers. So a run that goes on at an iteration sees what an uninterrupted one would have.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.data.build import trivial_batch_collator
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Subset


def build_train_loader(
    dataset: Sequence[dict[str, Any]],
    *,
    mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
    total_batch_size: int,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    seed: int = 0,
    start_iter: int = 0,
) -> Any:
    """A loader for training, in the place of Detectron2's.

    Args:
        dataset: the images, as Detectron2's dicts; one may be there several times.
        mapper: from a dict to what the model is trained with; its random numbers, of numpy,
            ``random`` and torch, follow from ``seed`` and the position.
        total_batch_size: images of an iteration over all processes.
        aspect_ratio_grouping: batch images of like shape, by Detectron2's loader, which pads less
            but cannot start at an iteration: ``start_iter`` and ``seed`` are then without effect.
        num_workers: loading processes of each training process.
        seed: of the order and the augmentation; below 0 for another one at each start.
        start_iter: the first iteration, >= 0.

    Returns:
        An endless iterable of lists of mapped dicts, this process's part of an iteration each.

    Raises:
        ValueError: no images, or a batch that cannot be shared out among the processes.
    """
    world = comm.get_world_size()
    if len(dataset) == 0:
        raise ValueError("dataset: has no images to train on")
    if total_batch_size < 1 or total_batch_size % world:
        expected = f"a multiple of the {world} processes"
        raise ValueError(f"total_batch_size: expected {expected}, got {total_batch_size}")
    images = RecordList(dataset)
    if aspect_ratio_grouping:
        options = {"mapper": mapper, "num_workers": num_workers}
        return build_detection_train_loader(images, total_batch_size=total_batch_size, **options)
    if seed < 0:
        seed = comm.shared_random_seed()
    return DataLoader(
        _Stream(images, mapper, seed),
        batch_sampler=_Batches(start_iter, total_batch_size, comm.get_rank(), world),
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
        generator=torch.Generator(),  # or it would draw from the training's
    )


def goes_on(loader: Any) -> bool:
    """Whether a loader starts at the iteration that it was asked for."""
    return isinstance(loader, DataLoader) and isinstance(loader.dataset, _Stream)


@dataclass(frozen=True)
class _Batches:
    """This process's positions of iteration ``start``, ``start + 1``, and so on."""

    start: int
    total: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[list[int]]:
        count = self.total // self.world
        for iteration in itertools.count(self.start):
            first = iteration * self.total + self.rank * count
            yield list(range(first, first + count))


class RecordList(Subset):
    """Dicts for loading processes; of one that is there several times, one copy is kept.

    Args:
        dataset: the images, as Detectron2's dicts.
    """

    def __init__(self, dataset: Sequence[dict[str, Any]]) -> None:
        distinct = {id(image): image for image in dataset}
        place = {identity: i for i, identity in enumerate(distinct)}
        index = np.array([place[id(image)] for image in dataset], dtype=np.int64)
        # Serialised, as Detectron2 does, lest every loading process ends up with a copy.
        super().__init__(DatasetFromList(list(distinct.values()), copy=False), index)


@dataclass(frozen=True)
class _Stream(Dataset):
    """The sample of every position."""

    dataset: RecordList
    mapper: Callable[..., Any]
    seed: int

    def __getitem__(self, position: int) -> dict[str, Any]:
        epoch, offset = divmod(position, len(self.dataset))
        order = _epoch_order(self.seed, epoch, len(self.dataset))
        with seeded(self.seed, position):
            # A mapper may refuse an image; the next of the epoch takes its place.
            for step in range(len(order)):
                index = int(order[(offset + step) % len(order)])
                mapped = self.mapper(self.dataset[index])
                if mapped is not None:
                    return mapped
        raise ValueError("dataset: the mapper refuses every image")


@lru_cache(maxsize=1)
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    # The last word keeps an epoch's numbers apart from a position's.
    return np.random.default_rng([seed, epoch, 1]).permutation(count)


@contextmanager
def seeded(seed: int, position: int) -> Iterator[None]:
    """Seed numpy, ``random`` and torch's CPU generator, and put their states back afterwards."""
    states = np.random.get_state(), random.getstate(), torch.get_rng_state()
    words = np.random.SeedSequence([seed, position]).generate_state(3)
    np.random.seed(words[0])
    random.seed(int(words[1]))
    torch.default_generator.manual_seed(int(words[2]))
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        torch.set_rng_state(states[2])
