# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · What it costs before it starts
#
# Chapter 00 left a question open. Steel's author reckoned with two months on eight A100s. At six FLOPs per parameter and token
# that means 58 % of their peak, more than the 56 % that TinyLlama, whose code Steel inherited, reports of itself. Was the program that good, or is the napkin wrong?
#
# The napkin is wrong for this model, and it is instructive why. This chapter replaces it by a count that is right for any model in this book, and
# turns the count into what one needs on the evening when somebody offers a machine for an unknown time: parameters, FLOPs, bytes,
# days, money. We count by hand, then let PyTorch count, and hold both against what was published. The two counts will agree to the last FLOP;
# the publications will not.

# %% tags=["hide-input"]
import dataclasses
from datetime import date

import torch
from torch.utils.flop_counter import FlopCounterMode

from figures.known_runs import RUNS, published
from steel.config import load, preset
from steel.model import build
from steel.plan import GIB, GPUS, activation_bytes, count_parameters, flops_per_token
from steel.plan import memory, mfu, plan, render

cfg = preset()  # --preset cpu, laptop, gpu1, steel-1b, …
steel = load("steel-1b").model

# %% tags=["active-ipynb", "hide-input"]
# from figures import draw_01, facts
# from figures.check import check
# from figures.style import answer, badge, say, show, table
# from steel.plan.count import attention_widths
#
# show(draw_01.way_of_a_plan(), alt="From the model's shape two ways lead on. The upper one: work of a token, times tokens, divided by GPUs times peak and by the share of the peak that training reaches, gives days, times rent gives money. The lower one: parameters, times 16 bytes, divided by ranks, plus activations and logits, gives the bytes on a GPU.",
#      caption="The way of a plan. Rent and the dashed boxes are assumed or estimated, the rest is arithmetic. The orange box decides whether a month is enough.")

# %% [markdown]
# ```{admonition} Predict
# :class: predict
# Steel has an embedding, a head of the same size, attention in 18 layers and six experts in each layer. It has
# 1,122,922,770 parameters. Before you read on, write down two percentages:
#
# 1. How much of the model is vocabulary, embedding and head together?
# 2. How much of the arithmetic of one training token do the experts do?
# ```
#
# ## Count the weights
#
# ```{admonition} Napkin
# :class: napkin
# A matrix from width $a$ to width $b$ holds $ab$ weights. With the width $D = 1792$ (chapter 00's $D$, the tokens, does not occur here), attention has four $D \times D$ matrices:
# $4 D^2 \approx 12.8$ million per layer. An expert is two gated layers, $D \to f$ and $f \to D$, of two matrices each, $4 D f \approx 3.2$ million with
# $f = 448$; six of them make $19$ million. Eighteen layers: $18 \times (12.8 + 19.3) \approx 578$ million. The vocabulary has
# $151{,}936$ entries of $1792$ numbers, $272$ million, twice.
# ```
#
# Four lines of arithmetic, and the answer to the first question is already on the paper. Now to the last weight.

# %%
D, L, V = steel.hidden_size, steel.num_hidden_layers, steel.vocab_size
E, f = steel.num_experts, steel.intermediate_size
by_hand = {
    "embedding": V * D,
    "lm_head": V * D,
    "attention": L * (4 * D * D + 3 * D),  # three biases: query, key, value
    "experts": L * E * 4 * D * f,
    "router": L * (D * E + 1),  # phi, and one scale
    "norms": L * 2 * D + D,
}
for name, weights in by_hand.items():
    print(f"{name:10} {weights:>14,} {weights / sum(by_hand.values()):7.1%}")
print(f"{'total':10} {sum(by_hand.values()):>14,}")

# %% [markdown]
# A closed form is wrong in the same place as its author. So build the model, all eighteen layers of it, on the *meta device*,
# where a tensor has a shape and a type but no memory. It takes a moment, and a laptop can hold any model of this book this way.

# %%
network = build(steel, device="meta")
counted = sum(p.numel() for p in network.parameters())
where = {p.device.type for p in network.parameters()}
print(f"{counted:,} parameters on {where}")
assert counted == sum(by_hand.values()) == count_parameters(steel)["total"]

