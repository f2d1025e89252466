"""Short runs of dense detectors on the shapes at 128 px: under a minute on two CPU cores.

400 iterations x 8 images = 3.2 epochs of 1,000 images.
"""

from .models.fcos_r18 import model as fcos
from .models.retinanet_r18 import model as retinanet
from .shapes import length, loading, optimizer, schedule, small, train

retinanet, fcos = small(retinanet), small(fcos)
dataloader = loading(size=128)
lr_multiplier = schedule(iterations=20)
train.update(length(3.2))
train.checkpointer.period = 200
