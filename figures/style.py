"""House style of every figure in the book.

Use it in a cell that carries the tag ``active-ipynb`` (the exported scripts draw nothing)::

    from figures.style import STEEL, SLATE, figure, label_line, show

    fig, ax = figure(height=2.4)
    ax.plot(steps, loss, color=STEEL)
    label_line(ax, steps[-1], loss[-1], "causal soft MoE", STEEL)
    axis_units(ax, x="tokens seen (millions)", y="held-out loss (nats/token)")
    show(fig, alt="Held-out loss falls from 7.6 to 2.1 nats per token in 2 million tokens.",
         caption="One seed, two cores.")

Rules the helpers keep: SVG with text as paths (Chinese renders on every machine), direct labels
instead of legends, units on both axes, alternative text, at most 80 kB, and the same bytes
whenever the same data is drawn (no dates, no random ids). In the rendered book a few lines of
JavaScript put the SVG into the page, so that ink, paper and the house colours follow the light or
dark theme; everywhere else the figure is an image on paper-coloured ground.

Sizes are inches at 72 points: 6.67 in is the 640 px text column, 10 in the 960 px wide measure.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import os
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure

INK = "#1f2933"  # text, axes
PAPER = "#fcfbf8"  # ground
GRID = "#dcd9d1"  # hairlines
STEEL = "#2f5d7c"  # this project
SLATE = "#71808f"  # baselines, the past
FURNACE = "#d9622b"  # only for "look here"
PALE, MIDDLE, ON_PALE = "#d3e1ea", "#a9c6d8", "#202a34"  # boxes, the same in light and dark pages

OKABE_ITO = {
    "blue": "#0072b2",
    "orange": "#e69f00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "sky": "#56b4e9",
    "vermillion": "#d55e00",
    "yellow": "#f0e442",
}
CATEGORIES = list(OKABE_ITO.values())
SEMANTIC = {  # the same thing has the same colour in every chapter
    "tokens": OKABE_ITO["blue"],
    "experts": OKABE_ITO["purple"],
    "communication": OKABE_ITO["orange"],
    "memory": OKABE_ITO["green"],
}
HEAT = "cividis"
COLUMN_INCHES, WIDE_INCHES = 6.67, 10.0
MAX_BYTES = 80_000

_CJK = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei",
        "Microsoft YaHei", "PingFang SC", "SimHei")  # fmt: skip
OWN_CJK = "Steel CJK"  # a family name of our own: a system font of the same name must not win


def cjk_font() -> str | None:
    """Family name of a font that holds Chinese: the file of ``mplfonts``, the same on every machine,
    if that package is installed, else an installed font, else None."""
    known = {f.name for f in font_manager.fontManager.ttflist}
    if OWN_CJK in known:
        return OWN_CJK
    spec = importlib.util.find_spec("mplfonts")
    if spec and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / "fonts" / "NotoSansCJKsc-Regular.otf"
        if path.exists():
            entry = font_manager.FontEntry(fname=str(path), name=OWN_CJK)
            font_manager.fontManager.ttflist.append(entry)
            return OWN_CJK
    return next((name for name in _CJK if name in known), None)


def use() -> None:
    """Set matplotlib's rcParams to the house style (called by :func:`figure`)."""
    fonts = [f for f in (cjk_font(), "DejaVu Sans") if f]
    matplotlib.rcParams.update({
        "font.family": "sans-serif", "font.sans-serif": fonts, "font.size": 9,
        "mathtext.fontset": "dejavuserif", "axes.unicode_minus": False,
        "svg.fonttype": "path", "svg.hashsalt": "steel", "path.simplify_threshold": 0.5,
        "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "axes.facecolor": PAPER,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
        "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.7,
        "xtick.major.width": 0.7, "ytick.major.width": 0.7,
        "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "axes.grid.axis": "y", "grid.color": GRID, "grid.linewidth": 0.6,
        "axes.axisbelow": True, "axes.titlesize": 9.5, "axes.titlelocation": "left",
        "axes.titlepad": 8, "axes.labelsize": 8.5, "xtick.labelsize": 8, "ytick.labelsize": 8,
        "lines.linewidth": 1.8, "lines.solid_capstyle": "round", "lines.markersize": 4,
        "figure.constrained_layout.w_pad": 0.08, "figure.constrained_layout.h_pad": 0.06,
        "legend.frameon": False, "image.cmap": HEAT, "hatch.linewidth": 0.5,
        "axes.prop_cycle": matplotlib.cycler(color=[STEEL, *CATEGORIES]),
    })  # fmt: skip


