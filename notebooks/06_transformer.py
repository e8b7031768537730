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
# You have called `AutoModelForCausalLM.from_pretrained` a hundred times. In this chapter you write what is behind it, in about a hundred lines, and then
# find out whether it is right. That second part is the harder one. A decoder with a bug seldom crashes. It trains, and nobody knows how good it should
# have become.
#
# So we collect tests that need no long training: eight of them. Then we plant nine bugs and see which test finds which.

# %% tags=["hide-input"]
import dataclasses
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from figures.experiments import decoder
from steel.config import load, preset
from steel.model import build, steel_config

cfg = preset()  # --preset cpu, minillm-0.2b, steel-1b-dense, …


# %% tags=["active-ipynb", "hide-input"]
# import contextlib
# import shutil
#
# from figures import draw_06
# from figures.check import check
# from figures.style import answer, badge, say, show, table
# from steel.model.attention import SteelRMSNorm, apply_rope, rope_tables
# from steel.plan import count_parameters, flops_per_token
#
# torch.set_num_threads(1)  # models this small lose time to a second thread
# show(draw_06.block(), alt="A decoder: tokens, embedding, L blocks, norm, head, logits, loss. One block enlarged: from the residual stream through RMSNorm and qkv_proj to queries, keys and values; "
#      "rope turns queries and keys by their positions; the cache appends keys and values; attend looks through a mask; o_proj adds to the stream. Then RMSNorm, gate_up_proj, silu(gate) times up, down_proj, added to the stream. "
#      "Letters mark nine places: mask a, b, d, e; positions c; attend f, g; feed-forward h; loss i.",
#      caption="A decoder, and one of its blocks; what is filled holds weights. B rows of T tokens; D width of the stream; H query heads and K key heads of C channels; U positions that can be looked at, "
#      "those in the cache included; F width inside the feed-forward; V vocabulary. Orange: where the nine bugs sit.")

# %% [markdown]
# These are the nine, by their letters in the drawing. Some come up only in **cached** decoding, where each step feeds one new token and takes the keys and values of all earlier ones from memory;
# some only in **packed** rows, which hold several documents one behind the other, or in **padded** ones, which were filled up to equal length.
#
# **a** the model looks one token ahead · **b** it looks at no token but the current one · **c** cached decoding counts positions from zero again · **d** documents packed into one row see each other ·
# **e** padding is visible · **f** grouped queries use the wrong keys · **g** scores are not divided by $\sqrt{C}$ · **h** the feed-forward gets no gradient · **i** the targets are not shifted.
#
# ```{admonition} Predict
# :class: predict
# Write down three numbers.
#
# 1. The test that everybody runs first is to overfit: take one batch, train on nothing else, see the loss go to zero. How many of the nine bugs does it find?
# 2. A second test compares all logits on a plain row of text with those of `transformers`' Qwen2, which holds the same weights. How many does that one find?
# 3. The preset `cpu` trains on packed rows of 256 tokens, whose pieces of documents are 48 tokens long on average. A causal mask lets each token look at itself and at everything before it. What percentage of the pairs that it allows joins two
#    different documents?
# ```
#
# ## Napkin
#
# ```{admonition} Napkin
# :class: napkin
# What does it take to overfit? The batch below has 256 targets from a vocabulary of 1,024. Somebody who knows all of them knows $256 \cdot \ln 1024 \approx 1{,}770$ nats, 320 bytes. The decoder that is to learn them has 525,440 weights, two
# megabytes: six and a half thousand times as much.
#
# There is always room. The loss goes to zero if the model can tell the 256 places apart and a gradient arrives in enough weights. Which of the nine prevent that?
# ```
#
# ## Build: a norm and a clock
#
# A decoder block reads the residual stream ($D$ numbers for each token, handed from block to block), normalises what it read, computes, and *adds* the result back {cite:p}`vaswani2017`. Normalising before and not after the
# computation (pre-norm) leaves a path of pure additions from the embedding to the head, along which gradients travel without passing a layer. The norm is RMSNorm
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


# %% [markdown]
# Why insist on fp32? Everything around it is bf16 in a large run, and bf16 keeps eight bits of a number. Beyond two hundred and
# fifty-six it cannot even hold every integer. Take one query and one key, always five tokens apart, and move the pair along Steel's sequence. The score should not
# change at all.

# %% tags=["active-ipynb", "hide-input"]
# some_BTHC, where_BT = torch.randn(2, 9, 4, 32), torch.arange(9).expand(2, -1)
# assert torch.equal(rope(some_BTHC, where_BT, 1e4), apply_rope(some_BTHC, *rope_tables(where_BT, 32, 1e4)))
# assert torch.allclose(RMSNorm(32, 1e-6)(some_BTHC), SteelRMSNorm(32, 1e-6)(some_BTHC), atol=1e-6)
#
# fig, worst = draw_06.clock()
# show(fig, alt="Change of one attention score while the pair moves along 2,048 tokens, logarithmic. All in fp32: below a hundred-thousandth of a nat. Cosines rounded to bf16: a few thousandths. "
#      "Angles computed in bf16: about half a nat between positions 256 and 1,024, more than one beyond.",
#      caption="One query and one key at a constant distance, 28 pairs of channels, base one million; the largest change in each dozen of positions.")
# say(f"At worst the score moves by {worst['all in fp32']:.0e} nats in fp32, by {worst['fp32 angles, cosines in bf16']:.3f} with cosines rounded to bf16, and by {worst['angles in bf16']:.1f} "
#     f"with angles computed in bf16: beside an undisturbed weight, this one is off by a factor of {math.exp(worst['angles in bf16']):.1f}.")

