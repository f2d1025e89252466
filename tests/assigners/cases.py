"""Anchors and boxes for the assigner tests."""

import torch


def grid(size, stride, scales=(4.0,), jitter=None):
    """Make square anchors on a grid; jitter moves the centers, so that all distances differ."""
    steps = torch.arange(stride / 2, size, stride, dtype=torch.float64)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    centers = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    if jitter is not None:
        shift = torch.rand(len(centers), 1, 2, generator=jitter, dtype=torch.float64)
        centers = centers + shift.repeat(1, 1, 2)
    half = torch.tensor(scales, dtype=torch.float64)[None, :, None] * stride / 2
    return (centers + half * torch.tensor([-1.0, -1.0, 1.0, 1.0])).reshape(-1, 4)


def random_boxes(count, size, generator):
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * size * 0.7
    extent = 6 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * size * 0.4
    return torch.cat([corner, corner + extent], dim=1)
