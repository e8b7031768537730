import io
import sys
from random import Random

import pytest

from steel.config import UserError
from steel.model.decoding import Sampling
from steel.serve import chat as room
from steel.serve.generate import complete, fit_prompt, spell, stream
from steel.tokenizer.chat import encode_chat

HELLO = [{"role": "user", "content": "你好"}]


def test_pieces_join_to_the_answer_and_show_no_broken_character(served):
    model, tokenizer = served
    answers = []
    for seed in range(6):
        sampling = Sampling(temperature=1.5, top_p=1.0, max_new_tokens=30, seed=seed)
        pieces = list(stream(model, tokenizer, HELLO, sampling))
        answers.append("".join(pieces))
        assert answers[-1] == complete(model, tokenizer, HELLO, sampling) and all(pieces)
    assert len(set(answers)) > 4
    ids = tokenizer.encode("世界 hello\n好的\n🙂", add_special_tokens=False)
    pieces = list(spell(tokenizer, ids))
    assert "".join(pieces) == "世界 hello\n好的\n🙂" and not any("\ufffd" in p for p in pieces)
    assert "".join(spell(tokenizer, ids[:-1])).endswith("\ufffd")  # what was held back, as it is


@pytest.mark.parametrize("text", ["世界 hello\n好的🙂 é", "\ufffd 世\ufffd", "界" * 5])
def test_a_character_is_sent_with_its_last_byte_and_what_never_becomes_one_is_not_lost(text):
    """Every way to cut the bytes, and bytes that are no text."""

    class Bytes:
        def decode(self, ids, **options):
            return bytes(ids).decode(errors="replace")

    for raw in (
        text.encode(),
        b"\x9f" + text.encode() + b"\xe4\xb8",
        b"\xf0\x9f\xe4\xb8\x96\xff" * 2,
    ):
        pieces = list(spell(Bytes(), raw))
        assert "".join(pieces) == raw.decode(errors="replace") and len(pieces) == len(raw) + 1
        if raw == text.encode() and "\ufffd" not in text:
            sent = 0
            for n, piece in enumerate(pieces[:-1], 1):
                sent += len(piece)
                assert sent == len(raw[:n].decode(errors="ignore"))


def test_greedy_answer_equals_generate(served):
    import torch

    model, tokenizer = served
    prompt = encode_chat(tokenizer, HELLO, add_generation_prompt=True)[0]
    ids = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=[2, 0],
        pad_token_id=0,
    )
    expected = tokenizer.decode([i for i in ids[0, len(prompt) :].tolist() if i not in (0, 2)])
    assert (
        complete(model, tokenizer, HELLO, Sampling(temperature=0.0, max_new_tokens=12)) == expected
    )


def test_the_oldest_rounds_go_first_and_the_system_turn_stays(served):
    model, tokenizer = served
    system = [{"role": "system", "content": "S"}]
    rounds = [
        turn
        for i in range(9)
        for turn in ({"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"})
    ]
    ids = fit_prompt(model, tokenizer, [*system, *rounds, {"role": "user", "content": "last"}], 30)
    text = tokenizer.decode(ids)
    assert len(ids) <= 96 - 30 and "last" in text and "system\nS" in text and "q0" not in text
    with pytest.raises(UserError, match="tokens long"):
        fit_prompt(model, tokenizer, [{"role": "user", "content": "长" * 200}], 8)


def dropped_again_and_again(model, tokenizer, messages: list[dict], room: int) -> list[int] | None:
    """`fit_prompt` without a thought of time: encode all, drop a round, encode all again."""
    limit = model.config.max_position_embeddings
    head = [m for m in messages[:1] if m["role"] == "system"]
    rounds = messages[len(head) :]
    while True:
        ids = encode_chat(tokenizer, head + rounds, add_generation_prompt=True)[0]
        if len(ids) + min(room, limit // 2) <= limit:
            return ids
        if len(rounds) <= 2:
            return None
        rounds = rounds[2:]


def test_the_same_rounds_are_kept_as_when_all_is_encoded_for_each_that_goes(served):
    draw = Random(5)
    for _ in range(300):
        turns = [
            {"role": role, "content": "你好 w<|im_end|>\n"[: draw.randrange(12)]}
            for role in ["user", "assistant"] * draw.randrange(8)
        ]
        turns += draw.choice(([], [{"role": "user", "content": "长" * draw.randrange(20)}]))
        messages = draw.choice(([], [{"role": "system", "content": "S"}])) + turns
        if not messages:
            continue
        room = draw.randrange(1, 80)
        expected = dropped_again_and_again(*served, messages, room)
        if expected is None:
            with pytest.raises(UserError, match="tokens long"):
                fit_prompt(*served, messages, room)
        else:
            assert fit_prompt(*served, messages, room) == expected


def test_of_a_long_dialogue_only_what_fits_is_encoded(served, monkeypatch):
    encoded = []

    def counted(tokenizer, messages, **more):
        encoded.extend(messages)
        return encode_chat(tokenizer, messages, **more)

    monkeypatch.setattr("steel.serve.generate.encode_chat", counted)
    turns = [{"role": role, "content": "好"} for role in ["user", "assistant"] * 2000]
    ids = fit_prompt(*served, [*turns, {"role": "user", "content": "last"}], 30)
    kept = ids.count(served[1].convert_tokens_to_ids("<|im_end|>"))
    assert kept > 1 and len(encoded) == kept + 2  # and the round that did not fit


def test_a_session_remembers(served):
    session = room.Session(*served, Sampling(max_new_tokens=4))
    session.answer("你好")
    session.answer("再见")
    assert [m["role"] for m in session.messages] == ["user", "assistant"] * 2


def test_one_shot_pipe_and_commands(folder, monkeypatch, capsys):
    five = Sampling(0.7, 0.9, max_new_tokens=5)
    room.chat(folder, "你好", five)
    once = capsys.readouterr().out
    assert once.endswith("\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("你好\n\n/reset\n你好\n/exit\n你好\n"))
    room.chat(folder, sampling=five)
    assert capsys.readouterr().out == once * 2  # /reset forgets, /exit leaves before the third


def test_a_wrong_folder_or_setting_is_one_line_for_the_user(tmp_path, folder):
    with pytest.raises(UserError, match="not a model folder"):
        room.chat(tmp_path, prompt="?")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="did you mean"):
        room.chat(tmp_path, prompt="?")
    with pytest.raises(UserError, match="is damaged|no tokenizer"):
        room.chat(tmp_path / "hf", prompt="?")
    (tmp_path / "hf" / "config.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        room.chat(tmp_path / "hf", prompt="?")
    for bad in ({"temperature": -1}, {"top_p": 0}, {"max_new_tokens": 0}):
        with pytest.raises(UserError):
            room.chat(folder, "?", Sampling(**bad))
