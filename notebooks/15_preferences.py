# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 15 · What a pair teaches
#
# Fine-tuning shows a model what to say. It never shows what not to say: a wrong answer gets less likely only because another one takes its place. The stage after it works with *pairs*, two answers to one prompt, of which somebody prefers one. Steel trained on 68,021 of them, four fifths Chinese, and its C-Eval score went from 41.90 to 42.04 {cite:p}`steel2025`. On 1,346 questions that is about two answers.
#
# Was it the method, the pairs, or the exam? We make pairs in two ways, on a toy and on our small model, raised three times from its first token (three *lives*), and look at what moves.

# %% tags=["hide-input"]
import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import torch

from figures.experiments import parity_dpo, parity_rl
from steel.align.dpo import preference_loss
from steel.cli import main as command_line
from steel.model.folder import open_model

torch.set_num_threads(1)
RUN = Path("runs/15_preferences")

# %% tags=["active-ipynb", "hide-input"]
# from figures import draw_15, facts
# from figures.claims import ROOT
# from figures.style import answer, badge, say, show, table
#
# shutil.rmtree(RUN, ignore_errors=True)
# show(draw_15.pair_way(), alt="A prompt leads to a chosen and a rejected answer. For each the log-probability of the learning model minus that of the frozen one is taken; their difference is the margin m, and the loss is minus log sigmoid of beta times m.",
#      caption="The way of a pair through DPO. π is the model that learns, π₀ the same model before the first step.")

# %% [markdown]
# ## Rank, then learn
#
# Say that an answer $y$ to a prompt has a worth $r(y)$, and that people prefer the better one with a probability that grows with the difference. That is the model of Bradley and Terry {cite:p}`bradleyterry1952`:
#
# $$P(\text{chosen} \succ \text{rejected}) = \sigma(r_\text{chosen} - r_\text{rejected}), \qquad \sigma(x) = 1/(1 + e^{-x})$$
#
# Put a number on top of a language model, train it with $-\log \sigma$ of the difference, and you have a *reward model*. It is the third stage that build_MiniLLM_from_scratch plans, and it was InstructGPT's way {cite:p}`ouyang2022`: the model, now called a *policy* $\pi$, is driven towards high rewards by reinforcement learning, and held back. It pays $\beta$ times its divergence from its start $\pi_0$, the mean of $\log(\pi/\pi_0)$ over its own answers.
#
# That price makes a detour superfluous. The policy that earns most after paying it is known in closed form, $\pi \propto \pi_0\, e^{r/\beta}$: every answer keeps its old probability times $e^{r/\beta}$, divided by a sum $Z$, one number for the prompt. Solve for the reward, and the model itself keeps the score:
#
# $$r(y) = \beta \log \frac{\pi(y)}{\pi_0(y)} + \beta \log Z$$
#
# Put this into Bradley and Terry's formula, and $Z$ drops out. What is left is *direct preference optimisation* {cite:p}`rafailov2023`. With $m$, the *margin*, for the difference of the two log-ratios:
#
# $$\mathcal{L} = -\log \sigma(\beta m), \qquad \frac{\partial \mathcal L}{\partial m} = -\beta\, \sigma(-\beta m)$$

# %%
margins = torch.tensor([-20.0, 0.0, 10.0, 20.0], requires_grad=True)
losses = preference_loss(margins, beta=0.1)
losses.sum().backward()
for m, loss, slope in zip(margins, losses, margins.grad):
    print(f"margin {m:5.0f} nats: loss {loss:.2f}, "
          f"weight {-slope / 0.1:.2f}")

# %% [markdown]
# $\sigma(-\beta m)$, between 0 and 1, is the pair's *weight*: how hard it still pulls. The margin compares the model with its own past, so every pair begins at margin 0, with a weight of one half. A pair that the model had right from the start, by fifty nats, weighs as much in the first step as one that it had wrong. DPO does not ask what you know. It asks what has changed.
#
# ```{admonition} Napkin
# :class: napkin
# The reference never moves. Keep it as a second model, and Steel needs another 2.2 GB in bf16 and its forward pass for every pair in every epoch. Or read all pairs once, before the first step, and keep two numbers each: for 68,021 pairs, half a megabyte.
# ```
#
# ## A base that guesses
#
# Now a model that can be understood. It reads sixteen random bits and says their *parity*, 1 if the number of ones is odd. A quarter of the answers that it has read are *worked*: the sixteen running parities, then the end. The others say the last one at once, which this network does not learn, so they amount to a coin. (The setting is from {cite:t}`parityrl2025`; it is chapter 16's subject.)

