"""Memory of assigners in crowded images: none may store a full matrix of objects and anchors."""

import subprocess
import sys

PROGRAM = """
import resource, sys, time, torch
from ranking_det import assigners

def peak():
    # On Linux getrusage would include the peak of the parent process.
    try:
        status = open("/proc/self/status").read()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def scene(objects, anchors, classes):
    center = 100 + torch.rand(anchors, 2) * 4000
    sides = torch.full((anchors, 1), 64.0)
    boxes = torch.cat([center - sides / 2, center + sides / 2], dim=1)
    corners = torch.rand(objects, 2) * 4000
    gt_boxes = torch.cat([corners, corners + 20 + torch.rand(objects, 2) * 400], dim=1)
    labels = torch.randint(0, classes, (objects,))
    predictions = assigners.Predictions(torch.randn(anchors, classes), boxes + torch.randn(4))
    level_sizes = [anchors * part // 10 for part in (6, 2, 1, 1)]
    levels = list(boxes.split(level_sizes))
    return levels, [gt_boxes], [labels], torch.ones(anchors) > 0, predictions

torch.manual_seed(0)
torch.set_num_threads(1)
OPTIONS = {
    "FCOS": {"size_ranges": (64, 128, 256)},
    "CenterRegion": {"scale_ranges": [(1, 100), (50, 200), (100, 300), (200, 500)]},
}
arguments = scene(500, 100_000, 80)
before = peak()
for name in sys.argv[1:]:
    assigner = getattr(assigners, name)(**OPTIONS.get(name, {}))
    start = time.process_time()
    positives = int((assigner(*arguments).labels >= 0).sum())
    print(name, time.process_time() - start, positives, (peak() - before) / 2**20)
"""
NAMES = ["ATSS", "CenterRegion", "FCOS", "MaxIoU", "NormalizedPAA", "PAA"]


def test_500_objects_and_100_000_anchors_need_bounded_memory_and_time():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *NAMES], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [line[0] for line in lines] == NAMES
    for name, *figures in lines:
        seconds, positives, mebibytes = map(float, figures)
        # One float32 matrix would take 191 MiB, and computing IoUs needs seven of them.
        assert mebibytes < 1024, name
        assert seconds < 10, name  # CPU time, which other processes do not affect
        assert positives > 0, name
