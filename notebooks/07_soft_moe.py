# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · A mixture of experts that looks like a bargain
#
# In Steel the feed-forward experts hold three tenths of the parameters and, routing included, do about a thousandth of the work. Parameters that cost nothing are
# either the best bargain in the model or doing nothing. The README counts it as a gain: the same number of parameters, a faster run
# {cite:p}`steelreadme2025`. There was no budget for a plain model beside it, and the author says so {cite:p}`steelblog2024`.
#
# We build the layer three times, as he did, and test each as in chapter 06.

# %% tags=["hide-input"]
from pathlib import Path

import torch
import torch.nn.functional as F

from figures.experiments import ablation, leak
from figures.experiments.leak import agrees, lone_layer, perturb, rms_of
from steel.config import load, preset
from steel.model import build
from steel.plan import flops_per_token

cfg = preset()  # --preset NAME, then overrides
toy = load("cpu").model

# %% tags=["active-ipynb", "hide-input"]
# import shutil
#
# import numpy as np
#
# from figures import draw_07
# from figures.claims import log
# from figures.draw_07 import sci
# from figures.experiments.verdicts import paired
# from figures.style import answer, badge, say, show, table
#
# show(draw_07.three_tries(), alt="Three rows. v1: every token goes through every expert, and a softmax over experts weighs the outputs. v2: dispatch weights, a softmax over slots, add tokens up into slots; "
#      "each expert reads one slot; combine weights, a softmax over tokens, hand the outputs back. v3: the same with the two softmaxes exchanged.",
#      caption="Three versions of one layer, with five tokens and three experts. Each grid holds one weight per token and slot; in an outlined row or column the weights add up to one.")

# %% [markdown]
# ```{admonition} Predict
# :class: predict
# The layer of the last row stands between attention layers that mask the future, as they should. Write down three answers.
#
# 1. 炉火红了，师傅举起铁锤。 (“The fire glows red, the master lifts his hammer.”) Take its twelve characters as tokens. How many of them can change what the layer puts out at the fifth, the comma?
# 2. A small model with this layer is trained on a million tokens. The same held-out predictions are then scored twice, with the same weights: in whole rows, as a training log does it, and each from its own prefix, with the rest of the row (one training sequence) cut off. By how many nats per token
#    do the two losses differ?
# 3. A careful engineer takes a *new* model with this layer, replaces the last token and compares all earlier logits in fp32. The largest logits are about one. How large is the largest change?
# ```
#
# ## Parameters without work
#
# After attention has moved information between positions, the feed-forward layer works on each alone: up to
# a wider space, through a gate, and back down {cite:p}`swiglu2020`. Twice the weights is twice the work.
#
# A **mixture of experts** breaks that tie. Cut the wide layer into $E$ narrow ones, the experts, and let a small *router* decide which of them a token
# visits {cite:p}`shazeer2017`. The price is in the word *decide*: a choice has no gradient, and an extra loss term must spread the tokens
# evenly {cite:p}`switch2022`. In a **soft** mixture everything is a weighted average, everything has a gradient, nothing needs balancing. That was one of the
# author's reasons, beside memory and training all parameters fully {cite:p}`steelblog2024`. But an average of what?
#
# ```{admonition} Napkin
# :class: napkin
# One of Steel's experts has four matrices between the model's width $D$ and its own width $F$: $4DF = 4 \times 1792 \times 448 \approx 3.2$ million weights, so a vector that passes it costs 6.4 MFLOP forward. Six experts, 18 layers:
#
# - average of *expert outputs*, every token through all six: $6 \times 18 \times 6.4 \approx 690$ MFLOP per token;
# - average of *tokens*, six averages per sequence of 2,048: $690 / 2048 \approx 0.3$ MFLOP per token, and about one more for the weights of the averages.
#
# The rest of the model costs 1,140. The first average adds three fifths to that, the second nothing that one could measure.
# ```

# %% tags=["active-ipynb", "hide-input"]
# import dataclasses
#
# steel = load("steel-1b").model
# work = {kind: sum(flops_per_token(dataclasses.replace(steel, feed_forward=kind), 2048).forward.values()) for kind in ("soft_moe_v1", "soft_moe_v3", "none")}
# say(f"The planner of chapter 01 agrees: {work['soft_moe_v1'] / 1e6:,.0f} MFLOP per token with the first average, {work['soft_moe_v3'] / 1e6:,.0f} with the second. That is {work['soft_moe_v3'] / work['none'] - 1:.2%} more than "
#     f"**deleting the feed-forward**.")

# %% [markdown]
# ## Three tries
#
# Each try in a few lines, on one sequence `x_TD`, compared with the layer in `steel.model`, which reproduces the released code. $T$ is the number of
# tokens, $J$ that of experts, and from version 2 on of slots.
#
# **Version 1** averages outputs: every token through every expert, and a softmax says how much of each it takes.

# %%
D, J = 16, 6

def v1(p, x_TD):
    weight_TE = p.router(x_TD).softmax(dim=1)            # a token's shares add up to 1
    every_ETD = p.experts(x_TD.expand(J, *x_TD.shape))   # E experts on T tokens: the cost
    return torch.einsum("te,etd->td", weight_TE, every_ETD)

