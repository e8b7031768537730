# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 16 · Pay for what can be checked
#
# Until now the model has imitated. Somebody wrote a text, an answer, or a better answer, and the loss asked for more of the same. There is another way to teach: let the model answer as it likes, let a program say which answers are right, and make those likelier. Nobody writes the answer; a program checks it.
#
# Steel's author tried this on Chinese multiple choice, with GRPO {cite:p}`grpo2024`, and on Qwen2.5-1.5B instead of his own model {cite:p}`steelreadme2025`. What such training adds is hard to see in a large model. So we take a task that one can hold in one's head, and a model of 108,224 parameters that trains in seconds.
#
# The task is parity: sixteen bits, then `=`, and the answer says whether the number of ones is odd. It can be said at once, in one token, or *worked out*: sixteen tokens, each the parity of the bits so far, the last of which is the answer. Working it out is easy, one step of memory a token. Saying it at once asks for all sixteen bits together, and in 150 steps our model did not learn it. The experiment is that of Tsilivis and colleagues {cite:p}`parityrl2025`, made small.

# %% tags=["hide-input"]
import math
import shutil
import sys
from pathlib import Path

import torch

from figures.experiments import parity_rl as parity
from figures.experiments.prompt_reading import first_letter
from steel.align import grpo
from steel.align.verify import verify
from steel.cli import main as command_line
from steel.model.folder import open_model

torch.set_num_threads(1)
RUN = Path("runs") / "16_grpo"
bits = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0])
worked = "".join(str(int(b)) for b in bits.cumsum(0) % 2)


# %% tags=["active-ipynb", "hide-input"]
# from figures import draw_16
# from figures.claims import log
# from figures.lives import WAYS, each, moved, signed
# from figures.style import answer, badge, say, show, table
#
# shutil.rmtree(RUN, ignore_errors=True)
# said = ["0", "1", worked, "0", "1", "0", worked, "1"]
# right = int(worked[-1])
# paid = torch.tensor([[float(int(s[-1]) == right) for s in said]])
# pushed = grpo.advantages(paid)[0].tolist()
# rows = log("parity-rl")
# first = {bit: sum(a for text, a in zip(said, pushed) if text[0] == bit) for bit in "01"}
# show(draw_16.one_step("".join(map(str, bits.tolist())) + "=", said, paid[0].tolist(), pushed),
#      alt=f"One prompt of sixteen bits leads to eight drawn answers, some of one bit and two of sixteen bits. Each gets reward 1 or 0 for its last bit; five are right. The advantage of the right ones is positive, and all their tokens are pushed up; that of the wrong ones is negative, and theirs are pushed down. Added up, the first token 0 is pushed by {signed(first['0'], 2)}, the first token 1 by {signed(first['1'], 2)}.",
#      caption="One step of GRPO on one prompt; the group is constructed. Where answers share a token the pushes add up: the first 1 of both worked answers, which are right, is pushed down by the three wrong guesses that begin alike.")
# assert first["1"] < 0 < first["0"] and worked[0] == "1" and pushed[said.index(worked)] > 0

# %% [markdown]
# ```{admonition} Predict
# :class: predict
# The model is trained by imitation on answers of both kinds; a share $p$ of them is worked out, the rest say the right bit at once, which to the model is a guess. Then GRPO: 32 prompts a step, eight answers each, 1 for a right last bit. Nothing is paid for working it out.
#
# 1. With $p$ = 0.1, 0.25 and 0.4, we ask the model after imitation for its likeliest answer. From which share $p$ on is that the worked one? A number.
# 2. At $p$ = 0.25, after how many steps of GRPO are nine in ten of the likeliest answers right?
# 3. A base that has never seen a worked answer gets GRPO, too. How many of its groups hold right *and* wrong answers, so that there is something to learn from (%)?
# 4. Back to $p$ = 0.25. Now answers cost: every token beyond a guess's two takes $\lambda/16$ off the reward. From which $\lambda$ on does the model stop working things out?
# ```
#
# ## Napkin: what imitation prefers
#
# Imitation matches frequencies. At the first token there is nothing to choose: a worked answer begins with the first running parity, which is 0 or 1; a guess is 0 or 1, too. Say that the first bit is 1, and so is the token. A worked answer has come this far with mass $p$. A guess says 1 half of the time, since the model cannot compute the parity: $(1-p)/2$. After that it ends. The likeliest answer goes on if
#
# $$ p > \frac{1-p}{2}, \qquad \text{that is} \qquad p > \tfrac{1}{3}. $$
#
# Below a third (the paper, too, reports a threshold near it) a model that holds the whole ability will, asked for its best guess, guess. Drawn at temperature 1 it shows what it holds: a share $p$ of its answers is worked out.

