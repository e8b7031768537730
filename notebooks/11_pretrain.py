# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 · Resume bit for bit, then launch on many GPUs
#
# Early in June 2024, around step 200,000, somebody needed the machine. Six weeks later the run went on where it had stopped, on other GPUs, lent by a
# university. Between the two lay a folder on a disk. {cite:p}`steelblog2024`
#
# What has to be in that folder? And the other half of the question: eight GPUs hold one model between them, so what does each of them hold, and what
# do they tell each other at every step? A pretraining program is an answer to these two questions with an optimizer in the middle. The optimizer
# is the easy part.
#
# ```{admonition} Predict
# :class: predict
# Three numbers, before you read on.
#
# 1. A run saves every 5 steps and is killed with `kill -9` at step 7. It is started again and goes to step 10. How many digits of its last loss agree with
#    a run that nobody killed?
# 2. Two processes share every batch, half each. In which digit does their loss leave that of one process?
# 3. Steel's 1.12 billion parameters are spread over eight GPUs, each with eight micro-batches a step. How many bytes must each GPU send per step?
# ```

# %%
import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from steel.config import UserError, load, preset
from steel.corpus.pipeline import prepare
from steel.corpus.world import write_world
from steel.data import pack
from steel.tokenizer import bpe
from steel.tokenizer.texts import document_texts
from steel.train.preflight import dry_run
from steel.train.pretrain import pretrain

RANK, RANKS = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
RUNS = Path("runs/11_pretrain")

# %% tags=["active-ipynb", "hide-input"]
# import json
# import math
# import subprocess
# from dataclasses import replace
#
# import torch
#
# from figures.style import FURNACE, INK, OKABE_ITO, SEMANTIC, SLATE, STEEL, axis_units, figure, label_line, say, show, table
# from figures.experiments.drill_run import curve
# from steel.data import Loader, ShardSet, describe
# from steel.runlog import read_log
# from steel.train.loop import Stage, fit
# from steel.train.optim import build_optimizers, orthogonalise, set_learning_rate
# from steel.train.parallel import World
# from steel.plan import count_parameters, memory, mfu, plan
# from steel.plan import GIB
# from steel.train.build import make_model
# from steel.train.pretrain import next_token_loss
# from steel.train.run_folder import RunFolder
# from steel.train.schedule import learning_rate_factor
#
# torch.set_num_threads(1)  # sums then have one order on every machine
# LOGS = Path("../figures/runs") if Path("../figures/runs").exists() else Path("figures/runs")
# LAB = RUNS / "lab"
# shutil.rmtree(RUNS, ignore_errors=True)  # this notebook starts afresh every time

# %% [markdown]
# This chapter's script is the training program itself, so it begins with its command line. In Jupyter that line is written here: the preset `cpu`, with
# a smaller batch.

# %%
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--data", type=Path, help="folder of token shards")
parser.add_argument("--tokenizer", type=Path, help="copied beside the model")
parser.add_argument("-r", "--run", type=Path, help="RUN folder")
parser.add_argument("--dry-run", action="store_true", help="print the plan and end")
SMALLER = ["train.batch_size=4", "train.micro_batch_size=4", "train.steps=90",
           "train.eval_every=30", "train.log_every=1"]
given, words = parser.parse_known_args(SMALLER if "ipykernel" in sys.modules else None)
cfg = preset(words)


# %% [markdown]
# ## Something to train on
#
# The small presets make their own text, the closed world of chapter 02. With two processes on one machine there is a question already: who writes the files?
# Rank 0 does, under another name, and renames the folder when all of it is there. The others wait for the name. No message is sent, and a crash
# leaves nothing that could pass for data.

# %%
def make_data(cfg, folder):
    """World, documents, tokenizer, shards of a small preset, made by rank 0."""
    if RANK == 0 and not folder.exists():
        fresh = folder.with_name(folder.name + ".fresh")
        shutil.rmtree(fresh, ignore_errors=True)
        write_world(fresh / "world", cfg.world, cfg.seed)
        prepare(fresh / "world" / "raw", fresh / "docs")
        tokenizer = bpe.train(document_texts(fresh / "docs"), cfg.tokenizer.vocab_size)
        bpe.save(tokenizer, fresh / "tokenizer")
        pack(fresh / "docs", fresh / "shards", fresh / "tokenizer",
             hold_out=cfg.data.validation_fraction)
        fresh.rename(folder)
    while not folder.exists():
        time.sleep(0.2)
    return folder


# %% [markdown]
# Real presets read real shards, so for them a missing `--data` is a mistake with a remedy.

# %%
def find_data(cfg, given):
    """(shards, tokenizer): what the command line names, or what a small preset makes."""
    if given.data is not None:
        return given.data, given.tokenizer
    if cfg.preset not in ("cpu", "smoke", "laptop"):
        raise UserError(
            f"preset {cfg.preset} trains on your shards: give --data FOLDER, "
            "as written by 'steel pack DOCS FOLDER --tokenizer T'"
        )
    folder = make_data(cfg, RUNS / f"data-{cfg.preset}-{cfg.seed}")
    return folder / "shards", folder / "tokenizer"


# %% tags=["active-ipynb"]
# shards, tokenizer = find_data(cfg, given)
# corpus = describe(shards)
# print(f"{corpus['tokens']:,} tokens of {len(corpus['sources'])} sources in {shards}")

# %% [markdown]
# ## What one step is
#
# Read a batch, run the model over it, run backward, update. Four facts about it carry the rest of the chapter, so we write the step out once by hand.