layer_v1 = lone_layer("soft_moe_v1", D, J)
assert agrees(v1, layer_v1)


# %% [markdown]
# It works, at a dense layer's bill; the author dropped it.
#
# **Version 2** mixes tokens first. An expert no longer reads tokens but a **slot**, a weighted sum of them. *Dispatch* says how much of each token goes into
# each slot, *combine* how much of each slot's output returns to each token.

# %%
def through(experts, slots_JD):
    return experts(slots_JD[:, None])[:, 0]              # slot j through expert j

def v2(p, x_TD):
    logits_TJ = x_TD @ p.score
    dispatch_TJ = logits_TJ.softmax(dim=1)               # over slots
    combine_TJ = logits_TJ.softmax(dim=0)                # over tokens
    return combine_TJ @ through(p.experts, dispatch_TJ.T @ x_TD)

layer_v2 = lone_layer("soft_moe_v2", D, J)
assert agrees(v2, layer_v2)


# %% [markdown]
# Its loss “would not come down to normal” {cite:p}`steelblog2024`. Our reading starts with the axes. A *token's* dispatch weights add up to one, so a slot receives a sum that grows with the
# length of the text; two gates then magnify it. In our runs its first layer is born three to four thousand times as loud as the stream that it joins. No run changes the axes alone: a reading, not a proof.
#
# **Version 3** swaps `dim=0` and `dim=1` and normalises the input. Its two softmaxes are those of Puigcerver and colleagues {cite:p}`softmoe2024`, Algorithm 1, which
# was made for images. A slot is now a true average of the sequence, and a token's shares of the slots add up to one.

# %%
def v3(p, x_TD):
    x_TD = F.normalize(x_TD, dim=-1)
    logits_TJ = x_TD @ (p.scale * F.normalize(p.phi, dim=0))
    dispatch_TJ = logits_TJ.softmax(dim=0)               # over tokens
    combine_TJ = logits_TJ.softmax(dim=1)                # over slots
    return combine_TJ @ through(p.experts, dispatch_TJ.T @ x_TD)

layer_v3 = lone_layer("soft_moe_v3", D, J)
assert agrees(v3, layer_v3)


# %% [markdown]
# This one shipped. It is fast and its loss went down: by everything that a training log shows, the right decision.
#
# ## Who reads whom
#
# The output at $t$ may depend on the input at $i$ only for $i \le t$, so $\partial y_t / \partial x_i$ must be zero above the diagonal. Not small: zero.
# The twelve tokens get random vectors, one each.

# %%
def influence(layer, x_TD):
    """Norm of the Jacobian block dy_t/dx_i for every pair (t, i): (T, T)."""
    y = lambda x_TD: layer(x_TD[None])[0]
    jacobian_TDTD = torch.func.jacrev(y)(x_TD)
    return jacobian_TDTD.detach().square().sum(dim=(1, 3)).sqrt()

SENTENCE = "炉火红了，师傅举起铁锤。"
draw = torch.Generator().manual_seed(4)
tokens_TD = torch.randn(len(SENTENCE), D, dtype=torch.float64, generator=draw)
seen = {name: influence(layer, tokens_TD)
        for name, layer in (("v1", layer_v1), ("v2", layer_v2), ("v3", layer_v3))}
for name, map_TT in seen.items():
    print(f"{name}: the comma reads {(map_TT[4] > 0).sum():2} of {len(SENTENCE)} tokens; "
          f"largest entry {map_TT.max():.0e}")


# %% tags=["active-ipynb", "hide-input"]
# show(draw_07.who_reads_whom({name: seen[name] for name in ("v2", "v3")}, SENTENCE, {"v2": "v2", "v3": "v3, as shipped"}),
#      alt="Left, a drawing: the twelve tokens of a Chinese sentence in a row. Below it, attention's arrows run to the comma from the four tokens before it; behind the comma stands a bar, the mask, at which the arrow from the hammer ends. Above it, all tokens lead into a slot, and an orange arrow runs from the hammer into it and down to the comma. "
#      "Right, two maps of twelve by twelve tokens: which token changes which position. v2 and v3 have no blank cell; in v3 all cells are about equally strong.",
#      caption="The locked door and the window. In the maps the future lies right of the orange stairs; exactly zero would be blank. Each has its own scale, named above it. In v2 most cells are a thousandth of the largest or less, and none is zero; in v3 the future weighs as much as the past.")
# assert seen["v2"].min() > 0 and seen["v3"].min() > 0 and (seen["v2"] < 1e-3 * seen["v2"].max()).double().mean() > 0.5
# assert torch.equal(seen["v1"] > 0, torch.eye(len(SENTENCE)).bool())
# assert seen["v1"].max() > 5e5 * seen["v3"].max()
# answer("1.1", f"All {len(SENTENCE)}: the comma reads the hammer, 锤, six tokens ahead.", int((seen["v3"][4] > 0).sum()), unit="tokens")

