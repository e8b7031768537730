# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · Five small ones before a large one
#
# How large, how long, at which learning rate? Steel's three answers were a billion parameters, as many tokens as the machine's time allowed, and a
# rate that runs of its size had used. As far as the sources tell, no smaller Steel was trained first to see where the curve would go. The
# machine could leave any day, and a day spent on small models looked like a day lost. It is the most expensive kind of thrift: a run of two
# months started on a guess, when its first hour could have bought a forecast.
#
# A *ladder* is that forecast. Train a few small models of one family, fit a curve through their losses, and read it at the size you
# cannot afford to get wrong. This chapter climbs one of five rungs, writes its forecast down, trains the sixth model, and looks at
# the difference. Then it asks what the forecast's interval has to contain to deserve its name, and takes the arithmetic to Steel.
#
# ```{admonition} Predict
# :class: predict
# Five models of 24 to 56 channels, each with two tokens for every parameter; then one of 72 channels, with six times the parameters of the first and
# forty times its work. Before you read on, write down:
#
# 1. the forecast's error for the sixth loss: nearer to 0.1, 1 or 10 %?
# 2. does an interval made of the noise between seeds hold the truth?
# 3. Steel's compute, spent as the compute-optimal literature advises: how many parameters would it have had?
# ```

# %%
import dataclasses
from pathlib import Path

import numpy as np

from steel import life as lifecycle
from figures.experiments import ladder, laws
from steel.config import UserError, load, preset
from steel.plan import count_parameters, flops_per_token

cfg = preset()
RUN = Path("runs") / f"12_scaling-{cfg.preset}"

# %% tags=["active-ipynb", "hide-input"]
# import json
# import os
# import shutil
#
# from figures.style import FURNACE, INK, OKABE_ITO, SLATE, STEEL, axis_units, badge, figure, label_line, say, show, table
#
# os.environ["STEEL_QUIET"] = "1"
# shutil.rmtree(RUN, ignore_errors=True)  # this notebook starts afresh every time

# %% [markdown]
# ## A family
#
# Models of a ladder may differ in one thing. Ours differ in width: layers, head width, the ratio of the feed-forward to the width, batch,
# vocabulary and data stay as they are. And each rung reads the same number of tokens *per parameter*, so that a rung is a small copy of the large run
# and not an early moment of it. That the schedule must be part of the copy was Chinchilla's correction {cite:p}`hoffmann2022` to the laws before it
# {cite:p}`kaplan2020`: a loss read in the middle of a longer run still has its learning rate up, and lies too high.

# %%
RATIO, WIDTHS, TARGET, REPEATS = 20, None, 0, 2  # None, 0: from the preset
if cfg.preset == "cpu":  # small enough for a page
    RATIO, WIDTHS, TARGET, REPEATS = 2, [24, 32, 40, 48, 56], 72, 1
    cfg.model.vocab_size = cfg.tokenizer.vocab_size = 512
    cfg.model.num_hidden_layers, cfg.model.head_dim = 2, 8
    cfg.world.people, cfg.world.biographies_per_person = 96, 64
    cfg.data.sequence_length = 128
    cfg.train.batch_size, cfg.train.micro_batch_size = 4, 8
    cfg.train.learning_rate, cfg.train.muon_learning_rate = 0.012, 0.08
    cfg.train.checkpoint_every = 0


# %% [markdown]
# ```{admonition} Napkin
# :class: napkin
# A layer of width $D$ has $4D^2$ weights in attention and about $9D^2$ in a SwiGLU three times as wide: $13 D^2$. The tied vocabulary has $VD$. At
# equal tokens per parameter, work is $6N \cdot rN$: it grows with the *square* of the parameters. So the last rung costs almost as much as all others
# together, and the target as much as the whole ladder.
# ```

# %% tags=["active-ipynb"]
# rungs = [ladder.rung(cfg, width, RATIO) for width in WIDTHS]
# goal = ladder.rung(cfg, TARGET, RATIO)
# rows = []
# for one in [*rungs, goal]:
#     model = ladder.model_at(cfg.model, one.width)
#     n = count_parameters(model)
#     rows.append([one.width, f"{n['total']:,}", f"{n['non_embedding']:,}",
#                  f"{one.tokens:,}", f"{ladder.work(cfg, one) / 1e9:,.0f}"])
# table(["width", "parameters", "without vocabulary", "tokens", "GFLOP"], rows)

# %% [markdown]
# Two columns say "parameters", and over the ladder they do not grow alike: at the first rung the vocabulary is almost half the model, at the last much
# less. Kaplan's law counted without the embedding and Chinchilla's with it, and at small sizes that alone moves
# the exponent. Most of the distance between the two laws has been traced to it {cite:p}`pearce2024`, or to the head's work, the warm-up and the tuning of small
# models {cite:p}`porian2024`. Steel at full size is still 48.5 %
# vocabulary. We fit by both and let the sixth model judge.
#
# ## Text that does not run out
#
# A law for tokens needs tokens that are new. The closed world is small, so the ladder's town is made large enough that the target sees less than
# one pass of it. Its documents differ; its sentences repeat each other, as templates do, and that we cannot mend here.

