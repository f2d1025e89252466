"""The criteria, with their papers' settings."""

from detectron2.config import LazyCall as L

from ranking_det.losses import (
    ConstantBalance,
    Criterion,
    Focal,
    GIoU,
    PositiveCount,
    RankSort,
    ScoreWeight,
    SmoothL1,
    UniformWeight,
    ValueBalance,
)

# Oksuz et al., ICCV 2021: GIoU weighted by score, balanced by value.
rank_sort = L(Criterion)(
    classification=L(RankSort)(delta=0.5),
    localization=L(GIoU)(),
    instance_weight=L(ScoreWeight)(),
    balance=L(ValueBalance)(),
)

# Lin et al., ICCV 2017, as Detectron2 normalises it.
focal_smooth_l1 = L(Criterion)(
    classification=L(Focal)(alpha=0.25, gamma=2.0),
    localization=L(SmoothL1)(beta=0.1),
    instance_weight=L(UniformWeight)(),
    balance=L(ConstantBalance)(weight=1.0),
    normalizer=L(PositiveCount)(),
)

# The same with GIoU, and the weight that ATSS gives it.
focal_giou = L(Criterion)(
    classification=L(Focal)(alpha=0.25, gamma=2.0),
    localization=L(GIoU)(),
    instance_weight=L(UniformWeight)(),
    balance=L(ConstantBalance)(weight=2.0),
    normalizer=L(PositiveCount)(),
)