# %% [markdown]
# In version 1 each token reads itself. In versions 2 and 3 nothing is exactly zero: each slot sums over the *whole* sentence, and every
# position reads the slots. Attention's mask is a locked front door; this is the window beside it.
#
# The largest influence in v3 is more than half a million times smaller than in v1. Something else is wrong with this layer.
#
# ## The careful engineer's test
#
# She does with a whole model what everybody does: change the last token, look at the logits before it. Her tolerance is one in a hundred thousand.

# %%
def logits_before(model, ids_BT):
    """How far logits before the last position move when the last token is replaced."""
    other_BT = ids_BT.clone()
    other_BT[:, -1] = (other_BT[:, -1] + 1) % model.config.vocab_size
    with torch.no_grad():
        moved = model(other_BT).logits - model(ids_BT).logits
    return moved[:, :-1].abs().max().item()


# %% [markdown]
# Her models come at three ages: new; new with noise on every weight (`perturb`); and after sixty steps on the text of SteelTown. The last two are asked in fp64.

# %% tags=["active-ipynb", "hide-input", "within-0.9"]
# RUN = Path("runs") / "07_soft_moe-cpu"
# shutil.rmtree(RUN, ignore_errors=True)  # this notebook starts afresh every time
# micro, shards, trained = leak.train_micro(cfg, ("v1", "v2", "v3"), RUN)
# rows_BT, _ = ablation.held_out_rows(shards, micro.data.sequence_length, 4)
# lines, moved = [], {}
# for kind, model in trained.items():
#     new = lambda dtype: build(ablation.variant_model(micro.model, kind), seed=cfg.seed, dtype=dtype).eval()
#     moved[kind] = [logits_before(new(torch.float32), rows_BT), logits_before(new(torch.float64), rows_BT),
#                    logits_before(perturb(new(torch.float64)), rows_BT), logits_before(model.double(), rows_BT)]
#     lines.append([kind, *("0" if v == 0 else f"{v:.0e}" for v in moved[kind]), "passes" if moved[kind][0] < 1e-5 else "fails", "passes" if moved[kind][1] == 0 else "fails"])
# table(["largest change of an earlier logit", "new, fp32", "new, fp64", "with noise", "trained", "her test", "fp64, exactly 0"], lines, "lrrrrll")
# assert moved["v1"] == [0.0] * 4 and min(moved["v3"]) > 0
# with torch.no_grad():
#     assert all(0.8 < build(ablation.variant_model(micro.model, kind), seed=cfg.seed).eval()(rows_BT).logits.abs().max() < 1.5 for kind in trained)
# assert 2e-7 < moved["v3"][0] < 5e-6 and 0.5 < moved["v3"][1] / moved["v3"][0] < 2 and moved["v3"][3] > 100 * moved["v3"][1]
# answer("1.3", "About a millionth in v3: far below her tolerance, so the test passes. It looks like rounding and is none: in fp64 it stays as large.", moved["v3"][0])

# %% [markdown]
# Sixty steps later the leak of v3 has grown a hundredfold and more. In v1, which is causal, it is zero at every age. A demand for zero would have caught the leak, and fp64 leaves rounding no excuse. So would a model that has learned something. Noise was not enough to wake v3. Why?
#
# ```{admonition} Takeaway
# :class: takeaway
# Causality is a zero, not a tolerance. Change one token, in fp64, with trained weights, and demand that every earlier logit is *the same number*.
# ```
#
# ## How loud is it?
#
# Take v3 at Steel's own width, with the original's initial weights (normal, standard deviation 0.02), and follow the first layer's signal.

# %% tags=["active-ipynb"]
# _, mlp, h_TD = leak.born(steel, layers=1, length=64)
#
# def gated(x):
#     gate, up = x.chunk(2, dim=-1)
#     return F.silu(gate) * up
#
# with torch.no_grad():
#     unit_TD = F.normalize(h_TD, dim=-1)
#     logits_TJ = unit_TD @ (mlp.scale * F.normalize(mlp.phi, dim=0))
#     slots_JD = logits_TJ.softmax(dim=0).T @ unit_TD
#     once_J1F = gated(slots_JD[:, None] @ mlp.experts.gate_up_proj)
#     twice_J1D = gated(once_J1F @ mlp.experts.down_proj)    # Steel's expert ends in a gate
# assert torch.allclose(twice_J1D[:, 0], through(mlp.experts, slots_JD), rtol=1e-3, atol=0)
# print(draw_07.stairs(h_TD, unit_TD, slots_JD, once_J1F, twice_J1D))

# %% [markdown]
# Nine orders of magnitude, lost on four stairs, and most of them on the last. `F.normalize` makes the *norm* one, so each of the 1,792 entries is about 1/42. The scores need
# that; the experts do not. The authors' own code normalises a copy for the scores, the public PyTorch port that Steel's file names as its source
# overwrites `x`, and so does Steel. Averaging, here over a short row, cancels what the vectors do not share. And Steel's expert is gated
# twice, with four matrices where others have three. A gate multiplies two linear maps of its input, so at small scale it squares; two in a row make the fourth power.

