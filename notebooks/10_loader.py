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
# A training run is a long list of decisions about which text comes next. On the way the machine may be taken away, the next one may have another number of GPUs, and a text may arrive that should have been there from the start.
#
# Steel met the first: its eight A100s were withdrawn at about step 200,000, and it went on later, on eight H800s. The second it was spared. For the third its author had prepared: he asked his readers for lyrics, lore and small secrets of their own, and built
# a loader that takes new files into a running epoch and shuffles them with the part that has not been read. Almost nothing came, and he took the invitation down {cite:p}`steelblog2024`.
#
# We ran that loader again and took it apart. Its central idea is right, and its details leak. This chapter looks for a form in which there is nothing left to leak.

# %% tags=["hide-input"]
import json
import math
import os
import shutil
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np

from figures.experiments import guide
from steel.config import UserError, preset
from steel.data import Loader, ShardSet, append, order, pack
from steel.data.mixture import BLOCK, Mixture, quotas

cfg = preset()  # --preset NAME, then overrides
RUN = Path("runs") / f"10_loader-{cfg.preset}"

# %% tags=["active-ipynb", "hide-input"]
# from figures import draw_10
# from figures.claims import ROOT
# from figures.style import answer, badge, say, show, table
#
# shutil.rmtree(RUN, ignore_errors=True)  # this notebook starts afresh every time
# show(draw_10.path_of_a_token(), alt="From left to right: documents of two sources; shards, lines of tokens cut into eight numbered samples; the order, in which the eight are shuffled; a batch of the next four; two ranks with two rows each. Orange marks: new texts arrive at the documents, kill -9 before the batch, another number of GPUs at the ranks. A dashed box asks what a checkpoint must remember of all this.",
#      caption="The path of a token to a GPU, and what may happen on the way. A sample is as many tokens as the model reads at once, 2,048 in Steel; an epoch is one pass over all samples.")

# %% [markdown]
# ```{admonition} Predict
# :class: predict
# An epoch has a billion samples, shuffled. A run is killed after 700,000,001 of them. Three numbers, before you read on; the first is answered last, when a run has been killed.
#
# 1. How many bytes of its checkpoint does it take to remember which samples are left?
# 2. How many seconds does one core need to find the next one?
# 3. A thousand new samples arrive. They are mixed with the rest of the epoch, so that none is read twice and none is forgotten. In how many ways can that be done? (How many digits the number has will do.)
# ```
#
# ## What was there
#
# TinyLlama's program, says Steel's author, resumed by skipping as many batches as had been read. His remembers what it reads: it packs tokens into chunks of 2,049 × 204,800 numbers, reads them as samples of 2,049 in a shuffled order, and saves the names of its files
# and the order of their samples. On one machine that never changes, this works: killed and resumed, it gave the same samples; with files added, every sample came exactly once, old and new mixed. That is the part to keep. Around it we found (†: by reading only):
#
# | what | what happens |
# |---|---|
# | resume with 2 processes on 4 | a missing file, and a crash |
# | resume with 4 processes on 2 | no crash: 6 of 10 files are read, the other four never again |
# | 10 files on 4 processes | some processes see their files more often than others |
# | the same file appended twice | accepted: each process compares only its own share of the files |
# | a worker meets a bad file † | the rest of its files is dropped, the exit code is 0 |
# | documents inside a sample † | end with `<\|im_end\|>`, as turns of a dialogue do, so no mask can be made |
# | two data sets mixed | the prefix is ignored, so each of them is both; the mixing is not in the checkpoint |
#
# The second row is the one to lose sleep over. Nothing fails. A run that reads six tenths of its corpus 1.67 times as often need not look ill: its training loss says nothing of what was left out.
# Each process keeps a list of its files in its own checkpoint, and lists for four say nothing to two. The third row has the same root:

# %%
files = [f"chunk-{i:02d}" for i in range(10)]  # of 8 samples each
for processes in (1, 2, 4):
    read = [8 * len(files[r::processes]) for r in range(processes)]
    print(processes, "processes read", read, "samples in an epoch")