# %% tags=["active-ipynb", "hide-input"]
# first = [r["curve"][0] for r in rows if r["variant"] == "GRPO" and r["layers"] == 2 and r["share"] == 0.25]
# enough = [r["curve"][0] for r in rows if r["variant"] == "GRPO" and r["layers"] == 2 and r["share"] == 0.4]
# show(draw_16.napkin((0.1, 0.25, 0.4)),
#      alt="A tree. After sixteen bits and the sign the first token is the first bit, with mass p plus (1 - p)/2, or the other one, with (1 - p)/2. After the first bit the answer ends with (1 - p)/2 or goes on with p. For p = 0.1 and 0.25 the end has more, for p = 0.4 going on has.",
#      caption="What a perfect imitation holds after its first token. The likeliest answer takes the larger mass.")
# answer("1.1", f"From **one third** on, by the napkin; the log has it between 0.25 and 0.4. At p = 0.25 the likeliest answer is worked out in {100 * max(c['greedy_long'] for c in first):.0f} % of the cases, under each of three seeds, and {100 * min(c['greedy_accuracy'] for c in first):.0f} % are right; at p = 0.4 {100 * min(c['greedy_accuracy'] for c in enough):.0f} % are.", 1 / 3, unit="share")

# %% [markdown]
# ## Build: eight answers and their mean
#
# GRPO needs no second model that judges half an answer. It draws a group of $G$ answers to one prompt and compares each with the others; $r_i$ is the reward of answer $i$:
#
# $$ A_i = \frac{r_i - \operatorname{mean}(r)}{\operatorname{std}(r)}. $$

# %%
def advantages(rewards):
    mean = sum(rewards) / len(rewards)
    squares = sum((r - mean) ** 2 for r in rewards)
    std = math.sqrt(squares / (len(rewards) - 1))
    return [(r - mean) / (std + 1e-4) for r in rewards]

group = [1, 0, 1, 1, 0, 1, 1, 0]
mine = torch.tensor(advantages(group))
theirs = grpo.advantages(torch.tensor([group]).float())[0]
assert torch.allclose(mine, theirs)
print([f"{a:+.2f}" for a in mine.tolist()])
print("all right:", advantages([1] * 8)[:3], "…")

# %% [markdown]
# The last line is the first thing to watch on a dashboard. A group whose rewards are all equal has no advantage to share out. It costs its samples and teaches nothing; `steel grpo` leaves it out and counts it, as `zero_variance`. A base that solves everything, or nothing, has only such groups.
#
# Each token of an answer then gets its answer's advantage, through the ratio $\rho$ of its probability now and when it was drawn:

# %%
ratio = torch.tensor([0.5, 0.8, 1.0, 1.2, 1.5])
for A in (1.0, -1.0):
    now = ratio.log().requires_grad_()
    loss, _ = grpo.policy_loss(now, torch.zeros(5),
                               torch.tensor(A), 0.2, 0.2)
    loss.sum().backward()
    pull = [0.0 if g == 0 else round(-g, 1) for g in now.grad.tolist()]
    print(f"advantage {A:+.0f}: pull on its log-probability", pull)

# %% [markdown]
# Columns are ratios from 0.5 to 1.5. A good token that is already more than 1.2 times as likely is left alone, and so is a bad one below 0.8 times. In the other direction the pull stays: a good token that has become rarer is brought back. With one update for each set of drawn answers (a *rollout*), the default and the setting of every run here, $\rho$ is 1 and nothing clips.
#
# ## What dividing by the deviation does
#
# Write $m$ for how many of the eight are right. Without the division a group pushes its right answers up by $m(1-m/8)$ in all, which is greatest when half are right. With it, the push goes like $\sqrt{m/8\,(1-m/8)}$:

# %%
print("right of 8   1     2     4     6     7")
for name, how in (("plain", "none"), ("over std", "group")):
    pushes = []
    for m in (1, 2, 4, 6, 7):
        r = torch.tensor([[1.0] * m + [0.0] * (8 - m)])
        pushes.append(grpo.advantages(r, how)[0, :m].sum().item())
    print(f"{name:9}", "  ".join(f"{p / pushes[2]:.2f}" for p in pushes))

# %% [markdown]
# Both are scaled so that the even group counts 1. A question that one answer in eight gets right weighs 0.44 plainly and 0.66 with the division: nearly solved and nearly hopeless questions count for more than they did. *Dr. GRPO* {cite:p}`drgrpo2025` calls this a bias and takes the division out. It finds another in the length: where each answer's loss is the mean of its tokens, each token of a wrong answer of a hundred is punished a tenth as hard as each of one of ten, so wrong answers may ramble. The remedy divides by a constant. Both are settings here, `scale_rewards` and `normalise`; the default keeps the division and averages over the tokens of all answers.
#
# ## Imitate, then pay
#
# First 150 steps of imitation, one answer in four worked out; then 24 steps of GRPO. Model, trainer and GRPO are the package's; `parity_rl` adds the rows and the reward.

# %% tags=["active-ipynb"]
# cfg = parity.settings(1, steps=24)
# base = parity.imitate(cfg, 0.25, RUN / "base")
# run = parity.reinforce(cfg, base, RUN / "grpo")
# before, after = run["curve"][0], run["curve"][-1]
# assert before["greedy_accuracy"] < 0.6, "imitation alone guesses"
# assert after["greedy_accuracy"] > 0.65, "paid, it is right"
# assert after["greedy_long"] > 0.5, "and works it out"

# %% tags=["active-ipynb", "within-0.4", "hide-input"]
# table([f"{parity.PROBES} inputs", "before", "after"],
#       [[name, *(f"{probe[key]:.2f}" for probe in (before, after))] for name, key in
#        (("likeliest answers right, share", "greedy_accuracy"), ("drawn answers right, share", "drawn_accuracy"),
#         ("length of drawn answers, tokens", "drawn_length"))])

# %% [markdown]
# Nothing was paid for length, and length is what grew: at the start a worked answer is right nearly always, a guess half of the time, so in most groups the worked ones stand above the mean. In the log length grows under three seeds and at three shares.

# %% tags=["active-ipynb", "hide-input"]
# main = [r for r in rows if r["variant"] == "GRPO" and r["layers"] == 2]
# show(draw_16.shares(main),
#      alt="Three panels over forty GRPO steps. Left: share of likeliest answers that are right. At p = 0.4 it starts at 100 per cent and stays. At p = 0.25 it jumps from 52 to above 95 per cent within four steps; two of three seeds dip below 90 later. At p = 0.1 it climbs over thirty steps, with a stair at 75. Middle: drawn answers grow from between 4 and 8 tokens to between 13 and 17. Right: of the drawn chains above 90 per cent are right at the start; at p = 0.25 one seed falls to 61 and recovers, at p = 0.1 one falls to 72.",
#      caption="The likeliest answer flips; the drawn ones change over many steps. In two of nine runs fewer than 80 % of the drawn chains are right for a while.")
# quarter = [r["curve"] for r in main if r["share"] == 0.25]
# reached = [next(p for p in curve if p["greedy_accuracy"] >= 0.9) for curve in quarter]
# steps, drawn = ([p[key] for p in reached] for key in ("step", "drawn_accuracy"))
# answer("1.2", f"At most **{max(steps)}** steps, {max(steps) * 256:,} answers, under each of three seeds; we looked at every fourth step. Of the drawn ones {100 * min(drawn):.0f} to {100 * max(drawn):.0f} % are right then.", max(steps), low=1, high=max(steps), unit="steps")
# dips = sorted(min(p["greedy_accuracy"] for p in curve[2:]) for curve in quarter)
# assert dips[1] < 0.9 < dips[2]
# tenth = [r["curve"][-1] for r in main if r["share"] == 0.1]
# say(f"It is no monotone climb: at p = 0.25 two of three seeds fall back on their way, to {100 * dips[0]:.0f} and {100 * dips[1]:.0f} %. At p = 0.1 the likeliest answers end at {100 * min(c['greedy_accuracy'] for c in tenth):.0f} to {100 * max(c['greedy_accuracy'] for c in tenth):.0f} %, while of the drawn ones {100 * min(c['drawn_accuracy'] for c in tenth):.0f} to {100 * max(c['drawn_accuracy'] for c in tenth):.0f} % are right.")

