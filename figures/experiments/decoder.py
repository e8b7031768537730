"""What chapter 06 needs beside the decoder that it writes: transformers' models in its clothes, batches, the shapes of
the presets, and the proof at any preset's width.

Shapes: B batch, T time, U positions looked at (past + T), D model width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from figures.experiments.runs import town_shards
from steel.config import Config, ModelConfig
from steel.data.batch import Batch
from steel.data.loader import Loader
from steel.data.shards import ShardSet
from steel.model import build
from steel.model.original import to_transformers
from steel.plan import count_parameters

LARGE = 1e8  # parameters; a larger model is proved in two layers of its own width


class Adapted:
    """A transformers model that is called like the decoder of chapter 06; logits (B, T, V).

    Its one cache holds every layer, and travels as an attribute of the only item of `caches`.
    """

    def __init__(self, model) -> None:
        self.model, self.embed_tokens, self.layers = model, model.model.embed_tokens, [model]

    def __call__(self, tokens_BT, position_BT=None, valid_BU=None, caches=None):
        kept = caches and vars(caches[0]).setdefault("of_all_layers", DynamicCache())
        return self.model(
            input_ids=tokens_BT, past_key_values=kept, attention_mask=valid_BU,
            position_ids=position_BT, use_cache=kept is not None,
        ).logits  # fmt: skip


def twins(model: ModelConfig) -> tuple[Adapted, Adapted]:
    """steel's model and transformers' own of the same shape and weights, in fp64."""
    ours, other = build(model), to_transformers(build(model))
    return Adapted(ours.double().eval()), Adapted(other.double().eval())


def packed_rows(cfg: Config, folder: Path, length: int, rows: int) -> Loader:
    """Rows of `length` tokens packed from the closed world of `cfg`, which is made in `folder` if it is not there."""
    return Loader(ShardSet.open(town_shards(cfg, folder)), length, rows, cfg.seed)


def floor_of(batch: Batch) -> float:
    """H(next token | current token), counted in the batch [nats/token]."""
    pairs_N2 = torch.stack((batch.input_ids, batch.targets)).flatten(1).T
    _, kind_N, times = pairs_N2.unique(dim=0, return_inverse=True, return_counts=True)
    current_N = pairs_N2[:, 0].bincount()[pairs_N2[:, 0]]
    return -(times[kind_N] / current_N).log().mean().item()


def crossing(position_BT: torch.Tensor) -> float:
    """Share of the pairs that a causal mask allows, a token with itself included, that join two documents."""
    document_BT = (position_BT == 0).cumsum(1)
    across_BTT = (document_BT[:, :, None] != document_BT[:, None, :]).tril()
    B, T = position_BT.shape
    return across_BTT.sum().item() / (B * T * (T + 1) / 2)


SHAPE_COLUMNS = ["preset", "parameters (M)", "heads × channels", "key heads", "cache (kB/token)", "RoPE base",
                 "in embedding and head"]  # fmt: skip


def shape_row(name: str, m: ModelConfig) -> list:
    """One model in a line: what its attention looks like, its vocabulary's share, what a cached token costs in bf16."""
    heads, shared = m.num_attention_heads, m.num_key_value_heads or m.num_attention_heads
    channels = m.head_dim or m.hidden_size // heads
    parameters = count_parameters(m)
    words = parameters["embedding"] + parameters["lm_head"]
    cache_bytes = 2 * m.num_hidden_layers * shared * channels * 2
    return [name, f"{parameters['total'] / 1e6:,.1f}", f"{heads} × {channels}", shared, f"{cache_bytes / 1e3:.1f}",
            f"{m.rope_theta:,.0f}", f"{words / parameters['total']:.1%}"]  # fmt: skip


def as_llama(m: ModelConfig) -> int:
    """Parameters of transformers' own Llama of the same shape, on the meta device."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "tie_word_embeddings")  # fmt: skip
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**{n: getattr(m, n) for n in names})).num_parameters()


def verify(cfg: Config, agreements: dict) -> bool:
    """Print the agreements of the model of a preset, in fp64; returns whether all hold.

    A model of more than a hundred million parameters is cut to two layers of its own width and 4,096 tokens.
    """
    device, shape = "cuda" if torch.cuda.is_available() else "cpu", cfg.model
    print("  ".join(map(str, shape_row(cfg.preset, shape))))
    if count_parameters(shape)["total"] > LARGE:
        shape = dataclasses.replace(shape, num_hidden_layers=2, vocab_size=4096)
        print("cut to two layers of this width and a vocabulary of 4,096")
    draw = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(1, shape.vocab_size, (2, 40), generator=draw).to(device)
    model, holds = Adapted(build(shape, device, torch.float64).eval()), True
    for name, test in agreements.items():
        found = test(model, tokens_BT)
        right = found == 0 if name.startswith("future") else found < 1e-10
        holds &= right
        print(f"{name:18} {f'{found:.0e}' if found else '0':6} {'holds' if right else 'FAILS'}")
    return holds
