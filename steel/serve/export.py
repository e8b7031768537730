"""Hand a model on: a Hugging Face folder with its own code, which loads without `steel`."""

from pathlib import Path

import torch

from ..config import UserError
from ..model.folder import open_model, save_model
from ..model.original import to_transformers

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def export_hf(
    folder: Path | str, out: Path | str, dtype: str = "fp32", architecture: str = "steel"
) -> Path:
    """Write the model in `folder`, with tokenizer, chat template and code, to `out`; returns `out`.

    `AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)` loads it anywhere. dtype:
    fp32, or bf16 with half the bytes. architecture: steel, or for a plain dense model a class of
    transformers that computes the same (llama, qwen2, qwen3): that folder needs no code. Of a qwen2
    folder transformers 5 reads the vocabulary alone and cuts text as Qwen2 does, after NFC; of a
    llama's or qwen3's it reads the tokenizer as it is. The folder appears whole or not at all.
    Raises UserError when `out` is in use, `folder` holds no model, or the class does not fit it.
    """
    out = Path(out)
    if dtype not in DTYPES:
        raise UserError(f"dtype '{dtype}' is not one of {', '.join(DTYPES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty; name another folder, or remove it")
    model, tokenizer = open_model(folder, dtype=DTYPES[dtype], device="cpu")
    if architecture != "steel":
        model = to_transformers(model, architecture)
    return save_model(out, model, tokenizer=tokenizer)