# %% tags=["active-ipynb"]
# loud, half = (rms_of(through(mlp.experts, x_JD)) for x_JD in (slots_JD, slots_JD / 2))
# print(f"slots half as loud: output / {loud / half:.1f}")
# for kind in ("v1", "v3"):                              # one fresh layer, random tokens
#     g = leak.first_gradients(steel, f"soft_moe_{kind}").abs()
#     step = (g / (g + 1e-8)).mean().item()              # Adam's first
#     print(f"{kind}: expert gradients {rms_of(g):.0e}, {(g < 1e-8).float().mean():4.0%} below ε, "
#           f"first step {step:.4f} learning rates")
# decay = 0.02 * load("steel-1b").train.weight_decay     # of a weight as large as at birth
# print(f"decay: {decay:.4f} learning rates")
# assert 15.9 < loud / half < 16.1 and step < decay and (g < 1e-8).float().mean() > 0.995

# %% [markdown]
# Halve the slots, and a sixteenth comes out. The gradient of the experts' weights shrinks with the same fourth power. Adam is said not to care, since it divides the gradient by its own size. But it divides by $|g| + \epsilon$, with $\epsilon = 10^{-8}$ by default, and v3's gradients
# lie below that: at birth decay pulls harder than the gradient does.

# %% tags=["active-ipynb", "hide-input"]
# depth = {kind: leak.born(steel, 18, **fields)[0]
#          for kind, fields in {"v3 awake": {"soft_moe_normalize_slots": True}, "v1": {"feed_forward": "soft_moe_v1"}, "v3": {}}.items()}
# TEXT = {kind: sorted((r for r in log("soft-moe-text") if r["variant"] == kind), key=lambda r: r["seed"]) for kind in ("v1", "causal", "v3", "v3 awake")}
# say(f"In layer 1 v3's output is **{sci(depth['v3'][0])}** of the residual stream that it is added to, in layer 18 **{sci(depth['v3'][-1])}**. Fp32 keeps a relative {sci(2**-24)}, and bf16, in which the original was trained, {sci(2**-8)}: "
#     "added to the stream, the layer is lost in rounding. A layer so quiet leaks as quietly: that is why the test passed.")
# show(draw_07.loudness(depth, {kind: TEXT[kind] for kind in ("v3", "v3 awake", "causal")}, "right: figures/runs/soft-moe-text.json, three seeds"),
#      alt="Left: at birth, at Steel's width, v3's output is a billionth of the residual stream in all 18 layers, below what fp32 can add, while v1 and v3 awake lie between a thousandth and a tenth. "
#      "Right: in training at width 64 v3 starts at a millionth and is after a hundred steps level with v3 awake, somewhat below causal.",
#      caption="How loud the feed-forward is. Left: fresh layers with the original's initial weights. Right: small runs with this project's initial weights; width and initial weights both differ from the left, and v3 awake also starts its scale at √D, not 1.")

# %% [markdown]
# The right half shows our runs at
# width 64, with this project's initial weights (larger ones, scaled to the width) and a learning rate of 0.008: the layer wakes within a hundred steps. Steel had
# twenty-eight times the width and a learning rate of 3e-4, and we varied none of the three alone. Whether it woke there we have not measured (exercise 07.5).
#
# What makes the layer audible at birth, at Steel's width, is one line: an RMS normalisation of the slots before the experts. That is *v3 awake*.
#
# ## The same predictions, three times
#
# A leak matters only if the model learns to use it. Take fixed predictions in held-out text, and compute their loss three times.
#
# - **Teacher-forced**: the whole row at once, as in a training log.
# - **Prefix only**: the row is cut off behind the position.
# - **Cached**: one token at a time, from the first.
#
# For a causal model the three are one number.
#
# ```{admonition} Napkin
# :class: napkin
# How much can the future be worth? Six slots of width 1,792 are 10,752 numbers, shared by the 2,048 positions of a row: five for each. Packed well, they could name every next token. But all positions read the same six vectors, by six shares each. Expect the layer to learn what the rest of the
# text is about: a modest, dishonest gain.
# ```
#
# The runs: four layers, 64 wide, a million tokens of real Chinese and English text, three seeds.

# %% tags=["active-ipynb", "hide-input"]
# show(draw_07.three_losses(TEXT, f"figures/runs/soft-moe-text.json: three seeds, {TEXT['v3'][0]['paired_predictions']} predictions each"),
#      alt="What the same predictions cost more than in whole rows. v1 and the causal layer: nothing. v3: 0.04 nats from the prefix, 0.56 from a cache. v3 awake: 0.08 and 0.74.",
#      caption="Each model against itself. Ring: the same predictions from their prefixes; square: one token at a time. Lines are 95 % intervals over training seeds (Student's t) on the same predictions; dots are seeds.")
# read = paired([r["prefix_loss"] for r in TEXT["v3"]], [r["paired_loss"] for r in TEXT["v3"]])
# chat = paired([r["cached_loss"] for r in TEXT["v3"]], [r["paired_loss"] for r in TEXT["v3"]])
# awake = paired([r["prefix_loss"] for r in TEXT["v3 awake"]], [r["paired_loss"] for r in TEXT["v3 awake"]])
# each = [r["prefix_loss"] - r["paired_loss"] for r in TEXT["v3"]]
# assert read.established and chat.established and awake.established
# answer("1.2", f"In our small runs the prefix costs v3 **{read.mean:.3f}** ± {read.half:.3f} nats more (95 %, three seeds): by so much its log was too low.", read.mean, low=min(each), high=max(each), unit="nats/token")
# say(f"So the log is too low by what cutting off the future costs: {read} nats for v3, {awake} for *v3 awake* (95 %, three seeds). One token at a time the same predictions of v3 cost **{chat}** more than the log had said.")

