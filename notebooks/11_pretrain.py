# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 · What a run has to remember
#
# Early in June 2024, around step 200,000, the machine was called back for a test, and never returned. More than a week later a university teacher offered another {cite:p}`steelblog2024`; on 18 July the run went on {cite:p}`steelreadme2025`.
# Between the two lay a folder on a disk.

# %% tags=["hide-input"]
import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

from typer.main import get_command

from steel.cli import app
from steel.cli import main as command_line
from steel.config import UserError, load
from steel.corpus.pipeline import prepare
from steel.corpus.world import write_world
from steel.data import pack
from steel.tokenizer import bpe
from steel.tokenizer.texts import document_texts

RANK, RUNS = int(os.environ.get("RANK", 0)), Path("runs/11_pretrain")

def make_data(cfg):
    """World, documents, tokenizer, shards of a small preset: rank 0 makes them, the others wait for the folder's name."""
    folder = RUNS / f"data-{cfg.preset}-{cfg.seed}"
    if RANK == 0 and not folder.exists():
        fresh = folder.with_name(folder.name + ".fresh")
        shutil.rmtree(fresh, ignore_errors=True)
        write_world(fresh / "world", cfg.world, cfg.seed)
        prepare(fresh / "world" / "raw", fresh / "docs")
        tokenizer = bpe.train(document_texts(fresh / "docs"), cfg.tokenizer.vocab_size)
        bpe.save(tokenizer, fresh / "tokenizer")
        pack(fresh / "docs", fresh / "shards", fresh / "tokenizer", hold_out=cfg.data.validation_fraction)
        fresh.rename(folder)
    while not folder.exists():
        time.sleep(0.2)
    return folder / "shards"

def with_data(words):
    """The words of a command line, with --data and -r for a small preset that is given no data."""
    given = get_command(app).commands["pretrain"].make_context("", list(words), resilient_parsing=True).params
    small = given["preset"] in ("cpu", "smoke", "laptop")
    if given["data"] or given["dry_run"] or given["print_launch"] or not small:
        return words
    data = make_data(load(given["preset"], given["overrides"]))
    return [*words, "--data", str(data), *([] if given["run"] else ["-r", str(RUNS / given["preset"])])]


# %% tags=["active-ipynb", "hide-input"]
# import json
# import math
# import subprocess
#
# import torch
#
# from figures import draw_11
# from figures.experiments.drill_run import curve
# from figures.style import answer, say, show, table
# from steel.data import Loader, ShardSet
# from steel.plan import GIB, count_parameters, flops_per_token, gpu, memory, memory_settings
# from steel.runlog import read_log
# from steel.train.build import make_model
# from steel.train.optim import build_optimizers, set_learning_rate
# from steel.train.parallel import World
# from steel.train.preflight import dry_run
# from steel.train.pretrain import next_token_loss, pretrain
# from steel.train.schedule import learning_rate_factor
#
# torch.set_num_threads(1)  # sums then have one order
# LOGS = Path("../figures/runs") if Path("../figures/runs").exists() else Path("figures/runs")
# LAB = RUNS / "lab"
# shutil.rmtree(RUNS, ignore_errors=True)  # this notebook starts afresh every time
# shards = make_data(load("cpu"))

# %% tags=["active-ipynb", "hide-input"]
# show(draw_11.training_step(), alt="One training step on two ranks. Each reads its rows of batch s and runs forward and backward over two micro-batches; losses, gradients and token counts of both are added, divided once, clipped; the optimizer makes the weights of step s + 1. Every so many steps an arrow leads to a folder with a question mark.",
#      caption="One step of pretraining. The chapter asks what belongs into the folder, and what the ranks have to tell each other.")

# %% [markdown]
# Three words of the drawing. *Ranks* are the processes of a run, one a GPU. A *micro-batch* is as much of the batch as fits into memory at once. *Moments* are the optimizer's running means of past gradients and, with AdamW, of their squares: two numbers a parameter.
#
# ```{admonition} Predict
# :class: predict
# Three numbers, before you read on.
#
# 1. A run saves every 5 steps and is killed with `kill -9` at step 7. It is started again and goes to step 10. How many of the 16 digits of its last loss agree with
#    a run that nobody killed?
# 2. Two processes share every batch, half each. How many digits of their loss, about, agree with that of one process?
# 3. Steel's 1.12 billion parameters are cut over eight GPUs, each with eight micro-batches a step. Weights (2 bytes) are collected twice a micro-batch, gradients (4 bytes) added up once a step. How many gigabytes must each GPU send per step?
# ```
#
# Nobody has run this code on many GPUs yet. What is measured here is measured on two CPU cores; what is said of GPUs is arithmetic.
#
# ## What one step is
#
# Read a batch, run the model, run backward, update. Once by hand:

# %% tags=["active-ipynb"]
# def step_by_hand(model, optimizers, batch, factor, train):
#     """One optimizer step; mean loss over all targets [nats/token]."""
#     loss_fn, total, count = next_token_loss(), 0.0, 0
#     for part in batch.split(train.micro_batch_size):
#         loss_sum, targets, _ = loss_fn(model, part)
#         loss_sum.backward()                     # gradients of sums add up
#         total, count = total + loss_sum.detach().double(), count + targets
#     for p in model.parameters():
#         p.grad *= 1 / float(count)              # one division, at the end
#     torch.nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip)
#     set_learning_rate(optimizers, factor)
#     for optimizer in optimizers:
#         optimizer.step(), optimizer.zero_grad()
#     return float(total / count)

# %% [markdown]
# Now the package's loop does ten steps of a small run, and we repeat its first three.

# %% tags=["active-ipynb", "within-0.1"]
# SETTINGS = ["train.steps=10", "train.checkpoint_every=5", "train.batch_size=4", "train.micro_batch_size=2",
#             "train.warmup_steps=2", "train.eval_every=0", "train.log_every=1",
#             "train.keep_at_decay=false", "data.sequence_length=128"]
# small = load("cpu", SETTINGS)
# pretrain(small, shards, LAB / "unbroken")
# unbroken = curve(LAB / "unbroken")
#
# loader = Loader(ShardSet.open(shards), 128, small.train.batch_size, small.seed)
# model = make_model(small, World())
# optimizers = build_optimizers(model, small.train)
# for s in range(3):
#     factor = learning_rate_factor(s, small.train.steps, small.train)
#     by_hand = step_by_hand(model, optimizers, loader.batch(s), factor, small.train)
#     assert by_hand == unbroken[s]["loss"]
#     print(f"step {s + 1}  loop {unbroken[s]['loss']:.6f}  by hand {by_hand:.6f}  equal in every bit")

# %% [markdown]
# The loop does nothing else, but for a check that skips a broken step. Four facts carry the rest of the chapter:
#
# - **The batch is a function of the step.** `loader.batch(7)` needs no history (chapter 10).
# - **So is everything random.** The loop seeds its generator with the run's seed and the step's number; the learning rate is a formula of the step.
# - **The past lives in the weights and the moments**, and in a few facts that nothing can compute.
# - **Loss and gradient are sums, divided once** by the number of targets in the whole step.
#
# ## Divide once
#
# Suppose one micro-batch holds 1,000 targets and the next, padded or masked, holds 10.
# The average of the two means gives a token of the second a hundred times the vote of a token of the first.

# %% tags=["active-ipynb", "within-0.1"]
# def gradient(parts, divide_once):
#     loss_fn, total = next_token_loss(), sum(m.tokens for m in parts)
#     model.zero_grad()
#     for part in parts:
#         loss_sum, targets, _ = loss_fn(model, part)
#         (loss_sum / (total if divide_once else len(parts) * targets)).backward()
#     return torch.cat([p.grad.flatten() for p in model.parameters()])
#
# uneven = loader.batch(3)
# uneven.targets[2:, 8:] = -100  # the second half keeps 8 targets a row
# whole = gradient([uneven], True)
# for divide_once in (True, False):
#     g = gradient(uneven.split(2), divide_once)
#     cosine = torch.nn.functional.cosine_similarity(g, whole, dim=0)
#     print("sum, divided once" if divide_once else "mean of the means", f"cosine {cosine:.2f}")

# %% [markdown]
# Divided once, micro-batches give the gradient of the whole batch. The mean of means points somewhere else. In pretraining nearly every row is packed full, both nearly agree, and the mistake sleeps. It wakes in fine-tuning, where answers have all lengths. Over ranks it is the same: divide by the tokens of all.
#
# ## Kill it

# %% tags=["active-ipynb", "hide-input"]
# show(draw_11.checkpoint_life(), alt="The life of a checkpoint from left to right: a folder with a temporary name is written, state and hashes are added, it is renamed to its final name, later renamed again and removed. A kill before the renaming leaves something that is swept away, after it a whole checkpoint.",
#      caption="The life of a checkpoint. A rename either happened or did not, so no kill leaves half a checkpoint under a whole one's name. When two newer ones are there, the third loses its name first, then its files.")

# %% [markdown]
# Start the same ten steps as a process, wait for step 7, and send a signal that cannot be caught.