# %% tags=["active-ipynb", "hide-input"]
# names = ["minillm-0.2b", "minillm-1.1b", "steel-1b", "steel-1b-causal", "hammer-1.4b"]
# show(draw_01.where_parameters_are(names), alt="Stacked bars of the parameters of five models. Vocabulary is 30 % of MiniLLM 0.2B, 12 % of MiniLLM 1.1B, 48 % of Steel and 31 % of HammerLLM.",
#      caption="Where the parameters are. MiniLLM ties head and embedding, so its vocabulary counts once. Routers and norms are too thin to see.")
# vocabulary = (by_hand["embedding"] + by_hand["lm_head"]) / counted
# answer("1.1", f"Embedding and head together are **{vocabulary:.1%}** of the parameters.", round(100 * vocabulary, 1), unit="%")

# %% [markdown]
# Almost half of Steel is vocabulary: 48.5 %. That is the price of a tokenizer that somebody else has tested, and it
# has a consequence that runs through this whole chapter. One half of the vocabulary, the embedding, is never multiplied with
# anything. It is a table; a token reads one row.
#
# ## Count the work
#
# ```{admonition} Napkin
# :class: napkin
# A weight that meets a token costs one multiplication and one addition: $2$ FLOPs. Backward it costs twice that, once for the
# gradient of its input and once for its own. So a trained token costs $6$ FLOPs per weight, $6N$ in all, and for Steel
# $6 \times 1.12 \cdot 10^9 \approx 6.7$ GFLOP.
# ```
#
# $6N$ {cite:p}`kaplan2020` is the most useful formula in this trade. It holds under three conditions, and Steel breaks each:
#
# - *Every weight meets every token.* The embedding meets none.
# - *Weights meet tokens, not something else.* Steel's experts stand behind *slots* {cite:p}`softmoe2024`: each
#   is given one weighted average of the whole sequence, which makes six vectors for 2,048 tokens. A token pays for $6/2048$ of an expert.
# - *Only weights multiply.* Attention scores multiply activations with each other, $4TD$ FLOPs per layer and token forward in a sequence of $T$ tokens, and the
#   causal mask makes half of them unnecessary.
#
# Which of these matter? Ask the machine. PyTorch can count the FLOPs of every matrix product it is told to do, on the meta
# device too, where it does none of them.

# %%
T = 2048
ids_BT = torch.zeros(1, T, dtype=torch.long, device="meta")
with FlopCounterMode(display=False) as counter:
    logits_BTV = network(input_ids=ids_BT).logits
    forward = counter.get_total_flops() / T
    logits_BTV.sum().backward()
measured = counter.get_total_flops() / T
print(f"counted: {forward:,.0f} FLOP forward, {measured:,.0f} in all")

# %%
closed = flops_per_token(steel, T, "executed_full")
ahead = sum(closed.forward.values())
print(f"closed:  {ahead:,.0f} FLOP forward, {closed.total:,.0f} in all")
assert round(measured) == round(closed.total)
for name, value in closed.by_component.items():
    print(f"  {name:22} {value / 1e9:8.4f} GFLOP {value / closed.total:7.2%}")

# %% tags=["active-ipynb", "hide-input"]
# say(f"The two agree to the last FLOP. The experts, {by_hand['experts'] / counted:.1%} of the parameters, do "
#     f"**{closed.by_component['experts'] / closed.total:.2%}** of the work; the head, {by_hand['lm_head'] / counted:.1%} of the "
#     f"parameters, does {closed.by_component['lm_head'] / closed.total:.0%}. A token costs "
#     f"{closed.total / 1e9:.2f} GFLOP, or {flops_per_token(steel, T).total / 1e9:.2f} if the masked half of the scores is skipped, "
#     f"and not the {6 * counted / 1e9:.2f} of *6N*.")
# experts = closed.by_component["experts"] / closed.total
# answer("1.2", f"The experts do **{experts:.2%}** of the arithmetic of a training token.", round(100 * experts, 2), unit="%")

# %% [markdown]
# Every planner needs to say which of these it means. Ours knows four conventions: `executed_causal` (what a good kernel has to
# do), `executed_full` (the same without using the mask; most published figures), `six_n`, and `seed`, the formula in
# the code from which this project grew, which we meet in a minute.

# %% tags=["active-ipynb", "hide-input"]
# show(draw_01.work_by_convention(steel, T), alt="Bars of GFLOP per token: executed causal 3.42, executed full 3.82, six N 6.74, the seed's formula 8.06. In six N and the seed's formula, hatched parts for experts and embedding are work that is not done. From the experts of six N, 2.08 GFLOP, a wedge leads down to a line too thin to see in executed full.",
#      caption="Four answers to one question. Hatched: the embedding, the experts and two fifths of the seed's scores, which a formula counts and no GPU computes. The masked half of the other scores need not be computed either.")

