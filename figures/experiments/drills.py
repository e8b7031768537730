"""Failure drills: a tiny pretraining run is broken on purpose, again and again, and must not notice.

The kills come first: SIGKILL at random moments, inside checkpoints and inside appends of data. Four claims are checked
on files, against a run that was never killed: the loss curve and the final weights are equal bit for bit, every sample
that was due was trained on exactly once, no half-written checkpoint was ever taken for a whole one, and the appended
shards are, byte for byte, those of an append in peace. Then come the faults of `drill_faults`. At most one epoch of
made-up text, seconds each.
"""

from __future__ import annotations

import json
import random
import signal
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from steel.config import Config, UserError
from steel.machine import progress

from . import command, drill_faults
from .drill_run import (
    BATCH,
    Kill,
    append_dying,
    append_seconds,
    begin,
    curve,
    events,
    on_disk,
    prepare,
    samples,
    steps_done,
    train,
)
from .ledger import Ledger
from .processes import finish, start

FAULTS = {
    "ranks": drill_faults.another_world,
    "silent rank": drill_faults.silent_rank,
    "full disk": drill_faults.full_disk,
    "damaged shard": drill_faults.damaged_shard,
    "bad batch": drill_faults.bad_batch,
    "SIGTERM": drill_faults.terminated,
}
FAULT_STEPS = 24
KILLS_AN_APPEND = 4


def run_drills(
    out: Path | str | None = None,
    *,
    kills: int = 10,
    seed: int = 1,
    background: bool = True,
    steps: int = 60,
    appends: int = 0,
    faults: list[str] | None = None,
) -> dict:
    """Kill a run `kills` times at moments drawn from `seed`, resume it each time, and compare it with an unbroken one.

    out: folder for the runs and `drills.json`; None: a temporary one. background: checkpoints written in a thread.
    steps: optimizer steps of the run. appends: how often data are added meanwhile; up to KILLS_AN_APPEND of the kills
    fall into each, while the run trains on. faults: names of FAULTS to drill after that; None: all.
    Returns the report; report["passed"] is the verdict.
    """
    if kills < 1 or steps < 8:
        raise UserError("drills need kills ≥ 1 and steps ≥ 8")
    faults = list(FAULTS) if faults is None else faults
    for name in set(faults) - set(FAULTS):
        raise UserError(f"no drill is called '{name}'; there are {', '.join(FAULTS)}")
    with _folder(out) as root:
        began = time.monotonic()
        same = {"seed": seed, "background": background, "steps": steps}
        ledger = Ledger(root / "drills.json" if out is not None else None, "drills", same)
        ledger.write(**_kill_drill(root / "kills", seed, background, steps, kills, appends))
        ledger.write(faults=_fault_drills(root / "faults", seed, background, faults))
        report = ledger.content
        passed = report["passed"] and all(f["passed"] for f in report["faults"].values())
        ledger.write(passed=passed, seconds=round(time.monotonic() - began, 1))
        return report


def render(report: dict) -> str:
    """The report in a few lines."""
    drawn, rounds = report["samples"], report["kills"]
    training = [r for r in rounds if r["in"] == "training"]
    inside = sum(bool(r["half_written"]) for r in training)
    lines = [
        f"killed            {len(rounds)} times: {len(training) - inside} between saves, {inside} inside a save, "
        f"{len(rounds) - len(training)} inside an append",
        f"loss curve        {'equal bit for bit' if report['curve_bit_equal'] else 'DIFFERS'}, {report['steps']} steps",
        f"final weights     {'equal bit for bit' if report['weights_bit_equal'] else 'DIFFER'}",
        f"samples           {drawn['once']:,} of {drawn['due']:,} due seen exactly once",
        f"checkpoints       {report['half_checkpoints_loaded']} half-written ones loaded",
        f"appends           {report['appends']['done']}, shards {'equal' if report['appends']['equal'] else 'DIFFER'}",
    ]
    lines += [
        f"{name:18}{'passed' if fault['passed'] else 'FAILED'}\n    {fault['line']}"
        for name, fault in report["faults"].items()
    ]
    verdict = "passed" if report["passed"] else "FAILED"
    return "\n".join([*lines, f"verdict           {verdict} in {report['seconds']} s"])


@contextmanager
def _folder(out: Path | str | None):
    if out is None:
        with tempfile.TemporaryDirectory(prefix="steel-drills-") as name:
            yield Path(name)
        return
    if Path(out).exists() and any(Path(out).iterdir()):
        raise UserError(f"{out} is not empty; choose another folder")
    Path(out).mkdir(parents=True, exist_ok=True)
    yield Path(out).resolve()


def _fault_drills(root: Path, seed: int, background: bool, names: list[str]) -> dict:
    if not names:
        return {}
    root.mkdir()
    cfg = prepare(root, seed, FAULT_STEPS, background)
    train(root, cfg, "unbroken")
    with progress(len(names), "faults", "drills") as bar:
        found = {}
        for name in names:
            found[name] = FAULTS[name](root, cfg)
            bar.advance(1)
    return found


# -- kills -------------------------------------------------------------------------------------------------------------


def _kill_drill(
    root: Path, seed: int, background: bool, steps: int, kills: int, appends: int
) -> dict:
    root.mkdir()
    cfg = prepare(root, seed, steps, background, appends)
    rounds = _kill_and_resume(root, cfg, kills, appends, random.Random(seed))
    calm = replace(
        cfg, train=replace(cfg.train, checkpoint_every=0)
    )  # no save can stand before an append
    if (codes := train(root, calm, "unbroken", twin=True)) != [0]:
        raise UserError(
            f"the unbroken run failed with exit codes {codes}; see {root / 'unbroken.err0'}"
        )
    return {"kills": rounds, **_verdict(root, cfg, rounds, appends)}


