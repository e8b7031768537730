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
# 15,000.
#
# So for every token the slow run spent 95.2 microseconds where the fast one spent 66.7. What was the machine doing in the other 28.6? And could
# you have known without a GPU?

# %% tags=["hide-input"]
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

if not torch.cuda.is_available():
    import os

    os.environ["TRITON_INTERPRET"] = "1"  # read once, when Triton is imported

from figures.experiments.step_bytes import (
    BANDWIDTH, PICKS, REREAD, SHARE, TOKENS, Meter, measure, meta, milliseconds, moves, pieces,
    products_ms, size, step_ms, tensors, written_rope,
)
from figures.known_runs import published
from steel.config import load, preset
from steel.kernels import linear_cross_entropy as head
from steel.kernels._triton import can_run, jit, tl
from steel.model.attention import rms_norm
from steel.model.loss import linear_cross_entropy
from steel.plan import GPUS, count_parameters, flops_per_token

cfg = preset()  # --preset cpu, gpu1, steel-1b-causal, …
QWEN_1_8B = published("qwen-1.8b").model


# %% tags=["active-ipynb", "hide-input"]
# import json
# from pathlib import Path
#
# from figures import draw_09, facts
# from figures.style import FURNACE, OKABE_ITO, SEMANTIC, SLATE, STEEL, answer, badge, say, show, table
#
# LOGS = Path(facts.__file__).parent / "runs"
# show(draw_09.operations(), alt="Above, the operations of a layer, each a box with an arrow down from a bar that is the memory and one up to it: norm, q k v, RoPE, attention, out, norm, mixture, experts, gates, 18 times. Below, norm, head and loss, once; beside them one norm from within, line by line, a pair of arrows for each of eight kernels, and fused, with a single pair.",
#      caption="One micro-batch of 16,384 tokens, forward. A box is one or a few kernels, programs on the GPU that fetch inputs from memory, compute, and store results. Below, right: one norm as eight kernels, and fused into one.")

# %% [markdown]
# ```{admonition} Predict
# :class: predict
# Write down three answers before you read on.
#
# 1. Table 2 switches sharding, cross-entropy, RoPE, attention and RMSNorm. Order them by the speed they gain.
# 2. Eight sequences of 2,048 tokens, a vocabulary of 151,936. How many GB must be free at once, forward and backward, for the logits and for what a loss in two lines of PyTorch makes of them?
# 3. The norms do less than a thousandth of the arithmetic of a training step. Let norms, rotations, gates and loss be written so that every line is an operation of its own. How many per cent of the step's *time* do the norms take, with the residual additions?
# ```
#
# ```{admonition} Napkin
# :class: napkin
# An A100 can do 312 TFLOP/s and read 2 TB/s, so it has time for $312/2 \approx 150$ operations while one byte arrives. An H100 has time for
# about $300$. A matrix product of width $1792$ does that and more with every byte. An RMSNorm does some $14$ operations on a number, forward
# and backward. At the least it reads $x$ and writes $y$, and on the way back reads $x$ and $dy$ and writes $dx$: five numbers of two bytes, *one* operation per byte.
# It has no use for tensor cores, but the other units have time for ten per byte (A100) or twenty (H100). The arithmetic is free. You pay for passes over memory, and a formula written line by line makes a pass per line.
# ```
#
# ## Count the bytes
#
# Chapter 01 let PyTorch count the FLOPs of every matrix product on the meta device, where tensors have shapes and no contents. Bytes
# can be had the same way. Each operator goes through one dispatcher on its way to the hardware, forward and
# backward; listen there and add up the sizes of what it reads and writes.

# %%
class Traffic(TorchDispatchMode):
    """Bytes that operators read and write."""

    moved = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        if moves(op):  # a view does not
            picks = op.__name__.startswith(PICKS)  # one element per row
            read = [] if picks else tensors(args)
            self.moved += sum(map(size, read + tensors(out)))
        return out


# %% [markdown]
# Now an RMSNorm {cite:p}`rmsnorm2019` as most codes write it, and as the original's ran when its CUDA version was switched off. The rotary embedding is written in the same way.

# %%
def written_norm(x, weight, eps=1e-6):
    wide = x.float()
    r = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * r).to(x.dtype) * weight

N, width = TOKENS, QWEN_1_8B.hidden_size  # 16,384 tokens of width 2,048
norm = measure(written_norm, meta(N, width), meta(width), meter=Traffic).moved / (N * width)
angles, heads = meta(1, 2048, 1, 128, dtype=torch.float32), meta(8, 2048, 16, 128)
rope = lambda x: written_rope(x, angles, angles)
turn = measure(rope, heads, meter=Traffic).moved / (N * width)
print(f"bytes per number, both ways: RMSNorm {norm:.0f}, RoPE {turn:.0f}")
assert measure(written_norm, meta(N, width), meta(width)).moved / (N * width) == norm

