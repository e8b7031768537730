"""Which attention a run uses: every candidate is tried on the training shape, checked, timed, and the fastest taken.

No kernel of our own: PyTorch's scaled_dot_product_attention dispatches to cuDNN, FlashAttention and a memory-efficient
kernel, FlexAttention compiles one for any mask, and variable-length FlashAttention takes packed documents without a
mask at all. Which of them is fastest depends on head width, GPU, torch version and on whether there are documents, and
some of them refuse (or are wrong) only in the backward pass. So a start-up probe decides: forward and backward, first
against the textbook formula in fp32 on a slice of the batch, then against the clock on the whole shape.

    reference   PyTorch's own choice (for documents with a dense mask): what the model does by itself
    cudnn, flash, efficient   one backend of scaled_dot_product_attention (flash takes no mask, hence no documents)
    flex        FlexAttention with a block mask: only the blocks that documents touch (documents only)
    varlen      torch.nn.attention.varlen: FlashAttention over the ends of the documents
    flash_attn, flash_attn_3  the packages flash-attn 2 and 3, where installed

Shapes: B batch, T time, H query heads, G key/value heads, C head width, N tokens of all documents (B·T).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from .examples import Sizes, normal

SDPA = {"cudnn": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION"}
PACKAGES = {
    "flash_attn": ("flash_attn",),
    "flash_attn_3": ("flash_attn_interface", "flash_attn_3.flash_attn_interface"),
}
PLAIN = ("reference", "cudnn", "flash", "efficient", "flash_attn", "flash_attn_3")
DOCUMENTS = ("reference", "cudnn", "efficient", "flex", "varlen", "flash_attn", "flash_attn_3")
NAMES = ("reference", *SDPA, "flex", "varlen", *PACKAGES)
# Relative error in the 2-norm of outputs and gradients against fp32 that passes.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 5e-3, torch.float64: 1e-6}
BETTER = 0.97  # a candidate replaces the reference when it needs at most this share of its time


@dataclass
class Documents:
    """What an implementation wants to know of packed documents; made once per forward, shared by all layers."""

    ends: torch.Tensor | None = (
        None  # varlen: where documents start and end in the flat batch, (documents + 1,) int32
    )
    blocks: object = None  # flex: a BlockMask
    mask: torch.Tensor | None = None  # dense, (B, 1, T, T), True where a query may look


def documents_for(name: str, position_ids_BT: torch.Tensor) -> Documents:
    """The documents of a batch as `name` wants them; a document starts where position_ids is 0 and at each row."""
    B, T = position_ids_BT.shape
    starts = position_ids_BT == 0
    if name == "varlen" or name in PACKAGES:
        starts = starts.clone()
        starts[:, 0] = True
        edges = starts.flatten().nonzero()[:, 0].int()
        return Documents(ends=torch.cat((edges, edges.new_full((1,), B * T))))
    number_BT = starts.cumsum(dim=1)
    if name == "flex":
        from torch.nn.attention.flex_attention import create_block_mask

        def visible(b, h, q, k):
            return (q >= k) & (number_BT[b, q] == number_BT[b, k])

        return Documents(
            blocks=create_block_mask(visible, B, None, T, T, device=position_ids_BT.device)
        )
    t = torch.arange(T, device=position_ids_BT.device)
    return Documents(
        mask=((t[:, None] >= t) & (number_BT[:, :, None] == number_BT[:, None, :]))[:, None]
    )


def attend(
    name, query_BHTC, key_BGTC, value_BGTC, scale, documents: Documents | None = None, alone=True
):
    """Causal attention by the named implementation -> (B, T, H, C); with documents, inside each of them.

    Raises what the implementation raises: ImportError without its package, RuntimeError for shapes that it refuses.
    """
    if name in PACKAGES or name == "varlen":
        return _variable_length(name, query_BHTC, key_BGTC, value_BGTC, scale, documents)
    if name == "flex":
        flex = (
            _flex() if query_BHTC.is_cuda and not torch.compiler.is_compiling() else _plain_flex()
        )
        grouped = query_BHTC.shape[1] != key_BGTC.shape[1]
        return flex(
            query_BHTC,
            key_BGTC,
            value_BGTC,
            block_mask=documents.blocks,
            scale=scale,
            enable_gqa=grouped,
        ).transpose(1, 2)
    mask = documents.mask if documents is not None else None
    with backend(name, alone):
        return _sdpa(query_BHTC, key_BGTC, value_BGTC, mask, scale).transpose(1, 2)


def _sdpa(query, key, value, mask, scale):
    groups = query.shape[1] // key.shape[1]
    native = (
        groups > 1 and mask is None and query.is_cuda
    )  # as the model does: only flash takes grouped heads
    if groups > 1 and not native:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=native
    )


def backend(name: str, alone: bool = True):
    """Context in which scaled_dot_product_attention uses the named backend; not `alone`: others where it refuses."""
    if name not in SDPA:
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [getattr(SDPBackend, SDPA[name])]
    if not alone:
        rest = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
        order += [kind for kind in (getattr(SDPBackend, r) for r in rest) if kind not in order]
    return sdpa_kernel(order, set_priority=True)


def _plain_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@functools.cache
def _flex():
    """FlexAttention compiled by itself, for blocks that are not; inside a compiled block it is traced instead."""
    return torch.compile(_plain_flex())


@functools.cache
def _package(name: str):
    for module in PACKAGES[name]:
        with contextlib.suppress(ImportError):
            return importlib.import_module(module)
    raise ImportError(f"{PACKAGES[name][0]} is not installed")


def _variable_length(name, query, key, value, scale, documents):
    B, H, T, C = query.shape
    flat = [part.transpose(1, 2) for part in (query, key, value)]
    if name == "varlen":
        from torch.nn.attention.varlen import varlen_attn

        flat = [
            part if part.shape[2] == H else part.repeat_interleave(H // part.shape[2], dim=2)
            for part in flat
        ]
        ends = documents.ends
        out = varlen_attn(
            *(part.flatten(0, 1) for part in flat),
            ends,
            ends,
            T,
            T,
            scale=scale,
            window_size=(-1, 0),
        )
    elif documents is None:
        out = _package(name).flash_attn_func(*flat, softmax_scale=scale, causal=True)
    else:
        out = _package(name).flash_attn_varlen_func(
            *(part.flatten(0, 1) for part in flat),
            documents.ends,
            documents.ends,
            T,
            T,
            softmax_scale=scale,
            causal=True,
        )
    out = out[0] if isinstance(out, tuple) else out
    return out.reshape(B, T, H, C)


# -- the probe ---------------------------------------------------------------------------------------------------------


@dataclass
class Trial:
    """One candidate on one shape: its error against fp32, its time forward and backward [ms], or why it fell out."""

    name: str
    documents: bool
    error: float | None = None
    milliseconds: float | None = None
    note: str = ""


class Form:
    """Attention over one batch by the named implementation; shared by all layers."""

    def __init__(self, name: str, documents: Documents | None):
        self.name, self.documents = name, documents

    def attend(self, query, key, value, scale: float):
        """(B, heads, T, C) each -> (B, T, H, C)."""
        return attend(self.name, query, key, value, scale, self.documents, alone=False)


@dataclass
class Attention:
    """What the probe settled: an implementation for plain causal batches and one for packed documents."""

    plain: str = "reference"
    documents: str = "reference"
    trials: list[Trial] = field(default_factory=list)

    def form(self, position_ids_BT: torch.Tensor, packed: bool):
        """What the model's attention is given in place of a mask; None leaves it to the model."""
        name = self.documents if packed else self.plain
        if name == "reference":
            return None
        return Form(name, documents_for(name, position_ids_BT) if packed else None)

    def __str__(self) -> str:
        both = any(trial.documents for trial in self.trials) and self.documents != self.plain
        return f"{self.plain}, documents {self.documents}" if both else self.plain

    def table(self) -> str:
        """One line per trial: error, time, what was picked."""
        lines = []
        for trial in self.trials:
            picked = trial.name == (self.documents if trial.documents else self.plain)
            said = (
                trial.note
                or f"error {trial.error:.1e}, {trial.milliseconds:.2f} ms forward and backward"
            )
            lines.append(
                f"    {'documents' if trial.documents else 'plain':<10}{trial.name:<13}{said}"
                + ("  <- picked" if picked else "")
            )
        return "\n".join(lines)