# %% [markdown]
# The left panel steps where the middle one climbs: as soon as going on passes ending, many likeliest answers change at once. At $p$ = 0.1 two seeds stand for a while with half of them worked out, and so with three quarters right: the stair. Who looks only there sees an ability appear; at $p$ = 0.25 it was there at step 0, in one drawn answer of four. Who looks only at length misses the right panel: at $p$ = 0.25 one seed draws chains alone after eight steps, and only 61 % of them are right.
#
# Is a chain that ends right true on its way? A probe gives the model the true running parities and asks for the next one, all the way: after imitation it is right for 94 to 100 % of the inputs. In two of the nine runs this falls to a half, while all likeliest answers are whole chains and right. So half of these chains hold a false bit and end right; imitation had shown none such.
#
# The suspect is the first bit. We repeated the two runs that stand on a stair and looked: there the first token is the same whatever the bits. It begins a true chain for one input in two, and the others are guessed. One run goes from its stair straight to whole chains, half of them with a false bit.
#
# ```{admonition} Takeaway
# :class: takeaway
# The reward reads the last bit. It buys chains that end right, not chains that are true.
# ```
#
# ## Without the chain
#
# GRPO from a base that has seen guesses only; one seed, imitation as long as above, 16 steps of GRPO:

# %% tags=["active-ipynb", "within-0.3"]
# short = parity.settings(1, steps=16)
# guesser = parity.imitate(short, 0.0, RUN / "guesser")
# hopeless = parity.reinforce(short, guesser, RUN / "hopeless")
# start, end = hopeless["curve"][0], hopeless["curve"][-1]
# assert end["drawn_long"] < 0.05 and end["greedy_accuracy"] < 0.6
# equal = sum(s["zero_variance"] for s in hopeless["train"]) / 16
# assert equal < 0.5, "its groups do have right and wrong answers"
# print(f"groups with right and wrong answers: {1 - equal:.2f}")
# for name, key in (("chains", "drawn_long"), ("right", "drawn_accuracy")):
#     print(f"{name}, of drawn answers: {start[key]:.2f} → {end[key]:.2f}")

# %% tags=["active-ipynb", "within-0.3", "hide-input"]
# answer("1.3", f"**{100 * (1 - equal):.0f} %**. And yet {100 * end['greedy_accuracy']:.0f} % of the likeliest answers are right at the end, a coin: no answer was worked out before, so none could be paid.", 100 * (1 - equal), unit="%")

# %% [markdown]
# Mind what the dashboard shows. The groups are mixed, so there are advantages, gradients, steps. Eight tosses of a coin hold a right one in 99.6 % of the cases, so pass@8, the share of prompts of which one of eight answers is right, is as high as one could wish. *Sometimes right* is the usual filter for prompts worth training on, and here it lets luck through. What GRPO reinforces has to be a way of answering that is right more often than its neighbours.
#
# ## The price of length
#
# Chains cost time, so let them cost reward. A worked answer has 17 tokens with the end, a guess 2; the reward takes $\lambda (L-2)/16$ off. Worked and right earns $1 - \tfrac{15}{16}\lambda$. A guess earns ½ on average. The two are level at
#
# $$ 1 - \tfrac{15}{16}\lambda = \tfrac12, \qquad \lambda = \tfrac{8}{15} \approx 0.53 . $$

