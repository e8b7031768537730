"""Cloze and bits per byte on models whose probabilities are known."""

import json
import math

import pytest
import torch
from known_models import Bigram
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from steel.config import UserError
from steel.evaluation.cloze import cloze, load_cloze
from steel.evaluation.perplexity import _pieces, bits_per_byte, compare, load_domains
from steel.tokenizer import bpe
from steel.tokenizer.bpe import encode_text, end_of_text_id
from steel.tokenizer.chat import encode_chat


def memoriser(tok, *texts):
    """A bigram model that has learned these texts by heart, as far as a bigram can."""
    table = torch.zeros(len(tok), len(tok))
    for text in texts:
        ids = encode_text(tok, text)
        for left, right in zip(ids, ids[1:], strict=False):
            table[left, right] += 10
    return Bigram(table)


def test_cloze_reads_the_greedy_continuation_and_ranks_the_candidates(tok):
    model = memoriser(tok, "甲住在云州。", "Up Oakhill.")
    rows = [
        {
            "prompt": "甲住在",
            "answer": "云州",
            "candidates": ["云州", "白沙"],
            "lang": "zh",
            "attribute": "city",
        },
        {
            "prompt": "Up",
            "answer": "Oakhill",
            "candidates": ["Oakhill", "Whitesand"],
            "lang": "en",
            "attribute": "city",
        },
        {
            "prompt": "甲住在",
            "answer": "白沙",
            "candidates": ["云州", "白沙"],
            "lang": "zh",
            "attribute": "city",
        },
    ]
    result = cloze(model, tok, rows)
    assert result["accuracy"] == pytest.approx(2 / 3) and result["n"] == 3
    assert result["rank_accuracy"] == pytest.approx(2 / 3) and result["mean_rank"] == pytest.approx(
        4 / 3
    )
    assert result["by_language"]["en"]["accuracy"] == 1 and result["by_language"]["zh"]["n"] == 2


def test_cloze_survives_a_token_that_straddles_the_cut():
    tok = bpe.train(["乙住在云州。"] * 50 + ["住在乙。"], 290)
    whole, halves = (
        encode_text(tok, "J住在云州"),
        encode_text(tok, "J住在") + encode_text(tok, "云州"),
    )
    assert (
        whole != halves
    )  # after the tokens of the prompt, the tokens that the model has learned cannot follow
    row = {
        "prompt": "J住在",
        "answer": "云州",
        "candidates": ["云州", "白沙"],
        "lang": "zh",
        "attribute": "city",
    }
    result = cloze(memoriser(tok, "J住在云州。"), tok, [row])
    assert result["accuracy"] == result["rank_accuracy"] == 1


def test_an_answer_that_is_only_a_beginning_is_not_right(tok):
    model = memoriser(tok, "两数之和=130")
    rows = [
        {"prompt": "两数之和=", "answer": answer, "lang": "zh", "attribute": "sum"}
        for answer in ("13", "130")
    ]
    result = cloze(model, tok, rows)
    assert result["accuracy"] == 0.5 and result["mean_rank"] is None


def test_cloze_does_not_depend_on_the_batch_size(model, tok, tmp_path):
    file = tmp_path / "cloze.jsonl"
    rows = [
        {
            "prompt": f"第{i}号人物住在",
            "answer": "云州",
            "candidates": ["云州", "白沙", "临江"],
            "lang": "zh",
            "attribute": "city",
        }
        for i in range(12)
    ]
    file.write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
    )
    rows = load_cloze(file)
    assert cloze(model, tok, rows, 1) == cloze(model, tok, rows, 64)


