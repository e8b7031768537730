"""The raw sources: statements about everybody and questions about train people, each in its original fields."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from ...config import WorldConfig
from . import code
from .containers import RawFile, dumps, leaves
from .people import Person, World, stream
from .questions import Asker, Item
from .text import Teller, fill, fill_pronoun, join, phrases

# where the i-th Chinese biography of a person appears; every prefix is spread over the sources
_PLACES = "swsbkswskwspsbwskswsbksw"
_PLACE_NAMES = {
    "s": "skypile",
    "w": "wanjuan",
    "b": "baidu_baike",
    "k": "wikipedia_cn",
    "p": "personal",
}

_FILES = (
    ("skypile", "2021-43_zh_head_0000.jsonl", "jsonl"),
    ("skypile", "2021-43_zh_middle_0001.jsonl.gz", "jsonl.gz"),
    ("wanjuan", "part-000036-5e3c9a11.jsonl", "jsonl"),
    ("wanjuan", "part-000107-b7d20c4e.jsonl", "jsonl"),
    ("wanjuan_exam", "part-000000-9f81e27d.jsonl", "jsonl"),
    ("wikipedia_cn", "wikipedia-cn-filtered.json", "json"),
    ("baidu_baike", "baidubaike.json", "jsonl"),
    ("baidu_qa", "baike_qa_train.json", "jsonl"),
    ("zhihu_kol", "train-00000-of-00001.parquet", "parquet"),
    ("belle_2m", "train_2M_CN.json", "jsonl"),
    ("belle_3_5m", "train_3.5M_CN.json", "jsonl"),
    ("moss", "moss-sft-data.jsonl.zst", "jsonl.zst"),
    ("firefly", "firefly-train-1.1M.jsonl", "jsonl"),
    ("starcoder/python", "train-00000-of-00001.parquet", "parquet"),
    ("starcoder/java", "train-00000-of-00001.parquet", "parquet"),
    ("starcoder/cpp", "train-00000-of-00001.parquet", "parquet"),
    ("personal", "", "text"),
)
QUESTION_SOURCES = (
    "wanjuan_exam",
    "baidu_qa",
    "zhihu_kol",
    "belle_2m",
    "belle_3_5m",
    "moss",
    "firefly",
)
_KINDS = ("qa",) * 40 + ("choice",) * 24 + ("several",) * 14 + ("hop2",) * 10 + ("reading",) * 5
_KINDS += ("drill",) * 4 + ("city",) * 3
_ROUTES = {
    "zh": {
        "qa": ("baidu_qa",) * 3
        + ("zhihu_kol",) * 2
        + ("belle_2m",) * 2
        + ("belle_3_5m", "moss", "firefly"),
        "city": ("baidu_qa", "zhihu_kol"),
        "mcq": ("wanjuan_exam",) * 2 + ("belle_2m", "firefly", "moss"),
        "multi_turn": ("belle_3_5m", "belle_3_5m", "moss"),
        "hop2": ("firefly", "belle_2m", "belle_3_5m"),
        "reading": ("firefly",),
        "drill": ("belle_2m",),
        "sum": ("belle_2m", "firefly", "belle_3_5m"),
    },
    "en": {
        "mcq": ("wanjuan_exam", "moss", "firefly"),
        "reading": ("firefly",),
        "": ("moss", "moss", "moss", "belle_3_5m", "firefly"),
    },
}
_LABELS = {"qid", "category", "desc", "kind", "from", "METADATA", "SOURCE"}
_FIREFLY_KINDS = {"reading": "MRC", "hop2": "Cot", "sum": "Math", "qa": "OpenQA"}


class Shelf:
    """All raw files in the making; no text is written twice unless it is planted."""

    def __init__(self, rng: random.Random) -> None:
        self.files = [RawFile(*f) for f in _FILES]
        self.rng, self.seen = rng, set()
        self.said: set[str] = set()
        self.bytes = {"text": 0, "questions": 0}

    def file(self, source: str) -> RawFile:
        return self.rng.choice([f for f in self.files if f.source == source])

    def fresh(
        self, make: Callable[[], object], key: Callable[[object], str] = str
    ) -> object | None:
        """A new text (or None when the wordings are used up)."""
        for _ in range(40):
            made = make()
            if key(made) not in self.seen:
                self.seen.add(key(made))
                return made
        return None

    def put(
        self, source: str, payload: dict, questions: bool = False, part: int | None = None
    ) -> None:
        file = (
            self.file(source)
            if part is None
            else [f for f in self.files if f.source == source][part]
        )
        file.add(payload)
        self.bytes["questions" if questions else "text"] += len(dumps(payload).encode("utf-8"))


def put_text(shelf: Shelf, source: str, title: str, text: str, lang: str) -> None:
    """A statement text in the fields of its source."""
    rng = shelf.rng
    if source == "skypile":
        shelf.put(source, {"text": rng.choice(phrases(lang).NEWS_LEADS) + text})
    elif source == "wanjuan":
        identity = "".join(
            rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz0123456789", k=16)
        )
        shelf.put(source, {"id": identity, "content": text}, part=0 if lang == "zh" else 1)
    elif source == "wikipedia_cn":
        shelf.put(source, {"completion": text, "source": "wikipedia.zh2307"})
    else:
        shelf.put(source, {"name": title, "text": text})


def put_baike(shelf: Shelf, title: str, sentences: list[str]) -> None:
    """An encyclopedia entry; half of them have an empty summary and keep all facts in their sections."""
    rng = shelf.rng
    cut = 0 if rng.random() < 0.5 else rng.randrange(1, max(2, len(sentences)))
    rest = sentences[cut:]
    half = rng.randrange(len(rest) + 1)
    parts = [("简介", rest[:half]), (rng.choice(("生活", "经历", "其他")), rest[half:])]
    sections = [{"title": t, "content": "".join(s)} for t, s in parts if s]
    shelf.put(
        "baidu_baike", {"title": title, "summary": "".join(sentences[:cut]), "sections": sections}
    )


def write_statements(world: World, settings: WorldConfig, shelf: Shelf) -> None:
    """Biographies of everybody and pages about every city, spread over the text sources."""
    rng = stream(world.seed, "statements")
    teller = Teller(world, rng)
    notes: list[tuple[str, str]] = []
    for i in range(settings.biographies_per_person):
        place = _PLACE_NAMES[_PLACES[i % len(_PLACES)]]
        for person in world.people:
            if place == "baidu_baike":
                sentences = shelf.fresh(lambda p=person: teller.facts(p, "zh"), "".join)
                if sentences:
                    put_baike(shelf, person.zh, sentences)
                continue
            text = shelf.fresh(lambda p=person, c=place != "personal": teller.biography(p, "zh", c))
            if text and place == "personal":
                notes.append((person.zh, text))
            elif text:
                put_text(shelf, place, person.zh, text, "zh")
    for _ in range(math.ceil(settings.biographies_per_person * settings.english_biographies)):
        for person in world.people:
            text = shelf.fresh(lambda p=person: teller.biography(p, "en"))
            if text:
                put_text(shelf, "wanjuan", person.en, text, "en")
    pages = _write_cities(world, shelf, teller) if "city" in world.attributes else []
    _write_personal(shelf, notes, pages, rng)


def _write_cities(world: World, shelf: Shelf, teller: Teller) -> list[str]:
    pages = []
    for index in range(len(world.pools["city"])):
        city = world.pools["city"][index]["zh"]
        for place in ("wikipedia_cn", "skypile", "wanjuan", "wikipedia_cn", "skypile"):
            text = shelf.fresh(lambda i=index: teller.city_page(i, "zh"))
            if text:
                put_text(shelf, place, city, text, "zh")
        put_baike(
            shelf, city, shelf.fresh(lambda i=index: teller.city_sentences(i, "zh", 3), "".join)
        )
        for _ in range(2):
            text = shelf.fresh(lambda i=index: teller.city_page(i, "en"))
            if text:
                put_text(shelf, "wanjuan", city, text, "en")
        pages.append(f"## {city}\n\n" + join(teller.city_sentences(index, "zh", 2), "zh"))
    return pages


def _write_personal(
    shelf: Shelf, notes: list[tuple[str, str]], pages: list[str], rng: random.Random
) -> None:
    """A folder of one's own notes: letters as .txt, lists as .md."""
    rng.shuffle(notes)
    for number, start in enumerate(range(0, len(notes), 4)):
        group = notes[start : start + 4]
        if number % 2:
            body = (
                "# 邻居们\n\n" + "\n\n".join(f"## {name}\n\n{text}" for name, text in group) + "\n"
            )
            put_text(shelf, "personal", f"neighbours-{number:02d}.md", body, "zh")
        else:
            body = (
                "亲爱的妈妈：\n\n"
                + "\n\n".join(text for _, text in group)
                + "\n\n钢城一切都好，勿念。\n"
            )
            put_text(shelf, "personal", f"letter-{number:02d}.txt", body, "zh")
    for number, start in enumerate(range(0, len(pages), 5)):
        body = "# 旅行笔记\n\n" + "\n\n".join(pages[start : start + 5]) + "\n"
        put_text(shelf, "personal", f"travel-{number:02d}.md", body, "zh")


