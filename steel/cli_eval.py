"""The `steel eval` commands."""

import math
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from .cli_common import Json, Model, command, hf_folder, say
from .config import UserError, sound
from .runlog import read_json, write_json


def write(out: Path | None, result: dict) -> None:
    """The one JSON file of a run, if asked for."""
    if out:
        write_json(out, result)
        say(f"result    {out}")


@command("eval exam", "steel eval exam runs/laptop --folder runs/laptop/world/exam")
def eval_exam(
    ckpt: Model,
    folder: Annotated[Path, Option("--folder", "-d", help="Folder of dev/ and test/ CSVs.")],
    suite: Annotated[str, Option(help="cmmlu, ceval, mmlu, world; default: by subjects.")] = "",
    shots: Annotated[int, Option(min=0, help="Worked examples before a question.")] = 0,
    scoring: Annotated[
        str, Option(help="Of letter, text, generate, cot, bind.")
    ] = "letter,text,generate",
    out: Json = None,
    limit: Annotated[int | None, Option(min=0, help="Questions per subject.")] = None,
    subjects: Annotated[str, Option(help="Only these; several with commas.")] = "",
    split: Annotated[str, Option(help="Default: the one with public answers.")] = "",
    style: Annotated[str, Option(help="Prompts: steel, official or lm-eval.")] = "steel",
    chat: Annotated[bool | None, Option(help="In chat turns; default: as the model can.")] = None,
    bos: Annotated[bool, Option("--bos", help="Begin with the document separator.")] = False,
    shuffle: Annotated[int | None, Option(help="Seed to redraw the order of options.")] = None,
    batch_size: Annotated[int, Option(min=1, help="Rows per forward pass.")] = 128,
    write_lm_eval: Annotated[Path | None, Option(help="Only write task files for lm-eval.")] = None,
) -> None:
    """Multiple-choice exam, scored in several ways, with standard error and trivial baselines."""
    from .evaluation.exam import run_exam, the_questions
    from .evaluation.suites import check_suite
    from .model.folder import open_model

    if suite:
        check_suite(suite)  # before the model is opened, which may take long
    only = {"suite": suite, "limit": limit, "split": split, "shuffle_seed": shuffle}
    only["subjects"] = [name for name in subjects.split(",") if name]
    if write_lm_eval:
        from .evaluation import lm_eval_files
        from .evaluation.questions import load_exam

        name, _, questions = the_questions(folder, **only)
        dev = load_exam(folder, "dev")
        tasks = lm_eval_files.write_lm_eval(write_lm_eval, name, questions, dev, style)
        say(f"task files  {write_lm_eval} ({len(tasks)} tasks, group steel_{name or 'exam'})")
        return
    how = {"scoring": scoring.split(","), "shots": shots, "style": style, "chat": chat, "bos": bos}
    how |= {"batch_size": batch_size, "partial": Path(f"{out}.partial") if out else None}
    result = run_exam(*open_model(hf_folder(ckpt)), folder, **only, **how)
    for way, r in result["scoring"].items():
        unread = f", unreadable {r['unparsed']:.1%}" if "unparsed" in r else ""
        means = f"(macro {r['macro']:.2%} ± {r['macro_se']:.2%}, n {r['n']}{unread})"
        say(f"{way:<9} {r['accuracy']:7.2%} ± {r['se']:.2%}  {means}")
    say("baselines " + "  ".join(f"{k} {v:.2%}" for k, v in result["baselines"].items()))
    write(out, result)
    if out:
        how["partial"].unlink(missing_ok=True)


@command("eval conversation", "steel eval conversation runs/laptop --world runs/laptop/world")
def eval_conversation(
    ckpt: Model,
    world: Annotated[Path, Option("--world", "-w", help="Folder of the closed world.")],
    seed: Annotated[int, Option(help="Draws people, strangers and sums.")] = 1,
    out: Json = None,
) -> None:
    """The first conversation: sixty messages that no training file holds, and what was right."""
    from .evaluation.conversation import converse, messages
    from .model.folder import open_model

    result = converse(*open_model(hf_folder(ckpt)), messages(world, seed))
    for row in result["answers"]:
        said = " / ".join(row["said"]).replace("\n", " ")
        say(f"{'right' if row['right'] else 'WRONG'}  {said}  →  {row['reply']}")
    kinds = "  ".join(f"{k} {v['accuracy']:.0%}" for k, v in result["kinds"].items())
    say(f"\n{result['accuracy']:.1%} of {result['n']}: {kinds}")
    write(out, result)


@command("eval task", "steel eval task runs/laptop gsm8k --folder gsm8k --shots 4")
def eval_task(
    ckpt: Model,
    suite: Annotated[str, Argument(help="gsm8k or humaneval.")],
    folder: Annotated[Path, Option("--folder", "-d", help="Folder with test.jsonl.")],
    shots: Annotated[int, Option(min=0, help="Worked examples, of gsm8k.")] = 0,
    limit: Annotated[int | None, Option(min=0, help="Rows.")] = None,
    max_new_tokens: Annotated[int, Option(min=1, help="Longest reply.")] = 512,
    run_code: Annotated[bool, Option("--run-code", help="Run what it wrote (humaneval).")] = False,
    out: Json = None,
) -> None:
    """GSM8K or HumanEval: free replies, judged by their last number or by their tests."""
    from .evaluation.free import run_free
    from .model.folder import open_model

    if run_code:
        say("running what the model wrote, on this machine, with limits but without a sandbox")
    how = {"shots": shots, "limit": limit, "max_new_tokens": max_new_tokens, "run_code": run_code}
    result = run_free(*open_model(hf_folder(ckpt)), folder, suite, **how)
    r = result["scoring"]["generate"]
    counts = f"(n {r['n']}, no answer {r['unparsed']:.1%})"
    say(f"{suite}  {r['accuracy']:.2%} ± {r['se']:.2%}  {counts}")
    write(out, result)


