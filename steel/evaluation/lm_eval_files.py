"""Task files with which EleutherAI's lm-evaluation-harness asks the same questions in the same words.

steel eval exam MODEL --folder EXAM --write-lm-eval DIR
lm_eval --model hf --model_args pretrained=MODEL --tasks steel_cmmlu --include_path DIR
"""

from collections.abc import Sequence
from pathlib import Path

import yaml

from ..documents import write_rows
from ..runlog import atomic_write
from .prompts import Prompter
from .questions import Question
from .suites import about


def write_lm_eval(
    out: Path | str, suite: str, questions: Sequence[Question], dev: Sequence[Question], style: str
) -> list[str]:
    """Write OUT/<task>.yaml and its questions per subject, and the group of all. Returns the tasks.

    The prompts are those of `style`, as text to continue, scored by letter; the files name their
    data by absolute path, since lm-eval looks for it from where it is started.
    """
    out, group = Path(out).resolve(), f"steel_{suite or 'exam'}"
    where = {"suite": suite, "letters": about(suite)["letters"]}
    prompter, tasks = Prompter(None, False, style=style, **where), []
    for subject in dict.fromkeys(q.subject for q in questions):
        task = f"{group}_{subject}"
        splits, files = {"test": questions, "dev": dev}, {}
        for split, rows in splits.items():
            rows = [q for q in rows if q.subject == subject]
            if rows:
                files[split] = str(out / "questions" / f"{subject}.{split}.jsonl")
                write_rows(files[split], (_row(prompter, q) for q in rows))
        some = next(q for q in questions if q.subject == subject)
        words = prompter.words(some)
        page = {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "test_split": "test",
            "output_type": "multiple_choice",
            "description": words["head"],
            "doc_to_text": "{{text}}",
            "doc_to_choice": "{{letters}}",
            "doc_to_target": "{{answer}}",
            "target_delimiter": words["gap"],
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        }
        if "dev" in files:
            page |= {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}}
        atomic_write(out / f"{task}.yaml", yaml.safe_dump(page, allow_unicode=True))
        tasks.append(task)
    mean = {"metric": "acc", "weight_by_size": True}
    page = {"group": group, "task": tasks, "aggregate_metric_list": [mean]}
    atomic_write(out / f"{group}.yaml", yaml.safe_dump(page, allow_unicode=True))
    return tasks


def _row(prompter: Prompter, question: Question) -> dict:
    """One line of data: what is asked, without the head, the letters, the place of the right one."""
    words = prompter.words(question)
    text = prompter.blocks(question, [], True)[-1][0].removeprefix(words["head"])
    letters = list(question.letters)
    return {"text": text, "letters": letters, "answer": letters.index(question.answer)}
