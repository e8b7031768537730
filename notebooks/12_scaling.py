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
# How large, how long, at which learning rate? Steel took the first two from TinyLlama's example, a billion parameters and a trillion tokens or so in two months; of its rate the
# retrospective says that it is nothing special. As far as the sources tell, no smaller Steel was trained first, which on a machine lent for an unknown time
# is easy to understand. Yet hours could have bought a ladder.
#
# A *ladder* is that forecast. Train a few small models of one family, fit a curve through their losses, and read it at the size you
# cannot afford to get wrong. This chapter climbs one of five rungs, writes its forecast down, trains the sixth model, and looks at
# the difference. Then it does so again under other seeds.

# %%
import dataclasses
from pathlib import Path

import numpy as np

from figures.experiments import ladder, laws, town
from steel.config import load, preset
from steel.plan import count_parameters, days, flops_per_token, gpu

cfg = preset()
RUN = Path("runs") / f"12_scaling-{cfg.preset}"
RATIO, WIDTHS, TARGET, REPEATS = 20, None, 0, 2  # None, 0: from the preset
if cfg.preset == "cpu":  # small enough for a page
    cfg = town.settings(cfg)
    RATIO, WIDTHS, TARGET, REPEATS = town.RATIO, town.WIDTHS, town.TARGET, 1

# %% tags=["active-ipynb", "hide-input"]
# import json
# import os
# import shutil
#
# import torch
#
# from figures.claims import ROOT
# from figures.draw_12 import ladder as draw_ladder, rates, real_text, throws, valleys
# from figures.experiments.verdicts import holm, paired, quantile
# from figures.style import answer, badge, say, show, table
#
# os.environ["STEEL_QUIET"] = "1"
# torch.set_num_threads(1)  # models this small lose time to a second thread
# shutil.rmtree(RUN, ignore_errors=True)  # this notebook starts afresh every time
#
#
# def runs(name):
#     """A committed log of figures/runs."""
#     return json.loads((ROOT / f"figures/runs/{name}.json").read_text(encoding="utf-8"))
#
#
# family = {width: count_parameters(ladder.model_at(cfg.model, width)) for width in (*WIDTHS, TARGET)}
# show(draw_ladder(list(family), [n["total"] for n in family.values()]),
#      alt="Five blue squares that grow to the right and a larger dashed orange one. A square's sides are parameters and tokens read; inside each runs a learning rate that rises, stays and "
#      "falls to zero at the square's right edge, where a dot marks the end. Below: climb; fit and write the forecast down; train the large one and compare.",
#      caption="What this chapter does, to scale. Every run is as tall as it has parameters and as long as it reads tokens, so its area is nearly its FLOPs. Every run has a whole schedule of its own; the rate itself is the same in all, only drawn to fit. The dot in a corner is the loss that counts, read when the rate is zero.")

# %% [markdown]
# ```{admonition} Predict
# :class: predict
# Five models of 24 to 56 channels, each with three tokens for every two parameters; then one of 72 channels, with six times the parameters of the first and
# thirty-five times its work. Before you read on, write down:
#
# 1. the forecast's error for the sixth loss, without its sign and as a mean over five seeds: nearer to 0.1, 1 or 10 %?
# 2. does an interval made of the noise between two seeds hold the truth?
# 3. six FLOPs for each of Steel's parameters and each of its tokens, spent as the compute-optimal literature advises: how many billion parameters would they have bought?
# ```
#
# ## A family
#
# Models of a ladder may differ in one thing. Ours differ in width: layers, head width, the shape of the feed-forward, batch,
# vocabulary and data stay as they are. And each rung reads the same number of tokens *per parameter*, so that a rung is a small copy of the large run
# and not an early moment of it. ($N$ counts parameters and $D$ tokens in this chapter; the width is $w$.) The schedule is part of the copy: each rung's rate falls to its end {cite:p}`hoffmann2022`. Kaplan et al. {cite:p}`kaplan2020` had fixed one schedule for all runs, and read the shorter ones
# while their rate was still up.
#
# ```{admonition} Napkin
# :class: napkin
# A layer of width $w$ has $4w^2$ weights in attention and about $9w^2$ in a SwiGLU three times as wide: $13 w^2$. The vocabulary has $Vw$; it is *tied*, which means that one matrix serves as embedding
# and as head. At $r = D/N$ tokens per parameter the work is $6N \cdot rN$: it grows with the *square* of the parameters, as the squares of the drawing do. So the last rung costs nearly half of the ladder, and the
# target as much as all of it.
# ```

# %% tags=["active-ipynb"]
# rungs = [ladder.rung(cfg, width, RATIO) for width in WIDTHS]
# goal = ladder.rung(cfg, TARGET, RATIO)
# table(["width", "parameters", "without vocabulary", "tokens", "GFLOP"],
#       [[one.width, f"{family[one.width]['total']:,}", f"{family[one.width]['non_embedding']:,}",
#         f"{one.tokens:,}", f"{ladder.work(cfg, one) / 1e9:.1f}"] for one in [*rungs, goal]])

