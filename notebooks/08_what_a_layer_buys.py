# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · A gate on the way down
#
# While he designed Steel, its author looked at the feed-forward layer of Qwen and saw two halves. On the way up, one linear map of the input opens and closes another one: a gate. On the way down there is
# a plain matrix. He thought of squeeze-and-excitation networks {cite:p}`senet2018`, which had won an image competition with the idea that channels should be weighted by what the input says, and asked why only
# the first half should have a gate. So he gave the second half one too {cite:p}`steelblog2024`. The README lists the result among the model's features, a dual-layer SwiGLU {cite:p}`steelreadme2025`. Inside each of Steel's experts,
# for a trillion tokens, every signal passed two gates.
#
# Was it a good idea? He says himself that he could not afford to find out: there was no second machine for a plain model. This chapter is the comparison that he could not pay for, at a size that anybody can.
#
# ```{admonition} Predict
# :class: predict
# Write down three answers.
#
# 1. You double the input of a SwiGLU layer, every number of it. By which factor does its output grow, and by which factor with a second gate?
# 2. One gate or two, the same number of parameters, the same tokens: which has the lower held-out loss?
# 3. How many times larger than the difference between two *seeds* of the same model is that difference: a tenth, one, ten?
# ```

# %%
import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F

from steel import life as lifecycle
from figures.experiments import ablation
from steel.config import UserError, from_dict, load, preset
from steel.model import build
from steel.plan import count_parameters, flops_per_token

cfg = preset()  # --preset cpu, ablation, gpu1, …
RUN = Path("runs") / f"08_what_a_layer_buys-{cfg.preset}"


# %% tags=["active-ipynb", "hide-input"]
# import json
# import math
# import shutil
#
# import numpy as np
#
# from figures.claims import ROOT
# from figures.style import FURNACE, INK, SLATE, STEEL
# from figures.style import axis_units, figure, footer, label_line, say, seed_band, show, table
#
# shutil.rmtree(RUN, ignore_errors=True)  # this notebook starts afresh every time

# %% [markdown]
# ## Napkin
#
# ```{admonition} Napkin
# :class: napkin
# The gate is $\text{silu}(a)\,b$ with $\text{silu}(a) = a\,\sigma(a)$, and $a$, $b$ are linear in the input. Near zero $\sigma \approx \tfrac12$, so $\text{silu}(a)\,b \approx \tfrac12\,ab$: a *square*. Two gates in a row make a square of a square, a *fourth
# power*. A vector of width $1792$ that RMSNorm has treated has norm $\sqrt{1792} \approx 42$. Give the layer a vector of norm $1$ instead, and one gate answers $42^2 \approx 1800$ times more quietly, two gates $42^4 \approx 3.2$ million times.
#
# Parameters: with one gate three matrices between $D$ and $F$, with two gates four. At equal parameters the layer with one gate is $4/3$ times as wide.
# ```
#
# ## Build
#
# One layer as a function of two matrices. On the way up both variants do the same. On the way down the second variant takes a matrix twice as tall and lets one half gate the other.

# %%
def gate(pair):
    """silu(a) · b of the two halves of the last axis."""
    a, b = pair.chunk(2, dim=-1)
    return F.silu(a) * b

def one_gate(x_TD, up_GD, down_DF):  # G = 2F: gate and up
    return gate(x_TD @ up_GD.T) @ down_DF.T

def two_gates(
    x_TD, up_GD, down_ED
):  # its last axis is F, its first 2D: gate and down
    return gate(gate(x_TD @ up_GD.T) @ down_ED.T)


# %%
def feed_forward(model_cfg, gates, seed=0):
    """First feed-forward of a fresh model: its function, its two matrices and the module, fp64."""
    expert = "double_swiglu" if gates == 2 else "swiglu"
    width = model_cfg.intermediate_size * 3 // 4 if gates == 2 else model_cfg.intermediate_size
    shape = dataclasses.replace(model_cfg, feed_forward="dense", expert=expert, intermediate_size=width)
    module = build(shape, dtype=torch.float64, seed=seed).model.layers[0].mlp
    weights = module.gate_up_proj.weight.detach(), module.down_proj.weight.detach()
    return (two_gates if gates == 2 else one_gate), weights, module

small = load("cpu").model
x_TD = torch.randn(512, small.hidden_size, generator=torch.Generator().manual_seed(0)).double()
for gates in (1, 2):
    function, weights, module = feed_forward(small, gates)
    assert torch.allclose(function(x_TD, *weights), module(x_TD), atol=1e-12)
    size = sum(w.numel() for w in weights)
    print(f"{gates} gate{'s' if gates > 1 else ' '}: width {weights[0].shape[0] // 2}, {size:,} weights")

