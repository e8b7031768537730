# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · What a layer buys
#
# Steel's feed-forward had two novelties: a soft mixture of experts, and inside each expert a dual-layer SwiGLU {cite:p}`steelreadme2025`, a gate on the way up and another on the way down. For a trillion tokens every signal
# passed both. Were they good ideas? Their author says himself that he could not afford to find out: there was no second machine for a plain model.
#
# This chapter is the comparison that he could not pay for, at a size that anybody can. Small it must be. Fair is harder. Before two losses may stand side by side, five things have to be equal: parameters, work, loudness at birth, learning rate, and luck. The chapter takes them in this order,
# and only then looks at a loss.

# %% tags=["hide-input"]
import dataclasses
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from figures.experiments import ablation, command, reading
from figures.experiments.runs import town_shards, train_run
from steel.config import load
from steel.model import build
from steel.plan import count_parameters, flops_per_token

RUN = Path("runs") / "08_what_a_layer_buys"
TOWN = [  # a small model for a small town
    "model.vocab_size=512", "model.hidden_size=64", "model.intermediate_size=192", "model.num_hidden_layers=4",
    "model.num_attention_heads=2", "model.num_key_value_heads=2", "model.num_experts=6", "model.segment_length=8",
    "tokenizer.vocab_size=512", "data.sequence_length=64", "data.mask_documents=false", "train.batch_size=16",
    "train.micro_batch_size=16", "train.optimizer=adamw", "train.schedule=constant", "train.learning_rate=4e-3",
    "train.warmup_steps=10", "train.checkpoint_every=1000", "train.eval_every=10", "train.steps=60",
]
town = load("cpu", TOWN)

# %% tags=["active-ipynb", "hide-input"]
# import contextlib
# import io
# import json
# import math
# import shutil
#
# import numpy as np
#
# from figures import draw_08
# from figures.claims import ROOT
# from figures.experiments import question
# from figures.experiments.verdicts import Paired, holm, paired
# from figures.style import answer, badge, say, show, table
#
# shutil.rmtree(RUN, ignore_errors=True)  # this notebook starts afresh every time
# show(draw_08.arms(), alt="Five rows. Dense: a token goes through one layer six times as wide as an expert. One expert: through a sixth of that. Top-2: a router sends the token to two of six experts. "
#      "Causal: the token goes through a shared expert, the other five read slots that hold averages of the past. Placebo: the same, with empty slots.",
#      caption="Five layers that one token may meet. Filled boxes run for every token; a box around a slot runs once per segment of C tokens (chapter 07 draws how slots are filled and read).")

# %% [markdown]
# ```{admonition} Predict
# :class: predict
# Write down four answers.
#
# 1. A faint signal enters an expert with two gates. You double it. By which factor does the output grow?
# 2. The same dense model, same seed and same rate, is started twice: once with every matrix drawn at a standard deviation of 0.02, once with a deviation made for its width of 64. How many nats per token apart are their held-out losses after sixty steps?
# 3. Which of the five layers in the drawing has the lowest held-out loss when all have read the same tokens? And which when all have done the same work?
# 4. The placebo has the weights and the work of *causal*, and slots that hold nothing. By how many nats per token does it fall behind?
# ```
#
# ## Parameters and work
#
# ```{admonition} Napkin
# :class: napkin
# Take a stream of $D = 64$ and a dense layer of width $F = 192$: three matrices, $3DF \approx 37{,}000$ weights. An expert is a sixth of it. A token pays for the experts that it meets: six sixths in *dense*, one in *one expert*, two in *top-2*. In *causal* it meets one, and
# five more run once for a segment of eight tokens: $1 + 5/8 \approx 1.6$ sixths.
#
# But a model is more than its feed-forward. Four such layers hold 147,000 weights, the output head over 2,048 tokens 131,000, attention 66,000. So *one expert* saves five sixths of the layer and only about a third of the model.
# ```

# %%
small = load("ablation")  # four layers, 64 wide, a vocabulary of 2,048
arms = {name: ablation.variant_model(small.model, name) for name in reading.ARMS}
work = {name: flops_per_token(shape, small.data.sequence_length).total
        for name, shape in arms.items()}
for name, shape in arms.items():
    print(f"{name:11} {count_parameters(shape)['total']:8,} parameters  "
          f"{work[name] / 1e6:.2f} MFLOP per trained token, {work[name] / work['dense']:.2f} of dense")

# %% [markdown]
# All arms but *one expert* have the same parameters to within two in a hundred. Their work differs by a quarter. So there are three ways to be fair, the same tokens, the same FLOPs, the same seconds, and the answers will differ. We shall read all three.
#
# The placebo is the arm that most comparisons lack. If *causal* beats *one expert*, is that what its slots hold, or just the extra weights in front of every token? Each slot starts from a prior, a learned vector that is averaged with the tokens (chapter 07). Give it a weight beside which no token counts.
# Everything is left but the content.