# %% [markdown]
# Ten bytes would do, said the napkin. The three lines of Python move nearly thirteen times as much, most of it in the backward pass, which nobody wrote.
# (`Meter`, compared in the last line, also remembers which tensors are alive. Neither sees inside an operator: no scratch space, no second reading.)
#
# (table-2-from-bytes)=
# ## Does the count hold? Ask Table 2
#
# A count of bytes is a prediction of time. In Table 2 some pairs of rows differ in one switch only, so their
# difference is what the switch is worth. We take it as microseconds per token, because times add up and speeds do not.

# %% tags=["active-ipynb"]
# switches = ("flash_attention", "rope", "rms_norm", "cross_entropy", "fsdp")
# pairs = {"attention": (3, 1), "RMSNorm": (1, 5), "RoPE": (2, 1),
#          "cross-entropy": (6, 1), "sharding": (5, 7)}  # experiments: slow, fast
# us = {n: 1e6 / row["tokens_per_s"] for n, row in facts.TABLE_2.items()}
# for name, (slow, fast) in pairs.items():
#     a, b = facts.TABLE_2[slow], facts.TABLE_2[fast]
#     assert sum(a[s] != b[s] for s in switches) == 1
#     faster, memory = b["tokens_per_s"] / a["tokens_per_s"], b["memory_gb"] - a["memory_gb"]
#     print(f"{name:14}{us[slow] - us[fast]:5.1f} µs {faster - 1:+6.1%} {memory:+3d} GB")
# answer("1.1", "**attention, RMSNorm, RoPE, cross-entropy, sharding.** Only the first is safe: "
#        "rounding to 100 tokens/s could swap the next two, and the last two.")

# %% [markdown]
# Now the same differences from bytes alone, for the table's model, Qwen-1.8B, on its A100. One constant is assumed: a long pass runs at nine
# tenths of its data sheet's bandwidth. The slow side is metered, the fast side counted from what the programs must do:
#
# | fast program | bytes per number, both ways | of which |
# |---|---|---|
# | CUDA norm | 10 | forward $x, y$; backward $x, dy, dx$ |
# | CUDA rotation | 40 | float32 copies: each way 8 for the rotation, 12 for the casts before and after |
# | Triton cross-entropy | 12 | float32 logits read twice, their gradient written once |
#
# Of the loss's 2.3 µs the meter alone finds 1.0: it sees which tensors an operator reads, not how often. By PyTorch's source log-softmax goes over a long row three times forward, over the gradient twice backward. That makes
# twelve bytes per logit more, `REREAD`.

# %%
L, words = QWEN_1_8B.num_hidden_layers, QWEN_1_8B.vocab_size
targets_N = torch.zeros(N, dtype=torch.long, device="meta")
logits_NV = meta(N, words, dtype=torch.float32)
lost = measure(lambda x: F.cross_entropy(x, targets_N), logits_NV).moved / (N * words)
fewer_bytes = {  # per token, forward and backward
    "RMSNorm": (2 * L + 1) * width * (norm - 10),
    "RoPE": L * 2 * width * (turn - 40),
    "cross-entropy": words * (lost + REREAD - 12),
}
predicted = {k: 1e3 * milliseconds(n, "A100-80G") for k, n in fewer_bytes.items()}
for name, saved in predicted.items():
    print(f"{name:14} {saved:.1f} µs per token")

# %% tags=["active-ipynb", "hide-input"]
# error = {n: us[n] * 50 / row["tokens_per_s"] for n, row in facts.TABLE_2.items()}
# show(draw_09.table_2(pairs, us, error, predicted), alt="Left, bars of microseconds saved by each switch of Table 2: attention 20, RMSNorm 6, RoPE 5, cross-entropy 2, sharding 2; diamonds predicted from bytes lie at 6.5, 4.7 and 2.0. Right, a square of experiments 1, 5, 4 and 7 with what each side saves: 6.13 and 5.80 for the norm, 2.16 and 1.83 for sharding.",
#      caption="Table 2 as differences. Thin lines: what rounding to 100 tokens/s leaves open. Right: four runs that switch two things in all combinations, in µs per token.")
# gains = {name: us[slow] - us[fast] for name, (slow, fast) in pairs.items()}
# say(f"Norm: {predicted['RMSNorm']:.1f} counted, {gains['RMSNorm']:.1f} measured. RoPE: {predicted['RoPE']:.1f} and {gains['RoPE']:.1f}. "
#     f"Loss: {predicted['cross-entropy']:.1f} and {gains['cross-entropy']:.1f}.")

