"""The whole life of a small Steel, one function per stage, each leaving its result in the RUN folder.

    RUN/config.yaml   what was asked for            RUN/state.json   which stages are done, their seconds and memory
    RUN/world|docs|tokenizer|shards                 data, from raw text to tokens
    RUN/pretrain|sft|dpo|grpo                       log.jsonl, checkpoints/, hf/
    RUN/exams/<stage>.json                          what the model knew after each stage
    RUN/report.json|md|html                         the report card

A stage that is done is not done again; a killed life is started with the same command and goes on where it stopped.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .config import Config, UserError
from .machine import commit, hardware, packages, peak_memory_bytes, reset_peak_memory
from .runlog import atomic_write

SAMPLE_PROMPTS = 6
SELF_COGNITION_REPEATS = (
    16  # a few dozen rows among thousands: seen once, the model does not learn its own name
)


@dataclass
class Life:
    """One life: its configuration, its folder, and for real data the raw folder and the exam it is judged by."""

    cfg: Config
    run: Path
    raw: Path | None = None
    exam: Path | None = None

    def __post_init__(self):
        self.state_path = self.run / "state.json"
        self.state = {"stages": {}}

    # -- bookkeeping ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Create the RUN folder or take up one that was left; refuses another configuration's folder."""
        try:
            self.run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot create the run folder {self.run}: {error.strerror}") from None
        asked = {"config": self.cfg.to_dict(), "raw": str(self.raw.resolve()) if self.raw else None}
        if self.state_path.exists():
            try:
                self.state = json.loads(self.state_path.read_text(encoding="utf-8"))
                differing = _first_difference(self.state["asked"], asked)
            except (ValueError, KeyError):
                raise UserError(
                    f"{self.state_path} is damaged; remove {self.run} or use another --run"
                ) from None
            if differing:
                raise UserError(
                    f"{self.run} holds another run ({differing}); use another --run, or remove that folder"
                )
        elif any(self.run.iterdir()):
            raise UserError(f"{self.run} is not empty and holds no run; use another --run")
        import yaml

        self.state["asked"] = asked
        self.state["run"] = {
            "name": self.run.name,
            "preset": self.cfg.preset,
            "seed": self.cfg.seed,
            "started": self.state.get("run", {}).get("started", time.time()),
            "commit": commit(),
            "config_hash": self.cfg.hash(),
            "hardware": hardware(),
            "packages": packages(),
        }
        atomic_write(
            self.run / "config.yaml",
            yaml.safe_dump(self.cfg.to_dict(), allow_unicode=True, sort_keys=False),
        )
        self.save()

    def save(self) -> None:
        """Write state.json."""
        atomic_write(self.state_path, json.dumps(self.state, indent=1, ensure_ascii=False))

    def stage(self, name: str, work: Callable[[], object]) -> None:
        """Do a stage unless it is done. `work` may return a string: the reason why it was skipped."""
        entry = self.state["stages"].setdefault(
            name, {"status": "pending", "seconds": 0.0, "peak_memory_bytes": 0}
        )
        if entry["status"] in ("done", "skipped"):
            return
        _say(f"[bold]{name}[/bold]")
        began = time.monotonic()
        reset_peak_memory()
        entry["status"] = "running"
        try:
            reason = work()
            entry["status"] = "skipped" if isinstance(reason, str) else "done"
            if isinstance(reason, str):
                entry["reason"] = reason
                _say(f"  skipped: {reason}")
        finally:  # an interrupted stage keeps its time, so that the total stays true
            entry["seconds"] = round(entry["seconds"] + time.monotonic() - began, 2)
            entry["peak_memory_bytes"] = max(entry["peak_memory_bytes"], peak_memory_bytes())
            self.save()

    # -- data ----------------------------------------------------------------------------------------------------------

    def make_world(self) -> None:
        """The closed world in all raw formats, with post-training sets and exam."""
        from .corpus.world import write_world

        shutil.rmtree(self.run / "world", ignore_errors=True)
        summary = write_world(self.run / "world", self.cfg.world, self.cfg.seed)
        records = sum(source["records"] for source in summary["sources"].values())
        _say(
            f"  {sum(summary['people'].values())} people, {records:,} raw records, {summary['raw_bytes']:,} bytes"
        )

    def make_documents(self) -> None:
        """Raw files to clean, deduplicated documents."""
        from .corpus.pipeline import prepare

        prepare(self.raw or self.run / "world" / "raw", self.run / "docs")

    def make_post(self) -> str | None:
        """For real data: dialogues and tasks found in the documents become the post-training sets."""
        from .corpus.instructions import write_instructions
        from .data.tasks import held_out

        fraction = self.cfg.data.validation_fraction
        counts = write_instructions(
            self.run / "docs",
            self.run / "post",
            self.cfg.seed,
            skip=lambda doc: held_out(document_text(doc).encode(), fraction),
        )
        return (
            None if counts["sft"] else "neither dialogues nor regulated poems among the documents"
        )

    def make_tokenizer(self) -> None:
        """Train a BPE on the documents, or take the folder that the configuration names."""
        from .tokenizer import bpe

        settings = self.cfg.tokenizer
        tokenizer = (
            bpe.load(settings.path)
            if settings.path
            else bpe.train(
                document_texts(self.run / "docs"), settings.vocab_size, settings.sample_bytes
            )
        )
        if len(tokenizer) > self.cfg.model.vocab_size:
            raise UserError(
                f"the tokenizer has {len(tokenizer)} entries, model.vocab_size only "
                f"{self.cfg.model.vocab_size}; raise it"
            )
        bpe.save(tokenizer, self.run / "tokenizer")

    def make_shards(self) -> None:
        """Documents to token shards."""
        from .data.pack import pack

        manifest = pack(
            self.run / "docs",
            self.run / "shards",
            self.run / "tokenizer",
            hold_out=self.cfg.data.validation_fraction,
        )
        _say(f"  {sum(s['tokens'] for s in manifest['shards']):,} tokens")

    # -- training ------------------------------------------------------------------------------------------------------

    def pretrain(self) -> None:
        """Pretraining on the shards."""
        from .train.pretrain import pretrain

        pretrain(
            self.cfg,
            self.run / "shards",
            self.run / "pretrain",
            self.run / "tokenizer",
            prompts=self.prompts(),
        )

    def align(self, name: str, before: str, rows: list[str]) -> str | None:
        """One stage after pretraining, from the model of the stage before."""
        import importlib

        files = [self.post / row for row in rows]
        missing = [f.name for f in files if not f.is_file()]
        if missing:
            return f"these raw files give no {', '.join(missing)}"
        stage = importlib.import_module(f".align.{name}", __package__)
        stage.run(self.cfg, self.latest(before), files, self.run / name)
        return None

    @property
    def post(self) -> Path:
        """Folder of the post-training sets."""
        return self.run / "post" if self.raw else self.run / "world" / "post"

    def latest(self, upto: str) -> Path:
        """The Hugging Face folder of the newest stage that is done, at `upto` or before it."""
        order = ["pretrain", "sft", "dpo", "grpo"]
        for name in reversed(order[: order.index(upto) + 1]):
            if (folder := self.run / name / "hf").is_dir():
                return folder
        raise UserError(f"{self.run} holds no model yet")

    # -- judging -------------------------------------------------------------------------------------------------------

    def examine(self, name: str) -> str | None:
        """Exam, cloze and bits per byte of the model after stage `name` ("init": before any training)."""
        from .evaluation import exam, perplexity
        from .evaluation.cloze import cloze
        from .model.folder import open_model

        if (
            name not in ("init", "pretrain")
            and self.state["stages"].get(name, {}).get("status") == "skipped"
        ):
            return f"stage {name} was skipped"
        began, settings = time.monotonic(), self.cfg.exam
        model, tokenizer = (
            self.untrained() if name == "init" else open_model(self.run / name / "hf")
        )
        result: dict = {"stage": name}
        if folder := self.exam or (None if self.raw else self.run / "world" / "exam"):
            result["exam"] = exam.run_exam(
                model,
                tokenizer,
                folder,
                scoring=tuple(settings.scoring),
                shots=settings.shots,
                limit=settings.limit or None,
                batch_size=settings.batch_size,
                max_new_tokens=settings.max_new_tokens,
            )
            if (folder / "cloze.jsonl").is_file():
                result["cloze"] = cloze(
                    model, tokenizer, folder / "cloze.jsonl", batch_size=settings.batch_size
                )
        result["perplexity"] = perplexity.bits_per_byte(model, tokenizer, self.heldout())
        if name != "init":
            result["samples"] = self.samples(model, tokenizer, chat=name != "pretrain")
        result["seconds"] = round(time.monotonic() - began, 2)
        atomic_write(
            self.run / "exams" / f"{name}.json", json.dumps(result, ensure_ascii=False, indent=1)
        )
        _say("  " + _exam_line(result))
        return None

    def untrained(self):
        """Model at initialisation, and the tokenizer."""
        from .model import build
        from .model.folder import default_device
        from .tokenizer import bpe

        model = build(self.cfg.model, seed=self.cfg.seed).to(default_device())
        return model, bpe.load(self.run / "tokenizer")

    def heldout(self) -> dict[str, list]:
        """Texts (or dialogues) by domain that no stage trains on."""
        if not self.raw:
            from .evaluation.perplexity import load_domains

            return load_domains(self.run / "world" / "heldout")
        return heldout_documents(self.run / "docs", self.cfg.data.validation_fraction)

    def prompts(self) -> list[str]:
        """Beginnings of held-out texts, for samples drawn while training."""
        domains = {
            name: rows for name, rows in self.heldout().items() if name not in ("code", "starcoder")
        }
        texts = [
            t for i in range(SAMPLE_PROMPTS) for rows in domains.values() for t in rows[i : i + 1]
        ]
        return [_beginning(t) for t in texts if isinstance(t, str)][:SAMPLE_PROMPTS]

    def samples(self, model, tokenizer, chat: bool) -> list[dict]:
        """A few greedy completions: of text for a base model, of questions for a chat model."""
        from .model.decoding import Sampling
        from .serve.generate import complete, continue_text

        greedy = Sampling(temperature=0, max_new_tokens=48)
        if not chat:
            return [
                {"prompt": p, "completion": continue_text(model, tokenizer, p, greedy)}
                for p in self.prompts()
            ]
        rows = [
            row
            for name in ("self_cognition", "sft", "multi_turn")
            if (self.post / f"{name}.jsonl").is_file()
            for row in _json_lines(self.post / f"{name}.jsonl")[:30:10]
        ]
        asked = [row["messages"][:-1] for row in rows][:SAMPLE_PROMPTS]
        return [{"prompt": m, "completion": complete(model, tokenizer, m, greedy)} for m in asked]

    # -- the whole -----------------------------------------------------------------------------------------------------

    def live(self) -> Path:
        """Every stage in turn, then the report card. Returns the path of report.html."""
        if self.raw is None:
            self.stage("world", self.make_world)
        self.stage("docs", self.make_documents)
        if self.raw is not None:
            self.stage("post", self.make_post)
        self.stage("tokenizer", self.make_tokenizer)
        self.stage("shards", self.make_shards)
        self.stage("exam:init", lambda: self.examine("init"))
        self.stage("pretrain", self.pretrain)
        self.stage("exam:pretrain", lambda: self.examine("pretrain"))
        dialogues = [
            "sft.jsonl",
            "multi_turn.jsonl",
            *["self_cognition.jsonl"] * SELF_COGNITION_REPEATS,
        ]
        for name, before, rows in (
            ("sft", "pretrain", dialogues),
            ("dpo", "sft", ["preference.jsonl"]),
            ("grpo", "dpo", ["rl.jsonl"]),
        ):
            rows = rows[:1] if self.raw else rows
            self.stage(
                name, lambda name=name, before=before, rows=rows: self.align(name, before, rows)
            )
            self.stage(f"exam:{name}", lambda name=name: self.examine(name))
        return self.report()

    def report(self) -> Path:
        """Write the report card from what lies in the RUN folder."""
        from .report.render import write_report

        seconds = sum(s["seconds"] for s in self.state["stages"].values())
        self.state["run"]["finished"] = time.time()
        self.state["cost"] = {
            "seconds": round(seconds, 1),
            "device_hours": round(seconds / 3600, 4),
        }
        self.save()
        return Path(write_report(self.run))

    def shortfall(self) -> str:
        """What lies below the preset's thresholds, in words; empty when nothing does."""
        bars = self.cfg.exam
        if self.raw is not None:
            return ""
        base, final = (
            json.loads((self.run / "exams" / f"{n}.json").read_text()) for n in ("pretrain", "grpo")
        )
        text = final["exam"]["groups"]["people"]["text"]
        reached = {
            "cloze after pretraining": (base["cloze"]["accuracy"], bars.min_cloze_accuracy),
            "text-scored exam on held-out people": (text, bars.min_text_accuracy),
        }
        return "; ".join(
            f"{what} is {got:.1%}, the preset asks for {bar:.0%}"
            for what, (got, bar) in reached.items()
            if got < bar
        )