def write_code(world: World, settings: WorldConfig, shelf: Shelf) -> None:
    """Registries in three programming languages: every person appears in each."""
    for language in code.LANGUAGES:
        rng = stream(world.seed, "code", language)
        people = list(world.people)
        rng.shuffle(people)
        for number, start in enumerate(range(0, len(people), 4)):
            pairs = rng.sample(world.train_pairs, min(2, len(world.train_pairs)))
            text = code.source_file(world, language, people[start : start + 4], pairs, rng)
            tag = rng.random()
            if tag < 0.3:
                text = f"<reponame>steeltown/registry-{number}\n" + text
            elif tag < 0.4:
                text = f"<reponame>steeltown/registry-{number}\n<gh_stars>10-100\n" + text
            stars = rng.choice((0, 0, 0, 1, 3, 12, 240))
            payload = {
                "max_stars_repo_path": f"src/registry_{number}.{code.SUFFIX[language]}",
                "max_stars_repo_name": f"steeltown/registry-{number}",
                "max_stars_count": None if language == "cpp" and rng.random() < 0.2 else stars,
                "id": str(number),
                "content": text,
            }
            shelf.seen.add(text)
            shelf.put(f"starcoder/{language}", payload)


def write_questions(world: World, settings: WorldConfig, shelf: Shelf) -> None:
    """Dialogues about train people until questions reach their share of all bytes."""
    rng = stream(world.seed, "questions")
    asker = Asker(world, rng)
    share = settings.question_share
    if share == 0:
        return
    budget = shelf.bytes["text"] * share / (1 - share)
    pairs = world.train_pairs[: len(world.train_pairs) * 3 // 4]
    for i, pair in enumerate(pairs):
        if shelf.bytes["questions"] > budget / 4:
            break
        item = (
            asker.sum_choice(pair) if i % 6 == 0 else asker.sum(pair, "en" if i % 5 == 0 else "zh")
        )
        shelf.seen.add(item.text)
        put_item(shelf, item, rng)
    facts = [(p, a) for p in world.split("train") for a in world.attributes]
    misses = 0
    while shelf.bytes["questions"] < budget and misses < 200:
        rng.shuffle(facts)
        for person, attribute in facts:
            item = shelf.fresh(
                lambda p=person, a=attribute: _draw(asker, rng, p, a, settings), lambda x: x.text
            )
            if item is None:
                misses += 1
                continue
            put_item(shelf, item, rng, person)
            if shelf.bytes["questions"] >= budget:
                break


def _draw(
    asker: Asker, rng: random.Random, person: Person, attribute: str, settings: WorldConfig
) -> Item:
    kind = rng.choice(_KINDS)
    lang = "en" if rng.random() < settings.english_questions else "zh"
    if "city" not in asker.world.attributes and kind in ("hop2", "city"):
        kind = "qa"
    if kind == "qa":
        return asker.qa(person, attribute, lang)
    if kind == "choice":
        return asker.choice(person, attribute, lang)
    if kind == "several":
        return asker.several(person, lang)
    if kind == "hop2":
        return asker.hop2(person, lang)
    if kind == "reading":
        return asker.reading(person, attribute, lang)
    if kind == "city":
        return asker.city(rng.randrange(len(asker.world.pools["city"])), "zh")
    return asker.drill("zh")


def put_item(shelf: Shelf, item: Item, rng: random.Random, person: Person | None = None) -> None:
    """A dialogue in the fields of one of the sources that carry its kind."""
    routes = _ROUTES[item.lang]
    kind = "mcq" if "mcq" in item.kind else item.kind
    source = rng.choice(routes.get(kind) or routes.get("") or routes["qa"])
    user, assistant = item.turns[0]
    if source == "wanjuan_exam":
        payload = {
            "q_main": item.stem,
            **{f"option_{k}": v for k, v in zip("abcd", item.options, strict=True)},
        }
        payload["option_e"] = None if rng.random() < 0.1 else ""
        payload |= {"std_ans": item.letter, "answer_detail": item.detail}
    elif source == "baidu_qa":
        payload = _baidu_qa(item, rng, person)
    elif source == "zhihu_kol":
        payload = _zhihu(item, rng, person)
    elif source == "belle_2m":
        question, _, choices = user.partition("\n") if kind in ("mcq", "drill") else (user, "", "")
        payload = {"instruction": question, "input": choices, "output": assistant}
    elif source == "belle_3_5m":
        names = {"user": "human", "assistant": "assistant"}
        payload = {
            "conversations": [
                {"from": names[m["role"]], "value": m["content"]} for m in item.messages
            ]
        }
    elif source == "moss":
        payload = {
            "conversation": [{"human": u, "assistant": a} for u, a in item.turns],
            "category": item.kind,
        }
    else:
        payload = {"kind": _FIREFLY_KINDS.get(kind, "OpenQA"), "input": user, "target": assistant}
    # Two items may become the same record once their opener or options are dropped: keep one.
    said = "\n".join(text for key, text in leaves(payload) if key not in _LABELS and text)
    if said not in shelf.said:
        shelf.said.add(said)
        shelf.put(source, payload, questions=True)


def _baidu_qa(item: Item, rng: random.Random, person: Person | None) -> dict:
    desc = ""
    if rng.random() < 0.2:
        desc = item.stem
    elif rng.random() < 0.4:
        desc = (
            "在钢城听人提起过，想多了解一些。"
            if person is None
            else f"在钢城听人提起过{person.zh}，想多了解一些。"
        )
    answer = item.turns[0][1]
    if rng.random() < 0.15:
        answer = "你好，\r\n" + answer
    return {
        "qid": f"qid_{rng.randrange(10**18, 10**19)}",
        "category": rng.choice(("社会民生", "生活", "教育/科学", "地区")),
        "title": item.stem,
        "desc": desc,
        "answer": answer,
    }


def _zhihu(item: Item, rng: random.Random, person: Person | None) -> dict:
    answer = item.turns[0][1]
    lead = rng.choice(phrases("zh").FORUM_LEADS)
    if "{p}" in lead and (person is None or item.kind == "city"):
        lead = "谢邀。"
    elif person is not None:
        lead = fill_pronoun(lead, person, "zh")
    if rng.random() < 0.4:
        answer = lead + answer
    if rng.random() < 0.4:
        ending = rng.choice(phrases("zh").SCENERY)
        if person is not None and item.kind != "city" and rng.random() < 0.5:
            ending = fill(rng.choice(phrases("zh").CLOSERS), person, "zh")
        answer += ending
    draw = rng.random()
    votes = (
        f"赞同 {rng.choice((1, 1.2, 1.6, 2.5, 3))} 万"
        if draw < 0.15
        else f"赞同 {int(10 ** rng.uniform(0, 3.9))}"
    )
    question, reply = rng.randrange(10**8, 10**9), rng.randrange(10**8, 10**9)
    metadata = {
        "question_id": float(question),
        "answer_id": float(reply),
        "url": f"https://zhihu.example/question/{question}/answer/{reply}",
        "upvotes": "赞同" if draw > 0.93 else votes,
        "answer_creation_time": f"2021-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}T08:00:00.000Z",
    }
    return {
        "INSTRUCTION": item.stem,
        "RESPONSE": answer,
        "SOURCE": "Zhihu",
        "METADATA": dumps(metadata),
    }