# %% [markdown]
# ```{admonition} Takeaway
# :class: takeaway
# Parameters say how many bytes the weights take. They do not say how much work the model does. Ask of every weight: which vectors does
# it meet, and how often?
# ```
#
# The README says that the soft mixture trains faster *at the same number of parameters*. The count agrees: at this length the layer does hardly more work than no layer
# at all. What the clock says, and what the layer can learn from six vectors per sequence, are questions of chapter 07.
#
# ## Three percentages for one run
#
# Model FLOPs utilisation, MFU {cite:p}`palm2022`, is tokens per second times FLOPs per token over the peak of the chip. The
# numerator is a choice. Steel's retrospective reports that *fused* operators, one pass over memory instead of several, raised it from 43 to 63 %. The formula is in the
# speed monitor that the project inherited. It counts trainable weights, the embedding with them, at three passes and frozen ones at two, and adds the attention scores
# to each. Nothing is frozen, so the second sum is scores alone, counted again.

# %%
qwen = published("qwen-1.8b").model  # Table 2 was measured on it, not on Steel
weights = 2 * count_parameters(qwen)["total"]  # FLOPs per token, forward
scores = 4 * qwen.num_hidden_layers * qwen.hidden_size * T
as_logged = 3 * (weights + scores) + 2 * (0 + scores)  # trainable, then frozen
print("tokens/s/GPU  as logged  executed, full  executed, causal")
for speed in (10_500, 15_000):
    logged = as_logged * speed / GPUS["A100-80G"].peak
    full = mfu(qwen, T, speed, "A100-80G", "executed_full")
    causal = mfu(qwen, T, speed, "A100-80G", "executed_causal")
    print(f"{speed:>12,} {logged:>10.1%} {full:>15.1%} {causal:>17.1%}")

# %% [markdown]
# The first column gives the blog's 43 and 63 % back, one cut and the other rounded. Counted once, and without the table that nobody multiplies, the same two
# measurements are 34.9 and 49.8 %. A comment in the function owns up to an excess of about a tenth, for weights that multiply nothing; it does not know of the scores counted twice. On this model both
# make a quarter. And look at what does *not* change: the ratio of the two rows is the ratio of their speeds in every column, +43 %. (63 over 43 would be +47 %, which is how one notices that something was rounded.) For one model at one length a
# convention moves the level and never the gain. That is why one can live with a wrong one for months.
#
# ## Which of these can be true?
#
# Now judge others. Parameters, tokens, days and GPUs imply a utilisation, and it must lie between 0 and 1. Six reports of that year follow; HammerLLM's is a speed, written here
# as one day of one GPU, and Steel's two are its author's estimates.

# %% tags=["active-ipynb", "hide-input"]
# table(["", "reported run", "parameters (B)", "tokens (B)", "days", "GPUs"],
#       [[row, name, f"{n / 1e9:.2f}", f"{tokens / 1e9:,.4g}", f"{days:.3g}", f"{gpus} × {kind}"]
#        for row, (name, n, tokens, days, gpus, kind) in enumerate(facts.REPORTED_RUNS, 1)], "llrrrl")

# %% [markdown]
# ```{admonition} Predict
# :class: predict
# One of the six cannot have happened as it is written. (An A100 or A800 has a peak of 312 TFLOP/s, an H800 of 989.5.)
#
# 1. Which row?
# 2. How many per cent of its GPUs' peak would it have needed?
# 3. And row 6, Steel on H800: how many per cent, by the count above?
# ```

