"""The ladder: a family of small models, a forecast for a larger one, and then the larger one, to see.

    rungs = [rung(cfg, width, tokens_per_parameter=10) for width in (24, 32, 40, 48, 64)]
    rows = climb(cfg, shards, out, rungs)             every rung through steel.train.pretrain, one row each
    run_ladder(cfg, shards, out, widths=[…], target=96)   the whole experiment, as the command does it

Models of a family differ in width alone: layers, head width, the ratio of feed-forward to width, batch, vocabulary and
data stay. Each has a schedule of its own that ends at its last token, with the same share of warm-up and decay; a loss
read from the middle of a longer run is no rung (Hoffmann et al. 2022).

OUT/ladder.json is written after every row, and the forecast is in it before the target is trained. The same call after
a crash goes on with the next row, or inside one from its checkpoint.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from steel.config import Config, ModelConfig, UserError, load
from steel.plan import count_parameters, flops_per_token

from . import command, laws, numbers
from .ledger import Ledger
from .runs import train_run

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
    own, folder = config_of(cfg, one), Path(folder)
    done = train_run(own, data, folder)
    if not keep:
        for name in ("checkpoints", "hf"):
            shutil.rmtree(folder / name, ignore_errors=True)
    count = count_parameters(own.model)
    return {
        "name": one.name,
        **asdict(one),
        "parameters": {name: count[name] for name in COUNTS},
        "steps": own.train.steps,
        "loss": done.score["loss"],
        "by_source": done.score["by_source"],
        "train_loss": done.steps[-1]["loss"],
        "flops": work(cfg, one),
        "epochs": round(one.tokens / done.header["corpus_tokens"], 4),
        "seconds": done.seconds,
        "cpu_seconds": done.cpu_seconds,
        "config_hash": own.hash(),
        "curve": {key: [round(r[key], 4) for r in done.steps] for key in ("tokens", "loss")},
    }


def open_ledger(out: Path | str, cfg: Config, data: Path | str) -> Ledger:
    """OUT/ladder.json for this configuration and these shards: rows, forecast, result."""
    from steel.data.shards import read_manifest

    manifest = read_manifest(Path(data))
    names = ("tokens", "bytes", "documents", "vocab_size")
    corpus = {name: manifest[name] for name in names} | {
        "sources": _train_tokens(manifest),
        "hash": manifest["generations"][-1]["hash"],
    }
    same = {"config_hash": cfg.hash(), "config": cfg.to_dict(), "data": corpus}
    return Ledger(Path(out) / "ladder.json", "ladder", same)


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
    ledger = ledger or open_ledger(out, cfg, data)
    by_name = {one.name: one for one in rungs}

    def work(key: dict) -> dict:
        return train_rung(cfg, data, Path(out) / key["name"], by_name[key["name"]])

    return ledger.fill([{"name": name} for name in by_name], work, say)


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
    ledger, target = open_ledger(out, cfg, data), target or cfg.model.hidden_size
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
    if ledger.find(name=goal.name) is None:
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


def main(
    data: Path,
    out: Path,
    overrides: list[str],
    preset: str = "gpu1",
    widths: str = "",
    target: int = 0,
    tokens_per_parameter: float = 20.0,
    repeats: int = 2,
    others: str = "",
    rates: str = "",
    rate_steps: int = 0,
) -> None:
    """Train a ladder of small models, forecast a larger one, train it too, and tell the forecast's error.

    data: token shards with a validation split. out: folder for the runs and ladder.json. widths: of the rungs, as
    192,256,384. others: further tokens per parameter, as 10,40. rates: factors on the rates to try, as 0.5,1,2.
    The rest as in `run_ladder`.
    """
    content = run_ladder(
        load(preset, overrides),
        data,
        out,
        widths=numbers("widths", widths, int) or None,
        target=target,
        tokens_per_parameter=tokens_per_parameter,
        repeats=repeats,
        others=numbers("others", others, float),
        rates=numbers("rates", rates, float),
        rate_steps=rate_steps,
    )
    print(render(content))
    print(f"report            {out / 'ladder.json'}")


if __name__ == "__main__":
    command(main)
