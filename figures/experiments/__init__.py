"""What writes the committed logs under figures/runs: `python -m figures.experiments.NAME --help`.

ablation  feed-forwards under one budget       ladder   small models forecast a larger one (laws: the fits)
reading   what they say at three budgets         ablation_times  a step of each beside dense
question  five of them where it counts, on a GPU  verdicts  what a comparison with seeds may say
table2    the paper's table on one GPU         loader   this loader and its peers
town      chapter 12's ladder under five seeds
drills    a run that is broken on purpose      communication   bytes between FSDP ranks
data_rates  megabytes a core prepares and packs   data  the operators and Data-Juicer
convert   what two conversions keep of raw files: chapter 02
clean     what each operator of two recipes removes: chapter 03
parity_rl  imitation, then GRPO, on the parity of bits: chapter 16
prompt_reading  what a reward pays that reads the prompt: chapter 16
preferences  written pairs and the model's own: chapter 15   parity_dpo  its toy, in the notebook
life_seeds  what each stage of a life changes, over seeds   name_length  names of unequal length: chapter 14
letters  one exam asked in four ways: chapter 17        harness  what the form of an exam is worth: chapter 17
lessons  what fine-tuning rows do to a life, under several seeds: chapter 14
shipping  files of a model read by strangers: chapter 18
compression  what a vocabulary of each size does to held-out text   merging  a model's vocabulary grows
vocabularies  three of them by what a model makes of them: chapter 13
bits  one thing changed in a run, and how far that carries: chapter 19
micro_batch  three presets at three sizes on a GPU   trainer_check  before any of these measures

`ledger` is the JSON file that all of them write and go on from, `processes` runs what needs a process of its own.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

from steel.config import UserError


def command(function) -> None:
    """`function` as a command line: parameters are options, one named `overrides` takes the rest; exits with its code.

    A GPU box has no typer. A user's mistake is one line and exit code 2.
    """
    module = Path(inspect.getfile(function)).stem
    parser = argparse.ArgumentParser(
        prog=f"python -m figures.experiments.{module}",
        description=inspect.getdoc(function),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        default, kind = parameter.default, parameter.annotation
        option = "--" + name.replace("_", "-")
        if name == "overrides":
            parser.add_argument(name, nargs="*", metavar="section.key=value")
        elif kind is bool:
            parser.add_argument(option, default=default, action=argparse.BooleanOptionalAction)
        elif default is parameter.empty:
            parser.add_argument(option, type=kind, required=True)
        else:
            parser.add_argument(option, type=kind, default=default)
    try:
        raise SystemExit(function(**vars(parser.parse_args())) or 0)
    except (UserError, FileNotFoundError) as error:  # a log or a life that is not there
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def numbers(name: str, text: str, kind: type) -> list:
    """The numbers of an option such as 192,256,384; an empty text gives none."""
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(
            f"--{name} takes {kind.__name__} numbers with commas, not '{text}'"
        ) from None
