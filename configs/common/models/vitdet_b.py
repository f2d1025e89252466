"""RS-Mask R-CNN with ViTDet's ViT-B (Li et al., ECCV 2022) and its layer-wise learning rates.

Detectron2 0.6 has no ViT. Its main branch has one, which needs timm.
"""

from functools import partial

import torch
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.solver.build import get_default_optimizer_params
from torch import nn

from .rcnn_r50 import mask as model

try:
    from detectron2.modeling.backbone.vit import SimpleFeaturePyramid, ViT, get_vit_lr_decay_rate
except ImportError as error:
    raise ImportError("ViTDet needs Detectron2's main: 0.6 has no ViT") from error

SIZE, DEPTH = 1024, 12

model.backbone = L(SimpleFeaturePyramid)(
    net=L(ViT)(
        img_size=SIZE,
        embed_dim=768,
        depth=DEPTH,
        num_heads=12,
        drop_path_rate=0.1,
        window_size=14,
        # Every third block has global attention; the others have window attention.
        window_block_indexes=[0, 1, 3, 4, 6, 7, 9, 10],
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        out_feature="last_feat",
    ),
    in_feature="${.net.out_feature}",
    out_channels=256,
    scale_factors=[4.0, 2.0, 1.0, 0.5],
    top_block=L(LastLevelMaxPool)(),
    norm="LN",
    square_pad=SIZE,
)
optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        lr_factor_func=partial(get_vit_lr_decay_rate, num_layers=DEPTH, lr_decay_rate=0.7),
        overrides={"pos_embed": {"weight_decay": 0.0}},
    ),
    lr=1e-4,
    weight_decay=0.1,
)