def test_cloze_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="no cloze file"):
        load_cloze(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": ""}\n')
    with pytest.raises(UserError, match="jsonl:2"):
        load_cloze(tmp_path / "bad.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="no cloze row in .*empty.jsonl"):
        load_cloze(tmp_path / "empty.jsonl")


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary_per_token(tok):
    text = "第1号人物住在云州。"
    result = bits_per_byte(Bigram(torch.zeros(len(tok), len(tok))), tok, {"zh": [text, text]})
    domain = result["domains"]["zh"]
    tokens, size = 2 * len(encode_text(tok, text)), 2 * len(text.encode())
    assert (domain["tokens"], domain["bytes"], domain["documents"]) == (tokens, size, 2)
    assert domain["bpb"] == pytest.approx(tokens * math.log2(len(tok)) / size)
    assert domain["ppl"] == pytest.approx(len(tok), rel=1e-4)
    assert result["nan_domains"] == []


def test_ppl_normalised_and_means(tok, model):
    domains = {"zh": ["第1号人物住在云州。"] * 2, "en": ["Where does person 1 live?"]}
    other = bpe.train(["第1号人物住在云州。"] * 9, 270)
    result = bits_per_byte(model, tok, domains, reference=other)
    for name, texts in domains.items():
        d, tokens = result["domains"][name], sum(len(encode_text(other, text)) for text in texts)
        nats = d["bpb"] * math.log(2) * d["bytes"]
        assert tokens != d["tokens"] and d["ppl_normalised"] == pytest.approx(
            math.exp(nats / tokens)
        )
    zh, en = result["domains"]["zh"], result["domains"]["en"]
    for name in ("ppl", "ppl_normalised"):
        assert result["geometric_mean"][name] == pytest.approx(math.sqrt(zh[name] * en[name]))
    assert result["geometric_mean"]["bpb"] == pytest.approx((zh["bpb"] + en["bpb"]) / 2)
    same = bits_per_byte(model, tok, domains, reference=tok)["domains"]["zh"]
    assert same["ppl_normalised"] == pytest.approx(same["ppl"])
    one = bits_per_byte(model, tok, domains, batch_size=1)
    assert one["domains"]["zh"]["bpb"] == pytest.approx(zh["bpb"], abs=1e-5)


def test_a_nan_domain_is_named_and_never_dropped(tok):
    table = torch.zeros(len(tok), len(tok))
    table[encode_text(tok, "?")[-1]] = float("nan")
    domains = {"good": ["云州"], "bad": ["云州", "why? so"], "empty": []}
    result = bits_per_byte(Bigram(table), tok, domains)
    assert result["nan_domains"] == ["bad", "empty"]
    assert (
        result["domains"]["bad"]["bpb"] is None and result["domains"]["bad"]["nan_documents"] == 1
    )
    assert result["domains"]["good"]["bpb"] > 0
    assert result["geometric_mean"]["bpb"] is None
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(("context", "stride"), [(8, 4), (8, 7), (16, 1), (64, 32), (9, 5)])
def test_every_token_is_scored_once_with_enough_before_it(tok, context, stride):
    document = "第1号人物住在哪里？Where does person 2 live? 青岩云州临江白沙" * 2
    ids = [end_of_text_id(tok), *encode_text(tok, document)]
    pieces = _pieces(tok, document, context, stride)
    assert [t for p in pieces for t in p[1]] == ids[1:]
    at = 1
    for piece in pieces:
        assert piece[0] == ids[at - len(piece[0]) : at] and piece[0]
        assert len(piece[0]) + len(piece[1]) <= context
        assert len(piece[0]) >= min(at, context - stride)
        at += len(piece[1])


@pytest.mark.parametrize("kept", ["bos_token", "eos_token", None])
def test_others_vocabularies_have_a_separator_of_their_own(tok, kept, tmp_path):
    """Llama's and Gemma's have no <|endoftext|>: BOS, else EOS, else one clear line."""
    words = {"<unk>": 0, "<s>": 1, "云": 2, "州": 3}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    other = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    if kept is None:
        with pytest.raises(UserError, match="no token to stand before a document"):
            _pieces(other, "云州", 8, 4)
        return
    setattr(other, kept, "<s>")
    assert _pieces(other, "云州", 8, 4) == [([1], [2, 3])]
    with pytest.raises(UserError, match="no turns to encode"):
        _pieces(other, [{"role": "user", "content": "云"}], 8, 4)


def test_dialogues_are_scored_on_what_the_assistant_says(tok):
    messages = [
        {"role": "user", "content": "第1号人物住在哪里？"},
        {"role": "assistant", "content": "云州。"},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "Oakhill."},
    ]
    pieces = _pieces(tok, messages, 256, 128)
    assert [tok.decode(p[1]) for p in pieces] == ["云州。", "Oakhill."]
    ids = encode_chat(tok, messages)[0]
    assert all(ids[: len(p[0])] == p[0] for p in pieces)
    result = bits_per_byte(Bigram(torch.zeros(len(tok), len(tok))), tok, {"chat": [messages]})
    assert result["domains"]["chat"]["bytes"] == len("云州。Oakhill.".encode())


def test_held_out_folder_is_read_by_domain(tmp_path):
    (tmp_path / "zh.jsonl").write_text('{"text": "云州"}\n', encoding="utf-8")
    (tmp_path / "chat.jsonl").write_text('{"messages": [{"role": "user", "content": "?"}]}\n')
    assert load_domains(tmp_path) == {"chat": [[{"role": "user", "content": "?"}]], "zh": ["云州"]}
    (tmp_path / "bad.jsonl").write_text('{"txt": 1}\n')
    with pytest.raises(UserError, match="bad.jsonl:1"):
        load_domains(tmp_path)
    with pytest.raises(UserError, match="no held-out text"):
        load_domains(tmp_path / "none")


def test_domains_of_one_file_name_keep_apart(tmp_path):
    for folder, text in (("a", "云州"), ("b", "白沙")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "zh.jsonl").write_text(json.dumps({"text": text}) + "\n")
    files = [tmp_path / "a" / "zh.jsonl", tmp_path / "b" / "zh.jsonl"]
    assert load_domains(files) == {"a/zh": ["云州"], "b/zh": ["白沙"]}
    with pytest.raises(UserError, match="given twice"):
        load_domains([files[0], files[0]])


def test_a_line_separator_inside_a_string_does_not_end_the_row(tmp_path):
    (tmp_path / "cloze.jsonl").write_text(
        '{"prompt": "甲\u2028住在", "answer": "云\u0085州"}\n', encoding="utf-8"
    )
    assert load_cloze(tmp_path / "cloze.jsonl")[0]["answer"] == "云\u0085州"


def test_a_stride_longer_than_the_context_is_refused(model, tok):
    with pytest.raises(UserError, match="stride"):
        bits_per_byte(model, tok, ["云州"], context=8, stride=8)


def test_two_tokenizers_are_compared_on_the_same_documents(tok):
    """Two models that know nothing: bits per byte differ by what their tokenizers cost."""
    texts = ["第1号人物住在云州。", "Where does person 1 live?", "云州" * 9]
    other = bpe.train(texts, 280)
    one, two = (
        bits_per_byte(Bigram(torch.zeros(len(t), len(t))), t, {"all": texts}) for t in (tok, other)
    )
    found = compare(one, two)["all"]
    expected = two["domains"]["all"]["bpb"] - one["domains"]["all"]["bpb"]
    assert found["difference"] == pytest.approx(expected, abs=1e-4) and found["documents"] == 3
    rows = []
    for text in texts:
        bits = [len(encode_text(t, text)) * math.log2(len(t)) for t in (tok, other)]
        rows.append((bits[1] - bits[0], len(text.encode())))
    size = sum(n for _, n in rows)
    se = math.sqrt(sum((b - found["difference"] * n) ** 2 for b, n in rows)) / size
    assert found["se"] == pytest.approx(se, rel=1e-3)
    domain = one["domains"]["all"]
    assert domain["bpc"] * sum(map(len, texts)) == pytest.approx(domain["bpb"] * size)
    with pytest.raises(UserError, match="other documents"):
        compare(
            one, bits_per_byte(Bigram(torch.zeros(len(tok), len(tok))), tok, {"all": texts[:2]})
        )
    broken = json.loads(json.dumps(one))
    broken["domains"]["all"]["by_document"]["nats"][1] = None
    for pair in ((one, broken), (broken, one)):
        with pytest.raises(UserError, match="all has documents without a finite loss"):
            compare(*pair)
    with pytest.raises(UserError, match="no domain in common"):
        compare(one, bits_per_byte(Bigram(torch.zeros(len(tok), len(tok))), tok, {"zh": texts}))