def figure(height: float = 2.6, *, wide: bool = False, nrows: int = 1, ncols: int = 1, **subplots):
    """A figure in house style and its axes, as ``plt.subplots`` returns them.

    ``height`` in inches. ``subplots`` goes to ``Figure.subplots`` (``sharex``, ``width_ratios``, …).
    """
    use()
    size = (WIDE_INCHES if wide else COLUMN_INCHES, height)
    fig = Figure(figsize=size, layout="constrained")
    return fig, fig.subplots(nrows, ncols, **subplots)


def blank(ax, xlim, ylim) -> None:
    """An empty stage for a drawing: no ticks, no grid, no frame."""
    ax.set(xlim=xlim, ylim=ylim, xticks=[], yticks=[])
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)


def arrow(ax, start, end, color: str = SLATE, lw: float = 1.0, bend: float = 0.0) -> None:
    """An arrow between two points; `bend` is its curvature [share of its length]."""
    how = {"arrowstyle": "-|>", "color": color, "lw": lw, "shrinkA": 0, "shrinkB": 0}
    how |= {"mutation_scale": 8, "connectionstyle": f"arc3,rad={bend}"}
    ax.annotate("", end, start, arrowprops=how)


def label_line(ax, x: float, y: float, text: str, color: str = INK, **kwargs) -> None:
    """A direct label beside a point (by default right of a line's end), in the line's colour."""
    kwargs = {"xytext": (5, 0), "va": "center", "ha": "left", "fontsize": 8.5} | kwargs
    note = ax.annotate(text, (x, y), textcoords="offset points", color=color, **kwargs)
    note.set_annotation_clip(False)


def axis_units(ax, *, x: str = "", y: str = "", title: str = "") -> None:
    """Axis labels with units; ``y`` is written flat above the axis, where it is read first."""
    ax.set_xlabel(x)
    if title or y:
        ax.set_title(f"{title}\n{y}" if title and y else title or y)


def seed_band(ax, x, curves_SX, color: str = STEEL, label: str = "", middle=np.median) -> None:
    """Line of the seeds' ``middle`` in a min–max band. ``curves_SX``: S seeds (rows) at the X points ``x``."""
    curves = np.asarray(curves_SX, dtype=float)
    line = middle(curves, axis=0)
    ax.fill_between(x, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.18, linewidth=0)
    ax.plot(x, line, color=color)
    if label:
        label_line(ax, x[-1], line[-1], label, color)


def heat(fig, ax, matrix, *, unit: str, **kwargs):
    """A cividis heat map with a colour bar that names its unit; returns the image."""
    image = ax.imshow(
        matrix, cmap=HEAT, **({"interpolation": "nearest", "aspect": "auto"} | kwargs)
    )
    ax.grid(False)
    bar = fig.colorbar(image, ax=ax, shrink=0.85, pad=0.02)
    bar.set_label(unit)
    bar.outline.set_visible(False)
    return image


def footer(fig, text: str) -> None:
    """A small grey line under the figure: the run it comes from, seeds, hardware."""
    fig.supxlabel(text, fontsize=7, color=SLATE, ha="left", x=0.01)


# ---------------------------------------------------------------------------------------- output


def to_svg(fig, max_bytes: int = MAX_BYTES) -> str:
    """The figure as a compact SVG document: no metadata, no comments, two decimals.

    Raises ValueError when it is larger than ``max_bytes``: thin out the data (or rasterize a dense
    artist with ``set_rasterized(True)``)."""
    if fig.get_layout_engine() is not None:  # lay out once: the solver starts from its last answer
        fig.draw_without_rendering()
        fig.set_layout_engine("none")
    buffer = io.StringIO()
    fig.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    # matplotlib's `*{…}` style sheet would leak into a page that holds the SVG: inherit instead
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S)
    svg = svg.replace("<svg ", '<svg style="stroke-linejoin:round;stroke-linecap:butt" ', 1)

    def shorten(match: re.Match) -> str:
        numbers = re.sub(
            r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), match[2]
        )
        return match[1] + " ".join(numbers.split()) + '"'

    svg = re.sub(r'((?:\sd|\sx|\sy|points)=")([^"]*)"', shorten, svg)
    svg = re.sub(r"(translate\(-?\d+\.\d\d)\d+", r"\1", svg)  # where each letter of a text stands
    svg = re.sub(r">\s+<", "><", svg).strip()
    if len(svg.encode()) > max_bytes:
        raise ValueError(f"the figure is {len(svg.encode()):,} bytes of SVG, more than {max_bytes:,}: draw fewer "
                         "points, or rasterize the dense artist with set_rasterized(True)")  # fmt: skip
    return svg


