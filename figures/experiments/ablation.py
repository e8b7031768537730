"""Feed-forward layers compared under the same budget: the same tokens, or the same FLOPs, several seeds each.

A row is one variant with one seed. It is trained by `steel.train.pretrain` like any other run, so a killed row goes on
from its checkpoint; finished rows stand in the JSON file and are not trained again. Beside the usual held-out loss each
row is asked for the loss that a reader of the model would see: on prefixes, where the future does not exist, and with
cached decoding. For a causal layer the three are one number; for a layer that looks ahead they are not.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from steel.config import Config, ModelConfig, UserError, from_dict, load
from steel.data.loader import Loader
from steel.data.shards import ShardSet
from steel.model.build import decoder_layers
from steel.model.decoding import CACHE
from steel.plan import count_parameters, flops_per_token

from . import command
from .ledger import Ledger
from .runs import train_run

BUDGETS = ("tokens", "flops")
FURTHER = 2
"""Rates that `tune_rates` may try beyond each variant's list."""
REFERENCE = "dense"
"""What a budget of FLOPs is measured by: this variant trained for `train.steps` steps."""


def _historical(**fields) -> dict:
    """Steel-LLM's own layers have its double expert: a third more weights per unit of width, so a quarter narrower."""
    return {**fields, "expert": "double_swiglu"}


# name -> feed-forward settings; with E = model.num_experts and f = dense width / E, all but the first two have the
# parameters of E experts of width f
VARIANTS: dict[str, dict] = {
    "none": {"feed_forward": "none"},
    "one expert": {"feed_forward": "dense"},
    "dense": {"feed_forward": "dense"},
    "two gates": _historical(feed_forward="dense"),
    "top-2": {"feed_forward": "top_k_moe", "experts_per_token": 2},
    "v1": _historical(feed_forward="soft_moe_v1"),
    "v2": _historical(feed_forward="soft_moe_v2"),
    "v3": _historical(feed_forward="soft_moe_v3"),
    "v3 awake": _historical(feed_forward="soft_moe_v3", soft_moe_normalize_slots=True),
    "v1 one gate": {"feed_forward": "soft_moe_v1"},
    "v2 one gate": {"feed_forward": "soft_moe_v2"},
    "v3 one gate": {"feed_forward": "soft_moe_v3"},
    "causal": {"feed_forward": "causal_soft_moe", "num_shared_experts": 1},
    "placebo": {"feed_forward": "causal_soft_moe", "num_shared_experts": 1},
    "slots only": {"feed_forward": "causal_soft_moe"},
}
EMPTY_SLOTS = 60.0
"""rho of the placebo: its prior weighs e^60 tokens, so no slot ever reads one. Weights, FLOPs and time are those of
*causal*; only the content is missing."""
SEVEN = ("dense", "v1", "v2", "v3", "causal", "top-2", "none")
"""One variant for each value of `model.feed_forward`."""


def variant_model(model: ModelConfig, name: str) -> ModelConfig:
    """`model`, which is dense, with the feed-forward of variant `name`: its width is shared out among E experts."""
    if name not in VARIANTS:
        raise UserError(f"unknown variant '{name}'; valid: {', '.join(VARIANTS)}")
    E, width = model.num_experts, model.intermediate_size
    if model.feed_forward != "dense" or model.expert != "swiglu":
        raise UserError(
            "an ablation starts from model.feed_forward=dense and model.expert=swiglu, not from "
            f"{model.feed_forward} and {model.expert}"
        )
    if E < 2 or width % (4 * E):
        raise UserError(
            f"model.intermediate_size={width} must be a multiple of 4 x model.num_experts={E}, and that "
            "above 1, so that the experts together are as wide as the dense layer"
        )
    fields = {"num_shared_experts": 0, **VARIANTS[name]}
    width = width if name in ("dense", "two gates") else width // E
    return dataclasses.replace(
        model,
        **fields,
        num_experts=E - fields["num_shared_experts"],
        intermediate_size=width * 3 // 4 if "expert" in fields else width,
    )