# %% [markdown]
# Rounding the *result* costs little and no more at the end of the row than at its beginning; rounding the *angle* ruins it. Just below a thousand the numbers that bf16 can hold lie four apart: such an angle is off by up to two radians, a third of a turn. `steel` computes
# cosines and sines from integer positions on every call, in fp32.
#
# ## Build: attention and the block
#
# Grouped queries {cite:p}`gqa2023`: each of $K$ key and value heads serves $H / K$ neighbouring query heads. Steel has $K = H$.

# %%
def attend(q_BTHC, k_BUKC, v_BUKC, mask_BTU):
    """softmax(q k / sqrt(C)) v with shared keys; the result and the weights (B, H, T, U)."""
    group = q_BTHC.shape[2] // k_BUKC.shape[2]
    k_BUHC, v_BUHC = (z.repeat_interleave(group, dim=2) for z in (k_BUKC, v_BUKC))
    score_BHTU = torch.einsum("bthc,buhc->bhtu", q_BTHC, k_BUHC) * q_BTHC.shape[-1] ** -0.5
    weight_BHTU = score_BHTU.masked_fill(~mask_BTU[:, None], -torch.inf).softmax(dim=-1)
    return torch.einsum("bhtu,buhc->bthc", weight_BHTU, v_BUHC), weight_BHTU


# %% [markdown]
# The cache is what one layer remembers. In training it is empty before the call, so $U = T$; in decoding it grows by one position a step.

# %%
class Cache:
    """Keys and values of one layer for every token so far."""
    length = 0

    def append(self, k_BTKC, v_BTKC):
        if self.length:
            k_BTKC = torch.cat((self.k_BUKC, k_BTKC), dim=1)
            v_BTKC = torch.cat((self.v_BUKC, v_BTKC), dim=1)
        self.k_BUKC, self.v_BUKC, self.length = k_BTKC, v_BTKC, k_BTKC.shape[1]
        return k_BTKC, v_BTKC


# %% [markdown]
# The module around both owns two matrices. As in Qwen1.5 {cite:p}`qwen2023`, only queries, keys and values have a bias.

# %%
class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.H, self.K, self.C = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.theta = c.rope_theta
        self.qkv_proj = nn.Linear(c.hidden_size, (self.H + 2 * self.K) * self.C, bias=c.qkv_bias)
        self.o_proj = nn.Linear(self.H * self.C, c.hidden_size, bias=False)

    def forward(self, x_BTD, position_BT, mask_BTU, cache):
        qkv = self.qkv_proj(x_BTD).unflatten(-1, (-1, self.C))   # H + 2K heads of C channels
        q_BTHC, k_BTKC, v_BTKC = qkv.split([self.H, self.K, self.K], dim=2)
        q_BTHC = rope(q_BTHC, position_BT, self.theta)
        k_BUKC, v_BUKC = cache.append(rope(k_BTKC, position_BT, self.theta), v_BTKC)
        out_BTHC, self.weight_BHTU = attend(q_BTHC, k_BUKC, v_BUKC, mask_BTU)   # kept to look at
        return self.o_proj(out_BTHC.flatten(2))


# %% [markdown]
# The feed-forward half is SwiGLU {cite:p}`swiglu2020`: one matrix to open a gate, one to fill it, one to come back. What Steel put in its place is the subject of the next two chapters.

# %%
class SwiGLU(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_up_proj = nn.Linear(c.hidden_size, 2 * c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x_BTD):
        gate_BTF, up_BTF = self.gate_up_proj(x_BTD).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate_BTF) * up_BTF)


# %%
class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = SwiGLU(c)

    def forward(self, x_BTD, *how):   # positions, mask, cache
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), *how)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


# %% [markdown]
# ## Build: who may look where
#
# All that a decoder knows about its input, beside the tokens, is a position for each and a mask. Three situations need three rules:
#
# - *one text*: look at yourself and back;
# - *packed row*: several documents stand in one row so that no compute goes into padding; look back, and not across a document's start. A start is
#   where the position is zero again (transformers {cite:p}`transformers2020` starts one wherever positions do not go up by one);
# - *padded batch*: prompts of different length stand in one batch, filled up on the left; do not look at the filling.

