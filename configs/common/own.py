"""Runs on your own images at 320 px with pretrained weights: minutes to an hour on a CPU.

``--train FOLDER_OR_FILE`` names your data; without it, a run uses the generated shapes. The number
of iterations is for 1,000 images, and the engine rescales it for other data.
"""

from .shapes import build_dataloader, length, optimizer, schedule, train

dataloader = build_dataloader(size=320)
dataloader_masks = build_dataloader(size=320, masks=True)
optimizer.lr = 1e-3
lr_multiplier = schedule(iterations=100)
train.update(length(12))
train.checkpointer.period = 500