# %% [markdown]
# A model of one sentence, with no constant fitted, gives all three savings to within 14 %. The memory column agrees: the loss saves 10 GB, as many as one float32 copy of these logits takes. The CUDA rotation is not at its
# floor: it saves the passes inside and keeps the casts outside, forty bytes where eight would do.
#
# *Attention.* What did FlashAttention replace? Not attention that writes its scores
# down: that would keep eight sequences, 16 heads, 2,048 × 2,048 numbers in each of 24 layers: 26 GB. The difference in the table is 4 GB. The code
# explains it {cite:p}`steelreadme2025`: "PyTorch attention" was PyTorch's own fused operator, given an explicit mask. That path computes the masked half and reads the mask;
# FlashAttention {cite:p}`flashattention2022` skips both. So the row compares two fused kernels.
#
# *Do the gains add up?* The paper prints one number a row and no scatter. But four rows form a square, the figure's right half: the norm is worth 6.13 µs with sharded parameters and 5.80 without, and sharding 2.16
# and 1.83. The two differ by 0.34 µs, no more than rounding: here the gains add up. Now
# switch off attention, RoPE and the loss. One at a time, from experiment 1, that costs 19.7, 5.4 and 2.3 microseconds; experiment 8
# switches off all three and is only 20.6 slower. Nearly seven microseconds are missing. Rounding could hide two at the very most. Scatter could be the rest, of which one square says little; so could operations that hide behind each other when attention
# is slow. The table cannot say. But it says where the 28.6 microseconds of the first page went: 20.6 into attention, rotation and loss together, 8.0 into norm and sharding.
#
# ## The operations of a Steel step
#
# From here on the model is the book's own, `steel-1b-causal`, and the machine an H100. **None of it has run on a GPU yet.** The meter does not mind: each kernel of `steel.kernels` is one operator
# for the dispatcher, with declared shapes.

# %%
steel = load("steel-1b-causal").model
D, V = steel.hidden_size, steel.vocab_size
moved = pieces(steel)
print("kB per token   line by line        fused")
for name, (by_line, kernel) in moved.items():
    print(f"{name:14} {by_line / 1e3:12,.0f} {kernel / 1e3:12,.0f}")


# %% [markdown]
# The norm here takes every residual addition along: forward one number more to read and one to write, backward one to read. With the napkin's five that is eight, sixteen bytes. (*Gate* is the first gate of the double SwiGLU of chapter 08, *mixture*
# the dispatch and combine of chapter 07.) The roofline {cite:p}`roofline2009` puts this on one page: operations per byte to the right, attainable speed upwards. Left of the edge an operation is as fast as
# memory delivers, right of it as fast as the chip multiplies. What is no matrix product has the lower, dashed roof, whose edge is at twenty.

# %% tags=["active-ipynb", "hide-input"]
# layers = steel.num_hidden_layers
# work = {  # operations per token and step by the formulas, forward and backward
#     "cross-entropy": ("loss", V * 7), "dispatch, combine": ("mixture", layers * D * 60), "norm + residual": ("norm", 2 * layers * D * 14),
#     "RoPE": ("RoPE", layers * 2 * D * 6), "SwiGLU": ("gate 2", layers * D * 14)}
# product = lambda n, k, m: 2 * n * k * m / (2 * (n * k + k * m + n * m))
# standing = {"projections": (product(N, D, 3 * D), (4, -9), "right"), "head": (product(N, D, V), (-2, 9), "left"),
#             "flash attention": (4 * 1024 * D / (8 * D), (4, 9), "right")}
# show(draw_09.roofline(BANDWIDTH, {k: v.peak for k, v in GPUS.items()}, {text: tuple(n / b for b in moved[name]) for text, (name, n) in work.items()}, standing),
#      alt="Above, the rooflines of A100 and H100; projections, head and attention lie under the flat roof. Below, an arrow for each of five operations from hollow, line by line, to filled, fused: all move to the right and stay below five operations per byte. A dashed roof at 67 TFLOP/s, for what runs without tensor cores, begins at twenty.",
#      caption="A Steel step on the roofline. Hollow: line by line; filled: fused. Bytes by the meter (of the loss with REREAD, in chunks by formula), operations by the formulas.")

