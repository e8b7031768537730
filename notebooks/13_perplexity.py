# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 13 · A number for a model that has sat no exam
#
# HammerLLM trained a model of 1.4 billion parameters and had to say how good it was. It had not been taught to chat, so the authors let it read recent text, ten kinds of it, and printed how surprised it was {cite:p}`hammerllm2024`. Fourteen rows of Chinese, sixteen of English, one number for each kind of text, or *domain*, and at the end of each row an average.
#
# The table is careful work, and it shows several things that can go wrong with such a number. We build the number first and come back to the table with it.

# %% tags=["hide-input"]
import contextlib
import copy
import io
import math
import random
import shutil
from pathlib import Path

import torch

from figures.experiments.merging import LENGTH, Reader, read
from figures.experiments.vocabularies import town, trained, write_domains
from steel.cli import main as command_line
from steel.config import UserError, preset
from steel.evaluation.perplexity import bits_per_byte, compare
from steel.model.folder import save_model
from steel.tokenizer.bpe import encode_text, end_of_text_id

torch.set_num_threads(1)
cfg = preset()  # --preset cpu, gpu1, steel-1b, …
RUN = Path("runs") / f"13_perplexity-{cfg.preset}"
BUDGET = 300_000  # bytes of text that a model of this page reads
WINDOW = ["--context", str(LENGTH)] if cfg.preset == "cpu" else []  # else what the model promises

def steel(*words):
    """The command `steel` with these words."""
    try:
        command_line(list(words))
    except SystemExit as end:
        if end.code:
            raise


# %% tags=["active-ipynb", "hide-input"]
# from collections import Counter
# from statistics import fmean, geometric_mean, median
#
# from figures import draw_13
# from figures.check import check
# from figures.published import average, perplexity_by_tokens, published
# from figures.style import answer, badge, say, show, table
# from figures.experiments.canaries import auroc, canaries, exposure
#
# show(draw_13.one_sum({"a model that reads bytes": [f"{b:02X}" for b in "她住在青岩。".encode()], "a model that reads tokens": ["她", "住在", "青岩", "。"]}),
#      alt="One Chinese sentence, cut into eighteen bytes for one model and into four tokens for another. Under each piece stands minus log p. Each row is added up to one sum in nats; on the right are four divisors to choose from: tokens, characters, bytes, or the tokens of a fixed reference.",
#      caption="“She lives in Qingyan.” Each model pays for its own pieces; the sum is the price of the whole text. What should it be divided by?")

# %% [markdown]
# A language model gives every next token a probability $p$. Its *cost* is $-\log p$, in *nats*, the unit of the natural logarithm: nothing for a certainty, 0.69 for a coin toss, which is one *bit*. Add up the cost of all tokens of a text, and you have the cost of the text. *Perplexity* is $e$ to the mean cost of a token: the number of equally likely choices among which the model behaves as if it had to guess.
#
# ```{admonition} Predict
# :class: predict
# Two models with the same layers have read the same bytes of text. One has no merges, so its tokens are bytes; the other has 1,024 entries.
#
# 1. On held-out Chinese the second model's perplexity per token is several times that of the first. Per byte of text, how many per cent more bits does it need (negative: fewer)?
# 2. HammerLLM's last row says 9.26 for English, MiniCPM's says 9.28, and for one of the four kinds of text MiniCPM's number is `nan`, HammerLLM's 7.86. What is HammerLLM's average over the other three?
# 3. The second model reads the same Chinese in windows of 8 tokens instead of 128, each half over the last. How many per cent more bits per byte?
# ```
#
# ```{admonition} Napkin
# :class: napkin
# A Hanzi is three bytes in UTF-8. Say that a model needs 6 bits for one. If its tokens are Hanzi, that is a perplexity of $2^6 = 64$; if they are bytes, 2 bits each, so $2^2 = 4$; if they are words of two Hanzi, 12 bits, $2^{12} = 4096$. The prediction is equally good in all three. Perplexity per token is the number that we want, raised to the power of the length of a token.
# ```
#
# ## Build: one sum
#
# Two models learn SteelTown, whose documents the chapters on data made. A fifth of the documents, drawn by a hash of their content, is kept from them: Chinese prose, English prose, dialogues, and code. Copies have one hash, so none stands on both sides. A near copy may; the town's sentences come from templates, and so the numbers below say nothing about real text.