# %% tags=["active-ipynb", "hide-input"]
# show(draw_01.utilisations(), alt="MFU of nine published runs in three conventions. Steel on H800 19, 21 and 44 %, Table 2 33 to 63 %, TinyLlama 52 to 65 %; the one-day run of MiniLLM 1.1B lies beyond the right edge, at 203 to 220 %.",
#      caption="Published speeds turned into utilisation. Each line spans one run: executed causal (filled), executed full (open), the seed's formula (grey).")
# over = [100 * mfu(run.model, run.sequence_length, run.tokens_per_second, run.gpu) for run in RUNS if run.tokens]
# suspect = next(row for row, run in enumerate(facts.REPORTED_RUNS, 1) if 6 * run[1] * run[2] > run[3] * 86_400 * run[4] * facts.PEAK[run[5]])
# assert sum(share > 100 for share in over) == 1 and facts.REPORTED_RUNS[suspect - 1][0].startswith("MiniLLM 1.1B") and RUNS[-1].name.startswith("MiniLLM 1.1B")
# answer("2.1", f"Row {suspect}: MiniLLM 1.1B, 64 billion tokens in one day on eight A800s.", suspect)
# answer("2.2", f"**{max(over):.0f} %**, more than twice what the chips can do (or 196 %, if you took *6N*).", round(max(over)), low=196, high=round(max(over)), unit="%")
# tiny, hammer = (next(run for run in RUNS if run.name.startswith(name)) for name in ("Tiny", "Hammer"))
# say(f"The formula was checked before it judged anybody: TinyLlama's README states 56 % for its {tiny.tokens_per_second:,.0f} tokens/s; "
#     f"`executed_full` gives **{mfu(tiny.model, 2048, tiny.tokens_per_second, tiny.gpu, 'executed_full'):.1%}**. HammerLLM states no MFU; "
#     f"its {hammer.tokens_per_second:,.0f} tokens/s are {mfu(hammer.model, 2048, hammer.tokens_per_second, hammer.gpu, 'executed_full'):.0%}.")

# %% tags=["active-ipynb", "hide-input"]
# month_causal, month_full, month_napkin = (100 * mfu(steel, T, RUNS[0].tokens_per_second, RUNS[0].gpu, way) for way in ("executed_causal", "executed_full", "six_n"))
# answer("2.3", f"Thirty days on eight H800 mean **{month_causal:.0f} %** of their peak, if the masked half of the scores is not counted ({month_full:.0f} % if it is, {month_napkin:.0f} % by *6N*).",
#        round(month_causal, 1), low=round(month_causal, 1), high=round(month_full, 1), unit="%")
# say(f"And the question of chapter 00: sixty days on A100 mean **{mfu(steel, T, RUNS[1].tokens_per_second, 'A100-80G'):.0%}** of the peak "
#     f"(causal; {mfu(steel, T, RUNS[1].tokens_per_second, 'A100-80G', 'executed_full'):.0%} full), not 58 %: half of what the napkin said.")

# %% [markdown]
# Read the row of Steel on H800. The same month is 19 % of the peak, or 21, or 44: three honest-looking numbers with one
# estimate behind them. And the row beyond the line:

# %%
day = RUNS[-1]
needed = flops_per_token(day.model, day.sequence_length).total
peak = GPUS[day.gpu].peak
print(f"{day.name}, {day.source}, {day.num_gpus} x {day.gpu}:")
wanted = needed * day.tokens_per_second
print(f"  {wanted / 1e12:.0f} TFLOP/s wanted, {peak / 1e12:.0f} is the peak")
fits = peak * day.num_gpus * 86_400 / needed / 1e9
print(f"  a day holds {fits:.1f} billion tokens, or {0.45 * fits:.1f} at 45 %")
for run in RUNS[-3:-1]:
    share = mfu(run.model, run.sequence_length, run.tokens_per_second, run.gpu)
    print(f"{run.name}: {run.tokens_per_second:,.0f} tokens/s, {share:.1%}")


# %% [markdown]
# No convention brings it back; $6N$ alone puts it at 196 %. The two smaller runs of the same table {cite:p}`minillm2024` agree with each other to half a per cent, which speaks for the table; some
# cell of the third is wrong: tokens, days, machines or the model. What fits into a day at a common utilisation is about 14 billion tokens, which is the size of that
# project's smaller corpus. Perhaps that is what was trained. But at the 22 % of the project's own smaller runs it would be 7 billion: we do not know. Keep a utilisation within reach.
#
# ## Count the bytes
#
# Mixed precision keeps, per parameter, a float32 weight, a float32 gradient and AdamW's two float32 moments {cite:p}`adamw2019`: 16
# bytes, the *state*. For Steel that is a fifth of one 80 GiB card; for the larger model of Table 2, divided by eight GPUs, it is 3.7 GB on each. So why does Table 2 report up to 75 GB?
#
# ```{admonition} Predict
# :class: predict
# One GPU, Steel, nothing fused, a micro-batch (what a GPU takes at a time) of eight sequences of 2,048 tokens. Sort by size: weights with gradients and optimizer, activations of 18
# layers, logits.
# ```