# %% [markdown]
# Two columns say "parameters", and they do not grow alike: at the first rung the vocabulary is almost half the model, at the last much
# less. Kaplan counted without the embedding and Chinchilla with it, and their laws gave conflicting advice: grow mostly the model, or model and text alike. The distance has been traced to that {cite:p}`pearce2024`, or to the head's work, the warm-up and the tuning of small
# models, while the decay of the rate mattered little {cite:p}`porian2024`. We fit by both, and by FLOPs.
#
# The law takes every token for a new one, so the ladder's town is large enough that the target sees less than one pass of it.

# %% tags=["active-ipynb"]
# data = town.shards(cfg, RUN)
# ledger = ladder.open_ledger(RUN / "ladder", cfg, data)
# held = sum(ledger.content["data"]["sources"].values())
# say(f"The town holds **{held / 1e6:.2f}** million training tokens; the target will read "
#     f"{goal.tokens / 1e6:.2f} million, {goal.tokens / held:.2f} of a pass.")

# %% [markdown]
# ## Climb
#
# Every rung goes through the book's own `pretrain`, at one rate for all widths; how that was found stands further down.

# %% tags=["active-ipynb", "within-0.1"]
# repeated = [dataclasses.replace(one, seed=one.seed + 1) for one in rungs[:2]]
# climbed = ladder.climb(cfg, data, RUN / "ladder", rungs + repeated, ledger=ledger)
# for row in climbed:
#     print(f"width {row['width']}, seed {row['seed']}: held-out loss {row['loss']:.3f}")

# %% [markdown]
# The two smallest rungs were trained twice, to see the noise between two seeds. Two differences are few: in nine cases of ten the true noise is 0.6 to 4.4 times what they say.
#
# ## Fit, and write the forecast down
#
# The curve is $L = E + A\,x^{-\alpha}$: a floor that no model of the family gets below, and a power law on top {cite:p}`kaplan2020,hoffmann2022`. With α
# given, $E$ and $A$ are a linear problem, so α is searched on a grid and the rest is solved: no start values, no local minimum. Five sizes, three unknowns.

# %% tags=["active-ipynb", "within-0.1"]
# forecast = ladder.predict(climbed, family[TARGET], ladder.work(cfg, goal))
# ledger.write(forecast=forecast)  # before the target exists
# for name in ("total", "non_embedding", "flops"):
#     print(f"by {name:13} {forecast['by'][name]['loss']:.2f} nats")

# %% [markdown]
# Three ways to count, nearly one forecast. Now the interval. Three doubts can be computed:
#
# - *Seeds*: choose at random a noise that the two pairs allow; shake every point by it and fit again; shake the forecast, too, because the sixth model has a seed. Do so four thousand times and take the middle 90 %.
# - *Rungs*: leave one width out and fit the others.
# - *Form*: forbid the floor, because five points near each other cannot tell a floor from a smaller exponent. This doubt looks only one way: no law here can steepen.

# %% tags=["active-ipynb", "within-0.2"]
# f = forecast["by"]["total"]
# for what, low, high in (("seeds, 90 %", f["low"], f["high"]),
#                         ("a rung left out", *f["left_out"]),
#                         ("no floor", f["no_floor"], f["no_floor"]),
#                         ("all of them", *f["honest"])):
#     print(f"{what:16} {low:.2f} to {high:.2f}")
# print(f"the floor of the fit is {f['law']['floor']:.2f}")

# %% [markdown]
# The third line is a point: one fit, without a floor. Look at your second answer once more. Then train the sixth.

# %% tags=["active-ipynb", "within-0.1"]
# target = ladder.climb(cfg, data, RUN / "ladder", [goal], ledger=ledger)[0]
# result = ladder.judge(forecast, target["loss"])
# ledger.write(result=result)
# end = result["by"]["total"]
# print(f"forecast {f['loss']:.2f}, measured {target['loss']:.2f} nats per token: "
#       f"{end['error']:+.1%}, {'inside' if end['held'] else 'outside'} the interval")

# %% [markdown]
# ## Climb again
#
# One forecast and one target are a single throw. The log holds five: the same ladder, target included, under five seeds. (For its two pairs each borrows two rungs from the next seed.)

