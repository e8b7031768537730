"""This project's loader and three peers on the same tokens, in one run.

Three figures and a table. Samples per CPU second (threads and workers included, so that cores and load do not matter),
from the few files of the small corpus and, without positions, from the many of the large one; seconds until the first
batch, at the start and resumed at nine tenths of an epoch, of a corpus of `index` samples; memory that this takes above
the imported packages, without pages of data files that the kernel keeps mapped. And what each survives, found by an
experiment each: a resume, another world size, appended data, a mixture. Peers that are not installed are skipped with
the command that installs them.

The large corpus is real in its index and not in its bytes: every contender's files are hard links to one file of 64 MiB
that it wrote itself, listed as often as it takes; the memory map is one sparse file, whose pages the kernel
makes as they are touched, so that its samples are not timed there.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from steel.config import UserError
from steel.machine import progress

from . import command, loader_tasks
from .ledger import Ledger
from .loader_peers import CONTENDERS, SEPARATOR, SHARD_TOKENS
from .processes import free_port, talking

LABELS = {
    "steel": "Steel",
    "torch": "torch + memmap",
    "litdata": "litdata",
    "streaming": "mosaicml-streaming",
}
EXPERIMENTS = {
    "resume": "exact resume",
    "world": "another world size",
    "append": "append",
    "mixture": "mixture",
}


def run_bench(
    out: Path | str | None = None,
    *,
    samples: int = 16_384,
    index: int = 100_000_000,
    length: int = 2048,
    batch: int = 32,
    workers: int = 0,
    repeats: int = 3,
    names: list[str] | None = None,
    experiments: bool = True,
) -> dict:
    """Measure every contender that is installed; write JSON to `out` after each figure; return the report.

    The same call goes on where it stopped.

    samples: of `length` tokens, in the corpus of the throughput. index: samples of the corpus that is started, resumed
    and weighed. workers: processes that prepare batches. repeats: of each timing; the best one counts.
    UserError for a contender that does not exist and for sizes that cannot work.
    """
    if unknown := set(names or []) - set(CONTENDERS):
        raise UserError(
            f"no contender {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}"
        )
    if batch % 4 or samples < 16 * batch or index < samples or repeats < 1:
        raise UserError(
            "the benchmark needs batch divisible by 4, samples ≥ 16 × batch, index ≥ samples, repeats ≥ 1"
        )
    chosen = [n for n in CONTENDERS if names is None or n in names]
    sizes = {"samples": samples, "index": index, "length": length, "batch": batch}
    ledger = Ledger(out, "loader", sizes | {"workers": workers})
    absent = [n for n in chosen if importlib.util.find_spec(CONTENDERS[n].needs) is None]
    ledger.content["skipped"] = {n: f"pip install {CONTENDERS[n].pip}" for n in absent}
    chosen = [n for n in chosen if n not in absent]
    with (
        tempfile.TemporaryDirectory(prefix="steel-loader-") as folder,
        progress(len(chosen), "loader") as bar,
    ):
        bench = _Bench(Path(folder), length, batch, workers, repeats)
        bench.write_tokens(samples)
        for name in chosen:
            row = ledger.find(name=name) or ledger.add({"name": name})
            row["version"] = _version(CONTENDERS[name].pip)
            with bench.contender(name):
                for figure in bench.figures(samples, index, experiments, done=set(row)):
                    row |= figure
                    ledger.write()
            bar.advance(1)
    return ledger.content


@dataclass
class _Bench:
    """Corpora, and the process that forks the readers of one contender."""

    root: Path
    length: int
    batch: int
    workers: int
    repeats: int
    name: str = ""

    @contextmanager
    def contender(self, name: str) -> Iterator[None]:
        """While it lasts, `ask` asks this one."""
        with talking(loader_tasks.serve, name) as (self.pipe, _):
            self.name = name
            yield
        for folder in self.root.glob(f"{name}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def write_tokens(self, samples: int) -> None:
        """Random tokens for the timings, one separator in a thousand; numbered samples for the experiments."""
        rng = np.random.default_rng(0)
        tokens_NL = rng.integers(1, 150_000, (samples, self.length + 1), dtype=np.int32)
        tokens_NL[rng.random(tokens_NL.shape, dtype=np.float32) < 1e-3] = SEPARATOR
        np.savez(self.root / "tokens.npz", a=tokens_NL)
        np.savez(self.root / "one.npz", a=tokens_NL[: SHARD_TOKENS // (self.length + 1)])
        numbered = {"numbered": {"a": (0, 1024)}, "more": {"a": (1024, 1280)}}
        numbered["mixed"] = {"a": (0, 1024), "b": (4096, 5120)}
        for file, spans in numbered.items():
            rows = {k: np.repeat(np.arange(*s)[:, None] + 1, 17, axis=1) for k, s in spans.items()}
            np.savez(self.root / f"{file}.npz", **rows)

    def ask(self, task: str, corpus: str, arguments=None, reader=None, **size: int) -> dict:
        """One task in a fresh process."""
        return self.ask_ranks(task, corpus, arguments, [reader or {}], **size)[0]

    def ask_ranks(
        self, task: str, corpus: str, arguments: dict | None, readers: list[dict], **size: int
    ) -> list[dict]:
        """The same task in one process per rank, at the same time. size: length and batch, if they are others."""
        # the names under which torch, litdata and mosaicml-streaming look for their place
        ranks, world = ("RANK", "LOCAL_RANK", "GLOBAL_RANK"), ("WORLD_SIZE", "LOCAL_WORLD_SIZE")
        master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        master |= dict.fromkeys(world, str(len(readers)))
        folder = str(self.root / f"{self.name}-{corpus}")
        same = {"name": self.name, "task": task, "folder": folder, "arguments": arguments or {}}
        same |= {"length": self.length, "batch": self.batch} | size
        requests = [
            {**same, "reader": reader, "environment": master | dict.fromkeys(ranks, str(rank))}
            for rank, reader in enumerate(readers)
        ]
        try:
            self.pipe.send(requests)
            return self.pipe.recv()
        except (OSError, EOFError):
            return [{"error": f"the process that runs {self.name} died"}] * len(readers)

    def write(
        self, corpus: str, tokens: str, part: int = 0, count: int | None = None, **size: int
    ) -> int:
        """Have the contender store tokens; raises RuntimeError when it cannot, for then there is nothing to measure."""
        arguments = {"tokens": str(self.root / f"{tokens}.npz"), "part": part, "samples": count}
        if "error" in (found := self.ask("write", corpus, arguments, **size)):
            raise RuntimeError(f"{self.name} could not write its corpus: {found['error']}")
        return found["samples"]

    def best(self, task: str, corpus: str, arguments: dict, reader: dict, repeats: int) -> dict:
        """The run that took the fewest CPU seconds: what disturbs a run only makes it slower."""
        runs = [self.ask(task, corpus, arguments, reader) for _ in range(repeats)]
        return next((r for r in runs if "error" in r), None) or min(runs, key=lambda r: r["cpu_s"])

    def figures(self, samples: int, index: int, experiments: bool, done: set[str]):
        """Every figure of one contender, one after the other, but those that are done."""
        steps = samples // self.batch - 12  # less a warm-up, and what workers prepare ahead
        position = index * 9 // 10 // self.batch * self.batch
        few = self.repeats if index < 10**7 else 1  # the peers take long there, and far apart
        if not done >= {"tokens", "tokens_and_positions"}:
            self.write("tokens", "tokens")
        if not done >= {"index_samples", "start", "resume", "index_tokens"}:
            yield {"index_samples": self.write("index", "one", count=index)}
        measure = {
            "tokens": lambda: self._throughput(steps, positions=False),
            "tokens_and_positions": lambda: self._throughput(steps, positions=True),
            "start": lambda: self.best("start", "index", {}, {}, few),
            "resume": lambda: self._resumed(position, few),
            "index_tokens": lambda: self._throughput(steps, False, "index", few),
            "survives": self.experiments,
        }
        if not CONTENDERS[self.name].many_files:
            del measure["index_tokens"]
        for name in measure if experiments else list(measure)[:-1]:
            if name not in done:
                yield {name: measure[name]()}

    def _throughput(
        self, steps: int, positions: bool, corpus: str = "tokens", repeats: int = 0
    ) -> dict:
        reader = {"positions": positions, "workers": self.workers}
        repeats = repeats or self.repeats
        files = sum(1 for _ in (self.root / f"{self.name}-{corpus}").rglob("*.bin"))
        return self.best("throughput", corpus, {"steps": steps}, reader, repeats) | {"files": files}

    def _resumed(self, position: int, repeats: int) -> dict:
        deep = self.ask("deep_state", "index", {"position": position})
        if "error" in deep:
            return deep
        found = self.best("start", "index", {"state": deep["state"]}, {}, repeats)
        return found | {"position": position}

    # -- experiments: 1,024 numbered samples of 16 tokens, 32 a step, stopped after 16 steps ---------------------------

    def experiments(self) -> dict:
        small = {"length": 16, "batch": 32}
        self.write("numbered", "numbered", **small)
        self.write("mixed", "mixed", **small)
        whole = self.ask("order", "numbered", {"save_at": 16}, **small)
        found = {"resume": _failed(whole), "append": _failed(whole)}
        if "error" not in whole:
            rest = self.ask("order", "numbered", {"state": whole["state"]}, **small)
            found["resume"] = _failed(rest) or _verdict(
                whole["ids"][:512] + rest["ids"], range(1, 1025), whole["ids"][512:] == rest["ids"]
            )
        found["world"] = self._other_world(small)
        if "error" not in whole:
            self.write("numbered", "more", part=1, **small)
            rest = self.ask("order", "numbered", {"state": whole["state"]}, **small)
            found["append"] = _failed(rest) or _verdict(
                whole["ids"][:512] + rest["ids"], range(1, 1281)
            )
        found["mixture"] = self._mixture(small)
        return {key: found[key] for key in EXPERIMENTS}

    def _other_world(self, small: dict) -> dict:
        """Two ranks read half of the epoch, four read the rest."""

        def place(world: int) -> list[dict]:
            return [{"rank": r, "world": world} for r in range(world)]

        half = self.ask_ranks("order", "numbered", {"take": 16, "save_at": 16}, place(2), **small)
        if failed := next(filter(None, map(_failed, half)), None):
            return failed
        state = {"state": half[0]["state"]}
        rest = self.ask_ranks("order", "numbered", state, place(4), **small)
        if failed := next(filter(None, map(_failed, rest)), None):
            return failed
        return _verdict([i for part in half + rest for i in part["ids"]], range(1, 1025))

    def _mixture(self, small: dict) -> dict:
        """Two sources 3 : 1; half an epoch, then on, unbroken and resumed."""
        mixed = {"mixture": {"a": 3, "b": 1}}
        whole = self.ask("order", "mixed", {"save_at": 16, "take": 32}, mixed, **small)
        if "error" in whole:
            return _failed(whole)
        rest = self.ask("order", "mixed", {"state": whole["state"], "take": 16}, mixed, **small)
        if "error" in rest:
            return _failed(rest)
        ids = whole["ids"][:512] + rest["ids"]
        share = sum(i < 4096 for i in ids) / max(len(ids), 1)
        again = sum(n - 1 for n in Counter(ids).values())
        same = rest["ids"] == whole["ids"][512:1024]
        why = f"share {share:.3f} for 0.750; {again:,} of {len(ids):,} draws are repeats though no source is used up"
        if not same:
            why += "; the resumed run draws other samples than the unbroken one"
        return {
            "survives": same and abs(share - 0.75) < 0.02 and not again,
            "share": share,
            "repeats": again,
            "same": same,
            "why": why,
        }


def _failed(answer: dict) -> dict:
    """The verdict of an experiment that a contender refused, or nothing."""
    return {"survives": False, "why": answer["error"]} if "error" in answer else {}


def _verdict(ids: list[int], due: range, same: bool | None = None) -> dict:
    """Was every sample seen exactly once, and, if asked, in the order of the run that was never broken?"""
    seen = Counter(ids)
    counts = {
        "due": len(due),
        "once": sum(seen[i] == 1 for i in due),
        "never": sum(seen[i] == 0 for i in due),
        "again": sum(seen[i] > 1 for i in due),
    }
    why = f"{counts['once']:,} of {counts['due']:,} exactly once, {counts['never']:,} never, {counts['again']:,} again"
    if same is not None:
        why += ", in the same order" if same else ", in another order"
    return {"survives": counts["once"] == len(due) and same is not False, **counts, "why": why}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def render(report: dict) -> str:
    """The report as two tables in plain text."""
    titles = "samples/CPU s", "with positions", "many files", "start s", "resume s", "memory MB"
    speeds, starts = ("tokens", "tokens_and_positions", "index_tokens"), ("start", "resume")
    rows, survived, failures = [["", *titles]], [["survives", *EXPERIMENTS.values()]], []
    for row in report["rows"]:
        label, found = LABELS[row["name"]], row.get("survives", {})
        cells = [_cell(row.get(k), "samples_per_cpu_s", ",.0f") for k in speeds]
        cells += [_cell(row.get(k), "cpu_s", ".3f") for k in starts]
        held = [row[k]["memory_bytes"] for k in starts if "memory_bytes" in (row.get(k) or {})]
        rows.append([label, *cells, f"{max(held) / 1e6:,.0f}" if held else "–"])
        if found:
            survived.append(
                [label, *("yes" if found[k]["survives"] else "no" for k in EXPERIMENTS)]
            )
        lost = {k: v["why"] for k, v in found.items() if not v["survives"]}
        failures += [f"{label}, {EXPERIMENTS[k]}: {why}" for k, why in lost.items()]
    lines = [
        *_table(rows),
        f"start, resume: CPU seconds to the first batch, at {report['index']:,} samples",
    ]
    lines += ["", *_table(survived)] if len(survived) > 1 else []
    absent = report["skipped"].items()
    lines += failures + [f"{LABELS[name]} is not installed: {command}" for name, command in absent]
    return "\n".join(lines)


def _cell(figure: dict | None, key: str, form: str) -> str:
    return "–" if not figure or key not in figure else format(figure[key], form)


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join([row[0].ljust(widths[0]), *right[1:]]) for row, right in zip(rows, cells)]


def main(
    samples: int = 16_384,
    index: int = 100_000_000,
    length: int = 2048,
    batch: int = 32,
    workers: int = 0,
    repeats: int = 3,
    only: str = "",
    experiments: bool = True,
    out: Path = None,
) -> None:
    """The same tokens through this project's loader and its peers: speed, start, memory, what each survives.

    only: contenders, as steel,torch,litdata,streaming. experiments: find out what each survives. The rest as in
    `run_bench`.
    """
    sizes = {"samples": samples, "index": index, "length": length, "batch": batch}
    names = [name.strip() for name in only.split(",")] if only else None
    more = {"names": names, "experiments": experiments}
    print(render(run_bench(out, **sizes, workers=workers, repeats=repeats, **more)))


if __name__ == "__main__":
    command(main)
