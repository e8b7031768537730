"""Model folders in Hugging Face format: open any, on the right device; write one whole or not at all."""

from pathlib import Path

import torch
from torch import nn

from ..config import UserError
from ..runlog import new_folder
from ..tokenizer import bpe
from .build import read_model


def open_model(
    folder: Path | str,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
):
    """(model in evaluation mode, tokenizer) from a folder: ours, or any causal LM with a tokenizer.

    device None is the GPU where there is one. Raises UserError when the folder holds no model or
    its weights cannot be read.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        beside = folder / "hf"
        hint = f" (did you mean {beside}?)" if (beside / "config.json").is_file() else ""
        raise UserError(f"{folder} is not a model folder: it has no config.json{hint}")
    return read_model(folder, dtype).to(device or default_device()).eval(), bpe.load(folder)


def default_device() -> str:
    """Where a model computes when nobody says: the GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def stop_ids(tokenizer, chat: bool = False) -> list[int]:
    """Tokens that end a text or an answer, as far as the tokenizer has them.

    `<|im_end|>`, the tokenizer's own end token, and last the document separator, which also pads.
    With `chat`, raises UserError for a tokenizer without the tokens of the chat template.
    """

    def known(token: str) -> bool:
        return tokenizer.convert_tokens_to_ids(token) not in (None, tokenizer.unk_token_id)

    needed = (bpe.IM_START, bpe.IM_END, bpe.END_OF_TEXT)
    if chat and (missing := [token for token in needed if not known(token)]):
        lacks = " and no ".join(missing)
        raise UserError(f"this tokenizer has no {lacks} token, which the chat template needs")
    tokens = [bpe.IM_END, tokenizer.eos_token, bpe.END_OF_TEXT]
    ids = [tokenizer.convert_tokens_to_ids(token) for token in tokens if token and known(token)]
    return [i for at, i in enumerate(ids) if i not in ids[at + 1 :]]


def save_model(
    folder: Path | str, model: nn.Module, state_dict: dict | None = None, tokenizer=None
) -> Path:
    """Write model, code and tokenizer to `folder`, which is replaced when everything is on disk.

    `state_dict` holds the gathered weights of a sharded model. With a tokenizer, the folder's
    generation settings say where `generate` stops.
    """
    folder = Path(folder)
    settings = getattr(model, "generation_config", None)
    if settings is not None and tokenizer is not None and (stops := stop_ids(tokenizer)):
        settings.eos_token_id, settings.pad_token_id = stops, stops[-1]
    # FSDP2 gives a sharded model a class of its own. transformers would copy that class's source
    # file, torch's, and name it in config.json: nobody could load the folder.
    given = type(model)
    with new_folder(folder) as fresh:
        try:
            foreign = "torch.distributed."
            own = [cls for cls in given.__mro__ if not cls.__module__.startswith(foreign)]
            model.__class__ = own[0]
            model.save_pretrained(fresh, **({"state_dict": state_dict} if state_dict else {}))
        finally:
            model.__class__ = given
        if tokenizer is not None:
            tokenizer.save_pretrained(fresh)
    return folder
