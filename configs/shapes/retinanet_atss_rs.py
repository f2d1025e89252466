"""Quick start: RetinaNet, ATSS, Rank & Sort Loss: half-width ResNet-18, 10.4 epochs on the shapes.

1,300 iterations x 8 images = 10.4 epochs of 1,000 images. A run on the default shapes has 1,279,
because it drops the 20 training images without objects.
"""

from ..common.models.retinanet_r18 import model
from ..common.shapes import build_dataloader, fit_to_shapes, length, optimizer, schedule, train

model = fit_to_shapes(model)
dataloader = build_dataloader(size=160)
lr_multiplier = schedule(iterations=75)
train.update(length(10.4))
train.checkpointer.period = 500
train.output_dir = "output/shapes/retinanet_atss_rs"
