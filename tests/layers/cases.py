"""Random detections that overlap a lot."""

import torch


def detections(n, num_classes=3, seed=0, dtype=torch.float64, extent=30.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator, dtype=torch.float64) * extent
    size = 5 + torch.rand(n, 2, generator=generator, dtype=torch.float64) * 15
    scores = torch.rand(n, generator=generator, dtype=torch.float64)
    classes = torch.randint(0, num_classes, (n,), generator=generator)
    return torch.cat([corner, corner + size], dim=1).to(dtype), scores.to(dtype), classes
