"""Figures: same data, same bytes; small; worded; Chinese; readable on both grounds."""

import re

import numpy as np
import pytest
from matplotlib import font_manager

from figures import make, style


def drawing():
    fig, ax = style.figure(height=2)
    x = np.arange(50)
    style.seed_band(ax, x, [np.exp(-x / 9) + s / 20 for s in range(3)], style.STEEL, "钢 steel")
    style.axis_units(ax, x="step", y="loss (nats/token)", title="A title")
    return fig


def test_same_data_gives_same_bytes_each_time():
    fig = drawing()
    first = style.to_svg(fig)
    assert first == style.to_svg(fig) == style.to_svg(drawing())
    assert "<metadata" not in first and "<style" not in first and "<text" not in first


def test_text_is_drawn_as_paths_with_chinese_glyphs(recwarn):
    svg = style.to_svg(drawing())
    assert "Glyph" not in "".join(str(w.message) for w in recwarn), (
        "no font with Chinese: install the extra 'book'"
    )
    assert svg.count("<use") > 20


def test_a_system_font_of_the_same_name_changes_nothing(monkeypatch):
    """Distributions ship their own "Noto Sans CJK SC", with other outlines: fonts are taken by file."""
    before = style.to_svg(drawing())
    other = font_manager.findfont("DejaVu Serif")
    rivals = [font_manager.FontEntry(fname=other, name=name) for name in style._CJK]
    ours = [f for f in font_manager.fontManager.ttflist if f.name != style.OWN_CJK]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*rivals, *ours])
    font_manager.fontManager._findfont_cached.cache_clear()
    assert style.to_svg(drawing()) == before


def test_alt_text_is_demanded_and_escaped():
    with pytest.raises(ValueError, match="alt text"):
        style.to_html(drawing(), alt=" ")
    page = style.to_html(drawing(), alt='Loss of "steel" < 3')
    assert 'alt="Loss of &quot;steel&quot; &lt; 3"' in page and "steel-wide" not in page


def test_a_large_figure_is_refused_with_a_remedy():
    fig, ax = style.figure()
    rng = np.random.default_rng(0)
    ax.plot(rng.normal(size=20_000), ".")
    with pytest.raises(ValueError, match="set_rasterized"):
        style.to_svg(fig)


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_are_readable_on_paper_and_in_the_dark():
    for colour in (style.INK, style.STEEL):
        assert (
            contrast(colour, style.PAPER) >= 4.5
            and contrast(make.DARK[colour], make.DARK[style.PAPER]) >= 4.5
        )
    for colour in (style.SLATE, style.FURNACE):  # large labels and bars
        assert (
            contrast(colour, style.PAPER) >= 3
            and contrast(make.DARK[colour], make.DARK[style.PAPER]) >= 4.5
        )


def test_page_script_and_style_know_the_house_colours():
    folder = make.ROOT / "book" / "_static"
    script, sheet = (folder / "steel.js").read_text(), (folder / "steel.css").read_text()
    for colour, dark in make.DARK.items():
        name = re.search(rf'"{colour}": "(\w+)"', script)
        assert name, f"steel.js does not know {colour}"
        assert f"--fig-{name[1]}: {colour}" in sheet and f"--fig-{name[1]}: {dark}" in sheet


@pytest.mark.parametrize("name", make.drawable())
def test_committed_figures_are_what_their_code_draws(name):
    if style.cjk_font() != style.OWN_CJK:
        pytest.skip("needs the font of mplfonts, as the committed figures have it")
    for file, svg in make.render(name).items():
        assert (make.TARGET / file).read_text(encoding="utf-8") == svg, "run: make figures"
