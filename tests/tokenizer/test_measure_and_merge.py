"""Vocabularies measured as HammerLLM measures them, and joined without a text growing longer."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.config import ModelConfig, UserError
from steel.documents import Document, write_documents
from steel.model import build
from steel.tokenizer import bpe, measure
from steel.tokenizer.merge import extend_embeddings, merge

ZH = ["钢铁是怎样炼成的", "云州的清晨很安静，林晓月走过石桥。", "他说：“明天再来。”"] * 20
EN = ["The furnace was cold in the morning.", "Steel is iron with a little carbon."] * 20


@pytest.fixture(scope="module")
def base():
    return bpe.train(EN, 300)


@pytest.fixture(scope="module")
def other():
    return bpe.train(ZH + EN, 420)


def test_the_national_table_has_its_three_levels():
    levels = measure.hanzi()
    assert {name: len(text) for name, text in levels.items()} == {
        "FCC": 3500,
        "SCC": 3000,
        "TCC": 1605,
    }
    assert len(set("".join(levels.values()))) == 8105
    assert levels["FCC"][:3] == "一乙二" and "钢" in levels["FCC"] and "仉" in levels["SCC"]


def test_coverage_counts_exactly_the_hanzi_that_are_one_token(base, other, tmp_path):
    assert set(measure.coverage(base).values()) == {0.0}
    some = measure.hanzi()["FCC"][:35]
    merged, _ = merge(base, tmp_path / "m", characters=some)
    assert measure.coverage(merged) == {"FCC": 35 / 3500, "SCC": 0, "TCC": 0}
    for second in (None, other):  # of which some spell a Hanzi half
        whole, _ = merge(base, tmp_path / "all", second, "".join(measure.hanzi().values()))
        assert set(measure.coverage(whole).values()) == {1.0}


@pytest.mark.skipif("STEEL_REAL_DATA" not in os.environ, reason="needs the real tokenizer")
def test_qwen_holds_every_hanzi_as_hammerllm_says_and_fills_up_ours(base, tmp_path):
    qwen = bpe.load(Path(os.environ["STEEL_REAL_DATA"]) / "tokenizer" / "qwen1.5")
    assert set(measure.coverage(qwen).values()) == {1.0}
    merged, _ = merge(base, tmp_path / "m", qwen)
    assert measure.coverage(merged)["FCC"] > 0.98
    assert measure.measure(merged, ZH, qwen)["compared"] == pytest.approx(1, abs=0.1)


def test_report_adds_up_and_names_what_is_torn_or_in_pieces(base, other, tmp_path):
    write_documents(
        tmp_path / "zh.jsonl.zst", (Document(f"z{i}", t, "zh") for i, t in enumerate(ZH))
    )
    write_documents(
        tmp_path / "en.jsonl.zst", (Document(f"e{i}", t, "en") for i, t in enumerate(EN))
    )
    found = measure.report(base, tmp_path, reference=other)
    zh, en, both = found["sources"]["zh"], found["sources"]["en"], found["all"]
    assert zh["bytes"] == sum(len(t.encode()) for t in ZH) and zh["torn"] == en["torn"] == 0
    assert both["tokens"] == zh["tokens"] + en["tokens"]
    assert zh["bytes_per_token"] == 1 and zh["fragments"] > 0.9 and en["fragments"] == 0
    assert zh["per_hanzi"] == 3 and zh["per_word"] is None and en["per_hanzi"] is None
    assert zh["compared"] > 1.5 and measure.measure(other, ZH, other)["compared"] == 1
    assert measure.measure(base, ZH)["compared"] is None


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.sampled_from("钢铁云州的 林Steel iron.,，。\n12氽𠙶é"), max_size=60))
def test_a_merged_vocabulary_never_needs_more_tokens_and_loses_nothing(text, joined):
    base, merged = joined
    ids = bpe.encode_text(merged, text)
    assert len(ids) <= len(bpe.encode_text(base, text))
    assert merged.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.fixture(scope="module")
def joined(base, other, tmp_path_factory):
    merged, _ = merge(base, tmp_path_factory.mktemp("m") / "t", other, "氽𠙶")
    return base, merged


def test_the_base_keeps_its_ids_and_special_tokens(joined, other):
    base, merged = joined
    old, new = base.get_vocab(), merged.get_vocab()
    assert all(new[token] == i for token, i in old.items())
    assert sorted(new.values()) == list(range(len(merged))) and len(merged) > len(base)
    assert bpe.encode_text(merged, "<|im_end|>") != [2] and merged.eos_token_id == 2
    assert len(bpe.encode_text(merged, "钢铁")) == len(bpe.encode_text(other, "钢铁"))


def test_every_added_entry_can_occur(base, tmp_path):
    crossing = bpe.train(["a, b, c, d, "] * 50, 262)  # its pieces are cut as the base's are
    merged, spelled = merge(base, tmp_path / "m", crossing)
    assert len(spelled) == len(merged) - len(base)
    for entry in range(len(base), len(merged)):
        text = merged.decode([entry])
        assert "\ufffd" in text or entry in bpe.encode_text(merged, text)


@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_are_the_mean_of_the_rows_that_spelled_them(base, other, tied, tmp_path):
    merged, spelled = merge(base, tmp_path / "m", other)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": tied}
    model = build(ModelConfig(vocab_size=len(base), **shape, **heads), seed=0)
    before = model.get_input_embeddings().weight.detach().clone()
    extend_embeddings(model, spelled, len(merged))
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert table.weight.shape == (len(merged), 16)
    after = model.get_input_embeddings().weight
    assert (after[: len(base)] == before).all()
    for row, ids in enumerate(spelled, start=len(base)):
        assert after[row].allclose(before[ids].mean(0), atol=1e-7) and len(ids) > 1
    assert model.config.vocab_size == len(merged)
    assert (model.get_output_embeddings().weight is after) == tied


def test_what_is_no_byte_level_bpe_is_refused_in_one_line(base, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(UserError, match="byte-level BPE"):
        merge(base, tmp_path / "m", PreTrainedTokenizerFast(tokenizer_object=words))
    assert not (tmp_path / "m").exists()


def test_the_commands_extend_a_saved_model_that_opens_again(base, tmp_path, capsys):
    from steel.cli import main
    from steel.model.folder import open_model, save_model

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = build(ModelConfig(vocab_size=len(base), **shape, **heads), seed=0)
    save_model(tmp_path / "hf", model, tokenizer=base)
    for words in (
        f"merge {tmp_path}/hf {tmp_path}/more --hanzi FCC",
        f"coverage {tmp_path}/more {tmp_path}/hf",
    ):
        with pytest.raises(SystemExit) as stop:
            main(["tokenizer", *words.split()])
        assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "FCC 100.00%  SCC 0.00%" in said and "FCC 0.00%" in said
    larger, tokenizer = open_model(tmp_path / "more", device="cpu")
    assert larger.config.vocab_size == len(tokenizer) > 3500
    forgotten = f"merge {tmp_path}/hf {tmp_path}/more --hanzi SCC"  # would write over `more`
    for words in (
        f"merge {tmp_path}/hf {tmp_path}/out",
        f"merge {tmp_path}/hf out --hanzi XCC",
        forgotten,
    ):
        with pytest.raises(SystemExit) as stop:
            main(["tokenizer", *words.split()])
        assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
