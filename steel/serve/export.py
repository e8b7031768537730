"""Hand a model on: a Hugging Face folder that carries its own code, so that a machine without `steel` loads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from ..align.stage import open_model, stop_ids
from ..config import UserError
from ..model import SteelForCausalLM

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def export_hf(folder: Path | str, out: Path | str, dtype: str = "fp32") -> Path:
    """Write the model in `folder` to `out` with weights, tokenizer, chat template and code; returns `out`.

    `AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)` loads it anywhere. dtype: fp32 or bf16 (half the
    bytes). The folder appears whole or not at all. Raises UserError when `out` is in use or `folder` holds no model.
    """
    out = Path(out)
    if dtype not in DTYPES:
        raise UserError(f"dtype '{dtype}' is not one of {', '.join(DTYPES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty; name another folder, or remove it")
    model, tokenizer = open_model(folder, DTYPES[dtype])
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    if isinstance(model, SteelForCausalLM):
        stops = stop_ids(tokenizer)
        model.generation_config.eos_token_id, model.generation_config.pad_token_id = (
            stops,
            stops[-1],
        )
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    if isinstance(model, SteelForCausalLM):
        _check_code(fresh)
    if out.exists():
        out.rmdir()
    fresh.rename(out)
    return out


def _check_code(folder: Path) -> None:
    """Every module that config.json points at lies in the folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    modules = {entry.partition(".")[0] for entry in config.get("auto_map", {}).values()}
    assert modules and all((folder / f"{name}.py").is_file() for name in modules), (
        "the export lost the model's code"
    )
