"""The same stage in LLaMA-Factory: OUT/data.jsonl, dataset_info.json, and train.yaml.

    llamafactory-cli train OUT/train.yaml

Its template `chatml` writes Steel's chat template. It packs with `neat_packing`, documents masked.
"""

from pathlib import Path

from ..config import Config, UserError
from ..documents import write_rows
from ..runlog import atomic_write, write_json
from .rows import read_rows
from .stage import STAGES

THEIRS = {"sft": "sft", "reward": "rm", "dpo": "dpo"}
SCHEDULES = {"wsd": "warmup_stable_decay", "constant": "constant_with_warmup"}
TAGS = {f"{key}_tag": key for key in ("role", "content", "user", "assistant", "system")}


def export(stage: str, cfg: Config, model: Path | str, data, out: Path | str) -> Path:
    """Write rows and settings of `cfg.<stage>` to `out`; returns the YAML. Single-process batches."""
    if stage not in THEIRS:
        raise UserError(f"LLaMA-Factory is given {', '.join(THEIRS)}, not '{stage}'")
    out, (_, what, check) = Path(out).resolve(), STAGES[stage]
    rows, _ = read_rows(data, check, what)
    out.mkdir(parents=True, exist_ok=True)
    columns = {"messages": "messages"}
    if stage != "sft":
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    sides = [name for name in columns if name != "messages"]

    def theirs(row: dict) -> dict:
        answers = {side: {"role": "assistant", "content": row[side]} for side in sides}
        return {"messages": row["messages"], **answers}

    write_rows(out / "data.jsonl", map(theirs, rows))
    about = {"file_name": "data.jsonl", "formatting": "sharegpt", "columns": columns, "tags": TAGS}
    about |= {"ranking": True} if sides else {}
    write_json(out / "dataset_info.json", {"steel": about})
    return _yaml(stage, cfg, Path(model).resolve(), out)


def _yaml(stage: str, cfg: Config, model: Path, out: Path) -> Path:
    import yaml

    s = getattr(cfg, stage)
    settings = {
        "stage": THEIRS[stage],
        "do_train": True,
        "model_name_or_path": str(model),
        "trust_remote_code": True,
        "finetuning_type": "lora" if s.lora_rank else "full",
        **({"lora_rank": s.lora_rank, "lora_alpha": s.lora_alpha} if s.lora_rank else {}),
        "dataset_dir": str(out),
        "dataset": "steel",
        "template": "chatml",
        "cutoff_len": s.sequence_length,
        "packing": stage == "sft",
        "neat_packing": stage == "sft",
        "per_device_train_batch_size": s.micro_batch_size,
        "gradient_accumulation_steps": max(1, s.batch_size // s.micro_batch_size),
        "learning_rate": s.learning_rate,
        "num_train_epochs": s.epochs,
        "max_steps": s.steps or -1,
        "lr_scheduler_type": SCHEDULES.get(s.schedule, s.schedule),
        "warmup_steps": s.warmup_steps,
        "weight_decay": s.weight_decay,
        "adam_beta1": s.beta1,
        "adam_beta2": s.beta2,
        "max_grad_norm": s.grad_clip,
        "bf16": s.precision == "bf16",
        "seed": cfg.seed,
        "output_dir": str(out / "run"),
    }
    if stage == "dpo":
        settings |= {"pref_loss": "sigmoid", "pref_beta": s.beta, "pref_ftx": s.nll_weight}
        settings |= {"dpo_label_smoothing": s.label_smoothing}
    atomic_write(out / "train.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return out / "train.yaml"