# %% tags=["active-ipynb"]
# def step_by_hand(model, optimizers, batch, factor, cfg):
#     """One optimizer step; mean loss over all targets [nats/token]."""
#     loss_fn, total, count = next_token_loss(), 0.0, 0
#     for micro in batch.split(cfg.train.micro_batch_size):
#         loss_sum, targets, _ = loss_fn(model, micro)
#         loss_sum.backward()                     # gradients of sums add up
#         total, count = total + loss_sum.detach().double(), count + targets
#     for p in model.parameters():
#         p.grad *= 1 / float(count)              # one division, at the end
#     torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.train.grad_clip)
#     set_learning_rate(optimizers, factor)
#     for optimizer in optimizers:
#         optimizer.step()
#         optimizer.zero_grad()
#     return float(total / count)

# %% [markdown]
# Now the package's loop does ten steps of a small run, and we repeat its first three.

# %% tags=["active-ipynb"]
# SETTINGS = ["train.steps=10", "train.checkpoint_every=5", "train.batch_size=4",
#             "train.micro_batch_size=2", "train.warmup_steps=2", "train.eval_every=0",
#             "train.log_every=1", "data.sequence_length=128"]
# small = load("cpu", SETTINGS)
# pretrain(small, shards, LAB / "unbroken", tokenizer)
# logged = [row["loss"] for row in curve(LAB / "unbroken")]
#
# loader = Loader(ShardSet.open(shards), 128, small.train.batch_size, small.seed)
# model = make_model(small, World())
# optimizers = build_optimizers(model, small.train)
# for step in range(3):
#     factor = learning_rate_factor(step, small.train.steps, small.train)
#     by_hand = step_by_hand(model, optimizers, loader.batch(step), factor, small)
#     print(f"step {step + 1}  loop {logged[step]!r}  by hand {by_hand!r}")
#     assert by_hand == logged[step]

# %% [markdown]
# Equal to the last bit, so nothing is hidden in the loop. The four facts:
#
# - **The batch is a function of the step.** `loader.batch(7)` needs no history (chapter 10). There is no iterator whose state could be lost.
# - **So is everything random.** The loop seeds its generator with the step's number; the learning rate is a formula of it.
# - **The past lives in two places only**, the weights and the optimizer's moments. With the step's number they are the whole state of a run.
# - **Loss and gradient are sums divided once**, by the number of targets in the whole step.
#
# The last one deserves a demonstration, because the obvious alternative is wrong.
#
# ## Divide once
#
# A step is cut into micro-batches because it does not fit into memory at once. Suppose one micro-batch holds 1,000 targets and the next, padded or masked, holds 10.
# The average of the two means gives a token of the second a hundred times the vote of a token of the first.

# %% tags=["active-ipynb"]
# def gradient(model, micros, divide_once):
#     loss_fn, total = next_token_loss(), sum(m.tokens for m in micros)
#     model.zero_grad()
#     for micro in micros:
#         loss_sum, targets, _ = loss_fn(model, micro)
#         (loss_sum / (total if divide_once else len(micros) * targets)).backward()
#     return torch.cat([p.grad.flatten() for p in model.parameters()])
#
# batch = loader.batch(3)
# batch.targets[2:, 8:] = -100  # the second half keeps 8 targets a row
# micros = batch.split(2)
# whole = gradient(model, [batch], True)
# for name, divide_once in (("sum, divided once", True), ("mean of the means", False)):
#     g = gradient(model, micros, divide_once)
#     cosine = torch.nn.functional.cosine_similarity(g, whole, dim=0)
#     off = (g - whole).norm() / whole.norm()
#     print(
#         f"{name:18} {[m.tokens for m in micros]} targets, off by {off:8.1e}, cosine {cosine:.3f}"
#     )

# %% [markdown]
# Divided once, micro-batches give the gradient of the whole batch up to rounding. The mean of means points somewhere else. In pretraining with packed rows every micro-batch
# is full, both agree, and the mistake sleeps; it wakes in fine-tuning, where answers have all lengths. Widely used trainers had it for years, until
# October 2024. With many ranks it is the same mistake in another coat: FSDP averages over ranks, so the loop multiplies by their number and divides by the
# tokens of all of them.
#
# ## Kill it
#
# A checkpoint is a folder, written under another name and renamed when its last byte is on disk. So a folder with the right name is whole. To see it work, start
# the same ten steps as a process of its own, wait for step 7, and send a signal that cannot be caught.

# %% tags=["active-ipynb"]
# def start(name, ranks=1):
#     """What one types into a terminal: the same run, in processes of its own."""
#     torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
#     command = [sys.executable, "-m", *(torchrun if ranks > 1 else []), "steel", "pretrain",
#                "--preset", "cpu", "--data", shards, "--tokenizer", tokenizer,
#                "-r", LAB / name, *SETTINGS]
#     return subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL,
#                             stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
#
# process, log = start("killed"), LAB / "killed" / "log.jsonl"
# while not log.exists() or len(read_log(log, "step")) < 7:
#     time.sleep(0.01)
# process.kill()
# print(f"exit code {process.wait()}, dead at step {len(read_log(log, 'step'))}")
# print("on disk:", *sorted(p.name for p in (LAB / "killed" / "checkpoints").iterdir()))

# %% [markdown]
# The log is ahead of the checkpoint: those steps are lost. Now the same call again, in this process.

# %% tags=["active-ipynb"]
# result = pretrain(small, shards, LAB / "killed", tokenizer)
# print(f"resumed from step {result.resumed_from}")
# for a, b in zip(curve(LAB / "unbroken"), curve(LAB / "killed"), strict=True):
#     print(f"step {a['step']:2}  unbroken {a['loss']:.15f}   resumed {b['loss']:.15f}")
# assert curve(LAB / "unbroken") == curve(LAB / "killed")
# files = [LAB / name / "hf" / "model.safetensors" for name in ("unbroken", "killed")]
# assert files[0].read_bytes() == files[1].read_bytes()

