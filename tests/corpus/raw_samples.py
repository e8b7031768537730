"""A small raw folder in every container, made by hand: what the tests of the corpus read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from steel.corpus.report import STEPS
from steel.corpus.sources import SOURCES
from steel.documents import read_documents

TEXTS = [
    "铁塔镇的早班电车从桥上缓缓开过，面包房的灯已经亮了，学生们背着书包在站台上等车。",
    "图书馆每天开到晚上九点，二楼靠窗的座位最受欢迎，冬天的傍晚可以看见河面上的雾。",
    "The harbour of the old town freezes in January, and the ferries wait for the ice breaker from the north.",
    "今年的苹果比去年甜，果农说是因为秋天雨水少、日照长，合作社已经把第一批货装上了船。",
    "A good index answers two questions at once: what is in the book, and what the author thought was worth finding.",
]
DIALOGUES = [
    ("水在多少度结冰？", "在一个标准大气压下，水在零摄氏度结冰。"),
    ("写一个求和函数。", "def add(a, b):\n    return a + b\n\n这个函数返回两个数的和。"),
    ("推荐一本关于桥的书。", "可以读一读讲石拱桥历史的书，里面有许多测绘图和照片。"),
]


def jsonl(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(
        (r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode()) + b"\n"
        for r in rows
    )
    if path.name.endswith(".gz"):
        data = gzip.compress(data)
    elif path.name.endswith(".zst"):
        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)


def array(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8")


def parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def record_of(source, number: int) -> dict:
    """A good record of a source whose card maps roles to fields, in one spelling of its turns."""
    question, answer = f"{DIALOGUES[number][0]}（{source.name}）", DIALOGUES[number][1]
    spellings = [
        [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        [{"human": question, "assistant": answer}],
    ]
    texts = {
        "text": f"{TEXTS[number]}（{source.name}）",
        "title": "一个题目",
        "question": question,
        "answer": answer,
        "input": f"第{number}个",
        "history": [["前一个问题", "前一个回答"]],
        "system": "你是一个助手。",
        "turns": spellings[number],
        "chosen": [answer, spellings[number][-1] if number < 2 else answer, spellings[number]][
            number
        ],
        "rejected": "不知道。",
    }
    record = dict.fromkeys(source.fields, "x") | {
        field: texts[role] for role, field in source.map.items()
    }
    # Signs that name the objects in a list: those need one.
    for sign in source.signs:
        for name, _, key in (part.partition(".") for part in sign):
            if key in ("from", "role") and name in source.map.values():
                said = "value" if key == "from" else "text"
                turns = [{key: "human", said: question}, {key: "assistant", said: answer}]
                record[name] = turns[: 1 if "chosen" in source.map else 2]
    return record


def write_raw(root: Path, whole: bool = False) -> Path:
    """The original's sources and a few more, with bad records among the good; returns the folder.

    whole: every source of the catalogue.
    """
    jsonl(
        root / "skypile/a.jsonl",
        [{"text": t} for t in TEXTS] + [b"{broken", b"\xff\xfe", {"text": None}, {}, [1]],
    )
    jsonl(
        root / "skypile/b.jsonl.gz",
        [{"text": TEXTS[0]}, {"text": "　　" + TEXTS[1] + "\r\n\r\n\r\n" + TEXTS[3]}],
    )
    jsonl(
        root / "wanjuan/part-000001.jsonl",
        [
            {"id": "x", "content": TEXTS[1].replace("，", "、")},
            {"id": "y", "title": "港口", "content": TEXTS[3] + TEXTS[0]},
        ],
    )
    jsonl(
        root / "wanjuan/part-000002.jsonl.zst",
        [
            {
                "q_main": "2+2=？",
                "option_a": "3",
                "option_b": "4",
                "option_c": "5",
                "option_d": "6",
                "option_e": "",
                "std_ans": "B",
                "answer_detail": "二加二等于四。",
            },
            {"q_main": "无答案", "option_a": "1"},
        ],
    )
    array(
        root / "wikipedia_cn/wiki.json",
        [{"completion": t, "source": "w"} for t in TEXTS[3:]] + [{"source": "w"}],
    )
    jsonl(
        root / "baidu_baike/baike.json",
        [
            {
                "title": "石桥",
                "summary": "",
                "sections": [{"title": "结构", "content": "石桥由石块砌成，桥拱承受压力。"}],
            },
            {"title": "空", "summary": "", "sections": []},
            {
                "title": "电车",
                "summary": "电车是沿轨道行驶的公共交通工具。",
                "sections": [],
                "tags": ["交通"],
            },
        ],
    )
    jsonl(
        root / "baidu_qa/qa.json",
        [
            {
                "qid": "1",
                "category": "c",
                "title": "苹果什么时候",
                "desc": "苹果什么时候成熟？",
                "answer": "一般在秋天。\r",
            },
            {
                "qid": "2",
                "category": "c",
                "title": "怎么修车",
                "desc": "",
                "answer": "先看说明书，再找工具。",
            },
            {
                "qid": "3",
                "category": "c",
                "title": "怎么走",
                "desc": "从车站到图书馆",
                "answer": "沿河走十分钟就到。",
            },
            {"qid": "4", "category": "c", "title": "谁", "desc": "", "answer": ""},
        ],
    )
    parquet(
        root / "zhihu_kol/train.parquet",
        [
            {
                "INSTRUCTION": q,
                "RESPONSE": a,
                "SOURCE": "Zhihu",
                "METADATA": json.dumps({"upvotes": u}),
            }
            for (q, a), u in zip(DIALOGUES, ("赞同 1.6 万", "赞同 99", "赞同 1234"), strict=True)
        ],
    )
    jsonl(
        root / "belle_2m/belle.json",
        [
            {"instruction": "翻译成英文", "input": "早上好", "output": "Good morning"},
            {"instruction": DIALOGUES[0][0], "input": "", "output": DIALOGUES[0][1]},
        ],
    )
    jsonl(
        root / "belle_3_5m/belle.json",
        [
            {
                "id": "1",
                "conversations": [
                    {"from": "human", "value": "你好，请问图书馆在哪里？"},
                    {"from": "assistant", "value": "在河边，it belongs to a Corporation"},
                ],
            },
            {
                "id": "2",
                "conversations": [
                    {"from": "assistant", "value": "先说话"},
                    {"from": "human", "value": "后说话"},
                ],
            },
            {
                "id": "3",
                "conversations": [
                    {"from": "human", "value": "问题一"},
                    {"from": "assistant", "value": "回答一"},
                    {"from": "human", "value": "没有回答的问题"},
                ],
            },
        ],
    )
    jsonl(
        root / "moss/moss.jsonl",
        [
            {
                "conversation_id": 1,
                "category": "Brainstorming",
                "conversation": [
                    {
                        "human": "河上的雾从哪里来？",
                        "assistant": "冷空气经过较暖的水面时，水汽凝结成雾。",
                    },
                    {"human": "什么时候散？", "assistant": "太阳升高以后。"},
                ],
            }
        ],
    )
    jsonl(
        root / "firefly/firefly.jsonl",
        [{"kind": "NLI", "input": "前提：下雨了。假设：地是湿的。", "target": "蕴含"}],
    )
    parquet(
        root / "starcoder/python/train.parquet",
        [
            {
                "max_stars_repo_path": "a.py",
                "max_stars_repo_name": "x/y",
                "max_stars_count": 3,
                "id": "0",
                "content": "<reponame>x/y<gh_stars>1-10\nimport os\n\n\ndef f(x):\n    return os.path.join('a', x)\n",
            },
            {
                "max_stars_repo_path": "b.py",
                "max_stars_repo_name": "x/y",
                "max_stars_count": 0,
                "id": "1",
                "content": None,
            },
        ],
    )
    jsonl(
        root / "chinese_poetry/tang.jsonl.zst",
        [
            {
                "title": "早春",
                "author": "無名",
                "dynasty": "唐",
                "form": "诗",
                "paragraphs": ["東風吹柳綠，", "細雨潤花紅。"],
            },
            {"title": "空", "author": "無名", "paragraphs": []},
        ],
    )
    (root / "personal/notes").mkdir(parents=True)
    (root / "personal/notes/one.md").write_text("# 笔记\n\n" + TEXTS[4], encoding="utf-8")
    (root / "personal/old.txt").write_bytes(
        "老文件用的是国标编码，也应该能够读出来。".encode("gb18030")
    )
    (root / "personal/paper.pdf").write_bytes(b"%PDF-1.4 nothing")
    (root / "picture.png").write_bytes(b"\x89PNG")
    for source in SOURCES.values() if whole else ():
        if not (root / source.name).is_dir() and source.map:
            rows = [record_of(source, number) for number in range(3)]
            if "Parquet" in source.container:
                rows = [json.loads(json.dumps(record_of(source, 1)))] * 2
                parquet(root / source.name / "a.parquet", rows)
            else:
                jsonl(root / source.name / "a.jsonl", rows)
    if whole:
        talk = "Human:河上的雾从哪里来？\nAssistant:来自水汽。\nHuman:什么时候散？\nAssistant:"
        jsonl(
            root / "belle_multiturn/a.json",
            [{"instruction": talk, "input": "", "output": "天亮。"}],
        )
        exam = {"q_main": "最大的数是？", "option_a": "一", "option_b": "二", "std_ans": "B"}
        jsonl(root / "wanjuan_mcq/a.jsonl", [exam, exam | {"option_a": None}])
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def assert_sums_close(report: dict, out: Path) -> None:
    for name, part in report["sources"].items():
        before = None
        for step in STEPS:
            counts = part["steps"][step]
            gone = sum(counts.get("removed", {}).values()) + sum(
                counts.get("rejected", {}).values()
            )
            assert counts["in"] == counts["kept"] + gone and before in (None, counts["in"])
            before = counts["kept"]
        assert before == len(list(read_documents(out / f"{name}.jsonl.zst")))
    assert json.loads((out / "report.json").read_text()) == report
