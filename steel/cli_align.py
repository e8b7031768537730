"""The commands of the stages after pretraining: `sft`, `reward`, `dpo`, `grpo`, `sample`."""

from pathlib import Path
from typing import Annotated

from typer import Option

from .cli_common import Overrides, Preset, command, say
from .config import Config, UserError, load

Run = Annotated[Path, Option("--run", "-r", help="RUN folder.")]
From = Annotated[Path | None, Option("--model", "-m", help="Folder to start from.")]
Rows = Annotated[list[Path] | None, Option("--data", "-d", help="jsonl files.")]
SELF_COGNITION_REPEATS = 16


def _ready(stage: str, rows: str, preset: str, overrides, model, data) -> Config:
    cfg = load(preset, overrides)
    if model is None or not data:
        raise UserError(f"steel {stage} needs --model FOLDER and --data {rows}")
    return cfg


@command(
    "sft",
    "steel sft --model runs/laptop/pretrain/hf --data sft.jsonl --run runs/sft",
    "steel sft --preset minillm-0.2b -m base -d alpaca.jsonl -r runs/chat --name 小明 --author 李华",
    doc="SFT: from a model folder and sft.jsonl.",
)
def sft(
    run: Run,
    model: From = None,
    data: Rows = None,
    preset: Preset = "laptop",
    replay: Annotated[Path | None, Option(help="Token shards for sft.replay_rows.")] = None,
    name: Annotated[str, Option(help="Teach it this name.")] = "",
    author: Annotated[str, Option(help="… who trained it.")] = "",
    date: Annotated[str, Option(help="… and when.")] = "",
    overrides: Overrides = None,
) -> None:
    cfg = _ready("sft", "sft.jsonl", preset, overrides, model, data)
    from .align.stage import run as train

    if cfg.sft.replay_rows and replay is None:
        say("no --replay SHARDS: sft.replay_rows is not used")
    asked = {"name": name, "author": author, "date": date}
    if given := {key: value for key, value in asked.items() if value}:
        from .corpus.world.post import write_self_cognition

        file = run / "self_cognition.jsonl"
        write_self_cognition(file, cfg.world, cfg.seed, **given)
        data = [*data, *[file] * SELF_COGNITION_REPEATS]
    say(f"model  {train('sft', cfg, model, data, run, replay=replay)}")


def _stage(name: str, rows: str) -> None:
    """Add the command of a stage, which reads `rows`."""
    example = f"steel {name} --model runs/laptop/sft/hf --data {rows} --run runs/{name}"

    @command(name, example, doc=f"{name.upper()}: from a model folder and {rows}.")
    def work(
        run: Run,
        model: From = None,
        data: Rows = None,
        preset: Preset = "laptop",
        overrides: Overrides = None,
    ) -> None:
        cfg = _ready(name, rows, preset, overrides, model, data)
        from .align.stage import run as train

        say(f"model  {train(name, cfg, model, data, run)}")


_stage("reward", "preference.jsonl")
_stage("dpo", "preference.jsonl")
_stage("grpo", "rl.jsonl")


@command(
    "sample",
    "steel sample --model runs/laptop/sft/hf --data rl.jsonl --run runs/own grpo.group_size=8",
)
def sample(
    run: Run,
    model: From = None,
    data: Rows = None,
    preset: Preset = "laptop",
    overrides: Overrides = None,
) -> None:
    """A model's own answers to RL prompts, judged: pairs for DPO, rows for SFT, prompts for GRPO."""
    cfg = _ready("sample", "rl.jsonl", preset, overrides, model, data)
    from .align.samples import sample as work

    report = work(cfg, model, data, run)
    shares = f"pass@1 {report['pass_at_1']:.1%}   pass@{report['k']} {report['pass_at_k']:.1%}"
    say(f"{shares}   of {report['prompts']:,} prompts")
    for name, rows in report["rows"].items():
        say(f"{rows:>8,} rows  {run / name}.jsonl")


@command(
    "export llama-factory",
    "steel export llama-factory sft --model runs/laptop/pretrain/hf --data sft.jsonl --run out",
)
def export_llama_factory(
    stage: str,
    run: Run,
    model: From = None,
    data: Rows = None,
    preset: Preset = "laptop",
    overrides: Overrides = None,
) -> None:
    """Rows and settings of a stage (sft, reward, dpo) as data and YAML for LLaMA-Factory."""
    cfg = _ready("export llama-factory", "rows.jsonl", preset, overrides, model, data)
    from .align.llama_factory import export

    say(f"settings  {export(stage, cfg, model, data, run)}")
