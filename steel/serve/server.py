"""One model behind OpenAI's protocol, for the clients that exist, and a small page to chat with it.

    GET  /                      the page
    GET  /v1/models             the model's name
    POST /v1/chat/completions   the assistant's answer to messages
    POST /v1/completions        what follows a prompt, a text or token ids

Obeyed: stop, max_tokens or max_completion_tokens, temperature, top_p, seed, stream, stream_options.
What would change an answer and is not built is refused. One answer is written at a time, the others
wait; a client that hangs up frees the model within a token.
"""

import contextlib
import json
import secrets
import select
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import torch

from ..config import UserError
from ..model.decoding import Sampling
from ..model.folder import open_model, stop_ids
from ..tokenizer.bpe import before_document_id, encode_text
from ..tokenizer.chat import check
from .generate import CHAT, Answer, context, fit_prompt

LARGEST = 4 << 20  # body of a request [bytes]
MODELS, TALK, WRITE = "/v1/models", "/v1/chat/completions", "/v1/completions"
NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
NAMES[dict] = "an object"
# What would change an answer, if it were set to anything but these.
REFUSED = dict.fromkeys(
    "echo suffix logprobs top_logprobs frequency_penalty presence_penalty logit_bias tools functions "
    "top_k min_p repetition_penalty".split()
)
REFUSED |= {"n": 1, "best_of": 1, "tool_choice": "none", "response_format": {"type": "text"}}
HOME = ("127.0.0.1", "localhost", "::1")  # names of this machine for itself


class Refusal(Exception):
    """A request that cannot be met: HTTP status, message, OpenAI's `param` and `code`."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


class Server(ThreadingHTTPServer):
    """Listens on host:port (0: a free one), then loads the model in `folder`; `serve_forever` answers."""

    daemon_threads = True

    def __init__(self, folder: Path | str, host: str = "127.0.0.1", port: int = 0, name: str = ""):
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"cannot listen on {host}:{port}: {why}; see --host, --port") from None
        try:
            dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
            self.model, self.tokenizer = open_model(folder, dtype=dtype)
        except BaseException:
            self.server_close()
            raise
        self.name, self.url = (
            name or Path(folder).resolve().name,
            f"http://{host}:{self.server_port}",
        )
        self.writing, self.began = threading.Lock(), int(time.time())
        self.page = (Path(__file__).parent / "chat.html").read_bytes()


def answer_to(server: Server, body: dict, chat: bool) -> Answer:
    """The answer that a request asks for, not begun yet. Raises Refusal or UserError."""
    model, tokenizer = server.model, server.tokenizer
    for name, harmless in REFUSED.items():
        if body.get(name) and body[name] != harmless:
            raise Refusal(400, f"{name} is not supported here; leave it out", name)
    if _field(body, "model", str, server.name) != server.name:
        message = f"no model '{body['model']}' here, only '{server.name}'"
        raise Refusal(404, message, "model", "model_not_found")
    longest = _field(body, "max_tokens", int, Sampling.max_new_tokens)
    sampling = Sampling(
        temperature=_field(body, "temperature", float, CHAT.temperature),
        top_p=_field(body, "top_p", float, CHAT.top_p),
        max_new_tokens=_field(body, "max_completion_tokens", int, longest),
        seed=_field(body, "seed", int, secrets.randbits(32)),
    )
    ends = body.get("stop") or []
    ends = [ends] if isinstance(ends, str) else ends
    if not (
        isinstance(ends, list) and len(ends) < 5 and all(isinstance(e, str) and e for e in ends)
    ):
        raise Refusal(400, "stop must be a string, or a list of at most four", "stop")
    stops = stop_ids(tokenizer, chat=chat)
    if chat:
        prompt = fit_prompt(model, tokenizer, _messages(body), sampling.max_new_tokens)
    else:
        prompt = _prompt(body, tokenizer, model.config.vocab_size)
    room = context(model) - len(prompt)
    if room < 1:
        message = f"the prompt is {len(prompt)} tokens long; this model reads {context(model)}"
        raise Refusal(400, f"{message}, answer included", "prompt", "context_length_exceeded")
    sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
    return Answer(model, tokenizer, prompt, stops, sampling, ends)


def _field(body: dict, name: str, kind: type, default):
    """A field of the request, or the default for one that is missing or null."""
    value = body.get(name)
    if value is None:
        return default
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise Refusal(400, f"{name} must be {NAMES[kind]}, not {str(value)[:80]!r}", name)
    if kind is float and not 0 <= value <= 1e6:  # infinite, or an integer beyond any float
        raise Refusal(400, f"{name} must be a number from 0 on, and no larger than a million", name)
    return value


def _messages(body: dict) -> list[dict]:
    """The dialogue; content that came in parts of text is joined, a developer speaks as the system."""
    given, turns = body.get("messages"), []
    for turn in given if isinstance(given, list) else []:
        turn = dict(turn) if isinstance(turn, dict) else {}
        if turn.get("role") == "developer":
            turn["role"] = "system"
        if isinstance(turn.get("content"), list):
            parts = [p.get("text") if isinstance(p, dict) else None for p in turn["content"]]
            turn["content"] = None if None in parts else "".join(map(str, parts))
        turns.append(turn)
    try:
        check(turns)
    except ValueError as error:
        raise Refusal(400, f"messages: {error}", "messages") from None
    return turns


def _prompt(body: dict, tokenizer, rows: int) -> list[int]:
    """Token ids of the prompt; for an empty text, what stands before a document."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return encode_text(tokenizer, prompt) or [before_document_id(tokenizer)]
    ids = prompt if isinstance(prompt, list) else []
    if not ids or not all(type(i) is int and 0 <= i < rows for i in ids):
        message = f"prompt must be a string, or a list of token ids below {rows}"
        raise Refusal(400, message, "prompt")
    return ids