# %% tags=["active-ipynb", "timing"]
# def start(name, ranks=1):
#     """What one types into a terminal: the same run, in processes of its own."""
#     torchrun = f"torch.distributed.run --standalone --nproc-per-node={ranks} -m " if ranks > 1 else ""
#     words = f"-m {torchrun}steel pretrain --preset cpu --data {shards} -r {LAB / name}".split()
#     return subprocess.Popen([sys.executable, *words, *SETTINGS], stdout=subprocess.DEVNULL,
#                             stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
#
# process, log = start("killed"), LAB / "killed" / "log.jsonl"
# while not log.exists() or len(read_log(log, "step")) < 7:
#     assert process.poll() is None, "it ended before step 7: start it in a terminal to see why"
#     time.sleep(0.01)
# process.kill()
# print(f"exit code {process.wait()}, dead at step {len(read_log(log, 'step'))}")
# print("on disk:", *sorted(p.name for p in (LAB / "killed" / "checkpoints").iterdir()))

# %% [markdown]
# The log is ahead of the checkpoint: those steps are lost. Now the same call again.

# %% tags=["active-ipynb", "within-0.1"]
# result = pretrain(small, shards, LAB / "killed")
# resumed = curve(LAB / "killed")
# print(f"resumed from step {result.resumed_from}")
# for a, b in list(zip(unbroken, resumed))[4:]:
#     print(f"step {a['step']:2}  unbroken {a['loss']:.6f}   resumed {b['loss']:.6f}")
# weights = [(LAB / name / "hf" / "model.safetensors").read_bytes() for name in ("unbroken", "killed")]
# assert unbroken == resumed and weights[0] == weights[1]
# answer("1.1", "**All 16**, and the final weights are the same bytes.", 16, unit="digits")

# %% [markdown]
# So what is in the folder?

# %% tags=["active-ipynb", "within-0.1"]
# saved = LAB / "killed" / "checkpoints" / "step-00000010"
# print(*sorted(p.name for p in saved.iterdir()))
# facts = json.loads((saved / "state.json").read_text())
# print({key: facts[key] for key in ("step", "tokens", "bad_steps")},
#       f"grad_norm_mean {facts['grad_norm_mean']:.1f}")
# print("data:", {key: facts["data"][key] for key in ("seed", "slot", "batches", "appended_at")})

# %% [markdown]
# `__0_0.distcp` holds weights and moments, with `.metadata` as its table of contents, `manifest.json` their hashes, `state.json` a page of facts: which rows were read under which batch size (`[0, 0, 4]`: from step 0, row 0, four a step), where shards were appended, the running mean that says what a spike is,
# the model's configuration. On the same shards and the same machine a step needs nothing else.
#
# ```{admonition} Takeaway
# :class: takeaway
# Save what cannot be computed, and make the rest a function of the step. What has no state cannot be restored wrongly.
# ```
#
# ## Who holds what
#
# ```{admonition} Napkin
# :class: napkin
# With AdamW {cite:p}`adamw2019` a parameter costs 16 bytes: a float32 weight, its float32 gradient, two float32 moments. For
# $N = 1.12 \cdot 10^9$ that is 18 GB before the first activation. Eight GPUs with eight copies hold it eight times.
# ```
#
# FSDP {cite:p}`fsdp2023` cuts every tensor into as many pieces as there are ranks. The model is divided into *units*: each decoder block is one, and the rest, embedding and head, is one more. Before a unit is computed, its pieces are *gathered*: every rank sends its own, in bf16, and has the whole.
# After the backward pass the gradients are *reduce-scattered*: added up over the ranks, each keeping its own piece. The ways differ in when borrowed weights are given back.

# %% tags=["active-ipynb", "hide-input"]
# show(draw_11.fsdp_step(), alt="Time lines of one step with two micro-batches for full, grad_op and ddp. Full gathers every unit before its forward and again before its backward; embedding and head, the largest unit, come first, with nothing beside them, and stay through a whole pass; grad_op gathers once a micro-batch and holds a unit from forward to backward; ddp gathers nothing and holds all. All three keep whole gradients from the first micro-batch to the reduction in the second.",
#      caption="One step of two blocks and the rest (F forward, B backward, h the head), two micro-batches. Lengths are chosen, the order is FSDP's: light bars gather weights, dark ones reduce gradients, green is what a rank holds whole; the thick line is embedding and head, needed first and last.")

