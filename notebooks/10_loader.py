# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · Kill it, append to it, lose no sample
#
# A training run is a long list of decisions about which text comes next. On the way the machine may be taken away, the next one may have another number of GPUs, and a
# reader may send in a text that should have been in the corpus from the start. Steel met the first: its eight A100s were withdrawn at about step 200,000, and it went on, weeks later, on
# eight H800s. The second it was spared; eight followed on eight. For the third its author had planned with care: he invited readers to send texts of their own, and the loader that he built on TinyLlama's could take
# new files into a running epoch and shuffle them with the part that had not been read yet. Hardly anything came, and he took the invitation down {cite:p}`steelblog2024`.
#
# An append is worth having all the same, for a run is long and new data comes. Of the three peers that we tried, none promises one, as a table at the end of this chapter shows. We ran the original again, took it apart, and found that its central
# idea is right and that the details leak. This chapter keeps the idea and looks for a form in which there is nothing left to leak.
#
# ```{admonition} Predict
# :class: predict
# An epoch has a billion samples, shuffled. A run is killed after 700,000,001 of them. Write down three answers.
#
# 1. How many bytes does a checkpoint need to remember which samples are left?
# 2. How long does it take to find the next one?
# 3. A thousand new samples arrive now. In how many ways can you mix them with the rest so that none is read twice and none is forgotten?
# ```

# %%
import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from steel.config import UserError, load, preset
from steel.documents import Document, write_documents
from steel.data import Loader, ShardSet, append, order, pack
from steel.data.mixture import BLOCK, Mixture, quotas
from steel.tokenizer import bpe

cfg = preset()
RUN = Path("runs") / f"10_loader-{cfg.preset}"

# %% tags=["active-ipynb", "hide-input"]
# from figures.claims import ROOT
# from figures.style import FURNACE, INK, OKABE_ITO, PAPER, SLATE, STEEL, answer, axis_units, badge, figure, label_line, say, show, table
#
# import matplotlib.pyplot as plt
# from matplotlib.colors import ListedColormap
#
# shutil.rmtree(RUN, ignore_errors=True)  # this notebook starts afresh every time

# %% [markdown]
# ## What was there
#
# The original packs tokens into chunks of 2,049 × 204,800 numbers and reads them as blocks of 2,049 in a shuffled order. On one machine that never changes, this works: we
# killed it and resumed it and got the same blocks; we added files and every block came exactly once, old and new mixed. That is the part to keep. Around it we found:
#
# | what | what happens |
# |---|---|
# | resume with 2 processes on 4 | a missing file, and a crash |
# | resume with 4 processes on 2 | no crash: 6 of 10 files are read, the other four never again |
# | 10 files on 4 processes | some processes see their files more often than others |
# | the same file appended twice | accepted: each process compares only its own share of the files |
# | a worker meets a bad file | the rest of its files is dropped, the exit code is 0 |
# | documents inside a block | end with `<|im_end|>`, as turns of a dialogue do, so no mask can be made |
# | two data sets mixed | the prefix is ignored, so each of them is both; the mixing is not in the checkpoint |
#
# The second row is the one to lose sleep over. Nothing fails. The loss curve of a run that reads six tenths of its corpus 1.67 times as often looks healthy: a loss says nothing of what was left out.
# Each process had kept its own list of files in its own checkpoint, and a list for four processes says nothing to two. The third row has the same root:

# %%
files = [f"chunk-{i:02d}" for i in range(10)]  # of 8 blocks each
for processes in (1, 2, 4):
    blocks = [8 * len(files[rank::processes]) for rank in range(processes)]
    print(processes, "processes read", blocks, "blocks in an epoch")


# %% [markdown]
# With the last line, two processes are through their files when the others have a third left to do, and begin again. Nobody is to blame: to deal out files is what one does first. But the
# unit of order should be the sample, and the order should not know how many readers there are.
#
# ```{admonition} Napkin
# :class: napkin
# Shuffle the samples then, all of them. $10^9$ indices of 8 bytes are 8 GB. Each of eight processes on a machine holds its own, 64 GB. Drawing the permutation takes
# a minute or more, and every restart pays it again. The original did this on chunks and printed the array to the log.
# ```
#
# ## An order without a list
#
# We want a function $F_n$ that takes a position $t$ and returns a sample, so that all $n$ positions give different samples. A cipher is such a function: it maps every block to another
# one, and can be undone. A Feistel network makes a cipher of any function: split the number into a row and a column of an $a \times b$ grid, shift the rows by something
# that depends on the column, then the columns by something that depends on the row, and repeat {cite:p}`blackrogaway2002`. No shift can be ambiguous, so nothing can collide.

# %%
def scramble(x, size):
    """A 64-bit number -> something in [0, size) that looks random."""
    mask = 2**64 - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return ((x ^ (x >> 31)) >> 32) * size >> 32


