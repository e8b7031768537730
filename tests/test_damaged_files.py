"""Every kind of file that a command reads, damaged in every way that disks and people damage files:
the command works, or it says so in one line that names the file, with exit code 2; it leaves no litter.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import zstandard
from toy_life import TOY

import steel
from steel.cli import main
from steel.evaluation.exam import run_exam
from steel.model.folder import open_model
from steel.serve.export import export_hf

SMOKE = ["--preset", "smoke", *TOY]
DATA = " -d RUN/world/post/"
OWN = f"{DATA}self_cognition.jsonl" * 4
STEP = "pretrain/checkpoints/step-00000006"
HF = "sft/hf"
# Files, and commands that read them. RUN is a copy of the life, SOUND the life, OUT a new path.
READ = [
    # -- models and tokenizers --
    (
        f"{HF}/config.json {HF}/generation_config.json {HF}/model.safetensors {HF}/tokenizer.json "
        f"{HF}/tokenizer_config.json {HF}/chat_template.jinja",
        f"chat RUN/{HF} --prompt 你好",
        f"export gguf RUN/{HF} OUT",
    ),
    (
        f"{HF}/config.json {HF}/model.safetensors",
        f"export hf RUN/{HF} OUT --as llama",
        "pretrain -d RUN/shards -r OUT -p smoke train.steps=1 train.z_loss=0 model.source=hf "
        f"model.path=RUN/{HF}",
    ),
    (
        "tokenizer/tokenizer.json tokenizer/tokenizer_config.json",
        "tokenizer coverage RUN/tokenizer",
        "pack RUN/more OUT -t RUN/tokenizer",
        "tokenizer merge RUN/tokenizer OUT --hanzi FCC",
    ),
    ("original/config.json original/model.safetensors", "import-original RUN/original OUT"),
    # -- shards --
    (
        "shards/manifest.json shards/firefly/000-0000-00000.bin shards/firefly/000-0000-00000.idx "
        "shards/tokenizer/tokenizer.json",
        "data verify RUN/shards",
        "pretrain -d RUN/shards -r OUT SMOKE train.steps=1 train.eval_every=0",
        "data append RUN/shards RUN/more",
    ),
    ("shards/manifest.json", "pretrain --dry-run -d RUN/shards SMOKE"),
    (
        "shards/firefly/000-0000.json shards/manifest.json shards/rejects.json",
        "pack RUN/docs RUN/shards -t RUN/tokenizer --hold-out 0.02",
    ),
    ("shards/firefly/000-0000.json shards/rejects.json", "data append RUN/shards RUN/more"),
    # -- runs: checkpoints, logs, states, results --
    (
        f"{STEP}/manifest.json {STEP}/state.json {STEP}/.metadata {STEP}/__0_0.distcp "
        "pretrain/log.jsonl",
        "pretrain -d RUN/shards -r RUN/pretrain -t RUN/tokenizer SMOKE train.steps=7",
    ),
    (f"{STEP}/state.json", "data append RUN/shards RUN/more --run RUN/pretrain"),
    ("dpo/reference.safetensors dpo/log.jsonl", f"dpo -m RUN/{HF}{DATA}preference.jsonl -r RUN/dpo SMOKE"),
    (
        "state.json exams/pretrain.json docs/report.json sft/log.jsonl",
        "report RUN",
    ),
    ("state.json exams/grpo.json", "run --run RUN SMOKE", "report RUN SOUND --out OUT.html"),
    ("exams/grpo.json", "eval compare RUN/exams/grpo.json SOUND/exams/sft.json"),
    # -- documents and raw files --
    (
        "more/new.jsonl.zst",
        "tokenizer train RUN/more OUT --vocab-size 300",
        "tokenizer report RUN/tokenizer RUN/more",
        "pack RUN/more OUT -t RUN/tokenizer",
        "eval contamination RUN/more RUN/world/exam",
        "data clean RUN/more OUT",
    ),
    ("docs/report/rejects/firefly.jsonl.zst", "data rejects RUN/docs"),
    ("docs/.work/done.json", "data prepare RUN/raw RUN/docs"),
    (
        "raw/moss/moss-sft-data.jsonl.zst raw/zhihu_kol/train-00000-of-00001.parquet",
        "data convert RUN/raw OUT",
    ),
    # -- post-training --
    (
        "world/post/multi_turn.jsonl",
        f"sft -m RUN/pretrain/hf{DATA}multi_turn.jsonl -r OUT SMOKE sft.steps=1",
        f"export llama-factory sft -m RUN/pretrain/hf{DATA}multi_turn.jsonl -r OUT",
    ),
    ("world/post/preference.jsonl", f"reward -m RUN/{HF}{DATA}preference.jsonl -r OUT SMOKE reward.steps=1"),
    ("small.jsonl", f"grpo -m RUN/{HF} -d RUN/small.jsonl -r OUT SMOKE grpo.steps=1"),
    # -- exams --
    (
        "world/exam/test/city_zh.csv world/exam/dev/city_zh.csv exam.partial",
        f"eval exam RUN/{HF} -d RUN/world/exam --limit 1 --scoring letter --shots 1 --out RUN/exam",
        f"eval exam RUN/{HF} -d RUN/world/exam --write-lm-eval OUT",
    ),
    ("world/exam/cloze.jsonl", "AGAIN run --run RUN SMOKE"),
    ("world/heldout/zh.jsonl", f"eval perplexity RUN/{HF} RUN/world/heldout/zh.jsonl"),
    ("world/truth.json", f"eval conversation RUN/{HF} --world RUN/world"),
    ("gsm8k/test.jsonl", f"eval task RUN/{HF} gsm8k -d RUN/gsm8k --max-new-tokens 2"),
    # -- settings --
    ("recipe.yaml", "data clean RUN/more OUT --recipe RUN/recipe.yaml"),
    ("preset.yaml", "plan --preset RUN/preset.yaml"),
    ("config.yaml", "plan --preset RUN/config.yaml"),
]  # fmt: skip
CASES = [
    (file, command) for files, *commands in READ for file in files.split() for command in commands
]


def damages(data: bytes):
    """(name, content) of the damages to a file; None for what is no file any more."""
    text = data[:1] in (b"{", b"#", b"\n")
    third, half = len(data) // 3, len(data) // 2
    yield from {
        "sound": data,
        "empty": b"",
        "half": data[:half],
        "no UTF-8": b"\xff\xc3(" + data,
    }.items()
    yield "flipped", data[:third] + bytes([data[third] ^ 16]) + data[third + 1 :]
    yield from ((value, value.encode()) for value in ("[]", "3", "null", "{}")[: 4 if text else 1])
    yield from (("folder", None), ("absent", None))


def place(source: Path, target: Path) -> None:
    """Hard links of a file or folder, but copies of what commands write to in place."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(exist_ok=True)
        link(str(source), str(target))


