"""From a base model to an assistant: SFT, reward model, DPO and GRPO, each a `steel.train.loop.Stage`."""