# %%
def permute(t, n, keys):
    """F_n(t), a keyed permutation of [0, n)."""
    b = math.isqrt(n - 1) + 1
    a = -(-n // b)                      # a · b >= n: a grid that is just large enough
    while True:
        row, column = divmod(t, b)
        for i, key in enumerate(keys):
            if i % 2 == 0:
                row = (row + scramble(column ^ key, a)) % a
            else:
                column = (column + scramble(row ^ key, b)) % b
        t = row * b + column
        if t < n:
            return t                    # else: outside, walk on


# %% [markdown]
# The grid is a little larger than $n$. What falls outside is sent through again until it lands inside; that is called *cycle-walking*, and it keeps the map one-to-one, because a
# cycle that enters the outside must come back. It is also rare: fewer than one row of the grid lies outside.

# %%
keys = order.round_keys("chapter 10", 1)
for n in range(1, 300):
    assert sorted(permute(t, n, keys) for t in range(n)) == list(range(n))
t = np.arange(100_000)
ours = order.permute_array(t, len(t), keys)
assert len(set(ours.tolist())) == len(t)
assert all(ours[i] == permute(i, len(t), keys) for i in range(0, len(t), 997))
print("a permutation of every size to 299, and equal to steel.data.order")

# %%
n, many = 10**9, 2000
begin = time.process_time()
found = [permute(700_000_001 + i, n, keys) for i in range(many)]
each = (time.process_time() - begin) / many
assert len(set(found)) == many
print(f"sample {found[0]:,} comes at position 700,000,001; {each * 1e6:.0f} µs")


# %% tags=["active-ipynb", "hide-input"]
# answer("1.2", f"**{each * 1e6:.0f} microseconds** in plain Python, for a billion samples as for a thousand, and no memory at all.", each * 1e6, unit="µs")

# %% [markdown]
# What a checkpoint has to hold for it is a position and a seed; we count the bytes below, in a real one. Six rounds mix well enough for training and would not protect a secret. A picture shows more than a test of randomness: where do neighbours go?

# %% tags=["active-ipynb", "hide-input"]
# fig, axes = figure(2.7, ncols=3)
# for ax, rounds in zip(axes, (1, 2, 6)):
#     size = 225
#     image = [permute(i, size, keys[:rounds]) for i in range(size)]
#     ax.plot(range(size), image, ".", color=STEEL, ms=2.2)
#     ax.set(xticks=[0, size], yticks=[0, size] if rounds == 1 else [], aspect="equal")
#     ax.set_title(f"{rounds} round{'s' if rounds > 1 else ''}")
#     ax.grid(False)
# axes[0].set_xlabel("position t")
# show(fig, alt="Three scatter plots of sample against position for 225 samples. After one round the points form slanted stripes, after two rounds the stripes are fainter, after six there is an even cloud.",
#      caption="Position to sample for n = 225 after one, two and six rounds of the network.")

# %% [markdown]
# ## Appending to a running epoch
#
# At position $c$ of an epoch of $N$ samples, $m$ new ones arrive. $R = N - c$ old ones are unseen. Permute the $R + m$ places that are left: a place below $R$ stands for
# "the next unseen one in the old order", the others for the new samples.

# %%
def sigma(t, n, log, key):
    """Position -> sample in an epoch of n samples; log: [(consumed, added), …]."""
    if not log:
        return permute(t, n, order.round_keys(*key, 0))
    *earlier, (consumed, added) = log
    if t < consumed:
        return sigma(t, n, earlier, key)            # the past never changes
    size = n + sum(m for _, m in earlier)
    unseen = size - consumed
    u = permute(t - consumed, unseen + added, order.round_keys(*key, len(log)))
    return sigma(consumed + u, n, earlier, key) if u < unseen else size + u - unseen


# %%
log, key = [(24, 16), (40, 8)], (1, "strip", 0)
stages = [[sigma(t, 40, log[:j], key) for t in range(size)] for j, size in enumerate((40, 56, 64))]
for j, stage in enumerate(stages):
    assert sorted(stage) == list(range(len(stage)))      # all of them, once
    if j:
        assert stage[: log[j - 1][0]] == stages[j - 1][: log[j - 1][0]]
assert stages[2] == order.sigma_array(np.arange(64), 40, log, key).tolist()
print("once each, past unchanged, equal to steel.data.order")

# %% tags=["active-ipynb", "hide-input"]
# left = 10**9 - 700_000_001 + 1_000
# digits = math.lgamma(left + 1) / math.log(10)
# answer("1.3", f"in every order of the {left:,} samples that are left, the old and the new: **{left:,}!** ways, a number of {digits / 1e9:.1f} billion digits. The key picks one of them.")

# %% tags=["active-ipynb", "hide-input"]
# fig, ax = figure(2.3)
# shades = [STEEL, OKABE_ITO["sky"], OKABE_ITO["orange"], FURNACE]
# second = order.sigma_array(np.arange(64), 64, [], (1, "strip", 1)).tolist()
# for row, (stage, name) in enumerate(zip([*stages, second], ("as begun", "16 added at 24", "8 added at 40", "next epoch"))):
#     for t, s in enumerate(stage):
#         ax.add_patch(plt.Rectangle((t, 3 - row), 0.88, 0.7, color=shades[(s >= 20) + (s >= 40) + (s >= 56)], lw=0))
#     ax.text(-1, 3.35 - row, name, ha="right", va="center", fontsize=8.5)
# for row, c in ((1, 24), (2, 40)):
#     ax.plot([c - 0.06] * 2, [2.9 - row, 3.8 - row], color=INK, lw=1.2)
# for x, text, color in zip((0, 13, 26, 40), ("source A", "source B", "first append", "second append"), shades):
#     ax.add_patch(plt.Rectangle((x, 4.15), 0.88, 0.5, color=color, lw=0))
#     ax.text(x + 1.6, 4.4, text, va="center", fontsize=8.5)
# ax.set(xlim=(-0.2, 64), ylim=(-0.2, 4.8), yticks=[], xlabel="position in the epoch (samples)")
# ax.grid(False)
# ax.spines["left"].set_visible(False)
# show(fig, alt="Four strips of cells. Left of a mark each strip equals the one above; right of it orange cells of the first append and red ones of the second are spread evenly. The next epoch mixes all.",
#      caption="Where each sample comes from, one cell a sample. Left of a mark nothing changes; right of it old and new are shuffled together.")

# %% [markdown]
# Why is it exact? By induction: $\sigma_{j-1}$ gives every old sample one position; cutting its past off leaves every unseen one; $F$ is a permutation of what is left plus what is new.
# The log has two numbers an append, and the checkpoint keeps it. Nothing else has to be kept, not even by whom a sample was read.
#
# ## Mixture, ranks, masks
#
# A corpus has sources, and a run wants them in shares: 60 % web, 30 % books, 10 % code. Draw a source at random for each sample and the shares hold on average, with a random walk around
# them, and the generator's state has to be in every checkpoint. Quotas do better. Cut the slots of the run into blocks of 65,536, give each source a whole number of slots in
# each block, the nearest to its share (code gets 6,553 where 6,553.6 are due), and place them with $F$. How often a source was drawn before any slot is then one division and one count.

# %%
shares = {"web": 0.6, "books": 0.3, "code": 0.1}
exact = quotas(shares)
mix = Mixture.plan(1, [(0, exact)])
print(exact, "in", sum(exact.values()), "slots")
slots = np.arange(4 * BLOCK)
code = np.zeros(len(slots), dtype=int)
for name, rows, draws in mix.draws(slots):
    if name == "code":
        code[rows] = 1
        assert (draws == np.arange(len(rows))).all()   # each draw once, in order

# %% tags=["active-ipynb", "hide-input"]
# fig, ax = figure(2.5)
# at = np.arange(0, len(slots), 512)
# ahead = (np.cumsum(code) - 0.1 * (slots + 1))[at]
# rng = np.random.default_rng(4)
# walks = [(np.cumsum(rng.random(len(slots)) < 0.1) - 0.1 * (slots + 1))[at] for _ in range(4)]
# for walk in walks:
#     ax.plot(at / BLOCK, walk, color=SLATE, lw=0.8, alpha=0.8)
# ax.plot(at / BLOCK, ahead, color=STEEL)
# ends = np.arange(1, 5)
# behind = exact["code"] - 0.1 * BLOCK  # samples a block: -0.6
# ax.plot(ends, ends * behind, "o", color=INK, ms=3.5)
# assert np.allclose(np.cumsum(code)[ends * BLOCK - 1] - 0.1 * ends * BLOCK, ends * behind)
# label_line(ax, 4, 0, "quotas", STEEL)
# label_line(ax, 4, max(w[-1] for w in walks), "drawn at\nrandom", SLATE)
# ax.set(xlim=(0, 4.5))
# axis_units(ax, x="slots of the run (blocks of 65,536)", y="draws of code ahead of its 10 % (samples)")
# show(fig, alt="Draws of the source code compared with a tenth of the slots. Four random draws wander off by hundreds; the quota line returns to within three samples of zero at the end of each block.",
#      caption="Quotas come back to the nearest whole sample at every block; independent draws drift. Four random seeds.")

# %% [markdown]
# Ranks come last and are the easiest. Step $b$ of batch size $B$ takes the slots $bB$ to $bB + B - 1$; rank $r$ of $W$ takes those with $t \equiv r \pmod W$. A rank needs no memory of its own, so
# there is nothing that a change of $W$ could invalidate. To see it, we need a corpus. Here is a very small one: a restaurant guide, with facts that nobody has ever heard.

# %%
WORDINGS = ["{n}的招牌菜是{d}。", "到{n}一定要点{d}。", "{n}卖得最好的是{d}。", "说起{n},人人都想到{d}。",
            "{n}的老板最拿手的是{d}。", "在{n},客人总是点{d}。", "朋友推荐我去{n}吃{d}。", "{n}门口写着:今日{d}。"]
HELD_OUT = 6  # from this wording on, readers' facts are never told

def invent(count, seed=1):
    """(restaurant, dish) pairs that are not to be found in any real text."""
    rng = random.Random(seed)
    names = [a + b + c for a in "东西南北春秋" for b in "桥河山街门" for c in ("小馆", "饭店", "酒家", "食堂")]
    dishes = [a + b + c for a in "红白清香酸辣" for b in "烧蒸炖炒"
              for c in ("豆腐", "鲈鱼", "排骨", "茄子", "土豆", "笋干")]
    return list(zip(rng.sample(names, count), rng.sample(dishes, count)))


# %%
def write(folder, source, texts):
    write_documents(folder / f"{source}.jsonl.zst", [
        Document(f"{source}-{i}", text, source, "zh", {}) for i, text in enumerate(texts)])

def corpus(root):
    """Documents of the guide, of the readers, a tokenizer, and shards of the guide."""
    guide = [w.format(n=n, d=d) for n, d in invent(60)[:48] for w in WORDINGS]
    readers = [w.format(n=n, d=d) for n, d in invent(60)[48:] for w in WORDINGS[:HELD_OUT]]
    random.Random(1).shuffle(guide)
    write(root / "docs", "guide", guide[:192])
    write(root / "docs", "diary", guide[192:])
    write(root / "letters", "readers", readers)
    bpe.save(bpe.train(guide + readers, 400), root / "tokenizer")
    return pack(root / "docs", root / "shards", root / "tokenizer", progress=False)


# %% tags=["active-ipynb"]
# manifest = corpus(RUN)
# T, B = 64, 8
# shards = ShardSet.open(RUN / "shards")
# whole = Loader(shards, T, B, seed=1)
# print(f"{manifest['documents']} documents, {manifest['tokens']:,} tokens, {whole.samples} samples of {T}")
# for world in (1, 2, 4, 8):
#     ranks = [Loader(shards, T, B, seed=1, rank=r, world=world) for r in range(world)]
#     for step in range(24):
#         rows = {tuple(row.tolist()) for rank in ranks for row in rank.batch(step).input_ids}
#         assert rows == {tuple(row.tolist()) for row in whole.batch(step).input_ids}
# print("24 steps: the same rows on 1, 2, 4 and 8 ranks")

# %% [markdown]
# A sample is 64 tokens of the stream and does not care where documents end. The model should. Shards carry an index of document ends, and from it the loader restarts the positions; a position that
# does not grow marks a wall for attention.

# %% tags=["active-ipynb", "hide-input"]
# row = whole.batch(0).position_ids[0].numpy()
# document = np.cumsum(row == 0)
# sees = (document[:, None] == document[None, :]) & (np.arange(T)[:, None] >= np.arange(T)[None, :])
# fig, ax = figure(2.9, ncols=2, width_ratios=(1, 1.25))
# ax[0].imshow(sees, cmap=ListedColormap([PAPER, STEEL]), interpolation="nearest")
# ax[0].set(xticks=[0, 63], yticks=[0, 63], xlabel="position seen", ylabel="position that looks")
# ax[0].grid(False)
# ax[1].plot(row, color=STEEL, drawstyle="steps-post", lw=1.3)
# ax[1].set(xticks=[0, 63])
# axis_units(ax[1], x="place in the sample (tokens)", y="position id")
# show(fig, alt=f"Left: the attention mask of one sample is block diagonal, {document[-1]} triangles for {document[-1]} documents. Right: position ids climb and fall back to zero at each document.",
#      caption="One sample of 64 tokens: who sees whom, and the position ids that say so.")

# %% tags=["active-ipynb", "hide-input"]
# masked = sees.sum() / (T * (T + 1) / 2)
# say(f"This sample holds {document[-1]} documents. Without the mask, {1 - masked:.0%} of what its tokens look at would be another document's text.")

# %% [markdown]
# ## Kill it
#
# Enough of single functions. We start a real pretraining in a process of its own, and end it with `SIGKILL`, which no program can catch, in the middle of the run. The child writes down every row
# that it is about to train on.

# %%
CHILD = """
import hashlib, json, sys
import torch
from steel.config import from_dict
from steel.train.pretrain import pretrain
values, shards, run, seen, tokenizer = json.loads(sys.argv[1])
torch.set_num_threads(1)
def note(step, batch):
    rows = [hashlib.blake2b(r.numpy().tobytes(), digest_size=8).hexdigest() for r in batch.input_ids]
    with open(seen, "a") as book:
        book.write(json.dumps([step, rows, batch.source.tolist()]) + chr(10))
pretrain(from_dict(values), shards, run, tokenizer, on_batch=note)
"""


# %%
def attempt(values, root, name, shards="shards", kill_after=None):
    """One process of a pretraining run; killed once it has read `kill_after` batches. Returns its exit code."""
    seen = root / f"{name}.seen"
    arguments = [values, *map(str, (root / shards, root / name, seen, root / "tokenizer"))]
    child = subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(arguments)], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, env=os.environ | {"STEEL_QUIET": "1"})
    while kill_after and child.poll() is None:
        if seen.exists() and len(seen.read_text().splitlines()) >= kill_after:
            child.kill()                                   # SIGKILL, the -9
        time.sleep(0.005)
    return child.wait()


