"""Chat with a model in the terminal, or answer lines from a pipe."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from ..model.decoding import Sampling
from ..model.folder import open_model
from .generate import stream

HELP = "/reset forgets the dialogue, /exit leaves, /help says this"


def chat(
    folder: Path | str,
    prompt: str | None = None,
    *,
    temperature: float = 0.7,
    top_p: float = 0.9,
    max_new_tokens: int = 256,
    seed: int = 1,
    system: str | None = None,
) -> None:
    """Talk to the model in `folder`, a Hugging Face folder with config.json.

    With `prompt`, print its answer and return. Without a terminal, each line of standard input is a
    message and its answer is printed, so that `echo 你好 | steel chat RUN` works. Raises UserError
    for a folder without a model.
    """
    sampling = Sampling(temperature, top_p, max_new_tokens, seed)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model, tokenizer = open_model(folder, dtype=dtype)
    session = Session(model, tokenizer, sampling, system)
    if prompt is not None:
        session.answer(prompt, _print_plain)
        print()
    elif sys.stdin.isatty():
        _interactive(session, Path(folder))
    else:
        _piped(session)


class Session:
    """A dialogue in progress; `messages` is its history."""

    def __init__(self, model, tokenizer, sampling: Sampling, system: str | None = None):
        self.model, self.tokenizer, self.sampling, self.system = model, tokenizer, sampling, system
        self.messages: list[dict] = []
        self.reset()

    def reset(self) -> None:
        """Forget every turn but the system's."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def answer(self, text: str, show=lambda piece: None) -> str:
        """Answer one message; `show` gets the pieces as they come. Ctrl-C keeps what was said."""
        asked = [*self.messages, {"role": "user", "content": text}]
        pieces: list[str] = []
        sampling = replace(self.sampling, seed=self.sampling.seed + len(asked))
        try:
            for piece in stream(self.model, self.tokenizer, asked, sampling):
                pieces.append(piece)
                show(piece)
        except KeyboardInterrupt:
            show(" …")
        self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]
        return "".join(pieces)


def _print_plain(piece: str) -> None:
    print(piece, end="", flush=True)


def _command(session: Session, text: str) -> str | None:
    """Run a /command. Returns what to say, "" to leave, None if the text is no command."""
    if text in ("/exit", "/quit"):
        return ""
    if text == "/reset":
        session.reset()
        return "the dialogue is forgotten"
    return HELP if text.startswith("/") else None


def _piped(session: Session) -> None:
    for line in sys.stdin:
        text = line.strip()
        if not text:
            continue
        said = _command(session, text)
        if said == "":
            return
        if said is not None:
            print(said, file=sys.stderr)
            continue
        session.answer(text, _print_plain)
        print(flush=True)


def _interactive(session: Session, folder: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    millions = sum(p.numel() for p in session.model.parameters()) / 1e6
    console.print(f"[bold]{folder}[/bold]  {millions:,.1f} M parameters  [dim]{HELP}[/dim]")
    while True:
        try:
            text = console.input("[bold cyan]you[/bold cyan]    ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        said = _command(session, text)
        if said == "":
            return
        if said is not None:
            console.print(f"[dim]{said}[/dim]")
        elif text:
            console.print("[bold blue]steel[/bold blue]  ", end="")
            session.answer(
                text, lambda piece: console.print(piece, end="", markup=False, soft_wrap=True)
            )
            console.print()
