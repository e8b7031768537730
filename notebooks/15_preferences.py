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
# Fine-tuning shows a model what to say. It never shows what not to say: a wrong answer gets less likely only because another one takes its place. The stage after it works with *pairs*, two answers to one prompt, of which somebody prefers one. Steel trained on 68,021 of them, four fifths Chinese, and its C-Eval score went from 41.90 to 42.04 {cite:p}`steel2025`. On 1,346 questions that is two answers.
#
# Two answers are nothing. Was it the method, the pairs, or the exam? We cannot train a model of a billion parameters to find out. We can make pairs in two ways, on models that fit on this page and on three whole lives, and look at everything that moves.

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
# ```{admonition} Predict
# :class: predict
# A life of our small model ([chapter 14](14_sft.ipynb) met it) has written pairs: about each person of its town a right sentence, against a wrong fact, an answer in the other language, or one that rambles. After fine-tuning, 48 steps of DPO on 768 of them. Judged are 608 pairs of the same making, about people whom no pair mentions.
#
# 1. In how many per cent of these is the right answer the likelier one *before* DPO?
# 2. By how many nats does the rejected answer's log-probability change (with its sign)?
# 3. An exam about the same people is written freely. By how many points of 100 does its score change?
# ```
#
# ## Rank, then learn
#
# Say that an answer $y$ to a prompt has a worth $r(y)$, and that people prefer the better one with a probability that grows with the difference. That is the model of Bradley and Terry {cite:p}`bradleyterry1952`:
#
# $$P(\text{chosen} \succ \text{rejected}) = \sigma(r_\text{chosen} - r_\text{rejected}), \qquad \sigma(x) = 1/(1 + e^{-x})$$
#
# Put a number on top of a language model, train it with $-\log \sigma$ of the difference, and you have a *reward model*. It is the third stage that build_MiniLLM_from_scratch plans, and once it was the only way {cite:p}`ouyang2022`: a policy is then driven towards high rewards by reinforcement learning, on a leash of $\beta$ times its divergence from where it began.
#
# The leash makes a detour superfluous. The best policy on it is known in closed form, $\pi \propto \pi_0\, e^{r/\beta}$. Solve for the reward, and it is the model itself that keeps the score:
#
# $$r(y) = \beta \log \frac{\pi(y)}{\pi_0(y)} + \text{something that both answers share}$$
#
# Put this into Bradley and Terry's formula, the shared part drops out, and what is left is *direct preference optimisation* {cite:p}`rafailov2023`. With $m$, the *margin*, for the difference of the two log-ratios:
#
# $$\mathcal{L} = -\log \sigma(\beta m), \qquad \frac{\partial \mathcal L}{\partial m} = -\beta\, \sigma(-\beta m)$$

# %%
margins = torch.tensor([-20.0, 0.0, 10.0, 46.0], requires_grad=True)
losses = preference_loss(margins, beta=0.1)
losses.sum().backward()
for m, loss, slope in zip(margins, losses, margins.grad):
    print(f"margin {m:5.0f} nats: loss {loss:.2f}, "
          f"weight {-slope / 0.1:.2f}")

# %% tags=["active-ipynb", "hide-input"]
# show(draw_15.weights(0.1), alt="Left: the loss falls from 4 at a margin of minus 40 nats towards 0. Right: the weight of a pair falls from nearly 1 through one half at margin 0 to nearly 0 at 60 nats.",
#      caption="Loss of a pair and the weight with which it pulls, β = 0.1. Every pair begins at margin 0, with half of its weight, whether the model had it right or not.")