# %% tags=["active-ipynb"]
# cfg = parity_dpo.config(seed=1)
# with contextlib.redirect_stderr(io.StringIO()):
#     base = parity_rl.imitate(cfg, parity_dpo.SHARE, RUN / "base")
# model, _ = open_model(base, device="cpu")
# before = parity_rl.probe(model)

# %% tags=["active-ipynb", "hide-input", "within-0.3"]
# say(f"Its likeliest answers are right in **{before['greedy_accuracy']:.0%}** of {parity_rl.PROBES} cases. Drawn at random, {before['drawn_long']:.0%} of them are worked, and of those {before['drawn_long_right']:.0%} are right.")
# assert before["greedy_accuracy"] < 0.6 and before["drawn_long_right"] > 0.8 and before["chain"] > 0.9

# %% [markdown]
# It can do the task, and by default it does not. Pairs could change that; where from? *Written* pairs show the worked answer beside a copy that somebody has spoilt, in one of three ways. *Own* pairs take what the model itself says: eight draws for each prompt, the first right one against the first wrong one. (Printed first: the bits of the three written pairs, whose running parities are the chosen answer. The own pair answers others.)

# %% tags=["active-ipynb"]
# own, own_held = parity_dpo.both("own", model, seed=1)
# sign = {parity_rl.ZERO: "0", parity_rl.ZERO + 1: "1", parity_rl.END: "."}
# said = lambda ids, start: "".join(sign[i] for i in ids[start:])
# examples = {how: parity_dpo.written(how, 7, 1, 7)[6]
#             for how in parity_dpo.SPOILT}
# bits = parity_rl.inputs(7, 1, 7)[6]
# print(f"{'bits':14}", "".join(map(str, bits)))
# for how, pair in (examples | {"own": own[0]}).items():
#     print(f"{how:14}", said(*pair.chosen), "before", said(*pair.rejected))

# %% [markdown]
# ```{admonition} Predict
# :class: predict
# From the same base, one pass over 512 pairs of each kind: sixteen steps of DPO.
#
# 1. Which share of the written pairs with a wrong bit, in per cent, does the base have right before it begins?
# 2. And of its own pairs?
# 3. After sixteen steps on its own pairs, how many per cent of its likeliest answers are right?
# ```

# %% tags=["active-ipynb"]
# _, written_held = parity_dpo.both("a wrong bit", model, seed=1)
# wrong_bit = parity_dpo.judged(model, written_held)
# mine = {"before": parity_dpo.judged(model, own_held)}
# then = parity_dpo.logprobs(model, own_held)
# with contextlib.redirect_stderr(io.StringIO()):
#     after, _ = parity_dpo.prefer(cfg, base, RUN / "own", own)
# mine["after"] = parity_dpo.judged(after, own_held, then)

# %% tags=["active-ipynb", "hide-input", "within-0.5"]
# toy = json.loads((ROOT / "figures" / "runs" / "parity-dpo.json").read_text())["rows"]
#
# def seeds(kind, when, what):
#     """A number over the seeds of the log."""
#     return [row[when][what] for row in toy if row["kind"] == kind]
#
# answer("1.1", f"**{wrong_bit['pairs']:.0%}**.", 100 * wrong_bit["pairs"], unit="%")
# low, high = (100 * f(seeds("own", "before", "pairs")) for f in (min, max))
# answer("1.2", f"**{mine['before']['pairs']:.0%}**. A worked answer is less likely than a guess, and between two guesses it is a coin.", 100 * mine["before"]["pairs"], low=low, high=high, unit="%")
# low, high = (100 * f(seeds("own", "after", "greedy_accuracy")) for f in (min, max))
# answer("1.3", f"**{mine['after']['greedy_accuracy']:.0%}**, after {before['greedy_accuracy']:.0%}. Drawn at random, {mine['after']['drawn_accuracy']:.0%} are right, after {before['drawn_accuracy']:.0%}.", 100 * mine["after"]["greedy_accuracy"], low=low, high=high, unit="%")
# assert wrong_bit["pairs"] > 0.98 and mine["before"]["pairs"] < 0.5 and mine["after"]["greedy_accuracy"] > 0.85

