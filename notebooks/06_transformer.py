# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 · A decoder that agrees with itself
#
# You have called `AutoModelForCausalLM.from_pretrained` a hundred times. In this chapter you write what is behind it, in about a hundred lines, and then you
# try to find out whether it is right. That second part is the harder one. A decoder with a bug does not crash. It trains, its loss falls, its samples are
# only somewhat worse than they should be, and nobody knows how good they should be. The original met a hard case of it: a feed-forward layer that
# reads the future looks, in a training log, like a layer that works well (chapter 07).
#
# So we collect tests that a model can pass *before its first token of training*: eight of them, seconds each. Then we plant nine bugs, all of them real ones,
# and see which test finds which.
#
# ```{admonition} Predict
# :class: predict
# The test that everybody runs first is to overfit: take one batch, train on nothing else, and see the loss go to zero. Below are nine bugs. Write down how many
# of them this test will find.
#
# The model looks one token ahead · it looks at no token but the current one · cached decoding counts positions from zero again · documents packed into one row see
# each other · padding is visible · grouped queries use the wrong keys · scores are not divided by $\sqrt{C}$ · feed-forward layers get no gradient · the targets are
# not shifted.
# ```

# %%
import dataclasses
import math
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from steel import life as lifecycle
from steel.config import load, preset
from steel.data.loader import Loader
from steel.data.shards import ShardSet
from steel.model import build, steel_config
from steel.model.original import to_transformers
from steel.plan import count_parameters

cfg = preset()  # --preset cpu, minillm-0.2b, steel-1b, …


# %% tags=["active-ipynb", "hide-input"]
# import matplotlib
#
# from figures.style import FURNACE, PAPER, SLATE, STEEL, axis_units, figure, label_line, say, show, table
# from steel.model.attention import SteelRMSNorm, apply_rope, rope_tables

# %% [markdown]
# ## Napkin
#
# ```{admonition} Napkin
# :class: napkin
# While a model writes, it keeps the keys and values of every past token in every layer: $2 \cdot L \cdot K \cdot C$ numbers a token, with $K$ key heads of $C$
# channels. Steel has $18$ layers and $32$ heads of $56$, no sharing, two bytes each: $2 \cdot 18 \cdot 1792 \cdot 2 \approx 130$ kB for one token, a quarter of a
# gigabyte for its longest text. HammerLLM lets eight queries share a key: $2 \cdot 22 \cdot 4 \cdot 64 \cdot 2 \approx 23$ kB, with more layers and a wider stream.
# ```
#
# Keep the first number: a cache is a second program that has to compute the same function as the first one. Most of what follows is about that.
#
# ## Build: a norm and a clock
#
# A decoder block reads the residual stream, normalises what it read, computes, and *adds* the result back {cite:p}`vaswani2017`. Normalising before and not after the
# computation (pre-norm) leaves a path of pure additions from the embedding to the head, along which gradients travel undisturbed. The norm is RMSNorm
# {cite:p}`rmsnorm2019`: divide by the root mean square, multiply by a learned gain, subtract nothing.

# %%
class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight


# %% [markdown]
# Attention has no sense of order. RoPE {cite:p}`rope2021` gives it one: cut each head of a query or key into pairs of channels and rotate pair $i$ at position $p$ by the
# angle $p \, \theta^{-2i/C}$. The product of a rotated query and a rotated key then depends on their *distance* only, and nothing has to be learned. The first pair
# turns by a radian per token, the last by almost nothing: a clock with many hands.

# %%
def rope(x_BTHC, position_BT, theta):
    """Rotate channel i with channel i + C/2. Angles in fp32, result in x's type."""
    C = x_BTHC.shape[-1]
    speed = 1 / theta ** (torch.arange(0, C, 2, device=x_BTHC.device).float() / C)
    angle = position_BT[..., None, None].float() * speed
    a, b = x_BTHC.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x_BTHC.dtype)


# %% tags=["active-ipynb"]
# x_BTHC, position_BT = torch.randn(2, 9, 4, 32), torch.arange(9).expand(2, -1)
# theirs = apply_rope(x_BTHC, *rope_tables(position_BT, 32, 1e4))
# assert torch.equal(rope(x_BTHC, position_BT, 1e4), theirs)
# norm, steel_norm = RMSNorm(32, 1e-6), SteelRMSNorm(32, 1e-6)
# assert torch.allclose(norm(x_BTHC), steel_norm(x_BTHC), atol=1e-6)

# %% [markdown]
# Why insist on fp32? Everything around it is bfloat16 in a large run, and bfloat16 keeps eight bits of a number. Of a position beyond two hundred and
# fifty-six it cannot even hold the integer. Take one query and one key, always five tokens apart, and move the pair along Steel's sequence. The score should not
# change at all.

# %% tags=["active-ipynb"]
# def moved(angle_type, table_type, C=56, theta=1e6, T=2048):
#     """Score of one (query, key) pair five tokens apart, at every place of a sequence."""
#     q_C, k_C = torch.randn(2, C, generator=torch.Generator().manual_seed(0))
#     k_C, speed = q_C + k_C / 2, 1 / theta ** (torch.arange(0, C, 2) / C)
#     def turn(x_C, p_T):
#         angle = (p_T[:, None].to(angle_type) * speed.to(angle_type)).float()
#         cos, sin = angle.cos().to(table_type), angle.sin().to(table_type)
#         a, b = x_C.chunk(2)
#         return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
#     p_T = torch.arange(5, T)
#     return (turn(q_C, p_T) * turn(k_C, p_T - 5)).sum(-1) / C**0.5