# %% tags=["active-ipynb", "hide-input"]
# settings = dict(micro_batch_size=8, accumulation=facts.STEEL["gradient_accumulation"], sequence_length=2048)
# ways = {
#     "one GPU, nothing fused": dict(num_gpus=1, kernels="eager", head="eager"),
#     "norms, RoPE, gates fused": dict(num_gpus=1, kernels="fused", head="eager"),
#     "loss in chunks": dict(num_gpus=1, kernels="fused", head="chunked"),
#     "state over 8 GPUs": dict(num_gpus=8, kernels="fused", head="chunked"),
#     "blocks recomputed": dict(num_gpus=8, kernels="fused", head="chunked", activation_checkpointing=True),
# }
# bytes_of = {name: memory(steel, **settings, **way) for name, way in ways.items()}
# GiB = {name: {part: size / GIB for part, size in parts.items()} for name, parts in bytes_of.items()}
# sizes = [f"{parts['total']:.0f}" for parts in GiB.values()]
# show(draw_01.memory_columns(steel, ways, **settings), alt=f"Memory of one GPU falls from {sizes[0]} to {', '.join(sizes[1:-1])} and {sizes[-1]} GiB as operators are fused, the loss is computed in chunks, state is sharded and blocks are recomputed.",
#      caption="Estimated peak memory, each change on top of the one before. Orange: logits, their log-softmax and its gradient in float32, 12 bytes for each token and vocabulary entry; "
#              "in chunks 8 bytes, for 4,096 tokens at a time. A step has eight micro-batches, as the original's.")
# before, last = GiB["one GPU, nothing fused"], GiB["blocks recomputed"]
# answer("3", f"Logits {before['logits']:.0f} GiB, activations {before['activations']:.0f}, weights with gradients and moments "
#        f"{before['parameters'] + before['gradients'] + before['optimizer']:.0f}.")
# assert before["logits"] > before["activations"] > before["parameters"] + before["gradients"] + before["optimizer"]
# assert last["logits"] > last["activations"]

# %% [markdown]
# The largest object in the run is not a weight. Sixteen thousand tokens times 152 thousand words, logits, their log-softmax and its gradient in
# float32, are more bytes than the model, its gradient and both moments together. It lives from the end of the forward pass to the beginning of the backward pass
# and decides the size of the machine. Compute the loss in chunks of 4,096 tokens and a sixth of it stays; that is the first kernel this
# project owns. Sharding {cite:p}`fsdp2023` then divides weights and moments by the number of GPUs; gradients it divides only where a step is one micro-batch, otherwise each GPU keeps them whole. Recomputing
# blocks in the backward pass trades the activations for a second forward pass through them. That would be a third more work, but the head, with 43 % of the work, is not repeated: it is 19 %.
#
# An estimate is a claim, so test it. Autograd will tell us everything it keeps for the backward pass; two models that differ by two
# layers give what one layer keeps: here the plain layer, in float32, nothing fused.

# %%
def kept(model, tokens_BT):
    """Bytes that autograd saves in one forward pass, weights left out."""
    network, sizes = build(model), {}
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    def note(x):
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = network(input_ids=tokens_BT).logits.sum()
    return loss, sum(size for at, size in sizes.items() if at not in weights)


# %%
small = load("cpu").model
tokens_BT = torch.randint(0, small.vocab_size, (4, 256))
shallow, deep = (dataclasses.replace(small, num_hidden_layers=n) for n in (1, 3))
one, three = kept(shallow, tokens_BT)[1], kept(deep, tokens_BT)[1]
print(f"bytes per token and layer: {(three - one) / 2 / 1024:,.0f} measured, "
      f"{activation_bytes(small, 256, 'fp32', 'eager'):,.0f} by the formula")