# %% tags=["active-ipynb"]
# shutil.rmtree(RUN, ignore_errors=True)
# with contextlib.redirect_stdout(io.StringIO()):
#     train, held = town(RUN)
# planted = canaries((0, 0, 0, 0, 1, 2, 4, 8, 16, 32))  # strings for the last section
# texts = train + [c.text for c in planted for _ in range(c.times)]
# ENTRIES = {"bytes": 259, "1,024 entries": 1024}
# models = {name: trained(texts, n, BUDGET) for name, n in ENTRIES.items()}
# print({name: len(part) for name, part in held.items()}, "held-out documents")

# %% [markdown]
# The cost of each token of a text, by hand:

# %%
def costs(model, tok, text, separator=True):
    """Cost of each token after the separator [nats]; without it the first has none."""
    ids = [end_of_text_id(tok)] * separator + encode_text(tok, text)
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([ids[:-1]])).logits[0]
    log_p_TV = logits_TV.float().log_softmax(-1)
    return -log_p_TV.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


# %% tags=["active-ipynb", "within-0.1"]
# sample = min(held["Chinese"], key=len)
# for name, pair in models.items():
#     nats = costs(*pair, sample)
#     print(f"{name:14} {len(nats):3} tokens, {nats.sum():5.1f} nats for {sample!r}")
#     package = bits_per_byte(*pair, [sample], context=LENGTH)["domains"]["all"]
#     assert math.isclose(float(nats.sum()), package["by_document"]["nats"][0], abs_tol=0.01)

# %% [markdown]
# Two sums for one text, and *they* may be compared: each is the price at which the model would sell you the text. (Literally: an arithmetic coder makes of the model a compressor whose file is that long.) Strictly the second model's sum is a little too high: a text has more than one spelling in tokens, and only the tokenizer's own is counted.
#
# What remains is to divide.
#
# $$\text{perplexity} = e^{\,\text{nats}/\text{tokens}} \qquad \text{bits per byte} = \frac{\text{nats}}{\ln 2 \cdot \text{UTF-8 bytes}} \qquad \text{normalised perplexity} = e^{\,\text{nats}/N_\text{ref}}$$
#
# The last is how HammerLLM reports, after Skywork {cite:p}`skywork2023`. Neither page states the divisor; the one that makes models comparable is the *same* for all, the tokens $N_\text{ref}$ that one chosen tokenizer needs. Another reference moves all numbers of a domain and keeps their order.

# %% tags=["active-ipynb", "hide-input", "within-0.1"]
# reference = models["1,024 entries"][1]
# found = {name: bits_per_byte(*pair, held, context=LENGTH, reference=reference) for name, pair in models.items()}
# by = {name: result["domains"] for name, result in found.items()}
# words = sum(len(text.split()) for text in held["English"])
# nats_of = lambda d: d["nats_per_byte"] * d["bytes"]
# table(["English prose, one sum each", *by], [
#     ["nats", *(f"{nats_of(d['English']):,.0f}" for d in by.values())],
#     ["perplexity per token", *(f"{d['English']['ppl']:.2f}" for d in by.values())],
#     ["perplexity per word", *(f"{math.exp(nats_of(d['English']) / words):,.0f}" for d in by.values())],
#     ["perplexity, normalised", *(f"{d['English']['ppl_normalised']:.2f}" for d in by.values())],
#     ["bits per character", *(f"{d['English']['bpc']:.3f}" for d in by.values())],
#     ["bits per byte", *(f"{d['English']['bpb']:.3f}" for d in by.values())]])

# %% [markdown]
# Each column is one measurement written six times. Only perplexity per token, where each model has a divisor of its own, puts the bytes ahead.
#
# ## Measure: two rulers