# %% [markdown]
# Fusing does not change the work. It moves an operation to the right, up the slope, and all of them stay on it: these operations will never be fast; only their bytes can be few. What remains to be won
# on the flat part belongs to cuBLAS, NVIDIA's library of matrix products, and the attention kernels, and that is why this project writes no matrix product of its own.
#
# ## The largest tensor
#
# The head is a matrix product and sits comfortably under the roof. Its *output* does not. Let the meter watch the last two lines of
# a training step at full size.

# %%
def whole(x_ND, weight_VD, targets_N):
    logits_NV = (x_ND @ weight_VD.t()).float()
    return F.cross_entropy(logits_NV, targets_N, reduction="sum")

big = meta(N, D), meta(V, D)
full = measure(lambda x, w: whole(x, w, targets_N), *big)
peak = max(full.history)
print(f"logits in bf16 {2 * N * V / 1e9:.2f} GB")
print(f"head and loss at most {peak / 1e9:.1f} GB, {peak / (N * V):.1f} bytes per logit")
assert peak >= 12 * N * V


# %% tags=["active-ipynb", "hide-input"]
# answer("1.2", f"**{peak / 1e9:.1f} GB**, six times the logits themselves in bfloat16.", round(peak / 1e9, 1), unit="GB")

# %% [markdown]
# Twelve bytes per logit: log-probabilities, the gradient that arrives at them and the gradient of the logits, each in float32. An 80 GB card gives more than a third of itself to three tensors that nobody needs.
#
# The loss of one token depends on one row of logits, and its gradient on the same row. So take a chunk of tokens, make
# its logits, take the loss, overwrite the logits by their own gradient, multiply it into the gradients of `x` and `W`, and use the buffer
# again. The gradient of a sum is known before anybody asks for it, up to one factor; so it can be made in the forward pass.

# %%
def one_chunk(x, weight_VD, target, dx, dw_VD):
    """The summed loss of some tokens [nats]; fills dx, adds to dw_VD."""
    logits = (x @ weight_VD.t()).to(torch.promote_types(x.dtype, torch.float32))
    log_z = logits.logsumexp(dim=1, keepdim=True)
    loss = (log_z - logits.gather(1, target[:, None])).sum()
    # in place: probabilities, and minus one at the target, the gradient
    logits.sub_(log_z).exp_()
    logits.scatter_add_(1, target[:, None], -torch.ones_like(log_z))
    gradient = logits.to(x.dtype)
    del logits  # the float32 copy
    dx.copy_(gradient @ weight_VD)
    dw_VD += gradient.t() @ x
    return loss


# %%
class ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_ND, weight_VD, targets_N, rows):
        total, dx_ND = 0.0, torch.empty_like(x_ND)
        dw_VD = torch.zeros_like(weight_VD, dtype=torch.promote_types(x_ND.dtype, torch.float32))
        for x, dx, target in zip(*(t.split(rows) for t in (x_ND, dx_ND, targets_N))):
            total += one_chunk(x, weight_VD, target, dx, dw_VD)
        ctx.save_for_backward(dx_ND, dw_VD.to(weight_VD.dtype))
        return total
    @staticmethod
    def backward(ctx, upstream):
        dx_ND, dw_VD = ctx.saved_tensors
        return upstream * dx_ND, upstream * dw_VD, None, None


# %% [markdown]
# This sketch knows no padding, no target of −100; exercise 09.3 does. A backward pass written by hand is a claim about calculus. `gradcheck` compares it with finite differences in float64; a second test holds it against
# ours, a third against the two lines above, with the real vocabulary and 256 tokens of width 64.

# %% tags=["hide-input"]
g = torch.Generator().manual_seed(9)

def draw(*shape):
    return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

def with_gradients(loss, *inputs):
    value = loss(*inputs)
    return value.detach(), *torch.autograd.grad(2.5 * value, inputs)

t7, small = torch.randint(0, 11, (7,), generator=g), (draw(7, 5), draw(11, 5))
mine = lambda x, w: ChunkedLoss.apply(x, w, t7, 3)
assert torch.autograd.gradcheck(mine, small)
torch.testing.assert_close(with_gradients(mine, *small), with_gradients(lambda x, w: linear_cross_entropy(x, w, t7), *small))

x256, w256 = draw(256, 64).detach().float(), draw(V, 64).detach().float() / 8
t256 = torch.randint(0, V, (256,), generator=g)
forms = {"whole": lambda x, w: whole(x, w, t256), "chunks of 32": lambda x, w: ChunkedLoss.apply(x, w, t256, 32)}
results = []
for name, form in forms.items():
    with Meter() as meter:
        results.append(with_gradients(form, x256.clone().requires_grad_(), w256.clone().requires_grad_()))
    print(f"{name:13} peak {max(meter.history) / 1e6:4.0f} MB, loss and gradients agree")
    torch.testing.assert_close(results[-1], results[0], rtol=1e-4, atol=1e-5)


