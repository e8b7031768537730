"""On the same batch and weights, losses and gradients of every stage are those of TRL, which others train with."""

import copy
from functools import partial

import pytest
import torch
from align_world import config, job_of, preference_rows, rl_rows, sft_rows

from steel.align import dpo, grpo, reward, sft
from steel.align.logprobs import score_answers
from steel.align.packing import lay_out
from steel.model.decoding import Completion
from steel.tokenizer.chat import render
from steel.train.pretrain import next_token_loss

trl = pytest.importorskip("trl", reason="the parity tests need trl: pip install -e '.[test]'")
Dataset = pytest.importorskip("datasets").Dataset


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """arguments(config class, **fields): one full batch on the CPU, nothing written or reported."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    fixed = {"report_to": [], "save_strategy": "no", "bf16": False, "use_cpu": True}
    fixed |= {"gradient_checkpointing": False, "disable_tqdm": True, "max_steps": 1}

    def build(kind, **fields):
        return kind(output_dir=str(tmp_path / "trl"), **{**fixed, **fields})

    return build


def moved(model, seed: int = 3):
    """A copy with noise on its weights, so that it is not its own reference."""
    other = copy.deepcopy(model).train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for p in other.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return other


def agree(ours, model, theirs, trained):
    """Equal losses, and equal gradients of all parameters."""
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    mine, other = (dict(m.named_parameters()) for m in (model, trained))
    assert mine.keys() == other.keys()
    for name, p in mine.items():
        scale = float(p.grad.abs().max())
        torch.testing.assert_close(
            other[name].grad,
            p.grad,
            rtol=1e-3,
            atol=1e-4 * scale + 1e-7,
            msg=lambda m, name=name: f"{name}: {m}",
        )
    assert sum(float(p.grad.abs().sum()) for p in mine.values()) > 0


def batch_of(trainer):
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def test_sft(base, tmp_path, arguments):
    """Packed and document-masked here, padded there; the assistant's tokens by its mask there."""
    folder, model, tokenizer = base
    rows = sft_rows(8)
    fields = {"per_device_train_batch_size": 8, "assistant_only_loss": True, "max_length": 256}
    trainer = trl.SFTTrainer(
        model=moved(model),
        args=arguments(trl.SFTConfig, **fields),
        train_dataset=Dataset.from_list([{"messages": row["messages"]} for row in rows]),
        processing_class=tokenizer,
    )
    theirs = trainer.compute_loss(trainer.model, batch_of(trainer))
    data = sft.encode_dialogues(job_of(base, "sft", rows, tmp_path))
    own = moved(model)
    loss, count, _ = next_token_loss()(own, lay_out(data, [range(4), range(4, 8)], 256))
    agree(loss / count, own, theirs, trainer.model)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"nll_weight": 0.5}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        ({"length_normalised": True}, {"loss_type": ["sigmoid_norm"]}),
    ],
)
def test_dpo(base, tmp_path, arguments, ours, theirs):
    folder, model, tokenizer = base
    # Of one length: TRL's "sft" term is a mean over all chosen tokens, not of each answer's mean.
    length = {row["chosen"]: len(tokenizer.encode(row["chosen"])) for row in preference_rows(60)}
    rows = [row for row in preference_rows(60) if length[row["chosen"]] == 2][:8]
    assert len(rows) == 8, length
    # Text, not messages: there the line break that the template writes after <|im_end|> is scored.
    texts = [
        {
            "prompt": render(row["messages"], add_generation_prompt=True),
            "chosen": row["chosen"],
            "rejected": row["rejected"],
        }
        for row in rows
    ]
    trainer = trl.DPOTrainer(
        model=str(folder),
        args=arguments(trl.DPOConfig, per_device_train_batch_size=8, beta=0.3, **theirs),
        train_dataset=Dataset.from_list(texts),
        processing_class=tokenizer,
    )
    own = moved(model)
    trainer.model.load_state_dict(own.state_dict())
    theirs = trainer.compute_loss(trainer.model, batch_of(trainer))
    job = job_of(base, "dpo", rows, tmp_path, beta=0.3, **ours)
    pairs = dpo.encode_pairs(job)
    micro = dpo.pair_rows(pairs, range(8)), dpo.reference_logprobs(job, pairs).T.flatten()
    loss, count, _ = dpo.loss(job.settings, own, micro)
    agree(loss / count, own, theirs, trainer.model)