# %% [markdown]
# All digits, and the final weights are the same bytes. That answers the first question. It is no miracle and no tolerance: ten steps are five and five when a step depends on nothing but
# what was saved. The lines of the lost steps are gone from the log, which holds every step once.
#
# ```{admonition} Takeaway
# :class: takeaway
# Do not save the state of your data iterator, your random generators and your scheduler. Have none. What is a pure function of the step cannot be restored
# wrongly.
# ```
#
# ## Who holds what
#
# ```{admonition} Napkin
# :class: napkin
# Trained with AdamW {cite:p}`adamw2019` in mixed precision a parameter costs 16 bytes: a float32 weight, its float32 gradient, two float32 moments. For
# $N = 1.12 \cdot 10^9$ that is 18 GB before the first activation. Eight GPUs with eight copies hold it eight times.
# ```
#
# FSDP {cite:p}`fsdp2023` cuts every tensor into as many pieces as there are ranks. A rank keeps its piece, and borrows the rest of a layer just before it computes it. What the
# choices differ in is when the borrowed weights are given back. PyTorch calls its second version `fully_shard`; this project puts one unit around each decoder block and one around the rest.
#
# | `train.sharding` | weights | gradients, moments | a rank receives |
# |---|---|---|---|
# | `full` | a piece; borrowed for forward, again for backward | a piece | weights twice a micro-batch |
# | `grad_op` | whole from forward to backward, then a piece | a piece | weights once a micro-batch |
# | `hybrid` | `full` inside a node, copies across nodes | a piece of the node | the same, over the fast links only |
# | `ddp` | a copy | a copy | no weights |
#
# In each of them the gradients travel once a step, because the loop keeps them to itself until the last micro-batch. The bytes that a rank sends per parameter, with $W$ ranks, $A$
# micro-batches, bf16 weights and float32 gradients:
#
# $$
# \underbrace{2 \cdot 2A}_{\text{weights, full}} \tfrac{W-1}{W} \;+\; \underbrace{4}_{\text{gradients}} \tfrac{W-1}{W}
# \qquad\text{against ddp's}\qquad 2 \cdot 4 \cdot \tfrac{W-1}{W} .
# $$
#
# A formula about a library is a guess until somebody counts. `figures.experiments.communication` stands between FSDP and the network and adds up what passes, in a step of two ranks with two
# micro-batches in float32 (so weights are 4 bytes here).

# %% tags=["active-ipynb"]
# counted = json.loads((LOGS / "communication.json").read_text())
# N, W, A = counted["parameters"], counted["ranks"], counted["micro_batches"]
# per_parameter = {"full": 4 * 2 * A + 4, "grad_op": 4 * A + 4, "hybrid": 4 * 2 * A + 4, "ddp": 8}
# rows = []
# for name, found in counted["shardings"].items():
#     sent, expected = sum(found["sent"].values()), per_parameter[name] * (W - 1) / W * N
#     assert sent == expected, name
#     held = [found[k] for k in ("weights", "gradients", "moments", "between_micro_batches")]
#     rows.append([name, *(f"{size / N:.1f}" for size in (*held, sent, expected))])
# table(["bytes per parameter", "weights", "gradients", "moments", "between micro-batches", "sent",
#        "formula"], rows)

# %% [markdown]
# The formula holds to the byte. (`hybrid` on one node is `full`. Moments are fewer than 8 bytes because Muon keeps one where AdamW keeps two.) The fourth column is the one to remember: between micro-batches every rank holds **whole** gradients, however finely
# the rest is cut. That is the price of sending them once. The plan below does not count it, so add it when memory is tight.

# %% tags=["active-ipynb", "hide-input"]
# full = load("steel-1b")
# parameters = count_parameters(full.model)["total"]
# micro = full.train.batch_size // (8 * full.train.micro_batch_size)
# bytes_sent = (2 * 2 * micro + 4) * parameters * 7 / 8
# seconds = full.train.batch_size // 8 * 2048 / 54_100
# fig, ax = figure(2.7)
# colours = {"parameters": STEEL, "gradients": SEMANTIC["tokens"], "optimizer": SEMANTIC["memory"], "gathered": SEMANTIC["communication"], "activations": SLATE, "logits": OKABE_ITO["purple"]}
# for row, (label, ranks, sharding) in enumerate(reversed([("one GPU", 1, "full"), ("8, ddp", 8, "ddp"), ("8, grad_op", 8, "grad_op"), ("8, full", 8, "full"), ("32, hybrid", 32, "hybrid"), ("32, full", 32, "full")])):
#     parts, left = memory(full.model, num_gpus=ranks, sharding=sharding, micro_batch_size=8), 0.0
#     for part, colour in colours.items():
#         ax.barh(row, parts[part] / GIB, left=left, color=colour, height=0.66)
#         left += parts[part] / GIB
#     states = sum(parts[p] for p in ("parameters", "gradients", "optimizer")) / GIB
#     label_line(ax, left, row, f"{states:.1f} GiB of states", INK)
# ax.set(yticks=range(6), yticklabels=["32, full", "32, hybrid", "8, full", "8, grad_op", "8, ddp", "one GPU"], xlim=(0, 46), ylim=(-0.6, 6.6), xlabel="GiB on each GPU")
# ax.grid(False)
# for x, (part, colour) in zip((0.3, 7.3, 13.6, 19.9, 26.2, 33.5), colours.items()):
#     ax.plot(x, 6.2, "s", color=colour, markersize=6, clip_on=False)
#     label_line(ax, x, 6.2, part)
# show(fig, alt="Stacked bars of the memory of one GPU for Steel at micro-batch 8. The states shrink from 16.7 GiB on one GPU or with ddp to 2.1 GiB with full sharding on 8 and half a GiB on 32; activations stay the same.",
#      caption="What the planner expects on each GPU. Sharding divides the states and leaves activations alone: those shrink with the micro-batch.")
# say(f"Third question: on eight GPUs with {micro} micro-batches each, `full` sends **{bytes_sent / 1e9:.0f} GB** per GPU and step. A step of the second leg took about {seconds:.1f} s, so that is "
#     f"{bytes_sent / seconds / 1e9:.0f} GB/s: little for the links inside a node, and more than a 100 Gb/s network card carries. Hence `hybrid` for several nodes. The whole gradients between micro-batches add {4 * parameters / GIB:.1f} GiB.")