# %% tags=["active-ipynb", "hide-input"]
# wide, half = torch.float32, torch.bfloat16
# exact, rounded, wrong = moved(wide, wide), moved(wide, half), moved(half, wide)
# fig, ax = figure(2.6)
# ax.plot(range(5, 2048, 6), wrong[::6] - exact[0], color=FURNACE, lw=0.7)
# ax.plot(range(5, 2048, 6), rounded[::6] - exact[0], color=SLATE, lw=1)
# ax.plot(range(5, 2048), exact - exact[0], color=STEEL)
# ax.set(xlim=(0, 2700), xticks=[0, 256, 512, 1024, 2048], ylim=(-0.9, 1.6))
# label_line(ax, 2048, 0.8, "angles in bfloat16", FURNACE)
# label_line(ax, 2048, -0.35, "fp32 angles, bfloat16\ncosines: barely visible", SLATE)
# label_line(ax, 2048, 0.06, "all in fp32", STEEL)
# axis_units(ax, x="position of the pair (tokens)", y="change of the attention score (nats)")
# show(fig, alt="Change of one attention score while the pair moves along the sequence: zero in fp32, and with bfloat16 angles an error that grows past 256 tokens to more than half a nat.",
#      caption="One query and one key at a constant distance, 28 pairs of channels, base one million. A score should not know where in the text it is.")
# say(f"With fp32 angles the score varies by {exact.std():.0e} nats over the sequence, with cosines rounded to bfloat16 by {rounded.std():.4f}, with angles "
#     f"computed in bfloat16 by {wrong.std():.2f}: attention weights off by a factor of {math.exp((wrong - exact).abs().max()):.1f} at worst.")

# %% [markdown]
# Rounding the *result* is harmless, rounding the *angle* is not: an error of two thousandths in an angle of a thousand radians is two radians, a third of a turn. `steel` computes the
# tables from integer positions on every call, in fp32, and hands them to the blocks inside a plain object. The reason for the plain object stands in the
# failure gallery.
#
# ## Build: attention and the block
#
# Grouped queries {cite:p}`gqa2023`: $H$ query heads, $K \le H$ key and value heads, each shared by $H / K$ neighbours. Steel uses $K = H$. Below, $U$ counts the positions looked *at*, the past of
# a cache included; elsewhere $U = T$.

# %%
def attend(q_BTHC, k_BUKC, v_BUKC, mask_BTU):
    """softmax(q k / sqrt(C)) v with shared keys; the result and the weights (B, H, T, U)."""
    group = q_BTHC.shape[2] // k_BUKC.shape[2]
    k_BUHC, v_BUHC = (z.repeat_interleave(group, dim=2) for z in (k_BUKC, v_BUKC))
    score_BHTU = torch.einsum("bthc,buhc->bhtu", q_BTHC, k_BUHC) * q_BTHC.shape[-1] ** -0.5
    weight_BHTU = score_BHTU.masked_fill(~mask_BTU[:, None], -torch.inf).softmax(dim=-1)
    return torch.einsum("bhtu,buhc->bthc", weight_BHTU, v_BUHC), weight_BHTU


# %% [markdown]
# The module around it owns two matrices. As in Qwen1.5 {cite:p}`qwen2023`, queries, keys and values have a bias and nothing else has. QK-norm, an RMSNorm on each head before the rotation, bounds
# the scores; Steel had none, our larger presets switch it on.

# %%
class Attention(nn.Module):
    attend = staticmethod(attend)

    def __init__(self, c):
        super().__init__()
        self.heads, self.theta = [c.num_attention_heads] + 2 * [c.num_key_value_heads], c.rope_theta
        self.qkv_proj = nn.Linear(c.hidden_size, sum(self.heads) * c.head_dim, bias=c.qkv_bias)
        self.o_proj = nn.Linear(self.heads[0] * c.head_dim, c.hidden_size, bias=False)
        norm = lambda: RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm else nn.Identity()
        self.q_norm, self.k_norm = norm(), norm()

    def forward(self, x_BTD, position_BT, mask_BTU, cache=None):
        qkv = self.qkv_proj(x_BTD).unflatten(-1, (sum(self.heads), -1))
        q, k, v = qkv.split(self.heads, dim=2)
        q, k = (rope(z, position_BT, self.theta) for z in (self.q_norm(q), self.k_norm(k)))
        if cache is not None:
            past = cache.get(self, (k[:, :0], v[:, :0]))
            k, v = cache[self] = tuple(torch.cat(pair, dim=1) for pair in zip(past, (k, v)))
        out_BTHC, self.weight_BHTU = self.attend(q, k, v, mask_BTU)
        return self.o_proj(out_BTHC.flatten(2))


# %% [markdown]
# The cache is a dictionary: what this layer has computed so far, and three lines that append to it. The feed-forward half is SwiGLU {cite:p}`swiglu2020`, one
# matrix to open a gate, one to fill it, one to come back. What Steel put in its place is the subject of the next two chapters.

# %%
class SwiGLU(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_up_proj = nn.Linear(c.hidden_size, 2 * c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x_BTD):
        gate_BTF, up_BTF = self.gate_up_proj(x_BTD).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate_BTF) * up_BTF)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = SwiGLU(c)

    def forward(self, x_BTD, *how):
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), *how)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


# %% [markdown]
# ## Build: who may look where
#
# All that a decoder knows about its input, beside the tokens, is a position for each and a mask. Three situations need three rules:
#
# - *one text*: look at yourself and back;
# - *packed row*: several documents stand in one row so that no compute goes into padding; look back, and not across a document's start. A start is
#   where the position is zero again. That is the whole signal, and transformers {cite:p}`transformers2020` uses the same;
# - *padded batch*: prompts of different length stand in one batch, filled up on the left; do not look at the filling.

# %%
def count(tokens_BT, past, valid_BU):
    """Positions when none are given: from the first real token of each row, or the cache's end."""
    B, T = tokens_BT.shape
    if valid_BU is not None:
        return (valid_BU.cumsum(dim=1) - 1).clamp_min(0)[:, -T:]
    return torch.arange(past, past + T, device=tokens_BT.device).expand(B, T)


def look(position_BT, past, valid_BU):
    """(B, T, U), True where a query may look: not ahead, not across documents, not at padding."""
    key_U = torch.arange(past + position_BT.shape[1], device=position_BT.device)
    query_T1 = key_U[past:, None]
    mask_BTU = (key_U <= query_T1).expand(len(position_BT), -1, -1)
    if past == 0:
        document_BT = (position_BT == 0).cumsum(dim=1)
        mask_BTU = mask_BTU & (document_BT[:, :, None] == document_BT[:, None, :])
    if valid_BU is not None:
        mask_BTU = mask_BTU & valid_BU.bool()[:, None, :] | (key_U == query_T1)
    return mask_BTU