# %% [markdown]
# | `train.sharding` | weights | gradients, moments | weights travel |
# |---|---|---|---|
# | `full` | a piece; borrowed for forward, again for backward | a piece | twice a micro-batch |
# | `grad_op` | whole from forward to backward | a piece | once a micro-batch |
# | `hybrid` | `full` inside a node (one machine), copies across nodes | a piece of the node | inside the node only |
# | `ddp` | a copy | a copy | never |
#
# Gradients travel once a step: each rank keeps its own until the last micro-batch, the pale green bars. So with $W$ ranks and $A$ micro-batches a rank sends, in bytes per parameter,
#
# $$
# \underbrace{2 \cdot 2A}_{\text{weights, full}} \tfrac{W-1}{W} \;+\; \underbrace{4}_{\text{gradients}} \tfrac{W-1}{W}
# \qquad\text{against ddp's}\qquad 2 \cdot 4 \cdot \tfrac{W-1}{W} .
# $$
#
# Is it so? `figures.experiments.communication` stands between FSDP and the network and counts, here with two ranks, two micro-batches and weights of 4 bytes.

# %% tags=["active-ipynb", "hide-input"]
# counted = json.loads((LOGS / "communication.json").read_text())
# size, A = counted["parameters"], counted["micro_batches"]
# rows = []
# for name, by_formula in {"full": 4 * 2 * A + 4, "grad_op": 4 * A + 4, "ddp": 8}.items():
#     found = counted["shardings"][name]
#     sent = sum(found["sent"].values())
#     assert sent == by_formula * size / 2, name  # (W - 1) / W is a half
#     held = [found[k] for k in ("weights", "moments", "gradients", "between_micro_batches")]
#     rows.append([name, *(f"{part / size:.1f}" for part in (*held, sent))])
# table(["bytes per parameter", "weights", "moments", "gradients", "between micro-batches", "sent"], rows)

# %% [markdown]
# What travels, how often and how wide is observed, and fits; the factor $(W-1)/W$ is assumed. (The small preset's optimizer is Muon, which keeps one moment for a matrix inside the blocks.) Look at the column *between micro-batches*: every rank holds **whole** gradients, however finely the rest is cut. That is the price of sending them once.
#
# What a rank does not keep, it has to be sent, and each time anew. For Steel:

# %% tags=["active-ipynb", "hide-input"]
# causal = load("steel-1b-causal")
# N, micros = count_parameters(causal.model)["total"], 8
# ways = [("one GPU", 1, "full"), ("8, ddp", 8, "ddp"), ("8, grad_op", 8, "grad_op"), ("8, full", 8, "full"), ("32, full", 32, "full")]
# bars = {label: memory(causal.model, **memory_settings(causal, ranks, sharding=how)) for label, ranks, how in ways}
# show(draw_11.memory_bars(bars), alt="Stacked bars of the planned memory of one GPU for Steel at micro-batch 8: 36 GiB on one GPU or with ddp, 25 with grad_op on 8, 24 with full. Whole gradients of 4 GiB and activations of 11 GiB stay the same everywhere. A dashed line far to the right marks the 80 GiB of the card.",
#      caption="What the planner expects on each GPU. Every way fits. Sharding divides weights and moments; whole gradients and activations stay.")
# assert max(parts["total"] for parts in bars.values()) < 80 * GIB
# gigabytes = (2 * 2 * micros + 4) * N * 7 / 8 / 1e9
# answer("1.3", f"with `full`, **{gigabytes:.1f} GB**: 2 × 2 × {micros} + 4 = 36 bytes a parameter, times 7/8. With `grad_op` {20 * N * 7 / 8 / 1e9:.1f}, with `ddp` {8 * N * 7 / 8 / 1e9:.1f}.", round(gigabytes, 1), unit="GB")

# %% [markdown]
# ## Is the wire fast enough?
#
# Weights travel while the GPU computes the unit before. Two things spoil it. The forward pass, in which `full` and `grad_op` both gather, is only a third of a micro-batch. And the first unit has nothing before it: here embedding and head, half of the weights.

# %% tags=["active-ipynb", "hide-input"]
# card, tokens = gpu("H800"), causal.train.micro_batch_size * causal.data.sequence_length
# seconds = tokens * flops_per_token(causal.model, 2048).total / (card.peak * card.mfu)
# counts = count_parameters(causal.model)
# rest = counts["embedding"] + counts["lm_head"]
# weights_sent, rest_sent = (2 * 7 / 8 * size for size in (N, rest))
# print(f"a micro-batch computes {1e3 * seconds:.0f} ms, if it reaches {card.mfu:.0%} of its peak, an assumption; {weights_sent / 1e9:.1f} GB of weights, {rest_sent / 1e9:.2f} GB of them embedding and head")
# print(f"a forward pass is as long as its weights travel at {3 * weights_sent / seconds / 1e9:.0f} GB/s")
# for wire in (200e9, 50e9, 25e9, 12.5e9):
#     longer = {how: draw_11.micro_batch(causal, wire, how, seconds) / seconds - 1 for how in ("grad_op", "full")}
#     assert longer["grad_op"] >= rest_sent / wire / seconds and longer["full"] >= 2 * rest_sent / wire / seconds
#     print(f"{wire / 1e9:5g} GB/s: embedding and head {1e3 * rest_sent / wire:3.0f} ms; longer by", *(f"{how} {share:.0%}" for how, share in longer.items()))