# %% [markdown]
# Equal to `steel`'s own layer, and equal in weights to the last one. They are also equal in work: each weight meets each token once, in both.
#
# ## Four powers of one input
#
# Now turn the volume knob. Multiply the input by a constant and plot the size of the output against the size of the input, both on logarithmic axes. A power $k$ is a line of slope $k$.

# %% tags=["active-ipynb"]
# rms = lambda x: x.square().mean().sqrt().item()
# volume = torch.logspace(-3, 2, 26).double()
# heard = {}
# for gates in (1, 2):
#     function, weights, _ = feed_forward(small, gates)
#     heard[gates] = torch.tensor([rms(function(v * x_TD, *weights)) for v in volume]).double()
# slope = {gates: (heard[gates].log().diff() / volume.log().diff()) for gates in heard}
# for gates, power in ((1, 2), (2, 4)):
#     assert abs(slope[gates][0] - power) < 0.01 and abs(slope[gates][-1] - power) < 0.01

# %% tags=["active-ipynb", "hide-input"]
# fig, ax = figure(3.2)
# for gates, color, name in ((1, SLATE, "one gate"), (2, STEEL, "two gates")):
#     ax.loglog(volume, heard[gates], color=color)
#     label_line(ax, volume[-1], heard[gates][-1], f"{name}\nslope {slope[gates][-1]:.2f}", color)
#     label_line(ax, volume[0], heard[gates][0], f"slope {slope[gates][0]:.2f}", color, xytext=(4, 14) if gates == 1 else (16, 4))
# for at, text in ((1.0, "after RMSNorm"), (1792**-0.5, "norm 1 at\nSteel's width")):
#     ax.axvline(at, color=FURNACE if at < 1 else INK, lw=0.8, ls=(0, (4, 3)))
#     ax.annotate(text, (at, 3e8), xytext=(4, 0), textcoords="offset points", fontsize=8, va="top", color=FURNACE if at < 1 else INK)
# ax.set(xlim=(7e-4, 1e3), ylim=(1e-15, 1e9), xticks=[1e-3, 1e-2, 1e-1, 1, 10, 100])
# ax.set_yticks([1e-12, 1e-8, 1e-4, 1, 1e4, 1e8])
# ax.minorticks_off()
# axis_units(ax, x="RMS of the input", y="RMS of the output")
# show(fig, alt="Output size against input size on logarithmic axes: one gate is a line of slope 2, two gates a line of slope 4; at the input of norm 1 the two lie many orders of magnitude apart.",
#      caption="Width 128, equal weights, fp64. The bend near 1 is where silu changes from half a line to a ramp.")
# one, two = slope[1], slope[2]
# say(f"Slopes {one[0]:.2f} and {two[0]:.2f} at the quiet end, {one[-1]:.2f} and {two[-1]:.2f} at the loud one. The power is the same at both ends: far above zero silu is a ramp, *a* or nothing, and *ab* is a square again.")
# bend = {g: float(np.exp(np.interp(math.log(2.0), volume.log(), heard[g].log()) - np.interp(0.0, volume.log(), heard[g].log()))) for g in heard}
# say(f"That is far below one and far above it, where doubling the input gives four and sixteen. Where the layer lives, behind an RMSNorm, the bend lies: from RMS 1 to RMS 2 the output grows **{bend[1]:.1f}** times with one gate and **{bend[2]:.0f}** times with two.")

# %% [markdown]
# So the first question has two answers: four and sixteen far from one, a little and a lot more than that at one. The same powers govern the weights. The first matrix stands inside both powers, so the output goes with its fourth power; the second one enters squared. Turn each by one per cent and read off the exponents:

# %% tags=["active-ipynb"]
# rows = []
# for gates in (1, 2):
#     function, (up, down), _ = feed_forward(small, gates)
#     quiet_TD = x_TD / 100
#     base = rms(function(quiet_TD, up, down))
#     powers = [math.log(rms(function(*turned)) / base) / math.log(1.01) for turned in
#               ((1.01 * quiet_TD, up, down), (quiet_TD, 1.01 * up, down), (quiet_TD, up, 1.01 * down))]
#     rows.append([f"{gates} gate" + "s" * (gates > 1), *(f"{power:.2f}" for power in powers)])
# table(["output goes with the power … of", "the input", "the first matrix", "the second matrix"], rows)

# %% [markdown]
# A step of the optimizer that changes all weights of a layer by one per cent changes the output of one gate by three, of two gates by six. The same learning rate is not the same learning rate.
#
# ## Why it can be born dead
#
# Here is an expert of Steel's real size, $1792 \to 448 \to 1792$, drawn from the normal distribution with a deviation of 0.02 that the original used. Feed it what a pre-norm block feeds its feed-forward. Then feed it what the shipped mixture layer feeds its
# experts: vectors scaled to norm 1 (chapter 07 shows where the line of code stands).