# %% tags=["active-ipynb", "hide-input"]
# qwen_bytes = memory(qwen, num_gpus=8, kernels="eager", head="eager", **settings | {"accumulation": 1})  # as if a step were one micro-batch
# eager, state = qwen_bytes["total"], sum(qwen_bytes[part] for part in ("parameters", "gradients", "optimizer"))
# tokens = 8 * T * qwen.num_hidden_layers
# saves = {"loss": 4 * 8 * T * qwen.vocab_size,      # a fused loss keeps 8 bytes a logit, not 12: one copy less
#          "RoPE": 2 * sum(attention_widths(qwen)) * tokens, "norms": 16 * qwen.hidden_size * tokens}
# rows, errors = [], []
# for number, fused in ((6, ("RoPE",)), (2, ("loss",)), (1, ("loss", "RoPE")), (5, ("loss", "RoPE", "norms"))):
#     formula, paper = (eager - sum(saves[part] for part in fused)) / 1e9, facts.TABLE_2[number]["memory_gb"]
#     errors.append(formula / paper - 1)
#     rows.append([number, ", ".join(fused), paper, f"{formula:.0f}", f"{errors[-1]:+.0%}"])
# say(f"And Table 2? Of {(eager - saves['RoPE']) / 1e9:.0f} GB that the formula gives for experiment 6, {(qwen_bytes['activations'] - saves['RoPE']) / 1e9:.0f} are activations, "
#     f"{qwen_bytes['logits'] / 1e9:.0f} logits and {state / 1e9:.0f} state. GB on each of eight GPUs, where flash attention is used and everything sharded:")
# table(["experiment", "fused", "paper", "formula", "difference"], rows, "llrrr")
# pairs = {"the loss": (6, 1), "the norms": (1, 5), "RoPE": (2, 1)}      # experiments that differ in nothing else
# said = [f"fusing {part} saved {facts.TABLE_2[a]['memory_gb'] - facts.TABLE_2[b]['memory_gb']} GB in the paper, {saves[part.split()[-1]] / 1e9:.0f} in the formula"
#         for part, (a, b) in pairs.items()]
# say(f"It is off by {min(errors):+.0%} to {max(errors):+.0%}, and not at random: {'; '.join(said)}. The logits fit; what the original's norms and rotations kept, "
#     f"fused or not, the formula does not know. (If the paper's GB are GiB, the formula stands {1 - 1e9 / GIB:.0%} lower against all of them.) Good enough to choose a machine, not good enough to fill it to the brim: the planner keeps a tenth free.")

# %% [markdown]
# ## Days and money
#
# The whole plan in one line: $\text{days} = \text{tokens} \times \text{FLOPs per token} \,/\, (\text{GPUs} \times \text{peak} \times
# \text{MFU})$, and money is days times rent. Tokens, FLOPs, GPUs and peak we know exactly; the price you can ask for; the MFU has to be
# assumed until it is measured.
#
# For Steel it can be read off the months. Its README gives days and dates {cite:p}`steelreadme2025`, and they need not agree.

# %%
month = (date(2024, 8, 18) - date(2024, 7, 18)).days
legs = {
    "estimate, 8 A100": (1_070_000, 60, "A100-80G"),
    "estimate, 8 H800": (1_070_000, 30, "H800"),
    "calendar, 8 H800": (1_070_000 - 200_000, month, "H800"),
}
for name, (count, length, gpu) in legs.items():
    rate = count * 512 * 2048 / (length * 86_400 * 8)
    print(f"{name}: {count:>9,} steps in {length} days, "
          f"{rate:,.0f} tokens/s per GPU, MFU {mfu(steel, T, rate, gpu):.1%}")
print(f"200,000 steps on A100 at that speed: {60 * 200 / 1070:.1f} days")

# %% tags=["active-ipynb", "hide-input"]
# say(f"Look at the first two lines: an H800 has {GPUS['H800'].peak / GPUS['A100-80G'].peak:.1f} times the peak of an A100 and is given "
#     f"{RUNS[0].tokens_per_second / RUNS[1].tokens_per_second:.1f} times its speed. Matrices of width {D:,} do not get larger on a larger chip, and what is not a "
#     "matrix product does not get faster by its tensor cores: reasons to expect it, though two round numbers of an author do not prove it.")

# %% [markdown]
# The A100 leg fits its story: eleven days after 21 May is the beginning of June, when the machine was withdrawn near step 200,000.
# The H800 leg fits less well. The thirty days are the author's estimate for a whole run; the calendar shows its last 870,000 steps in
# 31 days, a fifth slower. If those dates (chapter 00 doubts them) are what they seem, a plan made from the estimate would have ended a week late on a machine
# that was lent for little more than a month. Plans need a margin, and the first measured hour is worth more than any of them.

