"""The training room: one loop under every stage, from one process to many machines.

from steel.train.pretrain import pretrain
pretrain(config.load("smoke"), "RUN/shards", "RUN/pretrain")

pretrain    a stage from configuration and shards      loop        the loop under every stage
build       model, kernels, compilation, sharding      optim       AdamW and Muon
schedule    learning rates, where the decay starts     parallel    ranks, and what to do without one
checkpoint  whole or absent                            run_folder  log, checkpoints, model folder
metrics     tokens/s, MFU, curves, trace               device      what it runs on, and its memory
preflight   memory before the first step, dry run      launch      Slurm and Kubernetes files
bench       `steel bench step`: how fast, what it sends, what would help
"""