# %% tags=["active-ipynb"]
# D, width = 1792, {1: 448 * 4 // 3, 2: 448}
# draw = torch.Generator().manual_seed(1)
# normed_TD = torch.randn(64, D, generator=draw).double()
# rows, out = [], {}
# for gates, function in ((1, one_gate), (2, two_gates)):
#     up = (0.02 * torch.randn(2 * width[gates], D, generator=draw)).double().requires_grad_()
#     down = (0.02 * torch.randn(D * gates, width[gates], generator=draw)).double().requires_grad_()
#     for name, x in (("RMS 1", normed_TD), ("norm 1", F.normalize(normed_TD, dim=-1))):
#         y = function(x, up, down)
#         slopes = torch.autograd.grad(y.square().mean().sqrt(), (up, down))
#         out[gates, name] = rms(y.detach()), rms(slopes[0])
#         rows.append([f"{gates} gate" + "s" * (gates > 1), name, *(f"{v:.0e}" for v in out[gates, name])])
# table(["", "input", "output (RMS)", "gradient of the first matrix (RMS)"], rows, "llrr")

# %% tags=["active-ipynb", "hide-input"]
# fall = {gates: [a / b for a, b in zip(out[gates, "RMS 1"], out[gates, "norm 1"])] for gates in (1, 2)}
# say(f"The change of input costs one gate a factor of {fall[1][0]:,.0f} and two gates a factor of {fall[2][0]:,.0f}: 42² and 42⁴, and a little more for the bend of silu. The gradient falls with it, {fall[2][1]:,.0f} times.")

# %% [markdown]
# One gate would have survived it, faintly: it whispers, and training can raise a whisper. Two gates end at a few billionths beside a stream that starts at a fiftieth, and a gradient to match. So the second gate did not kill the layer, and neither did the normalisation. Each is
# harmless alone. A *dense* layer with two gates, behind an ordinary RMSNorm and with `steel`'s initialiser, is alive, as the third row says, and the rest of this chapter is about such layers.
#
# ```{admonition} Takeaway
# :class: takeaway
# A product of $k$ linear maps is a power $k$ of everything in front of it. Before you stack products, write down the scale of the input; a layer is as sensitive to it as the power says.
# ```
#
# ## A birth certificate
#
# Chapter 06 showed 24 layers with two gates that spoke at a twenty-thousandth of the stream when every matrix starts at 0.02 at width 64, and `steel`'s that did not. What does the initialiser know?
#
# It wants each branch to add a chosen size $\beta$ to the stream. The first matrix reads a normalised vector, so $1/\sqrt{D}$ gives $a$ and $b$ unit size, and the gate has a constant behind it: the root mean square of $\text{silu}(a)\,b$ for standard normal $a$, $b$ is 0.5965. With one gate the way
# down is linear, and its deviation must be $\beta / (0.5965 \sqrt{F})$. With two gates the way down squares: if both halves come out with size $s$, the product has size $s^2/2$, so $s = \sqrt{2\beta}$, and the deviation is $\sqrt{2\beta} / (0.5965\sqrt{F})$. That is all it knows, and exercise 08.3 asks you to write it.
#
# Does it hold? And is there anything that a scale alone cannot mend? Build four layers of each kind, send text-like noise through, and compare three things: how loud the layers are, how large their gradients, and how *even* their outputs.

# %% tags=["active-ipynb"]
# def born(gates, layers=4):
#     """Loudness of each layer, gradient norms of its two matrices, all outputs of the last one."""
#     shape = dataclasses.replace(
#         ablation.variant_model(
#             load("ablation").model, "two gates" if gates == 2 else "dense"
#         ),
#         num_hidden_layers=layers,
#     )
#     model, branch, stream = build(shape), [], []
#     for layer in model.model.layers:
#         layer.mlp.register_forward_hook(lambda _, __, y: branch.append(y.detach()))
#         layer.register_forward_hook(lambda _, __, y: stream.append(y.detach()))
#     tokens_BT = torch.randint(
#         0, shape.vocab_size, (8, 128), generator=torch.Generator().manual_seed(0)
#     )
#     model(tokens_BT, labels=tokens_BT).loss.backward()
#     slopes = [
#         [
#             w.grad.norm().item()
#             for w in (layer.mlp.gate_up_proj.weight, layer.mlp.down_proj.weight)
#         ]
#         for layer in model.model.layers
#     ]
#     return (
#         [rms(b) / rms(s) for b, s in zip(branch, stream)],
#         slopes,
#         branch[-1].flatten(),
#     )