# %% [markdown]
# Sixteen steps. Why does it work? Look at where pairs part:

# %% tags=["active-ipynb", "hide-input", "within-0.5"]
# from steel.align.dpo import pair_rows
# from steel.align.logprobs import score_answers
#
# guess = lambda side: len(side[0]) - side[1] == 2
# by_luck = [pair for pair in own if guess(pair.chosen) and guess(pair.rejected)]
# others = [pair for pair in own if not (guess(pair.chosen) and guess(pair.rejected))]
# examples["own: worked\nagainst a guess"] = next(p for p in others if guess(p.rejected) and said(*p.chosen)[0] == said(*p.rejected)[0])
# examples["own: two guesses"] = by_luck[0]
# forks = []
# for how, pair in examples.items():
#     chosen, rejected = said(*pair.chosen), said(*pair.rejected)
#     at = next(i for i, (a, b) in enumerate(zip(chosen, rejected)) if a != b)
#     with torch.no_grad():
#         there = score_answers(model, pair_rows([pair], [0])).logprob[:, at].exp().tolist()
#     forks.append((how, chosen, rejected, *there))
# show(draw_15.parting(forks), alt="Five pairs as rows of tokens. With a wrong bit, an early stop or a rambling end both answers share a long beginning, and at the fork the base gives the chosen side 1.00 and the rejected one 0.00. An own pair of a worked answer and a guess parts at the second token, between going on and ending, with chances of the same order; two guesses part at their first token, likewise.",
#      caption="What both answers share cancels in the margin (grey). Filled: the first token that differs; the number is its probability under the base.")
# ends = {}
# for name, some in {"luck": by_luck, "others": others}.items():
#     with contextlib.redirect_stderr(io.StringIO()):
#         end, taken = parity_dpo.prefer(cfg, base, RUN / name, some)
#     ends[name] = (parity_rl.probe(end)["greedy_accuracy"], len(taken))
# say(f"Of the {len(own)} own pairs {len(by_luck)} set one guess against another. One pass over these alone, and {ends['luck'][0]:.0%} of the likeliest answers are right; over the other {len(others)} alone, {ends['others'][0]:.0%}, after {ends['others'][1]} steps.")
# assert ends["luck"][0] < 0.65 and ends["others"][0] > 0.85
# assert all(f[3] > 0.9 > 0.1 > f[4] for f in forks[:3]) and all(min(f[3:]) > 0.1 for f in forks[3:])

# %% [markdown]
# (Seed 1.) A lucky guess and an unlucky one part in the parity itself, which this network does not learn. In nearly all others a worked answer stands against a guess, and they part at the first token or at the second, where the model decides between ending and going on. Nothing else was missing.
#
# Mind what was counted, though: *likeliest* answers. Of the drawn ones 60 to 73 % are right afterwards, under five seeds, after 58 to 61: more are worked. In seed 1, this page's, nearly all are, and then 61 % of the worked ones are right, after 97: the working suffered, and the likeliest answers do not show it.
#
# A written pair parts where somebody spoilt it, mostly where the model was sure. Its weight is one half all the same, so the rejected answer loses nats where it had none to give. All four kinds, under five seeds:

# %% tags=["active-ipynb", "hide-input"]
# kinds = [*parity_dpo.SPOILT, "own"]
# rows = [(k, seeds(k, "after", "chosen_moved"), seeds(k, "after", "rejected_moved"), [100 * x for x in seeds(k, "after", "greedy_accuracy")]) for k in kinds]
# show(draw_15.moved_and_gained(rows, "likeliest answers right (%)", "figures/runs/parity-dpo.json, five seeds", (45, 103)),
#      alt=draw_15.said(rows, "likeliest answers right", "%"),
#      caption="Each kind on held-out pairs of its own, and what became of the task. Small marks: seeds. Every base begins at 52 %.")
# chains = {k: seeds(k, "after", "chain") for k in kinds}
# worst = min(kinds, key=lambda k: min(chains[k]))
# say(f"The chain itself, the likeliest bit after those before it, was whole in {min(min(seeds(k, 'before', 'chain')) for k in kinds):.0%} of the cases; after pairs of the kind “{worst}” one seed is left with {min(chains[worst]):.0%}.")
# assert all(min(seeds(k, when, "pairs")) == 1 for k in parity_dpo.SPOILT for when in ("before", "after"))
# assert min(seeds("own", "after", "greedy_accuracy")) > 0.95
# spread = {k: max(seeds(k, "after", "greedy_accuracy")) - min(seeds(k, "after", "greedy_accuracy")) for k in kinds}
# assert all(spread[k] > 0.05 > spread["own"] for k in parity_dpo.SPOILT)

# %% [markdown]
# Written pairs moved many nats, and the task by luck: a wrong bit ends between 52 and 85 %, stopping halfway between 52 and 66, rambling between 52 and 64. (The base stands just below the threshold at which its likeliest answer changes; on another processor a wrong bit ended between 52 and 59.) In three of fifteen runs chains broke that had been whole. The accuracy on pairs, 100 % before and after in every seed, tells none of this.
#
# With own pairs the rejected answer lost 0.3 to 0.6 nats in four of five seeds, and the chosen one none. Half a nat at the right place does what ten elsewhere do not. In seed 1 *both* became less likely, by 4.0 and 7.7 nats. The loss asks for a difference, not for a rise.
#
# ```{admonition} Takeaway
# :class: takeaway
# A pair pulls from the token on where its two answers part; what else it moves, it does not choose. Take both from the model, and some part where it decides.
# ```
#
# ## Three lives
#
# ```{admonition} Predict
# :class: predict
# A life of our small model ([chapter 14](14_sft.ipynb) met it) has written pairs: about each person of one half of its town a right sentence, against a wrong fact, an answer in the other language, or one that rambles. After fine-tuning, 48 steps of DPO on 768 of them. Judged are 608 pairs of the same making, about people whom no pair mentions.
#
# 1. In how many per cent of these is the right answer, summed over its tokens, the likelier one *before* DPO?
# 2. By how many nats does the rejected answer's log-probability change (with its sign)?
# 3. An exam with four options about the same people is answered in words. By how many points of 100 does its score change?
# 4. And when the model is instead fine-tuned further, two passes at four times the rate, on the right answers among its own alone?
# ```
#
# The town's written pairs are closer to what one buys: an open question, a right sentence, and one that a person (or a larger model) can tell is worse. Its own pairs answer questions with options, as they stand in the exam, so the two kinds differ in more than who wrote them. In three lives, DPO from each kind, with and without a second term: the *NLL*, the negative log-likelihood of the chosen answer, a token, which recipes add to hold its probability up {cite:p}`pang2024`. One pass over written pairs is 48 steps, over own ones 29 to 37. “Harder” is two passes at four times the rate, both at once. And a control, for on answers of ten tokens the NLL pulls twice as hard as the pair: switch the pair off, by a β of a millionth. That is fine-tuning on right answers, nothing else.