# %%
def shards(cfg, run):
    """Folder of token shards: the closed world's at preset cpu, else those that lie in `run`."""
    if cfg.preset == "cpu":
        life = lifecycle.Life(cfg, run)
        life.open()
        for name in ("world", "documents", "tokenizer", "shards"):
            life.stage(name, getattr(life, f"make_{name}"))
    elif not (run / "shards" / "manifest.json").is_file():
        raise UserError(
            f"no token shards in {run / 'shards'}; write them with 'steel pack --hold-out 0.02'"
        )
    return run / "shards"


# %% tags=["active-ipynb"]
# data = shards(cfg, RUN)
# ledger = ladder.open_ledger(RUN / "ladder", cfg, data)
# town = sum(ledger.content["data"]["sources"].values())
# say(f"The town holds **{town:,}** training tokens; the target will read {goal.tokens:,}, "
#     f"{goal.tokens / town:.2f} of a pass.")

# %% [markdown]
# What would repetition do? Take the third rung's $N$ and $D$ and shrink the town instead: every thirty-second document, every hundred-and-twenty-eighth. The
# held-out documents stay the same.

# %% tags=["active-ipynb"]
# from steel.documents import read_documents, write_documents
# from steel.data.pack import pack
# from steel.data.tasks import held_out
#
# def thinned(every):
#     """Shards of every n-th training document and of all held-out ones."""
#     out, share = RUN / f"every-{every}", cfg.data.validation_fraction
#     for path in sorted((RUN / "docs").glob("*.jsonl.zst")):
#         rows = [d for i, d in enumerate(read_documents(path)) if i % every == 0
#                 or held_out(lifecycle.document_text(d).encode(), share)]
#         write_documents(out / "docs" / path.name, rows)
#     pack(out / "docs", out / "shards", RUN / "tokenizer", hold_out=share)
#     return out / "shards"

# %% tags=["active-ipynb"]
# again = [ladder.train_rung(cfg, thinned(every), RUN / f"repeat-{every}", rungs[2])
#          for every in (32, 128)]
# whole = ladder.climb(cfg, data, RUN / "ladder", [rungs[2]], ledger=ledger)[0]
# table(["passes over the text", "last training loss", "held-out loss"],
#       [[f"{r['epochs']:.1f}", f"{r['train_loss']:.2f}", f"{r['loss']:.3f}"]
#        for r in [whole, *again]])

# %% [markdown]
# Read the second column downwards, then the third. Training gets *easier* with every pass while the held-out loss gets worse: the model is learning the documents and
# not the town. In the logs of such a run nothing looks wrong. A ladder on text that repeats bends upwards at its larger end, because the larger rungs read more passes and have more
# room to memorise. A law fitted below the bend then promises too much, and one fitted through it finds a floor that is none. Ours stays below one pass.
#
# ## The rate comes first
#
# A ladder at one learning rate compares the models only if that rate is right for all of them. Whether it is depends on the optimizer, and there is an
# argument to be had on paper.
#
# ```{admonition} Napkin
# :class: napkin
# AdamW moves every weight by about $\eta$, whatever the gradient. A row of $D$ weights whose moves agree with their inputs changes its output by up to $\eta D$: three
# times the width, three times the change. So the best $\eta$ should fall like $1/D$. *Maximal update parametrisation*, μP {cite:p}`mup2022`, is this
# observation worked out for every matrix: hidden matrices get $\eta/D$, embeddings keep $\eta$, and then a rate found on a small model holds on a large one.
# Muon makes every singular value of the update equal to one {cite:p}`muon2024`. The change of the output is $\eta$ times the input, at any width: nothing to rescale for square
# matrices, and a factor $\sqrt{m/n}$ for tall ones, which `steel/train/optim.py` applies.
# ```
#
# So AdamW's optimum should move to the left with the width, and Muon's should stay. Three widths, four rates, two optimizers, 100 steps each, in the
# same town. Rates are factors on one pair of learning rates; with Muon the vocabulary is still AdamW's, and both rates move together.

# %% tags=["active-ipynb", "hide-input"]
# from figures.claims import ROOT
#
# tries = json.loads((ROOT / "figures/runs/ladder-rates.json").read_text(encoding="utf-8"))["rows"]
# shades = dict(zip((24, 40, 64), (SLATE, OKABE_ITO["sky"], STEEL)))
# fig, axes = figure(2.8, ncols=2, sharey=True)
# best = {}
# for ax, optimizer in zip(axes, ("adamw", "muon")):
#     for width, color in shades.items():
#         row = sorted((r for r in tries if (r["optimizer"], r["width"]) == (optimizer, width) and r["rate"] >= 0.5), key=lambda r: r["rate"])
#         x, y = [r["rate"] for r in row], [r["loss"] for r in row]
#         low = best[optimizer, width] = min(row, key=lambda r: r["loss"])
#         ax.plot(x, y, "-o", color=color, ms=3)
#         ax.plot(low["rate"], low["loss"], "o", mfc="none", mec=FURNACE, ms=9)
#         label_line(ax, x[-1], y[-1], f"width {width}", color, xytext=(5, 5 if (optimizer, width) == ("adamw", 64) else -5 if width == 40 else 0))
#     ax.set(xscale="log", xlim=(0.4, 8.5))
#     ax.set_xticks([0.5, 1, 2, 4], ["½", "1", "2", "4"])
#     ax.minorticks_off()
#     axis_units(ax, x="learning rate (times the pair's)", y=f"{ {'adamw': 'AdamW', 'muon': 'Muon'}[optimizer]}: held-out loss (nats/token)")
# show(fig, alt="Held-out loss over the learning rate at widths 24, 40 and 64, for AdamW and for Muon, each with its lowest point ringed.",
#      caption="100 steps of 1,024 tokens each, one seed; the pair is 0.006 for AdamW and 0.04 for Muon. Rings: the lowest of the four rates. Log: ladder-rates.json.")