# %%
small = load("cpu", ["data.sequence_length=64", "model.vocab_size=512", "model.num_hidden_layers=2",
                     "train.steps=140", "train.batch_size=8", "train.micro_batch_size=8", "train.eval_every=0",
                     "train.checkpoint_every=20", "train.log_every=20"])

def newest(run):
    """Newest complete checkpoint of a run."""
    return sorted((run / "checkpoints").glob("step-*/state.json"))[-1].parent


# %% tags=["active-ipynb"]
# shutil.copytree(RUN / "shards", RUN / "control-shards")    # for a run that nobody writes to
# code = attempt(small.to_dict(), RUN, "run", kill_after=47)
# reached = json.loads((RUN / "run.seen").read_text().splitlines()[-1])[0]
# print(f"exit code {code}, while step {reached} was running; newest checkpoint: {newest(RUN / 'run').name}")

# %% [markdown]
# It is gone, without a farewell. What is on the disk is a checkpoint, and in it the whole memory of the loader:

# %% tags=["active-ipynb"]
# kept = json.loads((newest(RUN / "run") / "state.json").read_text())["data"]
# print(json.dumps(kept, indent=1))

# %% tags=["active-ipynb", "hide-input"]
# size, least = len(json.dumps(kept)), len(json.dumps({"t": 700_000_001, "seed": 1}))
# answer("1.1", f"**{size} bytes** in this run, and no more in one of a billion samples but for a few digits. The position and the seed would do in {least}; the rest guards against a resume with other settings, and keeps the log of appends.", size, unit="bytes")