# %% [markdown]
# Look at the middle of the right panel. The margin compares the model with its own past. So a pair that the model had right from the start, by fifty nats, weighs as much in the first step as one that it had wrong. DPO does not ask what you know. It asks what has changed.
#
# ```{admonition} Napkin
# :class: napkin
# The reference never moves. Keep it as a second model, and Steel needs another 2.2 GB in bf16, and a forward pass of it for every pair in every epoch. Or read all pairs once, before the first step, and keep two numbers each: for 68,021 pairs, half a megabyte.
# ```
#
# ## A base that guesses
#
# Now a model that can be understood. It reads sixteen random bits and says their *parity*, 1 if the number of ones is odd. A quarter of the answers that it has read are *worked*: the sixteen running parities, then the end. The others say the last one at once, which is beyond a small network, so they amount to a coin. (The setting is from {cite:t}`parityrl2025`; chapter 16 makes it its subject.)

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
# It can do the task, and by default it does not. Whoever wants to change that with pairs has to decide where they come from. *Written* pairs show the worked answer beside a copy that somebody has spoilt, in one of three ways. *Own* pairs take what the model itself says: eight draws for each prompt, the first right one against the first wrong one.

# %% tags=["active-ipynb"]
# own, own_held = parity_dpo.both("own", model, seed=1)
# sign = {parity_rl.ZERO: "0", parity_rl.ZERO + 1: "1", parity_rl.END: "."}
# said = lambda ids, start: "".join(sign[i] for i in ids[start:])
# for how in parity_dpo.SPOILT:
#     pair = parity_dpo.written(how, 1, 1, 7)[0]
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
# found = {}
# for kind, (learn, held) in {"a wrong bit": parity_dpo.both("a wrong bit", model, 1),
#                             "own": (own, own_held)}.items():
#     then = parity_dpo.logprobs(model, held)
#     with contextlib.redirect_stderr(io.StringIO()):
#         after, steps = parity_dpo.prefer(cfg, base, RUN / kind.replace(" ", "-"), learn)
#     found[kind] = {"before": parity_dpo.judged(model, held),
#                    "after": parity_dpo.judged(after, held, then), "steps": steps}

# %% tags=["active-ipynb", "hide-input", "within-0.5"]
# toy = json.loads((ROOT / "figures" / "runs" / "parity-dpo.json").read_text())["rows"]
#
# def seeds(kind, when, what):
#     """A number over the seeds of the log."""
#     return [row[when][what] for row in toy if row["kind"] == kind]
#
# wrong_bit, mine = found["a wrong bit"], found["own"]
# answer("2.1", f"**{wrong_bit['before']['pairs']:.0%}**.", 100 * wrong_bit["before"]["pairs"], unit="%")
# low, high = (100 * f(seeds("own", "before", "pairs")) for f in (min, max))
# answer("2.2", f"**{mine['before']['pairs']:.0%}**. A right answer is often a worked one, and a worked answer is less likely than a guess.", 100 * mine["before"]["pairs"], low=low, high=high, unit="%")
# low, high = (100 * f(seeds("own", "after", "greedy_accuracy")) for f in (min, max))
# answer("2.3", f"**{mine['after']['greedy_accuracy']:.0%}**, after {before['greedy_accuracy']:.0%}.", 100 * mine["after"]["greedy_accuracy"], low=low, high=high, unit="%")
# assert wrong_bit["before"]["pairs"] > 0.98 and mine["before"]["pairs"] < 0.5 and mine["after"]["greedy_accuracy"] > 0.85

# %% [markdown]
# Sixteen steps, two CPU seconds. Why does it work? Both answers of an own pair begin where the model stands. They part at the first token or at the second, where it has to decide between ending and going on. That branch is all that the pair speaks about, and all that is missing.
#
# A written pair parts where somebody spoilt it. With a wrong bit that is somewhere inside the chain, of which the model was sure. Its gradient is not small for that: the rejected answer loses nats, step after step, at a place where it had none to gain. Here are the three ways to spoil, and own pairs, under three seeds:

# %% tags=["active-ipynb", "hide-input"]
# kinds = [*parity_dpo.SPOILT, "own"]
# rows = [(k, seeds(k, "after", "chosen_moved"), seeds(k, "after", "rejected_moved"), [100 * x for x in seeds(k, "after", "greedy_accuracy")]) for k in kinds]
# show(draw_15.moved_and_gained(rows, "likeliest answers right (%)", "figures/runs/parity-dpo.json, three seeds", (45, 103)),
#      alt="Four kinds of pairs. Left: with written pairs the rejected answers fall by 3 to 20 nats and more and the chosen ones stay; with own pairs both fall. Right: with own pairs all seeds are at 100 per cent; with written ones they lie anywhere between 50 and 100.",
#      caption="Held-out pairs of each kind, and what became of the task. Small marks: seeds. Every base begins at 52 %.")
# chains = {k: seeds(k, "after", "chain") for k in kinds}
# worst = min(kinds, key=lambda k: min(chains[k]))
# say(f"All written pairs were right before, in every seed: {min(min(seeds(k, 'before', 'pairs')) for k in parity_dpo.SPOILT):.0%} at least. The chain itself, each bit given those before it, was whole in {min(min(seeds(k, 'before', 'chain')) for k in kinds):.0%} of the cases; after pairs of the kind “{worst}” one seed is left with {min(chains[worst]):.0%}.")
# assert min(seeds("own", "after", "greedy_accuracy")) > 0.95
# spread = {k: max(seeds(k, "after", "greedy_accuracy")) - min(seeds(k, "after", "greedy_accuracy")) for k in kinds}
# assert all(spread[k] > 0.05 > spread["own"] for k in parity_dpo.SPOILT)

# %% [markdown]
# Written pairs did change the task. Some solved it, some left it alone, and which did what differed from seed to seed: the branch lies near its threshold, weights are shared, and whatever pushes at the end of an answer also jogs its beginning. The same pushing broke chains that had been whole. Nothing in the margin, the accuracy on pairs or the loss tells these seeds apart.
#
# And mind the two lines of the own pairs. *Both* answers became less likely, the rejected one more so. People file this as a bug now and then. It is what the loss asks for: a difference. Where the rest of the mass goes, it does not say.
#
# ```{admonition} Takeaway
# :class: takeaway
# A pair teaches where its two answers part. Take both from the model, and they part where it decides.
# ```
#
# ## Three lives
#
# The town's pairs are closer to what one buys. A right sentence, and one that a person (or a larger model) can tell is worse. Three lives with seeds of their own, DPO from each kind of pairs, with and without a second term: the *NLL*, the chosen answer's loss, which many recipes add so that it cannot fall {cite:p}`pang2024`.

# %% tags=["active-ipynb", "hide-input"]
# town = json.loads((ROOT / "figures" / "runs" / "preferences.json").read_text())["rows"]
# lives = sorted({row["seed"] for row in town})
# of = {(row["seed"], row["arm"]): row for row in town}
# arms = {"written": "written", "written, NLL": "written, with NLL", "own": "own", "own, NLL": "own, with NLL"}
#
# def each(arm, *path):
#     """A number of an arm, life by life."""
#     values = [of[seed, arm] for seed in lives]
#     for key in path:
#         values = [value[key] for value in values]
#     return values
#
# gain = {arm: [100 * (a - b) for a, b in zip(each(arm, "exam", "generate"), each("SFT", "exam", "generate"))] for arm in arms}
# mean = lambda values: sum(values) / len(values)
# show(draw_15.moved_and_gained([(name, each(arm, "written", "chosen_moved"), each(arm, "written", "rejected_moved"), gain[arm]) for arm, name in arms.items()],
#                               "exam, written freely: change (points)", "figures/runs/preferences.json, three lives", zero=True),
#      alt="Four recipes. Left: on held-out written pairs the rejected answers fall by seven nats with written pairs and hardly move with own ones. Right: the exam gains about one point with written pairs and about five with own ones.",
#      caption="Left: held-out written pairs. Right: the exam about held-out people, 380 questions a life. Small marks: lives.")

