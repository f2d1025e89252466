"""Run settings shared by all experiments."""

import torch

train = dict(
    output_dir="./output",
    # Weights to start from or to evaluate. For training, weights of the backbone are enough.
    init_checkpoint="",
    # Length of the run in epochs of the training data. The iterations and periods below and the
    # learning rate are for the config's data and reference batch size; for other data or another
    # batch size they are rescaled. With epochs=0 and reference_batch=0 they are not rescaled.
    epochs=0,
    reference_batch=0,
    iterations_per_epoch=0,
    max_iter=90000,
    seed=0,
    # Largest L2 norm of the gradient of all parameters; a longer one is scaled down. 0: no limit.
    clip_grad_norm=0.0,
    device="cuda" if torch.cuda.is_available() else "cpu",
    amp=dict(enabled=False, dtype="auto"),
    ddp=dict(find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5000, max_to_keep=5),
    eval_period=5000,
    log_period=20,
    # With several processes: seconds without an answer after which a process counts as lost.
    timeout=600,
    # Test-time augmentation (TTA) in every evaluation.
    tta=dict(enabled=False, min_sizes=[480, 640, 800], max_size=1333, flip=True),
)