def link(source: str, target: str) -> None:
    written = source.endswith((".jsonl", ".lock", ".partial"))
    if not os.path.exists(target):
        (shutil.copy if written else os.link)(source, target)


def hidden(folder: Path) -> set[Path]:
    """The hidden files and folders that a command may leave behind when it fails."""
    known = {".lock", ".work", ".metadata"}
    found = folder.rglob(".*") if folder.exists() else ()
    return {p for p in found if p.name not in known and ".work" not in p.parts}


@pytest.fixture(scope="module")
def world(life, tmp_path_factory):
    """The life, and beside it the files that it has not."""
    base = tmp_path_factory.mktemp("damaged") / "base"
    shutil.copytree(life, base, ignore=shutil.ignore_patterns("raw", "*.py", "duplicates.jsonl"))
    for file in ("moss", "zhihu_kol"):
        shutil.copytree(life / "world/raw" / file, base / "raw" / file)
    package = Path(steel.__file__).parent
    shutil.copy(package / "corpus/recipes/steel.yaml", base / "recipe.yaml")
    shutil.copy(package / "presets/smoke.yaml", base / "preset.yaml")
    rows = (base / "world/post/rl.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (base / "small.jsonl").write_text("".join(rows[:4]), encoding="utf-8")
    model = base / HF
    run_exam(
        *open_model(model), base / "world/exam", limit=1, scoring=["letter"], shots=1,
        batch_size=128, partial=base / "exam.partial",
    )  # fmt: skip
    export_hf(model, base / "original", "fp32", "qwen2")
    original = json.loads((base / "original/config.json").read_text())
    original |= {"FFN_type": "raw", "mlp_type": "raw", "mlp_div_ratio": 1}
    (base / "original/config.json").write_text(json.dumps(original))
    for folder in ("more", "gsm8k"):
        (base / folder).mkdir()
    about = {"source": "new", "lang": "zh", "meta": {}}
    for name in ("new", "other"):  # one of them stays sound
        rows = [{"id": f"{i}", "text": f"{name} 新的文本 {i}, " * 9, **about} for i in range(9)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (base / f"more/{name}.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    rows = [{"question": f"{i} + 1?", "answer": f"#### {i + 1}"} for i in range(3)]
    (base / "gsm8k/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return base


@pytest.mark.parametrize("file, command", CASES, ids=[f"{f}: {c[:40]}" for f, c in CASES])
def test_a_damaged_file_is_named_in_one_line(file, command, world, life, tmp_path, capsys):
    failures = []
    for damage, content in damages((world / file).read_bytes()):
        run, out = tmp_path / "run", tmp_path / "out"
        for top in {*re.findall(r"RUN/([^/ ]+)", command), file.split("/")[0]} - {"exam"}:
            place(world / top, run / top)
        if re.search("RUN( |$)", command):
            for path in world.iterdir():
                place(path, run / path.name)
        (run / file).unlink()
        if content is not None:
            (run / file).write_bytes(content)
        elif damage == "folder":
            (run / file).mkdir()
        before = hidden(tmp_path)
        try:
            main(argv(command, run, out, life))
        except SystemExit as end:
            code = end.code
        except Exception as error:  # what this test looks for; name all of them at once
            code = repr(error)
        said, left = capsys.readouterr().err, hidden(tmp_path) - before
        path = Path(file)
        names = path.name.partition(".")[0] or path.name, path.parent.name or "run", "a file of"
        named = any(name and name in said for name in names) or path.suffix == ".yaml"
        refused = code == 2 and named and said.count("steel: ") == 1 and "Traceback" not in said
        if left or not (code == 0 or refused) or (damage == "sound" and code):
            failures.append((damage, code, said[-300:], left))
        for made in tmp_path.iterdir():
            shutil.rmtree(made) if made.is_dir() else made.unlink()
    assert not failures, "\n".join(map(str, failures))


def argv(command: str, run: Path, out: Path, life: Path) -> list[str]:
    """The words of a command; AGAIN: it first forgets that an exam has been taken."""
    again, words = command.startswith("AGAIN "), command.removeprefix("AGAIN ").split()
    if again:
        state = json.loads((run / "state.json").read_text())
        state["stages"]["exam:pretrain"]["status"] = "pending"
        (run / "state.json").unlink()
        (run / "state.json").write_text(json.dumps(state))
    places = {"RUN": run, "OUT": out, "SOUND": life}
    for name, path in places.items():
        words = [w.replace(name, str(path)) for w in words]
    return [word for w in words for word in (SMOKE if w == "SMOKE" else [w])]