# %% [markdown]
# The last clause lets a padding token look at itself. It has nothing to say, but a softmax over nothing is a division of zero by zero, and one NaN in a row that nobody reads
# reaches every weight through the gradient.

# %%
class Decoder(nn.Module):
    count, look = staticmethod(count), staticmethod(look)

    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, tokens_BT, position_BT=None, valid_BU=None, cache=None):
        past = next(iter(cache.values()))[0].shape[1] if cache else 0
        if position_BT is None:
            position_BT = self.count(tokens_BT, past, valid_BU)
        mask_BTU, x_BTD = self.look(position_BT, past, valid_BU), self.embed_tokens(tokens_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, position_BT, mask_BTU, cache)
        return self.norm(x_BTD) @ self.embed_tokens.weight.T  # a tied head


# %% [markdown]
# That is all of it. Is it right? The names of the weights were chosen with care, so two finished models can be asked: `steel`'s own, and, when there is no QK-norm, the Qwen2 of
# `transformers`, which knows nothing of either.

# %%
tiny = dataclasses.replace(load("cpu").model, num_hidden_layers=2, num_key_value_heads=2)

def twins(model_cfg, seed=0):
    """The decoder of this chapter and steel's, with the same weights, in fp64."""
    theirs = build(model_cfg, seed=seed)
    mine = Decoder(steel_config(model_cfg))
    mine.load_state_dict(theirs.model.state_dict())
    return mine.double().eval(), theirs.double().eval()

tokens_BT = torch.randint(1, tiny.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))


# %% tags=["active-ipynb"]
# def gap(a, b):
#     return (a - b).abs().max().item()
#
# mine, theirs = twins(tiny)
# normed, also_normed = twins(dataclasses.replace(tiny, qk_norm=True))
# qwen = to_transformers(build(tiny)).double()
# print(f"against steel.model:            {gap(mine(tokens_BT), theirs(tokens_BT).logits):.0e}")
# print(f"against steel.model, QK-norm:   {gap(normed(tokens_BT), also_normed(tokens_BT).logits):.0e}")
# print(f"against {type(qwen).__name__}:       {gap(mine(tokens_BT), qwen(tokens_BT).logits):.0e}")
# assert gap(mine(tokens_BT), theirs(tokens_BT).logits) < 1e-12
# assert gap(mine(tokens_BT), qwen(tokens_BT).logits) < 1e-5

# %% [markdown]
# Qwen2 stops at the seventh digit because its norms round to fp32 on purpose. This is *parity*, the strongest test there is, and the first of our eight. It has one weakness: it needs somebody
# who has built the same thing before. For a new layer nobody has. The other seven need nobody.
#
# ## Birth
#
# Weights have to start somewhere. The usual choice is a normal distribution with a standard deviation of 0.02 for every matrix. Where does 0.02 come from? A matrix that reads a normalised
# vector of width $D$ keeps its size if the deviation is $1/\sqrt{D}$, and that is 0.02 for $D = 2500$. The habit fits the models it comes from. At Steel's width it is
# nearly right. At the width of a chapter that runs on a laptop it is not.
#
# `steel` derives the deviation from what a matrix does. One that *reads* the normalised stream gets $1/\sqrt{D}$. One that *writes* to the stream is scaled so that the $2L$ branches of the
# model together add a fixed multiple of what the embedding put there. To see the difference, build 24 layers both ways, send one batch through, and ask of each layer how loud it speaks: the size of its feed-forward
# output over the size of the stream it joins.

# %% tags=["active-ipynb"]
# def loudness(width, expert="swiglu", std=None, layers=24):
#     """Per layer: RMS of the feed-forward output over that of the stream; gradient norm."""
#     model = build(dataclasses.replace(
#         tiny, num_hidden_layers=layers, hidden_size=width, intermediate_size=3 * width, expert=expert))
#     for p in model.parameters() if std else []:
#         p.data = torch.randn_like(p) * std if p.ndim > 1 else p.data
#     size, rms = [], lambda x: x.detach().square().mean().sqrt().item()
#     for layer in model.model.layers:
#         layer.mlp.register_forward_hook(lambda _, __, out: size.append(rms(out)))
#         layer.register_forward_hook(lambda _, __, out: size.append(rms(out)))
#     model(tokens_BT, labels=tokens_BT).loss.backward()
#     slopes = [torch.cat([p.grad.flatten() for p in layer.parameters()]).norm().item()
#               for layer in model.model.layers]
#     return [branch / stream for branch, stream in zip(size[::2], size[1::2])], slopes

# %% tags=["active-ipynb", "hide-input"]
# torch.manual_seed(0)
# born = {(expert, width, std): loudness(width, expert, std)
#         for expert in ("swiglu", "double_swiglu") for width in (64, 256) for std in (None, 0.02)}
# fig, axes = figure(2.9, ncols=2, sharey=True)
# for ax, expert in zip(axes, ("swiglu", "double_swiglu")):
#     for width in (64, 256):
#         for std, color in ((None, STEEL), (0.02, SLATE)):
#             curve = born[expert, width, std][0]
#             ax.semilogy(range(1, 25), curve, color=color, ls="-" if width == 256 else (0, (4, 2)))
#             if std:
#                 label_line(ax, 24, curve[-1], f"D = {width}", SLATE)
#     ax.set(xlim=(1, 31), xticks=[1, 8, 16, 24], ylim=(3e-6, 2))
#     ax.set_xlabel("layer")
#     label_line(ax, 24, born[expert, 256, None][0][-1], "ours", STEEL)
# axes[0].set_title("one gate (SwiGLU)\nfeed-forward over stream")
# axes[1].set_title("two gates (Steel's expert)\n")
# show(fig, alt="Share of the stream that each of 24 layers' feed-forward adds at birth. With our initialisation 50 to 17 percent at both widths; with a constant 0.02 it falls with depth and width, "
#      "below one in ten thousand for two gates at width 64.",
#      caption="At birth, one batch. Blue: ours. Grey: 0.02 for every matrix. Dashed: width 64, solid: width 256. Both blue lines lie on each other.")

