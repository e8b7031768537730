# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09 · Where a step spends its time
#
# Table 2 of the paper {cite:p}`steel2025` may be the best page that the project published. It trains one model on one kind of machine eight
# times and changes nothing that the model's loss would notice: which program computes the attention, the rotary embedding, the norm and the
# cross-entropy, and whether parameters stay sharded. The slowest combination does 10,500 tokens per second on each GPU, the fastest
# 15,000. The weights, the batch and the matrix products are the same in all eight.
#
# So for every token the slow run spent 95.2 microseconds where the fast one spent 66.7. What was the machine doing in the other 28.6? And once
# you know, how much of what remains can you have back?
#
# ```{admonition} Predict
# :class: predict
# Write down three answers before you read on.
#
# 1. The norms do less than a thousandth of the arithmetic of a training step. If nothing is fused, which share of the step's *time* do they take?
# 2. Eight sequences of 2,048 tokens, a vocabulary of 151,936. How many GB must be free for the logits and for what the loss makes of them?
# 3. Table 2 switches attention, RoPE, RMSNorm, cross-entropy and sharding. Order them by the speed they gain.
# ```

# %%
import math
import os
import subprocess
import sys
import time
import weakref

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read once, when Triton is imported

from steel.config import UserError, load, preset
from steel.kernels import linear_cross_entropy as head
from steel.kernels import elementwise, soft_moe
from steel.kernels._triton import can_run, jit, tl
from steel.model.loss import linear_cross_entropy
from steel.train.metrics import device_name
from steel.plan import count_parameters, experts_per_token, flops_per_token, mfu
from steel.plan import GPUS, published

cfg = preset()  # --preset cpu, gpu1, steel-1b-causal, …
QWEN_1_8B = published("qwen-1.8b").model
BANDWIDTH = {"A100-80G": 2.039e12, "H100": 3.35e12}  # bytes/s, data sheets

# %% tags=["active-ipynb", "hide-input"]
# import json
# from pathlib import Path
#
# import numpy as np
#
# from figures import facts
# from figures.style import FURNACE, INK, OKABE_ITO, PAPER, SEMANTIC, SLATE, STEEL, figure, label_line, say, show, table
#
# LOGS = Path(facts.__file__).parent / "runs"

# %% [markdown]
# ```{admonition} Napkin
# :class: napkin
# An A100 can do 312 TFLOP/s and read 2 TB/s, so it has time for $312/2 \approx 150$ operations while one byte arrives. An H100 has time for
# about $300$. A matrix product of width $1792$ does that and more with every byte. An RMSNorm does some $14$ operations on a number, forward
# and backward, and has to move that number at least eight times at two bytes each: about *one* operation per byte. For such an operation
# the arithmetic is free. What you pay for is each pass over memory, and a formula written line by line makes a pass per line.
# ```
#
# ## Count the bytes
#
# Chapter 01 let PyTorch count the FLOPs of every matrix product on the meta device, where tensors have shapes and no contents. Bytes
# can be had the same way. Whatever you write, each operator goes through one dispatcher on its way to the hardware, forward and
# backward, and one can listen there. Our meter adds up the sizes of what an operator reads and what it writes. Since it sees
# tensors come and go, it also keeps the number of bytes alive, which we will need for the second question.
# (Scratch space inside an operator it cannot see.)

# %%
PICKS = ("nll_loss", "gather", "scatter")  # touch one element per row of the inputs


def tensors(tree):
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def size(x):
    """Bytes of a tensor; an expanded axis (stride 0) is read once."""
    real = (n for n, stride in zip(x.shape, x.stride()) if stride)
    return x.element_size() * math.prod(real)


class Meter(TorchDispatchMode):
    """Bytes that operators read and write, and bytes of new tensors alive."""

    def __init__(self):
        super().__init__()
        self.moved, self.live, self.history = 0, 0, [0]

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        aliases = [r.alias_info for r in op._schema.returns]
        if any(a and not a.is_write for a in aliases):
            return out  # a view moves nothing
        if "empty" not in op.__name__:
            read = [] if op.__name__.startswith(PICKS) else tensors(args)
            self.moved += sum(map(size, tensors(out) + read))
        self.keep(tensors(out), old=tensors((args, kwargs)))
        self.history.append(self.live)
        return out

    def keep(self, made, old):
        known = {id(x.untyped_storage()) for x in old}
        storages = {id(x.untyped_storage()): x.untyped_storage() for x in made}
        for place, storage in storages.items():
            if place not in known:
                self.live += storage.nbytes()
                weakref.finalize(storage, self.release, storage.nbytes())

    def release(self, nbytes):
        self.live -= nbytes


# %%
def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype, device="meta")