def run(
    cfg: Config, run_dir: Path | str, raw: Path | str | None = None, exam: Path | str | None = None
) -> Path:
    """Live the whole life in `run_dir` and return the path of its report card.

    raw: a folder of real raw files instead of the closed world. exam: a folder with `test/*.csv` to judge by.
    Raises UserError for a folder that cannot be used, SystemExit(1) when the preset's thresholds are missed.
    """
    raw, exam = (Path(p) if p else None for p in (raw, exam))
    for folder, what in ((raw, "raw"), (exam, "exam")):
        if folder is not None and not folder.is_dir():
            raise UserError(f"--{what}: no folder at {folder}")
    life = Life(cfg, Path(run_dir), raw, exam)
    life.open()
    page = life.live()
    total = sum(s["seconds"] for s in life.state["stages"].values())
    _say(f"\n[bold]done[/bold] in {total / 60:.1f} minutes; report card: {page}")
    if missed := life.shortfall():
        print(f"steel: the life is complete, but {missed}", file=sys.stderr)
        raise SystemExit(1)
    return page


def document_texts(docs: Path) -> Iterator[str]:
    """Text of every document; dialogues rendered by the chat template."""
    from .documents import read_documents

    for path in sorted(docs.glob("*.jsonl.zst")):
        for doc in read_documents(path):
            yield document_text(doc)