# %% tags=["active-ipynb", "hide-input"]
# town = json.loads((ROOT / "figures" / "runs" / "preferences.json").read_text())["rows"]
# lives = sorted({row["seed"] for row in town})
# of = {(row["seed"], row["arm"]): row for row in town}
# arms = {"written": "written", "written, NLL": "written, with NLL", "written, harder, NLL": "written, harder, with NLL",
#         "own": "own", "own, NLL": "own, with NLL", "own, harder": "own, harder", "own, harder, NLL": "own, harder, with NLL",
#         "own, NLL alone": "own right answers, NLL alone"}
#
# def each(arm, *path):
#     """A number of an arm, life by life."""
#     values = [of[seed, arm] for seed in lives]
#     for key in path:
#         values = [value[key] for value in values]
#     return values
#
# def points(arm, what="generate"):
#     """The exam's score of an arm, life by life (%)."""
#     return [100 * x for x in each(arm, "exam", what)]
#
# gain = {arm: [a - b for a, b in zip(points(arm), points("SFT"))] for arm in arms}
# mean = lambda values: sum(values) / len(values)
# own_kind = lambda arm: arm.split(",")[0]
# rows = [(name, each(arm, own_kind(arm), "chosen_moved"), each(arm, own_kind(arm), "rejected_moved"), gain[arm]) for arm, name in arms.items()]
# show(draw_15.moved_and_gained(rows, "option said: change (points)", "figures/runs/preferences.json, three lives", zero=True),
#      alt=draw_15.said(rows, "option said changes by", "points"),
#      caption="Left: held-out pairs of the arm's own kind. Right: the exam about held-out people, 380 questions a life. Small marks: lives.")

# %% tags=["active-ipynb", "hide-input"]
# from figures.experiments.verdicts import holm, paired
# from figures.lives import signed
#
# against = lambda arm, other: paired(points(arm), points(other))
# share = [100 * x for x in each("SFT", "written", "accuracy")]
# fall = each("written", "written", "rejected_moved")
# alone = gain["own, NLL alone"]
# answer("2.1", f"In **{mean(share):.0f} %**. There was little to learn from them.", mean(share), low=min(share), high=max(share), unit="%")
# answer("2.2", f"By **{signed(mean(fall))} nats** in the mean. The chosen one hardly moves: {abs(mean(each('written', 'written', 'chosen_moved'))):.1f}.", mean(fall), low=min(fall), high=max(fall), unit="nats")
# answer("2.3", f"By **{signed(mean(gain['written']))} points**. Own pairs, in fewer steps, bring {mean(gain['own']):+.1f} ± {against('own', 'SFT').half:.0f}.", mean(gain["written"]), low=min(gain["written"]), high=max(gain["written"]), unit="points")
# answer("2.4", f"By **{mean(alone):+.1f} points**. Own pairs, as hard, bring {mean(gain['own, harder']):+.1f}; both together {mean(gain['own, harder, NLL']):+.1f}.", mean(alone), low=min(alone), high=max(alone), unit="points")
# signs = lambda v: " · ".join(map(signed, v))
# bold = lambda p: f"**{signed(p.mean)} ± {p.half:.1f}**" if p.established else f"{signed(p.mean)} ± {p.half:.1f}"
# table(["option said, points", "three lives", "mean ± 95 %", "chosen moved, nats", "names no option, %"],
#       [["after fine-tuning", " · ".join(f"{x:.1f}" for x in points("SFT")), "", "", signs(points("SFT", "unparsed")).replace("+", "")]]
#       + [[name, signs(gain[arm]), bold(against(arm, "SFT")), signs(each(arm, own_kind(arm), "chosen_moved")), signs(points(arm, "unparsed")).replace("+", "")] for arm, name in arms.items()])
# table(["held against each other", "points"],
#       [[f"{arms[a]} − {arms[b]}", bold(against(a, b))] for a, b in (("own", "written"), ("own, harder, NLL", "own, harder"), ("own, harder, NLL", "own, NLL"), ("own, harder, NLL", "own, NLL alone"))])
# named = [100 * a / (100 - b) for arm in ("SFT", *arms) for a, b in zip(points(arm), points(arm, "unparsed"))]
# say(f"Read the last column first. Of the replies that name an option {min(named):.0f} to {max(named):.0f} % are right, in every row and life. So the score counts how often an option is named at all, and that is what moves.")
# asked = {(arm, "SFT") for arm in arms} | {("own", "written"), *(("own, harder, NLL", other) for other in ("own, harder", "own, NLL", "own, NLL alone"))}
# assert len(asked) == 12 and not any(holm({pair: against(*pair) for pair in asked}).values())
# assert min(share) > 97 and max(fall) < -5 and min(named) > 97

