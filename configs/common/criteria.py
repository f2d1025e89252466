"""The criteria, with their papers' settings.

Those for coco/ that do not rank divide by the step's own positives, as their papers' code does, and
not by Detectron2's moving average; FCOS, ATSS and PAA by their mean over all processes.
"""

from detectron2.config import LazyCall as L

from ranking_det.criteria import (
    APE,
    ALRPCriterion,
    AveragePrecision,
    BranchLoss,
    CandidateCount,
    CenternessWeight,
    ConstantBalance,
    Criterion,
    CrossEntropy,
    Focal,
    GIoU,
    HistoryBalance,
    IoU,
    IoUWeight,
    PositiveCount,
    QualityFocal,
    RankDet,
    RankSort,
    ScoreWeight,
    SmoothL1,
    UniformWeight,
    ValueBalance,
    Varifocal,
)

# Oksuz et al., ICCV 2021: GIoU weighted by score, balanced by value.
rank_sort = L(Criterion)(
    classification=L(RankSort)(delta=0.5),
    localization=L(GIoU)(),
    instance_weight=L(ScoreWeight)(),
    balance=L(ValueBalance)(),
)

# Ren et al., NeurIPS 2015: for the heads of R-CNNs; the box loss as Detectron2 has it.
cross_entropy = L(Criterion)(
    classification=L(CrossEntropy)(),
    localization=L(SmoothL1)(beta=0.0, weights=[10.0, 10.0, 5.0, 5.0]),
    instance_weight=L(UniformWeight)(),
    balance=L(ConstantBalance)(weight=1.0),
    normalizer=L(CandidateCount)(),
)

# The same with GIoU, which is smaller than L1 on encoded boxes.
cross_entropy_giou = L(Criterion)(
    classification=L(CrossEntropy)(),
    localization=L(GIoU)(),
    instance_weight=L(UniformWeight)(),
    balance=L(ConstantBalance)(weight=10.0),
    normalizer=L(CandidateCount)(),
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

# Chen et al., CVPR 2019, whose box loss is the mean over the coordinates where
# SmoothL1 is their sum. Its weights must be those of the box coder.
ap = L(Criterion)(
    classification=L(AveragePrecision)(delta=1.0, interpolated=True),
    localization=L(SmoothL1)(beta=1.0, weights=[10.0, 10.0, 5.0, 5.0]),
    instance_weight=L(UniformWeight)(),
    balance=L(ConstantBalance)(weight=0.25),
)

# Oksuz et al., NeurIPS 2020. The period is an epoch of COCO, at 32 images an iteration.
alrp = L(ALRPCriterion)(
    balance=L(HistoryBalance)(period=3665, initial=50.0),
    delta=1.0,
    tau=0.5,
    localization=L(GIoU)(),
)

# Xu et al., CVPR 2022, at 800 pixels; section 7.1 and table 3 of the appendix.
ape = L(Criterion)(
    classification=L(APE)(lam=8.0, max_negatives=100_000),
    localization=L(GIoU)(),
    instance_weight=L(ScoreWeight)(own_class=True),
    balance=L(ConstantBalance)(weight=2.0),
)

# Liu et al., CVPR 2021: all weights 1. The mean over images is this project's reading.
rankdet = L(Criterion)(
    classification=L(RankDet)(),
    localization=L(SmoothL1)(beta=1 / 9),
    instance_weight=L(UniformWeight)(),
    balance=L(ConstantBalance)(weight=1.0),
    rank_scope="image",
)

# The same for detectors with a centreness branch, whose box loss is GIoU.
rankdet_centerness = L(Criterion)(
    classification=L(RankDet)(),
    localization=L(GIoU)(),
    instance_weight=L(CenternessWeight)(),
    balance=L(ConstantBalance)(weight=1.0),
    branch=L(BranchLoss)(target=L(CenternessWeight)(), weight=1.0),
    rank_scope="image",
)

# Lin et al., ICCV 2017, with the box loss of RankDetNet's baseline.
retinanet_focal = L(Criterion)(
    classification=L(Focal)(alpha=0.25, gamma=2.0),
    localization=L(SmoothL1)(beta=1 / 9),
    instance_weight=L(UniformWeight)(),
    balance=L(ConstantBalance)(weight=1.0),
    normalizer=L(PositiveCount)(momentum=0.0),
)

# Zhang et al., CVPR 2020.
atss_focal = L(Criterion)(
    classification=L(Focal)(alpha=0.25, gamma=2.0),
    localization=L(GIoU)(),
    instance_weight=L(CenternessWeight)(),
    balance=L(ConstantBalance)(weight=2.0),
    normalizer=L(PositiveCount)(momentum=0.0, scope="global"),
    branch=L(BranchLoss)(target=L(CenternessWeight)(), weight=1.0),
)

# Tian et al., ICCV 2019, with the boxes weighted by centreness as in the authors' code. Unlike the
# paper, 1 - IoU and not -log(IoU).
fcos_focal = L(Criterion)(
    classification=L(Focal)(alpha=0.25, gamma=2.0),
    localization=L(IoU)(),
    instance_weight=L(CenternessWeight)(),
    balance=L(ConstantBalance)(weight=1.0),
    normalizer=L(PositiveCount)(momentum=0.0, scope="global"),
    branch=L(BranchLoss)(target=L(CenternessWeight)(), weight=1.0),
)

# Kim and Lee, ECCV 2020.
paa_focal = L(Criterion)(
    classification=L(Focal)(alpha=0.25, gamma=2.0),
    localization=L(GIoU)(),
    instance_weight=L(IoUWeight)(),
    balance=L(ConstantBalance)(weight=1.3),
    normalizer=L(PositiveCount)(momentum=0.0, scope="global"),
    branch=L(BranchLoss)(target=L(IoUWeight)(), weight=0.5),
)

# Li et al., NeurIPS 2020, and Zhang et al., CVPR 2021: no branch, with the box loss of ATSS.
quality_focal = L(Criterion)(
    classification=L(QualityFocal)(beta=2.0),
    localization=L(GIoU)(),
    instance_weight=L(UniformWeight)(),
    balance=L(ConstantBalance)(weight=2.0),
    normalizer=L(PositiveCount)(momentum=0.0),
)
varifocal = L(Criterion)(
    classification=L(Varifocal)(alpha=0.75, gamma=2.0),
    localization=L(GIoU)(),
    instance_weight=L(UniformWeight)(),
    balance=L(ConstantBalance)(weight=2.0),
    normalizer=L(PositiveCount)(momentum=0.0),
)