# %%
layers = {name: build(arms["causal"], seed=1).model.layers[0].mlp for name in ("causal", "placebo")}
with torch.no_grad():
    layers["placebo"].prior_weight.fill_(60.0)  # the weight of e^60 tokens
x_TD = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
other_TD = torch.cat((torch.randn(8, 64), x_TD[8:]))  # another first segment
for name, layer in layers.items():
    with torch.no_grad():
        moved = (layer(x_TD[None]) - layer(other_TD[None]))[0, 8:].abs().max()
    print(f"{name}: later outputs {'move' if moved > 0 else 'stay the same number'}")


# %% [markdown]
# ## One gate and two
#
# The second novelty has a case of its own. A gate multiplies two linear features, so a hidden channel can say *and*: this is a name, *and* a city was asked for. The author saw a gate on the way up in Qwen's layer and a plain matrix on the way down. He thought of squeeze-and-excitation networks {cite:p}`senet2018`, and asked
# why only the first half should have one {cite:p}`steelblog2024`. A second gate multiplies what the first has said; two layers' work could be done in one. The price, at equal parameters, is a quarter of the channels.
#
# It also makes the layer harder to compare, and here is why.

# %%
def gate(pair):
    """silu(a) · b of the two halves of the last axis."""
    a, b = pair.chunk(2, dim=-1)
    return F.silu(a) * b

def one_gate(x_TD, up_GD, down_DF):  # G = 2F: gate and up
    return gate(x_TD @ up_GD.T) @ down_DF.T

def two_gates(x_TD, up_GD, down_HF):  # H = 2D: gate and down
    return gate(gate(x_TD @ up_GD.T) @ down_HF.T)


# %% [markdown]
# Near zero $\text{silu}(a) = a\,\sigma(a) \approx a/2$, so a gate is a product of two linear maps: a square. Two in a row are a fourth power. Far above zero silu is a ramp, and the powers are the same. Turn the volume of the input and look.

# %% tags=["active-ipynb", "hide-input"]
# def feed_forward(model_cfg, gates, seed=0):
#     """First feed-forward of a fresh model of `model_cfg`'s dense shape: its function and its two matrices, fp64."""
#     name = "two gates" if gates == 2 else "dense"
#     module = build(ablation.variant_model(model_cfg, name), dtype=torch.float64, seed=seed).model.layers[0].mlp
#     weights = module.gate_up_proj.weight.detach(), module.down_proj.weight.detach()
#     function = two_gates if gates == 2 else one_gate
#     probe_TD = torch.randn(4, model_cfg.hidden_size, dtype=torch.float64)
#     assert torch.allclose(function(probe_TD, *weights), module(probe_TD), atol=1e-12)   # steel's own layer
#     return function, weights
#
# rms = lambda x: x.square().mean().sqrt().item()
# noise_TD = torch.randn(512, 64, generator=torch.Generator().manual_seed(0)).double()
# volume = torch.logspace(-3, 2, 26).double()
# pair = {gates: feed_forward(small.model, gates) for gates in (1, 2)}
# assert sum(w.numel() for w in pair[1][1]) == sum(w.numel() for w in pair[2][1])
# heard = {g: torch.tensor([rms(function(v * noise_TD, *weights)) for v in volume]).double() for g, (function, weights) in pair.items()}
# slope = {g: (heard[g].log().diff() / volume.log().diff()).tolist() for g in heard}
# show(draw_08.gates(volume, heard, slope, "width 64, equal weights, random input, fp64, this project's initial weights"),
#      alt="Left: two layers as blocks. One gate: x, two halves a and b, their gated product, y. Two gates: a narrower inner product, then two halves c and d and a second gated product. Right: output against input on logarithmic axes, a line of slope 2 and one of slope 4, bent near 1.",
#      caption="The same number of weights: with one gate the inside is 4/3 as wide. The bend near 1 is where silu turns from half a line into a ramp.")
# grown = {g: [rms(function(2 * v * noise_TD, *weights)) / rms(function(v * noise_TD, *weights)) for v in (1e-3, 1.0)] for g, (function, weights) in pair.items()}
# answer("1.1", f"Sixteen: two gates answer a doubled whisper {grown[2][0]:.1f} times as loudly, one gate {grown[1][0]:.1f} times.", round(grown[2][0], 2))
# say(f"Where the layer lives, behind an RMSNorm, the bend lies too: from RMS 1 to RMS 2 the output grows **{grown[1][1]:.1f}** times with one gate and **{grown[2][1]:.0f}** times with two.")
# powers = {g: [math.log(rms(function(*turned)) / rms(function(noise_TD / 100, up, down))) / math.log(1.01)
#               for turned in ((noise_TD / 100, 1.01 * up, down), (noise_TD / 100, up, 1.01 * down))] for g, (function, (up, down)) in pair.items()}
# assert [round(sum(powers[g])) for g in (1, 2)] == [3, 6]