# %% tags=["active-ipynb", "hide-input"]
# rows = head.chunk_tokens(N, V)  # what ours takes there
# chunked = measure(lambda x, w: ChunkedLoss.apply(x, w, targets_N, rows), *big)
# top = max(chunked.history)
# assert top < peak / 5
# history = [[n / 1e9 for n in meter.history] for meter in (full, chunked)]
# show(draw_09.chunked_loss(rows, N, *history), alt="Above, a rectangle of 16,384 tokens by 151,936 words cut into five bands; only the third, filled, exists, and a window slides down. Below, memory alive: with all logits it climbs in steps to 30 GB, in chunks it rises and falls and never passes 4.2 GB.",
#      caption="Head and loss of one micro-batch. Below: counted on the meta device at full size.")
# traffic = {some: -(-N // some) * 8 * V * D for some in (256, 1024, rows)}
# say(f"At full size: {peak / 1e9:.1f} GB whole, **{top / 1e9:.1f} GB** in chunks of {rows:,} tokens. The price is traffic, since each chunk reads and writes the whole float32 sum of dW. An H100 would need for that, by estimate, "
#     + ", ".join(f"{milliseconds(n):.0f} ms in chunks of {some:,}" for some, n in traffic.items()) + ".")

# %% [markdown]
# So a chunk should be as large as one can afford. Liger-Kernel {cite:p}`liger2024` chooses it so that a chunk's logits are about as large as the whole input, a good rule
# for a vocabulary of 32 thousand words. Here the rule gives 256 rows. Ours takes 3,328, five chunks, and does the row
# arithmetic in two Triton kernels, in place, so the float32 copies that `one_chunk` makes are never there: the buffer and the sum of dW are left, 2.1 GB.
#
# ## One small fusion, whole
#
# The other fusions are the same idea, smaller: read once, keep everything in registers, the few bytes beside each arithmetic unit, until it is final, save only what cannot be
# computed again. As an autograd function the norm shows what a kernel must compute and may forget.

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


# %% [markdown]
# The subtracted mean is the part of the gradient that points along the row: a longer row gives the same `unit`. In PyTorch this is still many passes. One pass takes a language whose programs load a tile (some numbers, into registers), compute
# and store. In Triton {cite:p}`triton2019` the forward half is as long as its formula, one row of the matrix per program.

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
# Two loads, two stores (the weight, shared by all rows, stays in the cache). Without a GPU a slow interpreter runs it, program by program; so `make test` runs this project's kernels wherever Triton is installed, on sizes that do not divide the blocks.

# %%
case = draw(3, 6), draw(3, 6), draw(6)
add_norm_torch = lambda *inputs: AddNorm.apply(*inputs, 1e-6)
assert torch.autograd.gradcheck(add_norm_torch, case)
x, residual, weight = case
torch.testing.assert_close(add_norm_torch(*case), rms_norm(x, weight, 1e-6, residual))
device = "cuda" if torch.cuda.is_available() else "cpu"
if can_run(device):
    inputs = [draw(*shape).detach().float().to(device) for shape in ((6, 100), (6, 100), (100,))]
    y, total = torch.empty_like(inputs[0]), torch.empty_like(inputs[0])
    add_norm[(6,)](*inputs, y, total, 100, 1e-6, BLOCK=128)
    torch.testing.assert_close((y, total), add_norm_torch(*inputs))

# %% [markdown]
# `steel.kernels` has such programs for norm, rotation and gate, and **no preset runs them**. On a GPU `torch.compile` fuses elementwise operations by itself, and joins them with their neighbours, which a finished kernel
# cannot. So the automatic choice leaves them to the compiler. Two operations are ours by default. The compiler sees three
# matrix products around a loss, and will not invent a loop that interleaves them; and for the mixture's sums over segments of packed documents it copies its inputs. Both are reasons, not measurements.
#
# ## What a machine without a GPU can check
#
# The interpreter says whether a kernel's arithmetic is right, in float32 and float16. How it fits the chip a compiler can say, without the chip: `python -m figures.experiments.aot` translates every kernel for an A100
# and an H100 and asks the assembler what each thread needs. A kernel that needs more registers than there are *spills* them to memory, and gives
# back what fusing has won.