# %% [markdown]
# The loss of written pairs falls because the rejected answer does, and that the model would hardly have given anyway. The score moves by one to four questions of 380. Harder and with the NLL, their chosen answers rise by 4.2 to 5.3 nats, and in every life the exam loses. Their prompts are open questions, without a list; of ten replies of life 1 that we read, half name a fact of another kind, a subject where a home town was asked.
#
# Own pairs bring something in every life, harder ones more. (Bold: zero lies outside the interval, each taken alone. Of twelve asked at once none would be established: read signs, life by life.) Harder and without the NLL both answers of held-out own pairs sink, the chosen one by 0.2 to 0.3 nats; with it the chosen one stays. The exam hardly sees the difference.
#
# Now the control. Fine-tuning on the model's own right answers, without a pair, brings +8.7, +11.6 and +5.8 points; with the wrong ones set against them it is +8.9, +15.3 and +7.9. What the pair adds is of one sign in three lives and not established. Nor is what the NLL adds to pairs: +5.0, +1.8 and +0.8. Either alone brings three quarters or more of what both bring, so neither can claim the gain. But who has a checker can have most of it without a pair.
#
# Preset `laptop` keeps pair and NLL, as chosen on an earlier life; its replay ([chapter 14](14_sft.ipynb)) was chosen on these three with this score in view, so they confirm neither. On a fourth, on which nothing was chosen, the stage brings +9.2 points (its own standard error is 1.9).

# %% tags=["active-ipynb", "hide-input"]
# same_stage = [r for r in json.loads((ROOT / "figures" / "runs" / "life-seeds.json").read_text())["rows"] if r["stage"] in ("sft", "dpo")]
# talk = {stage: [60 * r["conversation"] for r in same_stage if r["stage"] == stage] for stage in ("sft", "dpo")}
# lost = paired(talk["dpo"], talk["sft"])
# say(f"What it costs: of a stranger's sixty messages the stage answers {' · '.join(f'{x:.0f}' for x in talk['dpo'])} rightly, after {' · '.join(f'{x:.0f}' for x in talk['sft'])} ({signed(lost.mean)} ± {lost.half:.1f}, {'established' if lost.established else 'not established'}).")

# %% [markdown]
# That is no proof about Steel's 68,021 pairs. They were answers of other models, ranked by a larger one; how many its chat model had right already is not reported. Count that first.
#
# ## The judge apart
#
# Is a reward model any better? From the same start, on the same two kinds of pairs, one number on top:

# %% tags=["active-ipynb", "hide-input"]
# kinds_of = ("written", "own")
# table(["right on held-out pairs (%), mean of three lives", *kinds_of],
#       [[f"reward model of {k} pairs", *(f"{mean([100 * x for x in each(f'reward model, {k}', 'pays', j)]):.0f}" for j in kinds_of)] for k in kinds_of]
#       + [["likelier answer, after SFT", *(f"{mean([100 * x for x in each('SFT', j, 'accuracy')]):.0f}" for j in kinds_of)],
#          ["likelier answer, after DPO on own pairs", *(f"{mean([100 * x for x in each('own', j, 'accuracy')]):.0f}" for j in kinds_of)]])
# known = mean([100 * of[s, f"reward model, {k}"]["pays"][k] for s in lives for k in ("written",)])
# cross = [(k, j, 100 * x) for k, j in (("written", "own"), ("own", "written")) for x in each(f"reward model, {k}", "pays", j)]
# say(f"With the preset's one setting it is worse than the model that it started from. Half of the written pairs hold a wrong fact. Who knows all the others and tosses a coin for these is right in 75 %; the judge of written pairs has {known:.0f}: length, language and the air of rambling would do. On pairs of the other kind it is right in {mean([x for k, _, x in cross if k == 'written']):.0f} and {mean([x for k, _, x in cross if k == 'own']):.0f} %, {min(x for *_, x in cross):.0f} to {max(x for *_, x in cross):.0f} over lives: a coin has 50.")
# assert all(mean(each(f"reward model, {k}", "pays", "own")) + 0.1 < mean(each("SFT", "own", "accuracy")) for k in kinds_of)