# %% [markdown]
# The same powers govern the weights. At low volume, change every weight of the layer by one per cent: the output of one gate changes by three, of two gates by six. So the same learning rate is not the same learning rate, and the same weights at birth are not the same birth.
#
# ```{admonition} Takeaway
# :class: takeaway
# A product of $k$ linear maps is a power $k$ of everything in front of it. Before you stack products, write down the scale of the input: a layer is as sensitive to it as the power says.
# ```
#
# ## How loud at birth
#
# A power is merciless to a small number. So before two layers are compared, somebody must see to it that both speak. The usual initialiser draws every matrix from a normal distribution with a standard deviation of 0.02. Where does 0.02 come from? A matrix that reads a normalised
# vector of width $D$ keeps its size at $1/\sqrt{D}$, and that is 0.02 for $D = 2500$. The habit fits the models it comes from, and Steel's width nearly. At width 64 it is six times too small.
#
# `steel` asks what a matrix is for. One that *reads* the normalised stream gets $1/\sqrt{D}$. One that *writes* to it is drawn so that the layer adds a chosen size $\beta$; all layers together then add a fixed multiple of the embedding. A gated layer
# needs one constant: for standard normal $a$, $b$ the root mean square of $\text{silu}(a)\,b$ is 0.5965. With one gate the way down is linear; with two its halves of size $s$ make a product of $s^2/2$. So
#
# $$
# \sigma_{\text{one}} = \frac{\beta}{0.5965\,\sqrt{F}}, \qquad \sigma_{\text{two}} = \frac{\sqrt{2\beta}}{0.5965\,\sqrt{F}}.
# $$
#
# Build 24 layers both ways, send one batch through, and ask each layer how loud it is beside the stream that it joins.

# %% tags=["active-ipynb", "hide-input"]
# def loudness(width, expert, std, layers=24):
#     """Per layer: RMS of the feed-forward output over that of the stream."""
#     shape = dataclasses.replace(town.model, num_hidden_layers=layers, hidden_size=width,
#                                 intermediate_size=3 * width, expert=expert)
#     model = build(shape)
#     with torch.no_grad():
#         for w in [w for w in model.parameters() if std and w.ndim > 1]:
#             w.normal_(std=std)
#     return ablation.branch_ratios(model, torch.arange(160).reshape(4, 40) % shape.vocab_size)

# %% tags=["active-ipynb", "hide-input", "within-0.5"]
# torch.manual_seed(0)
# born = {(expert, width, std): loudness(width, expert, std) for expert in ("swiglu", "double_swiglu") for width in (64, 256) for std in (None, 0.02)}
# show(draw_08.birth(born), alt="Share of the stream that each of 24 layers' feed-forward adds at birth. With this project's initial weights tens of percent at both widths; with a constant 0.02 it falls with depth and width, below one in ten thousand for two gates at width 64.",
#      caption="At birth, one batch. Blue: ours. Grey: 0.02 for every matrix. Dashed: width 64, solid: width 256. The blue lines lie nearly on each other.")
# last = {key: value[-1] for key, value in born.items()}
# say(f"Our last layer adds {last['swiglu', 64, None]:.0%} of the stream with one gate and {last['double_swiglu', 64, None]:.0%} with two. Drawn at 0.02 it adds {last['swiglu', 64, 0.02]:.1%} with one gate, and two gates whisper at one part in {1 / last['double_swiglu', 64, 0.02]:,.0f}.")
# assert last["double_swiglu", 64, 0.02] < 1e-3 < last["swiglu", 64, 0.02] < 0.1 < min(last[e, w, None] for e in ("swiglu", "double_swiglu") for w in (64, 256))

# %% [markdown]
# Does it matter? Adam divides a gradient by its own size, so a quiet layer is not a dead one; it is one that must wake up first. Train four models on the town of chapter 00: one gate and two, each born both ways, three seeds, the same rate.

# %% tags=["active-ipynb", "hide-input"]
# with contextlib.redirect_stdout(io.StringIO()):  # the stages report their sizes
#     shards = town_shards(town, RUN)
# rows_BT, _ = ablation.held_out_rows(shards, town.data.sequence_length, 4)
#
# def train_born(arm, std, seed):
#     """Train one model whose matrices start at `std`, or as steel draws them: (loudness, loss)."""
#     @torch.no_grad()
#     def at_evaluation(model, step):  # the loop evaluates before its first step, too
#         if std and step == 0:
#             for w in [w for w in model.parameters() if w.ndim > 1]:
#                 w.normal_(std=std)
#         return {"loud": ablation.branch_ratios(model, rows_BT)[-1]}
#     done = train_run(ablation.row_config(town, arm, seed), shards,
#                      RUN / f"{arm}-{std}-{seed}", measure=at_evaluation)
#     return [e["loud"] for e in done.evals], [e["loss"] for e in done.evals]