# %% tags=["active-ipynb"]
# def vertex(optimizer, width):
#     """Rate at the bottom of a parabola through the best try and its neighbours."""
#     row = {r["rate"]: r["loss"] for r in tries if (r["optimizer"], r["width"]) == (optimizer, width)}
#     low = min(row, key=row.get)
#     left, middle, right = (row[low * step] for step in (0.5, 1, 2))
#     return low * 2 ** (0.5 * (left - right) / (left - 2 * middle + right))
#
# for name in ("adamw", "muon"):
#     low = [vertex(name, width) for width in shades]
#     print(f"{name:6}", *(f"width {w}: {x:.2f}  " for w, x in zip(shades, low)),
#           f"fell by a factor of {low[0] / low[-1]:.1f}")

# %% tags=["active-ipynb", "hide-input"]
# def lowest(name, width):
#     return best[name, width]["loss"]
#
# say(f"From width 24 to 64, a factor of {64 / 24:.1f}, AdamW's best rate falls by {vertex('adamw', 24) / vertex('adamw', 64):.1f} and Muon's by {vertex('muon', 24) / vertex('muon', 64):.1f}. "
#     "Both move the way the argument says, AdamW further; neither as far as 1/D, and Muon, too, moves. Half of these models is vocabulary, which is AdamW's in both, and a hundred steps are few. "
#     f"And read the levels: at width 24 AdamW wins, {lowest('adamw', 24):.2f} to {lowest('muon', 24):.2f}; at width 64 it is Muon, {lowest('muon', 64):.2f} to {lowest('adamw', 64):.2f}. "
#     "A comparison of optimizers made on the first rung would have picked the wrong one for the last.")

# %% [markdown]
# For the ladder this means: Muon, at twice the pair, which is the best of the tried ones at all three widths. One constant rate is still a small lie at both ends, and one that does not
# show in any residual. It belongs to the doubts.
#
# ## Climb
#
# Every rung goes through the same `pretrain` as any other run of this book; `climb` only keeps the ledger: a row per rung in `ladder.json`, written when the
# rung is done, so that a killed ladder goes on where it was.

# %% tags=["active-ipynb"]
# repeated = [dataclasses.replace(one, seed=one.seed + 1) for one in rungs[:2]]
# climbed = ladder.climb(cfg, data, RUN / "ladder", rungs + repeated, ledger=ledger)
# for row in climbed:
#     print(f"width {row['width']}, seed {row['seed']}: {row['steps']:4} steps, "
#           f"held-out loss {row['loss']:.4f}")

# %% [markdown]
# The two smallest rungs were trained twice. It is the cheapest thing on the ladder and the one most often left out: without it nobody can say whether a
# point lies off the curve or the curve off the point.

# %% tags=["active-ipynb"]
# pairs = [[r["loss"] for r in climbed if r["width"] == w] for w in WIDTHS]
# noise, freedom = laws.seed_noise(pairs)
# say(f"Between two seeds the losses differ by {abs(pairs[0][0] - pairs[0][1]):.3f} and "
#     f"{abs(pairs[1][0] - pairs[1][1]):.3f} nats. Pooled: a standard deviation of **{noise:.2%}** "
#     f"of the loss, from {freedom} degrees of freedom, so itself known to a factor of two or three.")

# %% [markdown]
# ## Fit, and write the forecast down
#
# The curve is $L = E + A\,x^{-\alpha}$: a floor that no model of the family gets below, and a power law on top {cite:p}`kaplan2020,hoffmann2022`. With α
# given, $E$ and $A$ are a linear problem, so α is searched on a grid and the rest is solved: no start values, no local minimum. Errors are relative, which is
# what a fit in logarithms does. Five sizes, three unknowns. Keep that in mind.

# %% tags=["active-ipynb"]
# sizes = count_parameters(ladder.model_at(cfg.model, TARGET))
# forecast = ladder.predict(climbed, sizes, ladder.work(cfg, goal))
# ledger.write(forecast=forecast)  # before the target exists
# for name, f in forecast["by"].items():
#     print(f"{name:17} {f['loss']:.3f}   E {f['law']['floor']:.2f}, "
#           f"alpha {f['law']['alpha']:.2f}   without floor {f['no_floor']:.3f}")

