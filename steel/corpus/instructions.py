"""Post-training sets that real documents already hold: their dialogues, and the tasks that their metadata spell out.

Dialogue sources give SFT rows as they are. A regulated poem gives the request that its title and form imply, and a
preference: the poem over one that has another form than was asked for. Sources with neither give nothing, and the life
skips the stages that would need it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ..documents import Document, read_documents
from ..runlog import atomic_write

FORMS = {(5, 4): "五言绝句", (7, 4): "七言绝句", (5, 8): "五言律诗", (7, 8): "七言律诗"}


def write_instructions(
    docs: Path,
    out: Path,
    seed: int,
    *,
    limit: int = 4000,
    skip: Callable[[Document], bool] = lambda doc: False,
) -> dict[str, int]:
    """Read every document under `docs` and write OUT/sft.jsonl and OUT/preference.jsonl where there is something.

    At most `limit` rows a file, chosen by a hash of seed and document id, so that the choice does not depend on the
    order of files. `skip(doc)` leaves out held-out documents. Returns the number of rows written by name.
    """
    dialogues: list[tuple[str, dict]] = []
    poems: list[tuple[str, str, str, str]] = []
    for path in sorted(docs.glob("*.jsonl.zst")):
        for doc in read_documents(path):
            rank = hashlib.blake2b(f"{seed}:{doc.id}".encode(), digest_size=8).hexdigest()
            if skip(doc):
                continue
            if doc.meta.get("messages"):
                dialogues.append(
                    (rank, {"messages": doc.meta["messages"], "kind": doc.source, "lang": doc.lang})
                )
            elif (form := poem_form(doc)) and doc.meta.get("title"):
                title = doc.text.split("\n")[
                    0
                ]  # in the script of the text; the metadata keep the original's
                poems.append((rank, form, title, _lines(doc)))
    poems = sorted(poems)[:limit]
    rows = [row for _, row in sorted(dialogues, key=lambda pair: pair[0])[:limit]]
    rows += [
        {
            "messages": [*_ask(form, title), {"role": "assistant", "content": text}],
            "kind": form,
            "lang": "zh",
        }
        for _, form, title, text in poems
    ]
    pairs = list(_form_pairs(poems))
    counts = {"sft": len(rows), "preference": len(pairs)}
    for name, table in (("sft", rows), ("preference", pairs)):
        if table:
            atomic_write(
                out / f"{name}.jsonl",
                "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in table),
            )
    return counts


def poem_form(doc: Document) -> str:
    """五言绝句, 七言绝句, 五言律诗, 七言律诗, or "" when lines and characters do not fit any."""
    return text_form(_lines(doc)) if doc.source == "chinese_poetry" else ""


def text_form(text: str) -> str:
    """The regulated form of some verse: how many characters a line has, and how many lines there are."""
    lines = [piece for piece in re.split(r"[，。！？；、,.!?;\s]+", text) if piece]
    widths = {len(line) for line in lines}
    return FORMS.get((widths.pop(), len(lines)), "") if len(widths) == 1 else ""


def _lines(doc: Document) -> str:
    """The verse without its head (title, dynasty and author)."""
    head = bool(doc.meta.get("title")) + bool(doc.meta.get("author") or doc.meta.get("dynasty"))
    return "\n".join(doc.text.split("\n")[head:])


def _ask(form: str, title: str) -> list[dict]:
    return [{"role": "user", "content": f"请以《{title}》为题，写一首{form}。"}]


def _form_pairs(poems: list[tuple[str, str, str, str]]) -> Iterator[dict]:
    """Each poem against the next one of another form."""
    for i, (_, form, title, text) in enumerate(poems):
        other = next((p for p in poems[i + 1 : i + 20] if p[1] != form), None)
        if other:
            yield {
                "messages": _ask(form, title),
                "chosen": text,
                "rejected": other[3],
                "kind": "wrong_form",
                "lang": "zh",
            }