# %% tags=["active-ipynb", "hide-input"]
# priced = [r for r in rows if r["variant"] == "penalty"]
# free = [r for r in rows if r["variant"] == "GRPO" and r["layers"] == 2 and r["share"] == 0.25]
# show(draw_16.price(free + priced, 8 / 15),
#      alt="Accuracy and length after forty steps against the price. At 0 all seeds are at 100 per cent and 17 tokens; at 0.3 two seeds are at 100 per cent and one at 86, with 12 to 14 tokens; at 0.45 they lie between 52 and 86 per cent with 6 to 14 tokens; at 0.6 and 0.7 all are near 50 per cent with two tokens. A dashed line at 0.53 lies between.",
#      caption="At 0.3 and from 0.6 on all runs are on the computed side after forty steps; at 0.45 one seed of three has not moved.")
# below = [r["curve"][-1]["drawn_length"] for r in priced if r["penalty"] == 0.3]
# above = [r["curve"][-1]["drawn_length"] for r in priced if r["penalty"] == 0.7]
# longer = {x: sum(r["curve"][-1]["drawn_length"] > r["curve"][0]["drawn_length"] + 1 for r in priced if r["penalty"] == x) for x in (0.3, 0.45, 0.6)}
# assert longer == {0.3: 3, 0.45: 2, 0.6: 0}
# answer("1.4", f"From **0.53** on, by the napkin. In the log answers lengthen at 0.45 under two of three seeds, at 0.6 under none. At 0.3 drawn answers end at {min(below):.0f} to {max(below):.0f} tokens, at 0.7 at {max(above):.0f}: guesses.", 8 / 15, unit="λ")

# %% [markdown]
# At 0.45, just below the line, forty steps leave everything open: the two ways of answering differ by less than a tenth of a reward. On a real task the accuracy of the short answer has to be measured first; a length penalty chosen by feel is this experiment with the line hidden.
#
# ## Staying close to the start
#
# A reward says nothing of what else should stay as it was. So many programs price leaving the *reference*, the model before this stage: the KL divergence, estimated from the drawn tokens. Write $\pi$ for the probability that the model, the *policy*, gives a drawn token, $\pi_\text{ref}$ for the reference's. With $d = \log \pi_\text{ref} - \log \pi$ there are two common estimates, $k_1 = -d$ and $k_3 = e^d - d - 1$. On three tokens:

# %%
logits = torch.tensor([1.2, 0.1, -0.5], dtype=torch.float64,
                      requires_grad=True)
policy = logits.softmax(0)
ref = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64)
k1 = policy.log() - ref.log()
k3 = grpo.low_variance_kl(policy.log(), ref.log())
held = policy.detach()
for name, k in (("k1", k1), ("k3", k3)):
    mean = (held * k).sum()
    spread = (held * (k - mean) ** 2).sum().sqrt()
    print(f"{name}: mean {mean:.3f}  spread {spread:.3f}  least {k.min():.2f}")


# %% [markdown]
# Same mean, the KL. A single $k_3$ is never negative, and here it scatters less. That is its value; its *gradient* is another matter:

# %%
def gradient(value):
    return torch.autograd.grad(value, logits, retain_graph=True)[0]

def show_row(name, value):
    print(f"{name:21}", [f"{v:+.3f}" for v in gradient(value).tolist()])

show_row("KL(policy, reference)", (policy * k1).sum())
show_row("k3 in the loss", (held * k3).sum())
show_row("KL(reference, policy)", (ref * (ref / policy).log()).sum())
show_row("ratio times k3", (held * (policy / held) * k3).sum())


# %% [markdown]
# The answers were drawn before, so their probabilities are `held` and carry no gradient. Put into the loss as it stands, $k_3$ pulls along the gradient of the KL *the other way round*. Weighted by the ratio it pulls along the right one. `kl_in` offers both and the third, $k_1$ in the reward. In the parity log a price of 0.1 was tried in two of the three places:

# %% tags=["active-ipynb", "hide-input"]
# names = ("GRPO", "no std", "Dr. GRPO", "KL in the loss", "KL in the reward")
# ends = {name: [r["curve"][-1] for r in rows if r["variant"] == name and r["layers"] == 2 and r["share"] == 0.25] for name in names}
# table(["p = 0.25, 40 steps, three seeds", "likeliest right (%)", "drawn length (tokens)"],
#       [[name, *(" · ".join(f"{scale * c[key]:.{digits}f}" for c in found) for key, scale, digits in (("greedy_accuracy", 100, 0), ("drawn_length", 1, 1)))]
#        for name, found in ends.items()])

# %% [markdown]
# The first four cannot be told apart at the end: all are at the ceiling. None averages each answer by itself, so the bias in the length was not tested. "KL in the loss" is the weighted form; the plain one, the original's, was not run. Only the last, which takes the sum of $k_1$ over an answer off its reward, holds the model back.
#
# ## The town
#
# Does it carry over? In a life of the preset `laptop`, chapter 14's small model, GRPO comes last: 50 steps of 16 prompts, people of the fine-tuning's half, asked in new phrasings with four options; half of the reward for the right value, half for its letter, a little for ending. The exam asks about people from the other half. For the *likeliest option* it shows the question alone and asks which of four values the model finds likeliest behind *The answer is*; an *option said* and the *letter written* behind it stand in its own reply to question and options; *behind the right option* the letter need only be copied; *at once* it is the first token. Three lives, seeds of world and model; changes are paired by question.

# %% tags=["active-ipynb", "hide-input"]
# lives = log("life-seeds")
# ways = {way: WAYS[way] for way in ("generate", "written")} | {"conversation": "conversation"} | {way: WAYS[way] for way in ("text", "bind", "letter")}
# stages = {"sft": "fine-tuning", "dpo": "preferences", "grpo": "rewards"}
# alt = "; ".join(f"{name}: " + ", ".join(f"{ways[way]} {signed(moved(lives, stage, way)[0], 0)}" for way in ways) for stage, name in stages.items())
# show(draw_16.town(lives, ways), alt=f"Three panels, one a stage, changes in points of six measures with bars, and a stroke for each of three lives. {alt}.",
#      caption="What each stage changed. Scales differ. Strokes: single lives. Bars: two standard errors of their mean, a rough measure for three lives, or of the people asked where those are larger. Grey: zero is inside.")
# gain = {way: moved(lives, "grpo", way) for way in ("generate", "written", "text")}
# tell = {way: f"{signed(mean)} ± {error:.1f} points ({each(lives, 'grpo', way)})" for way, (mean, error) in gain.items()}
# say(f"GRPO changes options said by {tell['generate']}, letters written by {tell['written']}, the likeliest option by {tell['text']}; ± is one standard error.")
# assert gain["generate"][0] > 2 * gain["generate"][1] and abs(gain["text"][0]) < 1

# %% [markdown]
# By the likeliest option GRPO adds no facts. What changes is what the model *does* when asked: in each life more right options are said, by one to four points; for letters three lives hardly settle it. The letter at once, which is not rewarded, is near chance before and after. In a prototype that rose further, fine-tuning on the model's own right answers brought a good half of the rise; these lives have no such control.
#
# The settings of these stages were chosen on the first life, with its exam and its conversation in view; how much text fine-tuning replays was chosen on all three. So they confirm none of it. A fresh life (seed 4), run once with all of it fixed, agrees in sign: options said +1.3 ± 1.1 points, letters written +2.1 ± 1.5.
#
# ## At full scale
#
# ```text
# steel sample -m runs/laptop/sft/hf -d rl.jsonl -r own grpo.group_size=8
# steel grpo -m runs/laptop/sft/hf -d own/rl.jsonl -r runs/grpo
# torchrun --nproc-per-node 8 -m steel grpo \
#   --preset steel-1b-dense -m sft/hf -d rl.jsonl -r runs/grpo
# ```
#
# The first answers each prompt eight times, judges, and keeps the prompts solved sometimes, with pass@1 and pass@8 in its report. The preset holds the original's settings: 128 prompts, eight answers, 1e-6, $k_3$ in the loss at 0.001, answers of up to 1,024 tokens. We have not run it at that size. Losses and gradients are held to TRL's in the tests, and a killed run resumed is equal to the bit.
#
# This chapter's script is `steel grpo`: `python notebooks/16_grpo.py --preset laptop --model FOLDER --data rl.jsonl --run RUN grpo.kl_beta=0.01`, with every option of the command. Without options it rehearses two steps on parity.
#
# Look, in this order, at: `zero_variance`; `reward`; `length`; `finished`, the share of answers that end by themselves; `entropy`, how undecided the next token is: at zero every group is eight copies. Then read twenty answers.
#
# ## Failure gallery
#
# ```{admonition} Paid by the question
# :class: failure
# The original's reward searched prompt *and* response for a letter. The prompt prints the options, so it often found "A" there, whatever was answered. Below, all orders of four towns, five constructed replies, three rewards. **Here:** the prompt is not an argument of the judge.
# ```

