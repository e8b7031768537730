"""Hand a model on: a Hugging Face folder with its own code, which loads without `steel`."""

from pathlib import Path

import torch

from ..config import UserError
from ..model.folder import open_model, save_model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def export_hf(folder: Path | str, out: Path | str, dtype: str = "fp32") -> Path:
    """Write the model in `folder`, with tokenizer, chat template and code, to `out`; returns `out`.

    `AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)` loads it anywhere. dtype:
    fp32, or bf16 with half the bytes. The folder appears whole or not at all. Raises UserError when `out` is
    in use or `folder` holds no model.
    """
    out = Path(out)
    if dtype not in DTYPES:
        raise UserError(f"dtype '{dtype}' is not one of {', '.join(DTYPES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty; name another folder, or remove it")
    model, tokenizer = open_model(folder, dtype=DTYPES[dtype], device="cpu")
    return save_model(out, model, tokenizer=tokenizer)
