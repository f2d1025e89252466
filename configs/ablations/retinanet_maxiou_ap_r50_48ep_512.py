"""RetinaNet, max-IoU, AP Loss with a sigmoid: ResNet-50, 48 epochs on COCO at 512 px.

Published AP 37.3: S in table 1 and "IoU threshold" in tables 3 and 4 of Xu et al., CVPR 2022, the
baseline of ``retinanet_maxiou_ape_r50_48ep_512.py``. A positive adds 1/2 to its own rank, as in
APE Loss; eq. 5 of the paper adds nothing. Only ``distance=step``, which is H in table 1, uses
``delta``.
"""

from detectron2.config import LazyCall as L

from ranking_det.criteria import AveragePrecision

from ..coco.retinanet_maxiou_ape_r50_48ep_512 import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.criterion.classification = L(AveragePrecision)(
    distance="sigmoid",
    lam=8.0,
    delta=0.5,
    interpolated=False,
    self_count=0.5,
    max_negatives=1_000_000,
)
train.output_dir = "output/ablations/retinanet_maxiou_ap_r50_48ep_512"