# %% tags=["active-ipynb", "hide-input", "within-0.4"]
# live = {(arm, std): [train_born(arm, std, seed) for seed in (1, 2, 3)] for arm in ("dense", "two gates") for std in (None, 0.02)}
# evaluated = list(range(0, town.train.steps + 1, town.train.eval_every))
# show(draw_08.woken(live, evaluated), alt="Left: loudness of the last layer in the first sixty steps; drawn at 0.02, two gates start below a thousandth of the stream and need some tens of steps. Right: held-out loss of four kinds of model, three seeds each; in the mean the initialiser moves the loss about as far as the second gate, with a wide scatter.",
#      caption="Closed world, one rate for all, three seeds. Solid lines and filled dots: this project's initial weights; dashed and hollow: 0.02 for every matrix.")
# final = {key: [losses[-1] for _, losses in seeds] for key, seeds in live.items()}
# birth = {arm: paired(final[arm, 0.02], final[arm, None]) for arm in ("dense", "two gates")}
# second = {std: paired(final["two gates", std], final["dense", std]) for std in (None, 0.02)}
# each = [a - b for a, b in zip(final["dense", 0.02], final["dense", None])]
# answer("1.2", f"The dense model born at 0.02 is **{birth['dense'].mean:.2f} ± {birth['dense'].half:.2f}** nats per token behind the one whose matrices were drawn for its width: {'established' if birth['dense'].established else 'not established'} with three seeds.", birth["dense"].mean, low=min(each), high=max(each), unit="nats/token")
# table(["nats per token, three seeds", "mean", "95 %"],
#       [["one gate: 0.02 minus ours", f"{birth['dense'].mean:+.2f}", f"± {birth['dense'].half:.2f}"], ["two gates: 0.02 minus ours", f"{birth['two gates'].mean:+.2f}", f"± {birth['two gates'].half:.2f}"],
#        ["ours: two gates minus one", f"{second[None].mean:+.2f}", f"± {second[None].half:.2f}"], ["0.02: two gates minus one", f"{second[0.02].mean:+.2f}", f"± {second[0.02].half:.2f}"]])
# quiet, awake = ([loud[at] for loud, _ in live["two gates", 0.02]] for at in (0, -1))
# say(f"The layer with two gates that was born at 0.02 began at {max(quiet):.2%} of the stream; after sixty steps it speaks at {min(awake):.1%} or more.")
# assert birth["dense"].mean > 0.2 and second[None].mean > 0.2

# %% [markdown]
# Three seeds that scatter so widely establish little about births (the next section says what ± means). Their size is warning enough: a habit at birth can move a loss by about as much as the layer under test. Compare a new layer that was drawn with care against an old one drawn by habit, and part of what you measure is the care.
# So all arms below start from the same rule, each alive. The quiet layer did not die of it: it wakes while it trains.
#
# ## A rule before the numbers
#
# Two of the five are left, rate and luck. Luck first: a rule that is fixed before anybody has seen a number.
#
# - **Text**: prose, code and classical poems from public sources; the same tokens in the same order for all arms under one seed.
# - **Rate**: constant to the end, so that a curve may be read at any point. Which one, the next section says.
# - **Seeds**: differences are taken seed by seed. With $n$ differences of mean $\bar d$ and standard deviation $s$, Student's interval is $\bar d \pm t_{n-1}\, s / \sqrt{n}$, and $t_{n-1}$ is 4.30 for three seeds and 2.78 for five. If zero lies inside we say *not told apart*.
# - **Many questions**: up to five differences are asked at each budget. Twenty true nothings yield, on average, one "discovery" at 95 %. Holm's correction asks more of the strongest difference, a little less of the next {cite:p}`holm1979`. What passes is *established*.
# - **The verdict**: the one that `figures.experiments.question` declared for a larger run, before these rows were trained. At equal seconds the mixture must be established ahead of *one expert*, the part of it that needs no slots, by at least a hundredth of a nat, and not behind *top-2* by more than half of one.

# %%
def interval(a, b):
    """Mean of a - b over seeds and the half-width of its 95 % interval."""
    d_S = torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}[len(d_S)]
    return d_S.mean().item(), (t * d_S.std() / len(d_S) ** 0.5).item()


# %% [markdown]
# What can so few seeds see? For one question asked alone, the scatter $s$ of the differences decides; Holm's correction asks for more.