def _kill_and_resume(
    root: Path, cfg: Config, kills: int, appends: int, rng: random.Random
) -> list[dict]:
    """Kill, look, resume, until `kills` records are there: what was killed at which step, and what lay on disk."""
    run, rounds, last, number = root / "killed", [], cfg.train.steps - 4, 1
    seconds = append_seconds(root) if appends else 0.0
    with progress(kills, "drills", "kills") as bar:
        attempt = tries = 0
        while len(rounds) < kills:
            # Moments move through the run, so that there is something left to kill.
            share = len(rounds) / kills
            step = max(steps_done(run), round(last * (share + rng.random() / kills)))
            if (
                attempt % 2
            ):  # every other one is aimed at a save, which begins when its step is done
                step += -(step + 1) % cfg.train.checkpoint_every
            pair = begin(root, cfg, "killed", attempt, [Kill(min(step, last), rng.random() * 0.06)])
            both = (
                number <= appends
                and share > number / (appends + 1) - 0.5 / kills
                and len(rounds) + 2 <= kills
            )
            if both:  # the run trains on while data are added and the adding dies
                adding = start(
                    append_dying,
                    str(root),
                    number,
                    rng.random() * seconds,
                    errors=root / "append.err",
                )
            finish(pair)
            rounds.append(
                {
                    "in": "training",
                    "step": steps_done(run),
                    "exit_code": pair[0].exitcode,
                    **on_disk(run),
                }
            )
            if both:
                finish([adding])
                rounds.append(
                    {
                        "in": f"append {number}",
                        "step": steps_done(run),
                        "exit_code": adding.exitcode,
                        **_half_appended(root, number),
                    }
                )
                tries += 1
                if tries == KILLS_AN_APPEND and not rounds[-1]["published"]:
                    finish(
                        [start(append_dying, str(root), number, None, errors=root / "append.err")]
                    )
                if tries == KILLS_AN_APPEND or rounds[-1]["published"]:
                    number, tries = number + 1, 0
            attempt += 1
            bar.advance(1 + both)
    for left in range(number, appends + 1):
        finish([start(append_dying, str(root), left, None, errors=root / "append.err")])
    if (codes := train(root, cfg, "killed", attempt)) != [0]:
        raise UserError(
            f"the killed run did not come to its end: exit codes {codes}; see {root / 'killed.err0'}"
        )
    return rounds


def _half_appended(root: Path, number: int) -> dict:
    """What append `number` had left when it died: finished shards, temporary files, whether it was published."""
    made = list((root / "shards").glob(f"*/{number:03d}-*.json"))
    temporary = [p for p in (root / "shards").rglob(".*") if p.is_file()]
    published = (
        len(json.loads((root / "shards" / "manifest.json").read_text())["generations"]) > number
    )
    return {"shards": len(made), "temporary": len(temporary), "published": published}


def _verdict(root: Path, cfg: Config, rounds: list[dict], appends: int) -> dict:
    names = ("unbroken", "killed")
    curves = [curve(root / name) for name in names]
    weights = [(root / name / "hf" / "model.safetensors").read_bytes() for name in names]
    due = cfg.train.steps * BATCH
    drawn = samples([root / "killed.seen0"], [r["step"] for r in curves[1]], due)
    torn = {name for r in rounds for name in r.get("torn", [])}
    resumed = [r["checkpoint"] for r in events(root / "killed", "resume")]
    mixed = [r["change"] for r in events(root / "killed", "data") if "appended" in r["change"]]
    found = {
        "curve_bit_equal": curves[0] == curves[1] and len(curves[0]) == cfg.train.steps,
        "weights_bit_equal": weights[0] == weights[1],
        "samples": drawn,
        "resumed_from": resumed,
        "half_checkpoints_loaded": sum(name in torn for name in resumed),
        "appends": {
            "done": appends,
            "mixed": sorted(set(mixed)),
            "equal": _same_shards(root, appends),
        },
    }
    found["passed"] = (
        found["curve_bit_equal"]
        and found["weights_bit_equal"]
        and not torn
        and drawn["once"] == due
        and drawn["consistent"]
        and found["appends"]["equal"]
        and bool(mixed) == bool(appends)
        and all(r["exit_code"] == -signal.SIGKILL for r in rounds)
    )
    return found


def _same_shards(root: Path, appends: int) -> bool:
    """Whether packing and appending the same documents in peace gives the same files, byte for byte."""
    from steel.data import append, pack

    from .drill_run import SHARD_TOKENS

    calm = root / "calm"
    pack(root / "docs", calm, root / "tokenizer", shard_tokens=SHARD_TOKENS, progress=False)
    for number in range(1, appends + 1):
        append(calm, root / f"more{number}", root / "tokenizer", progress=False)
    return _files(calm) == _files(root / "shards")


def _files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def main(
    kills: int = 10,
    steps: int = 60,
    appends: int = 1,
    faults: bool = True,
    seed: int = 1,
    background: bool = True,
    out: Path = None,
) -> int:
    """Break a tiny run on purpose, resume it, compare it with an unbroken one: exit 0 only when nothing differs.

    kills: how often. steps: length of the run. appends: how often data are added meanwhile. faults: also a dead rank,
    a full disk, a damaged shard, a bad batch, SIGTERM. out: folder for the runs and drills.json.
    """
    chosen = None if faults else []
    options = {"seed": seed, "background": background, "steps": steps, "appends": appends}
    report = run_drills(out, kills=kills, faults=chosen, **options)
    print(render(report))
    return int(not report["passed"])


if __name__ == "__main__":
    command(main)