# %% tags=["active-ipynb", "hide-input"]
# last = {key: value[0][-1] for key, value in born.items()}
# ours, usual = born["swiglu", 64, None][1], born["swiglu", 64, 0.02][1]
# quiet = [f'{last["swiglu", 64, 0.02]:.1%}', f'{last["swiglu", 256, 0.02]:.1%}', f'{last["double_swiglu", 64, 0.02]:.4%}']
# say(f"The last layer adds {last['swiglu', 64, None]:.0%} of the stream with ours at width 64 and {last['swiglu', 256, None]:.0%} at 256; with 0.02 it adds {quiet[0]} and {quiet[1]}, and with two gates "
#     f"{quiet[2]} at width 64. Gradients are not the difference: first layer over last is {ours[0] / ours[-1]:.0f} with ours and {usual[0] / usual[-1]:.0f} with 0.02, both harmless, because Adam divides by their size.")

# %% [markdown]
# A layer as quiet as the grey curve on the right is not broken. It trains as if it were not there, until it wakes up; how long that takes is a question for chapter 08. The tests of `steel` hold every feed-forward, with one gate or two and up to 48
# layers, between 1 % and 300 % of the stream it joins. And two things can be read off any newborn model, whatever its initialisation: its loss must be near $\ln V$, since it knows nothing, and *every* weight must receive a gradient. These are
# tests two and three.
#
# ## One batch by heart
#
# Now the famous one. A batch from the closed world: four rows of packed documents.

# %%
def first_batches(cfg, run, T=64, rows=4):
    """Two batches of packed text from the closed world of `cfg`: world, documents, tokens."""
    shutil.rmtree(run, ignore_errors=True)
    life = lifecycle.Life(cfg, run)
    life.open()
    for name, work in (("world", life.make_world), ("docs", life.make_documents),
                       ("tokenizer", life.make_tokenizer), ("shards", life.make_shards)):
        life.stage(name, work)
    loader = Loader(ShardSet.open(run / "shards"), T, rows, cfg.seed)
    return loader.batch(0), loader.batch(1)


# %%
def memorise(logits, parameters, batch, steps=60, shift=True):
    """Train on one batch and nothing else; the loss [nats/token] of every step."""
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    targets_N, losses = (batch.targets if shift else batch.input_ids).flatten(), []
    for _ in range(steps):
        loss = F.cross_entropy(logits(batch).flatten(0, 1), targets_N)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


# %% [markdown]
# What would the loss be if the model could *not* remember? If attention did not work, only the current token could be used to guess the next one, and the best guess has a known price: the entropy of the
# next token given the current one, counted in the batch itself.

# %% tags=["active-ipynb"]
# batch, other = first_batches(load("cpu"), Path("runs") / "06_transformer-cpu")
# pairs = torch.stack((batch.input_ids, batch.targets)).flatten(1).T
# together, inverse, repeats = pairs.unique(dim=0, return_inverse=True, return_counts=True)
# follow = repeats[inverse].double()
# seen = pairs[:, 0].bincount()[pairs[:, 0]].double()
# floor = -(follow / seen).log().mean().item()   # H(next | current), nats per token
# documents = (batch.position_ids == 0).sum().item()
# say(f"{batch.input_ids.numel()} tokens, {documents} pieces of documents. Knowing nothing costs {math.log(tiny.vocab_size):.2f} nats per token; knowing which token "
#     f"follows which, in this batch, still costs **{floor:.2f}**. Knowing the batch costs nothing.")

# %% tags=["active-ipynb"]
# def newborn(plant=lambda model: None):
#     model = Decoder(steel_config(tiny))
#     model.load_state_dict(build(tiny).model.state_dict())
#     plant(model)
#     return model
#
# def deaf(model):  # attention that looks at the current token only
#     itself = lambda p, past: torch.eye(past + p.shape[1]).bool()[past:]
#     model.look = lambda p, past, valid: look(p, past, valid) & itself(p, past)
#
# def by_heart(model, **kwargs):
#     return memorise(lambda b: model(b.input_ids, b.position_ids), list(model.parameters()), batch, **kwargs)
#
# model = newborn()
# right, cannot = by_heart(model), by_heart(newborn(deaf))
# assert right[-1] < 0.05 < floor - 0.1 < cannot[-1]

# %% tags=["active-ipynb", "hide-input"]
# with torch.no_grad():
#     elsewhere = F.cross_entropy(model(other.input_ids, other.position_ids).flatten(0, 1), other.targets.flatten()).item()
# fig, ax = figure(2.7)
# for level, name in ((math.log(tiny.vocab_size), "every token equally likely"), (floor, "best guess from the current token alone")):
#     ax.axhline(level, color=SLATE, lw=0.9, ls=(0, (4, 3)))
#     ax.annotate(name, (34, level), xytext=(0, 3 if level > 1 else -3), textcoords="offset points", va="bottom" if level > 1 else "top", fontsize=8, color=SLATE)
# ax.semilogy(range(1, 61), cannot, color=FURNACE)
# ax.semilogy(range(1, 61), right, color=STEEL)
# label_line(ax, 60, cannot[-1], f"deaf {cannot[-1]:.2f}", FURNACE, xytext=(5, 5))
# label_line(ax, 60, right[-1], f"whole {right[-1]:.3f}", STEEL)
# ax.set(xlim=(0, 70), ylim=(0.005, 20), yticks=[0.01, 0.1, 1, 10], yticklabels=["0.01", "0.1", "1", "10"])
# ax.minorticks_off()
# axis_units(ax, x="steps on the same batch", y="loss (nats per token, logarithmic)")
# show(fig, alt=f"Loss on one batch over 60 steps: the whole decoder falls to {right[-1]:.2f}, a decoder whose attention sees only the current token stops at {cannot[-1]:.2f}, the entropy of the batch's pairs.",
#      caption="One batch of 256 tokens, AdamW. The floor is computed from the batch, not fitted.")
# say(f"After sixty steps: **{right[-1]:.3f}** nats on this batch, {elsewhere:.1f} on another one, which is worse than knowing nothing.")

