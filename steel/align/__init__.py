"""From a base model to an assistant: SFT, reward model, DPO and GRPO, all on `steel.train.loop.fit`."""
