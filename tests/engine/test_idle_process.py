"""A process without objects does not block the others or change their gradients."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from torch import distributed
from torch.distributed import TCPStore

from ranking_det.criteria import Criterion
from ranking_det.engine.launching import _join
from ranking_det.engine.training import distribute
from tests.cases import CONTEXT
from tests.modeling.cases import load, load_masked_cascade, make_batch

STEPS = {
    "quick/fcos_fcos_rs.py": 20,
    "quick/mask_rs.py": 10,
    "quick/cascade_rs.py": 10,
    "quick/yolact_rs.py": 10,
    "quick/solov2_rs.py": 10,
}


def train_with_an_idle_process(config, rank, steps):
    """Train; only rank 0 has objects, and in the last steps no process has. Return a checksum."""
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


def rank_over_all(images):
    """Compute losses and gradients of a cascade with masks that ranks over all processes."""
    cfg = load_masked_cascade()
    torch.manual_seed(0)
    model = instantiate(cfg).train()
    model.roi_heads.max_mask_rois = 1000  # per process; enough to keep all RoIs
    for module in model.modules():
        if isinstance(module, Criterion):
            module.rank_scope = "global"
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # each process has its own statistics
    for stage in model.roi_heads.stages():
        torch.nn.init.normal_(stage.predictor.cls_score.weight, std=0.1)
        torch.nn.init.normal_(stage.predictor.bbox_pred.weight, std=0.02)
    batch = make_batch((3, 2, 0, 0))[images]
    wrapped = distribute(model, "cpu")  # must stay alive to average the gradients
    with EventStorage(0):
        losses = wrapped(batch)
    sum(losses.values()).backward()
    # Plain numbers: tensors would be sent as files that disappear when the process ends.
    return (
        {name: loss.item() for name, loss in losses.items()},
        {name: p.grad.flatten().tolist() for name, p in model.named_parameters()},
    )


def work(rank, port, outcome):
    torch.set_num_threads(1)
    _join(f"tcp://127.0.0.1:{port}", rank, 2, rank, 2)
    results = {
        config: train_with_an_idle_process(config, rank, steps) for config, steps in STEPS.items()
    }
    results["global"] = rank_over_all(slice(2 * rank, 2 * rank + 2))
    outcome.put(results)
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results():
    """The results of two processes; the second one has no objects."""
    outcome = CONTEXT.Queue()
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    workers = [CONTEXT.Process(target=work, args=(rank, store.port, outcome)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    worker_results = [outcome.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join(10)
    return worker_results


@pytest.mark.parametrize("config", STEPS)
def test_an_idle_process_does_not_block_and_has_the_same_weights(results, config):
    assert results[0][config] == results[1][config]


def test_ranking_over_all_processes_equals_one_process_with_all_images(results):
    losses, gradients = rank_over_all(slice(0, 4))
    assert "loss_mask_stage2" in losses and "loss_rank_stage2" in losses
    for result in results:
        assert result["global"][0] == pytest.approx(losses, rel=1e-4)
        for name, expected in gradients.items():
            gradient, expected = torch.tensor(result["global"][1][name]), torch.tensor(expected)
            assert (gradient - expected).norm() <= 1e-3 * expected.norm() + 1e-7, name
