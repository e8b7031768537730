"""Which attention a run uses: PyTorch's own choice, or one that reads documents without a mask.

Plain causal rows are left to `scaled_dot_product_attention`, on Hopper with cuDNN's kernel first.
For rows packed with documents it needs a dense mask, which FlashAttention does not take;
variable-length FlashAttention reads the ends of the documents instead, and FlexAttention computes
only the blocks that documents touch. Some refuse a head width or a type, and some only in the
backward pass. So `auto` takes the first of a fixed order that agrees with the textbook formula in
fp32, forward and backward, and keeps it if it beats the model's own attention on the run's shape,
timed with everything that is made anew for each batch.

    reference   the model's own: PyTorch's choice, for documents with a dense mask
    cudnn, flash, efficient   scaled_dot_product_attention, this backend first (flash takes no mask)
    flex        FlexAttention with a block mask (documents only)
    varlen      torch.nn.attention.varlen, FlashAttention 2 without a mask (documents only)
    flash_attn, flash_attn_3  the packages flash-attn 2 and 3, where installed

Shapes: B batch, T time, H query heads, G key/value heads, C head width.
"""

import contextlib
import functools
import importlib
import time
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..config import first_line
from ..model.attention import attention_mask, send, starts_from_ends
from .examples import Sizes, check, normal, values