# %% tags=["active-ipynb", "hide-input"]
# said = []
# for run in (RUNS[0], RUNS[1], RUNS[-2]):
#     guess = mfu(run.model, run.sequence_length, 1.0, run.gpu) / GPUS[run.gpu].mfu
#     predicted = run.tokens * guess / run.num_gpus / 86_400
#     said.append(f"{run.name}: {predicted:.1f} days where {run.days:.1f} are reported, a factor of {run.days / predicted:.1f}")
# say("What would the planner have said beforehand, with its default utilisation? " + "; ".join(said) + ".")

# %% [markdown]
# Here the planner is an optimist by a factor of one and a half to two. Two of the three reports are an author's estimates, and the planner's default for an A100 was read off TinyLlama, HammerLLM
# and Table 2, which report speeds and no days and so cannot stand here. The factor is not an error of arithmetic. It is the subject of chapters 09 and 11, and until it is measured on your machine you should plan with
# both ends of it.
#
# ## At full scale
#
# The same functions stand behind one command, `steel plan --preset steel-1b-dense --gpu H800 --num-gpus 8`, and behind this chapter's
# script: `python notebooks/01_cost_plan.py --preset steel-1b-dense` ends with the plan of that preset. Here is its second half, behind parameters and FLOPs. No run of ours at this size has been logged yet, so everything from the line
# *Throughput* on is an assumption with its source beside it; put your own measurement into `--mfu` and your own rent into
# `steel/plan/hardware.yaml`.

# %%
page = render(plan(load("steel-1b-dense"), "H800", 8))
print(page[page.index("Memory per GPU"):])

# %% [markdown]
# `steel-1b-dense` is Steel's size with a plain feed-forward, every weight of which meets every token; heads, masks and schedule are those of `steel-1b-causal`. It costs most, and it is the one to train
# first, because nothing about it has to be proved. In the causal mixture, `steel-1b-causal`, one expert of six meets every token; in the original's layer
# none does. What each learns from a token, and from an hour, is the question of chapters 07 and 08; the table says what it costs in days if all reach
# the same share of the peak, which nobody has seen.

# %% tags=["active-ipynb", "hide-input"]
# presets = ("steel-1b-dense", "steel-1b-causal", "steel-1b")
# plans = {name: [plan(load(name), gpu, 8) for gpu in ("A100-80G", "H800")] for name in presets}
# table(["preset", "8 × A100", "8 × H800"], [[name, *(f"{p.days:.0f} days, {p.usd:,.0f} USD" for p in both)] for name, both in plans.items()])

# %% [markdown]
# ## Failure gallery
#
# ```{admonition} The factor that nobody divides by
# :class: failure
# A data sheet prints the peak *with sparsity*, twice the dense one. Against 1,979 TFLOP/s every H800 in the figure above would look
# half as busy. Dense training divides by 989.5; the original's speed monitor halves its H100, too.
# ```
#
# ```{admonition} A machine without a peak
# :class: failure
# The original's speed monitor looks the chip up by name and knows the A100, the H100 and older chips. An H800 is none of them, so the function
# returns nothing and the run on its second machine could not log an MFU at all. Nobody misses a curve that is not drawn. Ours refuses an unknown
# name and lists the ones it knows.
# ```
#
# ```{admonition} Two millions
# :class: failure
# HammerLLM's step has 1,024 sequences of 2,048 tokens. That is 2,097,152, and its documentation says 2M {cite:p}`hammerllm2024`. Its last
# checkpoint, step 222,000, stands in the table with 445 billion tokens; with the exact step it is 465.6 billion. Five per cent of a
# training run disappeared in the letter M.
# ```
#
# ```{admonition} Batch per what?
# :class: failure
# MiniLLM's README gives its 1.1 B run 32 sequences on each of 8 GPUs; the arguments file in the repository says 16. Tokens per step
# differ by two, and so does every rate derived from steps. Write the global batch in tokens; it is the only one that survives a
# change of machine.
# ```
#
# ## Exercises
#
# **01.1 Recall.** Name the three conditions of $6N$ and, for each, the part of Steel that breaks it. Which of them does MiniLLM 0.2B break, dense, with one matrix for head and embedding?
#
# ```{dropdown} Answer 01.1
# Every weight meets every token (the embedding is only read). Weights meet tokens (slot experts meet six averages per sequence).
# Only weights multiply (attention scores multiply activations with activations). MiniLLM breaks the last alone: its embedding is its head, and as a head it meets
# every token.
# ```
#
# **01.2 Calculate.** HammerLLM trains 16,000 tokens/s per GPU with a vocabulary of 105,789 entries, whose tokens hold 4.3143 bytes of its
# test text. The same code with 32,000 entries reaches 24,000 tokens/s; Llama 2's tokenizer of that size holds 2.2755 bytes per token.
# Which of the two reads more text per second? How much of the difference in tokens does the work per token explain?