# %% [markdown]
# The last columns gather one unit ahead on an ideal wire; the gradients come on top. 200 GB/s are, at most, NVLink of an H800, the wire inside a node; 50, 25 and 12.5, per GPU, network cards of 400, 200 and 100 Gb/s.
#
# The second line is the border. Both of its times grow with the model, whose size drops out; a larger micro-batch lowers it. Embedding and head are waited for at any speed, once a micro-batch with `grad_op`, twice with `full`; far below the border the blocks' weights are, too. It is a bound, not a verdict: `steel bench step` measures ([runbook](../book/runbook.md)). What each way buys:
#
# - **`ddp`** waits for no weights, where whole moments fit.
# - **`grad_op`** frees most of their memory, for a larger micro-batch say. It sends half of the weights that `full` sends, for 1 GiB more on eight GPUs. In the original's Table 2 a change of this kind, on a model of 1.8 B on A100, was worth 14,600 → 15,000 tokens/s, for 5 GB.
# - **`full`** is for short memory and a wire far above the border.
# - **`hybrid`** keeps weights inside a node when the network between nodes is below the border. On four nodes each rank sends 0.84 GB of gradients a step to the other three.
#
# ## Two processes, live
#
# The same ten steps with `torchrun`, and two ranks that talk over gloo, PyTorch's library for CPUs.

# %% tags=["active-ipynb", "within-0.2"]
# assert start("two", ranks=2).wait() == 0
# two = curve(LAB / "two")
# difference = [abs(a["loss"] - b["loss"]) / a["loss"] for a, b in zip(unbroken, two, strict=True)]
# for a, b in list(zip(unbroken, two))[-3:]:
#     print(f"step {a['step']:2}  one {a['loss']:.8f}   two {b['loss']:.8f}")
# assert [a["tokens"] for a in unbroken] == [b["tokens"] for b in two]
# digit = round(-math.log10(max(difference)))
# assert 6 <= digit <= 8
# answer("1.2", f"**About {digit}**, all that float32 has. Sums are taken in another order, "
#        "and that is all.", digit, unit="digits")

# %% [markdown]
# Pieces in a checkpoint are addressed by parameter and place, not by rank. So a run may go from one rank to two, and in the drills did; for 8 → 32 it is the format's promise.
#
# ## How fast to learn, and on what

# %% tags=["active-ipynb", "hide-input"]
# show(draw_11.schedules(), alt="Learning rate over the steps. A grey cosine falls from the start of the run to its end. A blue line warms up as fast and stays level; at four fifths of the run a green dot is marked: kept for good. From it one branch falls at once, on another mixture, and a dashed one stays level, on more data, and falls later.",
#      caption="Two schedules. The cosine knows its end from the first step; the level line has several futures.")

# %% [markdown]
# The original's learning rate rises for 2,000 steps (1,000 in the released script) and falls along half a cosine to zero. {cite:p}`steel2025` *Warm-up, stable, decay* {cite:p}`minicpm2024` stays level and falls only at the end. So the last checkpoint before the fall can be continued with more data, or decayed on another mixture, and the trainer keeps it for good (`train.keep_at_decay`).
#
# MiniCPM found a decay of 10 % of the steps enough and 2.5 % too short, and mixed its best data into it. Steel had dialogues from the first token and no such stage; its author thinks MiniCPM's way likely to follow instructions better. Here `data.anneal_weights` changes the mixture where the decay begins.
# *A source that is not named gets nothing.* Say `{firefly: 1, wanjuan: 3}`, good dialogues and good text.
#
# ```{admonition} Napkin
# :class: napkin
# The decay of `steel-1b-causal` is 112 B tokens long, and a quarter of it goes to Firefly: 28 B. Firefly is 1.15 million short dialogues, about 0.2 B tokens. They would be read 140 times.
# ```
#
# Past four passes repeated text is worth less and less (chapter 12). The [runbook](../book/runbook.md)'s mixture gives the small sources less than a fifth. The dry run counts passes and warns:

# %% tags=["active-ipynb"]
# greedy = load("cpu", ["train.steps=320", "train.batch_size=4",
#                       "data.anneal_weights={firefly: 1, wanjuan: 3}"])
# plan_page = dry_run(greedy, "CPU", 1, shards)
# print(plan_page[plan_page.index("Passes"):])