def select(
    wanted: str, sizes: Sizes, device: torch.device, dtype: torch.dtype, compiled: bool = False
) -> Attention:
    """Try what `wanted` asks for (auto: all) on the run's shape and settle it; whatever fails is in `trials`.

    A name is used wherever it passes; where it cannot work (flex without documents) the choice is free. compiled: the
    run compiles its blocks, so a candidate must work inside the compiler, too.
    """
    if device.type != "cuda" and wanted == "auto" or not sizes.length or wanted == "reference":
        return Attention()
    found = Attention()
    for documents in (False, True) if sizes.documents else (False,):
        names = DOCUMENTS if documents else PLAIN
        if wanted != "auto" and wanted in names:
            names = ("reference", wanted)
        trials = [try_one(name, sizes, device, dtype, documents, compiled) for name in names]
        found.trials += trials
        passed = [t for t in trials if not t.note]
        own = next((t for t in passed if t.name == "reference"), None)
        best = min(passed, key=lambda t: t.milliseconds, default=None)
        if best is None:
            continue
        forced = next((t for t in passed if t.name == wanted), None)
        clear = own is None or best.milliseconds <= BETTER * own.milliseconds
        name = forced.name if forced else best.name if clear else "reference"
        setattr(found, "documents" if documents else "plain", name)
    return found