# %% [markdown]
# A prefix lacks the future, and its slots average fewer tokens than in training; the two we have not parted. Cached decoding is worst of all, because a token by itself is a sequence of length one: every slot *is* the token, and all six experts run on it. No slot looked like
# that in training. The layer becomes a version 1 that nobody trained.
#
# All this was measured on our small models, not on Steel. Two things must be said for the original. Its log could not show any of this: a training log *is* the
# teacher-forced loss. And its C-Eval and CMMLU scores are not inflated by the leak. Both scripts of the repository, `eval/eval_chat.py` and `eval/eval_CMMLU.py`, call `generate` {cite:p}`steelreadme2025`: the whole question goes through at once, with no
# answer behind it to be read. The first token of the reply is predicted there, the others from the cache. If our measurement carries over, both are worse than the log promised; what that cost in points we do not know.
#
# ## Mend it
#
# Six steps. The idea of reading only finished segments is that of Lory {cite:p}`lory2024`, which merges the *weights* of its experts; we merge *tokens*.
#
# **First: average over the past only.** Replace the softmax over all tokens by one over the tokens up to $t$: a running weighted sum over a running sum of weights.

# %%
def past_only(p, x_TD):
    weight_TJ = (x_TD @ p.dispatch).exp()
    sum_TJD = (weight_TJ[..., None] * x_TD[:, None]).cumsum(dim=0)
    slots_TJD = sum_TJD / weight_TJ.cumsum(dim=0)[..., None]
    z_TJD = p.experts(slots_TJD.transpose(0, 1)).transpose(0, 1)     # J runs a token
    return ((x_TD @ p.combine).softmax(dim=-1)[..., None] * z_TJD).sum(dim=1)

slots_alone = lone_layer("causal_soft_moe", D, J, num_shared_experts=0)
past_TT = influence(lambda x_BTD: past_only(slots_alone, x_BTD[0])[None], tokens_TD)
assert past_TT.triu(1).max() == 0 < past_TT.tril(-1).max()

# %% [markdown]
# Causal, and useless: the slots now differ from token to token. Version 1's bill is back: $J$ expert runs a token.
#
# **Second: let the slots stand still.** Cut the text into segments of $C$ tokens. A token reads slots made from the segments *completed before its own*; they are the
# same for all its neighbours, and an expert runs once per segment: $J / C$ runs a token. A token loses at most $C - 1$ tokens of recent past, which attention sees anyway.
#
# **Third: forget.** Without it and at equal weights, the newest of 31 segments has one thirty-first of the say. Each slot decays by its own learned factor $\gamma_j$ per segment.
#
# **Fourth: begin somewhere.** The first segment has nothing behind it, and 0/0 to read. A learned *prior* vector $b_j$ with a learned weight $\pi_j$ stands in, and fades as evidence comes.
#
# **Fifth: stay awake.** RMS-normalise each slot before its expert. Without it, each gate squares what the average has lost.
#
# **Sixth: a shared expert for every token.** All tokens of a segment mix the same $J$ outputs, and no expert has worked on *this* token. One of the six, $f_0$, does.

# %% tags=["active-ipynb", "hide-input"]
# show(draw_07.two_clocks(), alt="Three segments of four tokens. Tokens are weighed with w into the sums N and M of their own segment. These are added to the decayed sums n and m that the next segment reads: slots u, slot experts z, shared out to its tokens by c, which each token computes for itself. "
#      "A shared expert f0 leads straight down from every token. No arrow points back in time.",
#      caption="Two clocks. Tokens tick one by one, and each goes through the shared expert; slots tick once per segment. A segment reads sums of the segments before it, never its own.")

# %% [markdown]
# In the order of the drawing, with $s(t)$ the segment of token $t$: weights $w_{tj} = \exp(15 \tanh(\langle x_t, \phi^d_j\rangle / 15))$, sums of a segment $N, M$ and of the past $n, m$, slots $u$, their outputs $z$, shares $c$:
#
# $$
# n_{s+1,j} = \gamma_j n_{s,j} + \underbrace{\textstyle\sum_{t \in s} w_{tj} x_t}_{N_{s,j}}, \qquad m_{s+1,j} = \gamma_j m_{s,j} + \underbrace{\textstyle\sum_{t \in s} w_{tj}}_{M_{s,j}}, \qquad
# u_{s,j} = \mathrm{rms}\!\left(\frac{\pi_j b_j + n_{s,j}}{\pi_j + m_{s,j}}\right),
# $$
#
# $$
# y_t = f_0(x_t) + \sum_j c_{tj}\, z_{s(t),j}, \qquad z_{s,j} = f_j(u_{s,j}), \qquad c_t = \mathrm{softmax}_j\big(15 \tanh(\langle x_t, \phi^c_j\rangle / 15)\big).
# $$
#
# Here $\mathrm{rms}$ divides a vector by its root mean square. The hyperbolic tangent bounds the scores, so that exponentials can be summed without subtracting a maximum. (Why not subtract it? Exercise 07.4.)