# %% [markdown]
# The optimizer is AdamW with $\beta = (0.9, 0.95)$, weight decay 0.05, gradients clipped at norm 1. The original's script decays every parameter; this project decays matrices only. **Muon** (chapter 12) is an option for matrices inside the blocks:
# where both sides are tuned, it is faster 1.4 times at 0.1 B parameters and 1.1 times at 1.2 B {cite:p}`wen2025`.
#
# ## The run

# %% tags=["active-ipynb", "within-0.1"]
# cfg = load("cpu", ["train.batch_size=4", "train.micro_batch_size=4", "train.steps=60",
#                    "train.eval_every=20", "train.log_every=1"])
# run = RUNS / cfg.preset
# pretrain(cfg, shards, run)
# steps, evals = read_log(run / "log.jsonl", "step"), read_log(run / "log.jsonl", "eval")
# first, last = evals[0]["loss"], evals[-1]["loss"]
# print(f"{steps[-1]['tokens']:,} tokens, held-out loss {first:.2f} → {last:.2f} nats/token")
# assert last < 0.75 * first
# for name in ("wanjuan", "skypile", "belle_2m", "firefly", "starcoder"):
#     print(f"{name:10}", " → ".join(f"{e['by_source'][name]:.1f}" for e in evals))

# %% [markdown]
# A mean loss hides a source that stalls; by source it shows. (A handful of documents each.)
#
# ## When it goes wrong
#
# A NaN is fatal to a program that does not look: after one update every weight is NaN. The loop looks. A step whose loss or gradient norm is not finite is skipped; after `max_bad_steps` in a row the run stops.
#
# With `spike_factor` a step after the warm-up is skipped, too, whose gradient norm exceeds so many times its running mean. Good steps may be among them. Skipped spikes count towards the stop, and the mean follows only steps that were taken: a norm that rises for good ends the run.
# So begin without it. If the loss does not return within a few hundred steps, go back to a checkpoint before the spike and set the factor to ten ([runbook](../book/runbook.md)). The log names every skipped step, and `loader.batch(step - 1)` gives you its very rows back.
#
# ## At full scale
#
# The original ran 1.07 million steps of 1,048,576 tokens.
#
# ```text
# torchrun --nproc-per-node 8 -m steel pretrain --preset steel-1b-dense --data shards -r runs/1b train.sharding=grad_op
# steel pretrain --preset steel-1b-dense --data shards --dry-run --gpu H100 --nodes 4
# steel pretrain --preset steel-1b-dense --data shards -r runs/1b --nodes 4 --print-launch slurm > run.sh
# ```
#
# Name `data.weights` before the first step: given later, every source starts afresh ([runbook](../book/runbook.md)). `steel-1b-dense` has the plain layer, `steel-1b-causal` the causal mixture, `steel-1b` the original's, which sees the future ([chapter 07](07_soft_moe.ipynb)). The dry run touches no device:

# %% tags=["active-ipynb"]
# page = dry_run(load("steel-1b-dense", ["train.sharding=grad_op"]), "H800", 8)
# print(page[page.index("Memory per GPU"):].partition("\n\nConfiguration")[0])

# %% [markdown]
# Its throughput is an assumption. The runbook has other speeds, up to a factor of two apart, and the way from an empty node to a base model.
#
# More GPUs change the run's pace only: the batch stays 512 sequences, and 512 is the number that the ranks must divide.
# `--print-launch` writes a whole file for Slurm or Kubernetes. When a scheduler wants its nodes back, it sends a signal: the ranks finish the step, save, and exit with 0, and the job queues itself again.
# A rank that dies takes the others with it, and Slurm's job goes on from the newest checkpoint, unless it fell in its first quarter of an hour and would fall again. A bare `torchrun` stays down. A user's mistake ends a Slurm job; Kubernetes tries it again all the same.
#
# ## Failure gallery
#
# ```{admonition} The machine is withdrawn
# :class: failure
# Steel saved every 20,000 steps. At 60 days for the whole run, its author's estimate for eight A100s, that is 27 hours, lost if the machine goes a minute before the save.
# ```
#
# ```{admonition} Zeros from a page
# :class: failure
# Our own, found by the drills below. When a memory-mapped shard was cut short under a running job, the kernel filled its last page with zeros, and the run trained on them
# without a word. Now rows are read by position, and a short read ends the run with the name of the file.
# ```
#
# ```{admonition} One is silent, the others wait
# :class: failure
# With one of two ranks stopped, the other would have waited half an hour. A time-out was set, and the drill failed again: checkpoints in the background use a second group of processes, which had kept its half hour. Now both obey `STEEL_RANK_TIMEOUT_S`. (Tried over gloo only.)
# ```
#
# How do we know? `python -m figures.experiments.drills` breaks a small run again and again and compares it with one that nobody touched.