# %% [markdown]
# A policy is paid by such a judge for how pairs were made; the next stage therefore asks for rewards that a program can verify. Judge a larger reward model in the same way: by pairs of *another* making.
#
# ## At full scale
#
# This chapter's script, `python notebooks/15_preferences.py`, takes the words of `steel dpo`; without a model it makes the toy's base and shows what its own pairs do.
#
# ```text
# steel sample -p steel-1b-dense -m runs/chat/hf -d prompts.jsonl -r runs/own
# steel dpo -p steel-1b-dense -m runs/chat/hf -d runs/own/preference.jsonl \
#     -r runs/dpo dpo.nll_weight=1
# steel sft -p steel-1b-dense -m runs/chat/hf -d runs/own/sft.jsonl -r runs/right
# steel dpo -p steel-1b-dense -m runs/chat/hf -d pairs.jsonl \
#     -r runs/bought dpo.nll_weight=1 dpo.label_smoothing=0.1
# steel reward -p steel-1b-dense -m runs/chat/hf -d pairs.jsonl -r runs/reward
# ```
#
# `steel sample` needs prompts with an `answer` that a program can check. It answers each several times, judges, and writes three files: `preference.jsonl`, `sft.jsonl` with the right answers as dialogues, and `rl.jsonl` with the prompts that were solved *sometimes*, from which reinforcement learning learns. `sft.jsonl` is the cheapest to use (*rejection sampling*, the third command), and pairs have to beat it: in the three lives they did not beyond doubt.
#
# The NLL's weight is per token: 1 holds an answer of ten tokens firmly (twice the pair's first pull) and one of five hundred hardly (a twenty-fifth). With `dpo.length_normalised=true`, a margin in nats a token, β has to grow by some tens: at 0.1 the pairs hardly pull, and an NLL beside them does all the work. The reward model's settings at this size are DPO's, untried.
#
# Steel's three epochs over 68,021 pairs are, if a pair is two times 500 tokens, 204 million tokens: a five-thousandth of its pretraining. Before the first step, read `right_before` in the log's header: the share of pairs whose chosen answer is the likelier one already. Then watch four lines, not one: `logprob_chosen`, `logprob_rejected`, `margin` (β times m) and `accuracy` (the share of pairs with m above 0).
#
# ## Failure gallery
#
# ```{admonition} Right before it began
# :class: failure
# Our own: the life's DPO learnt from written pairs, its loss fell, and nobody had asked how many were right *before*. **Here:** `right_before` in the log's header.
# ```
#
# ```{admonition} An accuracy of rounding errors
# :class: failure
# The first line of life 1's log, on pairs of a kind of which 99.7 % were right: accuracy 0.3125. Every m is 0 there, give or take the last digit. **Here:** never read `accuracy` as what the model had right.
# ```
#
# ```{admonition} Longer is worth more
# :class: failure
# A sum over tokens grows with their number. In the toy a rambling answer lost more nats than a wrong bit, and taught no more. If the two sides of your pairs differ in length, the loss can live on that alone. **Here:** `dpo.length_normalised`, with a β some tens of times as large. Count both lengths yourself: our log does not.
# ```
#
# ## Exercises
#
# **15.1 Recall.** Why is the loss of every pair ln 2 in the first step, even of a pair whose right answer is a million times likelier than the other?
#
# ```{dropdown} Answer 15.1
# The margin compares each answer with what the frozen model gives it. Before the first step both models are the same, so both log-ratios are 0, the margin is 0, and −log σ(0) = ln 2.
# ```
#
# **15.2 Calculate.** β is 0.1. At which margin has a pair a hundredth of its greatest weight? And with β = 0.5? What does a larger β therefore do to a pair that has been learnt?

# %% tags=["hide-cell"]
import math

at = {beta: math.log(99) / beta for beta in (0.1, 0.5)}
assert all(abs(1 / (1 + math.exp(beta * m)) - 0.01) < 1e-12 for beta, m in at.items())
print({beta: f"{m:.1f} nats" for beta, m in at.items()})