# %% tags=["active-ipynb", "hide-input"]
# first = [r for r in climbed[:5]]
# slopes = [np.log(a["loss"] / b["loss"]) / np.log(b["parameters"]["total"] / a["parameters"]["total"]) for a, b in zip(first, first[1:])]
# by = forecast["by"]
# say(f"Every way of counting puts the sixth loss near **{by['total']['loss']:.2f}**. The floors do not agree: {by['total']['law']['floor']:.2f} by all parameters, "
#     f"{by['non_embedding']['law']['floor']:.2f} without the vocabulary, {by['flops']['law']['floor']:.2f} by work. Nor is the curve as smooth as a law: from rung to rung the "
#     f"exponent is {', '.join(f'{x:.2f}' for x in slopes)}.")

# %% [markdown]
# The floor is what the ladder was meant to find, and five points cannot: counted one way it is a quarter of a nat, counted another way nothing, with nearly the same forecast. The last exponent is
# larger than those before it, which no power law with a floor can do. Either noise, or the largest rung begins to learn something that the others had not.
#
# What is the interval? Three doubts can be computed. *Seeds*: redraw every point with the noise that was measured, fit again, four hundred times, and take the
# middle 90 %. *Rungs*: leave one width out and fit the others. *Form*: forbid the floor, because five points near each other cannot tell a floor from a
# smaller exponent. The last is no statistics. It is the honest admission that the formula is an assumption.

# %% tags=["active-ipynb"]
# f = forecast["by"]["active_per_token"]
# for what, low, high in (("seeds, 90 %", f["low"], f["high"]),
#                         ("a rung left out", *f["left_out"]),
#                         ("no floor", f["no_floor"], f["no_floor"]),
#                         ("all of them", *f["honest"])):
#     print(f"{what:16} {low:.3f} to {high:.3f}   "
#           f"{low / f['loss'] - 1:+.1%} to {high / f['loss'] - 1:+.1%}")

# %% [markdown]
# Look at your second answer once more. Then train the sixth.

# %% tags=["active-ipynb"]
# target = ladder.climb(cfg, data, RUN / "ladder", [goal], ledger=ledger)[0]
# result = ladder.judge(forecast, target["loss"])
# ledger.write(result=result)
# for name, by in result["by"].items():
#     print(f"{name:17} error {by['error']:+.2%}   held by seeds: {by['held']}, "
#           f"by all: {by['held_honest']}")

# %% tags=["active-ipynb", "hide-input"]
# def draw_ladder(ax, rows, f, found, unit, xlabel):
#     """Points, law with and without floor, honest interval and what came, over parameters in `unit`."""
#     x = np.array([r["parameters"]["total"] for r in rows]) / unit
#     grid = np.geomspace(x.min() * 0.9, f["at"] / unit * 1.12, 80)
#     law = laws.Law(**f["law"])
#     plain = laws.fit(x * unit, [r["loss"] for r in rows], floor=0.0)
#     ax.plot(grid, plain(grid * unit), color=SLATE, lw=1, ls=(0, (4, 3)))
#     ax.plot(grid, law(grid * unit), color=STEEL)
#     at = f["at"] / unit
#     ax.plot([at, at], f["honest"], color=STEEL, lw=7, alpha=0.25, solid_capstyle="butt")
#     ax.plot([at, at], [f["low"], f["high"]], color=STEEL, lw=2.5)
#     ax.plot(x, [r["loss"] for r in rows], "o", color=INK, ms=4)
#     ax.plot(at, found, "o", color=FURNACE, ms=6, zorder=4)
#     label_line(ax, at, found, f"{found:.3f}", FURNACE, xytext=(8, 0))
#     ax.set(xscale="log", yscale="log")
#     ticks = sorted({float(f"{v:.2g}") for v in [*x, at]})
#     ax.set_xticks(ticks, [f"{v:g}" for v in ticks])
#     low, high = min(found, f["honest"][0]), max(r["loss"] for r in rows)
#     levels = [v for v in np.round(np.geomspace(low, high, 5), 1 if high > 2 * low else 2)]
#     ax.set_yticks(levels, [f"{v:g}" for v in levels])
#     ax.minorticks_off()
#     axis_units(ax, x=xlabel, y="held-out loss (nats/token)")
#
#
# fig, (left, right) = figure(3.0, ncols=2, width_ratios=(1, 1.15))
# for shade, row in zip(np.linspace(0.25, 1, 6), [*climbed[:5], target]):
#     last = row is target
#     left.plot(np.array(row["curve"]["tokens"]) / 1e3, row["curve"]["loss"], color=FURNACE if last else STEEL, alpha=1 if last else shade, lw=1.2)
# left.set(xlim=(0, goal.tokens / 1e3))
# axis_units(left, x="tokens read (thousands)", y="training loss (nats/token)")
# draw_ladder(right, climbed, forecast["by"]["total"], target["loss"], 1e3, "parameters (thousands)")
# right.set_xlim(24, 235)
# show(fig, alt=f"Left: training curves of six models, the larger the longer and the lower. Right: held-out loss over parameters on logarithmic axes with the fitted law, the law without floor and the forecast's interval; "
#      f"the sixth model lies at {target['loss']:.2f} nats.", caption="Left: the rungs in blue, the target in orange. Right: points, the law with a floor (line) and without (dashes), forecast as a bar: dark what seeds allow, "
#      "pale what seeds, rungs and form allow together. Orange: what came.")

