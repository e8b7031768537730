"""Exact and near-duplicate removal, within and across sources: the first of equal documents stays.

Exact: equal after NFKC, case folding and removal of white space. Near: MinHash (rensa) over n-grams
of characters (Chinese has no spaces) and of letters and digits only (copies often differ in
punctuation); locality-sensitive hashing in bands (Broder 1997; Leskovec, Rajaraman, Ullman, *Mining
of Massive Datasets*, ch. 3); then the estimated Jaccard similarity must reach the threshold.
SimHash (Charikar 2002; Manku et al. 2007), where a recipe's list ends with
`document_simhash_deduplicator`: fingerprints that differ in few bits; it chains.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..config import UserError, needs
from ..documents import Document
from .operators import make
from .operators.characters import code_points, ngram_hashes, word_table
from .sources import chosen

SEED = 1
SIMHASH = "document_simhash_deduplicator"
_BATCH = 1 << 20  # characters per call of rensa
_WINDOW = 64  # in a bucket of equal bands, a document is compared with the last so many kept


@dataclass(frozen=True)
class Near:
    """threshold: Jaccard similarity from which a document counts as a copy. ngram: characters.
    permutations: length of a signature (4 bytes each). min_chars: documents with fewer letters are
    only compared exactly."""

    threshold: float = 0.75
    ngram: int = 5
    permutations: int = 128
    min_chars: int = 30

    def __post_init__(self) -> None:
        sizes = (self.ngram, self.permutations // 8, self.min_chars)
        if min(sizes) < 1 or not 0 < self.threshold <= 1:
            limits = (
                "a threshold above 0 and at most 1, permutations of 8 or more, others of 1 or more"
            )
            raise UserError(f"dedup: near takes {limits}")


@dataclass(frozen=True)
class Dedup:
    """Which copies go: exact ones, near ones, those of a fingerprint. simhash: by kind or source,
    the parameters of the deduplicator, None where there is none (a source's own entry wins over its
    kind's); documents with equal parameters are compared."""

    exact: bool = True
    near: Near | None = Near()
    simhash: dict[str, dict[str, Any] | None] = field(default_factory=dict)

    def groups(self) -> list[dict[str, Any]]:
        """The different parameters in `simhash`."""
        values = [value for value in self.simhash.values() if value is not None]
        return [value for place, value in enumerate(values) if value not in values[:place]]

    @classmethod
    def of(cls, settings: dict[str, Any], simhash: dict[str, dict | None] | None = None) -> Dedup:
        """From a recipe's `dedup` part; an empty mapping means no deduplication."""
        try:
            near = Near(**settings["near"]) if settings.get("near") else None
        except TypeError as error:
            takes = ", ".join(Near.__match_args__)
            raise UserError(f"dedup: {error}; near takes {takes}") from None
        return cls(bool(settings.get("exact")), near, simhash or {})


NO_DEDUP = Dedup(False, None)


class Pair(NamedTuple):
    """Document `removed` was a copy of `kept` (indices in the order of the keys); exact: 1.0."""

    removed: int
    kept: int
    kind: str
    similarity: float


class Keys(NamedTuple):
    """What deduplication remembers of N documents, of none if nothing is compared: `exact_N2` uint64
    (128-bit hash), `long_N` bool, whether it takes part in near-duplicate search, `signature_MP`
    uint32 of those M that do, `simhash_N` uint64, and `group_N` int16, the group of that fingerprint,
    -1 for none."""

    exact_N2: np.ndarray
    long_N: np.ndarray
    signature_MP: np.ndarray
    simhash_N: np.ndarray
    group_N: np.ndarray


def normalise(text: str) -> str:
    """NFKC, lower case, no white space: what counts as the same text."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def letters(text: str) -> np.ndarray:
    """uint32 code points of letters, Hanzi and digits: copies often differ in punctuation."""
    codes = code_points(text)
    return codes[word_table()[codes]]


def s_curve(similarity: float | np.ndarray, bands: int, rows: int) -> float | np.ndarray:
    """Probability that a pair of this Jaccard similarity agrees in a whole band: 1 - (1 - s^r)^b.

    Such a pair is a candidate. Leskovec, Rajaraman, Ullman, *Mining of Massive Datasets*, §3.4.2.
    """
    return 1 - (1 - similarity**rows) ** bands


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows): the longest rows that find a pair at the threshold with probability 0.99."""
    for rows in range(permutations, 1, -1):
        if s_curve(threshold, permutations // rows, rows) >= 0.99:
            return permutations // rows, rows
    return permutations, 1


def keys(documents: Iterable[Document], settings: Dedup) -> Keys:
    """Hashes and signatures of documents, in order: 27 + 4 P bytes each; `find` takes about twice that."""
    near, fingerprint = settings.near, _fingerprint(settings)
    exact, long, fingerprints = [], [], []
    signatures: list[np.ndarray] = []
    batch: list[np.ndarray] = []
    held = 0
    for document in documents:
        if settings == NO_DEDUP:
            continue
        fingerprints.append(fingerprint(document))
        text = normalise(document.readable()) if settings.exact or near else ""
        roles = "".join(turn["role"][0] for turn in document.messages)
        data = f"{roles}\0{text}".encode("utf-8", "surrogatepass")
        exact.append(hashlib.blake2b(data, digest_size=16).digest())
        codes = letters(text) if near else ()
        long.append(near is not None and len(codes) >= max(near.min_chars, near.ngram))
        if long[-1]:
            batch.append(codes)
            held += len(codes)
            if held > _BATCH:
                signatures.append(_signatures(batch, near))
                batch, held = [], 0
    if batch:
        signatures.append(_signatures(batch, near))
    none = np.zeros((0, near.permutations if near else 0), np.uint32)
    exact_N2 = np.frombuffer(b"".join(exact), "<u8").reshape(-1, 2)
    groups, simhashes = zip(*fingerprints) if fingerprints else ((), ())
    more = np.array(simhashes, np.uint64), np.array(groups, np.int16)
    return Keys(exact_N2, np.array(long, bool), np.concatenate([none, *signatures]), *more)


def _fingerprint(settings: Dedup) -> Callable[[Document], tuple[int, int]]:
    """Document -> (group, SimHash), or (-1, 0) for one that is not compared by it."""
    groups = settings.groups()

    @functools.cache
    def of(source: str, dialogue: bool) -> tuple[int, Callable[[str], int]]:
        parameters = chosen(settings.simhash, source, dialogue)
        if parameters is None:
            return -1, lambda text: 0
        return groups.index(parameters), make({SIMHASH: parameters}).function

    def fingerprint(document: Document) -> tuple[int, int]:
        group, function = of(document.source, bool(document.messages))
        return group, function(document.readable())

    return fingerprint


def _signatures(codes: list[np.ndarray], near: Near) -> np.ndarray:
    """uint32 (documents, permutations). Texts are hashed in one go, less windows that span two."""
    with needs("near-duplicate search", "rensa", "pip install rensa, or set `near: null`"):
        from rensa import RMinHash
    ends = np.cumsum([len(row) for row in codes])
    inside = np.ones(ends[-1], dtype=bool)
    for back in range(1, near.ngram):
        inside[ends - back] = False
    hashes = ngram_hashes(np.concatenate(codes), near.ngram)[inside[: ends[-1] - near.ngram + 1]]
    offsets = np.concatenate([[0], ends - (near.ngram - 1) * np.arange(1, len(codes) + 1)])
    assert offsets[-1] == len(hashes)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets.tolist(), num_perm=near.permutations, seed=SEED
    )
    return np.asarray(matrix.to_rows(), dtype=np.uint32)


def find(all_keys: Keys, settings: Dedup) -> list[Pair]:
    """The copies among documents, in order of the removed one; deterministic.

    A copy of a removed document is not removed for it: near-duplication does not chain.
    """
    pairs: dict[int, Pair] = {}
    if settings.exact:
        first: dict[tuple[int, int], int] = {}
        for place, key in enumerate(map(tuple, all_keys.exact_N2.tolist())):
            kept = first.setdefault(key, place)
            if kept != place:
                pairs[place] = Pair(place, kept, "exact", 1.0)
    if settings.near is not None:
        index_M = np.flatnonzero(all_keys.long_N)
        left_M = ~np.isin(index_M, list(pairs))
        index_M, signature_MP = index_M[left_M].tolist(), all_keys.signature_MP[left_M]
        for later, earlier, similarity in _near(signature_MP, settings.near):
            removed, kept = index_M[later], index_M[earlier]
            pairs[removed] = Pair(removed, kept, "near", round(similarity, 3))
    for group, parameters in enumerate(settings.groups()):
        index_M = np.flatnonzero(all_keys.group_N == group)
        index_M = index_M[~np.isin(index_M, list(pairs))]
        for later, earlier, bits in _similar(all_keys.simhash_N[index_M], parameters):
            removed, kept = index_M[later].item(), index_M[earlier].item()
            pairs[removed] = Pair(removed, kept, SIMHASH, round(1 - bits / 64, 3))
    return [pairs[place] for place in sorted(pairs)]


def _similar(value_M: np.ndarray, parameters: dict[str, Any]) -> Iterator[tuple[int, int, int]]:
    """(later, first of its cluster, bits in which they differ): fingerprints linked by few bits.

    Values within `hamming_distance` bits agree in `num_blocks - hamming_distance` blocks or more:
    for each choice of so many blocks, those that agree in them are compared (Manku et al. 2007).
    """
    blocks, most = parameters.get("num_blocks", 6), parameters.get("hamming_distance", 4)
    value_U, first_U, number_M = np.unique(value_M, return_index=True, return_inverse=True)
    root = list(range(len(value_U)))

    def find_root(place: int) -> int:
        while root[place] != place:
            root[place] = place = root[root[place]]
        return place

    edges = [round(64 * block / blocks) for block in range(blocks + 1)]
    masks = [(1 << high) - (1 << low) for low, high in itertools.pairwise(edges)]
    for chosen_masks in itertools.combinations(masks, blocks - most):
        key_U = value_U & np.uint64(sum(chosen_masks))
        order = np.argsort(key_U, kind="stable")
        start = np.arange(len(order))
        for step in itertools.count(1):
            start = start[start + step < len(order)]
            start = start[key_U[order[start]] == key_U[order[start + step]]]
            if not len(start):
                break
            one, two = order[start], order[start + step]
            near = np.bitwise_count(value_U[one] ^ value_U[two]) <= most
            for a, b in zip(one[near].tolist(), two[near].tolist(), strict=True):
                a, b = sorted((find_root(a), find_root(b)), key=lambda place: first_U[place])
                root[b] = a  # the root of a cluster is the value that stood first
    for place, number in enumerate(number_M.tolist()):
        earlier = int(first_U[find_root(number)])
        if earlier != place:
            yield place, earlier, int(np.bitwise_count(value_M[place] ^ value_M[earlier]))


def _near(signature_MP: np.ndarray, near: Near) -> Iterator[tuple[int, int, float]]:
    """(later, earlier, estimated similarity) of every near copy, in one pass in document order.

    A document is compared with those kept before it that share a band, in each band with the last
    `_WINDOW`; a removed one enters no bucket, so a crowd of copies never hides its first.
    """
    buckets_MB = _buckets(signature_MP, near)
    kept: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place in np.flatnonzero((buckets_MB >= 0).any(axis=1)).tolist():
        own = [kept[key] for key in enumerate(buckets_MB[place].tolist()) if key[1] >= 0]
        before = sorted({earlier for bucket in own for earlier in bucket[-_WINDOW:]})
        similarity = (signature_MP[before] == signature_MP[place]).mean(axis=1)
        similar = np.flatnonzero(similarity >= near.threshold)
        if len(similar):
            yield place, before[similar[0]], float(similarity[similar[0]])
        else:
            for bucket in own:
                bucket.append(place)


def _buckets(signature_MP: np.ndarray, near: Near) -> np.ndarray:
    """int32 (M, bands): documents with equal rows of a band share a number; -1 for one alone."""
    count, rows = bands(near.threshold, near.permutations)
    buckets_MB = np.empty((len(signature_MP), count), np.int32)
    for band in range(count):
        key_M = np.zeros(len(signature_MP), np.uint64)  # a hash will do: every pair is verified
        for column in range(band * rows, (band + 1) * rows):
            key_M = key_M * np.uint64(0x9E3779B97F4A7C15) + signature_MP[:, column]
        _, number_M, size = np.unique(key_M, return_inverse=True, return_counts=True)
        buckets_MB[:, band] = np.where(size[number_M] > 1, number_M, -1)
    return buckets_MB
