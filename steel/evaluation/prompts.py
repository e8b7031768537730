"""How a question is put to a model: as chat turns, or as a text to continue."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from transformers import PreTrainedTokenizerBase

from ..config import UserError
from ..model.folder import stop_ids
from ..tokenizer.bpe import IM_END, IM_START, before_document_id, encode_text
from ..tokenizer.chat import encode_chat
from ..tokenizer.texts import option_lines
from .questions import Question
from .suites import about

STYLES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
"""{style: {suite or language: its words}}."""


def format_question(question: Question, with_options: bool = True, letters: str = "before") -> str:
    """The text of a user turn: the question and, if asked for, a line per option.

    letters: where the letter stands, before its option ("A. …", as exams print it) or after it
    ("… A", as the closed world teaches it).
    """
    if letters == "after":
        options = [option_lines(question.options)]
    else:
        options = [f"{letter}. {text}" for letter, text in zip(question.letters, question.options)]
    return "\n".join([question.question, *options]) if with_options else question.question


def has_chat_tokens(tok: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer knows `<|im_start|>` and `<|im_end|>` as tokens."""
    return {IM_START, IM_END} <= tok.get_vocab().keys()


@dataclass
class Prompter:
    """Turns questions into token ids; worked examples that do not fit the context are dropped."""

    tok: PreTrainedTokenizerBase
    chat: bool
    """Turns, as the questions of SFT look; else a text with 答案： or Answer: at its end."""
    max_length: int | None = None
    """Longest sequence of the model [tokens]."""
    examples: dict[str, list[Question]] = field(default_factory=dict)
    """Worked examples by subject."""
    style: str = "steel"
    """Whose words: a key of `STYLES`."""
    suite: str = ""
    bos: bool = False
    """Begin with the token that stands between documents in pretraining."""
    letters: str = "before"
    """Where an option's letter stands: before it or after it."""
    truncated: int = 0
    """Prompts that lost examples or, if that was not enough, their beginning."""

    def prompt(
        self, question: Question, with_options: bool, room: int, steps: bool = False
    ) -> list[int]:
        """Ids up to where the reply begins; with `room` more tokens they fit the context.

        `steps`: ask for a chain of thought.
        """
        shots = self.examples.get(question.subject, [])
        ids = self._ids(question, shots, with_options, steps)
        limit = len(ids) if self.max_length is None else max(1, self.max_length - room)
        self.truncated += len(ids) > limit
        while shots and len(ids) > limit:
            shots = shots[1:]
            ids = self._ids(question, shots, with_options, steps)
        if len(ids) <= limit:
            return ids
        return ids[: self.bos] + ids[self.bos :][-max(1, limit - self.bos) :]

    def words(self, question: Question, steps: bool = False) -> dict[str, str]:
        """{"head", "before", "marker", "gap"} of the style; `steps`: for chain of thought.

        Raises UserError for a style that is unknown, or that has no words for the suite.
        """
        style, lang = STYLES.get(self.style), "zh" if question.chinese else "en"
        if style is None:
            raise UserError(f"style '{self.style}' is not one of {', '.join(STYLES)}")
        found = style.get(self.suite) or style.get(lang)
        if found is None or (steps and "cot_marker" not in found):
            what = " chain of thought" if steps else ""
            raise UserError(f"style '{self.style}' has no{what} prompt for {self.suite or 'this'}")
        words = dict.fromkeys(("head", "before", "marker", "gap"), "") | found
        if steps:
            words["head"] = words.get("cot_head", words["head"])
            words |= {"marker": words["cot_marker"], "gap": ""}
        official = about(self.suite)["names"].get(question.subject)
        subject = official or question.subject.replace("_", " ")
        words["head"] = words["head"].format(subject=subject)
        return words

    def blocks(
        self, question: Question, shots: Sequence[Question], with_options: bool, steps: bool = False
    ) -> list[tuple[str, str]]:
        """(what is asked, reply) of each worked example and of the question, whose reply is ""."""
        blocks = []
        for q in (*shots, question):
            words = self.words(q, steps)
            text = words["before"] + format_question(q, with_options, self.letters)
            if self.style != "steel" or not self.chat or steps:
                text += "\n" + words["marker"]
            reply = q.answer if with_options else q.right
            if with_options and self.letters == "after":
                reply = f"{q.right} {q.answer}"
            if steps and q.explanation:
                so = "\n所以答案是" if q.chinese else "\nThe answer is "
                reply = q.explanation + so + reply
            blocks.append((text, reply))
        head = self.words(question, steps)["head"]
        blocks[0] = head + blocks[0][0], blocks[0][1]
        return [*blocks[:-1], (blocks[-1][0], "")]

    def _ids(self, question: Question, shots: list[Question], *how) -> list[int]:
        blocks = self.blocks(question, shots, *how)
        bos = [before_document_id(self.tok)] if self.bos else []
        if self.chat:
            messages = [
                {"role": role, "content": text}
                for turns in blocks
                for role, text in zip(("user", "assistant"), turns)
            ]
            return bos + encode_chat(self.tok, messages[:-1], add_generation_prompt=True)[0]
        gap = self.words(question, *how[1:])["gap"]
        texts = [text + (gap + reply if reply else "") for text, reply in blocks]
        return bos + encode_text(self.tok, "\n\n".join(texts))

    def reply(self, question: Question, text: str, cue: bool = False) -> list[int]:
        """Ids of a reply; with `cue` in a sentence, unless the prompt ends in a marker."""
        if cue and self.chat:
            text = ("答案是" if question.chinese else "The answer is ") + text
        gap = "" if self.chat else self.words(question)["gap"]
        return encode_text(self.tok, gap + text) or encode_text(self.tok, " ")

    def closers(self) -> list[int]:
        """Tokens that end a reply or its sentence."""
        texts = ["。", "."] if self.chat else ["。", ".", "\n", "\n\n"]
        ids = [encode_text(self.tok, text) for text in texts]
        return sorted({i[0] for i in ids if len(i) == 1} | set(stop_ids(self.tok)))
