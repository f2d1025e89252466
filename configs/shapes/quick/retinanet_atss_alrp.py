"""aLRP Loss; its balance is updated once an epoch."""

from ...common.criteria import alrp
from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.criterion = alrp
model.criterion.balance.period = "${train.iterations_per_epoch}"
train.output_dir = "output/shapes/quick/retinanet_atss_alrp"