def _address(url: str) -> SplitResult:
    """The parts of an address that a client sent."""
    try:
        return urlsplit(url)
    except ValueError:
        raise Refusal(400, f"{url[:80]!r} is no address") from None


def _no_number(name: str):
    raise ValueError(f"{name} is no number of JSON")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60  # for a client that neither speaks nor listens [seconds]
    begun = False  # events have been sent
    server: Server

    def do_GET(self) -> None:
        self._guarded(self._show)

    def do_POST(self) -> None:
        self._guarded(self._answer)

    def _show(self) -> None:
        self._check_host()
        path, name = _address(self.path).path, self.server.name
        if path == "/":
            self._send(200, self.server.page, "text/html; charset=utf-8")
        elif path == MODELS:
            model = {"id": name, "object": "model", "created": self.server.began}
            self._send(200, {"object": "list", "data": [model | {"owned_by": "steel"}]})
        else:
            raise Refusal(404, f"nothing at {path}")

    def _answer(self) -> None:
        path = _address(self.path).path
        if path not in (TALK, WRITE):
            raise Refusal(404, f"nothing at {path}; POST to {TALK} or {WRITE}")
        self._write(self._body(), chat=path == TALK)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do `work`; what goes wrong in it reaches the client in OpenAI's form."""
        try:
            work()
        except OSError:  # the client hung up, or does not listen
            self.close_connection = True
        except Refusal as refusal:
            self._refuse(refusal)
        except UserError as error:
            self._refuse(Refusal(400, str(error)))
        except Exception:
            traceback.print_exc()
            self._refuse(Refusal(500, "the server failed; its terminal says where"))

    def _check_host(self) -> None:
        """Refuse a request for a name that is not this machine's, where the server listens to it alone.

        A page from elsewhere can point its own name at 127.0.0.1; its requests still carry that name.
        """
        if self.server.server_address[0] not in HOME:
            return  # it was asked to listen to others, by whatever name
        host = _address(f"//{self.headers.get('Host', '')}").hostname
        if host is not None and host not in HOME:
            raise Refusal(403, "this server answers to this machine's own names alone")

    def _body(self) -> dict:
        origin, length = self.headers.get("Origin"), self.headers.get("Content-Length", "")
        self._check_host()
        if origin and _address(origin).netloc.lower() != self.headers.get("Host", "").lower():
            raise Refusal(403, f"a page from {origin} may not use this server")
        if not length.isdecimal():
            raise Refusal(411, "the request needs a Content-Length")
        if len(length) > 18 or int(length) > LARGEST:  # Python refuses to read very long ones
            raise Refusal(413, f"the request is larger than {LARGEST} bytes")
        try:
            body = json.loads(self.rfile.read(int(length)), parse_constant=_no_number)
            json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except (ValueError, RecursionError) as error:
            raise Refusal(400, f"the body is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise Refusal(400, "the body must be a JSON object")
        return body

    def _write(self, body: dict, chat: bool) -> None:
        """Answer a request: in events, or as one object."""
        streams = _field(body, "stream", bool, False)
        counted = _field(body, "stream_options", dict, {}).get("include_usage") is True
        answer, kind = answer_to(self.server, body, chat), "text_completion"
        if chat:
            kind = "chat.completion.chunk" if streams else "chat.completion"
        reply = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}", "object": kind}
        reply |= {"created": int(time.time()), "model": self.server.name}

        def choice(said: dict, finish: str | None = None) -> dict:
            if not chat:
                said = {"text": said.get("content", ""), "logprobs": None}
            else:
                said = {"delta" if streams else "message": said}
            return reply | {"choices": [{"index": 0, **said, "finish_reason": finish}]}

        text = ""
        with self.server.writing:
            if streams:
                self._begin_events()
                self._event(choice({"role": "assistant", "content": ""}))
            for piece in self._while_heard(answer):
                text += piece
                if streams and piece:
                    self._event(choice({"content": piece}))
        counts = {"prompt_tokens": len(answer.prompt), "completion_tokens": answer.tokens}
        usage = {"usage": counts | {"total_tokens": sum(counts.values())}}
        if not streams:
            self._send(200, choice({"role": "assistant", "content": text}, answer.finish) | usage)
            return
        self._event(choice({}, answer.finish))
        if counted:
            self._event(reply | {"choices": []} | usage)
        self.wfile.write(b"data: [DONE]\n\n")

    def _while_heard(self, answer: Answer) -> Iterator[str]:
        """The pieces of the answer. Raises BrokenPipeError as soon as the client has hung up."""
        pieces = iter(answer)
        while True:
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                raise BrokenPipeError
            if (piece := next(pieces, None)) is None:
                return
            yield piece

    def _begin_events(self) -> None:
        self.begun = self.close_connection = True  # the end of the line is the end of the answer
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()

    def _event(self, value: dict) -> None:
        self.wfile.write(f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode())

    def _refuse(self, refusal: Refusal) -> None:
        kind = "invalid_request_error" if refusal.status < 500 else "server_error"
        error = {"message": str(refusal), "type": kind}
        error |= {"param": refusal.param, "code": refusal.code}
        self.close_connection = True  # its body may not have been read
        with contextlib.suppress(OSError):
            if self.begun:
                self._event({"error": error})
            else:
                self._send(refusal.status, {"error": error})

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses (methods, malformed lines), in the same form."""
        status = 405 if code == 501 else int(code)
        self._refuse(Refusal(status, message or self.responses[code][0]))

    def _send(self, status: int, content: dict | bytes, kind: str = "application/json") -> None:
        page = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(page)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(page)


def serve(folder: Path | str, host: str, port: int, name: str, say) -> None:
    """Answer until Ctrl-C; `say` gets the address once the model is there."""
    with Server(folder, host, port, name) as server, contextlib.suppress(KeyboardInterrupt):
        say(server.url)
        server.serve_forever()