@command("eval fetch", "steel eval fetch cmmlu exams/cmmlu")
def eval_fetch(
    suite: Annotated[str, Argument(help="cmmlu, ceval, mmlu, gsm8k or humaneval.")],
    out: Annotated[Path, Argument(help="Folder to write.")],
) -> None:
    """An exam from the Hugging Face hub, as a folder."""
    from .evaluation.fetch import fetch

    say(fetch(suite, out))


@command("eval compare", "steel eval compare a.json b.json")
def eval_compare(
    before: Annotated[Path, Argument(help="Result of a steel eval, or RUN/exams/*.json.")],
    after: Annotated[Path, Argument(help="Another model's, on the same questions or documents.")],
    out: Json = None,
) -> None:
    """Paired difference of two models, question by question or document by document."""
    from .evaluation import perplexity, results

    one, two = (_read(path) for path in (before, after))
    found: dict[str, dict] = {}
    with sound(f"{before} or {after}"):
        if one["exam"] and two["exam"]:
            ways = [way for way in one["exam"]["scoring"] if way in two["exam"]["scoring"]]
            found["exam"] = {way: results.compare(one["exam"], two["exam"], way) for way in ways}
        if one["perplexity"] and two["perplexity"]:
            found["perplexity"] = perplexity.compare(one["perplexity"], two["perplexity"])
            windows = [side["perplexity"].get("window") or "unknown" for side in (one, two)]
            if windows[0] != windows[1]:
                say(f"not through the same window: {', '.join(map(str, windows))}")
    if not any(found.values()):
        raise UserError(f"{before} and {after} have nothing in common to compare")
    for way, r in found.get("exam", {}).items():
        changed = f"{r['better']} better, {r['worse']} worse, sign test p {r['p']:.3g}"
        say(f"{way:<12} {100 * r['difference']:+7.2f} ± {100 * r['se']:.2f} points  ({changed})")
    for name, r in found.get("perplexity", {}).items():
        say(f"{name:<12} {r['difference']:+.4f} ± {r['se']:.4f} bits/byte  (n {r['documents']})")
    write(out, found)


def _read(path: Path) -> dict:
    """{"exam", "perplexity"} of a result file, None for what it does not hold."""
    with sound(path):
        page = read_json(path)
        return {
            "exam": page if "answers" in page else page.get("exam"),
            "perplexity": page if "domains" in page else page.get("perplexity"),
        }


@command(
    "eval perplexity",
    "steel eval perplexity runs/laptop runs/laptop/world/heldout/*.jsonl --reference runs/other",
)
def eval_perplexity(
    ckpt: Model,
    files: Annotated[
        list[Path], Argument(help='jsonl files of {"text"} or {"messages"}; one domain a file.')
    ],
    reference: Annotated[Path | None, Option(help="Tokenizer to normalise perplexity.")] = None,
    context: Annotated[
        int | None, Option(min=2, help="Window [tokens]; default: the model's.")
    ] = None,
    stride: Annotated[int | None, Option(min=1, help="Its advance; default: half of it.")] = None,
    out: Json = None,
) -> None:
    """Bits per byte and perplexity by domain."""
    from .evaluation.perplexity import bits_per_byte, load_domains
    from .model.folder import open_model
    from .tokenizer import bpe

    found, domains, bad = hf_folder(ckpt), load_domains(files), []
    options = {"context": context, "stride": stride}
    options["reference"] = bpe.load(reference) if reference else None
    result = bits_per_byte(*open_model(found), domains, **options)
    write(out, result)
    for name, r in result["domains"].items():
        if r["bpb"] is None:
            counts = f"{r['nan_documents']} of {r['documents']} documents are not finite"
            bad.append(f"{name} ({counts if r['nan_documents'] else 'no text to score'})")
            continue
        numbers = f"{r['bpb']:.4f} bits/byte   perplexity {r['ppl'] or math.inf:.2f}"
        if reference:
            numbers += f"   normalised {r['ppl_normalised'] or math.inf:.2f}"
        say(f"{name:<20} {numbers}   {r['tokens']:,} tokens")
    if bad:
        raise UserError(f"no number, and therefore no mean, for {', '.join(bad)}")
    mean = result["geometric_mean"]
    other = f"   normalised {mean['ppl_normalised'] or math.inf:.2f}" if reference else ""
    say(f"{'geometric mean':<20} {mean['bpb']:.4f} bits/byte{other}")


@command("eval contamination", "steel eval contamination docs runs/laptop/world/exam")
def eval_contamination(
    docs: Annotated[Path, Argument(help="Folder of documents.")],
    exam: Annotated[Path, Argument(help="Folder of dev/ and test/ CSVs.")],
    split: Annotated[str, Option(help="Which questions.")] = "test",
    length: Annotated[int, Option(help="Characters from which a match is a copy.")] = 13,
    out: Json = None,
) -> None:
    """Exam questions that stand in training text, by the longest match of characters."""
    from .documents import read_documents
    from .evaluation.contamination import contamination
    from .evaluation.questions import load_exam

    found = contamination(read_documents(docs), load_exam(exam, split), length)
    for row in found["rows"][:10]:
        where = f"{row['subject']} {row['id']}  in {row['document']}"
        say(f"{row['match']:>4} characters  {where}  {' '.join(row['text'].split())[:60]}")
    counts = "  ".join(f"{n}+: {count:,}" for n, count in found["by_length"].items())
    say(f"by length    {counts}")
    short = f" ({found['too_short']:,} too short to judge)" if found["too_short"] else ""
    say(f"found        {found['found']:,} of {found['questions']:,} questions{short}")
    write(out, found)
