import random
import tracemalloc

import numpy as np
import pytest

from steel.config import UserError
from steel.corpus.dedup import Dedup, Keys, Near, bands, find, keys, letters, normalise
from steel.documents import Document

SETTINGS = Dedup(True, Near(threshold=0.75, ngram=5, permutations=128, min_chars=30))
COMMON = "".join(map(chr, range(0x4E00, 0x4E00 + 800)))


def text(rng: random.Random, size: int = 200) -> str:
    return "".join(rng.choices(COMMON, k=size))


def documents(texts):
    return [Document(str(i), t, "skypile") for i, t in enumerate(texts)]


def removed(texts, settings=SETTINGS):
    docs = documents(texts)
    return {p.removed: (p.kept, p.kind) for p in find(keys(docs, settings), settings)}


def test_exact_copies_differ_in_width_case_and_space_only():
    texts = ["Hello，世界", "hello, 世 界", "Hello 世界", "12+3", "12-3"]
    assert removed(texts) == {1: (0, "exact")}
    assert normalise("Ａ b\n") == "ab"


def test_near_copies_are_found_and_different_texts_are_kept():
    rng = random.Random(0)
    originals = [text(rng) for _ in range(150)]
    copies = [t[:90] + "，改动" + t[92:] + "（转载）" for t in originals[:50]]
    found = removed(originals + copies)
    assert set(found) == set(range(150, 200)) and all(
        found[150 + i] == (i, "near") for i in range(50)
    )


def test_punctuation_does_not_hide_a_copy_but_exactness_respects_it():
    sentence = "今天早上电车晚点了十分钟，学生们在站台上看书；图书馆九点开门，河面上的雾还没有散，面包房已经亮灯。"
    assert removed([sentence, sentence.replace("，", "！").replace("；", "——")]) == {1: (0, "near")}
    assert len(letters("a，b 1。字")) == 4


def test_the_first_stays_and_near_copies_do_not_chain():
    rng = random.Random(1)
    a = text(rng, 400)
    b = a[:-40] + text(rng, 40)
    c = b[:-80] + text(rng, 80)
    found = removed([a, b, c])
    assert found == {1: (0, "near")}, "c resembles b, which is gone, and resembles a too little"


def test_a_crowd_of_copies_leaves_one():
    """Boilerplate: more copies than a document is compared with."""
    base = text(random.Random(5), 300)
    crowd = [base[:i] + "改" + base[i:] for i in range(300)]
    assert removed(crowd) == dict.fromkeys(range(1, 300), (0, "near"))


def test_short_texts_are_only_compared_exactly():
    assert removed(
        ["一共有十二个苹果在桌上", "一共有十三个苹果在桌上", "一共有十二个苹果在桌上"]
    ) == {2: (0, "exact")}


def test_dialogues_are_compared_with_their_roles():
    turns = [{"role": "user", "content": "一"}, {"role": "assistant", "content": "二"}]
    a = Document("a", "", "moss", "zh", {"messages": turns})
    b = Document("b", "一\n二", "skypile")
    found = find(keys([a, b, a], SETTINGS), SETTINGS)
    assert [(p.removed, p.kept) for p in found] == [(2, 0)]


def test_similarity_is_estimated_within_its_standard_error():
    rng = random.Random(2)
    base = text(rng, 1000)
    for share in (0.3, 0.6, 0.9):
        other = base[: int(1000 * share)] + text(rng, 1000 - int(1000 * share))
        sets = [{t[i : i + 5] for i in range(len(t) - 4)} for t in (base, other)]
        true = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        signature = keys(documents([base, other]), SETTINGS).signature_MP
        estimate = float((signature[0] == signature[1]).mean())
        assert abs(estimate - true) < 4 * np.sqrt(true * (1 - true) / 128) + 0.02


def test_result_does_not_depend_on_batches_and_repeats(monkeypatch):
    rng = random.Random(3)
    texts = [text(rng, 60) for _ in range(40)] * 2
    first = keys(documents(texts), SETTINGS)
    monkeypatch.setattr("steel.corpus.dedup._BATCH", 100)
    again = keys(documents(texts), SETTINGS)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75, 0.9, 1.0])
def test_bands_find_pairs_at_the_threshold(threshold):
    b, r = bands(threshold, 128)
    assert b * r <= 128 and 1 - (1 - threshold**r) ** b >= 0.99


def test_switches_and_wrong_settings():
    assert removed(["甲" * 50, "甲" * 50], Dedup(False, None)) == {}
    assert Dedup.of({}) == Dedup(False, None)
    assert Dedup.of({"exact": True, "near": {"threshold": 0.9}}).near.threshold == 0.9
    for settings in ({"near": {"threshold": 2}}, {"near": {"treshold": 0.5}}):
        with pytest.raises(UserError, match="dedup"):
            Dedup.of(settings)


def test_no_documents_is_no_error():
    assert find(keys([], SETTINGS), SETTINGS) == []


def test_the_search_takes_about_twice_the_memory_of_the_keys():
    rng, size = np.random.default_rng(0), 20_000
    signature_MP = rng.integers(0, 2**32, (size, 128), dtype=np.uint32)
    signature_MP[19::20] = signature_MP[18::20]  # one in twenty is a copy
    number_N = np.arange(size, dtype=np.uint64)
    found = Keys(
        np.stack([number_N, number_N], axis=1),
        np.ones(size, bool),
        signature_MP,
        np.zeros(size, np.uint64),
        np.full(size, -1, np.int16),
    )
    assert sum(part.nbytes for part in found) == size * (27 + 4 * 128)
    tracemalloc.start()
    try:
        assert len(find(found, Dedup())) == size // 20
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 1000 < peak / size < 1250
