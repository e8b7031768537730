"""Joining two byte-level BPE vocabularies: a base keeps its ids and learns the other's entries.

HammerLLM joined SentencePiece vocabularies and scaled the scores of added pieces by the mean ratio of
both vocabularies' scores on the common characters, so that they stand among the base's. In a
byte-level BPE a score is a place in the list of merges, and here the added merges stand behind the
base's. Two things follow, and tests hold them: text is cut as
the base cuts it and then merged further, so no text takes more tokens than before; and the tokens
of the base keep their ids, so a trained model goes on with the same rows and only needs new ones.
An entry that the base would never join, because it splits text between its parts, is left out.
"""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase as Pretrained

from ..config import UserError
from ..runlog import new_folder
from . import bpe


def merge(
    base: Pretrained, out: Path | str, other: Pretrained | None = None, characters: str = ""
) -> tuple[Pretrained, list[list[int]]]:
    """Write to `out` the base with the other's merges, and with `characters` as tokens of their own.

    Returns the new tokenizer, and for every added entry, in order of its id, the ids by which the
    base spells it: what `extend_embeddings` needs. Raises UserError unless both are byte-level BPE.
    """
    core = json.loads(base.backend_tokenizer.to_str())
    _require_byte_level(core)
    vocabulary, merges = core["model"]["vocab"], core["model"]["merges"]
    splitter, reader = base.backend_tokenizer.pre_tokenizer, decoders.ByteLevel()
    first = len(base)
    added: dict[str, int] = {}
    pairs = set(map(tuple, merges))

    def add(left: str, right: str) -> str:
        whole = left + right
        if whole not in vocabulary:
            added[whole] = vocabulary[whole] = first + len(added)
        if (left, right) not in pairs:  # an entry that is there may have had no way to it
            pairs.add((left, right))
            merges.append([left, right])
        return whole

    if other is not None:
        theirs = json.loads(other.backend_tokenizer.to_str())
        _require_byte_level(theirs)
        for left, right in theirs["model"]["merges"]:
            reachable = len(splitter.pre_tokenize_str(reader.decode([left + right]))) == 1
            if left in vocabulary and right in vocabulary and reachable:
                add(left, right)
    # What they are spelled by now, with the other's merges in place, is joined from the left.
    so_far = Tokenizer.from_str(json.dumps(core))
    for character in dict.fromkeys(characters):
        whole, *rest = so_far.encode(character, add_special_tokens=False).tokens
        for piece in rest:
            whole = add(whole, piece)
    with new_folder(out) as fresh:
        base.save_pretrained(str(fresh))
        page = json.dumps(core, ensure_ascii=False)
        (fresh / "tokenizer.json").write_text(page, encoding="utf-8")
    spelled = _spellings(base, list(added))
    return bpe.load(out), spelled


def _require_byte_level(core: dict) -> None:
    """Raise UserError for a vocabulary whose tokens are not strings of bytes."""
    pieces = core["model"].get("vocab", {})
    bytes_ = ByteLevel.alphabet()
    if core["model"]["type"] != "BPE" or not all(byte in pieces for byte in bytes_):
        raise UserError("only byte-level BPE vocabularies can be joined, as Qwen's, GPT's or ours")
    if core["model"].get("ignore_merges"):
        raise UserError("a vocabulary that ignores its merges cannot be joined: they say the order")


def _spellings(base: Pretrained, entries: list[str]) -> list[list[int]]:
    """Ids by which the base spells each entry, which is written in the byte-level alphabet."""
    core = json.loads(base.backend_tokenizer.to_str())
    core |= {"pre_tokenizer": None, "normalizer": None, "post_processor": None, "added_tokens": []}
    plain = Tokenizer.from_str(json.dumps(core))
    return [encoding.ids for encoding in plain.encode_batch(entries, add_special_tokens=False)]


@torch.no_grad()
def extend_embeddings(model: torch.nn.Module, spelled: list[list[int]], entries: int) -> None:
    """Give a model rows for a merged vocabulary of `entries`: each the mean of the rows that spell it.

    spelled: by `merge`, for the last len(spelled) of the entries. Input and output rows (V, D)
    alike, tied or not: the model begins with what it would have read and said in pieces.
    """
    first = entries - len(spelled)
    rows = max(entries, model.get_input_embeddings().weight.shape[0])  # some models have spare rows
    model.resize_token_embeddings(rows, mean_resizing=False)
    tables = filter(None, (model.get_input_embeddings(), model.get_output_embeddings()))
    for weight_VD in {id(table.weight): table.weight for table in tables}.values():
        for row, ids in enumerate(spelled, start=first):
            weight_VD[row] = weight_VD[ids].mean(0)