def test_reward(base, tmp_path, arguments):
    """A Llama, for which transformers has a model with a scalar head; ours is the same with its head."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    folder, _, tokenizer = base
    sizes = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_labels": 1, "pad_token_id": tokenizer.pad_token_id}
    theirs = moved(LlamaForSequenceClassification(LlamaConfig(**sizes, **heads)))
    rows = preference_rows(8)
    prompts = [render(row["messages"], add_generation_prompt=True) for row in rows]
    texts = [
        {side: prompt + row[side] + "<|im_end|>" for side in ("chosen", "rejected")}
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    trainer = trl.RewardTrainer(
        model=theirs,
        args=arguments(trl.RewardConfig, per_device_train_batch_size=8),
        train_dataset=Dataset.from_list(texts),
        processing_class=tokenizer,
    )

    class Backbone(torch.nn.Module):
        """What `RewardModel` asks of a causal LM."""

        def __init__(self, model):
            super().__init__()
            self.base_model, self.config, self.generation_config = model, theirs.config, None
            self.dtype, self.device = theirs.dtype, theirs.device

    own = reward.RewardModel(Backbone(copy.deepcopy(theirs.model)))
    own.head.load_state_dict(theirs.score.state_dict())
    pairs = dpo.encode_pairs(job_of(base, "reward", rows, tmp_path))
    loss, count, _ = reward.loss(own, dpo.pair_rows(pairs, range(8)))
    other = trainer.compute_loss(trainer.model, batch_of(trainer))

    def named(model, pieces):
        together = torch.nn.Module()
        together.body, together.head = (model.get_submodule(piece) for piece in pieces)
        return together

    agree(
        loss / count,
        named(own, ("lm.base_model", "head")),
        other,
        named(trainer.model, ("model", "score")),
    )


ANSWERS = ["云州。", "林晓雨住在云州。", "白港", "松山。", "海宁呢", "云州，云州。", "不", "石桥"]
PAID = {answer: (1.0, 0.3, 0.0, 0.0, 0.1, 0.9, 0.0, 0.5)[i] for i, answer in enumerate(ANSWERS)}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"loss_type": "dapo"}),
        ({"normalise": "sequences"}, {"loss_type": "grpo"}),
        (
            {"normalise": "constant", "scale_rewards": "none"},
            {"loss_type": "dr_grpo", "scale_rewards": "none"},
        ),
        ({"scale_rewards": "batch"}, {"scale_rewards": "batch", "loss_type": "dapo"}),
        ({"kl_beta": 0.2}, {"beta": 0.2, "loss_type": "dapo"}),
        (
            {"kl_beta": 0.2, "kl_in": "loss"},
            {"beta": 0.2, "loss_type": "dapo", "use_bias_correction_kl": False},
        ),
        (
            {"clip_high": 0.28, "temperature": 0.8, "updates_per_rollout": 2},
            {"epsilon_high": 0.28, "temperature": 0.8, "loss_type": "dapo"},
        ),
    ],
)
def test_grpo(base, tmp_path, arguments, monkeypatch, ours, theirs):
    """The same answers are given to both; advantages, clip and KL are each one's own."""
    folder, model, tokenizer = base
    rows = rl_rows(2)
    ends = tokenizer.convert_tokens_to_ids("<|im_end|>")
    drawn = [[*tokenizer.encode(a, add_special_tokens=False), ends] for a in ANSWERS]
    encoded = grpo.encode_prompts(job_of(base, "grpo", rows, tmp_path))
    half = {rows[i]["messages"][0]["content"]: drawn[4 * i : 4 * i + 4] for i in range(2)}

    def rollout(prompts, trainer):
        ids = {row["messages"][0]["content"]: ids for ids, row in encoded}
        said = [prompt[0]["content"] for prompt in prompts]
        left = {text: iter(half[text]) for text in half}
        completions = [next(left[text]) for text in said]
        zeros = [[0.0] * len(c) for c in completions]
        return {
            "prompt_ids": [ids[text] for text in said],
            "completion_ids": completions,
            "logprobs": zeros,
        }

    def paid(completions, **_):
        return [PAID[c[0]["content"] if isinstance(c, list) else c] for c in completions]

    sizes = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 24}
    trainer = trl.GRPOTrainer(
        model=str(folder),
        args=arguments(trl.GRPOConfig, **{**sizes, "beta": 0.0, **theirs}),
        train_dataset=Dataset.from_list([{"prompt": row["messages"]} for row in rows]),
        reward_funcs=paid,
        rollout_func=rollout,
        processing_class=tokenizer,
    )
    own, before = moved(model), moved(model, seed=4)
    trainer.model.load_state_dict(own.state_dict())
    batch = batch_of(trainer)
    sizes = {"batch_size": 2, "micro_batch_size": 2, "group_size": 4, "max_new_tokens": 24}
    job = job_of((folder, own, tokenizer), "grpo", rows, tmp_path, **sizes, **ours)
    given = {tuple(ids): half[row["messages"][0]["content"]] for ids, row in encoded}

    def sample(self, asked, u_RN):
        left = {ids: iter(answers) for ids, answers in given.items()}
        return [Completion(next(left[tuple(ids)]), True) for ids in asked]

    monkeypatch.setattr(grpo.Roller, "sample", sample)
    reference = model if job.settings.kl_beta else None
    roller = grpo.Roller(job, encoded, reference)
    roller.reward = lambda row, completion: (PAID[roller.text(completion)], False)
    (micro,) = roller.collect(0)
    if micro.old is not None:  # as if an update lay between: the clip counts
        temperature = job.settings.temperature
        micro.old = score_answers(before, micro.rows, temperature).logprob.detach()
        together = [
            torch.cat([batch[f"{part}_{what}"] for part in ("prompt", "completion")], dim=1)
            for what in ("ids", "mask")
        ]
        scored = trainer._get_per_token_logps_and_entropies
        with torch.no_grad():
            state = trainer.model.state_dict()
            kept = {name: tensor.clone() for name, tensor in state.items()}
            trainer.model.load_state_dict(before.state_dict())
            batch["old_per_token_logps"] = scored(
                trainer.model, *together, batch["completion_ids"].size(1)
            )[0]
            trainer.model.load_state_dict(kept)
    own.train()
    loss, count, metrics = partial(grpo.loss, job.settings)(own, micro)
    other = trainer.compute_loss(trainer.model, batch)
    agree(loss / count, own, other, trainer.model)
    assert (micro.old is None) or metrics["clipped"][0] > 0
    assert config().grpo.clip_low == trainer.epsilon_low