# %% tags=["active-ipynb", "hide-input"]
# draw = np.random.default_rng(0)
# def seen(n, difference, trials=40_000):
#     """How often n differences of unit scatter around `difference` exclude zero."""
#     d = draw.normal(difference, 1, (trials, n))
#     return float(np.mean(np.abs(d.mean(1)) > Paired(0.0, 1.0, n).half * d.std(1, ddof=1) / n**0.5))
#
# needed = {n: next(x / 20 for x in range(1, 200) if seen(n, x / 20) > 0.8) for n in (3, 5, 9)}
# say(f"To be established four times in five, a true difference must be {needed[3]:.1f} scatters large with three seeds, {needed[5]:.1f} with five and {needed[9]:.1f} with nine.")
# assert abs(interval([3.0, 2.0, 4.5], [1.0, 1.5, 2.0])[1] - paired([3.0, 2.0, 4.5], [1.0, 1.5, 2.0]).half) < 1e-3

# %% [markdown]
# ## A rate for each, or one for all
#
# Two gates move six powers with every step, and a mixture's experts see other gradients than a wide layer. Should not each arm have the rate that suits it? The plan was: four rates, 150 steps, one seed, each arm at its best. It was carried out.

# %% tags=["active-ipynb", "hide-input"]
# def committed(name):
#     return json.loads((ROOT / "figures/runs" / f"{name}.json").read_text(encoding="utf-8"))
#
# rates, log, fast_log = committed("soft-moe-tuned-rates"), committed("soft-moe-tuned"), committed("soft-moe-8e-3")
# arms_5 = ("dense", "one expert", "top-2", "causal", "placebo")
# tried = sorted({r["rate"] for r in rates["rows"]})
# at_150 = {(r["variant"], r["rate"]): r["loss"] for r in rates["rows"]}
# chosen = {arm: min(tried, key=lambda rate: at_150[arm, rate]) for arm in arms_5}
# table(["held-out loss after 150 steps, one seed", *(f"rate {rate:g}" for rate in tried)],
#       [[arm, *(f"**{at_150[arm, rate]:.3f}**" if rate == best else f"{at_150[arm, rate]:.3f}" for rate in tried)] for arm, best in chosen.items()])
#
# def by_seed(rows, arm, key="loss"):
#     return {r["seed"]: r[key] for r in rows if r["variant"] == arm}
#
# def gap(a, b):
#     """a - b over the seeds that both have."""
#     seeds = sorted(a.keys() & b.keys())
#     return paired([a[seed] for seed in seeds], [b[seed] for seed in seeds])
#
# margins = sorted(sorted(at_150[arm, rate] for rate in tried)[1] - at_150[arm, chosen[arm]] for arm in arms_5)
# whole = {arm: gap(by_seed(log["rows"], arm), by_seed(fast_log["rows"], arm)) for arm in ("dense", "placebo")}
# at_start = [loss for r in fast_log["rows"] if r["variant"] == "dense" for tokens, loss in r["curve"] if tokens == 307_200]
# say(f"Best and second-best rate lie {margins[0]:.2f} to {margins[-1]:.2f} nats apart; two seeds of *dense*, at one rate, {max(at_start) - min(at_start):.2f} after the same 150 steps.\n\n"
#     + f"Whole runs, 4e-3 minus 8e-3: *dense* **{whole['dense']}**, *placebo* **{whole['placebo']}** ({whole['dense'].seeds} seeds each).")
# assert chosen == {arm: 8e-3 if arm in ("dense", "placebo") else 4e-3 for arm in arms_5} and all(r["learning_rate"] == 4e-3 for r in log["rows"])
# assert max(at_150[arm, 4e-3] - at_150[arm, chosen[arm]] for arm in arms_5) < 0.04 and whole["dense"].mean < 0 and max(at_start) - min(at_start) > margins[0]

# %% [markdown]
# Two arms chose 8e-3, three 4e-3, by margins about as wide as two seeds lie apart. And over the whole run *dense* is better at the rate that it did not choose: who wins a sprint need not win the run. So the plan was changed, in the open. Every arm below runs at 4e-3. That is not neutral either; it is the same for all,
# and it lies within four hundredths of a nat of the best of every row.
#
# ## What the seeds tell
#
# One run takes minutes on one core, so the logs are committed.