# %% tags=["active-ipynb", "hide-input"]
# rows = runs("town-ladder")["rows"]
# loss = {(r["seed"], r["width"]): r for r in rows}
# seeds = sorted({r["seed"] for r in rows})
# ladders = {s: [loss[s, w] for w in WIDTHS] + [loss[s % len(seeds) + 1, w] for w in WIDTHS[:2]]
#            for s in seeds}  # each with the two smallest rungs of the next seed
# again = []
# for seed in seeds:
#     sixth = loss[seed, TARGET]
#     guess = ladder.predict(ladders[seed], sixth["parameters"], sixth["flops"])
#     again.append((guess, ladder.judge(guess, sixth["loss"])))
# table(["seed", "forecast", "seeds, 90 %", "measured", "error", "held"],
#       [[s, f"{guess['by']['total']['loss']:.3f}",
#         "{low:.2f} to {high:.2f}".format(**guess["by"]["total"]), f"{end['loss']:.3f}",
#         f"{end['by']['total']['error']:+.1%}", "yes" if end["by"]["total"]["held"] else "no"]
#        for s, (guess, end) in zip(seeds, again)])
# apart = max(abs(row["loss"] / loss[row["seed"], row["width"]]["loss"] - 1) for row in [*climbed, target])
# say("The log's seed 1 is the run above." if apart < 0.005 else
#     f"The log is of an earlier state of the town: its losses lie up to {apart:.1%} away from those of the run above, so its seed 1 is another throw.")

# %% tags=["active-ipynb", "hide-input"]
# made = [m["by"]["total"] for m, _ in again]
# ends = [end["loss"] for _, end in again]
# points = [(r["parameters"]["total"], r["loss"], r in ladders[1]) for r in rows if r["width"] != TARGET]
# show(throws(points, made, ends), alt="Left: held-out loss over parameters on logarithmic axes, five rungs with five seeds each, the law through the first seed's rungs and the five targets. Right: for each seed the forecast, "
#      "its interval and the measured loss.",
#      caption="Left: dots are rungs, dark the seven runs of seed 1's ladder, with their law; grey, a little to the left, those of the other seeds; orange the sixth model. Right: bars are the interval of 90 % from seeds. Log: town-ladder.json, one core shared with other jobs.")
# errors = [100 * end["by"]["total"]["error"] for _, end in again]
# inside, honest = (sum(end["by"]["total"][key] for _, end in again) for key in ("held", "held_honest"))
# answer("1.1", f"The errors of the five forecasts lie between **{min(errors):+.1f}** and **{max(errors):+.1f} %**, {np.mean(np.abs(errors)):.1f} % on average without their sign: as a ratio nearer to {min((0.1, 1, 10), key=lambda x: abs(np.log(x / np.mean(np.abs(errors)))))} than to the others.",
#        float(np.mean(np.abs(errors))), low=float(min(np.abs(errors))), high=float(max(np.abs(errors))), unit="%")
# all_noise, all_freedom = laws.seed_noise([[loss[s, w]["loss"] for s in seeds] for w in WIDTHS])
# better = [laws.forecast([r["parameters"]["total"] for r in ladders[s]], [r["loss"] for r in ladders[s]], made[0]["at"], all_noise, all_freedom) for s in seeds]
# known = sum(f.low <= end <= f.high for f, end in zip(better, ends))
# answer("1.2", f"An interval of 90 % held its target in **{inside} of {len(seeds)}** ladders, the interval of all doubts in {honest}. With the noise of all rungs, which {all_freedom} degrees of freedom know better, in {known}.")

# %% [markdown]
# Every forecast is too pessimistic, and three intervals miss. Noise, or does the loss fall faster at the upper rungs than the lower ones promise?

# %% tags=["active-ipynb", "hide-input"]
# size = {w: loss[1, w]["parameters"]["total"] for w in (*WIDTHS, TARGET)}
# slopes = {(a, b): [np.log(loss[s, a]["loss"] / loss[s, b]["loss"]) / np.log(size[b] / size[a]) for s in seeds] for a, b in zip([*WIDTHS], [*WIDTHS[1:], TARGET])}
# table(["from width", "to", "exponent, mean", "standard deviation over seeds"], [[a, b, f"{np.mean(x):.2f}", f"{np.std(x, ddof=1):.2f}"] for (a, b), x in slopes.items()])
# kink = paired(slopes[48, 56], slopes[40, 48])
# own = [float(laws.fit([size[w] for w in WIDTHS], [loss[s, w]["loss"] for w in WIDTHS])(size[TARGET])) for s in seeds]
# points = [size[w] for w in WIDTHS]
# true, rng = laws.fit(points, [np.mean([loss[s, w]["loss"] for s in seeds]) for w in WIDTHS], floor=0.0), np.random.default_rng(1)
# shift = np.array([np.log(laws.fit(points, true(points) * np.exp(all_noise * rng.standard_normal(len(points))))(size[TARGET]) / true(size[TARGET])) for _ in range(4000)])
# over = np.mean(shift > all_noise * rng.standard_normal(len(shift)))  # the forecast is above its target
# one_sided = over ** len(seeds) + (1 - over) ** len(seeds)
# bias = paired([np.log(x) for x in own], [np.log(end) for end in ends])
# noises = sorted(m["noise"] for m, _ in again)
# floors = ", ".join(f"{f['law']['floor']:.2f}" for f in made)
# sure_of = {True: "established", False: "not established"}
# say(f"From 48 to 56 the exponent is larger than from 40 to 48 by {kink} (95 %): {sure_of[kink.established]}. Forecasts from the own rungs alone, which are five independent throws, lie above their targets by {bias.mean:.1%} ± {bias.half:.1%}: {sure_of[bias.established]}. "
#     f"The two pairs of a ladder put the noise at {noises[0]:.1%} to {noises[-1]:.1%} of the loss; all rungs together at {all_noise:.1%}; the sixth model scatters by {laws.seed_noise([ends])[0]:.1%}. The fitted floors: {floors} nats. "
#     f"Drawn from a power law without a floor, with the rungs' noise, a forecast lies {shift.mean():.1%} above the truth on average, and all {len(seeds)} errors fall to one side once in {1 / one_sided:.0f} times.")
# assert min(errors) > 0 and inside == honest == 2 and known == 1  # what the paragraphs around this cell say
# assert bias.mean - bias.half > shift.mean() > 0 and bias.established and not kink.established and max(f["law"]["floor"] for f in made) < 0.005

