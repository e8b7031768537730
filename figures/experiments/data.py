"""The original's operators here and in Data-Juicer, on the same documents in one run: CPU seconds.

    python -m figures.experiments.data --raw RAW --peer PEER/bin/python --out figures/runs/data.json

PEER: an environment with py-data-juicer==1.6.1, aiohttp, simhash-pybind, opencc==1.1.9, selectolax, ftfy. Its recipe is
written from recipes/original.yaml, less the two operators that need a model. Start-up is excluded: there, by the CPU
seconds of a run on ten documents; here, by a first pass over ten. Theirs reads and writes JSON lines, and so does ours.
Without PEER the rows of Data-Juicer hold what was recorded once on another day (`live`: false).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import yaml

from steel.documents import Document

from . import command
from .ledger import Ledger

RECORDED = {"text": (158, 0.27), "code": (34, 0.35)}  # documents and MB per CPU second
SEMANTICS = {
    "original": "the same operators, parameters and order; n-grams hashed by another function",
    "steel": "recipe steel: other operators, and exact and MinHash deduplication",
}

NOTE = "CPU seconds of one process each; of Data-Juicer's two runs the faster"


def documents(raw: Path) -> dict[str, list[Document]]:
    """The documents of a folder as the original converted them, by kind."""
    from steel.corpus.convert import convert_source, rules_of
    from steel.corpus.recipe import load_recipe
    from steel.corpus.report import Tally
    from steel.corpus.sources import SOURCES, survey

    recipe, found = load_recipe("original"), {"text": [], "code": []}
    for name, files in survey(raw)[0].items():
        if name in rules_of(recipe):
            kind = "code" if SOURCES[name].kind == "code" else "text"
            converted = convert_source(name, files, raw, recipe, Tally("rejected"))
            found[kind] += [document for document, _ in converted]
    return found


def ours(kind: str, given: list[Document], name: str) -> tuple[float, list[str]]:
    """(CPU seconds, texts that are left) of a recipe's operators and deduplication."""
    from steel.corpus import dedup
    from steel.corpus.operators import apply, make
    from steel.corpus.recipe import load_recipe
    from steel.documents import decode, encode

    recipe = load_recipe(name)
    operators = [op for op in map(make, recipe.clean[kind]) if op.kind != "deduplicator"]

    def run(lines: list[bytes]) -> list[str]:
        cleaned = (apply(operators, decode(line), lambda *change: None) for line in lines)
        kept = [document for document, reject in cleaned if reject is None]
        pairs = dedup.find(dedup.keys(kept, recipe.dedup), recipe.dedup)
        gone = {pair.removed for pair in pairs}
        left = [document for place, document in enumerate(kept) if place not in gone]
        b"".join(map(encode, left))
        return [document.text for document in left]

    # SkyPile and WanJuan passed the original uncleaned: here all are given to both programs
    source = "starcoder" if kind == "code" else "wikipedia_cn"
    lines = [encode(Document(d.id, d.text, source)) for d in given]
    run(lines[:10])
    began = os.times()
    texts = run(lines)
    return sum(os.times()[:2]) - sum(began[:2]), texts


def peer(kind: str, given: list[Document], python: Path) -> tuple[float, list[str]]:
    """The same of Data-Juicer, less the CPU seconds that it takes for ten documents; of two runs each the faster."""
    from steel.corpus.operators import make
    from steel.corpus.recipe import load_recipe

    entries = [entry for entry in load_recipe("original").clean[kind] if not make(entry).idle]
    process = [{e: None} if isinstance(e, str) else e for e in entries]
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for count in 2 * (10, len(given)):
            shutil.rmtree(f"{folder}/out-{count}", ignore_errors=True)
            paths = {"dataset_path": f"{folder}/{count}.jsonl", "temp_dir": f"{folder}/tmp"}
            paths |= {"export_path": f"{folder}/out-{count}/out.jsonl"}
            rows = (json.dumps({"text": d.text}, ensure_ascii=False) for d in given[:count])
            Path(paths["dataset_path"]).write_text("\n".join(rows) + "\n", encoding="utf-8")
            same = {"project_name": kind, "np": 1, "use_cache": False, "open_tracer": False}
            same |= {"op_fusion": False, "executor_type": "default", "text_keys": "text"}
            Path(f"{folder}/dj.yaml").write_text(
                yaml.safe_dump({**same, **paths, "process": process}, allow_unicode=True)
            )
            began = os.times()
            script = python.parent / "dj-process"
            environment = os.environ | {"PYTHONPATH": "", "HF_HOME": f"{folder}/hf"}
            subprocess.run(
                [python, script, "--config", f"{folder}/dj.yaml"],
                check=True,
                capture_output=True,
                env=environment,
            )
            seconds.append(sum(os.times()[2:4]) - sum(began[2:4]))
        lines = Path(paths["export_path"]).read_text(encoding="utf-8").splitlines()
    return min(seconds[1::2]) - min(seconds[::2]), [json.loads(line)["text"] for line in lines]


def main(raw: Path, out: Path = None, peer_python: Path = None, every: int = 1) -> int:
    """Write a row for each kind and program; `every`: take each so manieth document."""
    same = {"semantics": SEMANTICS, "startup": "excluded on both sides", "every": every}
    ledger = Ledger(out, "data", same, fresh=True)
    for kind, given in documents(raw).items():
        given = given[::every]
        size = sum(len(d.text.encode()) for d in given) / 1e6
        runs = {"steel, recipe original": ours(kind, given, "original")}
        runs["steel, recipe steel"] = ours(kind, given, "steel")
        if peer_python is not None:
            runs["Data-Juicer 1.6.1"] = peer(kind, given, peer_python)
        theirs = Counter(runs.get("Data-Juicer 1.6.1", (0, []))[1])
        for program, (seconds, texts) in runs.items():
            row = {"kind": kind, "program": program, "live": True, "documents": len(given)}
            row |= {"megabytes": round(size, 3), "cpu_seconds": round(seconds, 2)}
            row |= {"documents_per_cpu_second": round(len(given) / seconds, 1)}
            row |= {"megabytes_per_cpu_second": round(size / seconds, 3), "kept": len(texts)}
            if theirs:
                row["texts_in_both"] = (Counter(texts) & theirs).total()
            ledger.add(row)
        if peer_python is None:
            rate = RECORDED[kind]
            ledger.add(
                {
                    "kind": kind,
                    "program": "Data-Juicer 1.6.1",
                    "live": False,
                    "documents_per_cpu_second": rate[0],
                    "megabytes_per_cpu_second": rate[1],
                }
            )
    ledger.write(note=NOTE)
    print(*ledger.rows, sep="\n")
    return 0


if __name__ == "__main__":
    command(main)