# %% tags=["active-ipynb", "hide-input"]
# gate_log, clock = committed("double-swiglu"), committed("soft-moe-times")["relative"]
# main, older = (reading.differences(some, clock) for some in (log, gate_log))
# found = reading.judge({kind: main[kind] | {pair: d for pair, d in older[kind].items() if pair not in main[kind]} for kind in main})
# counts = [len(by_seed(log["rows"], arm)) for arm in arms_5]
#
# def course(some):
#     """How the arms of a log were trained: rate and schedule."""
#     train = some["config"]["train"]
#     used = sorted({row.get("learning_rate", train["learning_rate"]) for row in some["rows"]})
#     return f"at {' and '.join(f'{rate:g}' for rate in used)}, {'constant' if train['schedule'] == 'constant' else 'falling'}"
#
# borrowed = [f"{a} minus {b}" for a, b in older["tokens"] if (a, b) not in main["tokens"]]
# trained = f"Every arm {course(log)}" + "".join(f"; {pair}: an older log of {gate_log['rows'][0]['tokens'] / 1e6:.1f} million tokens, {course(gate_log)}" for pair in borrowed)
# logs = f"soft-moe-tuned.json ({min(counts)} seeds or more), {'double-swiglu.json, ' if borrowed else ''}soft-moe-times.json"
# show(draw_08.outcome(log["rows"], found, "soft-moe-tuned.json"),
#      alt="Left: held-out loss of dense, one expert, top-2, causal and placebo against training work, with bands over seeds. Right: for each question the difference at equal tokens, equal FLOPs and equal seconds with its 95 percent interval; filled marks are established.",
#      caption=f"{trained}. Left: mean over seeds, band lowest to highest. Right: 95 % intervals (Student's t); filled: established under Holm's correction. Logs: {logs}.")
# table(*reading.table(found))

# %% tags=["active-ipynb", "hide-input"]
# shared = min(counts)
# places = question.budgets({"rows": [r | {"tokens_per_s": 1 / clock[r["variant"]]} for r in log["rows"]]}, arms_5)
# losses = {kind: {arm: question.losses_at(log, arm, tokens)[:shared] for arm, tokens in where.items()} for kind, where in places.items()}
#
# def lead(kind):
#     """The best mean at one budget, and whether it is told apart from the second."""
#     best, runner = sorted(arms_5, key=lambda arm: np.mean(losses[kind][arm]))[:2]
#     ahead = paired(losses[kind][runner], losses[kind][best])
#     return f"*{best}* leads *{runner}* by {ahead} nats, {'established' if ahead.established else 'not told apart'} when asked alone"
#
# answer("1.3", f"After the same tokens {lead('tokens')}; after the same work {lead('flops')}. At equal seconds {lead('seconds')}.")
# slots = {kind: found[kind]["causal", "one expert"] for kind in found}
# say(f"The mixture beside the one expert that every token meets anyway: {slots['tokens']} at equal tokens, {slots['flops']} at equal FLOPs, {slots['seconds']} at equal seconds. A budget is a choice, and the choice decides.")

# %% [markdown]
# FLOPs and seconds disagree, because on this core the small experts of a mixture are slow for their work: per step *causal* and *top-2* take as long as *dense*.
#
# The placebo has a check of its own. In the first eight tokens of a row no segment is complete, so the slots of *causal* are as empty as the placebo's. Whatever parts the two *there* is not what the slots hold at that moment.

# %% tags=["active-ipynb", "hide-input"]
# content = found["tokens"]["causal", "placebo"]
# each_seed = [b - a for a, b in zip(losses["tokens"]["causal"], losses["tokens"]["placebo"])]
# answer("1.4", f"At equal tokens the placebo is {-content.difference.mean:+.3f} ± {content.difference.half:.3f} nats per token from *causal*: {'established' if content.established else 'not told apart'}. Seed by seed: {', '.join(f'{d:+.2f}' for d in each_seed)}.",
#        -content.difference.mean, low=min(each_seed), high=max(each_seed), unit="nats/token")
# at_place = {arm: by_seed(log["rows"], arm, "loss_by_position") for arm in ("causal", "placebo")}
# early, late = (gap(*({seed: parts[k] for seed, parts in at_place[arm].items()} for arm in ("causal", "placebo"))) for k in (0, 1))
# idle = reading.differences(log, clock, (("placebo", "one expert"),))["tokens"]["placebo", "one expert"]
# say(f"Causal minus placebo at the end of training, 32 rows: {early} in the first eight positions, {late} behind them. Placebo minus *one expert*, which is a part of it, at equal tokens: {idle}.")

# %% [markdown]
# An empty slot is not nothing. Its experts put a vector in front of every token, and Adam moves their weights whether or not there is anything to learn. A placebo may be worse than absence, so its distance is at best an upper bound on what content buys. The yardstick of the verdict is therefore *one expert*, the arm without the branch.
#
# ## Once more, on other text
#
# Another log has four of the arms, also at 4e-3, on another sample of the same sources, and is half as long again: *dense* reads 1.8 million tokens, the others as many as the same work buys.

# %% tags=["active-ipynb", "hide-input"]
# repeat = reading.read(committed("soft-moe-flops"), clock)
# table(*reading.table(repeat))

# %% [markdown]
# ## The verdict
#
# Told apart is what excludes zero at 95 % in both logs, on the same side: a true nothing does so once in eight hundred times, less often than Holm's correction allows in a table of fifteen cells. Where only one log has the arms, its corrected verdict counts. (This way of joining two logs was chosen when both were there; the tables above show what Holm alone leaves.)