# %% [markdown]
# More than noise, by the book's rule. A small part is the fit: a floor that may not go below zero lets noise push a forecast up further than down (the last sentence above). The rest is no noise: the loss falls faster beyond the ladder than
# the ladder's law, which can only flatten, and sets its floor to zero in every fit. Whether the text does this or one learning rate for all widths, no cell tells; nor where it begins.
#
# Seed 5's pairs happened to differ much, so it believed in a noise of 2.7 % and drew a bar a third of the loss wide, which holds; seed 3's, with 0.7 %, misses by most. With the noise of all rungs every bar has a
# sensible width, and four miss. Of five independent intervals that deserve their 90 %, so many miss in 0.05 % of cases. Each took the sixth loss to be as noisy as a rung, where it scattered twice as much, and all three doubts moved among laws of one form.
#
# This ladder took as many FLOPs as its target; a cheap one stays far below it.
#
# ```{admonition} Takeaway
# :class: takeaway
# Write the forecast down before the run, with every doubt that you can compute: seeds, rungs, form. Then compare, for the doubt that counts may be the one nobody computed. A curve drawn afterwards, through all six sizes, passes every sixth loss within 7 %; the forecasts missed by up to 16 %.
# ```
#
# ## What the ladder stood on
#
# Two things were settled before the first rung: text that does not run out, and the rate. What would repetition do? Take the third rung's $N$ and $D$ and shrink the town instead: every thirty-second document, every hundred-and-twenty-eighth. The
# held-out documents stay the same.

# %% tags=["active-ipynb", "hide-input"]
# passes = {}
# for row in runs("town-passes")["rows"]:
#     passes.setdefault(row["every"], []).append(row)
# table(["passes over the text", "training loss at the end", "held-out loss"],
#       [[f"{rows[0]['epochs']:.1f}", *(f"{np.mean([r[key] for r in rows]):.2f} ± {np.std([r[key] for r in rows], ddof=1):.2f}" for key in ("late_loss", "loss"))]
#        for rows in passes.values()])
# say(f"Mean and standard deviation over {len(passes[1])} seeds, nats per token; the training loss is a mean of four steps of four rows each. Below: differences seed by seed, ± half of their 95 % interval. Log: town-passes.json.")
# worse = {every: paired([r["loss"] for r in rows], [r["loss"] for r in passes[1]]) for every, rows in passes.items() if every > 1}
# sure = holm(worse)
# print(*(f"{passes[every][0]['epochs']:.1f} passes: held-out loss {gap}, {'worse' if sure[every] and gap.mean > 0 else 'not distinguished'}" for every, gap in worse.items()), sep="\n")

# %% [markdown]
# A little over two passes are not distinguished from fresh text. At nine, training looks *easier* than ever and the held-out loss is worse by a third of a nat or so: the model has learned the documents and
# not the town. A ladder on such text mixes size with repetition. Steel's 1.1 trillion tokens were about two passes over its corpus, no reason for regret: at scale, up to four cost almost nothing against fresh text, and only then the worth of further ones decays {cite:p}`datalimits2023`.
#
# And the rate? A ladder at one learning rate compares its models only if that rate is right for all of them.
#
# ```{admonition} Napkin
# :class: napkin
# AdamW moves every weight by about $\eta$, whatever the gradient. A row of $w$ weights whose moves agree with their inputs changes its output by up to $\eta w$: three
# times the width, three times the change. So the best $\eta$ should fall like $1/w$. *Maximal update parametrisation*, μP {cite:p}`mup2022`, is this
# observation worked out for every matrix: hidden matrices get $\eta/w$, embeddings keep $\eta$, and a rate found on a small model holds on a large one.
# Muon makes every singular value of the update roughly one {cite:p}`muon2024`. The output then changes by $\eta$ times the input, at any width: nothing to rescale, but for a factor $\sqrt{m/n}$ of tall matrices, of $m$ rows and $n$ columns (`steel/train/optim.py`).
# ```
#
# So AdamW's optimum should move to the left with the width, and Muon's should stay. Three widths, five rates, two optimizers, five seeds, 100 steps each, in the
# same town. Rates are factors on one pair of learning rates; with Muon the vocabulary is still AdamW's, and both rates move together.