# %% [markdown]
# A loss that stops is a measurement. At the floor of pairs: attention contributes nothing. At the unigram entropy: not even the current token gets through. At $\ln V$: the gradient does not arrive, or the
# optimizer holds other parameters than the model (chapter 11 has that one). At a level that shrinks with a larger learning rate: nothing is wrong but patience. And a loss that goes to zero proves that information
# and gradients flow from the inputs to the targets. Does it prove more?
#
# ## Four ways to say the same thing
#
# Here are the tests that need no teacher. Each runs the same function in two ways, in fp64, where rounding is far below any real difference. First the adapters, so that the tests fit our decoder, `steel`'s models and
# anything from `transformers` alike.

# %%
def run(model, tokens_BT, cache=None, valid_BU=None, position_BT=None):
    """Logits (B, T, V) of the chapter's decoder or of any transformers model."""
    if isinstance(model, Decoder):
        return model(tokens_BT, position_BT, valid_BU, cache)
    return model(input_ids=tokens_BT, past_key_values=cache, attention_mask=valid_BU,
                 position_ids=position_BT, use_cache=cache is not None).logits


def decode(model, tokens_BT, prefill, valid_BU=None):
    """The same logits from a cache: `prefill` tokens at once, then one at a time."""
    cache = {} if isinstance(model, Decoder) else DynamicCache()
    cuts, parts = [0, *range(prefill, tokens_BT.shape[1] + 1)], []
    for begin, end in zip(cuts, cuts[1:]):
        valid = None if valid_BU is None else valid_BU[:, :end]
        parts.append(run(model, tokens_BT[:, begin:end], cache, valid))
    return torch.cat(parts, dim=1)


# %% [markdown]
# Decoding from a cache must equal the full pass. A prompt in a padded batch must get the logits it gets alone, in the prefill and in every step after it. Documents packed into a row must get the logits they get
# separately. And the derivative of any output by any later input must be zero. Not small: zero.

# %%
@torch.no_grad()
def cached(model, tokens_BT):
    return (decode(model, tokens_BT, 7) - run(model, tokens_BT)).abs().max().item()

@torch.no_grad()
def padded(model, tokens_BT, short=11, prompt=20):
    """Row 0 loses its first tokens and is padded on the left: prefill, then steps."""
    valid_BU = torch.ones_like(tokens_BT)
    valid_BU[0, :short] = 0
    filled_BT = torch.where(valid_BU.bool(), tokens_BT, 0)
    batch_TV = decode(model, filled_BT, prompt, valid_BU)[0, short:]
    return (batch_TV - run(model, tokens_BT[:1, short:])[0]).abs().max().item()

@torch.no_grad()
def packed(model, tokens_BT, lengths=(9, 4)):
    parts = tokens_BT.split([*lengths, tokens_BT.shape[1] - sum(lengths)], dim=1)
    position_BT = torch.cat([torch.arange(p.shape[1], device=p.device).expand(p.shape) for p in parts], 1)
    alone_BTV = torch.cat([run(model, part_BT) for part_BT in parts], dim=1)
    return (run(model, tokens_BT, position_BT=position_BT) - alone_BTV).abs().max().item()


# %%
def future(model, tokens_BT):
    """Largest |d logit_t / d embedding_s| for s > t, over a few t."""
    kept, inner = [], getattr(model, "model", model)
    keep = lambda _, __, out: kept.append(out.detach().requires_grad_()) or kept[-1]
    hook = inner.embed_tokens.register_forward_hook(keep)
    logits_TV = run(model, tokens_BT[:1])[0]
    hook.remove()
    largest = 0.0
    for t in range(0, tokens_BT.shape[1] - 1, 3):
        slope = torch.autograd.grad(logits_TV[t].square().sum(), kept[0], retain_graph=True)[0]
        assert slope[0, t].abs().max() > 0
        largest = max(largest, slope[0, t + 1:].abs().max().item())
    return largest

AGREEMENTS = {"cached = full": cached, "padded = alone": padded, "packed = separate": packed, "future = 0": future}


# %% tags=["active-ipynb"]
# causal = dataclasses.replace(tiny, feed_forward="causal_soft_moe", num_experts=3,
#                              num_shared_experts=1, segment_length=4, intermediate_size=96)
# models = {"this chapter's decoder": twins(tiny)[0], "steel, dense": twins(tiny)[1],
#           "steel, causal soft MoE": build(causal).double().eval(), "transformers' Qwen2": qwen.eval()}
# brief = lambda x: f"{x:.0e}" if x else "0"
# rows = [[name, *(brief(test(m, tokens_BT)) for test in AGREEMENTS.values())] for name, m in models.items()]
# table(["largest difference, fp64", *AGREEMENTS], rows)
# assert all(test(m, tokens_BT) < 1e-12 for test in AGREEMENTS.values()
#            for name, m in models.items() if "Qwen2" not in name)
# single = cached(models["steel, dense"].float(), tokens_BT)
# say(f"In fp32 the first column of `steel` reads {single:.0e}. A real bug of that size would hide there.")

# %% [markdown]
# Differences of a few units in the last digit of fp64, for functions that share hardly any code path, and a column of exact zeros. The third row is the layer that chapter 07 builds; it keeps running averages
# beside its keys, so for it these tests are the only ones there are. Qwen2 once more stops at the seventh digit.
#
# ## Nine bugs
#
# None of them crashes, and each survives a quick code review. They are planted by exchanging one function.

# %% tags=["active-ipynb"]
# def in_attention(attend):
#     def plant(model):
#         for layer in model.layers:
#             layer.self_attn.attend = attend
#     return plant
#
# def ahead(model):
#     model.look = lambda p, past, valid: look(p, past, valid) | look(p, past, valid).roll(-1, 1)
#
# def from_zero(model):
#     model.count = lambda tokens, past, valid: count(tokens, past if valid is not None else 0, valid)
#
# def neighbours(model):   # documents of a row see each other
#     model.look = lambda p, past, valid: look(torch.arange(p.shape[1]).expand_as(p), past, valid)
#
# def padding(model):
#     model.look = lambda p, past, valid: look(p, past, None)

