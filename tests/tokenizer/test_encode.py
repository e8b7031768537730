"""Many texts at once: the ids of `tokenizers`, whoever computes them."""

import json
import os
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from steel.corpus.pipeline import prepare
from steel.tokenizer import bpe, encode
from steel.tokenizer.texts import document_texts

WORDS = [
    "人工智能",
    "二〇二四年",
    "the cat's tail",
    "they'll",
    "你好，世界",
    "\n \n",
    "。\n\u3000\n",
    "\n\n",
    "\r\n",
]
SIGNS = list(
    "aBsT'\"  \n\r\t\u3000\x0b\u2028\u00a0。，.!(（年々ア가é\u0301\u0e33٠½ⅣßΣʼ’👍\ufe0f\u200d𠀀<|>_⺮〤"
)
SPECIAL = ["<|im_end|>", "<|endoftext|>"]


@pytest.fixture(scope="module")
def trained():
    """A vocabulary with merges among all that is hard."""
    rng = random.Random(1)
    texts = ["".join(rng.choices(WORDS + SIGNS, k=40)) for _ in range(400)]
    return bpe.train(texts, 900)


def both(tokenizer, texts):
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return [ids.tolist() for ids in encode.encoder(core)(texts)], bpe.encode_texts(tokenizer, texts)


def test_ids_of_hard_texts_are_the_same(trained):
    rng = random.Random(2)
    texts = [
        "".join(rng.choices(WORDS + SIGNS + SPECIAL, k=rng.randrange(12))) for _ in range(9000)
    ]
    found, expected = both(trained, texts)
    assert [t for t, a, b in zip(texts, found, expected, strict=True) if a != b] == []


def test_ids_where_a_merge_joins_parts_of_two_characters():
    """Learned inside a run of Hanzi, such a merge would also join what stands on both sides of an edge."""
    rng = random.Random(3)
    signs = [chr(0x4E00 + rng.randrange(5000)) for _ in range(150)]
    kana = [chr(c) for c in range(0x3042, 0x3094)] + list("│─，。、")
    tokenizer = bpe.train(["".join(rng.choices(signs, k=30)) for _ in range(900)], 3000)
    texts = ["".join(rng.choices(signs + kana, k=30)) for _ in range(2000)]
    found, expected = both(tokenizer, texts)
    assert found == expected


def test_ids_where_an_entry_is_of_whole_characters_and_our_cut_divides_it():
    """'re is one piece and may be learned as 'r and e; before another letter 'r is two."""
    tokenizer = bpe.train(["you're we're they're 你好"] * 50, 400)
    assert "'r" in tokenizer.get_vocab()
    texts = ["'rabbit", "中'ra", "you're", "a 'r"]
    found, expected = both(tokenizer, texts)
    assert found == expected


def test_ids_around_every_character_are_the_same(trained):
    every = [chr(c) for c in range(0x10000) if not 0xD800 <= c < 0xE000]
    texts = [f"年{a} a{a}人{a}\n{b}'s" for a, b in zip(every, every[1:], strict=False)]
    found, expected = both(trained, texts)
    assert [t for t, a, b in zip(texts, found, expected, strict=True) if a != b] == []


@pytest.mark.skipif("STEEL_REAL_DATA" not in os.environ, reason="needs the real data")
def test_ids_of_real_pages_are_the_same(tmp_path):
    raw = Path(os.environ["STEEL_REAL_DATA"]) / "raw"
    prepare(raw, tmp_path / "docs")
    texts = list(document_texts(tmp_path / "docs"))
    found, expected = both(bpe.train(texts[::7], 8000), texts)
    assert found == expected


def test_it_is_gigatoken_that_encodes_ours_and_nobody_elses(trained):
    pytest.importorskip("gigatoken")
    content = json.loads(trained.backend_tokenizer.to_str())
    assert encode._gigatoken(json.loads(json.dumps(content))) is not None
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\s+|\S+"}
    assert encode._gigatoken(content) is None


def test_without_the_extra_it_is_the_same(trained, monkeypatch):
    monkeypatch.setattr(encode, "find_spec", lambda name: None)
    found, expected = both(trained, WORDS + SPECIAL + [""])
    assert found == expected