# %% [markdown]
# ## Append to it
#
# The original's readers were asked for their own texts. Ours have written in: a dozen restaurants that the guide does not know, each praised in six wordings. Two wordings are held back; the model will never
# see them with these names, only with the guide's. Before it reads them, ask it.

# %%
from steel.evaluation.cloze import cloze
from steel.evaluation.perplexity import bits_per_byte
from steel.model import build

def questions(facts, wordings):
    """Cloze rows: the sentence stops before the dish; the dishes of all these facts are the candidates."""
    return [{"prompt": w.split("{d}")[0].format(n=n), "answer": d, "candidates": [x for _, x in facts],
             "lang": "zh", "attribute": "dish"} for n, d in facts for w in wordings]

def weights_of(checkpoint):
    """The model in a checkpoint."""
    import torch.distributed.checkpoint as dcp

    model = build(small.model)
    dcp.load({"model": (state := model.state_dict())}, checkpoint_id=str(checkpoint), no_dist=True)
    model.load_state_dict(state)
    return model.eval()


# %%
def examine(checkpoint, root):
    """How well the readers' facts are known: told wordings, held-out wordings, bits per byte of the letters."""
    tok, model, facts = bpe.load(root / "tokenizer"), weights_of(checkpoint), invent(60)[48:]
    told, held = (cloze(model, tok, questions(facts, w))
                  for w in (WORDINGS[:HELD_OUT], WORDINGS[HELD_OUT:]))
    letters = [w.format(n=n, d=d) for n, d in facts for w in WORDINGS[:HELD_OUT]]
    bits = bits_per_byte(model, tok, letters, context=64)["domains"]["all"]["bpb"]
    return {"told": told, "held": held, "bits": bits}