# %% tags=["active-ipynb", "hide-input", "within-0.1"]
# show(draw_13.two_rulers(by), alt="Four kinds of text, two models, two scales. On the left, perplexity per token: the model that reads bytes lies far to the left, the better side, in every row. On the right, bits per byte of the same sums.",
#      caption="The same four sums of each model. Left: divided by its own tokens. Right: by the bytes of the text.")
# one, two = (by[name]["Chinese"] for name in ENTRIES)
# share = 100 * (two["bpb"] / one["bpb"] - 1)
# assert all(by["bytes"][d]["ppl"] < by["1,024 entries"][d]["ppl"] for d in held), "the text says so"
# assert all(by["bytes"][d]["bpb"] > by["1,024 entries"][d]["bpb"] for d in held), "the text says so"
# answer("1.1", f"**{share:+.0f} %** bits per byte, with a perplexity of {two['ppl']:.2f} instead of {one['ppl']:.2f} per token.", share, unit="%")
# say(f"By perplexity per token the model of bytes wins every row, by bits per byte the one with tokens; of Chinese it needs {two['bpb']:.3f} against {one['bpb']:.3f}.")

# %% [markdown]
# Is the difference more than luck of the documents? Both are scored on the *same* documents, so take the difference document by document; what makes a document hard for both cancels. The documents, not the tokens, are what we drew: tokens of one text are hard or easy together. The standard error of a ratio of sums over $n$ documents with differences $\Delta_d$ (bits) and sizes $b_d$ (bytes) is
#
# $$\hat\delta = \frac{\sum_d \Delta_d}{\sum_d b_d}, \qquad \text{se}^2 = \frac{\sum_d (\Delta_d - \hat\delta\, b_d)^2}{(\sum_d b_d)^2}.$$

# %% tags=["active-ipynb", "within-0.5"]
# paired = compare(*found.values())
# for name, r in paired.items():
#     print(f"{name:9} {r['difference']:+.3f} ± {r['se']:.3f} bits/byte, "
#           f"{r['documents']} documents")

# %% [markdown]
# Three documents of code are no sample, however small their error bar. The bar covers other documents of the same kind, not another seed of training: this page has one seed each, exercise 13.5 three. Nor is the cut all that differs: with its longer tables the second model has 238,272 parameters, the first 140,352, and a window of the second holds more text. For the same bytes the first took nearly three times as many steps, and lost all the same.
#
# ## One number for many domains
#
# A reader wants one number. How does one average?

# %% tags=["active-ipynb", "hide-input", "within-0.1"]
# d = by["1,024 entries"]
# size = sum(r["bytes"] for r in d.values())
# table(["1,024 entries", "share of the bytes", "bits per byte", "perplexity"], [[name, f"{100 * r['bytes'] / size:.0f} %", f"{r['bpb']:.3f}", f"{r['ppl']:.2f}"] for name, r in d.items()])
# pooled = sum(r["bpb"] * r["bytes"] for r in d.values()) / size
# worse = {name: r["bpb"] * (2 if name == "code" else 1) for name, r in d.items()}
# again = sum(worse[name] * r["bytes"] for name, r in d.items()) / size
# say(f"All bytes together: {pooled:.3f} bits per byte. Mean of the four domains: {fmean(r['bpb'] for r in d.values()):.3f}. "
#     f"A model that were *twice* as bad on code would move the first by {100 * (again / pooled - 1):.0f} % and the second by {100 * (fmean(worse.values()) / fmean(r['bpb'] for r in d.values()) - 1):.0f} %.")

# %% [markdown]
# A mean over all tokens is ruled by the largest domain, and whoever assembled the test set chose which that is. A mean over domains gives each a voice, three documents of code as loud as all Chinese. For perplexities it should be the *geometric* mean, $e$ to the mean of the logarithms: then a gain of 10 % counts the same in a hard domain and in an easy one, and the mean of bits per byte, which are logarithms already, is the plain one. HammerLLM's printed averages are geometric; one has a digit wrong: 92.92 for Gemma in Chinese should be 95.92.

