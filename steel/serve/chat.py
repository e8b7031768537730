"""Chat with a model in the terminal, or answer lines from a pipe."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from ..model.decoding import Sampling
from ..model.folder import open_model
from .generate import CHAT, stream

HELP = "/reset forgets the dialogue, /exit leaves, /help says this"


def chat(folder: Path | str, prompt: str | None = None, sampling: Sampling = CHAT) -> None:
    """Talk to the model in `folder`, a Hugging Face folder with config.json.

    With `prompt`, print its answer and return. Without a terminal, each line of standard input is a
    message and its answer is printed, so that `echo 你好 | steel chat RUN` works. Raises UserError
    for a folder without a model.
    """
    from rich.console import Console
    from rich.markup import escape

    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    session = Session(*open_model(folder, dtype=dtype), sampling)
    if prompt is not None:
        session.answer(prompt)
        return
    console, typed = Console(stderr=True, highlight=False), sys.stdin.isatty()
    if typed:
        millions = sum(p.numel() for p in session.model.parameters()) / 1e6
        console.print(
            f"[bold]{escape(str(folder))}[/bold]  {millions:,.1f} M parameters  [dim]{HELP}[/dim]"
        )
    for line in _typed(console) if typed else sys.stdin:
        text = line.strip()
        if text in ("/exit", "/quit"):
            return
        if text == "/reset":
            session.messages.clear()
            console.print("[dim]the dialogue is forgotten[/dim]")
        elif text.startswith("/"):
            console.print(f"[dim]{HELP}[/dim]")
        elif text:
            if typed:
                console.print("[bold blue]steel[/bold blue]  ", end="")
            session.answer(text)


def _typed(console) -> Iterator[str]:
    """What the user types, until Ctrl-D or Ctrl-C."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            yield console.input("[bold cyan]you[/bold cyan]    ")
    console.print()


class Session:
    """A dialogue in progress; `messages` is its history."""

    def __init__(self, model, tokenizer, sampling: Sampling):
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.messages: list[dict] = []

    def answer(self, text: str) -> None:
        """Answer one message, printed as it comes. Ctrl-C keeps what was said."""
        self.messages.append({"role": "user", "content": text})
        sampling = replace(self.sampling, seed=self.sampling.seed + len(self.messages))
        said = ""
        try:
            for piece in stream(self.model, self.tokenizer, self.messages, sampling):
                said += piece
                print(piece, end="", flush=True)
            print(flush=True)
        except KeyboardInterrupt:
            print(" …")
        self.messages.append({"role": "assistant", "content": said})
