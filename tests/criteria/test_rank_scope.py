"""rank_scope="global": W processes train as one process with all their images."""

from dataclasses import replace

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ranking_det.criteria import (
    ALRPCriterion,
    AveragePrecision,
    BoxTargets,
    BranchLoss,
    Candidates,
    CenternessWeight,
    ConstantBalance,
    Criterion,
    Focal,
    GIoU,
    HistoryBalance,
    MagnitudeBalance,
    MaskDice,
    MaskTargets,
    PositiveCount,
    RankingWeight,
    RankSort,
)
from ranking_det.labels import BACKGROUND, IGNORE
from tests.cases import run_workers

CLASSES = 3


def tasks():
    return [GIoU(), MaskDice()]


def ranked(classification, **options):
    return Criterion(
        classification=classification, localization=tasks(), rank_scope="global", **options
    )


CRITERIA = {
    "rank_sort": lambda: ranked(RankSort()),
    "ap": lambda: ranked(AveragePrecision(), balance=MagnitudeBalance()),
    "ranking_weight": lambda: ranked(RankSort(), instance_weight=RankingWeight()),
    "alrp": lambda: ALRPCriterion(
        balance=HistoryBalance(period=3), localization=tasks(), rank_scope="global"
    ),
}
# For each worker and image: the number of rows and of positives.
SHARES = {
    2: {
        "even": [[(20, 4), (20, 5)], [(20, 3), (20, 6)]],
        "uneven": [[(40, 1), (10, 0)], [(9, 7)]],
        "a worker without positives": [[(30, 0)], [(25, 6)]],
        "a worker without objects or rows": [[(0, 0)], [(25, 6)]],
        "no worker has positives": [[(20, 0)], [(15, 0)]],
    },
    3: {"uneven": [[(30, 5)], [(10, 0), (12, 2)], [(50, 9)]]},
}


class Detector(nn.Module):
    """Linear heads on random features; a box is its anchor plus outputs, a mask is 3 x 3."""

    def __init__(self, criterion):
        super().__init__()
        torch.manual_seed(0)
        self.cls = nn.Linear(6, CLASSES)
        self.box = nn.Linear(6, 4)
        self.mask = nn.Linear(6, 9)
        self.criterion = criterion
        self.double()

    def candidates(self, images):
        features = torch.cat([image["features"] for image in images])
        labels = torch.cat([image["labels"] for image in images])
        anchors = torch.cat([image["anchors"] for image in images])
        gt_boxes = torch.cat([image["gt_boxes"] for image in images])
        rows = labels >= 0
        outputs = self.box(features)[rows]
        return Candidates(
            logits=self.cls(features),
            labels=labels,
            positives=rows.nonzero().squeeze(1),
            image=torch.cat([torch.full_like(x["labels"], i) for i, x in enumerate(images)]),
            level=torch.zeros_like(labels),
            num_images=len(images),
            boxes=BoxTargets(
                outputs=outputs,
                boxes=anchors[rows] + outputs,
                anchors=anchors[rows],
                gt_boxes=gt_boxes[rows],
            ),
        )

    def forward(self, images):
        features = torch.cat([image["features"] for image in images])
        candidates = self.candidates(images)
        rows, anchors = candidates.positives, candidates.boxes.anchors
        logits = self.mask(features)[rows].view(-1, 3, 3)
        masks = (anchors[:, :3, None] > features[rows][:, None, :3]).double()
        targets = MaskTargets(logits, masks, torch.arange(len(rows)))
        return self.criterion(replace(candidates, masks=targets)).losses


def make_image(rows, positives, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((rows,), BACKGROUND)
    order = torch.randperm(rows, generator=generator)
    labels[order[:positives]] = torch.randint(0, CLASSES, (positives,), generator=generator)
    if rows > positives + 2:
        labels[order[-2:]] = IGNORE
    corner = 50 * torch.rand(rows, 2, generator=generator, dtype=torch.float64)
    anchors = torch.cat([corner, corner + 20], dim=1)
    shift = 3 * torch.rand(rows, 4, generator=generator, dtype=torch.float64)
    features = torch.randn(rows, 6, generator=generator, dtype=torch.float64)
    return dict(features=features, labels=labels, anchors=anchors, gt_boxes=anchors + shift)


def images_of(worker, share):
    return [make_image(*size, seed=100 * worker + i) for i, size in enumerate(share[worker])]


def train_step(model, images):
    losses = model(images)
    model.zero_grad()
    sum(losses.values()).backward()
    return (
        {name: loss.detach() for name, loss in losses.items()},
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
    )


def run_worker(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    results = {}
    for case, share in SHARES[size].items():
        for name, build in CRITERIA.items():
            model = DistributedDataParallel(Detector(build()), broadcast_buffers=False)
            results[case, name] = train_step(model, images_of(rank, share))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("size", SHARES)
def test_global_scope_gives_the_losses_and_gradients_of_one_process_with_all_images(size, tmp_path):
    run_workers(run_worker, size, str(tmp_path))
    workers = [torch.load(tmp_path / f"{rank}.pt") for rank in range(size)]
    for case, share in SHARES[size].items():
        images = [image for worker in range(size) for image in images_of(worker, share)]
        for name, build in CRITERIA.items():
            losses, gradients = train_step(Detector(build()), images)
            if case != "no worker has positives":
                assert any(gradient.abs().max() > 1e-4 for gradient in gradients)
            for worker_losses, worker_gradients in (worker[case, name] for worker in workers):
                torch.testing.assert_close(
                    worker_losses, losses, rtol=1e-6, atol=1e-9, msg=f"{case} {name}"
                )
                for gradient, expected in zip(worker_gradients, gradients):
                    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


COUNT_SHARES = {
    name: share for name, share in SHARES[2].items() if name != "no worker has positives"
}


class Baseline(Detector):
    """A linear head with a centerness branch, trained like the dense baselines."""

    def __init__(self):
        super().__init__(
            Criterion(
                classification=Focal(),
                instance_weight=CenternessWeight(),
                balance=ConstantBalance(2.0),
                normalizer=PositiveCount(momentum=0.0, scope="global"),
                branch=BranchLoss(CenternessWeight()),
            )
        )
        self.centerness = nn.Linear(6, 1).double()

    def forward(self, images):
        features = torch.cat([image["features"] for image in images])
        candidates = self.candidates(images)
        branch = self.centerness(features).squeeze(1)
        return self.criterion(replace(candidates, branch_logits=branch)).losses


def run_counting_worker(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    results = {}
    for case, share in COUNT_SHARES.items():
        model = DistributedDataParallel(
            Baseline(), broadcast_buffers=False, find_unused_parameters=True
        )
        results[case] = train_step(model, images_of(rank, share))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_a_global_positive_count_gives_the_gradients_of_one_process_with_all_images(tmp_path):
    """The mean of the losses over the processes also equals the loss of one process."""
    run_workers(run_counting_worker, 2, str(tmp_path))
    workers = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case, share in COUNT_SHARES.items():
        images = [image for worker in range(2) for image in images_of(worker, share)]
        losses, gradients = train_step(Baseline(), images)
        for name, loss in losses.items():
            mean = torch.stack([worker[case][0][name] for worker in workers]).mean()
            torch.testing.assert_close(mean, loss, rtol=1e-6, atol=1e-9, msg=f"{case} {name}")
        assert len([g for g in gradients if g is not None and g.abs().max() > 1e-4]) == 6
        for worker in workers:
            for gradient, expected in zip(worker[case][1], gradients):
                if expected is not None:  # the mask head has no loss
                    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)