def row_config(cfg: Config, name: str, seed: int, budget: str = "tokens") -> Config:
    """The configuration of one row: the variant's model, the seed, and the steps that the budget buys."""
    if budget not in BUDGETS:
        raise UserError(f"--budget is tokens or flops, not '{budget}'")
    row = from_dict(cfg.to_dict())
    row.model, row.seed = variant_model(cfg.model, name), seed
    if budget == "flops":
        models = (variant_model(cfg.model, variant) for variant in (REFERENCE, name))
        cost = [flops_per_token(model, cfg.data.sequence_length).total for model in models]
        row.train.steps = round(cfg.train.steps * cost[0] / cost[1])
    return row


class OutOfTime(Exception):
    """The deadline has passed; what is finished is in the files."""


def _row(cfg: Config, name: str, rate: float, data, rows: str, deadline: float | None) -> dict:
    """`train_row` of a variant at a rate, in a folder of `rows` that is gone afterwards."""
    if deadline is not None and time.monotonic() > deadline:
        raise OutOfTime("the time limit is reached")
    cfg.train.learning_rate = rate
    folder = Path(rows) / f"{name.replace(' ', '-')}-{cfg.seed}-{rate:g}"
    row = train_row(cfg, data, folder, empty_slots=name == "placebo")
    shutil.rmtree(folder, ignore_errors=True)
    return row


def run_ablation(
    cfg: Config,
    data: Path | str,
    out: Path | str,
    *,
    variants: tuple[str, ...] = SEVEN,
    seeds: int = 3,
    budget: str = "tokens",
    rates: dict[str, float] | None = None,
    deadline: float | None = None,
    say=print,
) -> dict:
    """Train every variant with seeds cfg.seed … cfg.seed + seeds - 1 on the shards in `data`; returns what `out` holds.

    out: JSON file, written after each row; rows that it already holds are skipped, and a file of another configuration
    is refused. Work in progress lies beside it in `<out>.rows/`. rates: learning rate by variant, where it is not
    cfg's (see `tune_rates`). deadline: by time.monotonic(); OutOfTime before a row that would begin after it.
    """
    for name in variants:  # a mistake is told before the first hour, not after it
        row_config(cfg, name, cfg.seed, budget)
    same = {"budget": budget, "config_hash": cfg.hash(), "config": cfg.to_dict()}
    ledger = Ledger(out, "ablation", same)

    def work(key: dict) -> dict:
        name, seed = key["variant"], key["seed"]
        rate = (rates or {}).get(name, cfg.train.learning_rate)
        row = _row(row_config(cfg, name, seed, budget), name, rate, data, f"{out}.rows", deadline)
        row["learning_rate"] = rate
        say(render_row({**key, **row}))
        return row

    seeds = range(cfg.seed, cfg.seed + seeds)
    ledger.fill([{"variant": name, "seed": seed} for seed in seeds for name in variants], work)
    shutil.rmtree(f"{out}.rows", ignore_errors=True)
    return ledger.content


def tune_rates(
    cfg: Config,
    data: Path | str,
    out: Path | str,
    variants: tuple[str, ...],
    rates: list[float],
    deadline: float | None = None,
) -> dict[str, float]:
    """The rate of lowest held-out loss for each variant, out of `rates`, with seed cfg.seed and cfg.train.steps steps.

    out: JSON file of all rows, written after each. Where the best is an end of `rates`, the next may be better: twice
    or half of it is tried too, at most `FURTHER` times; an end that is still best is taken, and said.
    """
    same = {"config_hash": cfg.hash(), "config": cfg.to_dict()}
    ledger = Ledger(out, "ablation-rates", same)

    def work(key: dict) -> dict:
        name, rate = key["variant"], key["rate"]
        row = _row(row_config(cfg, name, cfg.seed), name, rate, data, f"{out}.rows", deadline)
        return {name: row[name] for name in ("steps", "tokens", "loss", "cpu_seconds")}

    best = {}
    for name in variants:
        tried = sorted(rates)
        for left in reversed(range(FURTHER + 1)):
            found = ledger.fill([{"variant": name, "rate": rate} for rate in tried], work)
            best[name] = min(found, key=lambda row: row["loss"])["rate"]
            if best[name] not in (tried[0], tried[-1]):
                break
            if not left:
                print(f"{name}: {best[name]:g} is best and the end of what was tried", flush=True)
            elif best[name] == tried[0]:
                tried.insert(0, tried[0] / 2)
            else:
                tried.append(tried[-1] * 2)
    return best


