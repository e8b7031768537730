"""The model's own answers, judged: pairs for DPO, right answers for SFT, prompts for GRPO.

Every RL prompt is answered `grpo.group_size` times. A prompt with right and wrong answers gives a
preference pair of its own making (the reference has both within reach), its right answers are
dialogues (rejection-sampled fine-tuning, Yuan et al. 2023), and it is a prompt from which GRPO
learns: one that is always or never solved has no advantage to offer.
"""

from pathlib import Path

from ..config import Config
from ..documents import write_rows
from ..machine import progress
from ..model.build import require_causal
from ..model.decoding import uniforms
from ..model.folder import open_model, stop_ids
from ..runlog import write_json
from ..train.build import evaluating
from ..train.parallel import World
from ..train.run_folder import RunFolder
from .grpo import Roller, encode_prompts
from .rows import check_verifiable, read_rows
from .stage import Job, split

FILES = ("preference", "sft", "rl")


def sample(cfg: Config, model: Path | str, data, out: Path | str) -> dict:
    """Answer RL rows with the model folder `model`; `out` gets preference, sft and rl.jsonl, report.json.

    Settings are `cfg.grpo`: group_size, temperature, top_p, lengths, micro_batch_size prompts at a
    time. A pair is the first right and the first wrong answer, an SFT row each different right one,
    of those that ended by themselves; the RL rows are those solved sometimes, with their share
    "solved". Returns the report: prompts, pass_at_1, pass_at_k, k, rows per file. Raises UserError
    as a stage does.
    """
    lm, tokenizer = open_model(model)
    require_causal(lm, "sampling")
    stop_ids(tokenizer, chat=True)
    rows, facts = read_rows(data, check_verifiable, "RL prompts")
    where = (RunFolder(out), World(device=lm.device))
    job = Job("grpo", cfg, Path(model), rows, facts, lm, tokenizer, *where)
    prompts, group = encode_prompts(job), job.settings.group_size
    roller, found, solved = Roller(job, prompts), {name: [] for name in FILES}, []
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i][0]))
    with progress(len(prompts), "sampling", "prompts") as bar:
        for some in split(by_length, job.settings.micro_batch_size):
            with evaluating(lm, job.settings, where[1]):
                answers = _answers(roller, some)
            for i, row_answers in zip(some, split(answers, group), strict=True):
                solved.append(sum(right for _, right, _ in row_answers) / group)
                _file(found, prompts[i][1], row_answers, solved[-1])
            bar.advance(len(some))
    report = {"prompts": len(prompts), "skipped": job.long.total(), "k": group}
    report["pass_at_1"] = sum(solved) / len(solved)
    report["pass_at_k"] = sum(share > 0 for share in solved) / len(solved)
    report["rows"] = {name: len(kept) for name, kept in found.items()}
    for name, kept in found.items():
        write_rows(Path(out) / f"{name}.jsonl", kept)
    write_json(Path(out) / "report.json", report)
    return report


def _answers(roller: Roller, some: list[int]) -> list[tuple[str, bool, bool]]:
    """(text, right, usable) of `group_size` answers to each of some prompts."""
    import torch

    settings, seed = roller.settings, roller.job.cfg.seed
    shape = (settings.group_size, settings.max_new_tokens)
    u_RN = torch.cat([uniforms(*shape, seed, i) for i in some])  # of a prompt, whatever the batch
    asked = [roller.prompts[i] for i in some for _ in range(shape[0])]
    done = roller.sample([ids for ids, _ in asked], u_RN)
    judged = []
    for (_, row), completion in zip(asked, done, strict=True):
        text = roller.text(completion)
        whole = completion.finished and bool(text.strip()) and "\ufffd" not in text
        judged.append((text, roller.reward(row, completion)[1], whole))
    return judged


def _file(found: dict[str, list], row: dict, answers: list[tuple], solved: float) -> None:
    """Put one prompt's answers where they belong."""
    about = {key: row[key] for key in ("kind", "lang") if key in row}
    right, wrong = (
        list(dict.fromkeys(text for text, correct, whole in answers if whole and correct is want))
        for want in (True, False)
    )
    for text in right:
        turn = {"role": "assistant", "content": text}
        found["sft"].append({"messages": [*row["messages"], turn], **about})
    if right and wrong:
        pair = {"messages": row["messages"], "chosen": right[0], "rejected": wrong[0]}
        found["preference"].append(pair | about)
    if 0 < solved < 1:
        found["rl"].append(row | {"solved": solved})