# %% [markdown]
# ```{dropdown} Answer 15.2
# σ(−βm) = 0.01 at βm = ln 99 = 4.6: a margin of 46 nats, or of 9.2 with β = 0.5. A larger β lets go of a pair sooner, so the model stays nearer to where it began. (At margin 0 it pulls harder, since the gradient has β as a factor.)
# ```
#
# **15.3 Code.** Write `dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta, smoothing)`: the mean over pairs, from summed log-probabilities. `smoothing` is the share of pairs that you suspect to be labelled the wrong way round: that much of the loss comes from the pair turned round.

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta, smoothing):
#     margin = (chosen - reference_chosen) - (rejected - reference_rejected)
#     right = torch.nn.functional.logsigmoid(beta * margin)
#     wrong = torch.nn.functional.logsigmoid(-beta * margin)
#     return -((1 - smoothing) * right + smoothing * wrong).mean()
#
# check("15.3", dpo_loss)

# %% [markdown]
# **15.4 Break it.** Turn the toy's own pairs round, so that the wrong answer is the chosen one, and train as before. What do you expect of the likeliest answers, which are right half of the time? Why can they not become much worse than that?

# %% tags=["active-ipynb", "hide-cell"]
# turned = [pair._replace(chosen=pair.rejected, rejected=pair.chosen) for pair in own]
# with contextlib.redirect_stderr(io.StringIO()):
#     worse, _ = parity_dpo.prefer(cfg, base, RUN / "turned", turned)
# probed = parity_rl.probe(worse)
# print(f"worked: {before['drawn_long']:.0%} -> {probed['drawn_long']:.0%} of the drawn answers")
# print(f"right: {before['greedy_accuracy']:.0%} -> {probed['greedy_accuracy']:.0%} of the likeliest")
# assert 0.35 < probed["greedy_accuracy"] < 0.65 and probed["drawn_long"] < before["drawn_long"]

# %% [markdown]
# ```{dropdown} Answer 15.4
# Worked answers become rarer, and the likeliest answers stay guesses: half of them are right. To be wrong on purpose the model would have to know the parity at once, which it does not, or to work it out and turn it round; and hardly a wrong answer in its pairs is worked.
# ```
#
# **15.5 Open, an hour of two cores.** Are own pairs better because they are *own*, because they are *hard*, or because their prompts are the exam's? Life 1 once more with `train.steps=800` is another model of the same town: train it on the first one's own pairs, or filter written pairs by the reference's margin. Say beforehand which you expect to lift the exam, and how many lives you need: between two models that sat one exam the standard error was one to two points.
#
# ```{dropdown} Answer 15.5
# We have not run it. The toy's argument says: a hard pair of another model should help where both decide alike, and otherwise not.
# ```
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What does DPO's margin measure?** The change of both log-probabilities since the frozen start, chosen minus rejected. Not who is likelier.
# ```
#
# ```{admonition} Card
# :class: card
# **What to count before the first step?** In how many pairs the chosen answer is already the likelier one: `right_before` in the log's header.
# ```
#
# ```{admonition} Card
# :class: card
# **Where does a pair pull?** From the token on where its two answers part. What else moves, look.
# ```
#
# ```{admonition} Card
# :class: card
# **Both log-probabilities fall. A bug?** Not by itself: the loss asks for a difference. Look at the exam.
# ```
#
# ```{admonition} Card
# :class: card
# **What do pairs have to beat?** Fine-tuning on the chosen answers alone, for as many steps.
# ```

# %% tags=["active-ipynb", "timing"]
# badge()

# %% [markdown]
# The program's last cell: `steel dpo` with the words of its command line; without `--model` it shows the toy.

# %% tags=["timing"]
if __name__ == "__main__":
    words = [] if "ipykernel" in sys.modules else sys.argv[1:]
    if {"--model", "-m", "--help"} & {word.split("=")[0] for word in words}:
        command_line(["dpo", *words])
    elif "ipykernel" not in sys.modules:
        shutil.rmtree(RUN, ignore_errors=True)
        toy_cfg = parity_dpo.config(seed=1)
        start, _ = open_model(parity_rl.imitate(toy_cfg, parity_dpo.SHARE, RUN / "base"), device="cpu")
        learn, held = parity_dpo.both("own", start, 1)
        end, _ = parity_dpo.prefer(toy_cfg, RUN / "base" / "hf", RUN / "own", learn)
        print(*(f"{parity_rl.probe(m)['greedy_accuracy']:.0%} right" for m in (start, end)), sep=" -> ")