def document_text(doc) -> str:
    """What training reads of a document: its text, or its turns in the chat template."""
    from .tokenizer import chat

    return doc.text or chat.render(doc.messages)


def heldout_documents(docs: Path, fraction: float, most: int = 100) -> dict[str, list]:
    """The documents that packing keeps for validation, by source: texts, or turns of a dialogue."""
    from .data.tasks import held_out
    from .documents import read_documents

    domains = {}
    for path in sorted(docs.glob("*.jsonl.zst")):
        kept = (
            doc for doc in read_documents(path) if held_out(document_text(doc).encode(), fraction)
        )
        rows = [doc.text or doc.messages for doc in itertools.islice(kept, most)]
        if rows:
            domains[path.name.removesuffix(".jsonl.zst")] = rows
    return domains


def _first_difference(old, new, where: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if found := _first_difference(
                old.get(key), new.get(key), f"{where}.{key}" if where else key
            ):
                return found
        return ""
    return (
        "" if old == new else f"{where.removeprefix('config.')}: {old!r} there, {new!r} asked for"
    )


def _json_lines(path: Path) -> list[dict]:
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def _beginning(text: str) -> str:
    """Title and author of a poem; else the first words of a text, cut where a word ends."""
    lines = text.strip().splitlines()
    if len(lines) > 3 and max(map(len, lines[:2])) <= 16:
        return "\n".join(lines[:2]) + "\n"
    first = lines[0][: max(8, min(40, len(lines[0]) // 2))]
    words, space, _ = first.rpartition(" ")
    return words if space else first[:12]


def _exam_line(result: dict) -> str:
    people = result.get("exam", {}).get("groups", {}).get("people", {})
    parts = [
        f"{how} {people.get(how, r['accuracy']):.0%}"
        for how, r in result.get("exam", {}).get("scoring", {}).items()
    ]
    if "cloze" in result:
        parts.append(f"cloze {result['cloze']['accuracy']:.0%}")
    mean = result["perplexity"].get("geometric_mean", {}).get("bpb")
    return "  ".join([*parts, f"{mean:.3f} bits/byte" if mean else ""])


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text)