# %% tags=["active-ipynb", "hide-input"]
# births, tails = {gates: born(gates) for gates in (1, 2)}, {}
# fig, ax = figure(2.8)
# edges = np.linspace(-8, 8, 81)
# for gates, color in ((1, SLATE), (2, STEEL)):
#     z = births[gates][2] / rms(births[gates][2])
#     tails[gates] = (z.pow(4).mean().item(), (z.abs() > 4).float().mean().item(), z.abs().max().item())
#     height = np.histogram(z, edges)[0] / len(z) / (edges[1] - edges[0])
#     ax.semilogy((edges[1:] + edges[:-1]) / 2, np.where(height > 0, height, np.nan), color=color, drawstyle="steps-mid")
# normal = np.exp(-edges**2 / 2) / math.sqrt(2 * math.pi)
# ax.semilogy(edges, normal, color=INK, lw=0.8, ls=(0, (4, 3)))
# label_line(ax, 1.5, 0.16, "one gate", SLATE)
# label_line(ax, 5.2, 3e-3, "two gates", STEEL)
# label_line(ax, -4.6, 4e-5, "dashed: the\nnormal distribution", INK, ha="right", fontsize=8)
# ax.set(xlim=(-8, 8), ylim=(1e-5, 6), yticks=[1e-4, 1e-2, 1])
# ax.minorticks_off()
# axis_units(ax, x="output of the layer, in units of its RMS", y="density")
# show(fig, alt="Density of a newborn layer's outputs on a logarithmic axis: with one gate it follows the normal curve, with two gates it is a sharp peak with tails that reach beyond eight times the RMS.",
#      caption="The last of four layers at birth, width 64, our initialisation. Both have the same RMS.")
# table(["", "layer 1, of the stream", "layer 4", "gradient up / down, layer 1", "layer 4", "fourth moment"],
#       [[f"{g} gate" + "s" * (g > 1), f"{births[g][0][0]:.0%}", f"{births[g][0][-1]:.0%}", *(" / ".join(f"{v:.2g}" for v in births[g][1][k]) for k in (0, -1)), f"{tails[g][0]:.1f}"] for g in (1, 2)])

# %% tags=["active-ipynb", "hide-input"]
# say(f"Loudness is the same. In the first layer, two gates have {births[2][1][0][0] / births[1][1][0][0]:.1f} times the gradient in the first matrix, which stands inside both powers, and {births[1][1][0][1] / births[2][1][0][1]:.1f} times less in the second, whose weights start larger. But the fourth moment, 3 for a normal distribution, is {tails[1][0]:.1f} with one gate and "
#     f"**{tails[2][0]:.1f}** with two. One output in {1 / tails[2][1]:,.0f} is beyond four times the RMS, and the largest is {tails[2][2]:.0f} times.")

# %% [markdown]
# This is what scale cannot mend. With one gate the products are summed by the down matrix, hundreds of them, and a sum of many things is normal whatever the things are. With two gates the second product comes *last*. Nothing averages it, and it goes into the residual stream with its tails, a few loud channels and many silent ones. An
# activation like that is harder to hold in eight bits. Whether it is harder to learn with is the question we came for.
#
# ## One gate or two, with seeds
#
# There is a case for the second gate, and it deserves its best form. A gate multiplies two linear features, so a hidden channel can hold a conjunction: *this is a name* and *a city was asked for*. A second gate multiplies two mixtures of conjunctions. What takes two layers of the usual kind
# could be said in one, and a model with 18 layers might be glad of it. The case against it is the price: at equal parameters a quarter of the channels, and outputs with tails. Both are arguments. Now the measurement.
#
# Commit to a rule before the numbers. Per seed, both variants see the same tokens in the same order, so take differences seed by seed. With three seeds, the mean difference has an interval of $\pm\, 4.30$ standard errors (Student's $t$, two degrees of freedom, 95 %). If zero lies inside, we say
# *not distinguished*, whatever the means look like.

# %%
MICRO = {
    "model": dict(vocab_size=512, hidden_size=64, intermediate_size=192, num_hidden_layers=2,
                  num_attention_heads=2, num_key_value_heads=2, num_experts=6),
    "tokenizer": dict(vocab_size=512),
    "data": dict(sequence_length=64),
    "train": dict(steps=120, batch_size=16, micro_batch_size=16, optimizer="adamw", checkpoint_every=1000,
                  learning_rate=8e-3, schedule="cosine", warmup_steps=10, eval_every=20),
}
if cfg.preset == "cpu":
    for section, fields in MICRO.items():
        vars(getattr(cfg, section)).update(fields)
if cfg.model.intermediate_size % (4 * cfg.model.num_experts):
    cfg.model.num_experts = 8  # the engine shares widths out; only the dense variants are used here