# %%
def count(tokens_BT, past, valid_BU):
    if valid_BU is not None:      # from the first real token of each row
        return (valid_BU.cumsum(dim=1) - 1).clamp_min(0)[:, -tokens_BT.shape[1]:]
    return torch.arange(past, past + tokens_BT.shape[1]).to(tokens_BT).expand_as(tokens_BT)

def look(position_BT, past, valid_BU):
    key_U = torch.arange(past + position_BT.shape[1], device=position_BT.device)
    query_T1 = key_U[past:, None]
    may_BTU = (key_U <= query_T1).expand(len(position_BT), -1, -1)   # not ahead
    if past == 0:                                                    # not across documents
        document_BT = (position_BT == 0).cumsum(dim=1)
        may_BTU = may_BTU & (document_BT[:, :, None] == document_BT[:, None, :])
    if valid_BU is not None:                                         # not at padding
        may_BTU = may_BTU & valid_BU.bool()[:, None, :]
    return may_BTU | (key_U == query_T1)                             # always at yourself


# %% tags=["active-ipynb", "hide-input"]
# show(draw_06.masks(look), alt="Three masks of eight by eight tokens. One text: a full lower triangle. Packed: two smaller triangles along the diagonal and nothing between them. "
#      "Padded on the left: a triangle over the five real tokens; each of the three padding tokens sees only itself.",
#      caption="What `look` returns for a row of eight tokens: each looks along its line. Orange lines: a new document starts. Grey: padding.")

# %% [markdown]
# The last line lets a padding token look at itself: a softmax over nothing is zero divided by zero, and one NaN in a row that nobody reads
# reaches every weight through the gradient.

# %%
class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, tokens_BT, position_BT=None, valid_BU=None, caches=None):
        caches = caches or [Cache() for _ in self.layers]
        past = caches[0].length
        position_BT = count(tokens_BT, past, valid_BU) if position_BT is None else position_BT
        x_BTD, mask_BTU = self.embed_tokens(tokens_BT), look(position_BT, past, valid_BU)
        for layer, cache in zip(self.layers, caches):
            x_BTD = layer(x_BTD, position_BT, mask_BTU, cache)
        return self.norm(x_BTD) @ self.embed_tokens.weight.T


# %% [markdown]
# The head is *tied*: it is the embedding, used a second time. That is all of it. Is it right? Eight tests are to say so. A comparison with a twin: *equals Qwen2*. Two looks at a newborn model: *starts at ln V*, *every weight moves*.
# One batch learned by heart: *memorises*. And four agreements of the model with itself: *cached = full*, *padded = alone*, *packed = separate*, *future = 0*.
#
# The twin first. The weights were named with care, so two finished models can be asked: `steel`'s own, and the Qwen2 of `transformers`.

# %%
tiny = dataclasses.replace(load("cpu").model, num_hidden_layers=2, num_key_value_heads=2)
tokens_BT = torch.randint(1, tiny.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))

def newborn(seed=0):
    """The decoder of this chapter with the initial weights of steel's."""
    model = Decoder(steel_config(tiny))
    model.load_state_dict(build(tiny, seed=seed).model.state_dict())
    return model

def gap(a, b):
    return (a - b).abs().max().item()

mine, (theirs, qwen) = newborn().double(), decoder.twins(tiny)   # the same weights, fp64
print(f"against steel.model:      {gap(mine(tokens_BT), theirs(tokens_BT)):.0e}")
print(f"against Qwen2ForCausalLM: {gap(mine(tokens_BT), qwen(tokens_BT)):.0e}")


# %% [markdown]
# Qwen2 stops at the seventh digit because its norms round to fp32 on purpose. This is *parity*. Its weakness: somebody must
# have built the same thing before. For a new layer nobody has. The other seven need nobody.
#
# Two more can be read off any newborn model. It knows nothing, so its loss must be near $\ln V$; and after one backward pass *every* weight, each single number, must have a gradient other than zero.
#
# ## One batch by heart
#
# Now the famous one, on four rows of packed documents from the closed world of chapter 02, a small town of invented people.