def to_html(
    fig, alt: str, caption: str = "", *, wide: bool | None = None, max_bytes: int = MAX_BYTES
) -> str:
    """The figure as an HTML fragment: ``<figure><img alt=… src="data:image/svg+xml…"></figure>``."""
    if not alt or not alt.strip():
        raise ValueError("a figure needs alt text: one sentence that says what there is to see")
    width = fig.get_size_inches()[0]
    wide = width > COLUMN_INCHES + 0.5 if wide is None else wide
    data = base64.b64encode(to_svg(fig, max_bytes).encode()).decode()
    note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="steel-figure{" steel-wide" if wide else ""}" style="margin:1em 0">'
        f'<img style="max-width:100%;width:{width * 96:.0f}px" alt="{html.escape(alt)}" '
        f'src="data:image/svg+xml;base64,{data}">{note}</figure>'
    )


def show(fig, alt: str, caption: str = "", *, max_bytes: int = MAX_BYTES) -> None:
    """Show ``fig`` in the notebook with its alternative text and an optional caption.

    Outside Jupyter it writes nothing unless the environment variable ``STEEL_FIGURES`` names a
    folder; then the SVG goes there, named after the first words of ``alt``."""
    if _in_jupyter():
        from IPython.display import display

        page = to_html(fig, alt, caption, max_bytes=max_bytes)
        display({"text/html": page, "text/plain": f"[figure] {alt}"}, raw=True)
    elif folder := os.environ.get("STEEL_FIGURES"):
        name = re.sub(r"[^a-z0-9]+", "_", alt.lower())[:48].strip("_")
        save(fig, Path(folder) / f"{name}.svg")


def save(fig, path: str | Path) -> None:
    """Write the figure as SVG, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(to_svg(fig) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def say(markdown: str) -> None:
    """A sentence with numbers that this cell has measured, shown as prose (Markdown) in the notebook
    and the rendered book, printed in a script. Fixed numbers belong into the text and `claims.yml`."""
    if _in_jupyter():
        from IPython.display import display

        display({"text/markdown": markdown, "text/plain": markdown}, raw=True)
    else:
        print(markdown)


def table(header: list[str], rows: list[list], align: str = "") -> None:
    """A small table as Markdown. ``align``: one letter a column, ``l``, ``r`` or ``c`` (default: first
    column left, the others right)."""
    align = align or "l" + "r" * (len(header) - 1)
    rule = {"l": ":---", "r": "---:", "c": ":---:"}
    lines = [header, [rule[a] for a in align], *rows]
    say("\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines))


def answer(
    question: str,
    text: str,
    value: float | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
) -> None:
    """The answer to a question of a Predict box, by name: where the measurement appears.

    question: "1.2" is question 2 of the page's first box, "2" the only question of its second. text: Markdown without
    blocks (bold, code, emphasis), says the answer in a sentence. value: the number to hold the reader's guess against,
    in the unit in which the box asks; low, high: its range over seeds. The page shows the guess beside them
    (`book/_static/predict.js`); elsewhere the sentence stands alone.
    """
    box, _, number = question.partition(".")
    name = f"Question {number}" if number else f"Answer to Predict box {box}"
    if not _in_jupyter():
        print(f"{name}: {text}")
        return
    from IPython.display import display

    facts = {"question": question, "value": value, "low": low, "high": high, "unit": unit or None}
    data = " ".join(
        f'data-{key}="{html.escape(f"{v:.6g}" if isinstance(v, float) else str(v))}"'
        for key, v in facts.items()
        if v is not None
    )
    said = html.escape(text, quote=False)
    for mark, tag in ((r"\*\*(.+?)\*\*", "strong"), (r"`(.+?)`", "code"), (r"\*(.+?)\*", "em")):
        said = re.sub(mark, rf"<{tag}>\1</{tag}>", said)
    page = f'<div class="steel-answer" {data}><p><strong>{name}.</strong> {said}</p></div>'
    display({"text/html": page, "text/plain": f"{name}: {text}"}, raw=True)


def badge() -> None:
    """What this notebook has cost so far: CPU time [s] and peak memory [GB] of its process, shown as a badge. A test
    holds the stored numbers to the book's budget."""
    import resource
    import time

    cpu = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    text = f"This notebook: {cpu:.0f} s of CPU time, {peak / 1e9:.1f} GB of memory at most. On two idle cores the wall "
    text += "time lies between half the CPU time and all of it."
    if not _in_jupyter():
        print(text)
        return
    from IPython.display import display

    page = f'<div class="admonition badge"><p class="admonition-title">Badge</p><p>{text}</p></div>'
    display({"text/html": page, "text/plain": text}, raw=True)


def _in_jupyter() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return get_ipython() is not None
