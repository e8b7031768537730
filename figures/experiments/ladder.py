"""The ladder: a family of small models, a forecast for a larger one, and then the larger one, to see.

    rungs = [rung(cfg, width, tokens_per_parameter=10) for width in (24, 32, 40, 48, 64)]
    rows = climb(cfg, shards, out, rungs)             every rung through steel.train.pretrain, one row each
    run_ladder(cfg, shards, out, widths=[…], target=96)   the whole experiment, as `steel bench ladder` does it

Models of a family differ in width alone: layers, head width, the ratio of feed-forward to width, batch, vocabulary and
data stay. Each has a schedule of its own that ends at its last token, with the same share of warm-up and decay; a loss
read from the middle of a longer run is no rung (Hoffmann et al. 2022).

OUT/ladder.json is written after every row, and the forecast is in it before the target is trained. The same call after
a crash goes on with the next row, or inside one from its checkpoint.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from steel.config import Config, ModelConfig, UserError
from steel.machine import commit, hardware, packages
from steel.plan.planner import count_parameters, flops_per_token
from steel.runlog import atomic_write, read_log

from . import laws

FRACTIONS = (0.25, 1 / 3, 5 / 12, 0.5, 2 / 3)
"""Widths of the rungs over the target's, where none are given."""
CURVE_POINTS = 40
COUNTS = ("total", "non_embedding", "active_per_token")


@dataclass(frozen=True)
class Rung:
    """One run of a ladder: width [channels], tokens to read, seed, factor on both learning rates, optimizer."""

    width: int
    tokens: int
    seed: int = 1
    rate: float = 1.0
    optimizer: str = "muon"

    @property
    def name(self) -> str:
        """Folder and key of the row."""
        return f"w{self.width}-t{self.tokens}-s{self.seed}-r{self.rate:g}-{self.optimizer}"


def model_at(model: ModelConfig, width: int) -> ModelConfig:
    """The same model at another width [channels]: head width, depth and the feed-forward's ratio stay.

    Raises UserError when the width is no multiple of the head width, or the key/value heads do not come out whole.
    """
    head = model.head_dim or model.hidden_size // model.num_attention_heads
    groups = model.num_attention_heads // model.num_key_value_heads
    heads = width // head
    if width < head or width % head or heads % groups:
        raise UserError(
            f"width {width} is no multiple of {head * groups}, head width times query heads per key/value "
            "head; choose other widths, or set model.head_dim"
        )
    inner = max(8, round(width * model.intermediate_size / model.hidden_size / 8) * 8)
    return replace(
        model,
        hidden_size=width,
        intermediate_size=inner,
        num_attention_heads=heads,
        head_dim=head,
        num_key_value_heads=heads // groups,
    )