# %% tags=["active-ipynb", "hide-input"]
# from itertools import permutations
#
# towns = ["云州", "青岩", "临江", "白沙"]  # the first is right
# replies = {"nothing": "", "the right letter": "{good}", "答案是 and the right letter": "答案是{good}", "a wrong letter": "{bad}", "all four, recited": "{all}"}
# counts = {name: [0, 0, 0] for name in replies}
# orders = list(permutations(towns))
# for options in orders:
#     good = "ABCD"[options.index("云州")]
#     bad = "ABCD"["ABCD".index(good) - 1]
#     listed = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", options))
#     prompt = f"曹泽晴的家乡是哪里？\n{listed}\n请给出答案。\n"
#     for name, form in replies.items():
#         reply = form.format(good=good, bad=bad, all=listed)
#         row = {"answer": good, "options": list(options)}
#         judged = (first_letter(prompt + reply) == good, options[ord(good) - 65] in reply, verify(row, reply).correct)
#         counts[name] = [a + b for a, b in zip(counts[name], judged)]
# table(["reply", "reads prompt and reply", "right text anywhere in it", "`verify`"], [[name, *(f"{100 * c / len(orders):.0f} %" for c in found)] for name, found in counts.items()])

# %% [markdown]
# The rebuilt search (its order of patterns, without its last resort) finds the prompt's “A” first and pays a quarter, as chance does, for an empty reply and for a bare right letter. Only 答案是, “the answer is”, gets past it. The second reward pays nothing for a right letter, and every time for reciting the options, which takes no knowledge.
#
# ```{admonition} The only thing left to earn
# :class: failure
# Our own. In a prototype of ten steps under one seed, sums were hardly ever worked out rightly, nearly all groups had equal rewards, and only the bonus for ending was left to earn. Worked answers all but vanished. **Here:** groups of equal reward are counted; look at the count before the reward.
# ```
#
# ```{admonition} A sure thing that takes too long
# :class: failure
# At a price of 0.45, where working out still pays, one seed of three has guesses for its likeliest answers after forty steps. The advantage is there and small. **Here:** compute what each way of answering earns before the run, and how far apart they are.
# ```
#
# ## Exercises
#
# **16.1 Recall.** Which number tells a base that can do the task sometimes from one that is lucky sometimes? Why is pass@8 not it?
#
# ```{dropdown} Answer 16.1
# Accuracy by way of answering: worked answers right nearly always, guesses half of the time. pass@8 is near 100 % for both, because eight tries at two answers contain the right one.
# ```
#
# **16.2 Calculate.** The answer is one of ten digits instead of two, all equally likely; the first written digit of a worked answer is, too. From which share $p$ on is the likeliest answer the worked one, and what is the break-even $\lambda$ for chains of 17 tokens against guesses of 2?
#
# ```{dropdown} Answer 16.2
# A guess agrees with the first digit one time in ten: $p > (1-p)/10$, so $p > 1/11$. A guess earns 0.1, so $1 - \tfrac{15}{16}\lambda = 0.1$, $\lambda = 0.96$. The more answers there are, the less a guess stands in the way.
# ```

# %% tags=["active-ipynb", "hide-cell"]
# assert abs((1 - 1 / 11) / 10 - 1 / 11) < 1e-12
# print(f"{(1 - 0.1) * 16 / 15:.2f}")