# %%
C = 4  # tokens per segment

def cap(scores):
    return 15 * torch.tanh(scores / 15)

def causal(p, x_TD):  # p.dispatch, p.combine and p.prior are φ^d, φ^c and b of the formulas
    pi_J1, gamma_J1 = p.prior_weight.exp()[:, None], p.decay.sigmoid()[:, None]
    n, m, y = 0, 0, []
    for x_CD in x_TD.split(C):
        u_JD = F.rms_norm((pi_J1 * p.prior + n) / (pi_J1 + m), (D,), eps=1e-6)
        c_CJ = cap(x_CD @ p.combine).softmax(dim=-1)
        y.append(p.shared(x_CD[None])[0] + c_CJ @ through(p.experts, u_JD))
        w_CJ = cap(x_CD @ p.dispatch).exp()
        n, m = gamma_J1 * n + w_CJ.T @ x_CD, gamma_J1 * m + w_CJ.sum(dim=0)[:, None]
    return torch.cat(y)


# %% [markdown]
# A segment is read *after* its outputs have been written: that order of the lines is the arrow of time. The package's form has no loop:
# $n = A N$ with $A_{ss'} = \gamma^{s-1-s'}$ below the diagonal and zero on it is one small matrix product for all segments. Both give the same digits.

# %% tags=["active-ipynb", "hide-input"]
# layer_causal = lone_layer("causal_soft_moe", D, J - 1, segment_length=C)
# assert agrees(causal, layer_causal)
# maps = {"v3": seen["v3"], "causal": influence(layer_causal, tokens_TD)}
# assert maps["causal"].triu(1).max() == 0
# show(draw_07.leak_maps(maps, SENTENCE, {"v3": "v3, as shipped", "causal": "causal, C = 4"}),
#      alt="Two maps of the same sentence. v3: no blank cell. The causal layer: a diagonal, blocks of four columns below it, and nothing right of the orange stairs.",
#      caption="Before and after. Each token reads itself, through the shared expert, and the segments of four that ended before its own. Right of the stairs everything is blank: exactly zero.")

# %% [markdown]
# ## Decoding is the proof
#
# A causal layer must give the same numbers for all tokens at once and for one at a time from a cache. To be remembered are the sums $n, m$ of completed segments, $N, M$ of the open one, and the
# five outputs $z$ that its tokens read.