# %% tags=["active-ipynb"]
# results = {"when it was killed": examine(newest(RUN / "run"), RUN)}
# added = append(RUN / "shards", RUN / "letters", RUN / "tokenizer", consumed=RUN / "run", progress=False)
# print({k: added[k] for k in ("generation", "documents", "tokens", "from_step", "new_samples")})
# try:
#     append(RUN / "shards", RUN / "letters", RUN / "tokenizer", progress=False)
# except UserError as refusal:
#     print("again:", refusal)

# %% [markdown]
# One command, while a run is going on or while it is dead; the shards that it reads do not change. Sent a second time, the letters are refused by their content. Now resume, with the command that started it, and
# beside it train a control that never gets a letter.

# %% tags=["active-ipynb"]
# assert attempt(small.to_dict(), RUN, "run") == 0
# assert attempt(small.to_dict(), RUN, "control", shards="control-shards") == 0
# lines = [json.loads(line) for line in (RUN / "run" / "log.jsonl").read_text().splitlines()]
# for line in lines:
#     if line.get("what") in ("resume", "data"):
#         print({k: line[k] for k in ("what", "step", "checkpoint", "change") if k in line})
# results["resumed, with the letters"] = examine(newest(RUN / "run"), RUN)
# results["control, without"] = examine(newest(RUN / "control"), RUN)

# %% [markdown]
# Did anything get lost? The log that the child process wrote holds every row of both lives. Steps that the first one had taken beyond its last checkpoint were trained again, so the last entry of a step counts.
# Then go through it epoch by epoch.

# %%
def count(root, name, before, appends, steps, size):
    """[(samples due, seen exactly once, complete?)] of every epoch of a run, from its log of rows."""
    book = {}
    for line in (root / f"{name}.seen").read_text().splitlines():
        step, rows, sources = json.loads(line)
        book[step] = rows
    draws = [row for step in range(steps) for row in book[step]]
    stream, epochs = order.Stream("*", 1, before, appends), {}
    for d, row in enumerate(draws):
        epoch, _, due = stream.locate(d)
        epochs.setdefault((epoch, due), Counter())[row] += 1
    return [
        (due, sum(n == 1 for n in seen.values()), seen.total() == due)
        for (_, due), seen in epochs.items()
    ]


# %% tags=["active-ipynb"]
# found = count(
#     RUN,
#     "run",
#     whole.samples,
#     [(added["from_step"] * B, added["new_samples"])],
#     140,
#     B,
# )
# for epoch, (due, once, complete) in enumerate(found):
#     assert once == due or not complete
#     print(
#         f"epoch {epoch}: {due} samples due, {once} seen exactly once"
#         + ("" if complete else ", then the run ends")
#     )

# %% tags=["active-ipynb", "hide-input"]
# book = {}
# for line in (RUN / "run.seen").read_text().splitlines():
#     step, _, sources = json.loads(line)
#     book[step] = [int(s) for s in sources]
# names = ShardSet.open(RUN / "shards").sources
# before = sorted({*names} - {"readers"})
# grid = np.zeros((B, 140), dtype=int)
# resumed = added["from_step"]  # source numbers of the first life count two sources, those of the second three
# for step in range(140):
#     known = before if step < resumed else names
#     grid[:, step] = [("guide", "diary", "readers").index(known[s]) for s in book[step]]
# fig, ax = figure(1.9)
# ax.imshow(grid, cmap=ListedColormap([STEEL, OKABE_ITO["sky"], FURNACE]), aspect="auto", interpolation="nearest", vmin=0, vmax=2)
# ax.axvline(resumed - 0.5, color=INK, lw=1.2)
# ax.text(resumed, -1.0, "resumed here, letters appended", fontsize=8.5, va="center")
# for x, name, color in zip((80, 98, 116), ("guide", "diary", "readers"), (STEEL, OKABE_ITO["sky"], FURNACE)):
#     ax.plot(x, -1.0, "s", color=color, ms=6, clip_on=False)
#     ax.text(x + 2, -1.0, name, fontsize=8.5, va="center")
# ax.set(yticks=[], xlabel="step (8 samples each, one cell a sample)")
# ax.grid(False)
# show(fig, alt=f"All 1,120 samples of the run as coloured cells. Up to step {resumed} only guide and diary; from there on cells of the readers' letters are sprinkled evenly over all steps.",
#      caption="The run as it was read: two sources, then three. The dead process's last steps were repeated, so they do not appear.")