# %% tags=["active-ipynb", "hide-input"]
# show(perplexity_by_tokens(), alt="Two panels. HammerLLM's average perplexity falls with the tokens it has seen, in Chinese to 13.95, just above Qwen-1.5's dashed line and below the other two; in English to 9.26, just under MiniCPM's line and above those of Qwen-1.5 and InternLM2. An open circle at 9.78 stands where the average without GitHub lies, above MiniCPM. Stars mark averages without a domain.",
#      caption="HammerLLM's rows, beside three of the other models. A star: the average leaves out a domain whose entry is “nan”. Open: HammerLLM's over those three domains.")
# english = published()["perplexity"]["en"]["rows"]
# row = {r["model"] + r["tokens"]: r["values"] for r in english}
# ours, minicpm, intern = row["Ours(epoch-2)445B"], row["MiniCPM-2B(350k)-"], row["InterLM2-1.8B-"]
# both = [i for i, value in enumerate(minicpm) if math.isfinite(value)]
# common = [average([values[i] for i in both]) for values in (ours, minicpm)]
# answer("1.2", f"**{common[0]:.2f}**, against MiniCPM's {common[1]:.2f}: on the same three kinds of text the order turns round.", common[0])
# assert common[0] > common[1] and average(ours) < average(minicpm) and average(intern) < average(ours)

# %% [markdown]
# GitHub is HammerLLM's easiest domain, with 7.86, so a row that has it looks better than one that has not. A note under the table says which averages leave it out. The sentence above it, by which the model is second only to Qwen and ahead of Gemma, InternLM2 and MiniCPM, does not take that into account. For Chinese the table bears it out. For English, InternLM2's 7.96 lies below 9.26, and below it in every domain, and MiniCPM is ahead where both have a number. A star is no remedy: average every row over the domains that all rows have.
#
# One overflow in one document is enough for a `nan`, and a mean that skips it changes what is averaged. **Here** a domain that is not finite has no number, its mean has none either, and the command ends with an error that names the domain and counts its broken documents. Break one row of a model's embedding, of a token that only code has:

# %% tags=["active-ipynb"]
# model, tok = models["1,024 entries"]
# counts = {name: Counter(i for t in part for i in encode_text(tok, t))
#         for name, part in held.items() if name != "dialogue"}
# only_code = max(set(counts["code"]) - set(counts["Chinese"]) - set(counts["English"]))
# broken = copy.deepcopy(model)
# with torch.no_grad():
#     broken.get_input_embeddings().weight[only_code] = math.nan
# three = {name: held[name] for name in counts}
# result = bits_per_byte(broken, tok, three, context=LENGTH)
# print("no number:", result["nan_domains"], " mean:", result["geometric_mean"]["ppl"])

# %% [markdown]
# ## Where a window begins
#
# A model reads so many tokens at once and no more. `steel` reads a longer document in windows that overlap: each advances by `stride` tokens, by default half a window, and only tokens that no window has scored yet are counted. Every token after the first window has at least half a window before it. What it loses depends on how far back the model has learned to look.

# %% tags=["active-ipynb", "hide-input", "within-0.1"]
# SIZES = [8, 16, 32, 64, 128]
# curves = {name: [bits_per_byte(model, tok, {name: held[name]}, context=c)["domains"][name]["bpb"] for c in SIZES] for name in ("Chinese", "English")}
# BINS = {"1": (0, 1), "2–4": (1, 4), "5–8": (4, 8), "9–16": (8, 16), "17–32": (16, 32), "33–": (32, 999)}
# every = [costs(model, tok, text)[:LENGTH].tolist() for text in held["Chinese"]]
# places = [(label, fmean(c for doc in every for c in doc[a:b])) for label, (a, b) in BINS.items()]
# show(draw_13.windows(SIZES, curves, places), alt="Left: bits per byte of Chinese and English prose fall a little as the window grows from 8 to 16 tokens and are level from there to 128. Right: bars of the mean cost of a token by its place in a document; the first token is the dearest by far, all later ones cost about the same.",
#      caption="Left: the same model and text, read in windows. Right: Chinese prose, cost by place.")
# loss = 100 * (curves["Chinese"][0] / curves["Chinese"][-1] - 1)
# answer("1.3", f"**{loss:.0f} %** more.", loss, unit="%")
# assert curves["Chinese"][0] > curves["Chinese"][-1] and places[0][1] == max(value for _, value in places)
# assert median(map(len, every)) < 50, "the text says so"

