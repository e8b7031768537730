"""The training loop and everything around it: optimizers, schedules, sharding, checkpoints, plans."""