# %% tags=["active-ipynb"]
# def tiled(q, k, v, mask):   # repeat where repeat_interleave belongs
#     group = q.shape[2] // k.shape[2]
#     return attend(q, k.repeat(1, 1, group, 1), v.repeat(1, 1, group, 1), mask)
#
# def unscaled(q, k, v, mask):
#     return attend(q * q.shape[-1] ** 0.5, k, v, mask)
#
# def silent(model):
#     for layer in model.layers:
#         layer.mlp.register_forward_hook(lambda _, __, out: out.detach())
#
# BUGS = {"none": lambda model: None, "looks one token ahead": ahead, "looks at no other token": deaf,
#         "cache restarts positions": from_zero, "documents see each other": neighbours,
#         "padding is visible": padding, "wrong keys for a query": in_attention(tiled),
#         "scores not scaled": in_attention(unscaled), "feed-forward gets no gradient": silent,
#         "targets not shifted": lambda model: None}

# %% tags=["active-ipynb"]
# def examine(name):
#     """Which tests object to this bug."""
#     shift = name != "targets not shifted"
#     model = newborn(BUGS[name])
#     losses = by_heart(model, shift=shift)
#     known_after[name] = next((step for step, loss in enumerate(losses, 1) if loss < 0.1), None)
#     model = newborn(BUGS[name]).double()
#     found = {"memorises": losses[-1] > 0.1, "starts at ln V": abs(losses[0] - math.log(tiny.vocab_size)) > 0.2}
#     model(tokens_BT).square().sum().backward()
#     found["every weight moves"] = any(p.grad is None or not p.grad.abs().max() > 0 for p in model.parameters())
#     found |= {test: not function(model, tokens_BT) < 1e-12 for test, function in AGREEMENTS.items()}
#     with torch.no_grad():
#         return found | {"equals Qwen2": gap(model(tokens_BT), qwen(tokens_BT).logits) > 1e-5}
#
# known_after = {}  # steps until the batch costs less than 0.1 nats per token
# verdicts = {name: examine(name) for name in BUGS}
# assert not any(verdicts["none"].values()) and all(any(v.values()) for n, v in verdicts.items() if n != "none")

# %% tags=["active-ipynb", "hide-input"]
# tests = list(verdicts["none"])
# fig, ax = figure(3.9)
# for row, (name, found) in enumerate(verdicts.items()):
#     for column, test in enumerate(tests):
#         ax.add_patch(matplotlib.patches.Rectangle((column - 0.44, row - 0.42), 0.88, 0.84, lw=0.6, edgecolor=SLATE,
#                                                   facecolor=FURNACE if found[test] else PAPER))
# ax.set(xlim=(-0.55, len(tests) - 0.45), ylim=(len(verdicts) - 0.5, -0.5), yticks=range(len(verdicts)), xticks=range(len(tests)))
# ax.set_yticklabels(["no bug", *list(verdicts)[1:]])
# ax.set_xticklabels([t.replace(" = ", "\n= ").replace("every weight ", "every weight\n").replace("starts at", "starts\nat").replace("equals ", "equals\n") for t in tests], fontsize=7.5)
# ax.xaxis.tick_top()
# ax.tick_params(length=0)
# ax.grid(False)
# for side in ax.spines.values():
#     side.set_visible(False)
# hits = {test: sum(found[test] for found in verdicts.values()) for test in tests}
# show(fig, alt=f"Grid of ten models and eight tests, orange where a test objects. Without a bug nothing is orange. Memorising objects to {hits['memorises']} bug, the model that looks at no other token; the comparison with Qwen2 to {hits['equals Qwen2']}; each bug has at least one orange field.",
#      caption="Orange: the test objects to the bug. First row: no bug, no objection.")
# say(f"Memorising finds **{hits['memorises']}** of nine. The comparison with Qwen2 finds {hits['equals Qwen2']}; the four agreements together find "
#     f"{sum(any(f[t] for t in AGREEMENTS) for f in verdicts.values())}. Every bug is found by somebody. "
#     f"The sound model knew the batch after {known_after['none']} steps, the one that looks ahead after {known_after['looks one token ahead']}, the one without document boundaries after "
#     f"{known_after['documents see each other']}, the one with silent feed-forward layers after {known_after['feed-forward gets no gradient']}.")

# %% [markdown]
# One. If you wrote more, you are in good company: overfitting is the test that feels most like proof. It finds the model that cannot learn, and none of those that learn the wrong thing. A model that peeks ahead, or into the
# neighbouring document, memorises as well as the sound one: it has more to go by. The bugs of decoding it cannot find at all, since nothing is decoded.
#
# Read the grid by columns as well. Parity with Qwen2 is blind for everything outside one plain forward pass: cache, padding, packing, training. The agreements are blind for a wrong function computed consistently: shared keys in the wrong order, a missing
# scale. No test replaces another one, and all of them together run while you read this paragraph. The unshifted targets are caught by a test that costs one number: with a tied head, a newborn model slightly prefers to repeat its input, so a loss visibly *below*
# $\ln V$ at birth says that it is being asked for what it already has. An untied head would hide it. There, look at the loss on a batch it has never seen.
#
# ```{admonition} Takeaway
# :class: takeaway
# Overfitting shows that a model can learn. That it computes what you think it computes needs other witnesses: a twin, a cache, a padded row, a packed row, and a Jacobian that is exactly zero.
# ```
#
# ## What a mask changes
#
# Look at attention itself. A row of the batch, first layer, average of the heads, in the model that knows the batch by heart; left without the document rule, right with it.

