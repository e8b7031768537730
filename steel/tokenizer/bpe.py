"""Byte-level BPE: train, save, load, encode.

Byte-level means that any UTF-8 text has an encoding and decodes to itself: a rare Hanzi costs three
byte tokens, never an unknown token. Digits are split one by one, so that 47 + 38 looks the same as
every other sum.

Three special tokens, in this order, so that their ids are the same in every tokenizer that the book
trains: `<|endoftext|>` (0) ends a document and pads, `<|im_start|>` (1) opens a turn, `<|im_end|>`
(2) closes it. They come from the packer and from the chat template, never from text: `encode_text`
reads a literal "<|im_end|>" as characters.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..config import UserError, sound
from .chat import TEMPLATE
from .encode import PIECES

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = [END_OF_TEXT, IM_START, IM_END]


def train(texts: Iterable[str], vocab_size: int, longest_entry: int = 0) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of `vocab_size` entries: at least 256 bytes and 3 special tokens.

    texts: see `texts.sample_texts`. longest_entry: of an entry that is learned [bytes]; 0: any
    length. UserError without any text.
    """
    if vocab_size < 256 + len(SPECIAL_TOKENS):
        raise UserError(f"tokenizer.vocab_size={vocab_size}; a byte-level BPE needs at least 259")
    texts = filter(None, texts)
    if (first := next(texts, None)) is None:
        raise UserError("no text to train a tokenizer on; give a folder with non-empty documents")
    core = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([pieces, bytes_])
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        show_progress=False,
        max_token_length=longest_entry or None,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    core.train_from_iterator(itertools.chain([first], texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[IM_START],
        chat_template=TEMPLATE,
        padding_side="left",
    )


def save(tokenizer: PreTrainedTokenizerBase, folder: Path | str) -> None:
    """Write the tokenizer in Hugging Face format. `load` and `AutoTokenizer` read it."""
    tokenizer.save_pretrained(str(folder))


def load(folder: Path | str) -> PreTrainedTokenizerBase:
    """Read a tokenizer from a folder: one of ours, or any fast tokenizer in Hugging Face format."""
    from transformers import AutoTokenizer

    files = ("tokenizer.json", "vocab.json", "tokenizer.model")
    if not any((Path(folder) / name).is_file() for name in files):
        remedy = f"train one with 'steel tokenizer train DOCS {folder}'"
        raise UserError(f"no tokenizer in {folder}; {remedy}")
    with sound(f"the tokenizer in {folder}"):
        return AutoTokenizer.from_pretrained(str(folder))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of plain text. Special tokens inside the text stay text."""
    return encode_texts(tokenizer, [text])[0]


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The same of many texts, which costs less."""
    plain = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    return tokenizer(texts, **plain)["input_ids"] if texts else []


def _id(tokenizer: PreTrainedTokenizerBase, token: str | None) -> int | None:
    """Id of a token, None when the tokenizer lacks it."""
    token_id = tokenizer.convert_tokens_to_ids(token) if token else None
    unknown = token_id == tokenizer.unk_token_id and token != tokenizer.unk_token
    return None if unknown else token_id


def end_of_text_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the document separator `<|endoftext|>`; UserError when the tokenizer lacks it."""
    if (token_id := _id(tokenizer, END_OF_TEXT)) is None:
        raise UserError(f"this tokenizer has no {END_OF_TEXT} token, which separates documents")
    return token_id


def before_document_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What stands before a document that is scored: <|endoftext|>, or in others' vocabularies BOS,
    or else EOS. Raises UserError for a tokenizer that has none of them."""
    tokens = (END_OF_TEXT, tokenizer.bos_token, tokenizer.eos_token)
    known = (found for token in tokens if (found := _id(tokenizer, token)) is not None)
    if (token_id := next(known, None)) is None:
        raise UserError("the tokenizer has no token to stand before a document")
    return token_id