SDPA = {"cudnn": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION"}
PACKAGES = {
    "flash_attn": ("flash_attn",),
    "flash_attn_3": ("flash_attn_interface", "flash_attn_3.flash_attn_interface"),
}
PLAIN = ("reference", *SDPA, *PACKAGES)
DOCUMENTS = ("reference", "cudnn", "efficient", "flex", "varlen", *PACKAGES)
NAMES = ("reference", *SDPA, "flex", "varlen", *PACKAGES)
BETTER = 0.97  # a candidate replaces the model's own when it needs at most this share of its time


class Form:
    """Attention over one batch by the named implementation: stands in for the mask, made once per
    forward and shared by all layers.

    ends: the exclusive end of every document in the flattened (B·T) tokens, row ends included, on
    the host; None for rows of one document each. alone: refuse rather than fall back to another of
    scaled_dot_product_attention's backends.
    """

    def __init__(self, name: str, ends, shape: tuple[int, int], device, alone: bool = False):
        self.name, self.alone = name, alone
        self.edges = self.blocks = self.mask = None
        B, T = shape
        if ends is None:
            return
        if name == "varlen" or name in PACKAGES:
            self.edges = F.pad(ends, (1, 0)).int().to(device, non_blocking=True)
            return
        starts_BT = starts_from_ends(ends, shape)
        if name != "flex":
            self.mask = attention_mask(T, 0, None, starts_BT, device)
            return
        from torch.nn.attention.flex_attention import create_block_mask

        document_BT = send(starts_BT.cumsum(dim=1), device)

        def visible(b, h, q, k):
            return (q >= k) & (document_BT[b, q] == document_BT[b, k])

        self.blocks = create_block_mask(visible, B, None, T, T, device=device)

    def attend(self, query, key, value, scale: float) -> torch.Tensor:
        """Query (B, H, T, C), key and value (B, G, T, C) -> (B, T, H, C).

        Raises what the implementation raises: ImportError without its package, RuntimeError for
        shapes that it refuses.
        """
        B, H, T, C = query.shape
        grouped = key.shape[1] != H
        if grouped and self.name not in ("flex", *PACKAGES):
            key, value = (x.repeat_interleave(H // x.shape[1], dim=1) for x in (key, value))
        if self.name == "flex":
            flex = _flex(query.is_cuda and not torch.compiler.is_compiling())
            options = {"block_mask": self.blocks, "scale": scale, "enable_gqa": grouped}
            return flex(query, key, value, **options).transpose(1, 2)
        if self.name in ("reference", *SDPA):
            options = {"attn_mask": self.mask, "is_causal": self.mask is None, "scale": scale}
            with backend(self.name, self.alone):
                out = F.scaled_dot_product_attention(query, key, value, **options)
            return out.transpose(1, 2)
        parts = [part.transpose(1, 2) for part in (query, key, value)]
        causal = {"softmax_scale": scale, "causal": True}
        if self.edges is None:
            out = _package(self.name).flash_attn_func(*parts, **causal)
        else:
            ends = (*(part.flatten(0, 1) for part in parts), self.edges, self.edges, T, T)
            if self.name == "varlen":
                from torch.nn.attention.varlen import varlen_attn

                out = varlen_attn(*ends, scale=scale, window_size=(-1, 0))
            else:
                out = _package(self.name).flash_attn_varlen_func(*ends, **causal)
        return (out[0] if isinstance(out, tuple) else out).reshape(B, T, H, C)


def backend(name: str, alone: bool = False):
    """Context in which scaled_dot_product_attention tries the named backend first, or only."""
    if name not in SDPA:
        return contextlib.nullcontext()
    others = [] if alone else [*SDPA.values(), "MATH"]
    order = dict.fromkeys([SDPA[name], *others])
    return sdpa_kernel([getattr(SDPBackend, each) for each in order], set_priority=True)


@functools.cache
def _flex(compiled: bool):
    """FlexAttention, compiled by itself for blocks that are not."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention


@functools.cache
def _package(name: str):
    for module in PACKAGES[name]:
        with contextlib.suppress(ImportError):
            return importlib.import_module(module)
    raise ImportError(f"{PACKAGES[name][0]} is not installed")


def rule(documents: bool, device: torch.device) -> tuple[str, ...]:
    """What `auto` tries beside the model's own attention; the first that works is timed."""
    if documents:
        return ("flash_attn_3", "varlen", "flex")
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    return ("flash_attn_3", "cudnn") if hopper else ()


def example_ends(B: int, T: int) -> torch.Tensor:
    """Document ends of rows that hold documents of uneven lengths (about T/6), as in a Batch."""
    cuts = (T // 11, T // 4, T // 3, T // 2 + 1, 4 * T // 5)
    ends = {row * T + min(cut + 7 * row, T) for row in range(B) for cut in (*cuts, T)}
    return torch.tensor(sorted(ends - {0}))


def inputs(sizes: Sizes, batch: int, device: torch.device) -> list[torch.Tensor]:
    """Query, key, value as the model makes them, (B, T, heads, C) seen as (B, heads, T, C)."""
    heads = (sizes.num_attention_heads, sizes.num_key_value_heads, sizes.num_key_value_heads)
    shapes = [(batch, sizes.length, n, sizes.head_dim) for n in heads]
    parts = [normal(device, *shape).add_(0.01 * i) for i, shape in enumerate(shapes)]
    return [part.transpose(1, 2) for part in parts]


def formula(query, key, value, scale: float, mask) -> torch.Tensor:
    """softmax(q kᵀ scale) v, nothing fused -> (B, T, H, C)."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~mask, float("-inf"))
    return (scores.softmax(dim=-1) @ value).transpose(1, 2)


@dataclass
class Trial:
    """A candidate: relative error, time forward and backward [ms], or why it fell out."""

    name: str
    documents: bool
    error: float | None = None
    milliseconds: float | None = None
    note: str = ""

    def __str__(self) -> str:
        said = self.note and f"not usable here: {self.note}"
        said = said or f"error {self.error:.1e}, {self.milliseconds:.2f} ms forward and backward"
        return f"    {'documents' if self.documents else 'plain':<10}{self.name:<13}{said}"


def try_one(
    name: str, sizes: Sizes, device, dtype, documents: bool, compiled: bool = False
) -> Trial:
    """Against the formula in fp32 on one or two sequences, then the time of the whole shape, with
    the making of what stands in for the mask; a failure becomes the trial's note."""
    trial, attend, T = Trial(name, documents), Form.attend, sizes.length
    scale, few = sizes.head_dim**-0.5, min(sizes.batch, 2 if sizes.length <= 2048 else 1)

    def call(*parts):
        B = len(parts[0])
        ends = example_ends(B, T) if documents else None
        return attend(Form(name, ends, (B, T), device, alone=True), *parts, scale)

    def exact(*parts):
        ends = example_ends(few, T) if documents else torch.arange(T, few * T + 1, T)
        return formula(*parts, scale, Form("reference", ends, (few, T), device).mask)

    try:
        if compiled and device.type == "cuda":
            torch._dynamo.reset()  # so that none meets the compiler's limit of variants
            attend = torch.compile(Form.attend, dynamic=False)
        trial.error = check(call, exact, inputs(sizes, few, device), dtype, torch.float32)
        whole = [part.to(dtype) for part in inputs(sizes, sizes.batch, device)]
        trial.milliseconds = milliseconds(call, whole)
    except Exception as error:  # noqa: BLE001 - a candidate may fail in any way; the others go on
        trial.note = first_line(error)[:160]
    return trial


def milliseconds(call, inputs: list[torch.Tensor], repeats: int = 7) -> float:
    """Median time of forward and backward."""
    times = []
    for _ in range(3 + repeats):
        began = time.perf_counter()
        values(call, inputs)
        if inputs[0].is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1e3 * sorted(times[3:])[repeats // 2]


@dataclass
class Attention:
    """What was settled: an implementation for plain causal batches and one for packed documents."""

    plain: str = "reference"
    documents: str = "reference"
    trials: list[Trial] = field(default_factory=list)

    def form(self, ends, shape: tuple[int, int], device) -> Form | None:
        """What the model gets in place of a mask; None leaves the batch to it."""
        name = self.plain if ends is None else self.documents
        return None if name == "reference" else Form(name, ends, shape, device)

    def __str__(self) -> str:
        both = self.documents != self.plain
        return f"{self.plain}, documents {self.documents}" if both else self.plain


def select(
    wanted: str, sizes: Sizes, device: torch.device, dtype: torch.dtype, compiled: bool = False
) -> Attention:
    """Settle plain rows and, if the run has them, documents. See the module's head for `auto`; a
    name is used where it works, but where it cannot be meant (flash for documents, varlen for rows
    without documents) the choice is free. compiled: the run compiles its blocks, so a candidate
    must work inside the compiler, too. A run of unknown shape keeps the model's own.
    """
    found = Attention()
    if not sizes.length or wanted == "reference" or (wanted, device.type) == ("auto", "cpu"):
        return found
    for documents in (False, True) if sizes.documents else (False,):
        asked = wanted in (DOCUMENTS if documents else PLAIN)
        own = best = try_one("reference", sizes, device, dtype, documents, compiled)
        found.trials.append(own)
        for name in (wanted,) if asked else rule(documents, device):
            best = try_one(name, sizes, device, dtype, documents, compiled)
            found.trials.append(best)
            if not best.note:
                break
        faster = own.note or best.note or best.milliseconds <= BETTER * own.milliseconds
        if not best.note and (asked or faster):
            setattr(found, "documents" if documents else "plain", best.name)
    return found