# %%
def memorise(logits, parameters, batch, steps=60):
    """Train on one batch and nothing else; the loss [nats/token] of every step."""
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(logits(batch).flatten(0, 1), batch.targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


# %% [markdown]
# What would the loss be if the model could *not* remember? Take a *deaf* model, whose attention sees the current token alone. Its best guess of the next one has a known price: the entropy of the
# next token given the current one, counted in the batch itself.

# %% tags=["active-ipynb", "hide-input", "within-0.1"]
# RUN = Path("runs") / "06_transformer-cpu"
# shutil.rmtree(RUN, ignore_errors=True)  # this notebook starts afresh every time
# rows = decoder.packed_rows(load("cpu"), RUN, 64, 4)
# batch, another = rows.batch(0), rows.batch(1)
# floor = decoder.floor_of(batch)
#
# @contextlib.contextmanager
# def exchanged(functions):
#     """Run with other functions under the names of this notebook's."""
#     kept = {name: globals()[name] for name in functions}
#     globals().update(functions)
#     try:
#         yield
#     finally:
#         globals().update(kept)
#
# def by_heart(model, taught=batch):
#     return memorise(lambda b: model(b.input_ids, b.position_ids), list(model.parameters()), taught)
#
# def deaf(position, past, valid, look=look):
#     return look(position, past, valid) & torch.eye(past + position.shape[1]).bool()[past:]
#
# model = newborn()
# right = by_heart(model)
# with exchanged({"look": deaf}):
#     cannot = by_heart(newborn())
# with torch.no_grad():
#     elsewhere = F.cross_entropy(model(another.input_ids, another.position_ids).flatten(0, 1), another.targets.flatten()).item()
# assert right[-1] < 0.05 < floor - 0.1 < cannot[-1] and elsewhere > math.log(tiny.vocab_size)
# assert sum(p.numel() for p in model.parameters()) == 525_440 and batch.targets.numel() == 256
# say(f"Knowing nothing costs {math.log(tiny.vocab_size):.2f} nats per token; knowing which token follows which in this batch still costs {floor:.2f}. After sixty steps (one seed) the deaf model is at {cannot[-1]:.2f} and the whole one at "
#     f"**{right[-1]:.3f}**. On another batch it is at {elsewhere:.0f}: worse than knowing nothing.")

# %% [markdown]
# A loss that stops is a measurement. At the deaf model's price: attention contributes nothing. At the entropy of single tokens: not even the current one gets through. At $\ln V$: the gradient does not arrive, or the
# optimizer holds other parameters than the model ([chapter 11](11_pretrain.ipynb) has that one). And a loss of zero proves that information
# and gradients flow from the inputs to the targets. Does it prove more?
#
# ## Four ways to say the same thing
#
# The last four tests work in fp64, where rounding is far below any real difference. Three ask the model the same thing in two ways, the fourth asks what a token's logits depend on. In decoding, a *prefill* takes the prompt at once, then come single tokens.

# %% tags=["active-ipynb", "hide-input"]
# show(draw_06.agreements(), alt="Four panels. Cached = full: a row of eight tokens in one call, below it the same tokens as a prefill of four and four single steps. Padded = alone: three filling tokens and five real ones in one row, below it the five alone. "
#      "Packed = separate: documents of five and three tokens in one row, below them two rows. Future = 0: the logits of the fifth token hang on tokens one to five; those behind it are crossed out.",
#      caption="The four agreements. A frame is a call; what stands one above the other must get the same logits. Last: what the logits of one token may depend on.")

# %%
def decode(model, tokens_BT, prefill, valid_BU=None):
    """The same logits from a cache: `prefill` tokens at once, then one at a time."""
    caches = [Cache() for _ in model.layers]
    cuts, parts = [0, *range(prefill, tokens_BT.shape[1] + 1)], []
    for begin, end in zip(cuts, cuts[1:]):
        valid = None if valid_BU is None else valid_BU[:, :end]
        parts.append(model(tokens_BT[:, begin:end], valid_BU=valid, caches=caches))
    return torch.cat(parts, dim=1)


# %%
def cached(model, tokens_BT):
    return gap(decode(model, tokens_BT, prefill=7), model(tokens_BT))

def padded(model, tokens_BT, short=11):
    valid_BU = torch.ones_like(tokens_BT)
    valid_BU[0, :short] = 0                   # row 0 loses its beginning, and is filled up there
    both_BTV = decode(model, tokens_BT * valid_BU, 20, valid_BU)
    return gap(both_BTV[0, short:], model(tokens_BT[:1, short:])[0])

def packed(model, tokens_BT, lengths=(9, 4, 27)):
    alone = [model(part_BT) for part_BT in tokens_BT.split(lengths, dim=1)]
    position_T = torch.cat([torch.arange(n) for n in lengths]).to(tokens_BT)
    return gap(model(tokens_BT, position_T.expand_as(tokens_BT)), torch.cat(alone, dim=1))


# %% [markdown]
# Last, the future: the derivative of any output by any later input must be zero. Not small: zero. (A derivative does not see through `detach` or a sort; for a layer that has one, change the last token and compare.)

# %%
def future(model, tokens_BT):
    """Largest derivative of the logits at t by an embedding behind t, over every third t."""
    kept = []
    hook = model.embed_tokens.register_forward_hook(lambda module, given, out: kept.append(out))
    logits_TV = model(tokens_BT[:1])[0]
    hook.remove()
    largest = 0.0
    for t in range(0, tokens_BT.shape[1] - 1, 3):
        slope_TD = torch.autograd.grad(logits_TV[t].square().sum(), kept, retain_graph=True)[0][0]
        assert slope_TD[t].abs().max() > 0, "the token itself must matter"
        largest = max(largest, slope_TD[t + 1:].abs().max().item())
    return largest

AGREEMENTS = {"cached = full": cached, "padded = alone": padded, "packed = separate": packed, "future = 0": future}

# %% tags=["active-ipynb", "hide-input"]
# mixture = dataclasses.replace(tiny, feed_forward="causal_soft_moe", num_experts=3, num_shared_experts=1, segment_length=4, intermediate_size=96)
# subjects = {"this chapter's decoder": mine, "steel, dense": theirs, "steel, causal soft MoE": decoder.Adapted(build(mixture).double().eval()), "transformers' Qwen2": qwen}
# found = {who: {name: test(m, tokens_BT) for name, test in AGREEMENTS.items()} for who, m in subjects.items()}
# table(["largest difference, fp64", *AGREEMENTS], [[who, *(f"{x:.0e}" if x else "0" for x in row.values())] for who, row in found.items()])
# assert all(x < 1e-12 for who, row in found.items() for x in row.values() if "Qwen2" not in who)
# single = cached(decoder.Adapted(build(tiny).eval()), tokens_BT)
# say(f"In fp32 the first column of `steel` reads {single:.0e}. A real bug of that size would hide there.")
#
# short_T, full_T = tokens_BT[:1, 11:], torch.arange(-11, 29).clamp_min(0)[None]
# told = qwen(torch.cat((torch.zeros_like(tokens_BT[:1, :11]), short_T), 1), full_T, torch.arange(40)[None] >= 11)
# assert gap(told[:, 11:], qwen(short_T)) < 1e-12  # Qwen2 with the positions that count from the first real token

# %% [markdown]
# Differences of a few units in the last digit of fp64, for calls that differ in mask, positions and cache, and a column of exact zeros. The third model has a layer that chapter 07 builds: for something new there is no twin, and these tests need none.
#
# One number stands out. Given a mask and no positions, Qwen2 counts them from the start of the row, filling included, so the padded prompt stands eleven places further on than alone. RoPE sees only distances, but
# angles are rounded to fp32, and elsewhere on the clock they round differently. Told the right positions it agrees.
#
# ## Nine bugs
#
# None of them crashes. Each is a line or two.
#
# | | bug | the line that has it |
# |---|---|---|
# | **a** | looks one token ahead | each line of the mask gets the rights of the line below it, too |
# | **b** | looks at no other token | `may_BTU & (key_U == query_T1)` |
# | **c** | cache restarts positions | `torch.arange(0, T)` for `torch.arange(past, past + T)` |
# | **d** | documents see each other | the three lines from `if past == 0` are missing |
# | **e** | padding is visible | the two lines of `look` with `valid_BU` are missing; it shows in cached steps only |
# | **f** | wrong keys for a query | `repeat` for `repeat_interleave`: head $h$ takes keys $h \bmod K$ |
# | **g** | scores not scaled | `* C ** -0.5` is missing |
# | **h** | feed-forward gets no gradient | `self.mlp(…).detach()` |
# | **i** | targets not shifted | `targets = input_ids` |

# %% tags=["active-ipynb", "hide-input", "within-0.1"]
# def ahead(position, past, valid, look=look):
#     return look(position, past, valid) | look(position, past, valid).roll(-1, dims=1)
#
# def from_zero(tokens, past, valid, count=count):
#     return count(tokens, 0 if valid is None else past, valid)
#
# def neighbours(position, past, valid, look=look):
#     return look(torch.arange(position.shape[1]).expand_as(position), past, valid)
#
# def visible(position, past, valid, look=look):
#     return look(position, past, None)
#
# def tiled(q, k, v, mask, attend=attend):
#     group = q.shape[2] // k.shape[2]
#     return attend(q, k.repeat(1, 1, group, 1), v.repeat(1, 1, group, 1), mask)
#
# def unscaled(q, k, v, mask, attend=attend):
#     return attend(q * q.shape[-1] ** 0.5, k, v, mask)
#
# class Silent(SwiGLU):
#     def forward(self, x_BTD):
#         return super().forward(x_BTD).detach()
#
# BUGS = {"no bug": {}, "a  looks one token ahead": {"look": ahead}, "b  looks at no other token": {"look": deaf},
#         "c  cache restarts positions": {"count": from_zero}, "d  documents see each other": {"look": neighbours},
#         "e  padding is visible": {"look": visible}, "f  wrong keys for a query": {"attend": tiled},
#         "g  scores not scaled": {"attend": unscaled}, "h  feed-forward gets no gradient": {"SwiGLU": Silent},
#         "i  targets not shifted": {}}
#
# def examine(functions, taught=batch, losses=None):
#     """(test -> does it object to a decoder with these functions exchanged, losses while it learns `taught`)."""
#     with exchanged(functions):
#         losses = losses or by_heart(newborn(), taught)
#         suspect = newborn().double()
#         suspect(tokens_BT).square().sum().backward()
#         still = [p for p in suspect.parameters() if p.grad is None or bool((p.grad == 0).any())]
#         gaps = {name: test(suspect, tokens_BT) for name, test in AGREEMENTS.items()}
#         parity = gap(suspect(tokens_BT), qwen(tokens_BT))
#     objects = {"equals Qwen2": parity > 1e-5, "starts at ln V": abs(losses[0] - math.log(tiny.vocab_size)) > 0.2,
#                "every weight moves": bool(still), "memorises": losses[-1] > 0.1, **{name: not size < 1e-12 for name, size in gaps.items()}}
#     return objects, losses
#
# unshifted = dataclasses.replace(batch, targets=batch.input_ids)
# examined = {name: examine(functions, unshifted if name[0] == "i" else batch, {"n": right, "b": cannot}.get(name[0])) for name, functions in BUGS.items()}
# verdicts = {name: objects for name, (objects, _) in examined.items()}
# def knows(name):
#     """Step at which the loss on the batch is below 0.1, for three seeds: the least and the most."""
#     below = lambda losses: next(step for step, loss in enumerate(losses, 1) if loss < 0.1)
#     steps = [below(examined[name][1])]
#     with exchanged(BUGS[name]):
#         for model in map(newborn, (1, 2)):
#             steps.append(below(memorise(lambda b: model(b.input_ids, b.position_ids), list(model.parameters()), batch, steps=48)))
#     return f"{min(steps)} to {max(steps)}"
#
# first = {name[0]: next((step for step, loss in enumerate(losses, 1) if loss < 0.1), None) for name, (_, losses) in examined.items()}
# hits = {test: sum(objects[test] for objects in verdicts.values()) for test in verdicts["no bug"]}
# assert not any(verdicts["no bug"].values()) and all(any(v.values()) for n, v in verdicts.items() if n != "no bug")
# alone = {t for t in hits if any(v[t] and sum(v.values()) == 1 for v in verdicts.values())}   # finds what no other test finds
# assert set(hits) - alone == {"memorises", "future = 0"} and verdicts["b  looks at no other token"]["every weight moves"]
# assert verdicts["c  cache restarts positions"]["cached = full"] and verdicts["e  padding is visible"]["padded = alone"]
# assert verdicts["d  documents see each other"]["packed = separate"] and verdicts["a  looks one token ahead"]["future = 0"]
# show(draw_06.grid(verdicts),
#      alt=f"Grid of ten models and eight tests, orange where a test objects, and the count under each column. Without a bug nothing is orange. Memorising objects to {hits['memorises']} bug, the model that looks at no other token; "
#      f"the comparison with Qwen2 to {hits['equals Qwen2']}; each bug has at least one orange field. Fields with a rim, alone in their line, stand in six columns; memorising and the future have none.",
#      caption="Orange: the test objects to the bug. With a rim: no other test does. First line: no bug, no objection. Initial weights of one seed.")
# answer("1.1", f"Memorising finds **{hits['memorises']}** of nine, the model that looks at no other token.", hits["memorises"], unit="bugs")
# answer("1.2", f"The comparison with Qwen2 finds **{hits['equals Qwen2']}**.", hits["equals Qwen2"], unit="bugs")
# say(f"The four agreements together find {sum(any(v[t] for t in AGREEMENTS) for v in verdicts.values())}. Every bug is found by somebody. "
#     f"With three seeds, the sound model knew the batch (a loss below 0.1) after {knows('no bug')} steps, the one with a feed-forward that never learns after {knows('h  feed-forward gets no gradient')}. "
#     f"With the first of these seeds, the one that looks ahead knew it after {first['a']}, the one without document boundaries after {first['d']}.")

# %% [markdown]
# If you wrote more than one: overfitting is the test that feels most like proof. It finds the model that cannot learn, and none of those that learn the wrong thing. A model that peeks ahead, or into the
# neighbouring document, memorises as well as the sound one: it sees more, not less. A feed-forward that never learns only makes it slower. And nothing is decoded, so the bugs of decoding stay hidden.
#
# Read the grid by columns as well. Parity with Qwen2 is blind for everything outside one plain forward pass: cache, padding, packing, training. The agreements are blind for a wrong function computed consistently: shared keys in the wrong order, a missing
# scale. Six of the eight find a bug that no other test finds. Memorising and *future = 0* do not. Even the deaf model is found before its first step: a softmax over one token is one, whatever query and key are, so some weights never move.
#
# The unshifted targets are caught by a test that costs one number: with a tied head, a newborn model slightly prefers to repeat its input, so a loss visibly *below*
# $\ln V$ at birth says that it is being asked for what it already has. An untied head has no such preference, and the bug passes. There, let it write once it is trained: it says one token over and over.
#
# ```{admonition} Takeaway
# :class: takeaway
# Overfitting shows that a model can learn. That it computes what you think it computes needs other witnesses: a twin, a cache, a padded row, a packed row, and a derivative that is exactly zero.
# ```
#
# ## What a mask changes
#
# Bug **d** is not always a bug. The original did not mask: its rows of 2,048 tokens are one stream to the attention. A model can learn to stop at the separator, and long documents have few
# boundaries. But learn it must. How much is there to ignore?

# %% tags=["active-ipynb", "hide-input", "within-0.1"]
# long_rows = decoder.packed_rows(load("cpu"), RUN, load("cpu").data.sequence_length, 64).batch(0).position_ids
# share, pieces = decoder.crossing(long_rows), (long_rows == 0).sum(1).double().mean().item()
# answer("1.3", f"**{share:.0%}**. These rows hold {pieces:.1f} pieces of documents on average. Were all equally long, it would be 1 − 1/{pieces:.1f} = {1 - 1 / pieces:.0%}; a long one among them makes it less.", 100 * share, unit="%")
#
# def looks_across(seed):
#     """Share of attention that goes to other documents without the rule: at birth, and when the batch is known."""
#     document_BT, shares = (batch.position_ids == 0).cumsum(1), []
#     across_B1TT = (document_BT[:, :, None] != document_BT[:, None, :])[:, None]
#     without = newborn(seed)
#     with exchanged({"look": neighbours}):
#         for learn in (lambda model: None, by_heart):
#             learn(without)
#             without(batch.input_ids, batch.position_ids)
#             shares.append(sum((layer.self_attn.weight_BHTU * across_B1TT).sum(-1).mean().item() for layer in without.layers) / len(without.layers))
#     may_TT = torch.ones(across_B1TT.shape[-2:]).tril()
#     evenly = (across_B1TT * may_TT / may_TT.sum(-1, keepdim=True)).sum(-1).mean().item()   # every allowed token alike
#     return *shares, evenly
#
# young, old, even = zip(*(looks_across(seed) for seed in range(3)))
# say(f"And how much of it is looked at? An attention that looks at all it may see alike would give other documents {even[0]:.1%} in the batch above (less than in the rows of 256: it has fewer boundaries). "
#     f"Three decoders without the rule gave them {min(young):.1%} to {max(young):.1%} at birth, and {min(old):.1%} to {max(old):.1%} when they knew the batch by heart: they had hardly begun to ignore them.")

# %% [markdown]
# Sixty steps on one batch say nothing about a long run. Here the mask is on by default; the presets of the originals and of the comparisons in chapters 07 and 08 have `data.mask_documents=false` (exercise 06.5 compares).
#
# One surprise. The positions restart with each document, and RoPE does not care: rotate everything by the same angle and no score changes. Restarting them is only how the model is *told* where
# documents begin.
#
# ## At full scale
#
# The same few files in `steel/model` are every model of this book. `minillm-*` and `hammer-1.4b` are Llama, with other vocabularies. Steel is Qwen1.5 with another feed-forward {cite:p}`minillm2024,hammerllm2024,steel2025`. Counted
# on the meta device, where tensors have shapes and no content:

# %% tags=["active-ipynb", "hide-input"]
# names = ("minillm-0.2b", "minillm-1.1b", "hammer-1.4b", "steel-1b", "steel-1b-dense")
# table(decoder.SHAPE_COLUMNS, [decoder.shape_row(name, load(name).model) for name in names])
# for name in names[:3]:
#     on_meta = sum(p.numel() for p in build(load(name).model, device="meta").parameters())
#     assert on_meta == decoder.as_llama(load(name).model) == count_parameters(load(name).model)["total"]
# steel, T = load("steel-1b").model, load("steel-1b").data.sequence_length
# dense_work = flops_per_token(load("steel-1b-dense").model, T).total / 1e9
# work, shared_work = (flops_per_token(dataclasses.replace(steel, num_key_value_heads=K), T).total / 1e9 for K in (32, 4))
# weights = 2 * steel.num_hidden_layers * steel.hidden_size**2
# say(f"Three presets have as many parameters as `LlamaForCausalLM`. In `steel-1b` the projections to keys and values hold {weights / 1e6:.0f} M weights and do {6 * weights / 1e9:.2f} of the {work:.2f} GFLOP that a token costs in training, "
#     f"**{6 * weights / 1e9 / work:.0%}**; of the {dense_work:.2f} of a dense model it is {6 * weights / 1e9 / dense_work:.0%}. With four key heads instead of 32 a token would cost {1 - shared_work / work:.0%} less, "
#     f"with a dense feed-forward {(work - shared_work) / dense_work:.0%}. The cache is counted in bf16.")

# %% [markdown]
# Steel's choices, with hindsight that its authors could not have:
#
# *Heads of 56 channels.* Steel took 32 heads from its template and divided 1,792 by it. FlashAttention compiles its kernels for a few widths only; a head of 56 runs as one of 64, an eighth of it zeros. Fourteen heads of 128 have the same
# projections to the last weight, and that is what our own presets of this size use. (That they learn as well we have not measured.)
#
# *No sharing.* A key for every query makes the cache the largest of the table, in our own shapes too: 129 kB a token, a quarter of a gigabyte for a text of full length. Nor is it free in training, as the sentence under the table says for Steel and for a dense model. Whether fewer key heads
# learn as well we have not measured.
#
# *Base one million* is generous for a sequence of 2,048: exercise 06.2 counts the clock hands that hardly move.
#
# The script tests the four agreements for `steel`'s model of a preset and ends with exit code 1 when one does not hold. A model of more than a hundred million parameters
# is cut to two layers of its own width and a small vocabulary, so that no GPU is needed:
#
# ```text
# python notebooks/06_transformer.py --preset minillm-0.2b
# python notebooks/06_transformer.py --preset steel-1b-dense
# ```
#
# Presets with the original's feed-forward (`steel-1b`) are left out on purpose: [chapter 07](07_soft_moe.ipynb) puts these questions to it.
#
# ## Failure gallery
#
# ```{admonition} The default that was not there
# :class: failure
# Steel's experts are `intermediate_size // mlp_div_ratio` wide. The ratio stands in the released `config.json`, and the configuration class has no default for it: `SteelConfig()` builds, and the first layer fails
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
# Our own. FSDP, which spreads a model over several GPUs, casts every floating tensor among the arguments of a block to bf16, dataclasses included. RoPE's cosines that travel that way arrive rounded: the grey curve of the clock figure where a single process has the blue one. Small, and
# it makes a model on two GPUs another function than on one. **Now:** the tables travel in a plain object that FSDP does not open, and a test shards a model and looks at their type.
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
#
# ```{dropdown} Answer 06.2
# 12 of 28 with base one million, 4 of 28 with base ten thousand: $2048 \cdot \theta^{-2i/56} < 1$ for $i > 28 \ln 2048 / \ln \theta$, that is 15.5 and 23.2.
# ```
#
# **06.3 Code.** Write `grouped(q_BTHC, k_BUKC, v_BUKC, mask_BTU)`: the result of `attend` (without the weights), and no copy of keys or values for each query head. Query head $h$ uses key head $h // (H / K)$. The check refuses every tensor larger than keys and values together.

# %% tags=["active-ipynb", "hide-cell"]
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
# **06.4 Break it.** Turn the clocks the other way: exchange the signs of the sines in a copy of `rope`. Which of the eight tests object (`examine({"rope": yours})[0]`)? Why no others? Then plant a tenth bug, in `look`, that none of the eight finds, and say which test would.
#
# ```{dropdown} Answer 06.4
# Only the comparison with Qwen2. A score depends on the distance as before, with its sign exchanged, and for freshly drawn weights no direction is better than the other. It is another convention, fatal only to somebody who loads
# weights that were trained with the first.
#
# A tenth: with anything in the cache, everything may be looked at. That is right for single tokens, and `decode` feeds no others. Several at once, such as a conversation's second question, see their own future. Feed pieces of three.
# ```

# %% tags=["active-ipynb", "hide-cell"]
# def turned(x_BTHC, position_BT, theta, rope=rope):
#     return rope(x_BTHC, -position_BT, theta)
#
# objections = [test for test, objects in examine({"rope": turned})[0].items() if objects]
# print("objections:", *objections)
# assert objections == ["equals Qwen2"]
#
# def hasty(position_BT, past, valid_BU, look=look):
#     may_BTU = look(position_BT, past, valid_BU)
#     if past == 0:
#         return may_BTU
#     return torch.ones_like(may_BTU) if valid_BU is None else may_BTU | valid_BU.bool()[:, None, :]
#
# def in_pieces(model, tokens_BT, size=3):
#     caches = [Cache() for _ in model.layers]
#     return torch.cat([model(part_BT, caches=caches) for part_BT in tokens_BT.split(size, dim=1)], dim=1)
#
# assert not any(examine({"look": hasty}, losses=right)[0].values())   # training has no cache: the same losses
# with exchanged({"look": hasty}):
#     missed = gap(in_pieces(mine, tokens_BT), mine(tokens_BT))
# sound = gap(in_pieces(mine, tokens_BT), mine(tokens_BT))
# print(f"pieces of three: {missed:.0e} with the tenth bug, {sound:.0e} without")
# assert missed > 1e-6 > 1e-12 > sound

# %% [markdown]
# **06.5 Open, half an hour of two cores.** `steel run --preset laptop --run runs/life` makes token shards in `runs/life/shards` and, in `runs/life/pretrain`, the first of six models: seed 1, with the mask. Train the other five,
#
# ```text
# steel pretrain --preset laptop --data runs/life/shards --run runs/off-1 seed=1 data.mask_documents=false
# ```
#
# and so on, three seeds with the mask and three without, and compare the last held-out loss by source (`by_source` in `log.jsonl`). Where do you expect the mask to help, and where to hurt? Write it down first. Is the difference larger than the spread of the seeds?
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
# **Which part of RoPE needs fp32?** The angle: position times speed. Rounded cosines and sines cost a few thousandths of a nat; round them on every machine or on none.
# ```
#
# ```{admonition} Card
# :class: card
# **Bytes of cache per token?** Two (key and value) × layers × key heads × channels × bytes per number. Query heads do not appear in it; that is why they share.
# ```

# %% tags=["active-ipynb", "timing"]
# badge()

# %%
if __name__ == "__main__":
    if not decoder.verify(cfg, AGREEMENTS):
        raise SystemExit(1)