def train_row(
    cfg: Config, data: Path | str, folder: Path | str, *, empty_slots: bool = False
) -> dict:
    """Train one row in `folder` and measure it. Losses are in nats per token, FLOPs per trained token.

    empty_slots: of a causal mixture; its slots see their prior alone, from before the first step to the end.
    """
    ids_BT, _ = held_out_rows(data, cfg.data.sequence_length, 4)

    def measure(model, step: int) -> dict:
        if empty_slots and step == 0:  # the loop validates before its first step
            hold_slots_empty(model)
        return {"branch_ratio": branch_ratios(model, ids_BT)}

    done = train_run(cfg, data, folder, measure=measure)
    T, second_half = cfg.data.sequence_length, done.steps[-len(done.steps) // 2 :]
    return {
        "seed": cfg.seed,
        "steps": cfg.train.steps,
        "tokens": cfg.train.steps * cfg.train.batch_size * T,
        "parameters": count_parameters(cfg.model)["total"],
        "flops_per_token": flops_per_token(cfg.model, T).total,
        "loss": done.score["loss"],
        "curve": [[r["tokens"], r["loss"]] for r in done.evals],
        "ratio": [[r["step"], r["branch_ratio"]] for r in done.evals],
        **honest_losses(_load(folder), data, T),
        "loss_by_position": list(position_losses(_load(folder), data, T, cfg.model.segment_length)),
        "tokens_per_s": statistics.median(r["tokens_per_s"] for r in second_half),
        "cpu_seconds": done.cpu_seconds,
    }


@torch.no_grad()
def hold_slots_empty(model) -> None:
    """Give each slot's prior a weight beside which no token counts; its gradient vanishes, so it stays."""
    for layer in decoder_layers(model):
        weight = layer.mlp.prior_weight
        weight.fill_(EMPTY_SLOTS)
        getattr(weight, "master", weight).fill_(EMPTY_SLOTS)  # of which a bf16 run shows a copy


# -- measuring ---------------------------------------------------------------------------------------------------------


def held_out_rows(data: Path | str, length: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(inputs, targets) of the first held-out rows that are full of text, (B, length), B ≤ rows."""
    shards = ShardSet.open(data, "validation", check=False)
    if not shards.pieces:
        nothing = f"the shards in {data} hold no validation documents"
        raise UserError(f"{nothing}; pack them with --hold-out 0.02")
    batch = Loader(shards, length, rows, 0, mask_documents=False).batch(0)
    full_B = (batch.targets >= 0).all(dim=1)
    return batch.input_ids[full_B], batch.targets[full_B]


@torch.no_grad()
def branch_ratios(model, ids_BT: torch.Tensor) -> list[float]:
    """RMS of each layer's feed-forward output over RMS of the residual stream it joins; [] without feed-forward."""
    layers = decoder_layers(model)
    if getattr(layers[0], "mlp", None) is None:
        return []
    written, stream, hooks = [], [], []

    def watch(module, rms: list, part: int) -> None:
        """Note the RMS of what a module returns, of a tuple that of one part."""

        def note(_, args, out) -> None:
            out = out[part] if isinstance(out, tuple) else out
            rms.append(out.float().square().mean().sqrt())

        hooks.append(module.register_forward_hook(note))

    for layer in layers:
        watch(layer.post_attention_layernorm, stream, 1)  # (normed, the stream it adds to)
        watch(layer.mlp, written, 0)
    try:
        with torch.compiler.set_stance("force_eager"):  # a compiled block would not see the hooks
            model(input_ids=ids_BT.to(next(model.parameters()).device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [float(f"{float(a / b):.4g}") for a, b in zip(written, stream, strict=True)]


@torch.no_grad()
def honest_losses(model, data: Path | str, length: int, rows: int = 32, points: int = 16) -> dict:
    """Loss of the same predictions with the future in the batch, without it, and with cached decoding [nats/token].

    Of `rows` held-out rows of `length` tokens, the predictions at `points` evenly spaced positions are compared:
    paired_loss (whole rows, as in training), prefix_loss (rows cut off behind the position), cached_loss (one token at
    a time). Equal for a causal model.
    """
    device = next(model.parameters()).device
    ids_BT, targets_BT = (x.to(device) for x in held_out_rows(data, length, rows))
    last = [round(length * (i + 1) / points) - 1 for i in range(points)]

    def loss(logits_BPV):  # P: the points
        flat = logits_BPV.float().flatten(0, 1)
        return float(F.cross_entropy(flat, targets_BT[:, last].flatten()))

    def prefix(t: int) -> torch.Tensor:
        return model(input_ids=ids_BT[:, : t + 1], use_cache=False, logits_to_keep=1).logits[:, 0]

    whole = model(input_ids=ids_BT, use_cache=False).logits[:, last]
    cut = torch.stack([prefix(t) for t in last], dim=1)
    cache, steps = None, []
    for t in range(length):
        out = model(input_ids=ids_BT[:, t : t + 1], use_cache=True, **{CACHE: cache})
        cache = out[CACHE]
        if t in last:
            steps.append(out.logits[:, 0])
    return {
        "paired_loss": loss(whole),
        "prefix_loss": loss(cut),
        "cached_loss": loss(torch.stack(steps, dim=1)),
        "paired_predictions": len(ids_BT) * points,
    }


@torch.no_grad()
def position_losses(
    model, data: Path | str, length: int, first: int, rows: int = 32
) -> tuple[float, float]:
    """Loss over the first `first` positions of held-out rows, and over the others [nats/token]."""
    device = next(model.parameters()).device
    ids_BT, targets_BT = (x.to(device) for x in held_out_rows(data, length, rows))
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits.float()
    loss_BT = F.cross_entropy(logits_BTV.transpose(1, 2), targets_BT, reduction="none")
    return float(loss_BT[:, :first].mean()), float(loss_BT[:, first:].mean())


def summary(report: dict) -> dict[str, dict]:
    """Variant -> means over seeds of every number in its rows, and `loss_range` = (lowest, highest, seeds)."""
    found: dict[str, dict] = {}
    for name in dict.fromkeys(row["variant"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["variant"] == name]
        numbers = [k for k, v in rows[0].items() if isinstance(v, (int, float))]
        mean = {k: math.fsum(r[k] for r in rows) / len(rows) for k in numbers}
        losses = [row["loss"] for row in rows]
        found[name] = {**mean, "loss_range": (min(losses), max(losses), len(losses))}
    return found


def render_row(row: dict) -> str:
    """One row in one line."""
    return (
        f"{row['variant']:<11} seed {row['seed']}  {row['steps']:>6,} steps  {row['flops_per_token'] / 1e6:7.2f} "
        f"MFLOP/token  loss {row['loss']:.4f}  prefix {row['prefix_loss'] - row['paired_loss']:+.4f}  "
        f"cached {row['cached_loss'] - row['paired_loss']:+.4f}  {row['cpu_seconds']:.0f} CPU s"
    )


def _load(folder: Path | str):
    from steel.model import SteelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return SteelForCausalLM.from_pretrained(Path(folder) / "hf").to(device).eval()


def main(
    data: Path,
    out: Path,
    overrides: list[str],
    preset: str = "ablation",
    variants: str = "",
    seeds: int = 3,
    budget: str = "flops",
    rates: str = "",
    rate_steps: int = 300,
) -> None:
    """Compare feed-forward layers under one budget; the same command goes on where it stopped.

    data: token shards with a validation split. out: JSON file, written after each row. variants: names with commas;
    by default one for each feed-forward. budget: tokens, or flops: as many as dense uses. rates: learning rates with
    commas, ascending, of which each variant gets its best after rate_steps steps; they go to OUT's name with -rates.
    """
    names = tuple(name.strip() for name in variants.split(",")) if variants else SEVEN
    cfg, best = load(preset, overrides), None
    if rates:
        short = load(preset, [*overrides, f"train.steps={rate_steps}"])
        tried = [float(rate) for rate in rates.split(",")]
        beside = out.with_name(f"{out.stem}-rates{out.suffix}")
        best = tune_rates(short, data, beside, names, tried)
    run_ablation(cfg, data, out, variants=names, seeds=seeds, budget=budget, rates=best)
    print(f"report  {out}")


if __name__ == "__main__":
    command(main)