def measure(function, *inputs):
    """The meter of a forward and a backward pass of function."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    with Meter() as meter:
        out = function(*inputs)
        out = out if isinstance(out, tuple) else (out,)
        torch.autograd.grad(out, inputs, [torch.empty_like(o) for o in out])
    return meter


# %% [markdown]
# Now an RMSNorm {cite:p}`rmsnorm2019` as most codes write it, and as the original's ran when its CUDA version was switched off: up to float32, square, mean,
# root, product, back to bfloat16, gain.

# %%
def written_norm(x, weight, eps=1e-6):
    wide = x.float()
    r = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * r).to(x.dtype) * weight


def written_rope(x, cos, sin):
    wide, C = x.float(), cos.shape[-1]
    turning, rest = wide[..., :C], wide[..., C:]  # the rest is empty here
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, rest), dim=-1).to(x.dtype)


N, D = 8 * 2048, 2048
norm = measure(written_norm, meta(N, D), meta(D)).moved / (N * D)
angles = meta(1, 2048, 1, 128, dtype=torch.float32)
heads = meta(8, 2048, 16, 128)
turn = measure(lambda x: written_rope(x, angles, angles), heads).moved / (N * D)
print(f"bytes per number, both ways: RMSNorm {norm:.0f}, RoPE {turn:.0f}")
assert round(norm) == 128 and round(turn) == 128

# %% [markdown]
# A number of two bytes, read once and written once on each way, and its gradient likewise: ten bytes would do. Five lines of Python
# move it as if it were sixty-four numbers. Most of that traffic is in the backward pass, which nobody wrote.
#
# (table-2-from-bytes)=
# ## Does the count hold? Ask Table 2
#
# A count of bytes is a prediction of time, and somebody has measured. In Table 2 some pairs of rows differ in one switch only, so their
# difference is what the switch is worth. We take it as microseconds per token, because times add up and speeds do not.

# %% tags=["active-ipynb"]
# from figures.facts import TABLE_2
#
# switches = ("flash_attention", "rope", "rms_norm", "cross_entropy", "fsdp")
# pairs = {"attention": (3, 1), "RMSNorm": (1, 5), "RoPE": (2, 1),
#          "cross-entropy": (6, 1), "sharding": (5, 7)}
# microseconds = {n: 1e6 / row["tokens_per_s"] for n, row in TABLE_2.items()}
# for name, (slow, fast) in pairs.items():
#     a, b = TABLE_2[slow], TABLE_2[fast]
#     assert sum(a[s] != b[s] for s in switches) == 1
#     gain = microseconds[slow] - microseconds[fast]
#     faster = b["tokens_per_s"] / a["tokens_per_s"] - 1
#     memory = b["memory_gb"] - a["memory_gb"]
#     print(f"{name:14}{slow} → {fast} {gain:5.1f} µs {faster:+6.1%} {memory:+3d} GB")

# %% [markdown]
# That is the third answer. Now the same differences from bytes alone, for the table's model, Qwen-1.8B, on its A100. One
# constant is assumed, that a long pass over memory runs at nine tenths of the data sheet. The fused side is counted on fingers: the CUDA
# norm reads and writes two bytes forward, reads two tensors and writes one backward; the CUDA rotation works on float32 copies, eight bytes
# each way and twelve for the two casts around it; the Triton loss reads float32 logits twice and writes their gradient once.

# %%
L, V = QWEN_1_8B.num_hidden_layers, QWEN_1_8B.vocab_size
targets_N = torch.zeros(N, dtype=torch.long, device="meta")
logits_NV = meta(N, V, dtype=torch.float32)
loss = measure(lambda x: F.cross_entropy(x, targets_N), logits_NV).moved / (N * V)
fewer_bytes = {  # per token, forward and backward
    "RMSNorm": (2 * L + 1) * D * (norm - 10),
    "RoPE": L * 2 * D * (turn - 40),
    "cross-entropy": V * (loss - 12),
}
rate = 0.9 * BANDWIDTH["A100-80G"]
predicted = {name: 1e6 * count / rate for name, count in fewer_bytes.items()}
fewer_GB = {  # kept for the backward pass: a float32 and a bf16 copy, not the input
    "RMSNorm": (2 * L + 1) * N * D * (4 + 2 - 2) / 1e9,
    "RoPE": 0.0,
    "cross-entropy": N * V * 4 / 1e9,  # one float32 copy of the logits
}
for name, time_saved in predicted.items():
    print(f"{name:14} {time_saved:.1f} µs/token, {fewer_GB[name]:4.1f} GB")

# %% tags=["active-ipynb", "hide-input"]
# fig, (ax, side) = figure(2.7, ncols=2, width_ratios=(1.5, 1), sharey=True)
# for row, name in enumerate(reversed(pairs)):
#     slow, fast = pairs[name]
#     gain = microseconds[slow] - microseconds[fast]
#     error = sum(microseconds[n] * 50 / TABLE_2[n]["tokens_per_s"] for n in (slow, fast))
#     ax.barh(row, gain, color=SLATE, height=0.5)
#     ax.plot([gain - error, gain + error], [row, row], color=INK, linewidth=1)
#     saved = TABLE_2[slow]["memory_gb"] - TABLE_2[fast]["memory_gb"]
#     side.barh(row, saved, color=SLATE, height=0.5)
#     if name in predicted:
#         ax.plot(predicted[name], row, "D", color=FURNACE, markersize=5.5)
#         side.plot(fewer_GB[name], row, "D", color=FURNACE, markersize=5.5)
# ax.set(yticks=range(5), yticklabels=list(reversed(pairs)), xlim=(0, 21.5), xticks=range(0, 21, 5), xlabel="µs per token saved")
# side.set(xlim=(-6, 12), xlabel="GB saved")
# side.axvline(0, color=INK, linewidth=0.7)
# ax.plot(10.3, 0.95, "s", color=SLATE, clip_on=False)
# label_line(ax, 10.3, 0.95, "the paper's measurement")
# ax.plot(10.3, 0.35, "D", color=FURNACE, markersize=5.5)
# label_line(ax, 10.3, 0.35, "counted bytes, A100", FURNACE)
# for part in (ax, side):
#     part.grid(axis="x"), part.grid(False, axis="y")
# show(fig, alt="Bars of microseconds and gigabytes saved by each switch of Table 2. Attention saves 20 microseconds, RMSNorm 6, RoPE 5, cross-entropy 2, sharding 2. Diamonds predicted from bytes lie at 6.5, 4.7 and 1.0.",
#      caption="Table 2 as differences. Thin lines: published speeds are rounded to 100 tokens/s. Unsharded parameters cost memory.")

# %% tags=["active-ipynb", "hide-input"]
# seen = {name: microseconds[slow] - microseconds[fast] for name, (slow, fast) in pairs.items()}
# say(f"Norm: {predicted['RMSNorm']:.1f} counted, {seen['RMSNorm']:.1f} measured. RoPE: {predicted['RoPE']:.1f} and {seen['RoPE']:.1f}. For the loss "
#     f"the count explains less than half, {predicted['cross-entropy']:.1f} of {seen['cross-entropy']:.1f}. In memory it is the other way round: one float32 copy of the logits is "
#     f"{fewer_GB['cross-entropy']:.2f} GB, and the table says 10; for the norms the count says {fewer_GB['RMSNorm']:.1f} and the table 4.")

# %% [markdown]
# A model of one sentence, with no constant fitted, finds two times within a seventh. The CUDA rotation, by the way, is not at its
# floor: it saves the passes inside and keeps the casts outside, forty bytes where eight would do.
#
# Three more readings of this table are worth a minute.
#
# *Attention.* What did FlashAttention replace? The memory column says what it was not. Attention that writes its scores
# down keeps eight sequences, 16 heads, 2,048 × 2,048 numbers in each of 24 layers: 26 GB. The difference in the table is 4 GB. The code
# explains it {cite:p}`steelreadme2025`: "PyTorch attention" was PyTorch's own fused operator, given an explicit mask. That path computes the masked half and reads the mask;
# FlashAttention {cite:p}`flashattention2022` skips both. So the row compares two fused kernels, and naive attention would have lost by more.
#
# *Do the gains add up?* From experiment 1, switching off attention, RoPE and the loss one at a time costs 19.7, 5.4 and 2.3 microseconds. Experiment 8
# switches off all three and is only 20.6 slower. Seven microseconds are missing, more than any switch but attention is worth. Either the
# operations hide behind each other when attention is slow, or runs of this kind differ by that much; each row was run once, and the table
# cannot say which. Our benchmark repeats its baseline at the end for this reason.
#
# *The levels.* "Approximately 50 %", says the text; +43 %, say the rows. And the 43 and 63 % of MFU in the retrospective {cite:p}`steelblog2024` come from a formula
# that adds attention once for trainable weights and once more for frozen ones, of which there are none. Chapter 01 takes it apart; here it is in two lines.

# %%
weights = 2 * count_parameters(QWEN_1_8B)["total"]  # FLOPs forward, the table too
scores = 4 * L * D * 2048
as_logged = 3 * (weights + scores) + 2 * (0 + scores)  # trainable, then "frozen"
for speed in (10_500, 15_000):
    once = mfu(QWEN_1_8B, 2048, speed, "A100-80G", "executed_full")
    logged = as_logged * speed / GPUS["A100-80G"].peak
    print(f"{speed:,} tokens/s: logged {logged:.1%}, counted once {once:.1%}")


# %% [markdown]
# ## The operations of a Steel step
#
# The A100s and Qwen were the original's test bench. From here on the model is the book's own, `steel-1b-causal`, and the machine an H100.
# The meter reads the production kernels of `steel.kernels` as well: each is one operator for the dispatcher, with declared shapes, so its
# bytes can be counted on a machine that could not run it. One simplification: every residual addition is counted as if its norm took it
# along. Ours does so after attention, and leaves the addition after the feed-forward alone, because its norm belongs to the next layer.

# %%
def both(written, kernel, *inputs, tokens):
    """Bytes per token of an operation's two forms, forward and backward."""
    return [measure(form, *inputs).moved / tokens for form in (written, kernel)]