# %%
def token_shards(cfg):
    """The folder of token shards: made from the closed world at preset cpu, yours otherwise."""
    shards = RUN / "shards"
    if cfg.preset != "cpu":
        if not (shards / "manifest.json").is_file():
            raise UserError(f"no token shards in notebooks/{shards}: `steel pack DOCS {shards} --hold-out 0.02 "
                            f"--tokenizer T` with {cfg.model.vocab_size:,} entries at most")
        return shards
    life = lifecycle.Life(cfg, RUN)
    life.open()
    for name, make in (("world", life.make_world), ("docs", life.make_documents),
                       ("tokenizer", life.make_tokenizer), ("shards", life.make_shards)):
        life.stage(name, make)
    return shards


def compare(cfg):
    """One gate and two, three seeds, equal parameters and tokens; goes on where it stopped."""
    return ablation.run_ablation(cfg, token_shards(cfg), RUN / "ablation.json",
                                 variants=("dense", "two gates"), seeds=3, budget="tokens",
                                 say=lambda line: None)


# %%
def paired(rows):
    """Loss of two gates minus one gate, per seed: mean, 95 % half-width, spread of each variant over seeds."""
    loss = {v: torch.tensor([r["loss"] for r in sorted(rows, key=lambda r: r["seed"]) if r["variant"] == v])
            for v in ("dense", "two gates")}
    difference_S = loss["two gates"] - loss["dense"]
    error = difference_S.std() / len(difference_S) ** 0.5
    return {"mean": difference_S.mean().item(), "half": 4.303 * error.item(),  # t for three seeds
            "spread": {v: (s.max() - s.min()).item() for v, s in loss.items()}}


def verdict(p):
    if abs(p["mean"]) <= p["half"]:
        return "not distinguished from seed noise"
    return f"two gates are {'better' if p['mean'] < 0 else 'worse'} by more than seed noise explains"


# %% [markdown]
# Live, on the closed world: width 64, two layers, a vocabulary of 512, six runs. And one seed of each at half the learning rate: the rate was chosen on the layer with *one* gate, and if powers mean anything that is unfair to the other one, whose output moves twice as far with every step.

# %% tags=["active-ipynb"]
# live = compare(cfg)
# gentle = from_dict(cfg.to_dict())
# gentle.train.learning_rate /= 2
# half = ablation.run_ablation(gentle, RUN / "shards", RUN / "half_rate.json", variants=("dense", "two gates"),
#                              seeds=1, budget="tokens", say=lambda line: None)
# now = paired(live["rows"])

# %% tags=["active-ipynb", "hide-input"]
# def curves(ax, rows, first, unit=1e6):
#     ends = {}
#     for variant, color, name in (("dense", SLATE, "one gate"), ("two gates", STEEL, "two gates")):
#         mine = [[(t, l) for t, l in r["curve"] if t >= first] for r in rows if r["variant"] == variant]
#         x = [t / unit for t, _ in mine[0]]
#         seed_band(ax, x, [[l for _, l in curve] for curve in mine], color)
#         ends[name] = (x[-1], sorted(curve[-1][1] for curve in mine)[len(mine) // 2], color)
#     ax.margins(y=0.12)
#     over = max(ends, key=lambda name: ends[name][1])
#     for name, (x, y, color) in ends.items():
#         label_line(ax, x, y, f"{name} {y:.3f}", color, xytext=(5, 6 if name == over else -6))
#
# fig, ax = figure(2.7)
# curves(ax, live["rows"], 20_000, 1e3)
# ax.set_xlim(20, 20 + (live["rows"][0]["tokens"] / 1e3 - 20) * 1.25)
# axis_units(ax, x="tokens read (thousands)", y="held-out loss (nats per token)")
# show(fig, alt=f"Held-out loss of one gate and two gates over the tokens of a tiny run, three seeds each; two gates are {now['mean']:+.2f} nats away from one gate at the end.",
#      caption="Closed world. Line: median of three seeds, band: lowest to highest.")
# ends = {(c.train.learning_rate, v): [r["loss"] for r in x["rows"] if r["variant"] == v] for c, x in ((cfg, live), (gentle, half)) for v in ("dense", "two gates")}
# table(["held-out loss, nats per token", *(f"rate {rate:g}, {'one gate' if v == 'dense' else 'two gates'}" for rate, v in ends)],
#       [[f"seed {seed + 1}", *(f"{losses[seed]:.3f}" if seed < len(losses) else "" for losses in ends.values())] for seed in range(3)])
# (one, two), (slow_one, slow_two) = [[ends[c.train.learning_rate, v] for v in ("dense", "two gates")] for c in (cfg, gentle)]
# say(f"{live['rows'][0]['parameters']:,} and {live['rows'][1]['parameters']:,} parameters. Two gates minus one: **{now['mean']:+.2f} ± {now['half']:.2f}** nats per token; by the rule *{verdict(now)}*. "
#     f"A gentler rate is no help: at half of it both are worse, and {slow_two[0] - slow_one[0]:.2f} apart after {two[0] - one[0]:.2f}.")