# %% tags=["active-ipynb", "hide-input"]
# tries = runs("town-rates")["rows"]
# show(rates(tries), alt="Held-out loss over the learning rate at widths 24, 40 and 64, for AdamW and for Muon: dots for five seeds, lines through their means, the lowest mean of each ringed. From twice the pair on AdamW's dots lie far apart, Muon's close together.",
#      caption="Numbers at the lines: widths; dots: seeds, 100 steps of 1,024 tokens each; the pair is 0.006 for AdamW and 0.04 for Muon. Rings: the lowest mean of the five rates. Log: town-rates.json.")

# %% tags=["active-ipynb", "hide-input"]
# tried = {}
# for row in tries:
#     tried.setdefault((row["optimizer"], row["width"], row["rate"]), []).append(row["loss"])
# best = {key: min((np.mean(x), k[2]) for k, x in tried.items() if k[:2] == key)[1] for key in dict.fromkeys(k[:2] for k in tried)}
# gaps = {w: paired(*(tried[name, w, best[name, w]] for name in ("adamw", "muon"))) for w in (24, 40, 64)}
# told = holm(gaps)
# for width, gap in gaps.items():
#     ahead = "AdamW" if gap.mean < 0 else "Muon"
#     print(f"width {width}: AdamW minus Muon {gap} nats (95 %), {gap.seeds} seeds: {ahead + ' is better' if told[width] else 'not distinguished'}")
# steps = {"AdamW, width 64, once": paired(tried["adamw", 64, 1], tried["adamw", 64, 2]), "Muon, width 24, four times": paired(tried["muon", 24, 4], tried["muon", 24, 2])}
# for what, gap in steps.items():
#     print(f"{what} the pair, minus twice: {gap} nats: {sure_of[gap.established]}")
# spread = {name: [np.std(tried[name, w, 2], ddof=1) for w in (24, 40, 64)] for name in ("adamw", "muon")}
# print("standard deviation over seeds at twice the pair:", ", ".join(f"{name} {min(x):.2f} to {max(x):.2f} nats" for name, x in zip(("AdamW", "Muon"), spread.values())))
# assert best == {("adamw", 24): 2, ("adamw", 40): 2, ("adamw", 64): 1, ("muon", 24): 4, ("muon", 40): 2, ("muon", 64): 2}  # what the next paragraph says
# assert told[24] and told[64] and not told[40] and gaps[24].mean < 0 < gaps[64].mean and not any(gap.established for gap in steps.values()) and min(spread["adamw"]) > max(spread["muon"])

# %% [markdown]
# AdamW's ring moves to the left with the width, as it should, and Muon's too, which should stay, one step each. Neither step is established: five seeds at factors of two do not test μP. What they show is scatter. At twice the pair some of AdamW's seeds go astray; Muon's stay together. Each at its best rate, AdamW wins at width 24 and Muon at width 64, both established by the book's rule. But 100 steps are 3.7 tokens per parameter at width 24 and 0.7 at width 64, so size or shortness may have turned the order. Whoever compares optimizers in one corner alone may pick the wrong one for another.
#
# So the ladder took Muon, at twice the pair. Two doubts stay. Its steps have half as many tokens as those of the tries, and the best rate moves with the batch. And one rate for all widths may be a small lie at both ends.
#
# ## Steel, on the same curve
#
# Chinchilla's law separates the two things that a ladder at one ratio keeps together: $L(N, D) = E + A N^{-\alpha} + B D^{-\beta}$. ($A$ and $\alpha$ are not those of our fit, in which the text grows with the model.) Its constants were
# published {cite:p}`hoffmann2022`, and published again by others who read the points off a figure of the paper and fitted them with more care
# {cite:p}`chinchilla_refit2024`. Put Steel in both, which were fitted on 5 to 500 billion tokens, and Steel read more than twice the upper end.

# %% tags=["active-ipynb"]
# steel = load("steel-1b")
# N = count_parameters(steel.model)["total"]
# D = 1.0 * steel.train.steps * steel.train.batch_size * steel.data.sequence_length
# done = flops_per_token(steel.model, steel.data.sequence_length).total * D
# print(f"6ND is {6 * N * D:.2e} FLOPs; Steel executed {done:.2e}, {done / (6 * N * D):.0%} of them")
# for name, law in (("2022", laws.CHINCHILLA), ("refit", laws.CHINCHILLA_REFIT)):
#     n, d = law.optimum(6 * N * D)
#     above = law(N, D) - law(n, d)
#     print(f"{name:6} best shape for 6ND {n / 1e9:.1f} B parameters, {d / 1e9:.0f} B tokens "
#           f"({d / n:.0f} each); N on D lies {above:.3f} nats above it")
#     n, d, share = laws.same_loss(law, N, D)
#     served = (1 - share) * 6 * N * D / (2 * (n - N))  # an answer costs 2N FLOPs a token
#     print(f"{'':6} N's loss for {share:.0%} of 6ND: {n / 1e9:.1f} B parameters, {d / 1e9:.0f} B "
#           f"tokens; the FLOPs saved are spent after {served / 1e12:.2f} T tokens of answers")

