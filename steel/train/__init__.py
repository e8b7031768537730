"""The training room: one loop under every stage, from one process to many machines.

    from steel.train.pretrain import pretrain
    pretrain(config.load("smoke"), "RUN/shards", "RUN/pretrain", "RUN/tokenizer")

loop        the loop: accumulation, clipping, skipped steps, log, signals, resume
optim       AdamW as the original used it, and Muon        schedule    learning rates and the annealing stage's start
parallel    ranks, FSDP2, weights that do not depend on the number of ranks
checkpoint  whole or absent, in the foreground or the background           run_folder  a RUN folder
metrics     tokens/s, MFU, TensorBoard, W&B, profiler      preflight   memory before the first step, the dry run
launch      Slurm and Kubernetes files                     plan        parameters, FLOPs, bytes, days, money
"""