# %% [markdown]
# The closed world is an easy text and these runs are seconds long. The longer comparison has the same engine, four layers, a vocabulary of 2,048, and a million tokens per run of nine public sources and classical poetry; it takes minutes per run on one core, so its log is committed.

# %% tags=["active-ipynb"]
# log = json.loads((ROOT / "figures/runs/double-swiglu.json").read_text(encoding="utf-8"))
# long = paired(log["rows"])
# sizes = {r["parameters"] for r in log["rows"]}
# assert len(sizes) == 1 and len({r["tokens"] for r in log["rows"]}) == 1

# %% tags=["active-ipynb", "hide-input"]
# fig, axes = figure(3.1, ncols=2, width_ratios=(1.5, 1))
# curves(axes[0], log["rows"], 200_000)
# axes[0].set_xlim(0.2, 1.35)
# axis_units(axes[0], x="tokens read (millions)", y="held-out loss (nats per token)")
# for seed in sorted({r["seed"] for r in log["rows"]}):
#     a, b = (next(r["loss"] for r in log["rows"] if (r["variant"], r["seed"]) == (v, seed)) for v in ("dense", "two gates"))
#     axes[1].plot([0, 1], [a, b], color=SLATE, lw=0.8)
#     axes[1].plot(0, a, "o", color=SLATE, ms=6)
#     axes[1].plot(1, b, "o", color=STEEL, ms=6)
#     label_line(axes[1], 1, b, f"seed {seed}", INK, xytext=(8, 4 if seed == 3 else -4), fontsize=7.5)
# axes[1].set(xlim=(-0.3, 1.7), xticks=[0, 1], xticklabels=["one gate", "two gates"])
# axis_units(axes[1], y="at the end, seed by seed")
# show(fig, alt=f"Left: held-out loss of one and two gates against tokens, three seeds each. Right: the final losses joined seed by seed; two gates minus one is {long['mean']:+.3f} nats on average.",
#      caption="Nine public sources and Tang and Song poetry, a million tokens a row. Band: lowest to highest of three seeds. Log: double-swiglu.json.")
# final = {v: [r["loss"] for r in log["rows"] if r["variant"] == v] for v in ("dense", "two gates")}
# apart = [abs(x - y) for losses in final.values() for i, x in enumerate(losses) for y in losses[i + 1:]]
# noise, target = sum(apart) / len(apart), sum(final["two gates"]) / 3
# mean_curve = np.mean([r["curve"] for r in log["rows"] if r["variant"] == "dense"], axis=0)
# reached = np.interp(-target, -mean_curve[:, 1], mean_curve[:, 0])
# say(f"{next(iter(sizes)):,} parameters each. Two gates minus one: **{long['mean']:+.3f} ± {long['half']:.3f}** nats per token. By the rule: *{verdict(long)}*. Two seeds of one and the same layer lie {noise:.3f} apart on average, "
#     f"so the difference is {abs(long['mean']) / noise:.1f} times the noise of a pair. One gate passes the final loss of two gates after {reached / 1e6:.2f} of its {mean_curve[-1, 0] / 1e6:.2f} million tokens.")

# %% tags=["active-ipynb", "hide-input"]
# each = [b - a for a, b in zip(final["dense"], final["two gates"])]   # rows are sorted by seed
# scatter = long["half"] / 4.303 * 3**0.5
# say(f"Seed by seed: {', '.join(f'{d:+.3f}' for d in each)}. At this scatter of {scatter:.3f}, a true difference of {abs(long['mean']):.3f} would take about {math.ceil((1.96 * scatter / long['mean']) ** 2 + 2)} seeds to be told from nothing with little better than an even chance, and {math.ceil(((1.96 + 0.84) * scatter / long['mean']) ** 2 + 2)} to be told four times in five. "
#     f"What the three of them do exclude is a *gain* of two gates above {max(0.0, long['half'] - long['mean']):.2f} nats.")

# %% [markdown]
# Read it twice, because it is the usual case. Every one of the three differences has the same sign, two gates behind one, and a page that showed the means alone would announce a winner. The rule was there before the numbers, and by the rule nobody has won: three differences that
# scatter like these are compatible with no difference at all. The honest sentence is an asymmetric one. We have not shown that the second gate hurts at this length; we have found no sign that it helps; and it would have to help by less than the interval allows.
#
# The curves say one thing more. Between the first evaluation and the second the gap of two seeds halves; from the second on it moves by less than 0.03 nats for each seed, which for the third is enough to change its sign. So whatever the second gate costs, it costs at the start. A slow start weighs heavily in a run of seconds, less in one of minutes, and in two months it may be nothing.
#
# Nor does a million tokens say what happens after a trillion. Products of four features may be learned late. The tails may matter more, or less, at a width of 1,792. For Steel the question stays where its author left it, only with the price tag attached that this chapter worked out: the exponent, the tails, and a slow start.
#
# ## What the slots buy
#
# Chapter 07 mended a mixture of experts; it did not ask what the mended layer is worth. The same rule answers. Five layers, on the text of the runs above: *dense*; *one expert* of its six, which is what the mixture's shared
# expert is by itself; *causal*, that expert and five behind slots; *top-2*, where each token visits two of six; and *none* at all. All but *one expert* and *none* have the same parameters. Three seeds each, one data order per seed, one constant learning rate, so that
# a curve may be read at any budget: at equal tokens, at equal FLOPs, and at equal CPU seconds of the core that ran them.