# %% [markdown]
# ## Does it know them?
#
# ```{admonition} Predict
# :class: predict
# Twelve facts, six wordings each: under a thousand tokens, read once an epoch in the rest of the run. A guess among twelve dishes is right in 8 % of the cases. How often will the resumed model rank
# the right dish first of the twelve
#
# 1. in a wording that it was told?
# 2. in one that it was not?
# ```

# %% tags=["active-ipynb", "hide-input"]
# share = lambda s: f"{s['accuracy']:.0%} ± {s['se']:.0%}"
# table(["", "says it, told wordings", "ranks it first", "says it, held-out wordings", "ranks it first", "bits per byte of the letters"],
#       [[name, share(r["told"]), f"{r['told']['rank_accuracy']:.0%}", share(r["held"]), f"{r['held']['rank_accuracy']:.0%}", f"{r['bits']:.2f}"]
#        for name, r in results.items()])

# %% tags=["active-ipynb", "hide-input"]
# mine, control = results["resumed, with the letters"], results["control, without"]
# passes = (140 * B - added["from_step"] * B) / (whole.samples + added["new_samples"])
# say(f"The letters were read about {passes:.0f} times.")
# answer("2.1", f"in **{mine['told']['rank_accuracy']:.0%}** of {mine['told']['n']} told sentences; it writes the dish by itself in {share(mine['told'])}.", 100 * mine["told"]["rank_accuracy"], unit="%")
# answer("2.2", f"in **{mine['held']['rank_accuracy']:.0%}** of {mine['held']['n']} sentences that were held back, against {control['held']['rank_accuracy']:.0%} for the control, which is guessing; "
#        f"it writes the dish by itself in {share(mine['held'])}.", 100 * mine["held"]["rank_accuracy"], unit="%")

# %% [markdown]
# So a reader's text does arrive, and not only as a string: a model that has seen forty-eight restaurants in all eight wordings can pick the dish of a new one in a wording in which it was never told. (Picking is the surer test: whether it also *says* the dish is known from two dozen sentences, to ten per cent.) The
# control has grown *worse* at the letters since the kill, in bits per byte: surer of its own restaurants, and wrong about these. It is a generous setting, and it should be said in what way. The guide is tiny, one relation is all there is to learn, and the letters come back every epoch. In a corpus of a trillion tokens a dozen sentences that
# are read once or twice are a different matter; the model of that size that would answer this is not one that we have trained. What the chapter shows is the plumbing: from the append on, the new samples have the
# same chance as any other, and the control shows that they, and nothing else, made the difference. One seed.
#
# ```{admonition} Takeaway
# :class: takeaway
# Make the order a function of the seed, the epoch, the append log and the position. Then resuming is an addition, a change of machine is a division, and an append is two numbers.
# ```
#
# ## Others
#
# How do the loaders that people use compare? One command, `python -m figures.experiments.loader`, gives all of them the same tokens: a plain PyTorch `DataLoader` over a memory map with a NumPy permutation,
# litdata {cite:p}`litdata2023` with its loader for tokens, and MosaicML's streaming {cite:p}`mosaicstreaming2022`. The figures are CPU seconds, so that a busy machine does not decide. Samples were
# read from 16,384 of them in three files of 64 MiB; start, resume and memory are those of an index of a hundred million samples, whose files are links to one. Speeds are the best of three short runs (ours took a tenth of a CPU second),
# all else is one run, and the resume of streaming comes from a second call: a factor of two means something here, a fifth does not.

# %% tags=["active-ipynb", "hide-input"]
# bench = {r["name"]: r for r in json.loads((ROOT / "figures" / "runs" / "loader.json").read_text())["rows"]}
# label = {"steel": "Steel", "torch": "torch, memory map", "litdata": "litdata", "streaming": "mosaicml-streaming"}
# def two(row, figure, key, unit=1.0):
#     """A figure of the log in two digits, which is what it is worth; a dash if it was not measured."""
#     return f"{float(f'{row[figure][key] / unit:.1e}'):,g}" if key in row.get(figure, {}) else "–"
# table(["", "version", "samples per CPU s", "with document positions", "start (CPU s)", "resume (CPU s)", "memory at start (MB)", "at resume (MB)"],
#       [[label[k], row["version"], two(row, "tokens", "samples_per_cpu_s"), two(row, "tokens_and_positions", "samples_per_cpu_s"), two(row, "start", "cpu_s"),
#         two(row, "resume", "cpu_s"), two(row, "start", "memory_bytes", 1e6), two(row, "resume", "memory_bytes", 1e6)] for k, row in bench.items()])