# %% tags=["active-ipynb", "hide-input"]
# show(valleys(N, D), alt="Predicted loss over parameters for two published fits at 6ND FLOPs, with their minima at 4.5 and 7.8 billion parameters and Steel at 1.1 billion above both; dashed, the same curves at the "
#      "compute whose minimum has the same loss: 55 and 29 per cent of it.",
#      caption="One budget, 6ND, many shapes. Rings: the optimum of each fit; orange: Steel's N on its D. Dashed: the smaller budget whose best shape has the same loss. The law is of English text with another tokenizer; differences mean more than levels.")
# best_shape, executed = ([law.optimum(budget)[0] / 1e9 for law in (laws.CHINCHILLA, laws.CHINCHILLA_REFIT)] for budget in (6 * N * D, done))
# answer("1.3", f"**{best_shape[0]:.1f} billion** by the constants of 2022, **{best_shape[1]:.1f} billion** by the newer fit of the same data; Steel has {N / 1e9:.1f}. The FLOPs that Steel executed would have bought {executed[0]:.1f} and {executed[1]:.1f}.", best_shape[1], low=best_shape[0], high=best_shape[1], unit="billion parameters")

# %% [markdown]
# The valley looks flat, and in nats it is: by these fits a dense model of Steel's size and text lies five to eight hundredths above the bottom. In FLOPs it is not. The best-shaped model would have had the same loss for 55 % of 6ND by one fit and for 29 % by the other:
# the shape costs a factor of two to three and a half. Steel itself executed only 51 % of 6ND: looking up an embedding is no product, and its experts hardly meet a token (chapter 01). Even if they count as full parameters, the first fit finds nothing left to save.
#
# The two fits of the *same data* disagree about the bottom by a factor of 1.7 in parameters and three in tokens per parameter, 61 against 21; the paper's other two methods, and the famous rule of 20 tokens, agree with the
# second.
#
# And whoever trains for use does not want the bottom of the valley. A smaller model on more tokens is paid once in training and saves in every
# answer {cite:p}`sardana2024`, in memory too: 1.1 billion parameters fit on a phone. About 1,000 tokens per parameter is far out on that side, in TinyLlama's spirit
# {cite:p}`tinyllama2024`: in FLOPs earned back only after most of a trillion tokens of answers (the cell's last numbers), in memory at once.
#
# ```{admonition} Which N?
# :class: napkin
# 1,000 tokens per parameter if every parameter counts. Per parameter outside the vocabulary it is 1,940. And per weight that meets a
# token, 2,227. No published law that we know of was fitted to such a model. A ladder of one's own family counts right by construction.
# ```
#
# ## At full scale
#
# One command, with the preset's widths; killed, it goes on with the same command:
#
# ```text
# python -m figures.experiments.ladder --preset gpu1 --data shards --out runs/ladder
# ```
#
# The shards need a validation split (`steel pack --hold-out 0.02`) and, at preset `gpu1`, 2.2 billion training tokens, or the target repeats its text. The planner gives ladder and target about two hours of one H800, at a utilisation that narrow models do not reach.
#
# What would a ladder for Steel cost? For the book's own preset, by the planner of [chapter 01](01_cost_plan.ipynb):

# %% tags=["active-ipynb", "hide-input"]
# big = load("steel-1b-causal")
# whole = flops_per_token(big.model, 2048).total * D
# ours = D / count_parameters(big.model)["active_per_token"]
# costs = []
# for widths in (ladder.default_widths(big.model), [256, 384, 512, 640]):
#     for ratio in (20, ours):
#         steps = [ladder.rung(big, w, ratio) for w in widths]
#         cost = sum(ladder.work(big, one) for one in steps + steps[:2])
#         eight = days(cost, "H800", 8, gpu("H800").mfu)
#         costs.append([f"{widths[0]} to {widths[-1]}", f"{ratio:,.0f}", f"{cost / whole:.1%}", f"{24 * 8 * eight:,.0f}", f"{eight:.1f} days" if eight > 1 else f"{24 * eight:.1f} hours"])
# table(["widths", "tokens per parameter", "share of the run", "H800 hours", "on eight of them"], costs)

