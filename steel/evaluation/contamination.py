"""Does training text hold the exam? The longest run of characters that a question shares with it.

Texts are compared as letters and digits alone, in any width and case: a copy differs from its
original in punctuation and spaces first. The unit is a character, because Chinese has no words to
count; the 13 of the usual 13-gram rule are English words, and a Chinese word is about 1.6
characters. What is reported is the *longest* match, which tells copies from chance better than a
count of n-grams (Singh et al. 2024); `TABLE` says how many questions each length would accuse.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from ..config import UserError
from ..corpus.dedup import letters, normalise
from ..corpus.operators.characters import ngram_hashes
from ..documents import Document
from ..machine import progress
from .questions import Question

SHORTEST = 8
"""Shorter matches are not looked for [characters]: common phrases of Chinese are as long."""
TABLE = (8, 10, 13, 16, 20)


def contamination(
    documents: Iterable[Document], questions: Sequence[Question], length: int = 13
) -> dict:
    """Compare every document with every question. Returns plain data for JSON:

    {"questions": number, "too_short": questions of fewer than `SHORTEST` characters, which cannot
    be judged, "documents": read, "length": the threshold, "found": questions with a match of at
    least `length` characters, or wholly copied, "by_length": {characters: questions with such a
    match}, "rows": [{"subject", "id", "characters", "match": the longest [characters], "share":
    of the question, "text": the matching characters, "document": where they stand, "found"}] of
    questions with any match, the longest first}.

    A question is its wording followed by its right answer. Raises UserError for a length below
    `SHORTEST`.
    """
    if length < SHORTEST:
        raise UserError(f"--length is {length}; matches are looked for from {SHORTEST} characters")
    texts = [_plain(q.question + " " + q.right) for q in questions]
    hashes, owner, place = _index(texts)
    longest: dict[int, tuple[int, int, str]] = {}  # question: (characters, start, document)
    read = 0
    with progress(None, "looking for the exam", "documents") as bar:
        for document in documents:
            read += 1
            bar.advance(1)
            for question, size, start in _matches(document, hashes, owner, place):
                if size > longest.get(question, (0,))[0]:
                    longest[question] = size, start, document.id
    rows = []
    for question, (size, start, document_id) in longest.items():
        codes, asked = texts[question], questions[question]
        rows.append(
            {
                "subject": asked.subject,
                "id": asked.id,
                "characters": len(codes),
                "match": size,
                "share": size / len(codes),
                "text": "".join(map(chr, codes[start : start + size])),
                "document": document_id,
                "found": size >= min(length, len(codes)),
            }
        )
    rows.sort(key=lambda row: (-row["match"], row["subject"], row["id"]))
    return {
        "questions": len(questions),
        "too_short": sum(len(codes) < SHORTEST for codes in texts),
        "documents": read,
        "length": length,
        "found": sum(row["found"] for row in rows),
        "by_length": {n: sum(row["match"] >= n for row in rows) for n in TABLE},
        "rows": rows,
    }


def _plain(text: str) -> np.ndarray:
    """Code points of a text's letters and digits, (characters,)."""
    return letters(normalise(text))


def _index(texts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all windows of `SHORTEST` characters, by ascending hash: hash, question, place in it."""
    parts = [ngram_hashes(codes, SHORTEST) for codes in texts]
    counts = [len(part) for part in parts]
    hashes = np.concatenate([np.empty(0, np.uint64), *parts])
    owner = np.repeat(np.arange(len(texts)), counts)
    place = np.concatenate([np.empty(0, np.int64), *map(np.arange, counts)])
    order = np.argsort(hashes, kind="stable")
    return hashes[order], owner[order], place[order]


def _matches(
    document: Document, hashes: np.ndarray, owner: np.ndarray, place: np.ndarray
) -> list[tuple[int, int, int]]:
    """(question, characters, start in it) of the longest run that each shares with a document."""
    windows = ngram_hashes(_plain(document.readable()), SHORTEST)
    low, high = (np.searchsorted(hashes, windows, side) for side in ("left", "right"))
    hits = defaultdict(list)  # (question, where the question would begin): places in the question
    for at in np.flatnonzero(high > low):
        for entry in range(low[at], high[at]):
            hits[owner[entry], at - place[entry]].append(int(place[entry]))
    best: dict[int, tuple[int, int]] = {}
    for (question, _), places in hits.items():
        runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
        run = max(runs, key=len)
        found = len(run) + SHORTEST - 1, int(run[0])
        best[int(question)] = max(best.get(int(question), (0, 0)), found)
    return [(question, *found) for question, found in best.items()]
