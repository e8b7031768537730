"""How a question is put to a model: as chat turns, or as a text to continue."""

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from ..model.folder import stop_ids
from ..tokenizer.bpe import IM_END, IM_START, encode_text
from ..tokenizer.chat import encode_chat
from .questions import Question, has_hanzi


def format_question(question: Question, with_options: bool = True) -> str:
    """The text of a user turn: the question and, if asked for, one line "A. …" per option."""
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
    truncated: int = 0
    """Prompts that lost examples or, if that was not enough, their beginning."""

    def prompt(self, question: Question, with_options: bool, room: int) -> list[int]:
        """Ids up to where the reply begins; with `room` more tokens they fit the context."""
        shots = self.examples.get(question.subject, [])
        ids = self._ids(question, shots, with_options)
        limit = len(ids) if self.max_length is None else max(1, self.max_length - room)
        self.truncated += len(ids) > limit
        while shots and len(ids) > limit:
            shots = shots[1:]
            ids = self._ids(question, shots, with_options)
        return ids[-limit:]

    def _ids(self, question: Question, shots: list[Question], with_options: bool) -> list[int]:
        asked = [format_question(q, with_options) for q in (*shots, question)]
        replies = [shot.answer if with_options else shot.right for shot in shots] + [""]
        if self.chat:
            messages = [
                {"role": role, "content": text}
                for turns in zip(asked, replies)
                for role, text in zip(("user", "assistant"), turns)
            ]
            return encode_chat(self.tok, messages[:-1], add_generation_prompt=True)[0]
        blocks = []
        for text, reply in zip(asked, replies):
            marker = "答案：" if has_hanzi(text) else "Answer: " if reply else "Answer:"
            blocks.append(f"{text}\n{marker}{reply}")
        return encode_text(self.tok, "\n\n".join(blocks))

    def reply(self, question: Question, text: str, cue: bool = False) -> list[int]:
        """Ids of a reply; with `cue` in a sentence, unless the prompt ends in a marker."""
        if cue and self.chat:
            text = ("答案是" if question.chinese else "The answer is ") + text
        spaced = not self.chat and not question.chinese  # after "Answer:"
        return encode_text(self.tok, " " + text if spaced else text) or encode_text(self.tok, " ")

    def closers(self) -> list[int]:
        """Tokens that end a reply or its sentence."""
        texts = ["。", "."] if self.chat else ["。", ".", "\n", "\n\n"]
        ids = [encode_text(self.tok, text) for text in texts]
        return sorted({i[0] for i in ids if len(i) == 1} | set(stop_ids(self.tok)))