# %% [markdown]
# Behind its second point the curve is level, behind the first token the bars are nearly so: after a hundred steps this model uses a handful of tokens and no more. (Half of these documents end within fifty tokens, so the right end of their curve could hardly move.) The better a model uses its context, the more a short window costs it: it hides what a better one can do.
#
# A smaller stride costs time, in inverse proportion; two models are compared at the same stride, and at the same window *in bytes* if you want to be strict, since a byte model's 128 tokens are 43 Hanzi.
#
# Documents as well as windows have beginnings. What stands before the first token? In training it was the separator `<|endoftext|>`, which serves as *beginning of sequence* token, BOS.

# %% tags=["active-ipynb", "within-0.3"]
# after, alone = ([costs(model, tok, text, separator=on) for text in held["Chinese"]]
#                 for on in (True, False))
# rest = sum(map(len, alone))
# print(f"nats per token after the first: {sum(float(c[1:].sum()) for c in after) / rest:.3f}",
#       f"with the separator, {sum(float(c.sum()) for c in alone) / rest:.3f} without")
# print(f"the first token itself: {fmean(float(c[0]) for c in after):.2f} nats, or nothing")

# %% [markdown]
# Two effects, and only one of them is about the model. Leaving the first token out makes a model look better, since it is the dearest one. Leaving out what stood before every training document may put the model where it has never been. How much that matters depends on the model: ours was trained on rows cut anywhere, so it has often begun in the middle, and loses about a hundredth. One Gemma without its BOS had a perplexity in the billions on one test, and below four with it (lm-eval, pull request 1465). Whether that is why Gemma stands so far behind all others in HammerLLM's table, in both languages, the table cannot tell.
#
# ## A text that it has read before
#
# A low loss may be understanding, or memory. HammerLLM chose recent text for that reason. Can a loss tell on its own? Let the second model read on, until it has seen everything nearly four times, and compare texts that it has read with texts that it has not.

# %% tags=["active-ipynb", "within-0.3"]
# more = copy.deepcopy(model)
# read(more, Reader(tok, random.Random(2).sample(texts, len(texts))), 2 * BUDGET)
# fresh = held["Chinese"]
# chinese = [t for t in train if "<|im_start|>" not in t
#          and sum("\u4e00" <= c <= "\u9fff" for c in t) > len(t) / 2]
# known = chinese[:: len(chinese) // len(fresh)][: len(fresh)]
# def bits(texts):
#     d = bits_per_byte(more, tok, texts, context=LENGTH)["domains"]["all"]["by_document"]
#     return [n / b / math.log(2) for n, b in zip(d["nats"], d["bytes"])]
# marks = [True] * len(known) + [False] * len(fresh)
# score, n = auroc([-b for b in bits(known) + bits(fresh)], marks), len(fresh)
# luck = math.sqrt((2 * n + 1) / 12) / n  # standard error of a guess, n against n
# print(f"{n} texts read in training, {n} held out: AUROC {score:.2f}, by luck 0.50 ± {luck:.2f}")

# %% [markdown]
# AUROC is the chance that of two texts, one read and one held out, the one read costs fewer bits per byte; luck gives one half, with the error printed. So the loss alone tells little: in a town of templates held-out texts are made of the same sentences, and easy ones are cheap whether read or not. So plant strings of which you know the truth: *canaries*, a file number that means nothing, written a known number of times and read nearly four times as often, each beside 63 others drawn by the same rule and written nowhere. *Exposure* is $\log_2(64/\text{rank})$, the cheapest having rank one: 6 bits at most, 1.4 on average by luck alone.

# %% tags=["active-ipynb", "hide-input", "within-2"]
# assert 3.5 < 3 * BUDGET / sum(len(text.encode()) for text in texts) < 4, "nearly four times"
# exposed = exposure(more, tok, planted)
# table(["times written", "exposure (bits)"], [[str(r["times"]), f"{r['exposure']:.1f}"] for r in exposed["rows"]])
# say(f"Planted against never planted: AUROC {exposed['auroc']:.2f}; by length alone, without a model, {exposed['blind']:.2f}.")