# %% tags=["active-ipynb", "hide-input"]
# row = int((batch.position_ids == 0).sum(dim=1).argmax())
# ids, places = batch.input_ids[row:row + 1], batch.position_ids[row:row + 1]
# starts = [s for s in (places[0] == 0).nonzero().flatten().tolist() if s]
# fig, axes = figure(2.9, ncols=2, sharey=True)
# crossing = {}
# for ax, plant, name in ((axes[0], neighbours, "causal"), (axes[1], lambda m: None, "causal, within documents")):
#     seer = newborn(plant)
#     seer.load_state_dict(model.state_dict())
#     with torch.no_grad():
#         seer(ids, places)
#     weight_TT = seer.layers[0].self_attn.weight_BHTU[0].mean(0)
#     document_T = (places[0] == 0).cumsum(0)
#     crossing[name] = weight_TT[document_T[:, None] != document_T[None]].sum().item() / len(document_T)
#     image = ax.imshow(weight_TT.clamp_min(1e-3).log10(), cmap="cividis", vmin=-3, vmax=0, interpolation="nearest")
#     for s in starts:
#         ax.axhline(s - 0.5, color=PAPER, lw=0.5)
#     ax.set(xlabel="token looked at", xticks=[0, 20, 40, 60], yticks=[0, 20, 40, 60])
#     ax.set_title(name)
#     ax.grid(False)
# axes[0].set_ylabel("token that looks")
# bar = fig.colorbar(image, ax=axes, shrink=0.85, pad=0.02)
# bar.set_label("log10 of the weight")
# bar.outline.set_visible(False)
# show(fig, alt="Two heat maps of attention weights of one packed row. Causal only: a full triangle. With the document rule: one small triangle for each document along the diagonal.",
#      caption="The same weights and tokens. White lines: a new document starts.")
# loader = Loader(ShardSet.open(Path("runs/06_transformer-cpu/shards")), load("cpu").data.sequence_length, 64, 1)
# at_BT = loader.batch(0).position_ids
# document_BT = (at_BT == 0).cumsum(1)
# across = (document_BT[:, :, None] != document_BT[:, None, :]).tril().sum() / (at_BT.shape[0] * at_BT.shape[1] * (at_BT.shape[1] + 1) / 2)
# say(f"Without the rule {crossing['causal']:.0%} of the attention in this row goes to text that has nothing to do with the one being read; with it {crossing['causal, within documents']:.0%}. In the rows of {at_BT.shape[1]} tokens that "
#     f"the `cpu` preset trains on there are {float((at_BT == 0).sum(1).float().mean()):.1f} documents on average, and **{across:.0%}** of all pairs that a causal mask allows cross a boundary.")

# %% [markdown]
# The original did not mask: its rows of 2,048 tokens are one stream to the attention. That is common and no disaster; a model learns to ignore what stands before the separator, and long documents have few
# boundaries. But it learns so, from examples, with capacity. Here the mask is on by default, and one setting, `data.mask_documents=false`, turns it off for comparison. Chapter 10 shows what it costs in the loader (nothing).
#
# One surprise for the record. The positions restart with each document, and RoPE does not care: rotate everything by the same angle and no score changes. Restarting them is only how the model is *told* where
# documents begin.
#
# ## At full scale
#
# The same few files in `steel/model` are every model of this book; only the shapes differ. `minillm-*` and `hammer-1.4b` are Llama, with other vocabularies. Steel is Qwen1.5 with another feed-forward. To believe it, count on the meta
# device {cite:p}`minillm2024,hammerllm2024,steel2025`.

# %%
def shape_row(name, m):
    """One model in a line: what attention looks like, what a cached token costs."""
    heads, shared = m.num_attention_heads, m.num_key_value_heads or m.num_attention_heads
    channels = m.head_dim or m.hidden_size // heads
    parameters = count_parameters(m)
    words = parameters["embedding"] + parameters["lm_head"]
    cache = 2 * m.num_hidden_layers * shared * channels * 2  # bytes in bf16
    return [name, f"{parameters['total'] / 1e6:,.1f}", m.num_hidden_layers, f"{heads} × {channels}", shared,
            "yes" if m.qkv_bias else "no", f"{m.rope_theta:,.0f}", f"{words / parameters['total']:.1%}",
            f"{cache / 1e3:.1f}"]


def as_llama(m):
    """Parameters of transformers' own Llama of the same shape, on the meta device."""
    shape = {name: getattr(m, name) for name in ("vocab_size", "hidden_size", "intermediate_size",
             "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "tie_word_embeddings")}
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**shape)).num_parameters()


# %% tags=["active-ipynb"]
# names = ("minillm-0.2b", "minillm-1.1b", "hammer-1.4b", "steel-1b", "steel-1b-causal")
# table(["preset", "parameters (M)", "layers", "heads × channels", "key heads", "QKV bias", "RoPE base", "vocabulary", "cache (kB/token)"],
#       [shape_row(name, load(name).model) for name in names])
# for name in names[:3]:
#     on_meta = sum(p.numel() for p in build(load(name).model, device="meta").parameters())
#     assert on_meta == as_llama(load(name).model) == count_parameters(load(name).model)["total"]

# %% [markdown]
# Three presets equal `LlamaForCausalLM` to the last parameter, and the tests show it logit by logit at small size. Now the right-hand side of the table, where Steel's choices stand, with hindsight that its author could not have.
#
# *Heads of 56 channels.* Steel took 32 heads from its template and divided 1,792 by it. Attention kernels are compiled for widths of 32, 64, 96, 128; a head of 56 runs as one of 64, an eighth of it zeros. Fourteen heads of 128 have the same
# projections to the last weight, and that is what `steel-1b-causal` uses.
#
# *No sharing.* With a key for every query the cache is the largest of the table, in our version of the shape as well. In training this costs nothing, and training was what the machine was lent for.
#
# *Base one million.* Fine for long contexts, generous for a sequence of 2,048: exercise 06.2 counts the clock hands that never move.
#
# *Half of it vocabulary*, 48.5 %, was chapter 01.
#
# The script runs the same tests at any size. `python notebooks/06_transformer.py --preset minillm-0.2b` builds the real model, decodes it with and without a cache, pads, packs, differentiates, and learns one batch by
# heart; on a machine without a GPU, presets above half a billion parameters stop at the table.