# %% tags=["active-ipynb", "hide-input"]
# from figures.experiments.verdicts import paired
#
# share = [100 * x for x in each("SFT", "written", "accuracy")]
# fall = each("written", "written", "rejected_moved")
# answer("1.1", f"In **{mean(share):.1f} %**. There was nothing to learn from them.", mean(share), low=min(share), high=max(share), unit="%")
# answer("1.2", f"By **{mean(fall):.1f} nats** in the mean. The chosen one hardly moves: {abs(mean(each('written', 'written', 'chosen_moved'))):.1f}.", mean(fall), low=min(fall), high=max(fall), unit="nats")
# answer("1.3", f"By **{mean(gain['written']):+.1f} points**. Own pairs, made by the same model and worth fewer steps, bring {mean(gain['own']):+.1f}.", mean(gain["written"]), low=min(gain["written"]), high=max(gain["written"]), unit="points")
# better = paired(gain["own"], gain["written"])
# say(f"Own minus written: {better.mean:+.1f} ± {better.half:.1f} points over three lives (95 %, paired); that is {'established' if better.established else 'not established with three seeds, though all three agree in sign' if min(a - b for a, b in zip(gain['own'], gain['written'])) > 0 else 'not established'}. "
#     f"The own pairs are the harder ones: {mean([100 * x for x in each('SFT', 'own', 'accuracy')]):.0f} % of the held-out ones are right before DPO, {mean([100 * x for x in each('own', 'own', 'accuracy')]):.0f} % after it, and on them written pairs move next to nothing.")
# assert min(share) > 97 and max(fall) < -5 and mean(gain["own"]) > mean(gain["written"]) + 1.5

# %% [markdown]
# What falls with the loss, in short, is a rejected answer that nobody would have given. It becomes still less likely, the margin grows, and the score stays where it was.
#
# The NLL term does its duty, and the chosen answers rise by two nats and more where pairs are written. It does not repair what is missing. With own pairs it changes nothing that these three lives could show. Use it where the chosen answer falls *and* you want that very answer said.
#
# That is no proof about Steel's 68,021 pairs. They were answers of other models, ranked by a larger one, and how many of them its chat model had right already was not counted. It would be the first thing to count.
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
# assert all(mean(each(f"reward model, {k}", "pays", "own")) + 0.1 < mean(each("SFT", "own", "accuracy")) for k in kinds_of)

# %% [markdown]
# At this size it is worse than no training at all. The language model's own probability ranks its answers better than a head that saw several hundred comparisons and had to find out anew what a fact is. A head learns what is common to the pairs: the length, the language, the air of rambling; on pairs of the other kind it is near a coin or below. This is the place where reward models are *gamed*, and the reason why the next stage asks for rewards that a program can verify. Large reward models are better than ours. They are read in the same way: accuracy on pairs of *another* making, not on a tenth of the same.
#
# ## At full scale
#
# This chapter's script is `steel dpo`, with the same words; without a model it makes the toy's base and shows what its own pairs do.
#
# ```text
# steel sample -m runs/chat/hf -d prompts.jsonl --out samples grpo.group_size=8
# steel dpo -m runs/chat/hf -d samples/preference.jsonl -r runs/dpo dpo.beta=0.1 dpo.learning_rate=5e-7
# steel dpo -m runs/chat/hf -d pairs.jsonl -r runs/dpo dpo.nll_weight=1 dpo.length_normalised=true dpo.label_smoothing=0.1
# steel reward -m runs/chat/hf -d pairs.jsonl -r runs/reward
# ```
#
# `steel sample` answers every prompt several times, judges, and writes three files: pairs, the right answers as dialogues, and the prompts that were solved *sometimes*, from which reinforcement learning learns. `sft.jsonl` among them is the cheapest of the three to use (*rejection sampling*) and the baseline that pairs should beat.
#
# A pair costs two forward passes and two backward ones, of prompt and answer. Steel's three epochs over 68,021 pairs are, if a pair is two times 500 tokens, 204 million tokens: a five-thousandth of its pretraining. Sampling costs more than learning: eight answers a prompt, token by token. Watch four lines while it runs, not one: `logprob_chosen`, `logprob_rejected`, `margin`, `accuracy`, all in the log.
#
# ## Failure gallery
#
# ```{admonition} Right before it began
# :class: failure
# Our own, for months. The life's DPO learnt from written pairs, its loss fell, and a README said what a good stage it was. Nobody had asked for the accuracy *before* the first step. **Here:** the reference is read first anyway; count how many pairs it has right.
# ```
#
# ```{admonition} The chosen answer sinks
# :class: failure
# Two answers that differ in little share almost all of their tokens, and what lowers one lowers the other. In the toy's own pairs both fall. **Here:** both log-probabilities are logged, and there is a switch (`nll_weight`); whether you need it is a question to the exam.
# ```
#
# ```{admonition} Longer is worth more
# :class: failure
# A sum over tokens grows with their number. In the toy a rambling answer lost more nats than a wrong bit, and taught less. If the chosen answers of your pairs are longer than the rejected ones, length is the easiest thing to learn. **Here:** `dpo.length_normalised`, and the lengths of both sides in the report of your own data: look.
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
# σ(−βm) = 0.01 at βm = ln 99 = 4.6: a margin of 46 nats, or of 9.2 with β = 0.5. A larger β lets go of a pair sooner, so the model stays nearer to where it began. (Its pull at margin 0 is larger as well, since the gradient has β as a factor.)
# ```
#
# **15.3 Code.** Write `dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta, smoothing)`: the mean over pairs, from summed log-probabilities. `smoothing` is the share of pairs that you suspect to be labelled the wrong way round.

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
# assert probed["greedy_accuracy"] < 0.65 and probed["drawn_long"] < before["drawn_long"] + 0.05