# %% tags=["active-ipynb", "hide-input"]
# say_of = {-1: "**ahead**", 0: "not told apart", 1: "**behind**"}
# def agreed(pair, kind):
#     """-1, 0 or 1: what both logs say, each for itself; where one log has the pair, what it establishes."""
#     if pair not in repeat[kind]:
#         return found[kind][pair].sign
#     signs = {math.copysign(1, d.mean) if d.established else 0 for d in (some[kind][pair].difference for some in (found, repeat))}
#     return signs.pop() if len(signs) == 1 else 0
#
# table(["", "asks", *(f"equal {name}" for name in reading.BUDGETS.values())],
#       [[f"*{a}* beside *{b}*", reading.ASKED[a, b], *(say_of[agreed((a, b), kind)] for kind in reading.BUDGETS)] for a, b in found["tokens"]], "lllll")
# beats = agreed(("causal", "one expert"), "seconds") < 0 and max(some["seconds"]["causal", "one expert"].difference.mean for some in (found, repeat)) <= -0.01
# say("By the rule that was fixed before, the mixture must be ahead of *one expert* at equal seconds: **" + ("it is" if beats else "it is not") + "**. "
#     + ("" if beats else "At this size nobody may say that the slots earn their place."))

# %% [markdown]
# Read it as it stands, and no further. A third of a million parameters and one to three million tokens are a keyhole. The held-out text is one fixed sample, so the intervals are over training seeds alone. Rows of 128 tokens hold sixteen short segments; the slots were made for pages. CPU seconds at width 64 say how small matrices run on this core, not what a GPU
# would take. Nobody may conclude from this that slots never pay, at a billion parameters and after a trillion tokens.
#
# ## At full scale
#
# The question deserves one run at a size where it counts. It is written, with arms, budgets and thresholds declared before its first step: fifty million parameters, five seeds, half an hour of one GPU. Its rates are still tuned by one seed, on a sixth of the tokens: the lots of the section above.
#
# ```text
# python -m figures.experiments.question --prepare-from docs --data carry
# python -m figures.experiments.question --data carry --out question.json
# ```
#
# This chapter's own comparison starts from its script, with any preset and any shards; it takes the words of `figures.experiments.ablation`, at one rate for all, and goes on where it stopped. The second command prints the table, with this core's clock for the seconds (a path to no file behind `--times` takes yours):
#
# ```text
# python notebooks/08_what_a_layer_buys.py --preset ablation --data shards --out layers.json --seeds 5 \
#     --variants "dense,one expert,causal,placebo,top-2,two gates" \
#     train.learning_rate=4e-3 train.schedule=constant train.steps=600 train.eval_every=50
# python -m figures.experiments.reading --out layers.json
# ```
#
# For a model of your own the plain choice is `steel-1b-dense`: `feed_forward=dense` with one gate is what Llama and Qwen have, it converts to their formats, and other people's learning rates fit it. `steel-1b-causal` keeps mixture and second gate, so that it remains Steel's model with one thing changed: a question with a command.
#
# ## Failure gallery
#
# ```{admonition} Equal width is not equal size
# :class: failure
# Exchange the layer and keep `intermediate_size`, and two gates have a third more feed-forward weights than one: part of what they win is weights. Any claim for an architecture starts with the line in which both parameter counts stand.
# ```
#
# ```{admonition} One rate for all
# :class: failure
# **Ours.** An earlier log trained ten layers for a million tokens at one rate of 8e-3, tuned for none. There *top-2* was 0.029 nats behind *causal*. At half the rate, held constant, after the same tokens, it was 0.022 ahead. The table had ranked who stands 8e-3, if it ranked anything. (Three seeds; neither difference is established.)
# ```
#
# ```{admonition} Tuned, by one seed
# :class: failure
# **Ours, in this chapter.** Four rates, 150 steps, one seed, each arm at its best: it sounds fair, and it drew lots. Tune with as many seeds as you compare with, at the length that you mean to run; or take one rate for all and say so.
# ```
#
# ```{admonition} FLOPs are not a night
# :class: failure
# **Ours, too.** “At equal FLOPs, what a given machine should train in a given night” stood in this book. The same log held the seconds: per step the mixture cost about as much as dense, where FLOPs promised three quarters.
# ```
#
# ```{admonition} One seed each
# :class: failure
# With one run of each kind there is always a winner. Two seeds of the *same* layer differ as well; a difference below that is a coin that was tossed once.
# ```
#
# ## Exercises
#
# **08.1 Recall.** Chapter 07's v3 scales each input vector to norm 1 and has two gates. Why does that hurt them so much more than it would hurt one? Give the factors at Steel's width of 1,792.
#
# ```{dropdown} Answer 08.1
# Behind an RMSNorm a vector has norm $\sqrt{1792} \approx 42$. At norm 1 the input is 42 times smaller, the output of one gate about 42² ≈ 1,800 times, of two gates 42⁴ ≈ 3.2 million times.
# ```
#
# **08.2 Calculate.** Steel's experts have width 448 with two gates. How wide would they be with one gate at equal parameters? If one kept the width instead, how many parameters would the whole model lose?

