"""The settings of a whole life at toy size, over the preset `smoke`."""

TOY = """world.people=12 world.biographies_per_person=4 world.arithmetic_problems=40 train.steps=6 train.eval_every=3
train.checkpoint_every=2 train.warmup_steps=2 sft.steps=3 dpo.steps=2 grpo.steps=2 grpo.batch_size=2
grpo.micro_batch_size=2 grpo.group_size=2 model.hidden_size=32 model.intermediate_size=64 model.num_attention_heads=2
model.num_key_value_heads=2 model.num_hidden_layers=1 tokenizer.vocab_size=400 model.vocab_size=400 exam.limit=2
exam.max_new_tokens=4 exam.min_text_accuracy=0 exam.min_cloze_accuracy=0""".split()