# %% tags=["active-ipynb", "hide-input"]
# from figures.experiments import question
# from figures.experiments.verdicts import holm
#
# layers = json.loads((ROOT / "figures/runs/soft-moe-flops.json").read_text(encoding="utf-8"))
# for row in layers["rows"]:
#     row["tokens_per_s"] = row["tokens"] / row["cpu_seconds"]
# FIVE = ("none", "one expert", "dense", "causal", "top-2")
# ASKED = (("causal", "dense"), ("causal", "one expert"), ("causal", "top-2"), ("top-2", "dense"), ("one expert", "dense"))
# read = {kind: question.differences(layers, kind, FIVE) for kind in ("tokens", "flops", "seconds")}
# held = {kind: holm({pair: found[pair] for pair in ASKED}) for kind, found in read.items()}
# table(["difference of held-out loss (nats/token)", *(f"equal {kind}" for kind in ("tokens", "FLOPs", "CPU seconds"))],
#       [[f"{a} minus {b}", *(f"**{read[k][a, b]}**" if held[k][a, b] else str(read[k][a, b]) for k in read)] for a, b in ASKED])
# against_one = {kind: found["causal", "one expert"] for kind, found in read.items()}
# assert -0.03 < against_one["tokens"].mean < -0.01 and not against_one["flops"].established and against_one["seconds"].mean > 0.03
# say("Mean over three seeds ± the 95 % half-width of Student's t. **Bold**: still established when all five differences of its column are asked at once (Holm's correction); with three seeds that asks for much.")

# %% [markdown]
# Read it as it stands, and no further. By this table nobody may say that the slots earn their place: against the shared expert alone, which has a sixth of the weights, the mixture gains two hundredths of a nat at equal tokens, nothing at equal FLOPs, and is behind at equal seconds of this core. Nor may anybody say that they never will. A third of a million parameters and three
# million tokens are a keyhole; the rate was one for all layers and tuned for none; the rows were short and the segments eight tokens long; and CPU seconds of a shared core at width 64 are no benchmark. A fairer test has a *placebo*: the same weights and the same work, with slots that hold no token, so that what is left is the content. It is written, with its thresholds
# declared before its first run, and has not been run: `python -m figures.experiments.question` wants one GPU for half an hour. Until then the preset to begin with is `steel-1b-dense`, and `steel-1b-causal` is a question with a command.
#
# ## At full scale

# %%
def at_scale(name):
    """Parameters and work per token of a preset with one gate and with two."""
    config = load(name)
    for gates, expert in ((1, "swiglu"), (2, "double_swiglu")):
        m, was = config.model, 4 if config.model.expert == "double_swiglu" else 3
        width = m.intermediate_size * was // (3 if gates == 1 else 4)
        shape = dataclasses.replace(m, expert=expert, intermediate_size=width)
        yield [name, gates, width, f"{count_parameters(shape)['total'] / 1e6:,.1f}",
               f"{flops_per_token(shape, config.data.sequence_length).total / 1e9:.3f}"]


# %% tags=["active-ipynb", "hide-input"]
# table(["preset", "gates", "expert width", "parameters (M)", "GFLOP per trained token"], [row for name in ("gpu1", "hammer-1.4b", "steel-1b-causal") for row in at_scale(name)])

