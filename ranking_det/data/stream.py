"""Deterministic training data loader that resumes exactly at any iteration.

A seed and a position determine every sample, including its order and its augmentation. Position p
of the stream is sample p mod S of epoch p div S, for S images that are shuffled in each epoch.
Iteration i with B images takes the positions i B to i B + B - 1, for any number of processes and
data loading workers. A run that resumes at an iteration therefore sees the same samples as an
uninterrupted run.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
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

from ranking_det.user_errors import UserError


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
    """Build a resumable training data loader, a replacement for Detectron2's.

    Args:
        dataset: the images, as Detectron2's dataset dicts; an image may occur several times.
        mapper: maps a dataset dict to a training sample. ``seed`` and the position determine its
            random numbers from numpy, ``random`` and torch. It may return None to skip an image.
        total_batch_size: images per iteration over all processes, a multiple of their number.
        aspect_ratio_grouping: whether to batch images of similar shape with Detectron2's loader.
            This pads less but cannot start at an iteration; ``start_iter`` and ``seed`` then have
            no effect.
        num_workers: data loading processes per training process, >= 0.
        seed: the seed of the order and the augmentation; below 0 draws a new seed at each start.
        start_iter: the first iteration, >= 0.

    Returns:
        An endless iterable of lists of mapped dicts, this process's share of each iteration.

    Raises:
        ValueError: there are no images, or the batch cannot be divided among the processes.
    """
    world = comm.get_world_size()
    if len(dataset) == 0:
        raise ValueError("dataset: expected images to train on, got none")
    if total_batch_size < 1 or total_batch_size % world:
        expected = f"a positive multiple of the number of processes, {world}"
        raise ValueError(f"total_batch_size: expected {expected}, got {total_batch_size}")
    images = RecordList(dataset)
    if aspect_ratio_grouping:
        mapped = MappedRecords(images, mapper)
        options = {"mapper": None, "num_workers": num_workers}
        return build_detection_train_loader(mapped, total_batch_size=total_batch_size, **options)
    if seed < 0:
        seed = comm.shared_random_seed()
    return DataLoader(
        _Stream(images, mapper, seed),
        batch_sampler=_Batches(start_iter, total_batch_size, comm.get_rank(), world),
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
        generator=torch.Generator(),  # the default would draw from torch's global generator
    )


def can_resume(loader: Any) -> bool:
    """Return whether a data loader can resume at an iteration.

    Args:
        loader: what :func:`build_train_loader` or another function returned.
    """
    return isinstance(loader, DataLoader) and isinstance(loader.dataset, _Stream)


@dataclass(frozen=True)
class _Batches:
    """Batch sampler of this process's positions, from iteration ``start`` on."""

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
    """Serialized dataset dicts for data loading workers; repeated dicts are stored once.

    Args:
        dataset: the images, as Detectron2's dataset dicts. The same object may occur several times.
    """

    def __init__(self, dataset: Sequence[dict[str, Any]]) -> None:
        distinct = {id(image): image for image in dataset}
        place = {identity: i for i, identity in enumerate(distinct)}
        index = np.array([place[id(image)] for image in dataset], dtype=np.int64)
        # Serialized, as in Detectron2, so that data loading workers share one copy.
        super().__init__(DatasetFromList(list(distinct.values()), copy=False), index)


@dataclass(frozen=True)
class MappedRecords(Dataset):
    """Map-style data set of mapped records for Detectron2's loaders.

    If the mapper returns None for an image, the next image that it maps replaces it. Detectron2's
    own data set would draw another image at random, which fails in Python 3.11 and later.

    Attributes:
        dataset: the images.
        mapper: maps a dataset dict to a training sample, or to None to skip it.
    """

    dataset: RecordList
    mapper: Callable[..., Any]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Map an image, or the next one that is not skipped.

        Args:
            index: the index of the image.

        Raises:
            UserError: the mapper skips every image.
        """
        indices = range(index, index + len(self))
        return _first_mapped(self.dataset, self.mapper, (i % len(self) for i in indices))


def _first_mapped(
    dataset: RecordList, mapper: Callable[..., Any], indices: Iterable[int]
) -> dict[str, Any]:
    for index in indices:
        mapped: dict[str, Any] | None = mapper(dataset[index])
        if mapped is not None:
            return mapped
    raise UserError(
        "dataset: the mapper returns None for every image, as it does for unreadable ones"
    )


@dataclass(frozen=True)
class _Stream(Dataset):
    """Map-style data set of the sample at every position of the stream."""

    dataset: RecordList
    mapper: Callable[..., Any]
    seed: int

    def __getitem__(self, position: int) -> dict[str, Any]:
        epoch, offset = divmod(position, len(self.dataset))
        order = _epoch_order(self.seed, epoch, len(self.dataset))
        with seeded(self.seed, position):
            # If the mapper skips an image, the next one of the epoch replaces it.
            indices = (int(order[(offset + step) % len(order)]) for step in range(len(order)))
            return _first_mapped(self.dataset, self.mapper, indices)


@lru_cache(maxsize=1)
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    # The 1 makes the seed of an epoch differ from the seeds of positions, which have two numbers.
    return np.random.default_rng([seed, epoch, 1]).permutation(count)


@contextmanager
def seeded(seed: int, position: int) -> Iterator[None]:
    """Seed numpy, ``random`` and torch's CPU generator, and restore their states afterwards.

    Args:
        seed: the seed of the run, >= 0.
        position: the position in the stream, >= 0.

    Yields:
        None, while the generators are seeded.
    """
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