# %% tags=["active-ipynb", "hide-input"]
# drills = json.loads((LOGS / "drills.json").read_text(encoding="utf-8"))
# faults = json.loads((LOGS / "drills-faults.json").read_text(encoding="utf-8"))["faults"]
# training = [k for k in drills["kills"] if k["in"] == "training"]
# inside = sum(bool(k["half_written"]) for k in training)
# lines = [["kill -9 between saves", f"{len(training) - inside} times: resumed, equal bit for bit"],
#          ["kill -9 inside a save", f"{inside} times: {drills['half_checkpoints_loaded']} half checkpoints loaded"],
#          ["kill -9 inside an append of data", f"{len(drills['kills']) - len(training)} times: shards byte for byte those of a calm append"]]
# titles = {"ranks": "one of two ranks killed", "silent rank": "one of two ranks stopped", "full disk": "full disk", "damaged shard": "shard cut short while it is read", "bad batch": "NaN in every batch from one on", "SIGTERM": "SIGTERM"}
# lines += [[title, f"`{draw_11.shortened(faults[key]['line'])}`"] for key, title in titles.items()]
# table(["what happened", "what the user saw, or the verdict"], lines, "ll")
# once = drills["samples"]
# say(f"{drills['steps']:,} steps and {len(drills['kills'])} kills in the first report: loss curve and final weights equal to the unbroken run's in every bit, samples seen exactly once: **{once['once']:,} of {once['due']:,}**. "
#     f"After the killed and the stopped rank and the signal the same command went on by itself; after the full disk and the cut shard, once a human had repaired them; the run of NaNs ends, and should.")
# assert drills["passed"] and drills["curve_bit_equal"] and drills["weights_bit_equal"] and all(f["passed"] for f in faults.values())

# %% [markdown]
# ## Exercises
#
# **11.1 Recall.** A resumed run takes no random generator, no iterator and no learning rate from the checkpoint. Say for each what replaces it.
#
# ```{dropdown} Answer 11.1
# The generator is seeded with the run's seed and the step's number before each step. The batch is a function of the step (`loader.batch`), the learning rate one of the step and the configuration: so a resumed run obeys a *changed* configuration.
# ```
#
# **11.2 Calculate.** A save pauses training for 20 seconds, something breaks once in three days, and a step takes 2.4 seconds, the author's estimate for eight H800s. How often should you save? Compare with the original's 20,000 steps. (Young's rule of 1974: with a cost $\delta$ and a mean time
# $M$ between failures, save every $\sqrt{2 \delta M}$.)
#
# ```{dropdown} Answer 11.2
# $\sqrt{2 \cdot 20 \cdot 259{,}200} \approx 3{,}220$ s, 54 minutes: about 1,300 steps. At that interval 1.2 % of the time goes into saves and lost work together. Saving every 20,000 steps means 13.5 hours between saves and 6.7 hours
# lost per failure on average. But the author reports one restart after a fault in the whole run {cite:p}`steelblog2024`: the long interval cost him little. The preset's 1,000 steps are 40 minutes.
# ```
#
# **11.3 Code.** Write `bytes_sent(parameters, ranks, micro_batches, sharding)`: what one rank sends in a step, with bf16 weights and float32 gradients, for `full`, `grad_op`, `ddp`, and for `hybrid` on nodes of 8, whose ranks reduce their pieces of the gradients across nodes as `ddp` does the whole.

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def bytes_sent(parameters, ranks, micro_batches, sharding):
#     inside = min(ranks, 8) if sharding == "hybrid" else ranks
#     borrowed = {"full": 2 * 2, "hybrid": 2 * 2, "grad_op": 2, "ddp": 0}[sharding] * micro_batches
#     gradients = 8 if sharding == "ddp" else 4  # a reduction to all is a scatter and a gather
#     total = (borrowed + gradients) * parameters * (inside - 1) / inside
#     if sharding == "hybrid":  # each piece is then reduced to all between the nodes
#         nodes = ranks // inside
#         total += 8 * parameters / inside * (nodes - 1) / nodes
#     return total
#
# check("11.3", bytes_sent)

# %% [markdown]
# **11.4 Break it.** Resume a run with something changed. Which changes does it refuse, which does it follow, and which of the two would you want for the sequence length?