# %% tags=["active-ipynb", "hide-cell"]
# read = {"105,789 entries": 16_000 * 4.3143, "32,000 entries": 24_000 * 2.2755}  # bytes of text per second
# work = {"105,789 entries": flops_per_token(published("hammer-1.4b").model, 2048).total,
#         "32,000 entries": flops_per_token(published("tinyllama").model, 2048).total}
# for entries in read:
#     print(f"{entries}: {read[entries] / 1e3:.1f} kB/s of text, {work[entries] / 1e9:.2f} GFLOP per token")
# (more_text, less_text), (more_work, less_work) = read.values(), work.values()
# assert round(more_text / less_text, 2) == 1.26 and round(more_work / less_work, 2) == 1.13

# %% [markdown]
# ```{dropdown} Answer 01.2
# 69.0 against 54.6 kB/s: the large vocabulary reads 26 % more text with a third fewer tokens. Work per token is 7.67 against 6.76 GFLOP, a factor
# of 1.13 where 1.5 was seen. The rest is probably memory: the README notes a micro-batch of 20 sequences for the
# small vocabulary and 8 for the large one. Logits again.
# ```
#
# **01.3 Code.** Write `llama_parameters(width, ffn_width, layers, heads, kv_heads, vocabulary, tied)`, the parameters of a Llama model: no
# biases, SwiGLU, grouped queries, two norms per layer and one at the end. In the notebook `check("01.3", llama_parameters)` holds it against four published models.

# %% tags=["active-ipynb", "hide-cell"]
# def llama_parameters(width, ffn_width, layers, heads, kv_heads, vocabulary, tied):
#     attention = 2 * width**2 + 2 * width * (width // heads) * kv_heads
#     layer = attention + 3 * width * ffn_width + 2 * width
#     return layers * layer + width + vocabulary * width * (1 if tied else 2)
#
# check("01.3", llama_parameters)

# %% [markdown]
# **01.4 Break it.** Change one field of `steel-1b`'s `model` (`steel/config.py` lists them) so that the parameter count moves by less than a thousandth and the work per token
# grows by more than half. Then say why a leaderboard sorted by parameters would not notice.

# %% tags=["hide-cell"]
other = dataclasses.replace(steel, feed_forward="soft_moe_v1")  # all on every token
more = flops_per_token(other, T).total / flops_per_token(steel, T).total
extra = count_parameters(other)["total"] - counted
print(f"soft_moe_v1: {extra:+,} parameters, {more:.2f} times the work")
assert abs(extra) < counted / 1000 and more > 1.5
# A leaderboard sorts by what is stored; this field changes what the stored weights meet.

# %% [markdown]
# **01.5 Open, 5,760 GPU hours.** You are lent eight H800 for thirty days, once. Which preset do you train, on how many tokens, and what do
# you measure in the first hour to know whether you will finish? Decide beforehand what you cut if the measurement is half of the
# plan: tokens, width, or the vocabulary. Keep the plan and compare it with your own first hour.
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What does a trained token cost?** Six FLOPs per weight that meets it, plus $12TD$ per layer for attention scores, half of that where the mask
# is used. Ask of each weight whether it meets the token.
# ```
#
# ```{admonition} Card
# :class: card
# **How many bytes per parameter?** 16 with float32 weights, gradients and AdamW moments, divided by the ranks that share them; gradients only
# where a step is one micro-batch. Activations and logits come on top, and grow with the micro-batch.
# ```
#
# ```{admonition} Card
# :class: card
# **What does an MFU above 100 % mean?** That somebody counted something that was not there. Look at the tokens first, then at the peak, then
# at the formula. For one model at one length the ratio of two MFUs survives any formula; between two models it does not.
# ```

# %% tags=["active-ipynb", "timing"]
# badge()

# %% tags=["remove-output"]
if __name__ == "__main__":
    machine = ("CPU", 1) if cfg.train.precision == "fp32" else ("H800", 8)
    print(render(plan(cfg, *machine)))