def default_widths(model: ModelConfig) -> list[int]:
    """Five widths below the preset's own, from a quarter to two thirds of it, on multiples of the head width."""
    head = model.head_dim or model.hidden_size // model.num_attention_heads
    unit = head * (model.num_attention_heads // model.num_key_value_heads)
    widths = sorted({max(1, round(model.hidden_size * share / unit)) * unit for share in FRACTIONS})
    if len(widths) < 4:
        raise UserError(
            f"heads of {head} channels leave only the widths {widths} below {model.hidden_size}; give "
            "widths, and a smaller model.head_dim"
        )
    return widths


def rung(cfg: Config, width: int, tokens_per_parameter: float, **given) -> Rung:
    """A rung that reads `tokens_per_parameter` tokens for each weight that meets a token, in whole steps."""
    N = count_parameters(model_at(cfg.model, width))["active_per_token"]
    per_step = cfg.train.batch_size * cfg.data.sequence_length
    tokens = max(1, round(tokens_per_parameter * N / per_step)) * per_step
    return Rung(width, tokens, **({"seed": cfg.seed, "optimizer": cfg.train.optimizer} | given))


def config_of(cfg: Config, one: Rung) -> Config:
    """The configuration that a rung is pretrained with."""
    train = cfg.train
    steps = max(1, round(one.tokens / (train.batch_size * cfg.data.sequence_length)))
    warmup = min(0.1, train.warmup_steps / max(train.steps, 1))
    settings = replace(
        train,
        steps=steps,
        optimizer=one.optimizer,
        learning_rate=train.learning_rate * one.rate,
        muon_learning_rate=train.muon_learning_rate * one.rate,
        warmup_steps=max(1, round(warmup * steps)),
        eval_every=0,
        log_every=max(1, steps // CURVE_POINTS),
    )
    return replace(cfg, seed=one.seed, model=model_at(cfg.model, one.width), train=settings)


def work(cfg: Config, one: Rung) -> float:
    """FLOPs that a rung costs (executed, causal)."""
    return (
        flops_per_token(model_at(cfg.model, one.width), cfg.data.sequence_length).total * one.tokens
    )


def train_rung(
    cfg: Config, data: Path | str, folder: Path | str, one: Rung, keep: bool = False
) -> dict:
    """Pretrain one rung on the shards in `data`; returns its row, ready for JSON.

    keep: leave the model and its checkpoints in `folder`, not the log alone. Raises UserError for shards without a
    validation split, on which every rung is judged.
    """
    from steel.train.pretrain import pretrain

    own, folder = config_of(cfg, one), Path(folder)
    began, worked = time.perf_counter(), time.process_time()
    pretrain(own, data, folder)
    wall, cpu = time.perf_counter() - began, time.process_time() - worked
    log = read_log(folder / "log.jsonl")
    scores = [r for r in log if r["kind"] == "eval" and r["step"] == own.train.steps]
    if not scores:
        raise UserError(f"{data} holds no validation documents; pack it with hold_out above 0")
    if not keep:
        for name in ("checkpoints", "hf"):
            shutil.rmtree(folder / name, ignore_errors=True)
    steps = [r for r in log if r["kind"] == "step"]
    corpus = next(r["corpus_tokens"] for r in log if r["kind"] == "header")
    count = count_parameters(own.model)
    return {
        "name": one.name,
        **asdict(one),
        "parameters": {name: count[name] for name in COUNTS},
        "steps": own.train.steps,
        "loss": scores[-1]["loss"],
        "by_source": scores[-1]["by_source"],
        "train_loss": steps[-1]["loss"],
        "flops": work(cfg, one),
        "epochs": round(one.tokens / corpus, 4),
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "config_hash": own.hash(),
        "curve": {key: [round(r[key], 4) for r in steps] for key in ("tokens", "loss")},
    }


class Ledger:
    """OUT/ladder.json: header, rows, forecast, result. Opening a file of another experiment is refused."""

    def __init__(self, out: Path | str, cfg: Config, data: Path | str):
        from steel.data.shards import read_manifest

        self.out, self.path = Path(out), Path(out) / "ladder.json"
        manifest = read_manifest(Path(data))
        header = {
            "preset": cfg.preset,
            "config": cfg.to_dict(),
            "config_hash": cfg.hash(),
            "data": {
                "tokens": manifest["tokens"],
                "bytes": manifest["bytes"],
                "documents": manifest["documents"],
                "vocab_size": manifest["vocab_size"],
                "sources": _train_tokens(manifest),
                "hash": manifest["generations"][-1]["hash"],
            },
        }
        self.content = {"kind": "ladder", "header": header, "rows": []}
        if self.path.exists():
            self.content = json.loads(self.path.read_text(encoding="utf-8"))
            found = self.content["header"]
            if (found["config_hash"], found["data"]["hash"]) != (
                header["config_hash"],
                header["data"]["hash"],
            ):
                raise UserError(
                    f"{self.path} holds a ladder with another configuration or other data; use another "
                    "folder"
                )
        self.content["header"] |= {
            "commit": commit(),
            "packages": packages(),
            "hardware": hardware(),
        }

    @property
    def rows(self) -> list[dict]:
        """Rows so far, in the order in which they were trained."""
        return self.content["rows"]

    def row(self, one: Rung) -> dict | None:
        """The row of a rung, or None."""
        return next((row for row in self.rows if row["name"] == one.name), None)

    def add(self, row: dict) -> None:
        """Append a row and write the file."""
        self.rows.append(row)
        self.write()

    def write(self, **more) -> None:
        """Write the file whole, with `more` at its top level."""
        self.content |= more
        lines = {key: json.dumps(value, ensure_ascii=False) for key, value in self.content.items()}
        lines["rows"] = (
            "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in self.rows) + "\n]"
        )
        atomic_write(
            self.path, "{" + ",\n".join(f'"{key}": {line}' for key, line in lines.items()) + "}\n"
        )


def climb(
    cfg: Config,
    data: Path | str,
    out: Path | str,
    rungs: list[Rung],
    say=None,
    ledger: Ledger | None = None,
):
    """Train every rung that has no row in OUT/ladder.json yet; returns the rows of `rungs`, in their order.

    say(row): called with every row, a finished one included.
    """
    ledger = ledger or Ledger(out, cfg, data)
    for one in rungs:
        row = ledger.row(one)
        if row is None:
            row = train_rung(cfg, data, ledger.out / one.name, one)
            ledger.add(row)
        if say is not None:
            say(row)
    return [ledger.row(one) for one in rungs]


def run_ladder(
    cfg: Config,
    data: Path | str,
    out: Path | str,
    *,
    widths: list[int] | None = None,
    target: int = 0,
    tokens_per_parameter: float = 20,
    repeats: int = 2,
    others: list[float] | None = None,
    rates: list[float] | None = None,
    rate_steps: int = 0,
    say=None,
) -> dict:
    """Rungs, forecast, target, and what became of the forecast; returns what OUT/ladder.json holds.

    widths: of the rungs; default five below the preset's. target: width to forecast; default the preset's. repeats:
    further seeds of the two smallest rungs, for the noise. others: further tokens per parameter for the first, second
    and fourth rung, which L(N, D) needs. rates: factors on the learning rates, tried with both optimizers at the
    smallest, a middle and the target width for `rate_steps` steps.
    """
    ledger, target = Ledger(out, cfg, data), target or cfg.model.hidden_size
    widths = sorted(widths or default_widths(cfg.model))
    if len(set(widths)) < 4 or target <= widths[-1]:
        raise UserError(
            f"a ladder needs at least four widths below its target of {target}, not {widths}"
        )
    if repeats < 1:
        raise UserError("repeats must be at least 1: without a second seed there is no interval")
    model_at(cfg.model, target)
    base = [rung(cfg, width, tokens_per_parameter) for width in widths]
    extra = [replace(one, seed=one.seed + 1 + i) for i in range(repeats) for one in base[:2]]
    rows = climb(cfg, data, out, base + extra, say, ledger)
    goal = rung(cfg, target, tokens_per_parameter)
    if ledger.row(goal) is None:
        ledger.write(
            forecast=predict(rows, count_parameters(model_at(cfg.model, target)), work(cfg, goal))
        )
    found = climb(cfg, data, out, [goal], say, ledger)[0]
    ledger.write(result=judge(ledger.content["forecast"], found["loss"]))
    per_step = cfg.train.batch_size * cfg.data.sequence_length
    curves = [
        Rung(w, (rate_steps or base[0].tokens // per_step) * per_step, cfg.seed, rate, optimizer)
        for optimizer in ("adamw", "muon")
        for w in (widths[0], widths[len(widths) // 2 + 1], target)
        for rate in rates or []
    ]
    climb(cfg, data, out, curves, say, ledger)
    chosen = [widths[i] for i in (0, 1, min(3, len(widths) - 1))]
    climb(cfg, data, out, [rung(cfg, w, k) for k in others or [] for w in chosen], say, ledger)
    return ledger.content


def predict(rows: list[dict], parameters: dict[str, int], flops: float) -> dict:
    """Forecasts for a model with these parameters by every way of counting, and by compute; JSON-ready.

    rows: of one ladder, some with the same width and another seed.
    """
    by_width: dict[int, list[float]] = {}
    for row in rows:
        by_width.setdefault(row["width"], []).append(row["loss"])
    noise, freedom = laws.seed_noise(by_width.values())
    losses = [row["loss"] for row in rows]
    ends = {name: ([row["parameters"][name] for row in rows], parameters[name]) for name in COUNTS}
    ends["flops"] = ([row["flops"] for row in rows], flops)
    made = {
        name: laws.forecast(x, losses, at, noise, freedom).to_dict()
        for name, (x, at) in ends.items()
    }
    return {"rows": len(rows), "noise": noise, "freedom": freedom, "by": made}


def judge(forecast: dict, loss: float) -> dict:
    """What became of a forecast: the loss, and by every x the error and whether the intervals held it."""
    by = {
        name: {
            "error": f["loss"] / loss - 1,
            "held": f["low"] <= loss <= f["high"],
            "held_honest": f["honest"][0] <= loss <= f["honest"][1],
        }
        for name, f in forecast["by"].items()
    }
    return {"loss": loss, "by": by}


def render(content: dict) -> str:
    """The experiment in a few lines."""
    lines = [
        f"{'width':>6} {'tokens':>12} {'seed':>4} {'rate':>5} {'optimizer':>9} {'parameters':>12} {'loss':>7}"
    ]
    lines += [
        f"{r['width']:>6} {r['tokens']:>12,} {r['seed']:>4} {r['rate']:>5g} {r['optimizer']:>9} "
        f"{r['parameters']['active_per_token']:>12,} {r['loss']:>7.4f}"
        for r in content["rows"]
    ]
    if "forecast" in content:
        for name, f in content["forecast"]["by"].items():
            lines.append(
                f"by {name:<18} forecast {f['loss']:.4f}  seeds {f['low']:.4f} to {f['high']:.4f}  "
                f"honest {f['honest'][0]:.4f} to {f['honest'][1]:.4f}  floor {f['law']['floor']:.3f}"
            )
    if "result" in content:
        lines.append(
            f"trained            loss {content['result']['loss']:.4f}; "
            + ", ".join(
                f"by {name} {b['error']:+.2%}{'' if b['held'] else ' (missed)'}"
                for name, b in content["result"]["by"].items()
            )
        )
    return "\n".join(lines)


def share_of_cost(rows: list[dict], flops: float) -> float:
    """FLOPs of these rows over the FLOPs of the run they are to forecast [1]."""
    return math.fsum(row["flops"] for row in rows) / flops


def _train_tokens(manifest: dict) -> dict[str, int]:
    tokens: dict[str, int] = {}
    for shard in manifest["shards"]:
        if shard["split"] == "train":
            tokens[shard["source"]] = tokens.get(shard["source"], 0) + shard["tokens"]
    return tokens