# %% [markdown]
# ## Two processes, live
#
# Same ten steps, now with `torchrun` and two ranks that talk over gloo, PyTorch's collectives for CPUs. Nothing else changes in the command.

# %% tags=["active-ipynb"]
# assert start("two", ranks=2).wait() == 0
# one, two = curve(LAB / "unbroken"), curve(LAB / "two")
# difference = [abs(a["loss"] - b["loss"]) / a["loss"] for a, b in zip(one, two, strict=True)]
# for a, b, d in zip(one, two, difference):
#     print(f"step {a['step']:2}  one {a['loss']:.9f}   two {b['loss']:.9f}   off by {d:.0e}")
# assert max(difference) < 2e-5 and [a["tokens"] for a in one] == [b["tokens"] for b in two]

# %% [markdown]
# The second answer: about the seventh or eighth digit, the last that float32 has. Sums are taken in another order, and that is all. Nobody had to copy initial weights around, by the way: every rank draws
# every tensor from the seed and keeps its piece.
#
# Checkpoints are cut by parameter, not by rank (PyTorch's distributed format), so a run may go 1 → 2 → 1, or 8 A100 → 8 H800 → 32. The samples follow, since rank $r$ of $W$ takes the slots
# $t \equiv r \pmod W$ of a batch that does not know $W$.
#
# ## How fast to learn, and when to stop
#
# The original's learning rate rises for 2,000 steps and falls along half a cosine to zero. {cite:p}`steel2025` A cosine needs to know its end: a checkpoint from its middle is a model
# half way down somebody's slope. *Warm-up, stable, decay* {cite:p}`minicpm2024` stays level and falls only at the end, so the last checkpoint before the fall can be continued
# with more data, or annealed twice on different mixtures.

# %% tags=["active-ipynb", "hide-input"]
# fig, ax = figure(2.3)
# for name, colour, label in (("steel-1b", SLATE, "cosine, as the original"), ("steel-1b-causal", STEEL, "warm-up, stable, decay")):
#     train = load(name).train
#     steps = sorted({0, *range(0, 2001, 100), *range(0, train.steps, 5000), train.steps - 1})
#     ax.plot([s / 1e6 for s in steps], [1e4 * train.learning_rate * learning_rate_factor(s, train.steps, train) for s in steps], color=colour)
#     at = 0.62 if name == "steel-1b" else 0.25
#     label_line(ax, at, 1e4 * train.learning_rate * learning_rate_factor(int(at * 1e6), train.steps, train), label, colour, xytext=(6, 7))
# ax.axvspan(0.963, 1.07, color=FURNACE, alpha=0.12, linewidth=0)
# label_line(ax, 0.955, 2.35, "annealing:\nchosen data", FURNACE, ha="right", xytext=(0, 0))
# ax.set(xlim=(0, 1.1), ylim=(0, 3.5), xlabel="step (millions)")
# axis_units(ax, x="step (millions)", y=r"learning rate ($10^{-4}$)")
# show(fig, alt="Two learning-rate schedules over 1.07 million steps, peak 3 in ten thousand: the cosine falls from the start, warm-up, stable, decay stays level until step 963,000 and then falls linearly.",
#      caption="The two presets of this chapter. Steel-LLM had no annealing stage; its author names that first among his regrets.")

# %% [markdown]
# MiniCPM found a decay of 10 % of the steps enough and 2.5 % too short, and it put its best data into the decay. Steel mixed dialogues in from the first token, and its author came to prefer the other way. Here
# `data.anneal_weights` changes the mixture at the step where the decay begins; the log's header names that step.
#
# The optimizer is AdamW with $\beta = (0.9, 0.95)$, decay 0.05 on matrices only, gradients clipped at norm 1, as in the original. **Muon** {cite:p}`muon2024` is the option for matrices
# inside the blocks: it replaces the momentum by the nearest orthogonal matrix, so that every direction moves equally far.

# %% tags=["active-ipynb"]
# draw = torch.Generator().manual_seed(0)
# momentum = torch.linspace(0, 3, 8).exp().diag() @ torch.randn(8, 32, generator=draw)
# for name, matrix in (("momentum", momentum), ("update", orthogonalise(momentum))):
#     print(f"{name:9} singular values {torch.linalg.svdvals(matrix).numpy().round(2)}")

# %% [markdown]
# How much it saves depends on who tunes the baseline. A comparison that tunes all of them finds 1.4 times at 0.1 B parameters and 1.1 times at 1.2 B {cite:p}`wen2025`. It is the default of the small presets
# and an option for Steel, half of whose weights are vocabulary and stay with AdamW.
#
# ## The run
#
# Now the run of this chapter's preset.

# %% tags=["active-ipynb"]
# run = RUNS / cfg.preset
# pretrain(cfg, shards, run, tokenizer)
# steps, evals = read_log(run / "log.jsonl", "step"), read_log(run / "log.jsonl", "eval")
# first, last = evals[0]["loss"], evals[-1]["loss"]
# print(f"{steps[-1]['tokens']:,} tokens, held-out loss {first:.2f} → {last:.2f} nats/token")
# assert last < 0.75 * first