# %% [markdown]
# In the last line two processes are through their files when the others have a third left to do, and begin again. So the unit of order should be the sample, not the file, and the order should not know how many readers there are.
#
# ```{admonition} Napkin
# :class: napkin
# Shuffle the samples then, all of them. $10^9$ indices of 8 bytes are 8 GB. Each of eight processes on a machine holds its own, 64 GB. Drawing the permutation takes
# a minute or more, and every restart pays it again. Half the bytes would do, and one file for all; an append would still need another.
# ```
#
# ## An order without a list
#
# We want a function $F_n$ from positions $t$ to samples, so that all $n$ positions give different samples. A cipher is such a function, since it can be undone. A *Feistel network* makes a cipher of any function {cite:p}`blackrogaway2002`. Write the positions into a grid of $a \times b$ cells. Slide each column by an amount that depends
# on the column, then each row by an amount that depends on the row, and repeat, with another key each time, made from the seed and the epoch. A slide collides with nothing and can be undone, so the whole can.

# %% tags=["hide-input"]
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
    a = -(-n // b)           # a · b >= n, and just so
    while True:
        row, column = divmod(t, b)
        for i, key in enumerate(keys):
            if i % 2 == 0:
                row = (row + scramble(column ^ key, a)) % a
            else:
                column = (column + scramble(row ^ key, b)) % b
        t = row * b + column
        if t < n:
            return t         # else: outside, walk on


# %% tags=["active-ipynb", "hide-input"]
# show(draw_10.grid_walk(23, order.round_keys("chapter 10", 3), scramble),
#      alt="Five grids of five by five cells with the numbers 0 to 22, shaded from pale to dark. In the first they stand in order and the last two cells are marked as outside. After round 1 each column has slid, after round 2 each row; after round 6 the shades are mixed and 19 and 5 stand in the two cells outside. Arrows lead them to the two empty cells, and in the last grid all are inside.",
#      caption="n = 23 on a grid of 25. Each number is a position t. The cell in which it ends, counted row by row from 0, is the sample F(t). After six rounds two positions stand outside: they go through the network again.")

# %% [markdown]
# The grid is a little larger than $n$, by less than a row. A position that lands outside is sent through again until it is inside. This is *cycle-walking*. Why can it meet nobody? The network sends no two cells of the grid to the same one. A walker goes on from a cell outside,
# where no position began, so where it arrives nobody else does. In the drawing 19 stands on cell 23, and where 23 itself would have gone there is room.
#
# A secret would ask for more; for training it is enough if the order is as even as chance.

# %%
keys = order.round_keys("chapter 10", 3)
for n in range(1, 300):
    assert sorted(permute(t, n, keys) for t in range(n)) == [*range(n)]
n, every = 100_000, np.arange(100_000)
ours = order.permute_array(every, n, keys)
assert all(ours[t] == permute(t, n, keys) for t in range(0, n, 997))
print("a permutation of every size to 299, and steel.data.order's own")
for rounds in (2, 6):
    chi = []
    for one in range(20):
        some = order.round_keys(one)[:rounds]
        shuffled = order.permute_array(every, n, some)
        fields = np.histogram2d(every, shuffled, bins=50)[0]
        chi.append(((fields - 40) ** 2 / 40).sum() / 49**2)  # 40 are due
    print(f"{rounds} rounds: {np.mean(chi):.2f} ± {np.std(chi):.2f}")


# %% [markdown]
# Twenty orders of 100,000 samples are counted in 50 × 50 fields of position and sample. By chance χ² per degree of freedom is 1.00 ± 0.03; clumps raise it, counts that are too even lower it. On this scale six rounds do as chance does; two do not.

# %% tags=["active-ipynb", "hide-input", "timing"]
# begin, many = time.process_time(), 2000
# following = [permute(700_000_001 + i, 10**9, keys)
#              for i in range(many)]
# each = (time.process_time() - begin) / many
# assert len(set(following)) == many
# answer("1.2", f"**{each * 1e6:.0f} microseconds** in plain Python, at any position of any epoch, with nothing drawn up before. At position 700,000,001 comes sample {following[0]:,}.", each, unit="seconds")

# %% [markdown]
# ## Appending to a running epoch
#
# Call the order after $j$ appends $\sigma_j$; $\sigma_0$ is $F_N$. At position $c$ of an epoch of $N$ samples, $m$ new ones arrive. $R = N - c$ old ones are unseen. Permute the $R + m$ places that are left: place $u$ below $R$ stands for
# the sample at $c + u$ in the old order, the others for the new ones.

# %%
def sigma(t, n, log, key):
    """Position -> sample; log: [(consumed, added), …]."""
    if not log:
        return permute(t, n, order.round_keys(*key, 0))
    *earlier, (consumed, added) = log
    if t < consumed:
        return sigma(t, n, earlier, key)  # the past never changes
    size = n + sum(m for _, m in earlier)
    unseen = size - consumed
    u = permute(t - consumed, unseen + added,
                order.round_keys(*key, len(log)))
    if u >= unseen:
        return size + u - unseen          # a new sample
    return sigma(consumed + u, n, earlier, key)


# %%
log, key, sizes = [(24, 16), (40, 8)], (1, "strip", 0), (40, 56, 64)
stages = [[sigma(t, 40, log[:j], key) for t in range(size)]
          for j, size in enumerate(sizes)]
for stage, size in zip(stages, sizes):
    assert sorted(stage) == list(range(size))  # all of them, once
for stage, old, (c, _) in zip(stages[1:], stages, log):
    assert stage[:c] == old[:c]                # the past is the same
theirs = order.sigma_array(np.arange(64), 40, log, key)
assert stages[2] == theirs.tolist()
print("once each, past unchanged, equal to steel.data.order")

# %% tags=["active-ipynb", "hide-input"]
# later = order.sigma_array(np.arange(64), 64, [], (1, "strip", 1)).tolist()
# show(draw_10.strips([*stages, later], [consumed for consumed, _ in log]),
#      alt="Four strips of cells. Left of a mark each strip equals the one above; right of it orange cells of the first append and red ones of the second are spread evenly. Arrows follow one sample from its place in the third strip to its places in the second and the first. The next epoch mixes all.",
#      caption="Where each sample comes from, one cell a sample. Left of a mark nothing changes; right of it old and new are shuffled together. Arrows: to find a sample, ask the order before, and that the one before it.")
# left = 10**9 - 700_000_001 + 1_000
# digits = math.lgamma(left + 1) / math.log(10)
# answer("1.3", f"{left:,} samples are left, old and new, and any order of them will do: **{left:,}!** ways, a number of {digits / 1e9:.1f} billion digits. The key picks one of them.", digits, unit="digits")

# %% [markdown]
# Why is it exact? By induction: $\sigma_{j-1}$ gives every old sample one position; cutting its past off leaves every unseen one; $F$ is a permutation of what is left plus what is new.
#
# ## Mixture and ranks
#
# A corpus has sources, and a run wants them in shares: 60 % web, 30 % books, 10 % code. Draw a source at random for each sample, and the shares hold on average, with a random walk around
# them, and with a generator's state in every checkpoint.
#
# Quotas do better. Number the places of the whole run, the *slots*, and cut them into blocks of 65,536. Give each source a whole number of slots in
# each block, less than one off its share (code gets 6,553 where 6,553.6 are due), and place them with $F$. How often a source was drawn before a slot is then a division, a product and a count; and this number, the *draw*, is the position in the source's own
# epochs. So a step gives slots, a slot a source and a draw, a draw a sample by $\sigma$, a sample its tokens. Nothing on this way is stored.
#
# New shares begin a *phase*, at a slot. Without shares all sources are one pool, called `*`.

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
        assert (draws == np.arange(len(rows))).all()  # each once


# %% tags=["active-ipynb", "hide-input"]
# show(draw_10.quota_walk(code, 0.1, exact["code"], BLOCK),
#      alt="Above: twenty slots in two blocks of ten; in each block six go to web, three to books, one to code, and every slot carries the number of the draw of its source. Below: draws of the source code compared with a tenth of the slots. Four random draws wander off by hundreds; the quota line returns to within three samples of zero at the end of each block.",
#      caption="Above: slot 16 is draw 4 of books: one block of 3, and one before it in its own. Below, dots: at the end of every block the quotas are back, 0.6 samples lower each time. Independent draws drift.")

# %% [markdown]
# Step $k$ of batch size $B$ takes the slots $kB$ to $kB + B - 1$; rank $r$ of $W$ takes those that leave the remainder $r$ when divided by $W$. A rank needs no memory of its own, so
# there is nothing that a change of $W$ could invalidate.
#
# To see it we need a corpus. Ours is a restaurant guide in two sources, with facts that nobody has ever heard: 北街小馆的招牌菜是白蒸豆腐。 (“The Little Place in North Street is known for its steamed tofu.”)

# %% tags=["active-ipynb"]
# manifest, T, B = guide.corpus(RUN), 64, 8
# shards = ShardSet.open(RUN / "shards")
# whole = Loader(shards, T, B, seed=1)
# print(manifest["documents"], "documents,", whole.samples, "samples")
# ids = lambda loader, step: loader.batch(step).input_ids.tolist()
# for world in (1, 2, 4, 8):
#     ranks = [Loader(shards, T, B, 1, rank=r, world=world) for r in range(world)]
#     for step in range(24):
#         rows = [row for rank in ranks for row in ids(rank, step)]
#         assert sorted(rows) == sorted(ids(whole, step))
# print("24 steps: the same rows on 1, 2, 4 and 8 ranks")

# %% [markdown]
# A sample is 64 tokens of the stream and does not care where documents end. The model should care: so the loader numbers the tokens of each document from zero, in the *position ids*. A number that falls marks a wall for attention ([chapter 06](06_transformer.ipynb) draws the mask).

# %% tags=["active-ipynb", "hide-input"]
# starts = np.vstack([whole.batch(s).position_ids == 0 for s in range(12)])
# document = starts.cumsum(1)
# foreign = (document[:, :, None] != document[:, None])[:, *np.tril_indices(T)]
# say(f"Without walls, {foreign.mean():.0%} of the pairs that a causal mask allows would join two documents (in {len(starts)} samples of these short texts).")

# %% [markdown]
# ## Kill it
#
# We start a real pretraining of a model with two layers: 140 steps, a checkpoint every 20. When it has read 47 batches it gets `SIGKILL`, which no program can catch. The process notes every row before it learns from it (`figures/experiments/guide.py`).

# %% tags=["active-ipynb"]
# shutil.copytree(RUN / "shards", RUN / "control-shards")  # for later
# ended = guide.attempt(RUN, "run", kill_after=47)
# dead = guide.newest(RUN / "run")
# print(f"exit code {ended}; newest checkpoint: {dead.name}")

# %% [markdown]
# The checkpoint ([chapter 11](11_pretrain.ipynb) draws its life) holds the whole memory of the loader:

# %% tags=["active-ipynb", "hide-input"]
# kept = json.loads((dead / "state.json").read_text())["data"]
# print(*textwrap.wrap(json.dumps(kept), 76), sep="\n")
# lived = len((RUN / "run.seen").read_text().splitlines())  # batches
# size, least = len(json.dumps(kept)), len(json.dumps({"t": 700_000_001, "seed": 1}))
# answer("1.1", f"**{size} bytes** here, and a few digits more for a billion samples. Position and seed alone would be {least}; "
#        "the rest guards against a resume with other settings, and holds the log of appends.", size, unit="bytes")

# %% [markdown]
# A slot, a seed, the lengths, the quotas, the corpus by its hash (`generations`), an empty list for appends. An append adds its slot and the hash of its shards, which know $m$: here 39 bytes. No rank is mentioned.
#
# ## Append to it
#
# Steel's readers were asked for their own texts. Ours have written in: a dozen restaurants that the guide does not know, each praised in six wordings. Two more wordings are held back; the model will never
# see them with these names, only with the guide's. Before it reads them, ask it.

# %% tags=["active-ipynb"]
# exam = {"at step 40, the last checkpoint": guide.examine(dead, RUN)}
# added = append(RUN / "shards", RUN / "letters", consumed=RUN / "run",
#                progress=False)
# print({k: added[k] for k in ("documents", "from_step", "new_samples")})
# try:
#     append(RUN / "shards", RUN / "letters", progress=False)
# except UserError as refusal:
#     print("again:", str(refusal).partition(" (")[0])

# %% [markdown]
# One command, while a run is going on or while it is dead; old shards do not change. Sent again, the letters are refused by their content. Now resume, and beside it train a control that never gets a letter.

# %% tags=["active-ipynb"]
# assert guide.attempt(RUN, "run") == 0
# assert guide.attempt(RUN, "control", shards="control-shards") == 0
# for line in (RUN / "run" / "log.jsonl").read_text().splitlines():
#     event = json.loads(line)
#     if event.get("what") in ("resume", "data"):
#         print(event["what"], event.get("checkpoint", event.get("change")))
# for name, run in (("resumed, with the letters", "run"),
#                   ("control, without", "control")):
#     exam[name] = guide.examine(guide.newest(RUN / run), RUN)

# %% [markdown]
# Did anything get lost? Both lives noted their rows. Steps beyond the last checkpoint were taken twice; what counts is the last time. Count them, epoch by epoch.

# %% tags=["active-ipynb", "hide-input"]
# rows_read, sources_read = guide.read_rows(RUN, "run")
# resumed = added["from_step"]
# life = guide.audit(rows_read, whole.samples, [(resumed * B, added["new_samples"])])
# *full, (due, seen, once) = life
# assert all(d == s == o for d, s, o in full) and seen == once
# say("; ".join(f"{many_of} epochs of {d} samples" for d, many_of in Counter(d for d, _, _ in full).items())
#     + f": every sample seen **exactly once** in each. Of the last epoch's {due} samples {seen} were seen, none twice, when the run ended.")
# then = json.loads((guide.newest(RUN / "run") / "state.json").read_text())["data"]
# grown = len(json.dumps(then | {"step": 40, "slot": 320})) - len(json.dumps(kept))
# assert grown == 39  # bytes of an append
# show(draw_10.run_as_read(sources_read, resumed, lived, ("guide", "diary", "readers")),
#      alt=f"All 1,120 samples of the run as coloured cells. Up to step {resumed} only guide and diary; from there on cells of the readers' letters, each with a dot, are sprinkled evenly over all steps. A dashed line marks where the first process was killed, after {lived} steps.",
#      caption=f"The run as it was read: two sources, then three. Each step once, as it was taken last: {resumed} to {lived - 1} are the second life's.")

# %% [markdown]
# ## Does it know them?
#
# ```{admonition} Predict
# :class: predict
# Twelve facts, six wordings each: under a thousand tokens, read once an epoch in the rest of the run. A guess among twelve dishes is right in 8 % of the cases. In how many per cent of the questions will the resumed model rank
# the right dish first of the twelve
#
# 1. in a wording that it was told?
# 2. in one that it was not?
# ```

# %% tags=["active-ipynb", "hide-input", "within-0.5"]
# first = lambda s: f"{s['rank_accuracy']:.0%}"
# table(["ranks the right dish first", "told wordings", "held-back wordings", "bits per byte of the letters"],
#       [[name, first(r["told"]), first(r["held"]), f"{r['bits']:.2f}"] for name, r in exam.items()])
# mine, control = exam["resumed, with the letters"], exam["control, without"]
# answer("2.1", f"in **{first(mine['told'])}** of {mine['told']['n']} told sentences.", 100 * mine["told"]["rank_accuracy"], unit="%")
# answer("2.2", f"in **{first(mine['held'])}** of {mine['held']['n']} sentences that were held back. The control, which can only guess, gets {first(control['held'])}.", 100 * mine["held"]["rank_accuracy"], unit="%")
# assert min(mine[k]["rank_accuracy"] - control[k]["rank_accuracy"] for k in ("told", "held")) > 0.4
# assert control["bits"] > exam["at step 40, the last checkpoint"]["bits"] > mine["bits"]

# %% [markdown]
# So a reader's text does arrive, and not only as a string: a model that has seen forty-eight restaurants in all eight wordings can pick the dish of a new one in a wording in which it was never told. The
# control guesses; each dish is 8 points of the held-back column, so do not read much into its distance from chance. Its bits rise: eight more passes over its own guide make it surer of other dishes, it seems.
#
# It is a generous setting: a tiny guide, one relation, letters that come back about seven times in all, and one seed. A dozen sentences in a trillion tokens, read once or twice, are another matter; that model we have not trained.
#
# ```{admonition} Takeaway
# :class: takeaway
# Make the order a function of the seed, the epoch, the append log and the position. Then resuming is an addition, a change of machine is a division, and an append is two numbers.
# ```
#
# ## Others
#
# How do the loaders that people use compare? `python -m figures.experiments.loader` gives all of them the same tokens: PyTorch's `DataLoader` over a memory map with a NumPy permutation (position and ranks are ten lines of ours),
# litdata {cite:p}`litdata2023`, and MosaicML's streaming {cite:p}`mosaicstreaming2022`.

# %% tags=["active-ipynb", "hide-input"]
# bench, again = ({r["name"]: r for r in json.loads((ROOT / "figures" / "runs" / f"{file}.json").read_text())["rows"]} for file in ("loader", "loader-files"))
# label = {"steel": "Steel", "torch": "torch, memory map", "litdata": "litdata", "streaming": "streaming"}
#
# def verdict(kind, found):
#     if found["survives"]:
#         return "yes"
#     if kind == "append":
#         return f"no: {found['never']} of {found['due']:,} never read"
#     return "no: goes on with others" if not found["same"] else f"resumes, but {found['repeats']} of 1,024 are repeats"
#
# tests = {"resume": "exact resume", "world": "2 → 4 ranks", "append": "append", "mixture": "mixture, resumed"}
# table(["survives", *tests.values()],
#       [[f"{label[k]} {row['version'].partition('+')[0]}", *(verdict(kind, row["survives"][kind]) for kind in tests)] for k, row in bench.items()], "lcccc")
#
# def two(log, name, figure, key, unit=1.0):
#     """A figure of a log in two digits, which is what it is worth; a dash if it was not measured."""
#     row = log.get(name, {})
#     return f"{float(f'{row[figure][key] / unit:.1e}'):,g}" if key in row.get(figure, {}) else "–"
#
# per_s = "samples_per_cpu_s"
# table(["", "first run (samples per CPU s)", "second, ours with checksums (samples per CPU s)", "start (CPU s)", "memory at start (MB)"],
#       [[label[k], two(bench, k, "tokens", per_s), two(again, k, "tokens", per_s),
#         two(bench, k, "start", "cpu_s"), two(bench, k, "start", "memory_bytes", 1e6)] for k in bench])

# %% [markdown]
# Exact resume and another number of ranks pass in all of them, in this small drill: 1,024 samples, no worker processes. Appending does not: a longer list is another permutation, and the position in the old one points anywhere in
# the new. In the mixture two of them repeat samples while others of the source are unread (for PyTorch we took its weighted sampler). The tests
# are ours, and the last two ask for what our loader was built for.
#
# Speeds are the best of three short runs on 16,384 samples, 128 MiB, all in the kernel's cache; start and memory are one run each, on an index of a hundred million samples.
# A factor of two means something here, a fifth does not. The memory map's seconds and 800 MB at the start are NumPy's permutation.
#
# In the first run ours came first, but that loader only looked at the sizes of its files. Now it holds every stretch of 16 KiB against a checksum when it is first read, and the memory map, which checks nothing, is ahead by a factor of about two. In 128 MiB most readings find their stretch already checked; among 489 files nearly every stretch is new, and the files must first be opened: our loader is a third as fast.
# For training all of this is plenty: an H800 of Steel's second leg took 21 samples a second. Choose a loader by what it survives.
#
# ## At full scale
#
# Qwen's vocabulary needs 4 bytes a token. What Steel's corpus would weigh, read twice as it was, or with as many tokens and none twice:

# %% tags=["active-ipynb", "hide-input"]
# from steel.data.pack import SHARD_TOKENS
# from steel.data.shard_file import BLOCK_BYTES
#
# corpora = (0.56e12, 1.12e12)  # tokens
# weigh = {"shards, 4 bytes a token (TB)": lambda n: f"{4 * n / 1e12:.1f}", "with a vocabulary up to 65,536 (TB)": lambda n: f"{2 * n / 1e12:.1f}",
#          "checksums beside them (GB)": lambda n: f"{4 * n / BLOCK_BYTES * 4 / 1e9:.1f}", f"files of {SHARD_TOKENS / 1e6:.1f} M tokens": lambda n: f"{n / SHARD_TOKENS:,.0f}",
#          "samples of 2,048 (millions)": lambda n: f"{n / 2048 / 1e6:.0f}", "NumPy permutations, eight processes (GB)": lambda n: f"{8 * 8 * n / 2048 / 1e9:.1f}"}
# table(["", *(f"{n / 1e12:.2f} T tokens" for n in corpora)], [[what, *map(of, corpora)] for what, of in weigh.items()])

# %% [markdown]
# Hours and disks stand in the [runbook](../book/runbook.md). The commands:
#
# ```text
# steel pack docs shards --tokenizer tok --workers 64 --hold-out 0.0005
# steel data verify shards
# steel data append shards new-docs --run runs/1b
# ```
#
# A running job reads the appended texts from its next start on. If `data.weights` gives shares without a `*`, give a new source one before that start, or the run refuses to go on; the command says so.
#
# This chapter's script, `python notebooks/10_loader.py --preset steel-1b`, packs the documents in `runs/10_loader-steel-1b/docs` and looks, without a GPU, at which sources three steps of the order read.

# %% tags=["hide-input"]
def look(folder, length, batch, seed):
    """What a new run would read: sizes, and the sources of a step at the start, in the middle and at the end."""
    loader = Loader(ShardSet.open(folder), length, batch, seed)
    last = loader.samples // batch
    print(f"a new run: {loader.samples:,} samples of {length:,} tokens, {last:,} steps of {batch} in an epoch")
    for step in sorted({0, last // 2, max(last - 1, 0)}):
        shown = Counter(loader.sources[i] for i in loader.batch(step).source.tolist())
        print(f"step {step:>9,}: {dict(sorted(shown.items()))}")
    print(f"state: {len(json.dumps(loader.state(last)))} bytes")

def real(cfg, root):
    """Pack the documents in root/docs and look at the order in which a run of this preset reads them."""
    tokenizer = Path(cfg.tokenizer.path or root / "tokenizer")
    for folder, remedy in ((root / "docs", "steel data prepare RAW"), (tokenizer, "steel tokenizer train DOCS")):
        if not folder.is_dir():
            raise UserError(f"no folder at {folder}; write it with '{remedy} {folder}'")
    pack(root / "docs", root / "shards", tokenizer, workers=os.cpu_count() or 1, hold_out=cfg.data.validation_fraction)
    look(root / "shards", cfg.data.sequence_length, cfg.train.batch_size, cfg.seed)


# %% [markdown]
# ## Failure gallery
#
# ```{admonition} A tail of padding
# :class: failure
# The original drops a tail shorter than 5 % of a chunk and pads a longer one, so up to 95 % of a chunk of 419.6 million tokens can be padding; its training loss leaves
# padding out, its validation loss does not. **Here:** samples run on from shard to shard; only the last of a source in a pack or an append can be padded, and padding is no target in either loss.
# ```
#
# ```{admonition} A benchmark sees what it is given
# :class: failure
# Our own. The benchmark that praised our loader had three files, and the loader kept 128 open. A reviewer gave it 489, and it fell to a fifteenth. Now all stay open that the system allows; for Steel's corpus let `ulimit -Hn` be 70,000 or more.
# ```
#
# ## Exercises
#
# **10.1 Recall.** Which facts must be in a checkpoint so that a resumed run reads exactly what is left? And which, in the original, were missing when the number of processes changed?
#
# ```{dropdown} Answer 10.1
# The seed, the sequence length, the slot (or step and batch sizes), the phases of the mixture, the append log, and a hash by which the corpus is recognised. The original kept lists of files per process: for another number of processes there was no list, or only
# some of them.
# ```
#
# **10.2 Calculate.** A corpus of 400 billion tokens, sequences of 2,048, eight processes on a machine. How much memory does a NumPy permutation take in a process, and on the machine? After how many appends, at 16 bytes each, does the append log of
# `sigma` take as much?
#
# ```{dropdown} Answer 10.2
# 195,312,500 samples of 8 bytes are 1.56 GB a process, 12.5 GB in all. The log: 97.7 million appends a process. (Long before, `sigma`'s recursion meets Python's limit of about a thousand.)
# ```
#
# **10.3 Code.** Where in the epoch does a sample come? Write `unpermute(s, n, keys)`, the inverse of `permute`: the position `t` with `permute(t, n, keys) == s`. Do not search. `figures.check.check("10.3", unpermute)` looks at yours.

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
# **10.4 Break it.** Resume a killed run with a NumPy permutation instead: with `default_rng(1)` draw `permutation(97)`, read 40 samples, append 16, draw `permutation(113)` and go on from the same position. How many samples are never read in this epoch, and how many twice? How many of the old ones should one expect never to be
# read?

# %% tags=["hide-cell"]
draw = np.random.default_rng(1)
before, after = draw.permutation(97), draw.permutation(113)
times = Counter([*before[:40].tolist(), *after[40:].tolist()])
never = [s for s in range(113) if s not in times]
twice = sum(v == 2 for v in times.values())
assert len(never) == twice == 24
print(f"twice {twice}, never {len(never)}, of these {sum(s < 97 for s in never)} of the 97 old ones and {sum(s >= 97 for s in never)} of the 16 new ones")
print(f"expected never, of the old ones: {97 * (1 - 40 / 97) * 40 / 113:.0f}")

# %% [markdown]
# ```{dropdown} Answer 10.4
# An old sample is missed if it was not among the first 40 of the old order, which has probability 57/97, *and* stands among the first 40 of the new one, which are skipped: 40/113. The two orders know nothing of each other, so the product counts: 20 of 97. For each one that is missed another
# is read twice, since 113 readings were made.
# ```
#
# **10.5 Open, 8 GPU hours.** Does it matter *when* a text is appended? In a run of the preset `gpu1`, on a corpus that it reads just once, append three sets of a hundred facts: one after a tenth of the steps, one after a half, one after nine tenths. Keep a fourth set back as a control, and let the sets change
# places from seed to seed. What is known of each at the end? Say beforehand what the learning rate schedule ([chapter 11](11_pretrain.ipynb)) should do to the answer, and how many seeds you need to see it. Six runs are 8 hours of an H100 at 40 % of its peak.
#
# ```{dropdown} Answer 10.5
# We have not run it. The corpus is read once, since else early facts would be read in more epochs, and you would measure repetition. The preset's schedule lowers the rate towards the end: late facts are written with small steps but not overwritten
# afterwards, so a difference of either sign is news. A hundred questions answered half right have a standard error of 5 points, a difference of two such exams 7: to see 10 points in four of five attempts takes about six paired seeds, and more if seeds differ by more than their questions.
# ```
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What is a Feistel permutation for?** To shuffle without a list: position to sample in microseconds, for any $n$, from a key. Cycle-walking keeps it inside $[0, n)$.
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

# %% tags=["active-ipynb", "timing"]
# badge()

# %%
if __name__ == "__main__":
    if cfg.preset != "cpu":
        real(cfg, RUN)
    elif "ipykernel" not in sys.modules:  # the page has shown it all
        shutil.rmtree(RUN, ignore_errors=True)
        guide.corpus(RUN)
        print("killed:", guide.attempt(RUN, "run", kill_after=47))
        append(RUN / "shards", RUN / "letters", progress=False)
        print("resumed:", guide.attempt(RUN, "run"))
        bits = guide.examine(guide.newest(RUN / "run"), RUN)["bits"]
        print(f"bits per byte of the letters: {bits:.2f}")
        look(RUN / "shards", 64, 8, seed=1)
