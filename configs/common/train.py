"""Run settings that are the same for all experiments."""

import torch

train = dict(
    output_dir="./output",
    # Weights to start from or to evaluate; the backbone's alone will do to start from.
    init_checkpoint="",
    # A length in epochs of whatever data is trained on. The iterations below, the periods and the
    # learning rate are for the config's own data at the reference batch, and are fitted to others;
    # 0 and 0 leave them as they are.
    epochs=0,
    reference_batch=0,
    iterations_per_epoch=0,
    max_iter=90000,
    seed=0,
    device="cuda" if torch.cuda.is_available() else "cpu",
    amp=dict(enabled=False, dtype="auto"),
    ddp=dict(find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5000, max_to_keep=5),
    eval_period=5000,
    log_period=20,
    # Test-time augmentation, in every evaluation.
    tta=dict(enabled=False, min_sizes=[480, 640, 800], max_size=1333, flip=True),
)