# %% tags=["active-ipynb", "hide-input"]
# fig, ax = figure(2.8)
# names = [n for n in ("starcoder", "wanjuan", "skypile", "firefly", "belle_2m") if n in evals[-1]["by_source"]]
# bits = {n: [e["by_source"][n] / math.log(2) / corpus["sources"][n]["bytes_per_token"] for e in evals] for n in names}
# ends = sorted(names, key=lambda n: bits[n][-1])
# places, last = {}, -1.0
# for n in ends:  # labels keep their distance
#     last = places[n] = max(bits[n][-1], last + 0.34)
# for n, colour in zip(names, (OKABE_ITO["orange"], STEEL, SLATE, OKABE_ITO["purple"], OKABE_ITO["green"])):
#     ax.plot([e["tokens"] / 1000 for e in evals], bits[n], "o-", color=colour)
#     label_line(ax, evals[-1]["tokens"] / 1000, places[n], n, colour)
# ax.set(xlim=(0, 1.25 * evals[-1]["tokens"] / 1000), ylim=(0, None))
# axis_units(ax, x="tokens seen (thousands)", y="held-out loss (bits per byte)")
# show(fig, alt="Bits per byte of five held-out sources over the run. All fall; code starts highest, because its tokens hold the fewest bytes, and the sources keep different levels.",
#      caption="Loss by source in bits per byte, so that sources whose tokens hold more text can be compared. A handful of documents each: read the trend, not the third digit.")
# table(["source", "bytes per token", "nats per token at the end", "bits per byte at the end"],
#       [[n, f"{corpus['sources'][n]['bytes_per_token']:.2f}", f"{evals[-1]['by_source'][n]:.2f}", f"{bits[n][-1]:.2f}"] for n in ends])

# %% [markdown]
# A mean loss hides a source that stalls. By source it shows, and in bits per byte it can be compared: nats per token punish the source whose tokens are long.
#
# **How fast was it?** Tokens per second are a fact of the clock. A utilisation needs two more numbers, the work per token and the peak, and chapter 01 showed what a choice the first one is. So the log carries three.

# %% tags=["active-ipynb", "hide-input"]
# from steel.train.metrics import token_flops
#
# square = torch.randn(768, 768)
# began = time.perf_counter()
# for _ in range(10):
#     square @ square
# peak = 10 * 2 * 768**3 / (time.perf_counter() - began)
# speed = sorted(s["tokens_per_s"] for s in steps[2:])[len(steps) // 2]
# work = token_flops(cfg)
# table(["convention", "MFLOP per token", "this run, one thread (GFLOP/s)", "of a large matrix product here", "steel-1b, 54,100 tokens/s on H800"],
#       [[name, f"{flops / 1e6:.2f}", f"{flops * speed / 1e9:.1f}", f"{flops * speed / peak:.0%}", f"{mfu(full.model, 2048, 54_100, 'H800', name):.0%}"] for name, flops in work.items()])
# say(f"Median {speed:,.0f} tokens/s, and {peak / 1e9:.0f} GFLOP/s for the matrix product, on a machine that may have had other work. One run is three utilisations; say which.")

# %% [markdown]
# ## When it goes wrong
#
# Somewhere in a trillion tokens there is a batch that gives a NaN, and one that gives a gradient ten times too long. The first is fatal to a program that does not look: one update, and

# %% tags=["active-ipynb"]
# loss_sum, targets, _ = next_token_loss()(model, loader.batch(5))
# (loss_sum * float("nan")).backward()
# for optimizer in optimizers:
#     optimizer.step()
# flat = torch.cat([p.detach().flatten() for p in model.parameters()])
# print(f"{flat.isnan().float().mean():.0%} of the weights are NaN after one update")

# %% [markdown]
# The loop looks. A step whose loss or gradient norm is not finite is skipped and logged, and after `max_bad_steps` of them in a row the run stops. With `spike_factor` a step whose gradient norm exceeds so many times its running mean
# is skipped, too. Here the model of the run above trains on for a few steps and meets a NaN at step 7 and five batches of garbage, random tokens, from step 13 on; once without and once with a spike policy.

# %% tags=["active-ipynb"]
# from steel.model import SteelForCausalLM
#
# def incident_run(name, spike_factor, incidents=True):
#     """28 more steps of the trained model; the log's rows."""
#     train = replace(small.train, steps=28, spike_factor=spike_factor, checkpoint_every=0,
#                     schedule="constant", warmup_steps=0, learning_rate=2e-3, muon_learning_rate=0.01)
#     now = [0]
#
#     def batch_fn(step):
#         now[0], batch = step, loader.batch(60 + step)
#         if incidents and 12 <= step < 17:
#             draw = torch.Generator().manual_seed(step)
#             for ids_BT in (batch.input_ids, batch.targets):
#                 ids_BT.random_(3, cfg.model.vocab_size, generator=draw)
#         return [batch]
#
#     def loss_fn(model, micro):
#         loss, count, measured = next_token_loss()(model, micro)
#         return loss * (float("nan") if incidents and now[0] == 6 else 1.0), count, measured
#
#     trained = SteelForCausalLM.from_pretrained(run / "hf")
#     fit(Stage(name, train, trained, batch_fn, loss_fn, save_hf=False), RunFolder(LAB / name))
#     return read_log(LAB / name / "log.jsonl")
#
# kinds = {"clean": (0.0, False), "no policy": (0.0, True), "spike policy": (2.0, True)}
# found, skipped = {}, {}
# for name, how in kinds.items():
#     found[name] = incident_run(name.replace(" ", "-"), *how)
#     skipped[name] = [row["step"] for row in found[name] if row.get("what") == "skipped step"]
#     print(f"{name:13} skipped steps {skipped[name]}")
# assert skipped["clean"] == [] and skipped["no policy"] == [7] and {7, 13} <= set(skipped["spike policy"])