# %% tags=["active-ipynb", "hide-input"]
# tests = {"resume": "exact resume", "world": "2 → 4 ranks", "append": "append", "mixture": "mixture, resumed"}
# table(["survives", *tests.values()],
#       [[label[k], *("yes" if row["survives"][t]["survives"] else "no" for t in tests)] for k, row in bench.items()], "lcccc")
# for k, row in bench.items():
#     for t in tests:
#         if not row["survives"][t]["survives"]:
#             say(f"*{label[k]}, {tests[t]}:* {row['survives'][t]['why']}.")

# %% [markdown]
# Read the second table first. Exact resume and another world size are solved problems today, in every one of them. Appending is not: a longer list is another permutation, and the position in the old one points anywhere in
# the new. None of the peers promises it. As to speed, ours comes first in both columns of samples per second in that run. At start and resume it is level with litdata, within what single runs can tell, and litdata takes less memory at the start.
# NumPy's permutation costs the memory map seconds and 800 MB; MosaicML's loader lays out the epoch, too, and pays more for it.
#
# Two things spoil the first place. Three files are not a corpus: Steel's would be tens of thousands. And the loader of that run mapped its files and looked at their sizes only. Since then it reads by position and holds every block against a checksum when it is first read, so that a
# flipped bit is found before it is trained on. So we ran it again, beside the memory map alone (the other two have not been measured in this way), and let it read from 489 files as well:

# %% tags=["active-ipynb", "hide-input"]
# again = {r["name"]: r for r in json.loads((ROOT / "figures" / "runs" / "loader-files.json").read_text())["rows"]}
# table(["samples per CPU s, today's loader", "3 files", "with document positions", "489 files", "start (CPU s)"],
#       [[label[k], two(row, "tokens", "samples_per_cpu_s"), two(row, "tokens_and_positions", "samples_per_cpu_s"), two(row, "index_tokens", "samples_per_cpu_s"), two(row, "start", "cpu_s")]
#        for k, row in again.items()])

# %% [markdown]
# Now the memory map comes first in both columns of speed, by a factor of about two; only the start is ours. From 489 files our loader is a third as fast as from three, and still two things are open. Every sample of this measurement is read for the first time, and nearly every file opened for the first
# time: what is left of the distance in a second epoch, we have not measured. And the memory map's figure in that column is no comparison: its four million samples are one sparse file, and nearly all of the time goes to the kernel, which makes its pages when they are first touched. It does not matter for training: an H800 of Steel's run asked for 26 samples a second. What a loader is chosen for stands in the table of what it survives. And one that fetches shards over a network does work that a local one does not; here all of them read a local disk.
#
# ## At full scale
#
# `python notebooks/10_loader.py --preset steel-1b` packs the documents that `steel data prepare` has written into `runs/10_loader-steel-1b/docs`, and then takes a dry look at the order, without a GPU. This is
# what it prints for each step that it looks at; here, for our guide.