# %% tags=["active-ipynb", "hide-input"]
# f, by = forecast["by"]["total"], result["by"]["total"]
# share = ladder.share_of_cost(climbed, target["flops"])
# word = {True: "held", False: "missed"}
# say(f"Forecast {f['loss']:.3f}, measured **{target['loss']:.3f}**: an error of **{by['error']:+.1%}**. The interval from seeds, {f['low']:.2f} to {f['high']:.2f}, {word[by['held']]} it; "
#     f"the honest one, {f['honest'][0]:.2f} to {f['honest'][1]:.2f}, {word[by['held_honest']]} it. Without a floor the error is {f['no_floor'] / target['loss'] - 1:+.1%}. "
#     f"Taken alone, a normal interval of ±2 of the measured noise would have been {f['loss'] * (1 - 2 * f['noise']):.2f} to {f['loss'] * (1 + 2 * f['noise']):.2f} and "
#     f"{word[abs(by['error']) <= 2 * f['noise']]} it. The ladder cost {share:.2f} times the FLOPs of its target.")

# %% [markdown]
# So the forecast was too dark. The sixth model is better than five promised, and the kink at the fifth rung looks like no noise: from there on the loss falls faster than before (one seed each). Something begins that the small models had not reached. The loss does not say what;
# in this town two things are left to learn once the sentences are known, copying a name from earlier in the document and remembering who studied where. A law extrapolates what the small ones do. When something new starts between the ladder and its target, the ladder
# cannot know. No computed interval holds that doubt, and it is the reason to prefer one large last rung to many small ones.
#
# The interval that held did so because two pairs of seeds know the noise so badly that the interval became as wide as a quarter of the loss. This is not a failure of the method. It is the price of not knowing, printed on the label.
#
# And the cost: at one ratio for all, a ladder with a rung near the target costs about as much as the target. It is cheap only when the large run reads far more tokens per parameter than the rungs, or when the rungs stay
# far below it and the forecast reaches far.
#
# ```{admonition} Takeaway
# :class: takeaway
# Write the forecast down before the run, with every doubt that you can compute: seeds, rungs, form. Then the run tests something. A curve drawn afterwards through six points would have looked perfect.
# ```
#
# ## Steel, on the same curve
#
# Chinchilla's law separates the two things that a ladder at one ratio keeps together: $L(N, D) = E + A N^{-\alpha} + B D^{-\beta}$. Its constants were
# published {cite:p}`hoffmann2022`, and published again by others who read the points off a figure of the paper and fitted them with more care
# {cite:p}`chinchilla_refit2024`. Put Steel in both.

# %% tags=["active-ipynb"]
# steel = load("steel-1b")
# N = count_parameters(steel.model)
# D = 1.0 * steel.train.steps * steel.train.batch_size * steel.data.sequence_length
# C = 6 * N["total"] * D
# for name, law in (("2022", laws.CHINCHILLA), ("refit", laws.CHINCHILLA_REFIT)):
#     n, d = law.optimum(C)
#     print(f"{name:6} optimum {n / 1e9:.1f} B parameters on {d / 1e9:.0f} B tokens "
#           f"({d / n:.0f} each): loss {law(n, d):.3f}, Steel {law(N['total'], D):.3f}")

# %% tags=["active-ipynb", "hide-input"]
# fig, ax = figure(3.0)
# N_X = np.geomspace(2e8, 4e10, 120)
# for law, color, name in ((laws.CHINCHILLA, SLATE, "constants of 2022"), (laws.CHINCHILLA_REFIT, STEEL, "fitted again, 2024")):
#     ax.plot(N_X, law(N_X, C / 6 / N_X), color=color)
#     n, d = law.optimum(C)
#     ax.plot(n, law(n, d), "o", color=color, mfc="white")
#     ax.plot(N["total"], law(N["total"], D), "o", color=FURNACE, zorder=3)
#     label_line(ax, N_X[0], law(N_X[0], C / 6 / N_X[0]), name, color, ha="left", xytext=(4, -20) if color == SLATE else (8, 8))
# label_line(ax, N["total"], laws.CHINCHILLA(N["total"], D), "Steel", FURNACE, xytext=(0, -14), ha="center")
# ax.set(xscale="log", xlim=(2e8, 4e10), ylim=(2.1, 2.75))
# ax.set_xticks([3e8, 1e9, 3e9, 1e10, 3e10], ["0.3 B", "1 B", "3 B", "10 B", "30 B"])
# ax.minorticks_off()
# axis_units(ax, x="parameters, at Steel's total of 6ND", y="predicted loss (nats per token of the law's tokenizer)")
# show(fig, alt="Predicted loss over parameters at Steel's compute, for two published fits. Both curves are flat valleys; the minimum lies at 4.5 billion parameters for one and at 7.8 "
#      "billion for the other, Steel at 1.1 billion lies slightly above both minima.",
#      caption="One budget, many shapes. Rings: the optimum of each fit. Orange: Steel. The law is of English text with another tokenizer; differences mean something, levels do not.")