# %% [markdown]
# A single canary's rank is one draw, and the AUROC is of six against four, so read the table from top to bottom and not row by row. A low loss is evidence of contamination only against controls of the same kind. (Copies of exam questions are better sought in the data, by longest match: `steel eval contamination`.)
#
# ```{admonition} Takeaway
# :class: takeaway
# The sum is the model's. The divisor, the window, the beginning and the average are yours: fix them, print them, and compare on the same documents.
# ```
#
# ## At full scale
#
# ```text
# steel eval perplexity runs/1b heldout/*.jsonl --context 2048 --reference qwen --out 1b.json
# steel eval perplexity Qwen1.5-1.8B heldout/*.jsonl --context 2048 --reference qwen --out qwen.json
# steel eval compare 1b.json qwen.json
# ```
#
# A domain is a file of JSON lines, with `text` or `messages`. A dialogue, which takes a vocabulary with `<|im_start|>` and `<|im_end|>`, is scored on what the assistant says, given all before it and, as in fine-tuning, no separator; the control tokens have no bytes and are not counted. `--context` and `--stride` set the window; without them it is what *that* model promises, and half of that. Give both models the same; `steel eval compare` says so when they differ. `--reference` is a tokenizer's folder, likewise one for both. The result file holds the window, and nats and bytes of every document, so that any two models can be compared on texts later, whatever their vocabularies: where a tokenizer has no `<|endoftext|>`, its BOS stands before a document, or else its EOS. It runs on the GPU where there is one; we have not timed it there.
#
# This chapter's script is that command at a preset: `python notebooks/13_perplexity.py --preset gpu1` reads the model in `runs/13_perplexity-gpu1/hf` and the domains in `runs/13_perplexity-gpu1/heldout`.
#
# ## Failure gallery
#
# ```{admonition} Bytes counted from single tokens
# :class: failure
# nanochat counted the bytes of each entry by decoding it alone. A byte that is no character alone decodes to �, which is three bytes, so its bits per byte came out too low (pull request 693). **Here:** bytes are counted on whole documents, with no tokenizer ([chapter 05](05_tokenizer.ipynb)). Exercise 13.4 makes the mistake with a vocabulary where it is not small.
# ```
#
# ```{admonition} Words here, tokens there
# :class: failure
# A user of lm-eval found a perplexity for Llama 2 on WikiText that was more than half again as high as the papers'. The harness divides by words, papers by tokens, and their windows may differ too. An earlier version of the harness's bits per byte lacked the $\ln 2$, and was nats.
# ```
#
# ```{admonition} A separator for one token only
# :class: failure
# Our own, found while this chapter was written. `steel eval perplexity` scored a document's first token after the separator and all others without it; training has it before all of them. That cost this page's model about a hundredth. **Here:** the separator is a document's first token, for every window that reaches back to it.
# ```
#
# ## Exercises
#
# **13.1 Recall.** Why may two models with different vocabularies be compared by nats per document, but not by nats per token?
#
# ```{dropdown} Answer 13.1
# The document is the same for both, and the product of its tokens' probabilities is a probability of the document (of this spelling of it). The number of tokens is each model's own: a longer token carries more text and costs more.
# ```
#
# **13.2 Calculate.** Model A: loss 2.30 nats per token, 4.31 bytes per token. Model B: loss 1.90, 3.20 bytes per token. Which predicts better, and what would be B's loss per token of A's tokenizer?
#
# ```{dropdown} Answer 13.2
# $2.30 / 4.31 / \ln 2 = 0.770$ bits per byte against $1.90 / 3.20 / \ln 2 = 0.857$: A, although its perplexity is 9.97 and B's 6.69. B costs $1.90 / 3.20 = 0.594$ nats a byte, or 2.56 per token of A's.
# ```

# %% tags=["active-ipynb", "hide-cell"]
# a, b = 2.30 / 4.31, 1.90 / 3.20
# assert [round(x, 3) for x in (a / math.log(2), b / math.log(2), b)] == [0.770, 0.857, 0.594]
# print(f"{math.exp(2.30):.2f} {math.exp(1.90):.2f} {b * 4.31:.2f}")

# %% [markdown]
# **13.3 Code.** Write `difference(nats_a, nats_b, sizes)`: bits per byte of model B minus model A over all documents, and its standard error, clustered by document, from lists of nats and of bytes.