# %% [markdown]
# ```{dropdown} Answer 15.4
# Worked answers become rarer, and the likeliest answers stay guesses: half of them are right. To be wrong on purpose the model would have to know the parity at once, which is what it cannot do.
# ```
#
# **15.5 Open, an hour of two cores.** Are own pairs better because they are *own*, or because they are *hard*? Take the own pairs of life 1 to train life 2's model (the towns differ, so make both lives with one world and two seeds of training), or filter written pairs by the margin that the reference gives them. Say beforehand which of the two you expect to lift the exam, and how many lives you need: the standard error of one exam is two points.
#
# ```{dropdown} Answer 15.5
# We have not run it. The toy's argument says: a pair is worth what its branch is worth to *this* model, so a hard pair of another model should help where both decide alike, and otherwise not.
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
# **What to count before the first step?** In how many pairs the chosen answer is already the likelier one.
# ```
#
# ```{admonition} Card
# :class: card
# **What does a pair teach?** Where its two answers part.
# ```
#
# ```{admonition} Card
# :class: card
# **Both log-probabilities fall. A bug?** No: the loss asks for a difference. Look at the exam.
# ```
#
# ```{admonition} Card
# :class: card
# **What does a reference model cost?** Two numbers a pair, if it is read once.
# ```

# %% tags=["active-ipynb", "timing"]
# badge()

# %% [markdown]
# The program's last cell: `steel dpo` with the words of its command line; without `--model` it shows the toy.

# %% tags=["timing"]
if __name__ == "__main__":
    words = [] if "ipykernel" in sys.modules else sys.argv[1:]
    if {"--model", "-m", "--help"} & set(words):
        command_line(["dpo", *words])
    elif not (RUN / "own" / "hf").is_dir():
        toy_cfg = parity_dpo.config(seed=1)
        start, _ = open_model(parity_rl.imitate(toy_cfg, parity_dpo.SHARE, RUN / "base"), device="cpu")
        learn, held = parity_dpo.both("own", start, 1)
        end, _ = parity_dpo.prefer(toy_cfg, RUN / "base" / "hf", RUN / "own", learn)
        print(*(f"{parity_rl.probe(m)['greedy_accuracy']:.0%} right" for m in (start, end)), sep=" -> ")