# %% tags=["active-ipynb"]
# law = laws.CHINCHILLA_REFIT
# loss = float(law(N["total"], D))
# budgets = np.geomspace(C / 20, C, 2000)
# same = next(c for c in budgets if law(*law.optimum(c)) <= loss)
# n, d = law.optimum(same)
# served = (C - same) / (2 * (n - N["total"]))  # 2N FLOPs per token of an answer
# print(f"the same loss, compute-optimal: {n / 1e9:.1f} B parameters, "
#       f"{d / 1e9:.0f} B tokens, {same / C:.0%} of the FLOPs")
# print(f"Steel's extra training is earned back after {served / 1e12:.2f} T tokens of answers")

# %% [markdown]
# Three things to read. The valley is flat: Steel's shape costs it hundredths of a nat. The two fits of the *same data* disagree about the floor of the valley by
# nearly a factor of two in parameters and three in tokens per parameter, 61 against 21; the paper's other two methods, and the famous rule of 20 tokens, agree with the
# second. And whoever trains
# for use does not want the bottom of the valley. A smaller model on more tokens is paid once in training and saves in every
# answer {cite:p}`sardana2024`, in memory too: 1.1 billion parameters fit on a phone. About 1,000 tokens per parameter is far out on that side, in TinyLlama's spirit
# {cite:p}`tinyllama2024`, further than the answers of a hobby project can earn back. But what a hobby project serves is its readers, and they have laptops.
#
# ```{admonition} Which N?
# :class: napkin
# 1,000 tokens per parameter if every parameter counts. Per parameter outside the vocabulary it is 1,940. And Steel's experts hardly meet a token (chapter 01): per
# weight that does, 2,227. No published law was fitted to a model of which 48.5 % is vocabulary and whose experts see averages. A ladder of one's own family is the only one that counts
# right by construction.
# ```
#
# Repetition enters here as well. Those 1.1 trillion tokens were about two passes over the corpus. Up to four passes cost almost nothing against fresh text, and the worth of
# further ones decays towards zero {cite:p}`datalimits2023`: two are no reason to regret anything.
#
# ## How large a step
#
# Batch is the one setting that a ladder of small models gets wrong most easily, because the right one grows as the loss falls. Below a *critical batch*, twice the batch means half the
# steps for the same loss; above it, twice the batch is mostly twice the price {cite:p}`criticalbatch2018`. The first rung at equal tokens:

# %% tags=["active-ipynb"]
# def with_batch(size):
#     train = dataclasses.replace(cfg.train, batch_size=size)
#     other = dataclasses.replace(cfg, train=train)
#     return ladder.train_rung(other, data, RUN / f"batch-{size}", rungs[0])
#
# table(["sequences a step", "steps", "held-out loss"],
#       [[size, row["steps"], f"{row['loss']:.3f}"] for size, row in
#        ((4, climbed[0]), (8, with_batch(8)), (16, with_batch(16)))])

# %% [markdown]
# At equal tokens the smaller step wins here at every size tried, so all of these are above this model's critical batch at this rate, or the larger ones would need a larger rate, which this table does not try. Steel's step of 1,048,576 tokens was
# chosen to fill eight GPUs. At the beginning of a run, when the loss falls by itself and gradients agree, it is certainly too large; near the end of a trillion tokens it is what such models use. Growing the batch during the run would
# have saved steps where they are cheapest to save.
#
# ## At full scale
#
# The same engine stands behind one command. Widths come from the preset, a killed ladder goes on with the same command, and the forecast lies in `ladder.json` before the target starts:
#
# ```text
# python -m figures.experiments.ladder --preset gpu1 --data shards --out runs/ladder
# python notebooks/12_scaling.py --preset gpu1       # shards in runs/12_scaling-gpu1/shards
# ```
#
# What would a ladder for Steel cost? For the book's own preset, by the planner of chapter 01, at the utilisation it assumes for an H800:

# %% tags=["active-ipynb"]
# from steel.plan import days
# from steel.plan import gpu
#
# big = load("steel-1b-causal")
# whole = flops_per_token(big.model, 2048).total * D
# own = D / count_parameters(big.model)["active_per_token"]
# rows = []
# for widths in (ladder.default_widths(big.model), [256, 384, 512, 640]):
#     for ratio in (20, own):
#         steps = [ladder.rung(big, w, ratio) for w in widths]
#         cost = sum(ladder.work(big, one) for one in steps + steps[:2])
#         hours = 24 * 8 * days(cost, "H800", 8, gpu("H800").mfu)
#         rows.append([f"{widths[0]} to {widths[-1]}", f"{ratio:,.0f}",
#                      f"{cost / whole:.1%}", f"{hours:,.0f}"])
# table(["widths", "tokens per parameter", "share of the run", "H800 hours"], rows)

