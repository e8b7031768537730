"""Post-training sets that real documents hold: their dialogues, and tasks that metadata spell out.

Dialogue sources give SFT rows as they are; a dialogue that has a rejected answer, too, is a
preference. A regulated poem gives the request that its title and
form imply, and a preference: the poem over one that has another form than was asked for. Sources
with neither give nothing, and the life skips the stages that would need it.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from ..documents import Document, read_documents, write_rows

FORMS = {(5, 4): "五言绝句", (7, 4): "七言绝句", (5, 8): "五言律诗", (7, 8): "七言律诗"}


def write_instructions(
    docs: Path,
    out: Path,
    seed: int,
    *,
    limit: int = 4000,
    skip: Callable[[Document], bool] = lambda doc: False,
) -> dict[str, int]:
    """Read every document under `docs`; write OUT/sft.jsonl and preference.jsonl if there are rows.

    At most `limit` dialogues and poems, chosen by a hash of seed and document id, so that the
    choice does not depend on the order of files. `skip(doc)` leaves out held-out documents.
    Returns the number of rows written by name.
    """
    dialogues: list[tuple[str, dict]] = []
    judged: list[tuple[str, dict]] = []
    poems: list[tuple[str, str, str, str]] = []  # rank, form, title, verse
    for doc in read_documents(docs):
        if skip(doc):
            continue
        rank = hashlib.blake2b(f"{seed}:{doc.id}".encode(), digest_size=8).hexdigest()
        if doc.messages and (rejected := doc.meta.get("rejected_answer")):
            *asked, chosen = doc.messages
            row = {"messages": asked, "chosen": chosen["content"], "rejected": rejected}
            judged.append((rank, row | {"kind": doc.source, "lang": doc.lang}))
        elif doc.messages:
            row = {"messages": doc.messages, "kind": doc.source, "lang": doc.lang}
            dialogues.append((rank, row))
        elif doc.source == "chinese_poetry" and doc.meta.get("title"):
            lines = doc.text.split("\n")  # in the script of the text, unlike the metadata
            title, author = lines[0], doc.meta.get("author") or doc.meta.get("dynasty")
            verse = "\n".join(lines[2 if author else 1 :])
            if form := text_form(verse):
                poems.append((rank, form, title, verse))
    poems = sorted(poems)[:limit]
    sft, pairs = (
        [row for _, row in sorted(rows, key=lambda ranked: ranked[0])[:limit]]
        for rows in (dialogues, judged)
    )
    for place, (_, form, title, verse) in enumerate(poems):
        request = {"role": "user", "content": f"请以《{title}》为题，写一首{form}。"}
        answer = {"role": "assistant", "content": verse}
        sft.append({"messages": [request, answer], "kind": form, "lang": "zh"})
        following = (poem for poem in poems[place + 1 : place + 20] if poem[1] != form)
        if other := next(following, None):
            pair = {"messages": [request], "chosen": verse, "rejected": other[3]}
            pairs.append({**pair, "kind": "wrong_form", "lang": "zh"})
    for name, rows in (("sft", sft), ("preference", pairs)):
        if rows:
            write_rows(out / f"{name}.jsonl", rows)
    return {"sft": len(sft), "preference": len(pairs)}


def text_form(text: str) -> str:
    """The regulated form of a verse: how many characters a line has, how many lines there are."""
    lines = [piece for piece in re.split(r"[，。！？；、,.!?;\s]+", text) if piece]
    widths = {len(line) for line in lines}
    return FORMS.get((widths.pop(), len(lines)), "") if len(widths) == 1 else ""
