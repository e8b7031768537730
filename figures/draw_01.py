"""Figures of chapter 01: the way of a plan, where parameters are, what a token costs, utilisation, memory."""

from __future__ import annotations

from matplotlib.patches import FancyBboxPatch, Polygon

from figures.known_runs import RUNS
from figures.style import (
    FURNACE,
    GRID,
    INK,
    OKABE_ITO,
    PAPER,
    SEMANTIC,
    SLATE,
    STEEL,
    figure,
    label_line,
)
from steel.config import load
from steel.plan import GIB, count_parameters, flops_per_token, memory, mfu

PARTS = {
    "embedding": SEMANTIC["tokens"],
    "lm_head": SEMANTIC["tokens"],
    "attention projections": SLATE,
    "attention scores": OKABE_ITO["sky"],
    "experts": SEMANTIC["experts"],
}


def key(ax, x: float, y: float, text: str, color: str) -> None:
    """A coloured square and its name, in data coordinates."""
    ax.plot(x, y, "s", color=color, markersize=6, clip_on=False)
    label_line(ax, x, y, text)


def way_of_a_plan():
    """From a model's shape to FLOPs, days and money on one line, to bytes on the other."""
    fig, ax = figure(2.9)
    ax.set(xlim=(0, 100), ylim=(0, 42))
    ax.axis("off")

    def box(x, y, w, text, edge=STEEL, style="solid", h=8.5):
        shape = "round,pad=0,rounding_size=0.8"
        ax.add_patch(
            FancyBboxPatch((x, y), w, h, boxstyle=shape, fc=PAPER, ec=edge, lw=1.2, ls=style)
        )
        ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=8, color=INK)

    def arrow(start, end, color=INK):
        how = {"arrowstyle": "-|>", "color": color, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", end, start, arrowprops=how)

    box(0.5, 17, 15, "the model's\nshape", INK)
    box(23, 28, 16, "work of a token\n(FLOP)")
    box(56, 28, 15, "days")
    box(84, 28, 15, "money")
    box(23, 6, 16, "parameters")
    box(56, 6, 15, "bytes on\na GPU", SEMANTIC["memory"])
    arrow((15.5, 23), (22.7, 31))
    arrow((15.5, 19.5), (22.7, 11.5))
    for left, right, y, words in (
        (39, 56, 32.2, ("× tokens", "÷ (GPUs × peak)")),
        (71, 84, 32.2, ("× rent",)),
        (39, 56, 10.2, ("× 16 bytes", "÷ ranks")),
    ):
        arrow((left, y), (right - 0.3, y))
        for k, word in enumerate(words):
            side = {"va": "top"} if k else {"va": "bottom"}
            ax.text(
                (left + right) / 2, y - 1.0 if k else y + 0.8, word, ha="center", fontsize=7, **side
            )
    box(37, 18, 22, "÷ share of the peak\nthat training reaches", FURNACE, "dashed", 6.5)
    arrow((59, 21.2), (62, 27.7), FURNACE)
    what = "+ activations and logits\nof a micro-batch"
    box(75, 18, 24.5, what, SEMANTIC["memory"], "dashed", 6.5)
    arrow((75, 21), (65.5, 14.8), SEMANTIC["memory"])
    ax.text(
        0.5,
        0.5,
        "solid: arithmetic.  dashed: assumed or estimated, until it is measured",
        fontsize=7.5,
        color=SLATE,
    )
    return fig


def where_parameters_are(names: list[str]):
    """Millions of parameters of presets: vocabulary, attention, experts."""
    fig, ax = figure(2.6)
    for row, name in enumerate(reversed(names)):
        count, left = count_parameters(load(name).model), 0.0
        parts = [count["embedding"] + count["lm_head"], count["attention"], count["experts"]]
        for width, color in zip(parts, (SEMANTIC["tokens"], SLATE, SEMANTIC["experts"])):
            ax.barh(row, width / 1e6, left=left / 1e6, color=color, height=0.68)
            at = ((left + width / 2) / 1e6, row)
            ax.text(*at, f"{width / 1e6:.0f}", color=PAPER, ha="center", va="center", fontsize=8)
            left += width
        label_line(ax, left / 1e6, row, f"{parts[0] / count['total']:.0%} vocabulary")
    rows = {"yticks": range(len(names)), "yticklabels": list(reversed(names))}
    ax.set(**rows, xlim=(0, 1650), ylim=(-0.5, len(names)), xlabel="parameters (millions)")
    ax.grid(False)
    key(ax, 20, len(names) - 0.15, "vocabulary", SEMANTIC["tokens"])
    key(ax, 290, len(names) - 0.15, "attention", SLATE)
    key(ax, 540, len(names) - 0.15, "experts or dense FFN", SEMANTIC["experts"])
    return fig


def work_by_convention(model, T: int):
    """GFLOP per trained token in four conventions; hatched is work that a formula counts and no GPU does.

    A wedge leads from the experts as 6N counts them to what they do.
    """
    fig, ax = figure(3.0)
    N = count_parameters(model)
    conventions = ("six_n", "executed_full", "executed_causal", "seed")
    ys = dict(zip(conventions, (4.1, 2.5, 1.25, 0.0)))
    work = {name: flops_per_token(model, T, name) for name in conventions}
    before = 6 * (N["lm_head"] + N["attention"]) / 1e9  # the experts begin behind them
    counted, done = (6 * N["experts"] / 1e9, work["executed_full"].by_component["experts"] / 1e9)
    wedge = [(before, 3.75), (before + counted, 3.75), (before + done, 2.85), (before, 2.85)]
    ax.add_patch(Polygon(wedge, fc=PARTS["experts"], alpha=0.25, lw=0))
    ax.text(
        before + counted - 0.35,
        3.2,
        f"the experts: {counted:.2f} by six_n, {done:.3f} done",
        color=INK,
        fontsize=8.5,
        va="center",
    )
    for name, flops in work.items():
        scores = flops.by_component.get("attention scores", 0)
        if "executed" in name:
            parts = [
                (part, flops.by_component[part], False)
                for part in ("lm_head", "attention projections", "experts", "attention scores")
            ]
        else:  # the seed counts five passes of the scores where three are run
            parts = [
                ("lm_head", 6 * N["lm_head"], False),
                ("attention projections", 6 * N["attention"], False),
                ("experts", 6 * N["experts"], True),
                ("embedding", 6 * N["embedding"], True),
                ("attention scores", 0.6 * scores, False),
                ("attention scores", 0.4 * scores, True),
            ]
        left = 0.0
        for part, value, idle in filter(lambda p: p[1], parts):
            idle_look = {"fc": PAPER, "ec": PARTS[part], "hatch": "////"}
            look = idle_look if idle else {"color": PARTS[part], "lw": 0}
            ax.barh(ys[name], value / 1e9, left=left, height=0.7, **look)
            left += value / 1e9
        label_line(ax, left, ys[name], f"{flops.total / 1e9:.2f}", INK)
    rows = {"yticks": list(ys.values()), "yticklabels": list(ys)}
    ax.set(
        **rows, xlim=(0, 9), ylim=(-0.5, 5.4), xlabel="GFLOP per trained token (forward + backward)"
    )
    ax.grid(False)
    for x, text, part in (
        (0.1, "head, embedding", "lm_head"),
        (2.3, "projections", "attention projections"),
        (3.95, "scores", "attention scores"),
        (5.15, "experts", "experts"),
    ):
        key(ax, x, 5.1, text, PARTS[part])
    return fig


def utilisations():
    """Published runs as MFU in three conventions, one line a run; what no chip can do leaves at the right."""
    fig, ax = figure(3.3)
    kinds = {
        "executed_causal": (STEEL, STEEL),
        "executed_full": (STEEL, PAPER),
        "seed": (SLATE, SLATE),
    }
    for row, run in enumerate(reversed(RUNS)):
        shares = {
            kind: 100 * mfu(run.model, run.sequence_length, run.tokens_per_second, run.gpu, kind)
            for kind in kinds
        }
        low, high = min(shares.values()), max(shares.values())
        if low > 100:
            how = {"arrowstyle": "-|>", "color": FURNACE, "lw": 1.2}
            ax.annotate("", (139.5, row), (127, row), arrowprops=how)
            text = f"{low:.0f} to {high:.0f} %"
            ax.text(103, row, text, color=FURNACE, fontsize=8.5, va="center")
            continue
        ax.plot([low, high], [row, row], color=GRID, lw=1.2, zorder=1)
        for kind, (edge, face) in kinds.items():
            ax.plot(shares[kind], row, "o", mec=edge, mfc=face, ms=5, zorder=2)
        if run is RUNS[0]:  # the text reads this row
            text = ", ".join(f"{share:.0f}" for share in shares.values()) + " %"
            label_line(ax, high, row, text, SLATE, xytext=(7, 0))
    top = len(RUNS) - 0.35
    ax.axvline(100, color=FURNACE, linewidth=1)
    ax.text(103, top, "peak of the chip", color=FURNACE, fontsize=8.5, va="center")
    for x, fill, color, text in (
        (2, STEEL, STEEL, "causal"),
        (21, PAPER, STEEL, "full"),
        (34, SLATE, SLATE, "seed's formula"),
    ):
        ax.plot(x, top, "o", mec=color, mfc=fill, ms=5)
        label_line(ax, x, top, text, color)
    rows = {"yticks": range(len(RUNS)), "yticklabels": [run.name for run in reversed(RUNS)]}
    ax.set(
        **rows,
        xlim=(0, 140),
        xticks=range(0, 101, 20),
        ylim=(-0.6, len(RUNS) - 0.1),
        xlabel="MFU (% of the bf16 peak)",
    )
    ax.grid(axis="x")
    ax.grid(False, axis="y")
    return fig


GROUPS = {
    "weights, gradients, moments": (STEEL, ("parameters", "gradients", "optimizer")),
    "activations": (SEMANTIC["memory"], ("activations",)),
    "logits": (FURNACE, ("logits",)),
    "copies in flight, CUDA": (SLATE, ("gathered", "runtime")),
}


def memory_columns(model, steps: dict[str, dict], **settings):
    """GiB on one GPU for each way to train, by what they are spent on."""
    fig, ax = figure(2.9)
    for column, step in enumerate(steps.values()):
        used, bottom = memory(model, **settings, **step), 0.0
        for color, keys in GROUPS.values():
            height = sum(used[part] for part in keys) / GIB
            ax.bar(column, height, bottom=bottom, color=color, width=0.62)
            if height > 3.2:
                at = (column, bottom + height / 2)
                ax.text(*at, f"{height:.0f}", color=PAPER, fontsize=8, ha="center", va="center")
            bottom += height
        patch = {"fc": PAPER, "ec": "none", "pad": 0.6}
        ax.text(column, bottom + 1.2, f"{bottom:.0f}", ha="center", fontsize=8.5, bbox=patch)
    broken = ("over 8 ", "in ", "fused", "recomputed")
    names = []
    for name in steps:
        for word in broken:
            name = name.replace(f" {word}", f"\n{word}", 1) if "\n" not in name else name
        names.append(name)
    ax.set(xticks=range(len(steps)), xticklabels=names, ylim=(0, 72))
    ax.set_title("GiB on one GPU, Steel, micro-batch of 8 sequences of 2,048 tokens")
    for y, (name, (color, _)) in zip((67, 61, 55, 49), reversed(GROUPS.items())):
        key(ax, 2.85, y, name, color)
    ax.grid(False)
    ax.axhline(24, color=SLATE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    ax.text(4.45, 25.2, "an RTX 4090", color=SLATE, ha="right", fontsize=8)
    return fig