# %% [markdown]
# A ladder at 20 tokens per parameter costs less than one per cent of Steel's run: one day of one GPU, and it settles rates, layers and data. At Steel's own ratio the wide ladder costs seven tenths of the run, and the narrow one a seventh; whoever wants
# the *loss* of an over-trained model forecast, and not only its recipe, has to give the rungs other ratios too and fit $L(N, D)$ (`--others 10,40`).
#
# Real text is the other test. The log below is of a ladder on nine sources and the poems of three dynasties: 2,048 entries of vocabulary, three layers, four tokens per parameter, a few hundredths of a pass at most. Four widths forecast a fifth.

# %% tags=["active-ipynb", "hide-input"]
# real = json.loads((ROOT / "figures/runs/ladder.json").read_text(encoding="utf-8"))
# rows = sorted(real["rows"], key=lambda r: (r["width"], r["tokens"], r["seed"]))
# table(["width", "parameters", "tokens", "seed", "held out", "poems", "encyclopedia", "code"],
#       [[r["width"], f"{r['parameters']['total']:,}", f"{r['tokens']:,}", r["seed"], f"{r['loss']:.3f}",
#         *(f"{r['by_source'][name]:.2f}" if name in r["by_source"] else "–" for name in ("chinese_poetry", "baidu_baike", "starcoder"))] for r in rows])
# if "forecast" in real:
#     f = real["forecast"]["by"]["total"]
#     text = (f"The forecast for {f['at']:,.0f} parameters, in the log since before its target: **{f['loss']:.3f}**; seeds {f['low']:.3f} to {f['high']:.3f} (noise {f['noise']:.2%}, "
#             f"{f['freedom']} degrees of freedom), honest {f['honest'][0]:.3f} to {f['honest'][1]:.3f}. ")
#     if "result" in real:
#         by, word = real["result"]["by"]["total"], {True: "held", False: "missed"}
#         text += f"Measured: **{real['result']['loss']:.3f}**, an error of {by['error']:+.2%}; seeds {word[by['held']]} it, the honest interval {word[by['held_honest']]} it."
#     else:
#         text += "The target has not been trained yet: this forecast is still open."
#     say(text)

# %% tags=["active-ipynb", "hide-input"]
# def of(width, ratio):
#     return next(r for r in real["rows"] if r["width"] == width and r["seed"] == 1 and r["rate"] == 1 and abs(r["tokens"] / r["parameters"]["total"] / ratio - 1) < 0.02)
#
#
# fig, ax = figure(2.6)
# same = [of(width, 4) for width in (24, 32, 40, 48)]
# ax.plot([r["tokens"] / 1e3 for r in same], [r["loss"] for r in same], "-o", color=STEEL)
# for r in same:
#     label_line(ax, r["tokens"] / 1e3, r["loss"], f"width {r['width']}", STEEL, xytext=(0, -11), ha="center")
# target, low_high = of(64, 4), [[f["loss"] - f["low"]], [f["high"] - f["loss"]]]
# ax.errorbar(target["tokens"] / 1e3, f["loss"], yerr=low_high, fmt="_", color=SLATE, ms=12, lw=1.2)
# label_line(ax, target["tokens"] / 1e3, f["loss"], "forecast", SLATE, xytext=(9, 3))
# ax.plot(target["tokens"] / 1e3, target["loss"], "o", color=STEEL)
# label_line(ax, target["tokens"] / 1e3, target["loss"], "width 64", STEEL, xytext=(9, -5))
# more = of(24, 8)
# ax.plot([same[0]["tokens"] / 1e3, more["tokens"] / 1e3], [same[0]["loss"], more["loss"]], "--o", color=FURNACE, lw=1)
# label_line(ax, more["tokens"] / 1e3, more["loss"], "width 24, twice the tokens", FURNACE, xytext=(4, 9))
# ax.set(xlim=(230, 1330), ylim=(4.9, 5.6))
# axis_units(ax, x="tokens read (thousands)", y="held-out loss (nats/token)")
# show(fig, alt="Held-out loss on real text over tokens read, widths 24 to 48 at four tokens per parameter, width 24 at eight, and width 64, measured a little below its forecast and inside the forecast's interval.",
#      caption="Blue: four tokens per parameter. Grey: the forecast for width 64 and its 90 % interval from seeds. Orange: the smallest model, twice as long. One core, shared with other work. Log: ladder.json.")
# say(f"Width 24 gains {of(24, 4)['loss'] - of(24, 8)['loss']:.2f} nats from twice the tokens, which brings it below width 32 ({of(24, 8)['loss']:.2f} and {of(32, 4)['loss']:.2f}). "
#     f"At the same number of tokens, twice the parameters (width 40, {of(40, 4)['loss']:.2f}) are worth {of(24, 8)['loss'] - of(40, 4)['loss']:.2f}.")

# %% [markdown]
# On real text, at four tokens per parameter, a parameter is worth little and a token much. These rungs stand on the far side of the valley from Steel: too large for what they read. A forecast along this ratio is about models that
# nobody should train. A ladder's ratio is a choice, and belongs to the question.
#
# ## Failure gallery
#
# ```{admonition} The rung that changed its optimizer
# :class: failure
# Muon takes matrices inside the blocks whose sides are both longer than 16; anything smaller, routers for instance, stays with AdamW. Add a rung of width 16 to our ladder and every matrix of it is
# such a small one: that rung trains with AdamW throughout, at Muon's companion rate, and no log says so. It was found here while the rungs were chosen. A ladder must differ in one thing.
# ```