# %% tags=["active-ipynb", "hide-input"]
# fig, axes = figure(2.9, ncols=2, width_ratios=(1.5, 1))
# tints = {"clean": SLATE, "no policy": FURNACE, "spike policy": STEEL}
# rows = {name: [r for r in found[name] if r["kind"] == "step"] for name in found}
# for name, colour in tints.items():
#     for ax, key in zip(axes, ("loss", "grad_norm")):
#         ax.plot([r["step"] for r in rows[name]], [math.nan if r[key] is None else r[key] for r in rows[name]], color=colour, lw=1.5)
# for ax in axes:
#     ax.axvspan(12.5, 17.5, color=FURNACE, alpha=0.12, linewidth=0)
#     ax.set(xlim=(0, 29), ylim=(0, None))
# highest = max(r["loss"] or 0 for r in rows["no policy"])
# axes[0].annotate("NaN: skipped", (7, rows["clean"][6]["loss"]), xytext=(5.5, 0.45 * highest + 1.5), fontsize=8.5, color=INK, ha="center", arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.7})
# axes[0].text(15, 0.6, "garbage", color=FURNACE, ha="center", fontsize=8.5)
# for place, (name, colour) in zip((0.92, 0.8, 0.68), tints.items()):
#     axes[0].text(19, place * highest, name, color=colour, fontsize=8.5)
# axis_units(axes[0], x="step", y="loss (nats/token)")
# axis_units(axes[1], x="step", y="gradient norm before clipping")
# show(fig, alt="Left: loss of three runs over 28 steps, near 2 nats; five garbage batches lift it far above, then all three return. Right: gradient norms, about ten times higher in the garbage than before.",
#      caption="One seed. Steps inside the orange band read random tokens, and their loss says so whatever the policy.")
# garbage, refused = set(range(13, 18)), set(skipped["spike policy"]) - {7}
# after = {name: sum(r["loss"] for r in rows[name][17:21]) / 4 for name in rows}
# say(f"Mean loss of the four steps after the garbage: clean **{after['clean']:.2f}**, without a policy **{after['no policy']:.2f}**, with it **{after['spike policy']:.2f}**. "
#     f"The policy skipped {len(garbage & refused)} of the five batches of garbage, and {len(refused - garbage)} good ones.")

# %% [markdown]
# Clipping bounds the harm already: an update of norm 1 is an update of norm 1, whatever caused it. The policy buys what is left, and pays with good steps that it skips, too; the factor 2 is chosen for this
# demonstration, and a real run starts without one, or well above. Note what the log says in either case: which steps, and why. The loader gives you their very batches back.
#
# Real curves are read the same way, loss and speed together.

# %% tags=["active-ipynb", "hide-input"]
# fig, axes = figure(3.4, nrows=2, sharex=True, height_ratios=(1.6, 1))
# for name, colour, label in (("laptop", STEEL, "laptop: closed world"), ("nine", SLATE, "nine real sources"), ("poetry", OKABE_ITO["purple"], "poetry")):
#     rows = [json.loads(line) for line in (LOGS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
#     own = [r for r in rows if r["kind"] == "step"]
#     head, x = rows[0], [r["tokens"] / 1e6 for r in own]
#     decay = (1 - head["config"]["train"]["decay_fraction"]) * own[-1]["tokens"] / 1e6
#     axes[0].plot(x, [r["loss"] for r in own], color=colour)
#     axes[0].plot(decay, min(own, key=lambda r: abs(r["tokens"] / 1e6 - decay))["loss"], "v", color=colour, ms=6)
#     label_line(axes[0], x[-1], own[-1]["loss"] + (0.25 if name == "poetry" else 0), label, colour)
#     fast = sorted(r["tokens_per_s"] for r in own)[len(own) // 2]
#     axes[1].plot(x, [r["tokens_per_s"] / fast for r in own], color=colour, lw=1.2)
#     if name == "laptop":
#         for e in range(1, int(own[-1]["tokens"] / head["corpus_tokens"]) + 1):
#             axes[0].plot([e * head["corpus_tokens"] / 1e6] * 2, [0.1, 0.9 - 0.1 * e], color=colour, lw=0.7, ls=(0, (4, 3)))
#         axes[0].text(head["corpus_tokens"] / 1e6 + 0.03, 2.0, "ends of epochs", fontsize=8, color=colour)
# axes[0].text(2.0, 6.3, "▼ learning rate begins to fall", fontsize=8, color=INK)
# axes[0].set(xlim=(0, 4.9), ylim=(0, 9))
# axes[1].set(ylim=(0, 2.2))
# axes[1].text(2.5, 1.75, "other jobs, a pause", fontsize=8, color=FURNACE)
# axis_units(axes[0], y="training loss (nats/token)")
# axis_units(axes[1], x="tokens seen (millions)", y="speed over its median")
# show(fig, alt="Three committed runs. Above: loss falls smoothly, with a bend where the learning rate begins to fall, and no step at the ends of the laptop run's epochs. Below: the speed of the two real runs goes up and down by a factor of two and more.",
#      caption="Committed logs of three runs. The losses do not know that the machine of two of them was busy; the speeds do not know that the learning rate fell. Watch both.")