# %% tags=["active-ipynb", "hide-cell"]
# followed = []
# for change in ("seed=2", "data.sequence_length=64", "train.batch_size=8", "model.num_hidden_layers=2", "model.rope_theta=5000"):
#     other = load("cpu", [*SETTINGS, "train.steps=11", change])
#     shutil.copytree(LAB / "unbroken", LAB / "changed")
#     try:
#         pretrain(other, shards, LAB / "changed")
#         followed.append(change)
#         print(f"{change:28} followed")
#     except UserError as error:
#         print(f"{change:28} refused: {str(error).replace(str(LAB), '…')[:76]} …")
#     shutil.rmtree(LAB / "changed")
# assert followed == ["train.batch_size=8"]

# %% [markdown]
# ```{dropdown} Answer 11.4
# A changed seed, length or model is refused; a batch size, rate or mixture is followed (size and mixture are noted in `state.json`). Refusal is right for the length: rows are cut by it, so those read so far could not be told from those to come.
# The question found two bugs. PyTorch loads what the model asks for, so a run of three layers went on as one of two. And no shape shows `rope_theta` or the number of heads. Now names and configuration are compared first.
# ```
#
# **11.5 Open, 16 GPU hours.** You get eight GPUs for two hours and may keep them for a month if the run looks sound. Which ten numbers do you write down at the end of the first hour, and which value of each sends you home?
#
# ```{dropdown} Answer 11.5
# One list of ten; yours may be better. All bounds are chosen, none is measured.
#
# 1. Loss of step 1: within 0.2 of $\ln V + \sigma^2 D / 2$, 12.3 for Steel, else the initial weights are wrong. (The head is drawn with $\sigma = 0.02$ and reads a normalised state of width $D$: a logit has variance $\sigma^2 D$.)
# 2. Loss at step 1,000: below 5 and falling.
# 3. Held-out loss by source: every source has fallen.
# 4. Tokens/s: within a tenth of `bench step`.
# 5. The slowest step of a hundred: below twice the median.
# 6. Peak memory: a tenth free.
# 7. Gradient norm: finite, and its median falls.
# 8. Skipped steps: none.
# 9. Kill it fifty steps *after a save*, start it: a line `resume`, and first losses as in a copy of the old log.
# 10. Days left: fewer than the month has.
#
# Start with `train.checkpoint_every=100 train.eval_every=500 train.log_every=1`: at the preset's 1,000 and 5,000 there is no second validation, and in the first minutes nothing to resume from.
# ```
#
# Number 1, checked small, with a $\sigma$ large enough to see:

# %% tags=["active-ipynb", "hide-cell"]
# loud = load("cpu", ["model.initializer_range=0.1"])
# newborn, eight = make_model(loud, World()), [loader.batch(s) for s in range(8)]
# with torch.no_grad():
#     sums = [next_token_loss()(newborn, batch)[:2] for batch in eight]
# at_birth = float(sum(loss for loss, _ in sums) / sum(targets for _, targets in sums))
# plain, spread = math.log(loud.model.vocab_size), 0.1**2 * loud.model.hidden_size / 2
# print(f"ln V {plain:.2f}, with σ²D/2 {plain + spread:.2f}; measured {at_birth:.2f}")
# assert abs(at_birth - plain - spread) < 0.2 < at_birth - plain

# %% [markdown]
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What is the state of a training run?** Weights, optimizer moments, the step's number, and a short list of what was changed on the way. The rest is a function of the step, or ought to be.
# ```
#
# ```{admonition} Card
# :class: card
# **How to average over micro-batches and ranks?** Sum losses and gradients, sum the counts, divide once.
# ```
#
# ```{admonition} Card
# :class: card
# **When does sharding weights cost little?** While a *forward pass* computes longer than its weights travel. The first unit never hides: keep it small.
# ```
#
# ```{admonition} Card
# :class: card
# **How to write a checkpoint?** Under another name; flush; rename. Whole or absent. Keep one for good where the decay begins.
# ```
#
# ```{admonition} Card
# :class: card
# **How to start?** `--dry-run` (memory, days, passes by source), `steel bench step`, `torchrun --nproc-per-node 8 -m steel pretrain …`, and in the first hour, after a save, one kill of your own.
# ```

# %% tags=["active-ipynb", "timing"]
# from figures.style import badge
#
# badge()

# %% [markdown]
# Run as a program, this page is `steel pretrain`; a small preset that is given no data makes its own.

# %% tags=["hide-input"]
if __name__ == "__main__":
    arguments = ["--preset", "cpu", *sys.argv[1:]]  # of two --preset the last counts
    if "ipykernel" not in sys.modules:
        with contextlib.suppress(UserError):  # the command will say it
            arguments = with_data(arguments)
        command_line(["pretrain", *arguments])