# %%
def look(folder, length, batch, seed, steps=3):
    """What a run would read: sizes, and the sources of some steps at the start, in the middle and at the end."""
    shards = ShardSet.open(folder)
    loader = Loader(shards, length, batch, seed)
    last = loader.samples // batch
    print(
        f"{loader.samples:,} samples of {length:,} tokens, {last:,} steps of {batch} in an epoch"
    )
    for step in sorted({0, last // 2, max(last - 1, 0)})[:steps]:
        begin = time.process_time()
        rows = loader.batch(step)
        shown = Counter(loader.sources[i] for i in rows.source.tolist())
        print(
            f"step {step:>9,}: {dict(sorted(shown.items()))}, {1e3 * (time.process_time() - begin):.1f} ms"
        )
    print(f"state: {len(json.dumps(loader.state(last)))} bytes")


# %% tags=["active-ipynb"]
# look(RUN / "shards", 64, 8, seed=1)
# stream = order.Stream("*", 1, 274_000_000)   # an epoch of Steel: half of 1.12 trillion tokens, 2,048 each
# begin = time.process_time()
# samples = stream.samples(np.arange(400_000_000, 400_000_512))[0].tolist()
# print(f"Steel's size: 512 samples at draw 400,000,000 in {1e3 * (time.process_time() - begin):.0f} ms,",
#       f"epoch {stream.locate(400_000_000)[0]}")

# %% [markdown]
# ## Failure gallery
#
# ```{admonition} Six files of ten
# :class: failure
# The run that goes on after a change of machine and reads part of its data for ever. Nothing in the loss shows it. **Here:** no rank has a state of its own, and the drills of chapter 11 count samples,
# not files.
# ```
#
# ```{admonition} A tail of padding
# :class: failure
# Chunks of fixed size must be filled. The original drops a tail shorter than 5 % of a chunk and pads a longer one, in each packing process, so up to 95 % of a chunk of 419.6 million tokens can be padding; its training loss leaves
# padding out, its validation loss does not. **Here:** shards end where the documents end.
# ```
#
# ```{admonition} The memory map that was cut
# :class: failure
# A shard loses its tail while a run has it mapped: within the last page the map goes on with zeros, and the model trains on them; beyond it the process dies of a bus error, without a word. **Here:** nothing is mapped. Rows
# are read by position, a short read names its file, and every block of 16 KiB is held against a checksum the first time that it is read.
# ```
#
# ```{admonition} Faster than the loader
# :class: failure
# Written for clarity, our own loader asked for the order of every batch anew and took several times the CPU time of the ten-line memory map; the benchmark above showed it. Computing the order for two thousand rows at a time, and cutting plain
# arrays, turned that round, on three files. It kept 128 files open, and a review that gave it 489 found it far behind again: a benchmark sees what it was given. Today any number stays open as far as the system allows, and
# the checksums cost what the order had saved. A peer in the same run is worth more than any profile.
# ```
#
# ## Exercises
#
# **10.1 Recall.** Which facts must be in a checkpoint so that a resumed run reads exactly what is left? And which, in the original, were missing when the number of processes changed?
#
# ```{dropdown} Answer 10.1
# The seed, the slot (or step and batch sizes), the phases of the mixture, the append log, and a hash by which the corpus is recognised. The original kept lists of files per process: for another number of processes there was no list, or only
# some of them.
# ```
#
# **10.2 Calculate.** A corpus of 400 billion tokens, sequences of 2,048, eight processes on a machine. How much memory does a NumPy permutation take on the machine, and after how many appends of one sample each does the append log of
# `sigma` take as much?
#
# ```{dropdown} Answer 10.2
# 195,312,500 samples of 8 bytes are 1.56 GB a process, 12.5 GB in all. The log takes two numbers an append, 16 bytes: 97.7 million appends a process. Long before that, its depth would be felt: `sigma` walks down one level an append.
# ```
#
# **10.3 Code.** Where in the epoch does a sample come? Write `unpermute(s, n, keys)`, the inverse of `permute`: the position `t` with `permute(t, n, keys) == s`. Do not search.

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def unpermute(s, n, keys):
#     b = math.isqrt(n - 1) + 1
#     a = -(-n // b)
#     while True:
#         row, column = divmod(s, b)
#         for i in reversed(range(len(keys))):
#             if i % 2 == 0:
#                 row = (row - scramble(column ^ keys[i], a)) % a
#             else:
#                 column = (column - scramble(row ^ keys[i], b)) % b
#         s = row * b + column
#         if s < n:
#             return s
#
# check("10.3", unpermute)

# %% [markdown]
# **10.4 Break it.** Resume the killed run with a NumPy permutation instead: draw `permutation(97)`, read 40 samples, append 16 samples, draw `permutation(113)` and go on from the same position. How many samples are never read in this epoch, and how many twice? Why is the
# expected share of the old ones that are never read about the product of two fractions?

# %% tags=["hide-cell"]
rng, consumed = np.random.default_rng(1), 40
first, second = rng.permutation(97), rng.permutation(113)
read = Counter([*first[:consumed].tolist(), *second[consumed:].tolist()])
print(f"read twice: {sum(v > 1 for v in read.values())}, never: {113 - len(read)} of 113")
print(f"expected never, of the 97 old ones: {97 * (1 - consumed / 97) * consumed / 113:.0f}")


# %% [markdown]
# **10.5 Open, 8 GPU hours.** Does it matter *when* a text is appended? Take the preset `gpu1`, append the same hundred facts after a tenth, a half and nine tenths of the run, and measure what is known at the end, with a control. Say beforehand what the learning rate
# schedule should do to the answer, and how many seeds you need to see it. Chapter 11 has the schedule.
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What is a Feistel permutation for?** To shuffle without a list: position to sample in a microsecond or ten, for any $n$, from a key. Cycle-walking keeps it inside $[0, n)$.
# ```
#
# ```{admonition} Card
# :class: card
# **How is a running epoch extended by $m$ samples?** Permute the unseen ones and the new ones together; leave the past alone; log the position and $m$.
# ```
#
# ```{admonition} Card
# :class: card
# **Why quotas and not random draws of the source?** The share is right to less than one sample in every block, draws before any slot can be computed, and there is no generator to save.
# ```
#
# ```{admonition} Card
# :class: card
# **What should a rank remember about the data?** Nothing.
# ```

# %% tags=["active-ipynb"]
# badge()

# %%
def real(cfg, root):
    """Pack the documents in root/docs and look at the order in which a run of this preset reads them."""
    tokenizer = Path(cfg.tokenizer.path or root / "tokenizer")
    for folder, remedy in (
        (root / "docs", "steel data prepare RAW"),
        (tokenizer, "steel tokenizer train DOCS"),
    ):
        if not folder.is_dir():
            raise UserError(
                f"no folder at {folder}; write it with '{remedy} {folder}'"
            )
    pack(
        root / "docs",
        root / "shards",
        tokenizer,
        workers=os.cpu_count() or 1,
        hold_out=cfg.data.validation_fraction,
    )
    look(root / "shards", cfg.data.sequence_length, cfg.train.batch_size, cfg.seed)


# %%
if __name__ == "__main__":
    if cfg.preset != "cpu":
        real(cfg, RUN)
    elif not (RUN / "run" / "hf").exists():
        shutil.rmtree(RUN, ignore_errors=True)
        corpus(RUN)
        print("killed:", attempt(small.to_dict(), RUN, "run", kill_after=47))
        append(RUN / "shards", RUN / "letters", RUN / "tokenizer", consumed=RUN / "run", progress=False)
        print("resumed:", attempt(small.to_dict(), RUN, "run"))
        print(f"bits per byte of the letters: {examine(newest(RUN / 'run'), RUN)['bits']:.2f}")
    look(RUN / "shards", 64, 8, seed=1) if cfg.preset == "cpu" else None
