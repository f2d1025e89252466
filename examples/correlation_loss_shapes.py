"""RetinaNet with the loss of correlation_loss.py on the shapes at 128 px."""

from detectron2.config import LazyCall as L

from examples.correlation_loss import CorrelatedAP
from ranking_det.criteria import ConstantBalance, Criterion, GIoU

from ..configs.common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ..configs.common.shapes_quick import retinanet as model

model.criterion = L(Criterion)(
    classification=L(CorrelatedAP)(weight=0.2),
    localization=L(GIoU)(),
    balance=L(ConstantBalance)(weight=1.0),
)
train.output_dir = "output/examples/correlation_loss"