# %%
def one_at_a_time(model, ids_BT):
    cache, steps = None, []
    with torch.no_grad():
        for t in range(ids_BT.shape[1]):
            out = model(ids_BT[:, t : t + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    return torch.cat(steps, dim=1), cache

def cached_gap(model, ids_BT):
    """Largest difference between the logits of a full forward and those of cached decoding."""
    with torch.no_grad():
        return (one_at_a_time(model, ids_BT)[0] - model(ids_BT).logits).abs().max().item()


# %% [markdown]
# How large is that state?

# %%
def decode_state_bytes(D, J, wide=4):
    """One layer, one sequence: n, N, z (J, D) and m, M (J), of `wide` bytes each."""
    return wide * (3 * J * D + 2 * J)

small = build(ablation.variant_model(toy, "causal"))
slots = one_at_a_time(small, torch.zeros(1, 9, dtype=torch.long))[1].layers[0].slots
held = sum(v.nbytes for name, v in slots.items() if name != "count")
assert held == decode_state_bytes(toy.hidden_size, toy.num_experts - 1)
state, kv_token = decode_state_bytes(1792, 5), 18 * 2 * 1792 * 2  # keys, values in bf16
print(f"Steel's size, 5 slots: {state / 1e3:.0f} kB a layer, {18 * state / 1e6:.2f} MB "
      f"a sequence: as much as {18 * state / kv_token:.0f} tokens of keys and values")


# %% [markdown]
# A constant, however long the text. Training rows are packed from several documents, and segments must restart with each; decoding batches are padded, and padding
# must weigh nothing. Then a document gives the same logits alone, behind another document, or behind padding.

# %%
def company_gap(model, ids_BT):
    """Largest change of a document's logits behind another document, and behind padding."""
    first, second = ids_BT[:1], ids_BT[1:, :-1]
    T, U = first.shape[1], second.shape[1]
    positions = torch.cat([torch.arange(T), torch.arange(U)])[None]  # 0: a new document
    mask = torch.cat([torch.zeros(1, 5), torch.ones(1, U)], dim=1).long()
    with torch.no_grad():
        alone = model(second).logits
        packed = model(torch.cat([first, second], dim=1), position_ids=positions).logits[:, T:]
        padded = model(F.pad(second, (5, 0)), attention_mask=mask).logits[:, 5:]
    return [(other - alone).abs().max().item() for other in (packed, padded)]


# %% [markdown]
# Now the whole proof, in fp64, on two layers of any shape. Of the future it demands the zero. *Top-2* is the usual sparse mixture: its router sends each token to the two experts with the highest scores.

# %%
def prove(name, shape):
    """One line: what the future, a cache and company change; returns whether nothing does."""
    model = leak.proof_subject(shape)
    length, seed = 2 * shape.segment_length + 3, torch.Generator().manual_seed(5)
    ids_BT = torch.randint(model.config.vocab_size, (2, length), generator=seed)
    gaps = [logits_before(model, ids_BT), cached_gap(model, ids_BT), *company_gap(model, ids_BT)]
    exempt = shape.feed_forward == "top_k_moe"  # it sorts, see below; any other future: zero
    holds = gaps[0] <= exempt * 1e-10 and max(gaps) < 1e-10  # fp64 rounds far below
    words = ("future", "cache", "packed", "padded")
    print(f"{name:9}", *(f"{word} {gap:.0e}  " for word, gap in zip(words, gaps)),
          "holds" if holds else "FAILS")
    return holds

for kind in ("v1", "v3", "v3 awake", "causal", "top-2"):
    prove(kind, ablation.variant_model(toy, kind))


# %% [markdown]
# The causal ones hold; *v3 awake* leaks tenths of a logit and more, the sleeping v3 faintly. Top-2 alone is excepted from the zero: it sorts tokens by expert, so another last token makes a matrix one row longer, which
# may round differently.
#
# ```{admonition} Takeaway
# :class: takeaway
# Three equalities make a layer safe in a decoder: changed future, same past; cached, same as full; packed or padded, same as alone.
# ```
#
# ## At full scale
#
# No training, no GPU: this command builds two layers of the preset's own width and feed-forward and ends with their line of the proof:
#
# ```text
# python notebooks/07_soft_moe.py --preset steel-1b-causal
# ```
#
# With `model.source=hf model.path=probe/hf` behind it, the script takes the trained model in that folder, all its layers, at eight bytes a weight. Run the first before you pay for a GPU, the second on the first checkpoint, of which the [runbook](../book/runbook.md) makes `probe/hf` (“Each day”). When an equality fails, the exit code is 1.
#
# The mended layer's loss is true. What its slots *buy*, against plain layers of the same size, work and time, is the question of chapter 08.
#
# ## Failure gallery
#
# ```{admonition} Right paper, wrong direction
# :class: failure
# Soft MoE was made for images, where all patches exist at once; its authors name autoregressive decoders as a difficulty. **Caught by** one changed token.
# ```
#
# ```{admonition} A normalisation for one became a normalisation for all
# :class: failure
# `x = F.normalize(x)` was needed for the scores; written to `x`, it also fed the experts. Nothing failed. **Here:** `ablation.branch_ratios` measures the feed-forward's RMS over the residual's, per layer, and our comparisons log it while they train. A silent half of a block shows.
# ```
#
# ```{admonition} Two computations under one name
# :class: failure
# Training averaged 2,048 tokens into a slot, decoding averages one. Both are called `forward`. **Here:** the proof compares the two in fp64, and v2 and v3 fail it.
# ```
#
# ## Exercises
#
# **07.1 Recall.** Version 3 has two softmaxes. Which of them lets the future in, and why is the other one harmless?
#
# ```{dropdown} Answer 07.1
# Dispatch, over tokens: its denominator and its average run over all positions. Combine runs over slots, from one token's own scores.
# ```
#
# **07.2 Calculate.** A user decodes 32 conversations at once with the causal layer at Steel's size, with segments of 64 tokens and four slots per expert (five slot experts, 18 layers, fp32 state). How many megabytes of slot state, how many tokens of keys and values per conversation, how
# many runs of a slot expert per token?

# %% tags=["active-ipynb", "hide-cell"]
# each_bytes = 18 * decode_state_bytes(1792, 5 * 4)
# runs = 5 * 4 / 64
# print(f"{32 * each_bytes / 1e6:.0f} MB in all; {each_bytes / kv_token:.0f} tokens of keys and values per conversation; {runs:.2f} runs of a slot expert per token")
# assert round(32 * each_bytes / 1e6) == 248 and round(each_bytes / kv_token) == 60 and runs < 1 / 3

# %% [markdown]
# **07.3 Code.** Write `future(layer, x_TD)`: the largest absolute derivative of any output before any input, that is of an element of `layer(x_TD)` in row $t$ with respect to an element of `x_TD` in a row after $t$. (Rows of the output may be longer than $D$.) It must be
# exactly zero for a causal layer, and see a leak of one entry, from far ahead, or of one trillionth. (What no derivative sees: a `detach`, an `argmax`, a sort. The changed token does.)

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def future(layer, x_TD):
#     jacobian_TDTD = torch.autograd.functional.jacobian(layer, x_TD)
#     later_TT = torch.ones(len(x_TD), len(x_TD)).triu(1).bool()
#     return (jacobian_TDTD.abs() * later_TT[:, None, :, None]).max().item()
#
# check("07.3", future)

# %% [markdown]
# **07.4 Break it.** A colleague finds the hyperbolic tangent ugly and makes the exponential safe in the usual way, by subtracting the maximum, which cancels in every softmax. Does it leak? Ask your `future`, with
# `lambda x_TD: slots_read(x_TD, dispatch_DJ, prior_JD, 4)` as the layer; then mend the function so that it is causal, takes scores in the thousands, and leaves a token of moderate score (eight, say) its weight, $e^{\text{score}}$, against the prior's 1.

# %%
def slots_read(x_TD, dispatch_DJ, prior_JD, C):
    """The slots that each token reads, side by side: (T, J * D). Decay 1, prior weight 1."""
    scores_TJ = x_TD @ dispatch_DJ
    weight_TJ = (scores_TJ - scores_TJ.amax(dim=0)).exp()     # safe: the largest is 1
    n, m, rows = torch.zeros_like(prior_JD), 0, []
    for x_CD, w_CJ in zip(x_TD.split(C), weight_TJ.split(C), strict=True):
        u_JD = (prior_JD + n) / (1 + m)
        rows.append(u_JD.flatten().expand(len(x_CD), -1))
        n, m = n + w_CJ.T @ x_CD, m + w_CJ.sum(dim=0)[:, None]
    return torch.cat(rows)


# %% tags=["active-ipynb", "hide-cell"]
# # It leaks. The maximum is taken over the whole sequence, and it does NOT cancel: the prior's weight 1 is not scaled
# # with it, so a large score anywhere, also later, shifts the balance between prior and evidence.
# def mended(x_TD, dispatch_DJ, prior_JD, C):
#     weight_TJ = (15 * torch.tanh(x_TD @ dispatch_DJ / 15)).exp()
#     n, m, rows = torch.zeros_like(prior_JD), 0, []
#     for x_CD, w_CJ in zip(x_TD.split(C), weight_TJ.split(C), strict=True):
#         u_JD = (prior_JD + n) / (1 + m)
#         rows.append(u_JD.flatten().expand(len(x_CD), -1))
#         n, m = n + w_CJ.T @ x_CD, m + w_CJ.sum(dim=0)[:, None]
#     return torch.cat(rows)
#
# given = torch.randn(D, 2, dtype=torch.float64, generator=draw), torch.randn(2, D, dtype=torch.float64, generator=draw), 4
# assert future(lambda x_TD: slots_read(x_TD, *given), tokens_TD) > 0 == future(lambda x_TD: mended(x_TD, *given), tokens_TD)
# check("07.4", mended)

# %% [markdown]
# **07.5 Open, one download.** Did Steel's feed-forward wake? We know of nobody who has looked. Download the released checkpoint (two gigabytes) with its tokenizer, open it with `steel.model.original.import_original`, and send one page of Chinese text through it. `figures.experiments.ablation.branch_ratios(model, ids_BT)` gives
# eighteen numbers: each layer's feed-forward over the residual stream. First write down your conclusion from $10^{-9}$, from $10^{-3}$ and from $1$; then run `logits_before` on `model.double()` (nine gigabytes of memory).
#
# ```{dropdown} One answer to 07.5
# Below $10^{-7}$ in every layer, the layers are all but lost even in fp32. Near one, they work. Between the two the ratio says little: an RMS is not an entry, so even below $2^{-8}$ some entries move in bf16. So ablate: set the feed-forward's output to zero and compare the loss. Whether it leaks, only
# `logits_before` says, and in fp64 any number but zero is a leak. Send it in, whatever it is.
# ```
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **Dispatch and combine?** Dispatch: how much of each token goes into each slot, one in all over tokens. Combine: how much of each slot's output a token takes, one in all over slots. Version 2 exchanged the axes (and more); its loss fell half as far in our runs.
# ```
#
# ```{admonition} Card
# :class: card
# **How do you test for a leak?** Change one token; fp64; trained weights; every earlier output the same number. Then decode step by step and compare.
# ```
#
# ```{admonition} Card
# :class: card
# **On the same predictions the teacher-forced loss is below the prefix-only loss. Why?** The layer reads the future; the difference is what cutting it off costs. If the cached loss is higher still, decoding is another computation than training.
# ```
#
# ```{admonition} Card
# :class: card
# **Why does Adam's first step hardly move v3, at Steel's width?** It is $g / (|g| + \epsilon)$ learning rates. Gradients far below $\epsilon = 10^{-8}$ move weights by a small share of one, less than weight decay does. (Whether Steel's woke is not known.)
# ```

# %% tags=["active-ipynb", "hide-input", "timing"]
# badge()

# %%
if __name__ == "__main__":
    seven = {kind: ablation.variant_model(toy, kind) for kind in ablation.SEVEN}
    asked = {cfg.model.feed_forward: cfg.model}
    proofs = {kind: prove(kind, shape)
              for kind, shape in (seven if cfg.model == toy else asked).items()}
    if cfg.model != toy and not all(proofs.values()):
        raise SystemExit(1)