# %% [markdown]
# ## At full scale
#
# The original ran 1.07 million steps of 1,048,576 tokens. This chapter's script is that run: another preset, your shards, one process a GPU. No run of ours at this size is
# logged yet: what this chapter measures, it measures on processes of two CPU cores.
#
# ```text
# torchrun --nproc-per-node 8 notebooks/11_pretrain.py --preset steel-1b --data DATA/shards --tokenizer DATA/tokenizer -r runs/1b
# torchrun --nproc-per-node 8 notebooks/11_pretrain.py --preset steel-1b-causal --data … -r … data.anneal_weights='{firefly: 1, wanjuan: 3}'
# python notebooks/11_pretrain.py --preset steel-1b-causal --dry-run
# ```
#
# The first is the original as its paper describes it, mixture that sees the future included (chapter 07); the second is what its author wished for. `steel pretrain` takes the same words. The dry run touches no device:

# %% tags=["active-ipynb"]
# print(dry_run(load("steel-1b-causal"), "H800", 8))

# %% tags=["active-ipynb", "hide-input"]
# rows = []
# for ranks in (8, 16, 32):
#     p = plan(load("steel-1b-causal"), "H800", ranks)
#     rows.append([ranks, 512 // ranks, 512 // ranks // 8, f"{p.memory_bytes['total'] / GIB:.0f}", f"{p.days:.0f}", f"{p.usd:,.0f}"])
# table(["H800", "sequences per GPU", "micro-batches of 8", "GiB per GPU, planned", "days", "USD"], rows)

# %% [markdown]
# More GPUs do not change the run, only its pace: the batch stays 512 sequences, and 512 is the number that the ranks must divide. Days assume the planner's utilisation at every size, which the network will correct.
#
# For several nodes let the package write the launch file: `steel pretrain … --nodes 4 --print-launch slurm`, or `k8s`. These are the lines that matter:

# %% tags=["active-ipynb"]
# from steel.train.launch import render
#
# MARKS = {"slurm": ("--nodes", "--ntasks", "--signal", "--requeue", "MASTER_ADDR=", "TIMEOUT_S",
#                    "exec python", "-ge 75", "scontrol requeue"),
#          "k8s": ("maxRestarts", "restartPolicy", "Grace", "rdzv-backend", "-m steel", "USR1")}
# for kind, marks in MARKS.items():
#     text = render(kind, load("steel-1b-causal"), "steel-1b-causal", data="shards", run="runs/1b", nodes=4)
#     lines = [x.strip() for x in text.splitlines() if not x.lstrip().startswith("# ")]
#     print(f"# {kind}", *(line for line in lines if any(m in line for m in marks)), sep="\n")

# %% [markdown]
# A scheduler that wants its nodes back sends a signal and waits. Every rank reads it between two steps, they agree, save, and exit with 0; the script sees that the log has no end and queues itself again. A rank that dies takes the
# others with it within the time-out, with exit code 75, and the job starts again from the newest checkpoint. Under Slurm a user's mistake exits with 2 and stays down.
#
# ## Failure gallery
#
# ```{admonition} The machine is withdrawn
# :class: failure
# Steel saved every 20,000 steps. At the A100 leg's pace that is 27 hours of eight GPUs, lost if the machine goes a minute before the save. `steel-1b-causal` saves every 1,000 steps, in the
# background; exercise 11.2 says how often is right.
# ```
#
# ```{admonition} The logger
# :class: failure
# The one restart by fault in the whole run had nothing to do with GPUs: the network failed, and the experiment logger blocked training. Here the log is a local file, appended a line at a time. Weights & Biases is an
# option, and nothing depends on it.
# ```
#
# ```{admonition} Zeros from a page
# :class: failure
# Our own, found by the drills below. Shards are memory-mapped. When one was cut short under a running job, the kernel filled the rest of its last page with zeros, and the run trained on them
# without a word; a longer cut would have ended in SIGBUS, without a word either. Now every step looks at the size of the shards that it reads.
# ```
#
# ```{admonition} One dies, seven wait
# :class: failure
# Kill one of two ranks and the other ended in a long traceback; stop it with SIGSTOP and the other would have waited half an hour. Now it waits as long as `STEEL_RANK_TIMEOUT_S` says, prints one line, and exits with a
# code that the launch files understand. (Tried over gloo; with NCCL on GPUs its watchdog may end the process first.)
# ```
#
# ```{admonition} A model with a layer missing
# :class: failure
# Exercise 11.4 found this one. PyTorch's checkpoints load whatever the model asks for, so a run of three layers, resumed as one of two, went on without its last layer and without a word. Resuming now compares the names first.
# ```
#
# ```{admonition} Two programs, one command line
# :class: failure
# This chapter found it: `torchrun … -m steel pretrain --run X` fails on some Python versions, because torchrun takes `--run` for an abbreviation of its own `--run-path`, even behind the
# name of the script. The front page of this project had printed that command. It says `-r` now, and a test gives every printed command to torchrun's own parser.
# ```
#
# ```{admonition} The checkpoint that was not whole
# :class: failure
# A program that writes into the final folder leaves, sooner or later, half a checkpoint under a whole one's name, and it will be the newest. The original's
# script names the checkpoint to resume from in its source code, so that picking a whole one was left to its author's care.
# ```
#
# How do we know? `python -m figures.experiments.drills` breaks a small run again and again and compares it with one that nobody touched. This is the committed report of the long version:

# %% tags=["active-ipynb", "hide-input"]
# drills = json.loads((LOGS / "drills.json").read_text(encoding="utf-8"))
# training = [k for k in drills["kills"] if k["in"] == "training"]
# inside = sum(bool(k["half_written"]) for k in training)
# rows = [["kill -9 between saves", len(training) - inside, "resumed, equal bit for bit"],
#         ["kill -9 inside a save", inside, f"{drills['half_checkpoints_loaded']} half checkpoints loaded"],
#         ["kill -9 inside an append of data", len(drills["kills"]) - len(training), f"{drills['appends']['done']} appends, shards byte for byte those of a calm one"]]
# named = {"ranks": "1 → 2 → 2 → 1 ranks, one rank killed", "silent rank": "one rank stopped, not dead", "full disk": "full disk", "damaged shard": "shard cut short while it is read", "bad batch": "NaN once, then always", "SIGTERM": "SIGTERM"}
# for name, fault in drills["faults"].items():
#     rows.append([named[name], 1, "passed: one line, then the run goes on" if fault["passed"] else "FAILED"])
# table(["what happened", "times", "result"], rows, "lrl")
# once = drills["samples"]
# say(f"{drills['steps']:,} steps, {len(drills['kills'])} kills. Loss curve and final weights equal to the unbroken run's in every bit: **{drills['curve_bit_equal'] and drills['weights_bit_equal']}**. "
#     f"Samples seen exactly once: **{once['once']:,} of {once['due']:,}**. The full disk was {'a small tmpfs' if drills['faults']['full disk']['how'] == 'tmpfs' else 'an injected error'}; another world size moved the loss by at most "
#     f"{drills['faults']['ranks']['largest_relative_loss_difference']:.0e}.")
# assert drills["passed"]

# %% [markdown]
# ## Exercises
#
# **11.1 Recall.** The checkpoint holds no state of a random generator, no position of an iterator and no learning rate. Say for each what replaces it.
#
# ```{dropdown} Answer 11.1
# The generator is seeded with the run's seed and the step's number before each step. The batch is a function of the step (`loader.batch`). The learning rate is a function of the step and the configuration, which is why a resumed run obeys a
# *changed* configuration.
# ```
#
# **11.2 Calculate.** A save pauses training for 20 seconds, and something breaks once in three days. How often should you save? Compare with the original's 20,000 steps. (Young's rule of 1974: with a cost $\delta$ and a mean time
# $M$ between failures, save every $\sqrt{2 \delta M}$.)
#
# ```{dropdown} Answer 11.2
# $\sqrt{2 \cdot 20 \cdot 259{,}200} \approx 3{,}220$ s, 54 minutes: about 1,300 steps of 2.4 s. At that interval 1.2 % of the time goes into saves and lost work together. Saving every 20,000 steps on the H800 leg means 13.5 hours between saves and 6.7 hours
# lost per failure on average. With saves in the background $\delta$ is the time of a copy to memory, a second or two, and every ten to fifteen minutes pays.
# ```
#
# **11.3 Code.** Write `bytes_sent(parameters, ranks, micro_batches, sharding)`: what one rank sends in a step, with bf16 weights and float32 gradients, for `full`, `grad_op` and `ddp`.

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def bytes_sent(parameters, ranks, micro_batches, sharding):
#     weights = {"full": 2 * 2 * micro_batches, "grad_op": 2 * micro_batches, "ddp": 0}[sharding]
#     gradients = 8 if sharding == "ddp" else 4  # a reduction to all is a scatter and a gather
#     return (weights + gradients) * parameters * (ranks - 1) / ranks
#
# check("11.3", bytes_sent)

# %% [markdown]
# **11.4 Break it.** Resume a run with something changed. Which changes does it refuse, which does it follow, and which of the two would you want for the sequence length?

# %% tags=["active-ipynb", "hide-cell"]
# for change in ("seed=2", "data.sequence_length=64", "train.batch_size=8", "model.num_hidden_layers=2"):
#     other = load("cpu", [*SETTINGS, "train.steps=11", change])
#     shutil.copytree(LAB / "unbroken", LAB / "changed")
#     try:
#         pretrain(other, shards, LAB / "changed", tokenizer)
#         print(f"{change:28} followed")
#     except UserError as error:
#         print(f"{change:28} refused: {str(error).replace(str(LAB), '…')[:76]} …")
#     shutil.rmtree(LAB / "changed")

# %% [markdown]
# **11.5 Open, 16 GPU hours.** You get eight GPUs for two hours and may keep them for a month if the run looks sound. Which ten numbers do you write down at the end of the first hour, and which value of each sends you home? There is no
# answer to unfold; start with those of chapter 01.
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What is the state of a training run?** Weights, optimizer moments, the step's number. The rest is a function of the step, or ought to be.
# ```
#
# ```{admonition} Card
# :class: card
# **How to average over micro-batches and ranks?** Sum losses and gradients, sum the counts, divide once.
# ```
#
# ```{admonition} Card
# :class: card
# **What does full sharding send?** The weights twice a micro-batch, the gradients once a step, each times $(W-1)/W$. What does it hold between micro-batches? Whole gradients.
# ```
#
# ```{admonition} Card
# :class: card
# **How to write a checkpoint?** Under another name; flush; rename. Then remove the oldest. Whole or absent.
# ```

# %% tags=["active-ipynb"]
# from figures.style import badge
#
# badge()

# %% [markdown]
# The program's last cell. In the notebook its run is done already, so it finds the checkpoint of the last step and leaves everything as it is.

# %%
def main(cfg, given):
    if given.dry_run:
        print(dry_run(cfg, "H800", RANKS if RANKS > 1 else 8, given.data))
        return
    data, tokenizer = find_data(cfg, given)
    result = pretrain(cfg, data, given.run or RUNS / cfg.preset, tokenizer)
    if RANK == 0:
        print(
            f"loss {result.loss:.4f} after {result.steps:,} steps, {result.tokens:,} tokens"
        )


# %%
if __name__ == "__main__":
    try:
        main(cfg, given)
    except UserError as error:
        print(f"11_pretrain: {error}", file=sys.stderr)
        raise SystemExit(2) from None