# %%
from steel.model import build
from steel.train.optim import build_optimizers

def optimizers(width):
    narrow = dataclasses.replace(load("cpu").model, head_dim=8)
    train = load("cpu").train  # muon
    network = build(ladder.model_at(narrow, width), device="meta")
    return [type(one).__name__ for one in build_optimizers(network, train)]

print(f"width 16: {optimizers(16)}\nwidth 24: {optimizers(24)}")
assert optimizers(16) == ["AdamW"] and optimizers(24) == ["AdamW", "Muon"]

# %% [markdown]
# ```{admonition} One long run instead of a ladder
# :class: failure
# The cheapest ladder is the curve of a single run: every step a point. Its points are not rungs, since their learning rate had not come down. Kaplan et al. fixed the
# schedule's length for all runs, underrated data by it, and a generation of models was built too large and read too little.
# ```
#
# ```{admonition} The interval of a programmer
# :class: failure
# A fit routine prints an interval, and it is small, because it knows nothing of seeds, of rates that were right for the small models only, or of another formula. It happens to the best: the intervals
# published for Chinchilla's constants were so narrow that they would have taken more than 600,000 runs, where there were fewer than 500, and the optimizer that fitted them had stopped before it converged {cite:p}`chinchilla_refit2024`.
# The interval that a plan needs is the one that would have held the last three targets.
# ```
#
# ```{admonition} A floor of one's own making
# :class: failure
# Held-out documents from templates have an entropy that a model can reach. Near it every curve bends, whatever the model could still learn elsewhere. The closed world can teach how to
# make a forecast. It cannot lend its exponents to anybody.
# ```
#
# ## Exercises
#
# **12.1 Recall.** Why must each rung have a schedule of its own, and why does equal tokens per parameter leave $L(N, D)$ unidentified?
#
# ```{dropdown} Answer 12.1
# A loss in the middle of a schedule lies above what the same tokens give with the rate brought down, so it belongs to no finished model. With $D = rN$ in every rung the two terms $N^{-\alpha}$ and $D^{-\beta}$ rise and fall
# together; any split of the reducible loss between them fits alike. Only rungs with other ratios can separate them.
# ```
#
# **12.2 Calculate.** A ladder has rungs at 1/16, 1/8, 1/4 and 1/2 of the target's parameters, at the target's tokens per parameter. What share of the target's FLOPs does it cost? And without the largest rung?
#
# ```{dropdown} Answer 12.2
# Work goes with the square: 1/256 + 1/64 + 1/16 + 1/4, or 33 %. Without the largest it is 8 %, and the forecast has to reach twice as far. The largest rung is three quarters of the price and most of the value.
# ```
#
# **12.3 Code.** Write `optimum(flops, E, A, B, alpha, beta)`: the pair $(N, D)$ with the lowest $L(N, D)$ among those with $6ND$ equal to `flops`.

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def optimum(flops, E, A, B, alpha, beta):
#     # d/dN of A N^-alpha + B (C/6N)^-beta is zero where alpha A N^-alpha = beta B D^-beta
#     product = flops / 6
#     N = (alpha * A / (beta * B) * product**beta) ** (1 / (alpha + beta))
#     return N, product / N
#
# check("12.3", optimum)

# %% [markdown]
# **12.4 Break it.** Leave the first rung out, then the first two, then the last, and forecast again. Which error is largest, and could you have told before the target was trained?

# %% tags=["active-ipynb", "hide-cell"]
# for left in ((24,), (24, 32), (56,), (48, 56)):
#     kept = [r for r in climbed if r["width"] not in left]
#     law = laws.fit([r["parameters"]["total"] for r in kept], [r["loss"] for r in kept])
#     print(f"without {left}: {law(sizes['total']) / target['loss'] - 1:+.2%}")

# %% [markdown]
# **12.5 Open, 20 GPU hours.** Preset `gpu1`, real shards, one GPU. Choose widths, ratio and seeds for a forecast of the preset's own model within 20 GPU hours, target included. Write the forecast and the interval into a file with a
# date, and only then start the target. Decide beforehand what you do if it falls outside: distrust the rate, the data or the law?
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What is a rung?** A small copy of the large run: same family, same tokens per parameter, a whole schedule of its own.
# ```
#
# ```{admonition} Card
# :class: card
# **Which doubts belong into a forecast's interval?** Noise between seeds, each rung left out, the form of the law. And a word about the learning rate.
# ```
#
# ```{admonition} Card
# :class: card
# **What does compute-optimal leave out?** Everything after training. Who serves a model wants it smaller and longer trained than the law says.
# ```

# %% tags=["active-ipynb", "hide-input"]
# badge()

# %%
if __name__ == "__main__":
    tokens = shards(cfg, RUN)
    done = ladder.run_ladder(cfg, tokens, RUN / "ladder", widths=WIDTHS, target=TARGET,
                             tokens_per_parameter=RATIO, repeats=REPEATS)
    print(ladder.render(done))