def norm_bytes(D, N):
    def written(x, residual, weight):
        total = x + residual
        return written_norm(total, weight), total

    def kernel(x, residual, weight):
        return elementwise.rms_norm(x, weight, 1e-6, residual)

    return both(written, kernel, meta(N, D), meta(N, D), meta(D), tokens=N)


def rope_bytes(H, G, C, B, T):
    half = meta(1, T, 1, C // 2, dtype=torch.float32)
    forms = [lambda x, form=form: form(x, half, half, H, G)
             for form in (elementwise.rope_qkv_reference, elementwise.rope_qkv)]
    return both(*forms, meta(B, T, H + 2 * G, C), tokens=B * T)


def gate_bytes(width, N):
    pair = meta(N, 2 * width)
    forms = elementwise.swiglu_reference, elementwise.swiglu
    return both(*forms, pair, tokens=N)


# %%
def mixture_bytes(D, C, J, B, T):
    """Dispatch and combine of one layer, segments of C tokens, J slots."""
    w, z = meta(B, T, J), meta(B, -(-T // C), J, D)
    plan = soft_moe.even_segments(B, T, C, "meta")
    sums = [lambda x, w, f=f: f(x, w, plan)
            for f in (soft_moe.segment_sums_reference, soft_moe.segment_sums)]
    mixes = [lambda w, z, f=f: f(w, z, plan)
             for f in (soft_moe.segment_combine_reference, soft_moe.segment_combine)]
    dispatch = both(*sums, meta(B, T, D), w, tokens=B * T)
    combine = both(*mixes, w, z, tokens=B * T)
    return [a + b for a, b in zip(dispatch, combine)]


def loss_bytes(D, V, N):
    targets_N = torch.zeros(N, dtype=torch.long, device="meta")
    whole = measure(lambda x: F.cross_entropy(x.float(), targets_N), meta(N, V))
    chunks = -(-N // head.chunk_tokens(N, V))
    # ours: logits read, read and overwritten; per chunk the sum of dW in and out
    return [whole.moved / N, 6 * V + chunks * 8 * V * D / N]


# %%
def pieces(model, B=8, T=2048):
    """Bytes per token of a step's operations: {name: (line by line, kernel)}."""
    N, D, L = B * T, model.hidden_size, model.num_hidden_layers
    H, G = model.num_attention_heads, model.num_key_value_heads
    C, J = model.segment_length, model.num_experts * model.slots_per_expert
    runs = L * experts_per_token(model)  # gates that each token passes
    parts = [("norm", 2 * L, norm_bytes(D, N)),
             ("RoPE", L, rope_bytes(H, G, model.head_dim or D // H, B, T)),
             ("gate", runs, gate_bytes(model.intermediate_size, N))]
    if model.expert == "double_swiglu":
        parts.append(("gate 2", runs, gate_bytes(D, N)))
    if model.feed_forward == "causal_soft_moe":
        parts.append(("mixture", L, mixture_bytes(D, C, J, B, T)))
    parts.append(("loss", 1, loss_bytes(D, model.vocab_size, N)))
    return {name: (calls * written, calls * kernel)
            for name, calls, (written, kernel) in parts if calls}


# %%
steel = load("steel-1b-causal").model
moved = pieces(steel)
print("kB per token   line by line   one kernel")
for name, (written, kernel) in moved.items():
    print(f"{name:14} {written / 1e3:12,.0f} {kernel / 1e3:12,.0f}")


# %% [markdown]
# The roofline {cite:p}`roofline2009` puts this on one page: operations per byte to the right, attainable speed upwards. Left of the edge an operation is as fast as
# memory delivers, right of it as fast as the chip multiplies. Fusing does not change the work. It moves an operation to the right, up the slope.

# %% tags=["active-ipynb", "hide-input"]
# Ds, Ls, Vs = steel.hidden_size, steel.num_hidden_layers, steel.vocab_size
# arithmetic = {  # operations per token and step by the formulas, forward and backward
#     "norm": 2 * Ls * Ds * 14, "RoPE": Ls * 2 * Ds * 6, "gate 2": Ls * Ds * 14, "loss": Vs * 7, "mixture": Ls * Ds * 60}
# fig, ax = figure(3.9)
# x = np.logspace(-1.2, 3.6, 200)
# for gpu, color in (("A100-80G", SLATE), ("H100", STEEL)):
#     ax.plot(x, np.minimum(x * BANDWIDTH[gpu], GPUS[gpu].peak) / 1e12, color=color)
#     label_line(ax, x[-1], GPUS[gpu].peak / 1e12, gpu.split("-")[0], color)
# roof = lambda i: min(i * BANDWIDTH["H100"], GPUS["H100"].peak) / 1e12
# names = {"mixture": "dispatch, combine", "gate 2": "SwiGLU", "norm": "norm + residual", "loss": "cross-entropy", "RoPE": "RoPE"}
# for place, (name, text) in enumerate(names.items()):
#     before, after = (arithmetic[name] / n for n in moved[name])
#     y = 700 / 3**place
#     ax.plot([0.6, after], [y, roof(after)], color=SLATE, linewidth=0.5, zorder=2)
#     ax.plot(before, roof(before), "o", mfc=PAPER, mec=FURNACE, markersize=5, zorder=4)
#     ax.plot(after, roof(after), "o", color=FURNACE, markersize=5, zorder=5)
#     ax.text(0.55, y, f"{text}  {before:.2f} → {after:.2f}", va="center", ha="right", fontsize=8.5)
# product = lambda n, k, m: 2 * n * k * m / (2 * (n * k + k * m + n * m))
# others = {"projections": (product(16384, Ds, 3 * Ds), (0, 9), "right"), "head": (product(16384, Ds, Vs), (3, 9), "left"),
#           "flash attention": (4 * 1024 * Ds / (8 * Ds), (0, -11), "center"), "AdamW": (14 / 30, (8, -8), "left")}
# for text, (intensity, shift, side) in others.items():
#     ax.plot(intensity, roof(intensity), "o", color=STEEL, zorder=4)
#     label_line(ax, intensity, roof(intensity), text, STEEL, xytext=shift, ha=side)
# ax.set(xscale="log", yscale="log", xlim=(0.008, 6000), ylim=(0.1, 2500), xlabel="operations per byte", xticks=[0.1, 1, 10, 100, 1000],
#        xticklabels=["0.1", "1", "10", "100", "1,000"], yticks=[0.1, 1, 10, 100, 1000], yticklabels=["0.1", "1", "10", "100", "1,000"])
# ax.minorticks_off()
# ax.set_title("TFLOP/s that the machine allows (a bound, not a measurement)")
# show(fig, alt="Roofline of A100 and H100. Norm, RoPE, SwiGLU, cross-entropy and dispatch lie far left on the memory slope, at a tenth to one operation per byte when written line by line, and move right when fused. Projections, head and attention lie under the flat roof.",
#      caption="A Steel step on the roofline. Hollow: line by line; filled: one kernel. Bytes are counted by the meter, operations by the formulas.")

# %% [markdown]
# Everything in orange stays on the slope after fusing: these operations will never be fast, they can only be few. What remains to be won
# on the flat part belongs to cuBLAS and the attention kernels, and that is why this project writes no matrix product of its own.
#
# ## The largest tensor
#
# The second question. The head is a matrix product and sits comfortably under the roof. Its *output* does not. Let the meter watch the last two lines of
# a training step at full size; on the meta device that costs nothing.

# %%
def whole(x_ND, weight_VD, targets_N):
    logits_NV = (x_ND @ weight_VD.t()).float()
    return F.cross_entropy(logits_NV, targets_N, reduction="sum")


D, V = steel.hidden_size, steel.vocab_size
big = (meta(N, D), meta(V, D))
full = measure(lambda x, w: whole(x, w, targets_N), *big)
peak = max(full.history)
print(f"logits in bf16 {2 * N * V / 1e9:.2f} GB")
print(f"head and loss at most {peak / 1e9:.1f} GB, {peak / (N * V):.1f} bytes per logit")
assert peak >= 12 * N * V


# %% [markdown]
# Twelve bytes per logit: log-probabilities, the gradient that arrives at them and the gradient of the logits, each in float32. (Chapter 01's planner
# reserves ten.) An 80 GB card gives more than a third of itself to a tensor that lives for a few milliseconds.
#
# It is not needed. The loss of one token depends on one row of logits, and its gradient on the same row. So take a chunk of tokens, make
# its logits, take the loss, overwrite the logits by their own gradient, multiply it into the gradients of `x` and `W`, and use the buffer
# again. The gradient of a sum is known before anybody asks for it, up to one factor; so it can be made in the forward pass.

# %%
class ChunkedLoss(torch.autograd.Function):
    """Σ cross-entropy of x Wᵀ [nats], `rows` tokens at a time."""

    @staticmethod
    def forward(ctx, x_ND, weight_VD, targets_N, rows):
        wide = torch.promote_types(x_ND.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=x_ND.device)
        grad_x = torch.empty_like(x_ND)
        grad_weight = torch.zeros_like(weight_VD, dtype=wide)
        for i in range(0, len(x_ND), rows):
            x, target = x_ND[i : i + rows], targets_N[i : i + rows, None]
            logits = (x @ weight_VD.t()).to(wide)
            log_z = logits.logsumexp(dim=1, keepdim=True)
            total += (log_z - logits.gather(1, target)).sum()
            # in place: probabilities, and minus one at the target, the gradient
            logits.sub_(log_z).exp_().scatter_add_(1, target, -torch.ones_like(log_z))
            gradient = logits.to(x.dtype)
            grad_x[i : i + rows] = gradient @ weight_VD
            grad_weight += gradient.t() @ x
        ctx.save_for_backward(grad_x, grad_weight.to(weight_VD.dtype))
        return total

    @staticmethod
    def backward(ctx, upstream):
        grad_x, grad_weight = ctx.saved_tensors
        grad_x = upstream.to(grad_x.dtype) * grad_x
        return grad_x, upstream.to(grad_weight.dtype) * grad_weight, None, None


# %% [markdown]
# A backward pass written by hand is a claim about calculus. `gradcheck` compares it with finite differences in float64; the second test holds it against
# the production operator.

# %%
g = torch.Generator().manual_seed(9)


def draw(*shape):
    x = torch.randn(*shape, generator=g, dtype=torch.float64)
    return x.requires_grad_()


x, w, t = draw(7, 5), draw(11, 5), torch.randint(0, 11, (7,), generator=g)
mine, ours = lambda x, w: ChunkedLoss.apply(x, w, t, 3), linear_cross_entropy
assert torch.autograd.gradcheck(mine, (x, w))
found = torch.autograd.grad(2.5 * mine(x, w), (x, w))
wanted = torch.autograd.grad(2.5 * ours(x, w, t), (x, w))
torch.testing.assert_close(found, wanted)

# %% [markdown]
# Now with numbers in it: the real vocabulary, 256 tokens of width 64, on this CPU.

# %%
x, w = torch.randn(256, 64, generator=g), torch.randn(V, 64, generator=g) / 8
t = torch.randint(0, V, (256,), generator=g)
forms = {"whole": lambda x, w: whole(x, w, t),
         "chunks of 32": lambda x, w: ChunkedLoss.apply(x, w, t, 32)}
results = []
for name, form in forms.items():
    a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
    begin = time.process_time()
    with Meter() as meter:
        value = form(a, b)
        value.backward()
    used = time.process_time() - begin
    results.append((value.detach(), a.grad, b.grad))
    print(f"{name:13} peak {max(meter.history) / 1e6:4.0f} MB, {used:.2f} s of CPU time")
torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)

# %%
rows = head.chunk_tokens(N, V)  # what ours takes there
chunked = measure(lambda x, w: ChunkedLoss.apply(x, w, targets_N, rows), *big)
print(f"at full size: {peak / 1e9:.1f} GB whole, "
      f"{max(chunked.history) / 1e9:.1f} GB in chunks of {rows:,}")
assert max(chunked.history) < peak / 3

# %% tags=["active-ipynb", "hide-input"]
# fig, ax = figure(2.6)
# for meter, color in ((full, SLATE), (chunked, STEEL)):
#     live = np.array(meter.history) / 1e9
#     place = np.linspace(0, 1, len(live))
#     ax.step(place, live, where="post", color=color)
#     top = int(live.argmax())
#     ax.text(place[top] + 0.01, live[top] + 0.9, f"{live[top]:.1f} GB", color=color, fontsize=8.5)
# ax.text(0.31, 21.6, "all logits at once", color=SLATE, fontsize=8.5, ha="right")
# ax.text(0.625, 11.6, f"five chunks of {rows:,} tokens", color=STEEL, fontsize=8.5)
# ax.set(xlim=(0, 1), ylim=(0, 34), xticks=[0, 1], xticklabels=["forward begins", "backward ends"])
# ax.set_title("GB alive beyond inputs, operator by operator")
# show(fig, alt="Memory alive during head and loss. With all logits it climbs in steps to 30 GB; in chunks it rises and falls five times, to 7 GB at most.",
#      caption="Head and loss of one micro-batch, 16,384 tokens, counted on the meta device at full size.")

# %% [markdown]
# How large a chunk? Each one reads and writes the whole float32 sum of dW, 1.09 GB. Small chunks save memory that is already saved, and
# pay for it in traffic.

# %%
print("  rows   buffer  dW traffic   H100, estimate")
for some in (256, 1024, rows, N):
    traffic = -(-N // some) * 8 * V * D
    ms = 1e3 * traffic / (0.9 * BANDWIDTH["H100"])
    buffer = 2 * some * V / 1e9
    print(f"{some:6,} {buffer:5.2f} GB {traffic / 1e9:8.0f} GB {ms:13.0f} ms")


# %% [markdown]
# Liger-Kernel {cite:p}`liger2024`, which made this loss a standard, chooses its chunk so that a chunk's logits are about as large as the whole input, a good rule
# for a vocabulary of 32 thousand words. At this width and vocabulary the rule gives 256 rows. Ours takes 3,328, five even chunks, and does the row
# arithmetic in two Triton kernels, in place, so the float32 copies that `ChunkedLoss` makes are never there: the buffer and the sum of dW are left, 2.1 GB.
#
# ## Three small fusions
#
# The others are the same idea at a smaller scale: read once, keep everything in registers until it is final, save only what cannot be
# computed again. Written as autograd functions they show what a kernel has to compute and what it may forget.

# %%
class AddNorm(torch.autograd.Function):
    """s = x + residual, y = s · r · weight, r = 1 / rms(s). Saved: s and r."""

    @staticmethod
    def forward(ctx, x, residual, weight, eps):
        s = x + residual
        r = torch.rsqrt(s.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(s, r, weight)
        return s * r * weight, s

    @staticmethod
    def backward(ctx, dy, ds):
        s, r, weight = ctx.saved_tensors
        unit, dunit = s * r, dy * weight
        dx = r * (dunit - unit * (dunit * unit).mean(-1, keepdim=True)) + ds
        return dx, dx, (dy * unit).flatten(0, -2).sum(0), None


# %%
class SwiGLU(torch.autograd.Function):
    """silu(a) · b. Saved: the input; silu is computed twice, not kept."""

    @staticmethod
    def forward(ctx, pair):
        ctx.save_for_backward(pair)
        a, b = pair.chunk(2, dim=-1)
        return a * torch.sigmoid(a) * b

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved_tensors[0].chunk(2, dim=-1)
        sigma = torch.sigmoid(a)
        da = dy * b * sigma * (1 + a * (1 - sigma))
        return torch.cat((da, dy * a * sigma), dim=-1)


# %%
def turned(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    parts = first * cos - second * sin, second * cos + first * sin
    return torch.cat(parts, dim=-1)


class RopeQKV(torch.autograd.Function):
    """Split [q | k | v], turn q and k. Saved: tables. Back: by minus the angle."""

    @staticmethod
    def forward(ctx, qkv, cos, sin, heads):
        ctx.save_for_backward(cos, sin)
        query, key, value = qkv.split(heads, dim=2)
        return turned(query, cos, sin), turned(key, cos, sin), value.clone()

    @staticmethod
    def backward(ctx, dquery, dkey, dvalue):
        cos, sin = ctx.saved_tensors
        dquery, dkey = turned(dquery, cos, -sin), turned(dkey, cos, -sin)
        return torch.cat((dquery, dkey, dvalue), dim=2), None, None, None


# %%
angle = draw(1, 4, 1, 2).detach()
table_of = (angle.cos(), angle.sin())
cases = [
    (lambda x, r, w: AddNorm.apply(x, r, w, 1e-6),
     lambda x, r, w: elementwise.rms_norm_reference(x, w, 1e-6, r),
     [(3, 6), (3, 6), (6,)]),
    (SwiGLU.apply, elementwise.swiglu_reference, [(3, 8)]),
    (lambda qkv: RopeQKV.apply(qkv, *table_of, 2),
     lambda qkv: elementwise.rope_qkv_reference(qkv, *table_of, 2, 2),
     [(1, 4, 6, 4)]),
]
for mine, ours, shapes in cases:
    inputs = [draw(*shape) for shape in shapes]
    assert torch.autograd.gradcheck(mine, inputs)
    torch.testing.assert_close(mine(*inputs), ours(*inputs))
print("gradients agree with finite differences, values with steel.kernels")


# %% [markdown]
# In PyTorch these three are still many passes. What makes one pass of them is a language in which a program loads a tile, computes
# and stores. In Triton {cite:p}`triton2019` the forward half of `AddNorm` is as long as its formula, one row of the matrix per program.

# %%
@jit
def add_norm(x, residual, weight, y, total, D, eps, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)  # a power of two, at least D
    inside = column < D
    place = tl.program_id(0) * D + column
    s = tl.load(x + place, mask=inside, other=0.0)
    s += tl.load(residual + place, mask=inside, other=0.0)
    tl.store(total + place, s, mask=inside)
    r = 1.0 / tl.sqrt(tl.sum(s * s, axis=0) / D + eps)
    gain = tl.load(weight + column, mask=inside, other=0.0)
    tl.store(y + place, s * r * gain, mask=inside)


# %% [markdown]
# Two loads, two stores, and between them nothing touches memory. Without a GPU Triton can run it in an interpreter, a slow one, program by program; that is
# how the kernels of this project are tested in every commit, on sizes that do not divide the blocks.

# %%
device = "cuda" if torch.cuda.is_available() else "cpu"
shapes = (6, 100), (6, 100), (100,)
x, r, w = (draw(*shape).detach().float().to(device) for shape in shapes)
wanted = AddNorm.apply(x, r, w, 1e-6)
if can_run(device):
    y, total = torch.empty_like(x), torch.empty_like(x)
    add_norm[(6,)](x, r, w, y, total, 100, 1e-6, BLOCK=128)
    torch.testing.assert_close((y, total), wanted)
    print("the kernel computes what AddNorm computes")
else:
    print("Triton is not installed here: the kernel stays a text")

# %% [markdown]
# What an interpreter cannot show is how a kernel fits the chip. A compiler can, without the chip: `python -m figures.experiments.aot` translates every kernel for an A100
# and an H100 and asks the assembler what each thread needs. A kernel that needs more registers than there are *spills* them to memory, and gives
# back what fusing has won.

# %% tags=["active-ipynb", "hide-input"]
# report = json.loads((LOGS / "kernels-aot.json").read_text())
# rows = []
# for k in report["kernels"]:
#     if k["target"] != "sm_90" or not any(k["kernel"].startswith(n) for n in ("row_", "rms_norm_forward 1792", "rms_norm_backward 1792", "rotate 128", "swiglu_forward 1792", "swiglu_backward 1792", "segment")) or "fp32" in k["kernel"] or "J=6" in k["kernel"]:
#         continue
#     threads = 32 * k["warps"]
#     fit = min(65_536 // (k["registers"] * threads), 2048 // threads)
#     rows.append([f"`{k['kernel']}`", threads, k["registers"], f"{k['shared_bytes']:,}", k["spill_bytes"], f"{fit * threads / 2048:.0%}"])
# table(["kernel, H100", "threads", "registers per thread", "shared memory, bytes", "spilled, bytes", "threads resident"], rows)
# spilled = sum(k["spill_bytes"] for k in report["kernels"])
# say(f"Compiled with Triton {report['triton']}, {len(report['kernels'])} kernels and targets, {spilled} bytes spilled in all. *Threads resident* is what registers allow of the 2,048 that a "
#     "processor can hold; a kernel bound by memory wants enough of them to keep loads in flight.")

# %% [markdown]
# ## The peer: a compiler
#
# Why write kernels at all, when `torch.compile` fuses elementwise operations on its own? Mostly one should not. On a GPU and under
# compilation this project's automatic choice leaves norm, RoPE and gates to the compiler, which can join them with their neighbours, as a
# finished kernel cannot. Two operations stay ours. The compiler sees the logits, the loss and two matrix products, and will not invent a loop that
# interleaves them. And the soft mixture's dispatch is a sum over segments of packed documents that it makes copies for.
#
# That is a claim about time, so it needs a clock, on a GPU, with the compiler as a row of its own. A kernel stays in the repository only where
# that row loses to it.
#
# ## What it should be worth
#
# Bytes give time for the slope, FLOPs for the roof. Add them up and you have an estimate of the step; no more than that, because it assumes
# what each kind of work reaches of its peak: matrix products 72 %, attention at head width 128 about 35 %, passes over memory 90 %. All three
# are guesses from others' publications, to be replaced by a measurement.

# %%
SHARE = {"matmul": 0.72, "attention": 0.35, "memory": 0.90}


def step_ms(model, fused, gpu="H100", N=8 * 2048, accumulation=8):
    """Estimated ms per micro-batch, by part; `fused`: pieces in one kernel."""
    flops = flops_per_token(model, 2048).by_component
    matmul = SHARE["matmul"] * GPUS[gpu].peak
    scores = SHARE["attention"] * GPUS[gpu].peak
    memory = SHARE["memory"] * BANDWIDTH[gpu]
    seconds = {
        "head": flops.pop("lm_head") / matmul,
        "attention": flops.pop("attention scores") / scores,
        "other products": sum(flops.values()) / matmul,
        "AdamW": 30 * count_parameters(model)["total"] / memory / accumulation / N,
    }
    for name, (written, kernel) in pieces(model).items():
        seconds[name] = (kernel if name in fused else written) / memory
    return {name: 1e3 * N * value for name, value in seconds.items()}


# %% [markdown]
# Amdahl's law {cite:p}`amdahl1967` says what to fuse first: an operation that takes the share $p$ of a step can give back at most $1/(1-p)$, however good its kernel.

# %%
before, after = step_ms(steel, ()), step_ms(steel, moved)
total = sum(before.values())
print("         share   kernel   step   at most")
for name in moved:
    p, factor = before[name] / total, before[name] / after[name]
    gain, most = 1 / (1 - p + p / factor), 1 / (1 - p)
    print(f"{name:8} {p:5.1%} {factor:6.1f} × {gain:6.2f} × {most:6.2f} ×")
print(f"together {total / sum(after.values()):22.2f} ×")

# %% tags=["active-ipynb", "hide-input"]
# fig, ax = figure(3.3)
# order = [[], ["norm"], ["RoPE"], ["loss"], ["gate", "gate 2", "mixture"]]
# names = ["line by line", "norm + residual", "+ RoPE", "+ loss in chunks", "+ gates, mixture"]
# groups = {"head": (SEMANTIC["tokens"], ["head"]), "other products": (STEEL, ["other products"]), "attention": (OKABE_ITO["sky"], ["attention"]),
#           "norm": (FURNACE, ["norm"]), "RoPE": ("#e39a72", ["RoPE"]), "loss": ("#eec4ac", ["loss"]), "rest": (SLATE, ["gate", "gate 2", "mixture", "AdamW"])}
# fused = []
# for row, (name, new) in enumerate(zip(names, order)):
#     fused += new
#     ms, left = step_ms(steel, fused), 0.0
#     for label, (color, keys) in groups.items():
#         width = sum(ms[k] for k in keys)
#         ax.barh(-row, width, left=left, color=color, height=0.66)
#         if row == 0:
#             ax.text(left + width / 2, 0.95 if label == "attention" else 0.55, label, ha="center", color=INK, fontsize=8)
#         left += width
#     label_line(ax, left, -row, f"{16_384 / left:.0f}k tokens/s")
# ax.set(yticks=[-r for r in range(5)], yticklabels=names, xlim=(0, 285), ylim=(-4.5, 1.3), xlabel="ms per micro-batch of 16,384 tokens, one H100 (estimate)")
# ax.grid(False)
# show(fig, alt="Stacked bars of the estimated step on an H100. Line by line it takes about 230 ms, of which norm, RoPE and loss are half; with all fusions about 125 ms, of which the head product is the largest part.",
#      caption="An estimate, not a measurement: the step of steel-1b-causal as fusions are added. Orange is traffic.")

# %% tags=["active-ipynb", "hide-input"]
# thin = 2 * Ls * Ds * 14 / (flops_per_token(steel, 2048).total + sum(arithmetic.values()))
# say(f"The first answer, then, as an estimate: line by line the norms do {thin:.2%} of the arithmetic and take **{before['norm'] / total:.0%}** of the time. After everything is fused "
#     f"the head's products alone are {after['head'] / sum(after.values()):.0%} of the step, and elementwise work of all kinds {sum(after[k] for k in moved) / sum(after.values()):.0%}: "
#     "a further kernel, however clever, has only that to win.")

# %% [markdown]
# ## At full scale
#
# What is measured above are bytes, peaks and gradients. Times are the paper's, or estimates, and each says which. One command replaces the
# estimates on a GPU of your own, in about eight minutes:
#
# ```text
# python -m figures.experiments.table2 --out figures/runs/table2-h100.json
# ```
#
# It trains the same weights on the same tokens with each switch alone, with all, with all but one, beside Liger, `torch.compile` and two other
# codes' ways; it repeats its baseline last, for drift; it writes its file after every row; and it refuses to rank a row whose loss or gradients differ from the float32 reference. A single GPU
# says nothing about the cost of sharding, which Table 2 includes. `python notebooks/09_kernels.py --preset gpu1` starts the same benchmark. The next cell
# shows what has been measured so far.

# %% tags=["active-ipynb", "hide-input"]
# reports = {path.stem.removeprefix("table2-"): json.loads(path.read_text()) for path in sorted(LOGS.glob("table2-*.json"))}
# real = {name: r for name, r in reports.items() if not r["toy"]}
# timed = lambda report: [row for row in report["rows"] if "tokens_per_s" in row]
# for name, report in real.items():
#     ranked = [row for row in timed(report) if row["ranked"]]
#     fig, ax = figure(0.8 + 0.19 * len(ranked))
#     speed = [row["tokens_per_s"]["accumulation_8"] / 1e3 for row in ranked]
#     ax.barh(range(len(ranked)), speed, color=[STEEL if row["engine"] == "steel" else SLATE for row in ranked], height=0.7)
#     for y, value in enumerate(speed):
#         label_line(ax, value, y, f"{value:.1f}k")
#     ax.set(yticks=range(len(ranked)), yticklabels=[row["title"] for row in ranked], xlim=(0, 1.15 * max(speed)), ylim=(len(ranked) - 0.4, -0.6),
#            xlabel=f"thousand tokens/s, accumulation 8, {report['device']['name']}")
#     ax.grid(False)
#     show(fig, alt=f"Bars of measured tokens per second on {report['device']['name']}, from {min(speed):.1f} to {max(speed):.1f} thousand.",
#          caption=f"Measured {report['created'][:10]}, sequence {report['settings']['sequence_length']}; grey: peers. Rows that failed the equality gate are left out.")
# if not real:
#     say("**Not yet measured on a GPU.** No time of our own on an accelerator stands in this chapter.")
# for report in (r for name, r in reports.items() if r["toy"] and not real):
#     shown = [row for row in timed(report) if row.get("gate")]
#     rows = [[row["title"], f"{row['gate']['loss_difference']:.0e}", f"{row['gate']['worst_cosine']:.6f}", row["status"]] for row in shown]
#     say(f"The same program on {report['device']['name']} at toy size, where speeds mean nothing and only the gate is of interest: every row must give the reference's loss and gradients.")
#     table(["row (toy)", "difference of the loss", "worst cosine of a gradient", "status"], rows)

# %% [markdown]
# ## Failure gallery
#
# ```{admonition} Right arithmetic, wrong machine
# :class: failure
# Triton's interpreter stores bfloat16 as integers: a `tl.dot` of two bfloat16 tiles multiplies the bit patterns and returns garbage without a word, and its
# casts to bfloat16 cut off instead of rounding. A test written in bfloat16 fails for a kernel that is right, or is loosened until it passes for one that is
# wrong. Our interpreter tests use float32 and float16 against float64, and bfloat16 waits for a GPU.
# ```
#
# ```{admonition} Equal because both are zero
# :class: failure
# Steel's version 3 of the soft mixture is born with experts that return nothing (chapter 07). Train two copies from birth, one with a broken
# dispatch kernel, and their losses agree for many steps. Kernel tests here set every weight to a random number first.
# ```
#
# ```{admonition} Nothing times NaN
# :class: failure
# Padding has the target −100 and a weight of zero. If its row holds a NaN, zero times NaN is NaN, and one padded token poisons the gradient of the whole
# vocabulary. The production kernel *selects* zero for such rows, it does not multiply by it; a test puts a NaN there.
# ```
#
# ```{admonition} Twelve bytes
# :class: failure
# Six slots in bfloat16 are a row of 12 bytes. Tensor-core products want rows that are a multiple of 16, so the router, dispatch and combine of a six-expert mixture
# silently take a slow path through a fast library. Pad to eight, or do without tensor cores, as our kernels do.
# ```
#
# ## Exercises
#
# **09.1 Recall.** Which three properties of an operation decide whether a fused kernel can make it faster, and which of them did the meter measure?
#
# ```{dropdown} Answer 09.1
# Its work, the bytes it must move, and the bytes it does move as written. The meter counts the last two (the floor from a kernel's signature); work comes from the formula. The
# ratio of the last two bounds the gain of the operation, its share of the step the gain of the run.
# ```
#
# **09.2 Calculate.** AdamW reads gradient, weight and two moments in float32, writes weight and moments back, and writes a bfloat16 copy of the weight. How many bytes per parameter is that?
# How long is one update of `steel-1b-causal` on an H100 at nine tenths of its bandwidth, and what does it cost per token with 131,072 tokens per GPU and step? An unfused version makes about twelve
# passes of three float32 tensors: how much longer?

# %% tags=["hide-cell"]
parameters = count_parameters(steel)["total"]
fused_bytes, loop_bytes = 4 * 4 + 3 * 4 + 2, 12 * 3 * 4
for each in (fused_bytes, loop_bytes):
    seconds = each * parameters / (0.9 * BANDWIDTH["H100"])
    print(f"{each} bytes per parameter: {1e3 * seconds:.1f} ms, {1e6 * seconds / 131_072:.2f} µs per token")


# %% [markdown]
# **09.3 Code.** Write `chunked_loss(x_ND, weight_VD, targets_N, rows)`: the *mean* cross-entropy over the tokens whose target is not −100, differentiable in `x` and `weight`, exact in float64, that
# never holds more than `rows` rows of logits. All targets may be −100; then the loss is zero and so are its gradients.

# %% tags=["active-ipynb", "hide-cell"]
# from torch.utils.checkpoint import checkpoint
#
# from figures.check import check
#
# def chunked_loss(x_ND, weight_VD, targets_N, rows):
#     def part(x, target):
#         return F.cross_entropy(x @ weight_VD.t(), target, ignore_index=-100, reduction="sum")
#
#     total = x_ND.new_zeros(())
#     for i in range(0, len(x_ND), rows):  # logits are made again in the backward pass
#         total = total + checkpoint(part, x_ND[i : i + rows], targets_N[i : i + rows], use_reentrant=False)
#     return total / (targets_N != -100).sum().clamp_min(1)
#
# check("09.3", chunked_loss)

# %% [markdown]
# **09.4 Break it.** The Triton loss that TinyLlama brought to the original has a switch, `inplace_backward`, off by default: the backward pass overwrites the saved logits by their gradient, which saves a copy of them.
# Build it in PyTorch and find two uses in which it returns something wrong. Why does autograd's alarm for changed tensors not ring when a kernel does it?

# %% tags=["hide-cell"]
class InPlaceLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        log_z = logits.logsumexp(dim=1, keepdim=True)
        ctx.save_for_backward(logits, log_z, target)
        return (log_z - logits.gather(1, target)).sum()

    @staticmethod
    def backward(ctx, upstream):
        logits, log_z, target = ctx.saved_tensors
        memory = logits.data  # what a kernel gets: an address, past autograd's count of changes
        memory.sub_(log_z).exp_().scatter_add_(1, target, -torch.ones_like(log_z))
        return memory.mul_(upstream), None


z = torch.randn(4, 5, generator=g, dtype=torch.float64, requires_grad=True)
logits = 3 * z
target = logits.argmax(1, keepdim=True)  # a model that is right everywhere
value = InPlaceLoss.apply(logits, target)
first, second = (torch.autograd.grad(value, z, retain_graph=True)[0].clone() for _ in range(2))
print(f"largest difference of two backward passes: {float((first - second).abs().max()):.2f}")
print(f"accuracy before 4 of 4, read after the backward pass {int((logits.argmax(1) == target[:, 0]).sum())} of 4")
# A second backward pass (two losses over one head, a gradient penalty), or anybody who reads the logits afterwards:
# an accuracy, a distillation loss, a log. PyTorch's own in-place operations raise a version number that is compared
# when a saved tensor is unpacked; a store through a pointer does not. `steel.kernels` overwrites a buffer of its own.

# %% [markdown]
# **09.5 Open, one GPU hour.** Run `python -m figures.experiments.table2` on the GPU you have. Predict each row first from `pieces` and the data sheet of your card, write the prediction down, then compare. Where do you miss by more than a third,
# and is it the bytes or the nine tenths that were wrong?
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What does an elementwise operation cost?** Its bytes over the bandwidth. Count the passes, forward and backward; the arithmetic is free below a hundred operations per byte.
# ```
#
# ```{admonition} Card
# :class: card
# **What may a fused kernel forget?** Everything that it can compute again from its inputs faster than memory could deliver it.
# ```
#
# ```{admonition} Card
# :class: card
# **Why compute a loss in chunks?** The logits are the largest tensor of the run and nobody needs them twice. Take chunks so large that the sum of dW is not read and written all the time.
# ```
#
# ```{admonition} Card
# :class: card
# **What is a speed-up worth?** $1/(1 - p + p/s)$. Ask for $p$ first.
# ```

# %% tags=["active-ipynb"]
# from figures.style import badge
#
# badge()

# %%
def benchmark():
    """Table 2 on this machine's GPU, into runs/table2-<gpu>.json."""
    if not torch.cuda.is_available():
        raise UserError("the benchmark needs a GPU; without one: --preset cpu")
    out = f"runs/table2-{(device_name() or 'gpu').lower()}.json"
    command = [sys.executable, "-m", "steel", "bench", "table2", "--out", out]
    subprocess.run(command, check=True)


# %%
if __name__ == "__main__":
    print(f"{cfg.preset}: kB per token, line by line and as one kernel")
    for name, (written, kernel) in pieces(cfg.model).items():
        print(f"{name:8} {written / 1e3:10,.1f} {kernel / 1e3:10,.1f}")
    if cfg.preset != "cpu":
        benchmark()
