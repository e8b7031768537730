"""The server over a real socket: OpenAI's shapes, streams of whole characters, mistakes, clients that leave."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from steel.config import UserError
from steel.model.decoding import Sampling, generate
from steel.serve.generate import CHAT, Answer, complete
from steel.serve.server import Server

HELLO = [{"role": "user", "content": "你好"}]
TALK, WRITE = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def server(folder):
    with Server(folder, name="tiny") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server, path: str, body=None, method: str = "", headers=()) -> tuple[int, dict | bytes]:
    """(status, what came): JSON as an object, anything else as bytes."""
    line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    data = body if isinstance(body, (bytes, str)) or body is None else json.dumps(body)
    line.request(method or ("GET" if body is None else "POST"), path, data, dict(headers))
    reply = line.getresponse()
    content = reply.read()
    line.close()
    is_json = reply.headers["Content-Type"] == "application/json"
    return reply.status, json.loads(content) if is_json else content


def events(content: bytes) -> list[dict]:
    """The events of a stream, which has to end as OpenAI's do."""
    parts = content.decode().split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""] and all(p.startswith("data: ") for p in parts[:-1])
    return [json.loads(part[6:]) for part in parts[:-2]]


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(server):
    status, page = ask(server, "/")
    text = page.decode()
    assert status == 200 and text.startswith("<!doctype html>")
    assert not [mark for mark in ("http://", "https://", "innerHTML", "src=") if mark in text]
    assert "prefers-color-scheme: dark" in text and "Noto Sans CJK SC" in text


def test_models_are_listed(server):
    status, page = ask(server, "/v1/models")
    assert status == 200 and page["object"] == "list"
    assert [(m["id"], m["object"]) for m in page["data"]] == [("tiny", "model")]


def test_an_answer_is_the_decoder_s_own_and_its_tokens_are_counted(server, served):
    body = {"messages": HELLO, "temperature": 0, "max_tokens": 12}
    status, page = ask(server, TALK, body)
    choice, usage = page["choices"][0], page["usage"]
    said = complete(*served, HELLO, Sampling(max_new_tokens=12))
    assert status == 200 and page["object"] == "chat.completion" and page["model"] == "tiny"
    assert choice["message"] == {"role": "assistant", "content": said}
    assert choice["finish_reason"] == "length" and usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12
    parts = [{"role": "user", "content": [{"type": "text", "text": part} for part in "你好"]}]
    again = ask(server, TALK, body | {"messages": parts, "max_completion_tokens": 12, "n": 1})
    assert again[1]["choices"] == page["choices"]


def test_seed_and_settings_reach_the_decoder(server, served):
    drawn = {"prompt": "世界", "max_tokens": 20, "temperature": 1.3, "top_p": 0.8, "seed": 7}
    said = ask(server, WRITE, drawn)[1]["choices"][0]["text"]
    ids = served[1].encode("世界")
    sampling = Sampling(1.3, 0.8, max_new_tokens=20, seed=7)
    assert said == "".join(Answer(*served, ids, {0, 2}, sampling))
    assert said == ask(server, WRITE, drawn | {"prompt": ids})[1]["choices"][0]["text"]
    free = {k: v for k, v in drawn.items() if k != "seed"}
    assert len({ask(server, WRITE, free)[1]["choices"][0]["text"] for _ in range(4)}) > 1


@pytest.mark.parametrize("path", [TALK, WRITE])
def test_a_stream_joins_to_the_answer_and_shows_no_half_character(server, path):
    body = {"messages": HELLO, "prompt": "世界", "temperature": 1.5, "top_p": 1, "seed": 5}
    whole = ask(server, path, body | {"max_tokens": 40})[1]
    body |= {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 40}
    found = events(ask(server, path, body)[1])
    *steps, last, usage = found
    assert usage["choices"] == [] and usage["usage"] == whole["usage"]
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    if path == TALK:
        assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert {e["object"] for e in found} == {"chat.completion.chunk"}
        pieces = [e["choices"][0]["delta"]["content"] for e in steps]
        said = whole["choices"][0]["message"]["content"]
    else:
        pieces = [e["choices"][0]["text"] for e in steps]
        said = whole["choices"][0]["text"]
    assert len(pieces) > 5 and "".join(pieces) == said and len({e["id"] for e in found}) == 1
    assert "usage" not in events(ask(server, path, body | {"stream_options": None})[1])[-1]


def test_stop_strings_end_an_answer_and_never_show_even_across_tokens(server, served):
    body = {"prompt": "世界", "max_tokens": 40, "temperature": 1.5, "top_p": 1, "seed": 5}
    whole = ask(server, WRITE, body)[1]["choices"][0]["text"]
    for end in (whole[6:9], whole[-1:]):
        short = whole[: whole.index(end)]
        page = ask(server, WRITE, body | {"stop": [end, "not in it"]})[1]
        assert (page["choices"][0]["text"], page["choices"][0]["finish_reason"]) == (short, "stop")
        stream = events(ask(server, WRITE, body | {"stop": end, "stream": True})[1])
        assert "".join(e["choices"][0]["text"] for e in stream) == short