# %% [markdown]
# The larger ratio is Steel's own, per weight that meets a token; the book's preset has more of those than the original. These hours, too, are a lower bound. A ladder at 20 tokens per parameter costs less than one per cent of Steel's run; a *recipe*, rates, layers, data, takes one for every candidate. The *loss* of a
# model that reads a hundred times more is another question: at Steel's ratio the wide ladder costs seven tenths of the run, the narrow one a seventh. Or one gives the rungs several ratios (`--others 10,40`) and fits $L(N, D)$ to their rows (`laws.fit_surface`).
#
# Real text is the other test: a ladder on Chinese web text, questions and answers, code, and the poems of three dynasties, which are three quarters of its tokens: 2,048 entries of vocabulary, three layers, four tokens per parameter, a few hundredths of a pass at most. Four widths forecast a fifth.

# %% tags=["active-ipynb", "hide-input"]
# real = runs("ladder")
# real_forecast, real_end = real["forecast"]["by"]["total"], real["result"]
# show(real_text(real["rows"], real_forecast), alt="Held-out loss on real text over parameters on logarithmic axes: widths 24 to 48 at four tokens per parameter with their law, width 24 at eight tokens per parameter below them, "
#      "and width 64, measured a little below the law and inside both intervals.",
#      caption="Dots: rungs, two seeds at the two smallest widths. Line: the law; dashed: the law without a floor. Orange: the target, one seed. Bars: the interval from seeds and that of all doubts. One core, shared with other work. Log: ladder.json.")
# word = {True: "held", False: "missed"}
# say(f"The forecast, in the log since before its target: **{real_forecast['loss']:.3f}**; seeds {real_forecast['low']:.3f} to {real_forecast['high']:.3f} (noise {real_forecast['noise']:.2%}, "
#     f"{real_forecast['freedom']} degrees of freedom), all doubts {real_forecast['honest'][0]:.3f} to {real_forecast['honest'][1]:.3f}. Measured: **{real_end['loss']:.3f}**, an error of {real_end['by']['total']['error']:+.1%}; "
#     f"seeds {word[real_end['by']['total']['held']]} it, all doubts {word[real_end['by']['total']['held_honest']]} it.")
#
#
# def of(width, ratio):
#     """Losses on real text at a width and a number of tokens per parameter, one a seed."""
#     return [r["loss"] for r in real["rows"] if r["width"] == width and abs(r["tokens"] / r["parameters"]["total"] / ratio - 1) < 0.02]
#
#
# by_data, by_size = of(24, 4)[0] - of(24, 8)[0], of(24, 8)[0] - of(40, 4)[0]
# half = quantile(0.975, real_forecast["freedom"]) * real_forecast["noise"] * of(24, 8)[0] * 6**0.5  # of a - 2b + c
# assert abs(by_data - by_size) < half
# say(f"Width 24 gains {by_data:.2f} nats from twice the tokens, and from there {by_size:.2f} more from twice the parameters (width 40) at the same tokens. The one is larger by {by_data - by_size:.2f} ± {half:.2f} (95 %, noise from two pairs): not established. "
#     f"At nearly equal FLOPs, width 24 with twice the tokens ({of(24, 8)[0]:.2f}) and width 32 ({of(32, 4)[0]:.2f} and {of(32, 4)[1]:.2f}) are not distinguished.")

# %% [markdown]
# So this log does not say on which side of the valley its rungs stand. A ladder's ratio is a choice, and belongs to the question.
#
# ## Failure gallery
#
# ```{admonition} The rung that changed its optimizer
# :class: failure
# An earlier version of this project gave Muon only the matrices whose sides were both longer than 16. A rung of width 16 would have trained with AdamW throughout, at Muon's companion rate, and no log would have said so. Now a layer's role says who trains it, and its size does not.
# ```

# %%
from steel.model import build
from steel.train.optim import build_optimizers

def trained_by(width):
    """Number of tensors that each optimizer trains in a narrow model, and that Muon had by the old rule."""
    narrow = dataclasses.replace(load("cpu").model, head_dim=8)
    model = build(ladder.model_at(narrow, width), device="meta")
    made = build_optimizers(model, load("cpu").train)
    now = {type(o).__name__: sum(len(g["params"]) for g in o.param_groups) for o in made}
    return now, sum(p.ndim >= 2 and ".layers." in name and min(p.shape[-2:]) > 16
                    for name, p in model.named_parameters())

for width in (16, 24):
    print(f"width {width}: now {trained_by(width)[0]}, by the old rule Muon {trained_by(width)[1]}")
assert trained_by(16)[0] == trained_by(24)[0] and trained_by(16)[1] == 0 < trained_by(24)[1]

