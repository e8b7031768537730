"""The whole life of a small Steel, one method per stage, each leaving its result in the RUN folder.

    RUN/config.yaml   what was asked for            RUN/state.json   stages done, seconds, memory
    RUN/world|docs|tokenizer|shards                 data, from raw text to tokens
    RUN/pretrain|sft|dpo|grpo                       log.jsonl, checkpoints/, hf/
    RUN/exams/<stage>.json                          what the model knew after each stage
    RUN/report.json|md|html                         the report card

A stage that is done is not done again: the command that started a killed life lets it go on.
"""

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from .align.samples import sample
from .align.stage import run as train_stage
from .config import Config, UserError, sound
from .data.pack import pack
from .data.tasks import held_out
from .documents import read_documents, read_rows
from .evaluation.cloze import cloze, load_cloze
from .evaluation.conversation import converse, messages
from .evaluation.exam import run_exam
from .evaluation.perplexity import bits_per_byte, load_domains
from .evaluation.questions import has_hanzi
from .machine import commit, hardware, packages, peak_memory_bytes, reset_peak_memory
from .model import build
from .model.decoding import Sampling
from .model.folder import default_device, open_model
from .report.render import write_report
from .runlog import atomic_write, read_json, write_json
from .serve.generate import complete, continue_text
from .tokenizer import bpe
from .tokenizer.texts import document_text, sample_texts
from .train import pretrain

SAMPLE_PROMPTS = 6
HELD_OUT_DOCUMENTS = 100  # of a source, for bits per byte
# A Hanzi that stands in one row alone would be three byte tokens, which a small model misspells: it
# stands in the tokenizer's sample often enough to become an entry.
HANZI_COPIES = 300
# Small talk among thousands of questions: seen once an epoch, the model hardly learns its own name.
SELF_COGNITION_REPEATS = 4
# The stages after pretraining, each with its files of rows (of real data only the first).
ALIGNMENT = {
    "sft": ["sft.jsonl", "multi_turn.jsonl", *["self_cognition.jsonl"] * SELF_COGNITION_REPEATS],
    "dpo": ["preference.jsonl"],  # or pairs of the model's own, see `make_pairs`
    "grpo": ["rl.jsonl"],
}