# %% tags=["active-ipynb", "hide-cell"]
# steel = load("steel-1b").model
# single = dataclasses.replace(steel, expert="swiglu")
# lost = count_parameters(steel)["total"] - count_parameters(single)["total"]
# print(f"width {448 * 4 / 3:.1f}, so 597; at width 448 the model loses {lost:,} parameters, {lost / count_parameters(steel)['total']:.1%}")
# assert lost == 18 * 6 * 448 * 1792 == 86_704_128

# %% [markdown]
# **08.3 Code.** Write `down_deviation(F, beta, gates)`: the standard deviation with which the matrix on the way down must start so that the layer's output has RMS $\beta$, for inner $a$, $b$ that are standard normal, $F$ of them, and $\beta$ well below one. Compute the constant of the gate yourself.

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def down_deviation(F, beta, gates):
#     a, b = torch.randn(2, 1_000_000, generator=torch.Generator().manual_seed(0))
#     inner = (a * a.sigmoid() * b).square().mean().sqrt().item()   # 0.5965, and it does not depend on F
#     wanted = beta if gates == 1 else (2 * beta) ** 0.5            # of each half, when a product follows
#     return wanted / (inner * F**0.5)
#
# check("08.3", down_deviation)

# %% [markdown]
# **08.4 Break it.** Fool the rule. Invent five arms that are all the same: differences from a sixth are pure noise, five seeds each. How often does at least one of the five exclude zero at 95 %? How often under Holm's correction? Guess, then draw two thousand such tables (`figures.experiments.verdicts` has `paired` and `holm`).

# %% tags=["active-ipynb", "hide-cell"]
# coin = np.random.default_rng(1)
# plain = corrected = 0
# for _ in range(2000):
#     base = coin.normal(size=5)
#     family = {k: paired(list(coin.normal(size=5)), list(base)) for k in range(5)}
#     plain += any(d.p < 0.05 for d in family.values())
#     corrected += any(holm(family).values())
# print(f"some arm excludes zero in {plain / 2000:.0%} of the tables; under Holm in {corrected / 2000:.0%}")
# assert 0.12 < plain / 2000 < 0.23 and corrected / 2000 < 0.06

# %% [markdown]
# ```{dropdown} Answer 08.4
# Five independent questions would give $1 - 0.95^5 = 23\,\%$; sharing the sixth arm makes them hang together, so somewhat fewer. Under Holm at most 5 %. A table with five arms and no correction announces a discovery in every fifth or sixth paper.
# ```
#
# **08.5 Open, a night on one GPU.** Run `figures.experiments.question` on text of yours. Before that, write down three numbers: what you expect for causal minus placebo, for causal minus one expert, and the difference at which you would change the layer of a real model, which costs you the comparability with every other Llama.
#
# ```{dropdown} One answer to 08.5
# A price for being different: converters, kernels, other people's rates. A hundredth of a nat is about what a few per cent more training buys at this scale of loss curves (chapter 12 turns nats into compute), so below it there is nothing to talk about. Whatever you find, the log belongs here.
# ```
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What must be equal before two layers are compared?** Parameters, data order, care at birth, care about the rate. Then tokens, FLOPs or seconds: name which.
# ```
#
# ```{admonition} Card
# :class: card
# **Power of a gated layer in its input?** Two, at small and at large volume. With a second gate on the way down: four.
# ```
#
# ```{admonition} Card
# :class: card
# **What is a placebo arm?** The same weights and the same work without the mechanism. It tells content from capacity.
# ```
#
# ```{admonition} Card
# :class: card
# **When is one layer better than another?** When the paired difference over seeds is larger than its interval (Student's t), corrected for how many were asked (Holm), at a budget that was named before.
# ```

# %% tags=["active-ipynb", "hide-input", "timing"]
# badge()

# %% [markdown]
# Without words of its own the script rehearses: all arms, one seed, as much work as six steps of dense in the town. Nothing is to be read from the losses; it shows that every part of the comparison runs.

# %% tags=["within-0.3"]
if __name__ == "__main__":
    if "ipykernel" not in sys.modules and sys.argv[1:] not in ([], ["--preset", "cpu"]):
        command(ablation.main)  # the command line of figures.experiments.ablation
    short = load("cpu", [*TOWN, "train.steps=6", "train.eval_every=6"])
    report = ablation.run_ablation(short, town_shards(town, RUN), RUN / "rehearsal.json", seeds=1,
                                   variants=reading.ARMS, budget="flops", say=lambda line: None)
    for name, row in ablation.summary(report).items():
        print(f"{name:11} {row['steps']:3.0f} steps  loss {row['loss']:.2f}")
