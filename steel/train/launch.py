"""Launch scripts for many machines: the templates of `steel/presets/launch`, filled in for one run."""

import re
import shlex
from pathlib import Path

from ..config import PRESETS, Config, UserError
from .parallel import World, check_batch

TEMPLATES = {"slurm": "slurm.sh", "k8s": "k8s.yaml"}
SECONDS_TO_SAVE = 300  # between the signal and the kill, for one step and one checkpoint
CPUS_PER_RANK = 8


def render(
    kind: str,
    cfg: Config,
    preset: str,
    *,
    data: Path | str,
    run: Path | str,
    tokenizer: Path | str | None = None,
    overrides: list[str] | None = None,
    nodes: int = 1,
    gpus_per_node: int = 8,
) -> str:
    """The launch file for `kind` ("slurm" or "k8s") of a pretraining run, as text.

    Raises UserError for an unknown kind and for a batch that does not divide among the ranks.
    """
    import jinja2

    if kind not in TEMPLATES:
        raise UserError(f"--print-launch '{kind}' is not one of {', '.join(TEMPLATES)}")
    if nodes < 1 or gpus_per_node < 1:
        raise UserError("--nodes and --gpus-per-node must be at least 1")
    check_batch(cfg.train, World(0, nodes * gpus_per_node))
    # -r: torchrun (on Python 3.11) takes --run, even behind the script's name, for its own --run-path
    words = ["--preset", preset, "--data", str(data), "-r", str(run)]
    words += ["--tokenizer", str(tokenizer)] if tokenizer else []
    text = (PRESETS / "launch" / TEMPLATES[kind]).read_text(encoding="utf-8")
    how = {"undefined": jinja2.StrictUndefined, "keep_trailing_newline": True}
    return jinja2.Template(text, **how).render(
        title=f"Pretraining, preset {cfg.preset}, {cfg.train.steps:,} steps, "
        f"sharding {cfg.train.sharding}",
        name=re.sub(r"[^a-z0-9-]+", "-", f"steel-{cfg.preset}".lower()).strip("-"),
        run=_quoted(str(run)),
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        cpus_per_rank=CPUS_PER_RANK,
        seconds_to_save=SECONDS_TO_SAVE,
        arguments=" ".join(_quoted(word) for word in [*words, *(overrides or [])]),
    )


def _quoted(word: str) -> str:
    """Safe in the shell, also inside the template's single quotes; UserError for what cannot be."""
    if odd := re.search(r"""[$`"'\\\n]""", word):
        raise UserError(f"{word!r} cannot stand in a launch script: it holds {odd[0]!r}")
    return shlex.quote(word).replace("'", '"')
