"""What the operators of both recipes remove and change of real documents, one by one, and what each costs:

    python -m figures.experiments.clean --raw RAW --out figures/runs/clean-compare.json

A row for each source and recipe, of the documents as that recipe's conversion writes them. `alone`: what a filter would
remove of all that the recipe's mappers leave, whatever the filters before it did. `torn`: dialogues with fewer marks of
the template behind the mappers than before. SkyPile and WanJuan, which the original did not clean, are cleaned here
all the same (`cleaned`: false). Counts and CPU seconds only: no text of the files goes into the log.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from . import command
from .ledger import Ledger

MARK = "<|im_end|>"


def operators_of(recipe, source: str, dialogue: bool) -> list:
    """The operators that a recipe has for a source; for one that it leaves as it is, those of text."""
    return recipe.operators(source, dialogue) or recipe.operators("wikipedia_cn")


def cost(operators: list, documents: list) -> dict[str, float]:
    """CPU seconds of each operator over all of these documents, every one as the mappers before leave it."""
    seconds: Counter[str] = Counter()
    for op in operators:
        began = time.process_time()
        made = [op(document) for document in documents]
        seconds[op.name] += time.process_time() - began
        kept = [hasattr(document, "text") for document in made]
        documents = [new if ok else old for new, old, ok in zip(made, documents, kept, strict=True)]
    return {name: round(s, 4) for name, s in seconds.items()}


def look(source: str, documents: list, recipe) -> dict:
    """The row of one source: what is kept, what each operator removes, alone and in its place, and changes."""
    from steel.corpus.operators import Reject, apply

    removed, gone, changed, alone = Counter(), Counter(), Counter(), Counter()
    kept = size = torn = dialogues = 0
    made = {dialogue: operators_of(recipe, source, dialogue) for dialogue in (False, True)}
    for document in documents:
        operators = made[bool(document.messages)]
        left, reject = apply(operators, document, lambda op, *_: changed.update([op.name]))
        if reject is None:
            kept += 1
            size += len(left.readable())
        else:
            removed[reject.operator] += 1
            gone[reject.operator] += len(left.readable())
        mappers = [op for op in operators if op.kind == "mapper"]
        mapped, _ = apply(mappers, document, lambda *_: None)
        filters = (op for op in operators if op.kind == "filter")
        alone.update({op.name for op in filters if isinstance(op(mapped), Reject)})
        dialogues += MARK in document.text
        torn += mapped.text.count(MARK) < document.text.count(MARK)
    return {
        "documents": len(documents),
        "kept": kept,
        "characters": sum(len(d.readable()) for d in documents),
        "megabytes": round(sum(len(d.readable().encode()) for d in documents) / 1e6, 4),
        "kept_characters": size,
        "removed": dict(removed),
        "removed_characters": dict(gone),
        "alone": dict(alone),
        "changed": dict(changed),
        "dialogues": dialogues,
        "torn": torn,
        "cpu_seconds": cost(made[bool(documents[0].messages)], documents),
    }


def main(raw: Path, out: Path = None) -> int:
    """Clean the documents of a folder by both recipes, and write what each operator did, by source."""
    from steel.corpus.recipe import load_recipe
    from steel.corpus.sources import SOURCES, survey

    from .convert import documents

    found, _ = survey(raw)
    ledger = Ledger(out, "clean-compare", {"sources": list(found)}, fresh=True)
    for name, files in found.items():
        for recipe in map(load_recipe, ("original", "steel")):
            made, _ = documents(name, files, raw, recipe.name)
            cleaned = bool(recipe.operators(name, bool(made[0].messages)))
            about = {"source": name, "kind": SOURCES[name].kind, "recipe": recipe.name}
            row = about | {"cleaned": cleaned} | look(name, made, recipe)
            ledger.add(row)
            print(name, recipe.name, row["documents"], row["kept"], row["removed"], row["torn"])
    return 0


if __name__ == "__main__":
    command(main)
