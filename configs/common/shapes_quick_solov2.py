"""Short runs of SOLOv2 on the shapes at 128 px: minutes on two CPU cores.

``ranking`` has Rank & Sort Loss, ``focal`` the losses of the baseline. 400 iterations x 8 images =
3.2 epochs of 1,000 images; a run on the default shapes has 394, because it drops the 20 training
images without objects.
"""

from .models.backbones import resnet_18_half
from .models.solov2 import small as ranking
from .models.solov2 import with_focal
from .shapes import NUM_CLASSES, build_dataloader, length, optimizer, schedule, train

ranking.backbone.bottom_up = resnet_18_half(first=2)
ranking.backbone.norm = "GN"
ranking.num_classes = NUM_CLASSES
focal = with_focal(ranking)

dataloader = build_dataloader(size=128, masks=True)
lr_multiplier = schedule(iterations=20)
train.update(length(3.2))
train.checkpointer.period = 200