# %% [markdown]
# **16.3 Code.** Leave one out: instead of the group's mean, take off each reward the mean of the *other* $G-1$. Write `leave_one_out(rewards)`, a list in, a list out, without a division by the deviation.

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def leave_one_out(rewards):
#     total, others = sum(rewards), len(rewards) - 1
#     return [r - (total - r) / others for r in rewards]
#
# check("16.3", leave_one_out)

# %% [markdown]
# ```{dropdown} Answer 16.3
# `[r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]`. It is the plain advantage times $G/(G-1)$: one constant for all groups of a size, which the learning rate swallows.
# ```
#
# **16.4 Break it.** Pay for length alone, right or wrong, from the base above. What do accuracy and the share of whole chains do? Say it first.
#
# ```python
# from unittest.mock import patch
#
#
# def paid(row, completion):  # reward, and whether it is right
#     n = min(len(completion.ids) - completion.finished, 16)
#     return n / 16, parity.right(row["bits"], completion)
#
#
# with patch.object(parity, "reward", lambda penalty: paid):
#     long = parity.reinforce(cfg, base, RUN / "length")["curve"]
# ```
#
# ```{dropdown} Answer 16.4
# One run of 24 steps: by step 12 every drawn answer is a whole chain, and of the chains 63 % are right, where it was 98 %. The likeliest answers, all right at step 4, are a coin at step 20. Nothing pays for truth, so it drifts; most groups have equal rewards by then. Without the `min` the model stops ending, too: at step 24 one drawn answer in ten is right. Look at `finished`, not at the reward.
# ```
#
# **16.5 Open, five minutes of one core.** At $p$ = 0.1 one answer in ten is worked out. Is a group of 8 large enough? Compare 32 prompts of 8, 16 of 16 and 8 of 32, five seeds each, by length and accuracy of the drawn answers at step 20. `parity.settings(seed, steps=20, batch_size=16, group_size=16)` is the second; all three of a seed start from one `parity.imitate`. Say beforehand how often a group of 8 holds no worked answer.
#
# ```{dropdown} Answer 16.5
# $0.9^8$ = 43 % of groups of 8 hold none; of 32, 3 %. But they still have right and wrong guesses in them, so they are not counted as zero variance: they push coins up and down. And yet larger groups did not help: over five seeds 13.1, 12.4 and 12.3 tokens, groups of 32 less those of 8 by pairs −0.8 ± 0.9; right are 78, 80 and 73 %, by pairs −5 ± 3 points. Perhaps 8 prompts are too few.
# ```
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What did RL with a verifiable reward add here?** It moved mass to answers that were drawn already and paid more often, and bent some of them on the way. From a base without them, in one short run, came nothing.
# ```
#
# ```{admonition} Card
# :class: card
# **When does imitation hide an ability?** When its way of answering is rarer than the guess that begins alike; for parity, below $p = 1/3$.
# ```
#
# ```{admonition} Card
# :class: card
# **What is an advantage in GRPO?** Reward minus the mean of the group, over its deviation; equal rewards teach nothing.
# ```
#
# ```{admonition} Card
# :class: card
# **Which KL does $k_3$ in the loss descend?** That of the reference to the policy; times the ratio, that of the policy to the reference.
# ```
#
# ```{admonition} Card
# :class: card
# **What may a reward read?** The response. Never the prompt, and never an answer that names them all.
# ```

# %% tags=["active-ipynb", "timing"]
# badge()

# %% tags=["hide-input"]
def rehearse(run):
    """Two steps of the stage that `steel grpo` runs, on parity."""
    shutil.rmtree(run, ignore_errors=True)
    small = parity.settings(1, steps=2, eval_every=0)
    small.train.steps = 5
    parity.reinforce(small, parity.imitate(small, 0.25, run / "base"), run / "grpo")
    assert open_model(run / "grpo" / "hf")[0].config.vocab_size == 8
    print("rehearsed: 2 steps, 512 answers, a model folder")


# %%
if __name__ == "__main__":
    words = [] if "ipykernel" in sys.modules else sys.argv[1:]
    if words in ([], ["--preset", "cpu"]):
        rehearse(RUN / "rehearsal")
    else:
        command_line(["grpo", *words])