# %% tags=["active-ipynb", "hide-input"]
# aot = json.loads((LOGS / "kernels-aot.json").read_text())
# lines = []
# for k in aot["kernels"]:
#     if k["target"] == "sm_90" and k["kernel"] in ("row_statistics bf16", "row_gradient bf16", "rms_norm_backward 1792", "segment_sums J=5", "segment_combine J=5", "segment_dots J=5"):
#         threads = 32 * k["warps"]
#         fit = min(65_536 // (k["registers"] * threads), 2048 // threads)
#         lines.append([f"`{k['kernel']}`", k["registers"], k["spill_bytes"], f"{fit * threads / 2048:.0%}"])
# table(["kernel, H100", "registers per thread", "spilled, bytes", "threads on one processor, of 2,048"], lines)
# spilled = sum(k["spill_bytes"] for k in aot["kernels"])
# assert spilled == 0
# say(f"{len(aot['kernels'])} translations, and none spills a byte.")

# %% [markdown]
# A thread of `segment_combine` needs so many registers that only an eighth of the threads that a processor could hold fits (last column), of `segment_sums` a quarter. Whether these keep enough loads in flight no count can say.
# Time these first, and expect little: the whole mixture is under 2 % of the step estimated below.
#
# ## What a step should cost
#
# In this section a step is one micro-batch; what the trainer does once in eight of them counts an eighth; *fused* means by compiler or kernel. Bytes give time for the slope, FLOPs for the roof. Four shares of the peak are guessed: large products 69 %, the experts' narrow ones 48 %, attention at head width 128 50 %, passes over memory 90 %.
# Amdahl's law {cite:p}`amdahl1967` then says what to fuse first: an operation that takes the share $p$ of a step, made $s$ times faster, makes the step $1/(1-p+p/s)$ times faster, and never more than $1/(1-p)$.

# %%
written, fused = step_ms(steel, fused=False), step_ms(steel)
ms = sum(written.values())
print("          share    fused    step   at most")
for name in moved:
    p, factor = written[name] / ms, written[name] / fused[name]
    faster, most = 1 / (1 - p + p / factor), 1 / (1 - p)
    print(f"{name:8} {p:6.1%} {factor:6.1f} × {faster:6.2f} × {most:6.2f} ×")
print(f"together {ms / sum(fused.values()):23.2f} ×")

# %% [markdown]
# The *trainer*, too, moves bytes. It keeps float32 weights, copies them to bfloat16 once per update, adds each micro-batch's gradients to a float32 sum, and updates.

# %% tags=["active-ipynb", "hide-input"]
# groups = [("head", SEMANTIC["tokens"], ["head"]), ("projections", STEEL, ["projections"]), ("experts", SEMANTIC["experts"], ["experts"]), ("attention", OKABE_ITO["sky"], ["attention"]),
#           ("norm + residual", FURNACE, ["norm"]), ("RoPE", FURNACE, ["RoPE"]), ("loss, sum of dW", FURNACE, ["loss"]), ("gates, mixture", FURNACE, ["gate", "gate 2", "mixture"]),
#           ("copies, sums, update", SLATE, ["copies of weights", "sums of gradients", "update"]), ("launches, waits", SLATE, ["launches, waits"])]
# executed = flops_per_token(steel, 2048).total
# at_peak, products, step = 1e3 * N * executed / GPUS["H100"].peak, sum(products_ms(steel).values()), sum(fused.values())
# other = [at_peak / (step + (fused["head"] + fused["projections"]) * (SHARE["products"] / (SHARE["products"] + more) - 1)) for more in (-0.1, 0.1)]
# show(draw_09.waterfall(fused, written, groups, at_peak), alt="A waterfall of the estimated step on an H100: products and attention take 99 ms, the fused operations 24 more, the trainer's copies, sums and waits about 14, together about 137 ms. Pale bars show the operations line by line, of which the norm alone would take 49 ms.",
#      caption="An estimate, not a measurement: one micro-batch of steel-1b-causal. Orange: operations fused, pale if written line by line. Grey: what the trainer adds, an eighth of what it does once in eight micro-batches; the last bar is a guess.")
# answer("1.3", f"by this estimate **{written['norm'] / ms:.0%}** of {ms:.0f} ms, all of it line by line."
#        f" They do {2 * layers * D * 14 / executed:.2%} of the arithmetic.", round(100 * written["norm"] / ms), unit="%")
# say(f"Products and attention alone take {products:.0f} ms, {at_peak / products:.0%} of the peak if nothing else existed. With everything it is {step:.0f} ms, about **{N / step:.0f} thousand tokens/s or {at_peak / step:.0%}**. "
#     f"All of it hangs on the guesses: ten points less or more for the large products alone make it {other[0]:.0%} or {other[1]:.0%}. "
#     f"At these rates a utilisation of 60 % on this shape would leave {at_peak / 0.6 - products:.0f} ms for all orange and grey: ask for its log. Head and loss, the price of a large vocabulary, are {(fused['head'] + fused['loss']) / step:.0%} of the step.")