# %% [markdown]
# The same parameters, the same arithmetic, at any size. What the second gate does cost is memory traffic: its matrix writes $2D$ numbers per token where one gate writes $D$, and another elementwise operation reads them. A fused kernel hides most of that (`steel.kernels.swiglu`).
#
# `steel-1b-causal` keeps both gates so that it remains Steel's model with one thing changed, the mixture. For a model of your own, `model.feed_forward=dense model.expert=swiglu` with the width of the table is the plain choice (preset `steel-1b-dense`): it is what Llama and Qwen have, it converts to their
# formats, and other people's learning rates fit it.
#
# The script of this chapter runs the comparison at any preset, on shards of yours; the same engine stands behind `python -m figures.experiments.ablation --variants "dense,two gates"`. Nobody has run it at a billion parameters, the original's author included, who named this as what he regretted. If you do, the log belongs here.
#
# ```text
# python notebooks/08_what_a_layer_buys.py --preset ablation
# python notebooks/08_what_a_layer_buys.py --preset gpu1
# ```
#
# ## Failure gallery
#
# ```{admonition} Equal width is not equal size
# :class: failure
# The easy comparison exchanges the layer and keeps `intermediate_size`. Then two gates have a third more feed-forward weights than one, and part of what they win is weights. Any claim for an architecture starts with the line in which both
# parameter counts stand. Here they are equal to the last weight, and a test of the engine holds them there.
# ```
#
# ```{admonition} One seed each
# :class: failure
# With one run of each kind there is always a winner. The rows of the committed log contain pairs of seeds of the *same* model that differ; a difference between two models below that is a coin that has been tossed once.
# ```
#
# ```{admonition} Tuned for the old one
# :class: failure
# A new layer usually meets the learning rate that somebody chose for the layer before it. With a fourth power in it that is not neutral: relative steps of the output are twice as large. Sweep the rate for both, or at least look at a second one, and say so.
# ```
#
# ```{admonition} The name of a thing
# :class: failure
# In Steel's configuration the double gate is `mlp_type: senet`. A squeeze-and-excitation block averages over all positions (the squeeze) and then weights channels; in a causal model that average would read the future. What was built has no squeeze, and it is causal. The name kept the idea and dropped the danger, which is why
# one should read the code and not the name: `steel` calls it `double_swiglu`.
# ```
#
# ## Exercises
#
# **08.1 Recall.** Why does a unit-norm input hurt the layer with two gates so much more than the layer with one? Give the exponents.
#
# ```{dropdown} Answer 08.1
# Output goes with the second power of the input for one gate and with the fourth for two. From RMS 1 to norm 1 the input shrinks by the root of the width, 42 at Steel's, so the output by 42² or 42⁴.
# ```
#
# **08.2 Calculate.** Steel's experts have width 448 with two gates. How wide would they be with one gate at equal parameters? If one kept the width instead, how many parameters would the whole model lose?

# %% tags=["active-ipynb", "hide-cell"]
# steel = load("steel-1b").model
# single = dataclasses.replace(steel, expert="swiglu")
# lost = count_parameters(steel)["total"] - count_parameters(single)["total"]
# print(f"width {448 * 4 / 3:.1f}, so 597; at width 448 the model loses {lost:,} parameters, "
#       f"{lost / count_parameters(steel)['total']:.1%}")

# %% [markdown]
# **08.3 Code.** Write `down_deviation(F, beta, gates)`: the standard deviation with which the matrix on the way down must start so that the layer's output has RMS $\beta$, for inner $a$, $b$ that are standard normal, $F$ of them, and $\beta$ well below one. Find the constant of the gate yourself.

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
# **08.4 Break it.** Multiply *all* weights of a feed-forward layer by two, its input stays as it is. Predict the factor for one gate and for two from the table of powers; then measure it. Which training mishap does this resemble?

# %% tags=["active-ipynb", "hide-cell"]
# for gates in (1, 2):
#     function, (up, down), _ = feed_forward(small, gates)
#     grown = rms(function(x_TD / 100, 2 * up, 2 * down)) / rms(function(x_TD / 100, up, down))
#     print(f"{gates} gate(s): {grown:.1f} times")
# # 2 to the power 2 + 1 and 4 + 2. Weights that drift for want of weight decay, or one step with
# # too large a rate: with two gates the same drift is six powers loud.

# %% [markdown]
# **08.5 Open, a night on one GPU.** Run this chapter's script with `--preset gpu1` on text of yours: two variants, three seeds. Before that, write down the difference you expect, from the log above, and the difference at which you would change the layer of a real model, which costs you the comparability with every other Llama. Then add a second learning
# rate for both.
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **Power of a SwiGLU in its input?** Two, at small and at large volume. With a second gate on the way down: four.
# ```
#
# ```{admonition} Card
# :class: card
# **Equal parameters, one gate or two?** Three matrices against four: the layer with one gate is 4/3 as wide.
# ```
#
# ```{admonition} Card
# :class: card
# **Which scale cannot an initialiser mend?** None; but it cannot mend a shape. A product that comes last keeps its tails.
# ```
#
# ```{admonition} Card
# :class: card
# **When is one architecture better than another?** When the paired difference over seeds is larger than its interval, at equal parameters and tokens, at a learning rate that was looked for on both sides.
# ```

# %% tags=["active-ipynb"]
# from figures.style import badge
#
# badge()

# %%
if __name__ == "__main__":
    report = compare(cfg)
    for row in report["rows"]:
        print(ablation.render_row(row))
    print(
        f"two gates minus one: {paired(report['rows'])['mean']:+.4f} nats/token, {verdict(paired(report['rows']))}"
    )