@dataclass
class Life:
    """One life: configuration and folder, and for real data the raw folder and the exam.

    A method `make_*`, and those after them, each do the work of one stage; what returns a string
    was skipped for that reason.
    """

    cfg: Config
    run: Path
    raw: Path | None = None
    exam: Path | None = None

    def __post_init__(self):
        if not self.raw and self.cfg.world.drills:
            from .corpus.world.drill import with_drills

            self.cfg = with_drills(self.cfg)
        self.state_path, self.state = self.run / "state.json", {"stages": {}}
        home = self.run if self.raw else self.run / "world"
        self.post = home / "post"  # the post-training sets
        self.exam = self.exam or (None if self.raw else home / "exam")

    # -- bookkeeping -------------------------------------------------------------------------------

    def open(self) -> None:
        """Create the RUN folder or take up one that was left; refuses another run's folder."""
        import yaml

        self.run.mkdir(parents=True, exist_ok=True)
        config = self.cfg.to_dict()
        asked = {"config": config, "raw": str(self.raw.resolve()) if self.raw else None}
        if self.state_path.exists():
            self._take_up(asked)
        elif any(self.run.iterdir()):
            raise UserError(f"{self.run} is not empty and holds no run; use another --run")
        started = self.state.get("run", {}).get("started", time.time())
        about = {"name": self.run.name, "preset": self.cfg.preset, "seed": self.cfg.seed}
        about |= {"started": started, "commit": commit(), "config_hash": self.cfg.hash()}
        self.state["run"] = about | {"hardware": hardware(), "packages": packages()}
        self.state["asked"] = asked
        page = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
        atomic_write(self.run / "config.yaml", page)
        self.save()

    def _take_up(self, asked: dict) -> None:
        """Read the state of a life that was left, if it is the one that is asked for."""
        with sound(self.state_path, f"remove {self.run} or use another --run"):
            self.state = read_json(self.state_path)
            differing = _first_difference(self.state["asked"], asked)
            for stage in self.state["stages"].values():
                _ = stage["status"], stage["seconds"] + stage["peak_memory_bytes"]
        if differing:
            remedy = "use another --run, or remove it"
            raise UserError(f"{self.run} holds another run ({differing}); {remedy}")

    def save(self) -> None:
        """Write state.json."""
        write_json(self.state_path, self.state)

    def stage(self, name: str, work: Callable[[], object]) -> None:
        """Do a stage unless it is done or skipped."""
        new = {"status": "pending", "seconds": 0.0, "peak_memory_bytes": 0}
        entry = self.state["stages"].setdefault(name, new)
        if entry["status"] in ("done", "skipped"):
            return
        _say(name, style="bold")
        began = time.monotonic()
        reset_peak_memory()
        entry["status"] = "running"
        try:
            reason = work()
            entry |= {"status": "skipped", "reason": reason} if reason else {"status": "done"}
            if reason:
                _say(f"  skipped: {reason}")
        finally:  # an interrupted stage keeps its time, so that the total stays true
            entry["seconds"] = round(entry["seconds"] + time.monotonic() - began, 2)
            entry["peak_memory_bytes"] = max(entry["peak_memory_bytes"], peak_memory_bytes())
            self.save()

    # -- data --------------------------------------------------------------------------------------

    def make_world(self) -> None:
        """The closed world in all raw formats, with post-training sets and exam."""
        from .corpus.world import write_world

        summary = write_world(self.run / "world", self.cfg.world, self.cfg.seed)
        people = sum(summary["people"].values())
        records = sum(source["records"] for source in summary["sources"].values())
        _say(f"  {people} people, {records:,} raw records, {summary['raw_bytes']:,} bytes")

    def make_documents(self) -> None:
        """Raw files to clean, deduplicated documents; the closed world's drills stand beside them."""
        from .corpus.pipeline import prepare

        prepare(self.raw or self.run / "world" / "raw", self.run / "docs")
        if not self.raw:
            from .corpus.world.drill import write_drills

            write_drills(self.run / "docs", self.cfg.world, self.cfg.seed)

    def make_post(self) -> str | None:
        """For real data: dialogues and tasks found in the documents become post-training sets."""
        from .corpus.instructions import write_instructions

        folders = self.run / "docs", self.run / "post"
        counts = write_instructions(*folders, self.cfg.seed, skip=self._is_held_out)
        none = "neither dialogues nor regulated poems among the documents"
        return None if counts["sft"] else none

    def make_tokenizer(self) -> None:
        """Train a BPE on the documents, or take the folder that the configuration names."""
        settings = self.cfg.tokenizer
        if settings.path:
            tokenizer = bpe.load(settings.path)
        else:
            texts = sample_texts(self.run / "docs", settings.sample_bytes)
            if settings.post_texts:
                files = sorted(self.post.glob("*.jsonl"))
                said = [row["messages"] for file in files for _, row in read_rows(file)]
                texts += ["\n".join(turn["content"] for turn in turns) for turns in said]
                hanzi = sorted({c for text in texts for c in text if has_hanzi(c)})
                texts += hanzi * HANZI_COPIES
            tokenizer = bpe.train(texts, settings.vocab_size, settings.longest_entry)
        if (entries := len(tokenizer)) > (rows := self.cfg.model.vocab_size):
            raise UserError(f"the tokenizer has {entries} entries; raise model.vocab_size={rows}")
        bpe.save(tokenizer, self.run / "tokenizer")

    def make_shards(self) -> None:
        """Documents to token shards."""
        folders = (self.run / name for name in ("docs", "shards", "tokenizer"))
        manifest = pack(*folders, hold_out=self.cfg.data.validation_fraction)
        _say(f"  {sum(s['tokens'] for s in manifest['shards']):,} tokens")

    # -- training ----------------------------------------------------------------------------------

    def pretrain(self, **given) -> None:
        """Pretraining on the shards; what is `given` goes to `steel.train.pretrain`, in place of the prompts too."""
        folders = (self.run / name for name in ("shards", "pretrain", "tokenizer"))
        pretrain.pretrain(self.cfg, *folders, **({"prompts": self.prompts()} | given))

    def align(self, name: str) -> str | None:
        """One stage after pretraining, from the model of the newest stage before it."""
        files = [self.post / row for row in ALIGNMENT[name][: 1 if self.raw else None]]
        own = self.run / "samples" / "preference.jsonl"
        if name == "dpo" and own.is_file() and own.stat().st_size:
            files = [own]
        if missing := [f.name for f in files if not f.is_file()]:
            return f"these raw files give no {', '.join(missing)}"
        stages = ["pretrain", *ALIGNMENT]
        before = [self.run / stage / "hf" for stage in stages[: stages.index(name)]]
        model = next(folder for folder in reversed(before) if folder.is_dir())
        replays = name == "sft" and self.cfg.sft.replay_rows
        replay = self.run / "shards" if replays else None
        train_stage(name, self.cfg, model, files, self.run / name, replay=replay)
        return None

    def make_pairs(self) -> str | None:
        """Right and wrong answers of the model after SFT, which DPO takes instead of written pairs."""
        rows, model = self.post / "rl.jsonl", self.run / "sft" / "hf"
        if not rows.is_file() or not model.is_dir():
            return f"it takes {rows.name} and an SFT model"
        report = sample(self.cfg, model, rows, self.run / "samples")
        pairs = report["rows"]["preference"]
        found = f"{pairs} of {report['prompts']} prompts have right and wrong answers"
        _say(f"  {found}")
        return None if pairs else found

    # -- judging -----------------------------------------------------------------------------------

    def examine(self, name: str) -> str | None:
        """Exam, cloze and bits per byte after stage `name` ("init": before any training)."""
        if self.state["stages"].get(name, {}).get("status") == "skipped":
            return f"stage {name} was skipped"
        began = time.monotonic()
        opened = self.untrained() if name == "init" else open_model(self.run / name / "hf")
        result: dict = {"stage": name}
        if self.exam:
            options = {k: v for k, v in vars(self.cfg.exam).items() if not k.startswith("min_")}
            result["exam"] = run_exam(*opened, self.exam, **options)
            file, own = self.exam / "cloze.jsonl", self.exam == self.run / "world" / "exam"
            if own or file.is_file():
                result["cloze"] = cloze(*opened, load_cloze(file), batch_size=options["batch_size"])
        result["perplexity"] = bits_per_byte(*opened, self.heldout)
        if name != "init" and not self.raw:
            result["conversation"] = converse(*opened, messages(self.run / "world", self.cfg.seed))
        if name != "init":
            result["samples"] = self.samples(*opened, chat=name != "pretrain")
        result["seconds"] = round(time.monotonic() - began, 2)
        write_json(self.run / "exams" / f"{name}.json", result)
        _say("  " + _exam_line(result))
        return None

    def untrained(self):
        """Model at initialisation, and the tokenizer."""
        model = build(self.cfg.model, seed=self.cfg.seed).to(default_device())
        return model, bpe.load(self.run / "tokenizer")

    @cached_property
    def heldout(self) -> dict[str, list]:
        """Texts (or dialogues) by domain that no stage trains on, read once."""
        if not self.raw:
            return load_domains(self.run / "world" / "heldout")
        domains = {}
        for path in sorted((self.run / "docs").glob("*.jsonl.zst")):
            kept = filter(self._is_held_out, read_documents(path))
            rows = [doc.text or doc.messages for doc in itertools.islice(kept, HELD_OUT_DOCUMENTS)]
            if rows:
                domains[path.name.removesuffix(".jsonl.zst")] = rows
        return domains

    def _is_held_out(self, doc) -> bool:
        """Whether packing keeps a document for validation."""
        text = document_text(doc)
        return bool(text) and held_out(text.encode(), self.cfg.data.validation_fraction)

    def prompts(self) -> list[str]:
        """Beginnings of held-out texts, for samples drawn while training."""
        natural = [rows for name, rows in self.heldout.items() if name not in ("code", "starcoder")]
        mixed = itertools.chain(*itertools.zip_longest(*natural))  # the first of each domain, …
        texts = (text for text in mixed if isinstance(text, str))
        return [_beginning(text) for text in itertools.islice(texts, SAMPLE_PROMPTS)]

    def samples(self, model, tokenizer, chat: bool) -> list[dict]:
        """A few greedy completions: of text for a base model, of questions for a chat model."""
        answer, prompts = continue_text, self.prompts()
        if chat:
            files = [self.post / f"{n}.jsonl" for n in ("self_cognition", "sft", "multi_turn")]
            some = [list(itertools.islice(read_rows(f), 0, 30, 10)) for f in files if f.is_file()]
            rows = [row for three in some for _, row in three][:SAMPLE_PROMPTS]
            answer, prompts = complete, [row["messages"][:-1] for row in rows]
        greedy = Sampling(temperature=0, max_new_tokens=48)
        return [{"prompt": p, "completion": answer(model, tokenizer, p, greedy)} for p in prompts]

    # -- the whole ---------------------------------------------------------------------------------

    def live(self) -> Path:
        """Every stage in turn, then the report card. Returns the path of report.html."""
        if self.raw is None:
            self.stage("world", self.make_world)
        self.stage("docs", self.make_documents)
        if self.raw is not None:
            self.stage("post", self.make_post)
        self.stage("tokenizer", self.make_tokenizer)
        self.stage("shards", self.make_shards)
        self.stage("exam:init", partial(self.examine, "init"))
        self.stage("pretrain", self.pretrain)
        self.stage("exam:pretrain", partial(self.examine, "pretrain"))
        for name in ALIGNMENT:
            if name == "dpo":
                self.stage("pairs", self.make_pairs)
            self.stage(name, partial(self.align, name))
            self.stage(f"exam:{name}", partial(self.examine, name))
        return self.report()

    def report(self) -> Path:
        """Write the report card from what lies in the RUN folder."""
        seconds = self.seconds()
        self.state["run"]["finished"] = time.time()
        cost = {"seconds": round(seconds, 1), "device_hours": round(seconds / 3600, 4)}
        self.state["cost"] = cost
        self.save()
        return write_report(self.run)

    def seconds(self) -> float:
        """Time that all stages took [s]."""
        return sum(stage["seconds"] for stage in self.state["stages"].values())

    def shortfall(self) -> str:
        """What lies below the preset's thresholds, in words; empty when nothing does."""
        if self.exam != self.run / "world" / "exam":
            return ""  # the thresholds are on this exam
        base, last = (self.run / "exams" / f"{stage}.json" for stage in ("pretrain", "grpo"))
        with sound(base):
            cloze = read_json(base)["cloze"]["accuracy"] + 0.0
        with sound(last):
            people = read_json(last)["exam"]["groups"]["people"].get("text", 0) + 0.0
        bars = self.cfg.exam
        missed = []
        if cloze < (bar := bars.min_cloze_accuracy):
            missed.append(f"cloze after pretraining is {cloze:.1%}, the preset asks for {bar:.0%}")
        if people < (bar := bars.min_text_accuracy):
            what = "text-scored exam on held-out people"
            missed.append(f"{what} is {people:.1%}, the preset asks for {bar:.0%}")
        return "; ".join(missed)


