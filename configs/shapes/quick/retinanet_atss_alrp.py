"""aLRP Loss; its balance is updated once an epoch, of 125 iterations here."""

from ...common.criteria import alrp
from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.criterion = alrp
model.criterion.balance.period = 125
train.output_dir = "output/shapes/quick/retinanet_atss_alrp"