def test_a_stop_token_ends_an_answer(served):
    model, tokenizer = served
    ids = tokenizer.encode("世界")
    sampling = Sampling(max_new_tokens=8)
    first = generate(model, [ids], set(), sampling)[0].ids[0]
    answer = Answer(model, tokenizer, ids, {first}, sampling)
    assert "".join(answer) == "" and (answer.tokens, answer.finish) == (1, "stop")


def test_an_answer_ends_with_the_context(server):
    page = ask(server, WRITE, {"prompt": [5] * 90, "max_tokens": 50})[1]
    assert page["usage"]["total_tokens"] <= 96
    status, page = ask(server, WRITE, {"prompt": [5] * 96})
    assert status == 400 and page["error"]["code"] == "context_length_exceeded"
    assert ask(server, WRITE, {"prompt": "", "max_tokens": 1})[0] == 200


MISTAKES = [
    (TALK, b"{", 400, "not JSON"),
    (TALK, b"\xff\xfe", 400, "not JSON"),
    (TALK, b'{"temperature": NaN}', 400, "no number"),
    (TALK, b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "surrogates"),
    (TALK, b"[" * 100_000, 400, "not JSON"),
    (TALK, [1], 400, "object"),
    (TALK, {}, 400, "at least one turn"),
    (TALK, {"messages": "hello"}, 400, "at least one turn"),
    (TALK, {"messages": [1]}, 400, "dialogue turn"),
    (TALK, {"messages": [{"role": "king", "content": "x"}]}, 400, "dialogue turn"),
    (TALK, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "dialogue"),
    (TALK, {"messages": [{"role": "user", "content": "长" * 300}]}, 400, "tokens long"),
    (WRITE, {}, 400, "prompt must be"),
    (WRITE, {"prompt": [300]}, 400, "below 300"),
    (WRITE, {"prompt": [True]}, 400, "below 300"),
    (WRITE, {"prompt": "x", "temperature": -1}, 400, "temperature"),
    (WRITE, {"prompt": "x", "temperature": "hot"}, 400, "temperature must be a number"),
    (WRITE, {"prompt": "x", "top_p": 0}, 400, "top_p"),
    (WRITE, {"prompt": "x", "temperature": 10**400}, 400, "temperature must be a number"),
    (WRITE, b'{"prompt": "x", "temperature": 1e400}', 400, "temperature must be a number"),
    (TALK, {"response_format": {"type": "json_object"}}, 400, "response_format is not"),
    (TALK, {"tool_choice": "auto"}, 400, "tool_choice is not"),
    (WRITE, {"prompt": "x", "best_of": 4}, 400, "best_of is not"),
    (WRITE, {"prompt": "x", "top_k": 1}, 400, "top_k is not"),
    (WRITE, {"prompt": "x", "max_tokens": 0}, 400, "max_new_tokens"),
    (WRITE, {"prompt": "x", "max_tokens": 1.5}, 400, "max_tokens must be an integer"),
    (WRITE, {"prompt": "x", "seed": True}, 400, "seed must be an integer"),
    (WRITE, {"prompt": "x", "stop": [""]}, 400, "stop must be"),
    (WRITE, {"prompt": "x", "stop": 5}, 400, "stop must be"),
    (WRITE, {"prompt": "x", "stream": "yes"}, 400, "stream must be true or false"),
    (WRITE, {"prompt": "x", "n": 2}, 400, "n is not supported"),
    (WRITE, {"prompt": "x", "logprobs": 5}, 400, "logprobs is not supported"),
    (WRITE, {"prompt": "x", "model": "gpt-9"}, 404, "no model 'gpt-9'"),
    ("/v1/embeddings", {"input": "x"}, 404, "nothing at"),
    ("/etc/passwd", None, 404, "nothing at"),
]


@pytest.mark.parametrize(("path", "body", "status", "word"), MISTAKES)
def test_a_mistake_gets_an_error_in_openai_s_form(server, path, body, status, word):
    got, page = ask(server, path, body)
    assert got == status and word in page["error"]["message"], page
    assert page["error"]["type"] == "invalid_request_error" and "param" in page["error"]
    assert "Traceback" not in json.dumps(page)


