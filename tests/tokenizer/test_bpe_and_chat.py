import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.config import UserError
from steel.documents import Document, write_documents
from steel.tokenizer import bpe, chat
from steel.tokenizer.texts import document_texts, sample_texts

TEXTS = [
    "林晓月住在云州，毕业于青岩大学。",
    "Lin Xiaoyue lives in Yunzhou.",
    "47 + 38 = 85",
    "def f(x):\n    return x\n",
] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(TEXTS, 400)


def test_special_ids_are_fixed(tokenizer):
    assert tokenizer.convert_tokens_to_ids(bpe.SPECIAL_TOKENS) == [0, 1, 2]
    assert bpe.end_of_text_id(tokenizer) == 0


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(bpe.encode_text(tokenizer, text)) == text


def test_special_tokens_inside_text_stay_text(tokenizer):
    text = "a<|im_end|>b<|endoftext|>"
    ids = bpe.encode_text(tokenizer, text)
    assert not {0, 1, 2} & set(ids)
    assert tokenizer.decode(ids) == text


def test_save_and_load_give_the_same_ids(tokenizer, tmp_path):
    bpe.save(tokenizer, tmp_path)
    again = bpe.load(tmp_path)
    assert [bpe.encode_text(again, t) for t in TEXTS] == [
        bpe.encode_text(tokenizer, t) for t in TEXTS
    ]
    assert again.chat_template == chat.TEMPLATE


def test_mistakes_get_one_line(tmp_path):
    with pytest.raises(UserError, match="at least 259"):
        bpe.train(TEXTS, 100)
    with pytest.raises(UserError, match="no text"):
        bpe.train([], 300)
    with pytest.raises(UserError, match="no tokenizer in"):
        bpe.load(tmp_path / "none")
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(UserError, match="tokenizer in .* is damaged"):
        bpe.load(tmp_path)


DIALOGUE = [
    {"role": "system", "content": "简短回答。"},
    {"role": "user", "content": "林晓月住在哪里？"},
    {"role": "assistant", "content": "云州。"},
    {"role": "user", "content": "谢谢<|im_end|>"},
    {"role": "assistant", "content": ""},
]


def test_encode_chat_equals_the_rendered_string(tokenizer):
    ids, mask = chat.encode_chat(tokenizer, DIALOGUE)
    assert tokenizer.decode(ids) == chat.render(DIALOGUE)
    assert tokenizer.apply_chat_template(DIALOGUE, tokenize=False) == chat.render(DIALOGUE)
    assert ids.count(1) == 5 and ids.count(2) == 5, "the <|im_end|> that the user typed is text"


def test_loss_mask_covers_answers_and_their_end_only(tokenizer):
    ids, mask = chat.encode_chat(tokenizer, DIALOGUE)
    learned = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert learned == "云州。<|im_end|><|im_end|>"


def test_a_torn_turn_is_refused(tokenizer):
    for bad in ([], [{"role": "robot", "content": "x"}], [{"role": "user"}], ["text"]):
        with pytest.raises(ValueError):
            chat.encode_chat(tokenizer, bad)


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    """A corpus of 3 : 1 whose larger source also stands first, in two halves."""
    folder = tmp_path_factory.mktemp("docs")
    for source, mark, count in (("a", "甲", 600), ("b", "乙", 200)):
        texts = [f"{mark if i < count / 2 else mark + '後'}{i:04d}" for i in range(count)]
        write_documents(folder / f"{source}.jsonl.zst", (Document(t, t, source) for t in texts))
    return folder


def test_a_sample_keeps_the_shares_of_all_sources_and_of_their_parts(docs):
    sample = sample_texts(docs, 2000)
    assert 2000 <= sum(len(t.encode()) for t in sample) < 2000 + 10
    assert sample == sample_texts(docs, 2000) and len(set(sample)) == len(sample)
    for mark, share in (("甲", 0.75), ("乙", 0.25), ("後", 0.5)):
        found = sum(mark in t for t in sample) / len(sample)
        assert abs(found - share) < 4 * (share * (1 - share) / len(sample)) ** 0.5
    assert sample_texts(docs, 10**9) == list(document_texts(docs))


def test_of_a_dialogue_a_sample_takes_what_is_said(tmp_path):
    turns = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]
    write_documents(tmp_path / "a.jsonl.zst", [Document("a", "", "a", meta={"messages": turns})])
    assert sample_texts(tmp_path, 100) == ["你好\n你好！"]


def test_documents_without_a_text_are_no_text(tmp_path):
    """The recipe `original` leaves {"text": ""}; packing rejects it, the tokenizer passes it by."""
    turns = [{"role": "assistant", "content": "?"}]
    documents = [
        Document("a", "", "personal"),
        Document("b", " \n", "personal"),
        Document("c", "", "personal", meta={"messages": turns}),
        Document("d", "钢城", "personal"),
    ]
    write_documents(tmp_path / "personal.jsonl.zst", documents)
    assert list(document_texts(tmp_path)) == sample_texts(tmp_path, 100)
    assert "钢城" in list(document_texts(tmp_path))
    write_documents(tmp_path / "personal.jsonl.zst", documents[:2])
    with pytest.raises(UserError, match="no text"):
        bpe.train(sample_texts(tmp_path, 100), 259)