# %% tags=["active-ipynb", "hide-cell"]
# def difference(nats_a, nats_b, sizes):
#     bits = [(b - a) / math.log(2) for a, b in zip(nats_a, nats_b)]
#     mean = sum(bits) / sum(sizes)
#     return mean, math.sqrt(sum((x - mean * n) ** 2 for x, n in zip(bits, sizes))) / sum(sizes)
#
# check("13.3", difference)

# %% [markdown]
# **13.4 Break it.** Count the bytes of held-out Chinese by decoding each token alone, for both vocabularies of this page. Which model wins then?

# %% tags=["active-ipynb", "hide-cell"]
# ratio = {}
# for name, (_, entries) in models.items():
#     alone = sum(len(entries.decode([i]).encode()) for text in fresh for i in encode_text(entries, text))
#     ratio[name] = sum(len(text.encode()) for text in fresh) / alone
# print({name: f"{r:.2f} of the true value" for name, r in ratio.items()})
# assert ratio["bytes"] < 0.5 < ratio["1,024 entries"] < 1
# counted = {name: r * by[name]["Chinese"]["bpb"] for name, r in ratio.items()}
# print({name: f"{bits:.2f} bits per byte, so counted" for name, bits in counted.items()})
# assert counted["bytes"] < counted["1,024 entries"], "the order turns round"

# %% [markdown]
# ```{dropdown} Answer 13.4
# For the model of bytes every byte of a Hanzi counts as three, so bits per byte fall to little more than a third, and below those of the other model: the mistake turns the order round. With 1,024 entries only the fragments are miscounted, and the error is easily overlooked.
# ```
#
# **13.5 Open, ten minutes on one core.** `python -m figures.experiments.vocabularies --run runs/vocabularies --out vocabularies.json` trains three vocabularies under three seeds, at equal bytes of text and at equal seconds. By bits per byte the largest wins everywhere, by the mean ([chapter 05](05_tokenizer.ipynb) shows it). Before you start it: which wins by perplexity per token, in each domain and under each budget? Every row of the file has both. Then say by which of the two budgets you would choose a vocabulary, and why.
#
# ```{dropdown} Answer 13.5
# With equal bytes the largest, best by bits per byte, is the worst in all four domains, and bytes alone has the lowest perplexity, 1.9 a token for Chinese where 1,024 entries have 5.7. A byte is easier to guess than a word, and there are more of them. With equal seconds that still holds for Chinese and dialogue; in English the middle one wins, in code nobody. As to budgets: equal bytes asks which vocabulary learns most from a text, which matters when text is scarce; equal seconds asks which learns most from a machine, the usual case, where a small vocabulary pays with more tokens for the same text and a large one with a wider head.
# ```
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What is perplexity?** $e$ to the mean cost of a token. Comparable only between models with one vocabulary.
# ```
#
# ```{admonition} Card
# :class: card
# **What compares any two models?** Bits per byte: nats of whole documents over $\ln 2$ times their UTF-8 bytes.
# ```
#
# ```{admonition} Card
# :class: card
# **How to average domains?** Each with one voice: perplexities geometrically, bits per byte plainly, over the same domains for all.
# ```
#
# ```{admonition} Card
# :class: card
# **What belongs beside the number?** Window, stride, what stands before the first token, and how many documents.
# ```
#
# ```{admonition} Card
# :class: card
# **When does a low loss mean memory?** When it is low against controls of the same kind that were never written.
# ```

# %% tags=["active-ipynb", "timing"]
# badge()

# %%
if __name__ == "__main__":
    model_at, texts_at = RUN / "hf", RUN / "heldout"
    if cfg.preset == "cpu" and not model_at.is_dir():
        train_texts, domains = town(RUN)
        small, vocabulary = trained(train_texts, 1024, 60_000)
        save_model(model_at, small, tokenizer=vocabulary)
        write_domains(domains, texts_at)
    files = sorted(map(str, texts_at.glob("*.jsonl")))
    if not model_at.is_dir() or not files:
        raise UserError(f"{RUN} needs a model in hf/ and held-out text in heldout/<domain>.jsonl")
    steel("eval", "perplexity", str(model_at), *files, *WINDOW)