def test_strange_requests_get_errors_and_the_server_lives(server):
    assert ask(server, WRITE, {"prompt": "x"}, method="DELETE")[0] == 405
    status, page = ask(server, WRITE, {"prompt": "x"}, headers={"Origin": "http://evil.test"})
    assert status == 403 and "evil.test" in page["error"]["message"]
    pointed = {"Host": "evil.test:80", "Origin": "http://evil.test:80"}  # its name, our address
    assert ask(server, WRITE, {"prompt": "x"}, headers=pointed)[0] == 403
    assert ask(server, "/v1/models", headers={"Host": "evil.test"})[0] == 403
    plain = {"prompt": "x", "n": 1, "response_format": {"type": "text"}, "max_tokens": 1}
    assert ask(server, WRITE, plain)[0] == 200
    for cold in ({"temperature": 1e-320}, {"temperature": 1, "top_p": 1e-300}):
        assert (
            ask(server, WRITE, plain | cold)[1]["choices"]
            == ask(server, WRITE, plain | {"temperature": 0})[1]["choices"]
        )
    own = {"Origin": f"http://127.0.0.1:{server.server_port}"}
    assert ask(server, WRITE, {"prompt": "x", "max_tokens": 1}, headers=own)[0] == 200
    for raw, status in (
        (b"POST /v1/completions HTTP/1.1\r\nHost: LOCALHOST\r\n\r\n", b"411"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"413"),
        (b"POST /v1/completions HTTP/1.1\r\nHost: [\r\nContent-Length: 2\r\n\r\n{}", b"400"),
        (
            b"POST /v1/completions HTTP/1.1\r\nOrigin: http://[\r\nContent-Length: 2\r\n\r\n{}",
            b"400",
        ),
        (b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", b"400"),
        (b"GET http://[ HTTP/1.1\r\n\r\n", b"400"),
        (b"nonsense of a line\r\n\r\n", b"Bad request"),
    ):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as line:
            line.sendall(raw)
            got = b"".join(iter(lambda line=line: line.recv(4096), b""))
        assert status in got.splitlines()[0] or status in got and b'"error"' in got


def test_a_failure_inside_is_500_and_says_nothing_more(server, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("a secret path")

    monkeypatch.setattr("steel.serve.server.encode_text", broken)
    status, page = ask(server, WRITE, {"prompt": "x"})
    assert status == 500 and page["error"]["type"] == "server_error"
    assert "secret" not in json.dumps(page) and "a secret path" in capsys.readouterr().err


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_stops_its_answer(server, monkeypatch, stream):
    """The answer would take half a minute; the lock is free again within the next tokens."""
    steps = []

    class Slow(Answer):
        def _chosen(self):
            for _ in range(600):
                steps.append(1)
                time.sleep(0.05)
                yield 5

    monkeypatch.setattr("steel.serve.server.Answer", Slow)
    line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    line.request("POST", WRITE, json.dumps({"prompt": "x", "stream": stream}))
    while len(steps) < 3:
        time.sleep(0.01)
    line.sock.close() if not stream else line.close()
    assert server.writing.acquire(timeout=10), "still writing for nobody"
    server.writing.release()
    assert len(steps) < 100


def test_answers_are_written_one_at_a_time(server, monkeypatch):
    busy, most = [], []

    class Watched(Answer):
        def _chosen(self):
            busy.append(1)
            for token in super()._chosen():
                most.append(len(busy))
                time.sleep(0.002)
                yield token
            busy.pop()

    monkeypatch.setattr("steel.serve.server.Answer", Watched)
    body = {"prompt": "世界", "max_tokens": 15, "temperature": 1.0, "seed": 3}
    found = []
    work = [
        threading.Thread(target=lambda: found.append(ask(server, WRITE, body))) for _ in range(5)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    texts = {page["choices"][0]["text"] for status, page in found if status == 200}
    assert len(found) == 5 and len(texts) == 1 and max(most) == 1


def test_a_taken_port_is_one_line_for_the_user(server, folder):
    with pytest.raises(UserError, match="cannot listen on 127.0.0.1"):
        Server(folder, port=server.server_port)
    with pytest.raises(UserError, match="not a model folder"):
        Server(folder.parent)


def test_the_command_serves_until_it_is_stopped(folder):
    command = [sys.executable, "-m", "steel", "serve", str(folder), "--port", "0", "--name", "mine"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # in the background it is ignored
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, preexec_fn=heard, **pipes)
    try:
        address = process.stdout.readline().split()[-1]
        host, _, port = address.removeprefix("http://").partition(":")
        line = http.client.HTTPConnection(host, int(port), timeout=60)
        line.request("GET", "/v1/models")
        assert json.loads(line.getresponse().read())["data"][0]["id"] == "mine"
        process.send_signal(2)
        assert process.wait(timeout=60) == 0 and "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_the_default_settings_are_those_of_the_terminal_chat(server, served):
    body = {"messages": HELLO, "max_tokens": 20, "seed": 11}
    said = ask(server, TALK, body)[1]["choices"][0]["message"]["content"]
    assert said == complete(*served, HELLO, replace(CHAT, max_new_tokens=20, seed=11))
    assert torch.is_grad_enabled()
