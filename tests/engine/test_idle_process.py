"""A process without objects in its images keeps no other waiting."""

import multiprocessing
import socket

import torch
from torch import distributed

from ranking_det.engine.launching import _join
from ranking_det.engine.training import distribute
from tests.modeling.conftest import load, make_batch

STEPS = {"quick/fcos_fcos_rs.py": 100, "quick/mask_rs.py": 20, "quick/cascade_rs.py": 10}


def train_with_an_idle_process(config, rank, steps):
    """The sum of the weights after steps without objects here, and at last without any at all."""
    from detectron2.config import instantiate
    from detectron2.utils.events import EventStorage

    torch.manual_seed(0)
    model = distribute(instantiate(load(config).model).train(), "cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with EventStorage():
        for step in range(steps):
            count = 2 if rank == 0 and step < 0.9 * steps else 0
            losses = model(make_batch((count,), sizes=((64, 64),)))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    return torch.stack([p.detach().double().sum() for p in model.parameters()]).sum().item()


def work(rank, port, outcome):
    torch.set_num_threads(1)
    _join(f"tcp://127.0.0.1:{port}", rank, 2, rank, 2)
    for config, steps in STEPS.items():
        outcome.put((config, train_with_an_idle_process(config, rank, steps)))
    distributed.destroy_process_group()


def test_a_process_whose_images_have_no_objects_hangs_nobody():
    context = multiprocessing.get_context("spawn")
    outcome = context.Queue()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    workers = [context.Process(target=work, args=(rank, port, outcome)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    totals = {config: set() for config in STEPS}
    for _ in range(2 * len(STEPS)):
        config, total = outcome.get(timeout=300)
        totals[config].add(total)
    for worker in workers:
        worker.join(10)
    assert {config: len(found) for config, found in totals.items()} == dict.fromkeys(STEPS, 1)