# %% [markdown]
# ## At full scale
#
# **Not yet measured** is every time of our own on a GPU. One command
# is to test the estimates; it stops after about ten minutes and goes on where it stopped:
#
# ```text
# python -m figures.experiments.table2 --all --out DIR
# ```
#
# It checks the trainer and every kernel; trains Steel's version 3, the same weights and tokens, with most switches alone, with all and with all but one; a dense twin beside peers; other shapes, this chapter's preset among them; and ends with a step of the trainer itself. Its baseline is
# repeated last, for drift, and a row whose loss or gradients differ from the float32 reference is not ranked. It says nothing about sharding. The next cell draws `DIR/table2.json` when it lies in `figures/runs/` as `table2-h100.json`.

# %% tags=["active-ipynb", "hide-input"]
# found = [json.loads(path.read_text()) for path in sorted(LOGS.glob("table2-*.json"))]
# for report in (r for r in found if not r["toy"]):
#     ranked = [row for row in report["rows"] if row["ranked"]]
#     show(draw_09.measured(ranked, report["device"]["name"]), alt=f"Bars of measured tokens per second on {report['device']['name']}, one for each row that passed the equality test.",
#          caption=f"Measured {report['created'][:10]}; grey: peers. Rows that failed the equality test are left out.")

# %% [markdown]
# ## Failure gallery
#
# ```{admonition} Compiled, said the preset
# :class: failure
# All 18 layers shared one cache of eight compiled graphs. Validation and samples, with shapes of their own, filled it before the first training step, and from then on every block ran line by line: right
# numbers, low speed, one line of warning. Now whatever is not training runs uncompiled, the cache is larger, and a full one stops the run.
# ```
#
# ```{admonition} Right arithmetic, wrong machine
# :class: failure
# Triton's interpreter stores bfloat16 as integers: a `tl.dot` of two bfloat16 tiles multiplies bit patterns and returns garbage without a word. A test in bfloat16 fails for a kernel that is right, or is loosened until it passes for one that is
# wrong. So bfloat16 waits for a GPU.
# ```
#
# ```{admonition} Equal because both are nearly zero
# :class: failure
# Steel's version 3 of the soft mixture is born with experts that return next to nothing (chapter 07). Compare two newborn copies, one with a broken
# dispatch kernel, and their losses agree to six digits or all. Kernel tests here set every weight to a random number first.
# ```
#
# ```{admonition} Nothing times NaN
# :class: failure
# Padding has the target −100 and a weight of zero. If its logits overflow, softmax is NaN, zero times NaN is NaN, and one padded token poisons the gradient of the whole
# vocabulary. So *select* zero, do not multiply by it. Our Triton kernel did; our PyTorch loop multiplied until a reader of this page tried it. Now a test holds both. A NaN in `x` meets the product for dW as well; the loop sets such rows to zero first, the kernel does not.
# ```
#
# ## Exercises
#
# **09.1 Recall.** Which three numbers of an operation decide whether a fused kernel can make it faster, and which of them did the meter measure?
#
# ```{dropdown} Answer 09.1
# Its work, the bytes it must move, and the bytes it does move as written. The meter counts the last two (the floor from a kernel's signature); work comes from the formula. The
# ratio of the last two bounds the gain of the operation, its share of the step the gain of the run.
# ```
#
# **09.2 Calculate.** AdamW reads gradient, weight and two moments in float32, writes weight and moments back, and writes a bfloat16 copy of the weight. How many bytes per parameter is that?
# How long is one update of `steel-1b-causal` on an H100 at nine tenths of its bandwidth, and what does it cost per token with 131,072 tokens per GPU and step? PyTorch's unfused AdamW makes eight
# passes, 84 bytes by the meter, and the copy is one more of six: how much longer?

# %% tags=["hide-cell"]
parameters = count_parameters(steel)["total"]
weight = meta(1_000_000, dtype=torch.float32).requires_grad_()
weight.grad = meta(1_000_000, dtype=torch.float32)
adamw = torch.optim.AdamW([weight], foreach=False)
adamw.step()  # makes the moments
with Traffic() as traffic:
    adamw.step()