# %% [markdown]
# ```{admonition} An interval that knows only the fit
# :class: failure
# A fit routine prints an interval, and it is small, because it knows nothing of seeds, of rates that were right for the small models only, or of another formula. It happens to the best: those
# published for Chinchilla's constants were so narrow that they would have taken more than 600,000 runs, where there were fewer than 500, and the optimizer that fitted them had stopped before it converged {cite:p}`chinchilla_refit2024`.
# The interval that a plan needs is as wide as the misses of earlier forecasts. Keep a list of them.
# ```
#
# ## Exercises
#
# **12.1 Recall.** Why must each rung have a schedule of its own, and why does equal tokens per parameter leave $L(N, D)$ unidentified?
#
# ```{dropdown} Answer 12.1
# A loss in the middle of a schedule lies above what the same tokens give with the rate brought down, so it belongs to no finished model. With $D = rN$ in every rung the two terms $N^{-\alpha}$ and $D^{-\beta}$ rise and fall
# together; with like exponents any split of the loss above $E$ between them fits alike. Only rungs with other ratios can separate them.
# ```
#
# **12.2 Calculate.** A ladder has rungs at 1/16, 1/8, 1/4 and 1/2 of the target's parameters, at the target's tokens per parameter. What share of the target's FLOPs does it cost? And without the largest rung?
#
# ```{dropdown} Answer 12.2
# Work goes with the square: 1/256 + 1/64 + 1/16 + 1/4, or 33 %. Without the largest it is 8 %, and the forecast has to reach twice as far. The largest rung is three quarters of the price.
# ```
#
# **12.3 Code.** Write `optimum(flops, E, A, B, alpha, beta)`: the pair $(N, D)$ with the lowest $L(N, D)$ among those with $6ND$ equal to `flops`.

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def optimum(flops, E, A, B, alpha, beta):
#     # d/dN of A N^-alpha + B (C/6N)^-beta is zero where alpha A N^-alpha = beta B D^-beta
#     product = flops / 6
#     best_N = (alpha * A / (beta * B) * product**beta) ** (1 / (alpha + beta))
#     return best_N, product / best_N
#
# check("12.3", optimum)

# %% [markdown]
# **12.4 Break it.** Take the logged ladder of seed 1. Leave the first rung out, then the first two, then the last, then the last two, and forecast again. Which error is largest, and could you have told beforehand?

# %% tags=["active-ipynb", "hide-cell"]
# def error_without(left, seed):
#     kept = [r for r in ladders[seed] if r["width"] not in left]
#     law = laws.fit([r["parameters"]["total"] for r in kept], [r["loss"] for r in kept])
#     there = loss[seed, TARGET]
#     return 100 * float(law(there["parameters"]["total"]) / there["loss"] - 1)
#
# lefts = [(24,), (24, 32), (56,), (48, 56)]
# left_out = np.array([[error_without(left, seed) for seed in seeds] for left in lefts])
# for left, errors in zip(lefts, left_out):
#     print(f"without {str(left):9} {errors[0]:+5.1f} %; over {len(seeds)} seeds {errors.min():+.1f} to {errors.max():+.1f} %")
# assert np.allclose(left_out[:, 0], [0.82, -2.52, 7.13, 8.05], atol=0.06)

# %% [markdown]
# ```{dropdown} Answer 12.4
# The largest, for seed 1, is without the last two: eight per cent where the whole ladder missed by two. Without the first one or two it stays below three. Over five seeds the ranges overlap, and leaving out the last two reaches furthest. What one knows beforehand is the reach: the target lies 1.6
# times beyond the last rung, and 2.0 or 2.8 times when one or two are gone.
# ```
#
# **12.5 Open, 20 GPU hours.** On one GPU, with preset `gpu1` and real shards, choose widths, ratio and seeds for a forecast of the preset's own model within the time, target included. Write forecast and interval into a file with a
# date, and only then start the target. Decide beforehand what you do if it falls outside: distrust the rate, the data or the law?
#
# ```{dropdown} One answer to 12.5
# By the planner a ladder with its target takes a tenth of the time; measure the first rung before you believe it. Spend the rest on seeds: three of every rung, and a second target. If the target falls outside, begin with the suspect that costs least: did it repeat its text (`epochs` in its row of `ladder.json`)? Then train the last rung at half and at twice
# the rate. The law comes last. Whatever happens, the miss goes onto the list.
# ```
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
# **Which doubts belong into a forecast's interval?** Noise between seeds, each rung left out, the form of the law. And a word about the learning rate. With all three, ours held two targets of five.
# ```
#
# ```{admonition} Card
# :class: card
# **What does the flat valley hide?** By two fits five to eight hundredths of a nat are a factor of two to three and a half of compute. Ask what the same loss would have cost.
# ```
#
# ```{admonition} Card
# :class: card
# **What does compute-optimal leave out?** Everything after training. Who serves a model wants it smaller and longer trained than the law says.
# ```

# %% tags=["active-ipynb", "hide-input", "timing"]
# badge()

# %% tags=["within-1"]
if __name__ == "__main__":
    tokens = town.shards(cfg, RUN)
    done = ladder.run_ladder(cfg, tokens, RUN / "ladder", widths=WIDTHS, target=TARGET,
                             tokens_per_parameter=RATIO, repeats=REPEATS)
    print(ladder.render(done))