def try_one(
    name: str,
    sizes: Sizes,
    device: torch.device,
    dtype: torch.dtype,
    documents: bool,
    compiled: bool = False,
) -> Trial:
    """Correctness on at most two sequences, then the time of the whole shape; a failure becomes the trial's note."""
    trial, call = Trial(name, documents), attend
    try:
        if compiled and device.type == "cuda":
            torch._dynamo.reset()  # every trial starts afresh, so none meets the compiler's limit of variants
            call = torch.compile(attend, dynamic=False)
        trial.error = _error(call, name, sizes, device, dtype, documents)
        if not trial.error <= TOLERANCE[dtype]:
            trial.note = (
                f"wrong: differs from fp32 by {trial.error:.1e}, allowed {TOLERANCE[dtype]:.0e}"
            )
        else:
            trial.milliseconds = _time(call, name, sizes, device, dtype, documents)
    except Exception as error:  # noqa: BLE001 - a candidate may fail in any way; the others go on
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
            type(error).__name__
        ]
        trial.note = f"not usable here: {lines[0][:100]}"
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return trial


def positions(B: int, T: int, device: torch.device) -> torch.Tensor:
    """Position ids of rows that hold documents of uneven lengths (about T/6 on average), (B, T)."""
    cuts = torch.arange(B)[:, None] * 7 + torch.tensor(
        [0, T // 11, T // 4, T // 3, T // 2 + 1, 4 * T // 5]
    )
    t = torch.arange(T).expand(B, T)
    start = torch.zeros(B, T, dtype=torch.long)
    for cut in cuts.clamp_max(T - 1).T:
        start = torch.where(t >= cut[:, None], cut[:, None], start)
    return (t - start).to(device)


def _inputs(sizes: Sizes, B: int, device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    """query, key, value as the model makes them: (B, T, heads, C) seen as (B, heads, T, C)."""
    shapes = (
        (B, sizes.length, heads, sizes.head_dim)
        for heads in (sizes.heads, sizes.key_heads, sizes.key_heads)
    )
    return [
        normal(device, *s).add_(0.01 * i).to(dtype).transpose(1, 2).requires_grad_()
        for i, s in enumerate(shapes)
    ]


def _formula(query, key, value, scale, mask):
    """softmax(q kᵀ scale) v in fp32, nothing fused -> (B, T, H, C)."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~mask, float("-inf"))
    return (scores.softmax(dim=-1) @ value).transpose(1, 2)


def _error(call, name, sizes, device, dtype, documents) -> float:
    B = min(sizes.batch, 2 if sizes.length <= 2048 else 1)  # the formula holds all scores in fp32
    inputs, scale = _inputs(sizes, B, device, dtype), sizes.head_dim**-0.5
    place = (
        positions(B, sizes.length, device)
        if documents
        else torch.arange(sizes.length, device=device).expand(B, -1)
    )
    given = documents_for(name, place) if documents else None
    exact = [t.detach().float().requires_grad_() for t in inputs]
    wanted = _formula(*exact, scale, documents_for("reference", place).mask)
    out = call(name, *inputs, scale, given)
    seed = normal(device, *out.shape)
    found = [out, *torch.autograd.grad(out, inputs, seed.to(out.dtype))]
    wanted = [wanted, *torch.autograd.grad(wanted, exact, seed.to(dtype).float())]
    pairs = [(a.detach().float(), b.detach()) for a, b in zip(found, wanted, strict=True)]
    return max(float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in pairs)


def _time(call, name, sizes, device, dtype, documents, repeats: int = 7) -> float:
    """Median milliseconds of forward and backward on the whole shape."""
    inputs, scale = _inputs(sizes, sizes.batch, device, dtype), sizes.head_dim**-0.5
    given = documents_for(name, positions(sizes.batch, sizes.length, device)) if documents else None
    seed, times = None, []
    for step in range(3 + repeats):
        began = time.perf_counter()
        out = call(name, *inputs, scale, given)
        seed = torch.ones_like(out) if seed is None else seed
        torch.autograd.grad(out, inputs, seed)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if step >= 3:
            times.append(time.perf_counter() - began)
    return 1e3 * sorted(times)[len(times) // 2]