passes = round(traffic.moved / 1_000_000)  # 84 by the meter
for name, each in (("fused", 4 * 4 + 3 * 4 + 2), ("eight passes and the copy", passes + 6)):
    update = milliseconds(each * parameters)
    print(f"{name}: {each} bytes per parameter, {update:.1f} ms, {1e3 * update / 131_072:.2f} µs per token")
assert round(milliseconds(30 * parameters)) == 11 and passes == 84
# Three times as long. (The meter counts the gradient twice where it is squared; a cache reads it once.)

# %% [markdown]
# **09.3 Code.** Write `chunked_loss(x_ND, weight_VD, targets_N, rows)`: the *mean* cross-entropy over the tokens whose target is not −100, differentiable in `x` and `weight`, exact in float64, that
# never holds more than `rows` rows of logits, not even for its backward pass. All targets may be −100; then the loss is zero and so are its gradients. Then `from figures.check import check` and `check("09.3", chunked_loss)`.

# %% tags=["active-ipynb", "hide-cell"]
# from torch.utils.checkpoint import checkpoint
#
# from figures.check import check
#
# def chunked_loss(x_ND, weight_VD, targets_N, rows):
#     def part(x, target):
#         return F.cross_entropy(x @ weight_VD.t(), target, ignore_index=-100, reduction="sum")
#
#     loss = x_ND.new_zeros(())
#     for i in range(0, len(x_ND), rows):  # logits are made again in the backward pass
#         loss = loss + checkpoint(part, x_ND[i : i + rows], targets_N[i : i + rows], use_reentrant=False)
#     return loss / (targets_N != -100).sum().clamp_min(1)
#
# check("09.3", chunked_loss)

# %% [markdown]
# **09.4 Break it.** The original's Triton loss, taken from flash-attention, has a switch, `inplace_backward`, off by default: the backward pass overwrites the saved logits by their gradient.
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


z = draw(4, 5)
logits = 3 * z
target = logits.argmax(1, keepdim=True)  # a model that is right everywhere
value = InPlaceLoss.apply(logits, target)
first, second = (torch.autograd.grad(value, z, retain_graph=True)[0].clone() for _ in range(2))
right = int((logits.argmax(1) == target[:, 0]).sum())
print(f"two backward passes agree: {torch.allclose(first, second)}; accuracy before 4 of 4, read after the backward pass {right} of 4")
assert not torch.allclose(first, second) and right == 0
# A second backward pass (two losses over one head, a gradient penalty), or anybody who reads the logits afterwards:
# an accuracy, a distillation loss, a log. PyTorch's own in-place operations raise a version number that is compared
# when a saved tensor is unpacked; a store through a pointer does not. `steel.kernels` overwrites a buffer of its own.

# %% [markdown]
# **09.5 Open, one GPU.** Predict each bar of the waterfall for the card you have, from `pieces` and its data sheet, in writing. Then run the command above. Where do you miss by more than a third,
# and is it the bytes or the shares of the peak that were wrong?
#
# ```{dropdown} Answer 09.5
# Call `step_ms` with your card in `GPUS` and `BANDWIDTH`, and `accumulation=1`, as the benchmark's own step runs; compare its sum with the seconds of the first row in `step.json`. Its parts are differences of rows in `table2.json`, of Steel's version 3: norm, RoPE and loss compare, mixture and attention do not. A part slower than its bytes usually moves more of them
# than you think (a copy, a cast), or is many small launches. If all parts miss by one factor, the shares were wrong.
# ```
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What does an elementwise operation cost?** Its bytes over the bandwidth. Count the passes, forward and backward; the arithmetic is free below some ten operations per byte.
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
# **What is a speed-up $s$ of the share $p$ worth?** $1/(1 - p + p/s)$. Ask for $p$ first.
# ```

# %% tags=["active-ipynb", "timing"]
# badge()

# %% [markdown]
# The program's last cell prints the bytes of its preset's operations; with any preset for a GPU it starts the benchmark, whose shapes are its own.

# %%
if __name__ == "__main__":
    print(f"{cfg.preset}: kB per token, line by line and fused")
    for name, (by_line, kernel) in pieces(cfg.model).items():
        print(f"{name:8} {by_line / 1e3:10,.1f} {kernel / 1e3:10,.1f}")
    if cfg.preset != "cpu":
        if not torch.cuda.is_available():
            sys.exit("error: the benchmark needs a GPU; without one: --preset cpu")
        words = f"-m figures.experiments.table2 --all --device cuda --out runs/table2-{cfg.preset}"
        sys.exit(subprocess.run([sys.executable, *words.split()]).returncode)