# %%
def verify(cfg, steps=60):
    """The tests of this chapter on the real model of a preset; on a GPU where there is one."""
    size, device = count_parameters(cfg.model)["total"], "cuda" if torch.cuda.is_available() else "cpu"
    print("  ".join(str(cell) for cell in shape_row(cfg.preset, cfg.model)))
    if device == "cpu" and size > 5e8:
        print(f"{size:,} parameters: without a GPU this is as far as it goes")
        return
    model = build(cfg.model, device, torch.float64 if size < 5e8 else torch.float32).eval()
    tokens_BT = torch.randint(1, cfg.model.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    for name, test in AGREEMENTS.items():
        found = test(model, tokens_BT.to(device))
        print(f"{name:18} {found:.0e}" if found else f"{name:18} exactly", f"({str(model.dtype)[6:]})")
    model = build(cfg.model, device).train()
    rows = torch.randint(1, cfg.model.vocab_size, (4, 65), generator=torch.Generator().manual_seed(1))
    one = lambda: None
    one.input_ids, one.targets = rows[:, :-1].to(device), rows[:, 1:].to(device)
    losses = memorise(lambda b: run(model, b.input_ids), list(model.parameters()), one, steps)
    print(f"one batch of random tokens: {losses[0]:.2f} → {losses[-1]:.3f} nats/token in {steps} steps")


# %% [markdown]
# ## Failure gallery
#
# ```{admonition} The default that was not there
# :class: failure
# Steel's experts are `intermediate_size // mlp_div_ratio` wide. The ratio stands in the released `config.json` and nowhere in the configuration class, which has no default for it: `SteelConfig()` builds, and the first layer fails
# with an attribute that does not exist. With a ratio of one the model would have 2.16 billion parameters. Ours has a default for every field, names the width itself, and refuses a checkpoint without the ratio by name.
# ```
#
# ```{admonition} A model that called itself by another's name
# :class: failure
# The original's configuration class kept the line `model_type = "qwen2"`. A loader that goes by this name builds Qwen2, and Qwen2 has no experts. **Here:** the model type is `steel`, and a saved model carries its own code.
# ```
#
# ```{admonition} Tables that shrank on the way
# :class: failure
# Our own. FSDP's mixed precision casts every floating tensor among the arguments of a block to bfloat16, dataclasses included. Tables that travel that way arrive rounded: the grey curve of the first figure where a single process has the blue one. Small, and
# it makes a model on two GPUs another function than on one. **Now:** the tables travel in a plain object that FSDP does not open, and a test shards a model and looks at their type.
# ```
#
# ```{admonition} Equal within tolerance
# :class: failure
# The first leak test that one writes compares in fp32 with a tolerance of one in a hundred thousand. Steel's third mixture layer passes it at birth: it leaks, but it is so quiet that the leak is smaller than the tolerance. **Here:** fp64, exact
# zeros, and weights that are alive.
# ```
#
# ## Exercises
#
# **06.1 Recall.** Name the four agreements and, for each, a bug that it finds and that memorising a batch does not.
#
# ```{dropdown} Answer 06.1
# Cached = full: positions that start again in every decoding step. Padded = alone: padding that is visible. Packed = separate: documents that see each other. Future = 0: a mask that is off by one.
# ```
#
# **06.2 Calculate.** A pair of channels turns by $\theta^{-2i/C}$ radians per token. How many of Steel's 28 pairs turn by less than one radian in 2,048 tokens? How many would with the base ten thousand of Llama?

# %% tags=["active-ipynb", "hide-cell"]
# for base in (1e6, 1e4):
#     slow = sum(2048 * base ** (-2 * i / 56) < 1 for i in range(28))
#     print(f"base {base:>9,.0f}: {slow} of 28 pairs turn by less than a radian in the longest text")

# %% [markdown]
# **06.3 Code.** Write `grouped(q_BTHC, k_BUKC, v_BUKC, mask_BTU)`: the result of `attend` (without the weights), and no copy of keys or values for each query head. Query head $h$ uses key head $h // (H / K)$.

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def grouped(q_BTHC, k_BUKC, v_BUKC, mask_BTU):
#     B, T, H, C = q_BTHC.shape
#     K = k_BUKC.shape[2]
#     q_BTKGC = q_BTHC.view(B, T, K, H // K, C)   # G neighbours share a key
#     score = torch.einsum("btkgc,bukc->bkgtu", q_BTKGC, k_BUKC) * C**-0.5
#     weight = score.masked_fill(~mask_BTU[:, None, None], -torch.inf).softmax(dim=-1)
#     return torch.einsum("bkgtu,bukc->btkgc", weight, v_BUKC).reshape(B, T, H, C)
#
# check("06.3", grouped)

# %% [markdown]
# **06.4 Break it.** Turn the clocks the other way: exchange the signs of the sines in `rope`. Which of the eight tests object? Does the model become worse?
#
# ```{dropdown} Answer 06.4
# Only the comparison with Qwen2. A score depends on the distance as before, with its sign exchanged, and for freshly drawn weights no direction is better than the other. It is another convention, and it is fatal only to somebody who loads
# weights that were trained with the first. Half of all import bugs are of this kind; the pairing of channels (halves here, neighbours in other code) is the most common.
# ```
#
# **06.5 Open, one GPU hour.** Train the `laptop` preset three times with `data.mask_documents=true` and three times with `false`, other seeds each time, and compare held-out loss by source. Where do you expect the mask to help, and where to hurt? Write
# it down first. Is the difference larger than the spread of the seeds?
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What does overfitting one batch prove?** That information and gradients get from inputs to targets. It finds a model that cannot learn, not one that learns the wrong thing.
# ```
#
# ```{admonition} Card
# :class: card
# **Where should a loss start?** At ln V. Above: the head is too loud. Below: the target is in the input.
# ```
#
# ```{admonition} Card
# :class: card
# **Which part of RoPE needs fp32?** The angle: position times speed. Cosines and sines may be rounded.
# ```
#
# ```{admonition} Card
# :class: card
# **Bytes of cache per token?** Two (key and value) × layers × key heads × channels × bytes per number. Query heads do not appear in it; that is why they share.
# ```

# %% tags=["active-ipynb"]
# from figures.style import badge
#
# badge()

# %%
if __name__ == "__main__":
    verify(cfg)