def run(
    cfg: Config, run_dir: Path | str, raw: Path | str | None = None, exam: Path | str | None = None
) -> Path:
    """Live the whole life in `run_dir` and return the path of its report card.

    raw: a folder of real raw files instead of the closed world. exam: a folder with `test/*.csv` to
    judge by. Raises UserError for a folder that cannot be used and for a threshold on a score that
    is not asked for, SystemExit(1) when the preset's thresholds are missed.
    """
    raw, exam = (Path(p) if p else None for p in (raw, exam))
    for folder, what in ((raw, "raw"), (exam, "exam")):
        if folder is not None and not folder.is_dir():
            raise UserError(f"--{what}: no folder at {folder}")
    if raw is None and cfg.exam.min_text_accuracy and "text" not in cfg.exam.scoring:
        remedy = "add it, or set the threshold to 0"
        raise UserError(f"exam.min_text_accuracy needs text among exam.scoring; {remedy}")
    life = Life(cfg, Path(run_dir), raw, exam)
    life.open()
    page = life.live()
    _say(f"\ndone in {life.seconds() / 60:.1f} minutes; report card: {page}")
    if missed := life.shortfall():
        print(f"steel: the life is complete, but {missed}", file=sys.stderr)
        raise SystemExit(1)
    return page


def _first_difference(old, new, where: str = "") -> str:
    """The first key under which two nested dicts differ, in words; empty when none does."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            inner = f"{where}.{key}" if where else key
            if found := _first_difference(old.get(key), new.get(key), inner):
                return found
        return ""
    place = where.removeprefix("config.")
    return "" if old == new else f"{place}: {old!r} there, {new!r} asked for"


def _beginning(text: str) -> str:
    """The first words of a text: of its first line a half, at most 40 characters."""
    line = text.strip().splitlines()[0]
    head = line[: max(8, min(40, len(line) // 2))]
    words, space, _ = head.rpartition(" ")
    return words if space else head[:12]


def _exam_line(result: dict) -> str:
    """Accuracies and bits per byte, for the screen."""
    exam, parts = result.get("exam", {}), []
    people = exam.get("groups", {}).get("people", {})
    for how, scores in exam.get("scoring", {}).items():
        parts.append(f"{how} {people.get(how, scores['accuracy']):.0%}")
    if "conversation" in result:
        parts.append(f"conversation {result['conversation']['accuracy']:.0%}")
    if "cloze" in result:
        parts.append(f"cloze {result['cloze']['accuracy']:.0%}")
    if mean := result["perplexity"].get("geometric_mean", {}).get("bpb"):
        parts.append(f"{mean:.3f} bits/byte")
    return "  ".join(parts)


def _say(text: str, style: str = "") -> None:
    from rich.console import Console

    plain = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
    Console(stderr=True, **plain).print(text, style=style)
