"""The raw sources: statements about everybody, questions about train people, in original fields."""

import math
import random
from collections.abc import Callable

from ...config import WorldConfig
from .containers import LABELS, RawFile, Record, dumps, text_of
from .people import Person, World, chunks, shuffled, stream, table
from .questions import Asker, Item, Tutor
from .text import Teller, fill

_LETTERS_AND_DIGITS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz0123456789"


def weighted(weights: dict[str, int]) -> list[str]:
    """Names repeated by their weights, to be drawn from."""
    return [name for name, weight in weights.items() for _ in range(weight)]


class Shelf:
    """All raw files in the making; no text is written twice unless it is planted."""

    def __init__(self, rng: random.Random) -> None:
        self.files = [RawFile(*f) for f in table("sources")["files"]]
        self.rng = rng
        self.seen: set[str] = set()  # texts
        self.said: set[str] = set()  # whole records of questions
        self.bytes = {"text": 0, "questions": 0}

    def fresh(self, make: Callable, *args):
        """A new text, list of sentences or Item of `make(*args)`; None when wordings are used up."""
        for _ in range(40):
            made = make(*args)
            text = "".join(made) if isinstance(made, list) else str(made)
            if text not in self.seen:
                self.seen.add(text)
                return made
        return None

    def put(self, source: str, record: dict, room: str = "text", part: int | None = None) -> None:
        """Adds a record to part `part` (or to any) of a source's files."""
        files = [f for f in self.files if f.source == source]
        file = self.rng.choice(files) if part is None else files[part]
        file.records.append(Record(record))
        self.bytes[room] += len(dumps(record).encode())

    def put_text(self, source: str, text: str | None, lang: str = "zh", name: str = "") -> None:
        """A statement text in the fields of its source (`name`: of a note); nothing for None."""
        if text is None:
            return
        slots, part = {"text": text, "name": name}, None
        if source == "skypile":
            slots["lead"] = self.rng.choice(table(lang)["news_leads"])
        elif source == "wanjuan":
            slots["id"] = "".join(self.rng.choices(_LETTERS_AND_DIGITS, k=16))
            part = 0 if lang == "zh" else 1
        self.put(source, form(source, **slots), part=part)

    def put_baike(self, title: str, sentences: list[str] | None) -> None:
        """An encyclopedia entry; half have an empty summary and keep all facts in their sections."""
        if sentences is None:
            return
        rng = self.rng
        cut = 0 if rng.random() < 0.5 else rng.randrange(1, max(2, len(sentences)))
        summary, rest = "".join(sentences[:cut]), sentences[cut:]
        half = rng.randrange(len(rest) + 1)
        parts = ("简介", rest[:half]), (rng.choice(table("sources")["baike_sections"]), rest[half:])
        sections = [{"title": t, "content": "".join(s)} for t, s in parts if s]
        entry = form("baidu_baike", title=title, summary=summary)
        self.put("baidu_baike", entry | {"sections": sections})


def form(source: str, **slots: object) -> dict:
    """A record of a source, its slots filled; what is no text is left to the caller."""
    fields = table("sources")["records"][source]
    return {name: field.format(**slots) for name, field in fields.items()}


def write_statements(world: World, settings: WorldConfig, shelf: Shelf) -> None:
    """Biographies of everybody and pages about every city, spread over the text sources."""
    teller = Teller(world, stream(world.seed, "statements"))
    spread, notes = table("sources")["biographies"], []
    for i in range(settings.biographies_per_person):
        source = spread["sources"][spread["order"][i % len(spread["order"])]]
        for person in world.people:
            if source == "baidu_baike":
                shelf.put_baike(person.zh, shelf.fresh(teller.facts, person, "zh"))
            elif source != "personal":
                shelf.put_text(source, shelf.fresh(teller.biography, person, "zh"))
            elif text := shelf.fresh(teller.biography, person, "zh", False):
                notes.append((person.zh, text))
    for _ in range(math.ceil(settings.biographies_per_person * settings.english_biographies)):
        for person in world.people:
            shelf.put_text("wanjuan", shelf.fresh(teller.biography, person, "en"), "en")
    pages = [_write_city(*city, shelf, teller) for city in zip(*world.cities.values(), strict=True)]
    _write_notes(shuffled(notes, teller.rng), "people", 4, shelf)
    _write_notes(pages, "cities", 5, shelf)


def _write_city(zh: tuple, en: tuple, shelf: Shelf, teller: Teller) -> tuple[str, str]:
    """Pages about one city, a (city, product) in both languages; returns its name and a note."""
    for source in table("sources")["city_pages"]:
        shelf.put_text(source, shelf.fresh(teller.city_page, zh, "zh"))
    shelf.put_baike(zh[0], shelf.fresh(teller.city_sentences, zh, "zh", 3))
    for _ in range(2):
        shelf.put_text("wanjuan", shelf.fresh(teller.city_page, en, "en"), "en")
    return zh[0], "".join(teller.city_sentences(zh, "zh", 2))


def _write_notes(notes: list[tuple[str, str]], about: str, size: int, shelf: Shelf) -> None:
    """Files of one's own notes (name, text), so many in each."""
    kinds = table("sources")["personal"][about]
    for number, group in enumerate(chunks(notes, size)):
        kind = kinds[number % len(kinds)]
        parts = [kind["note"].format(name=name, text=text) for name, text in group]
        text = kind["file"].format(notes="\n\n".join(parts))
        shelf.put_text("personal", text, name=kind["name"].format(number))


def write_code(world: World, shelf: Shelf) -> None:
    """Registries in three programming languages: every person appears in each."""
    for language, spec in table("code").items():
        teller = Teller(world, stream(world.seed, "code", language))
        rng = teller.rng
        for number, people in enumerate(chunks(shuffled(world.people, rng), 4)):
            text, tag = teller.source_file(language, people), rng.random()
            if tag < 0.4:
                gh_stars = "<gh_stars>10-100\n" if tag >= 0.3 else ""
                text = f"<reponame>steeltown/registry-{number}\n{gh_stars}{text}"
            stars = rng.choice((0, 0, 0, 1, 3, 12, 240))
            if language == "cpp" and rng.random() < 0.2:
                stars = None
            record = form("starcoder", text=text, number=number, suffix=spec["suffix"])
            shelf.seen.add(text)
            shelf.put(f"starcoder/{language}", record | {"max_stars_count": stars})


def write_questions(world: World, settings: WorldConfig, shelf: Shelf) -> None:
    """Dialogues about train people until questions reach their share of all bytes."""
    share = settings.question_share
    if share == 0:
        return
    worked, written = settings.questions == "worked", shelf.bytes
    asker = Tutor(world, "questions", short=0.12) if worked else Asker(world, "questions")
    budget = written["text"] * share / (1 - share)
    pairs = world.pairs["train"]
    for i, pair in enumerate(pairs[: len(pairs) * 3 // 4]):
        if written["questions"] > budget / 4:
            break
        choice, lang = i % 6 == 0, "en" if i % 5 == 0 else "zh"
        item = asker.sum_choice(pair) if choice else asker.sum(pair, lang)
        shelf.seen.add(str(item))
        put_item(shelf, item, asker.rng)
    facts = [(p, a) for p in world.split("train") for a in world.attributes]
    misses = 0
    while written["questions"] < budget and misses < 200:
        asker.rng.shuffle(facts)
        for person, attribute in facts:
            item = shelf.fresh(_draw, asker, person, attribute, settings)
            if item is None:
                misses += 1
                continue
            put_item(shelf, item, asker.rng, person)
            if written["questions"] >= budget:
                break


def _draw(asker: Asker, person: Person, attribute: str, settings: WorldConfig) -> Item:
    """A question of a drawn kind and language."""
    rng, cities = asker.rng, asker.world.cities["zh"]
    kind = rng.choice(weighted(table("sources")["questions"][settings.questions]))
    lang = "en" if rng.random() < settings.english_questions else "zh"
    if not cities and kind in ("hop2", "city"):
        kind = "qa"
    if kind == "city":
        return asker.city(rng.choice(cities), "zh")
    if kind == "drill":
        return asker.drill("zh")
    if kind == "stranger":
        return asker.stranger(rng.choice(asker.world.strangers["train"])[lang == "en"], lang)
    about = (person,) if kind in ("several", "hop2", "who") else (person, attribute)
    return getattr(asker, kind)(*about, lang)


def put_item(shelf: Shelf, item: Item, rng: random.Random, person: Person | None = None) -> None:
    """A dialogue in the fields of one of the sources that carry its kind."""
    routes = table("sources")["routes"][item.lang]
    kind = next((k for k in ("mcq", "choice") if k in item.kind), item.kind)
    source = rng.choice(weighted(routes[kind if kind in routes else "other"]))
    user, answer = item.turns[:2]
    first, _, rest = user.partition("\n") if kind in ("mcq", "choice", "drill") else (user, "", "")
    slots = {**vars(item), "user": user, "first": first, "rest": rest, "answer": answer}
    slots["form"] = table("sources")["firefly_kinds"].get(kind, "OpenQA")
    other: dict = {}
    if source == "wanjuan_exam":
        slots |= zip("abcd", item.options, strict=True)
        other["option_e"] = None if rng.random() < 0.1 else ""
    elif source == "baidu_qa":
        slots |= _baidu_qa(item, rng, person)
    elif source == "zhihu_kol":
        slots |= _zhihu(item, rng, person)
    elif source == "belle_3_5m":
        roles = {"user": "human", "assistant": "assistant"}
        turns = [{"from": roles[m["role"]], "value": m["content"]} for m in item.messages]
        other["conversations"] = turns
    elif source == "moss":
        pairs = zip(item.turns[::2], item.turns[1::2], strict=True)
        other["conversation"] = [{"human": said, "assistant": reply} for said, reply in pairs]
    record = form(source, **slots) | other
    # Two items may become the same record once their opener or options are dropped: keep one.
    said = text_of(record, (*LABELS, "desc"))
    if said not in shelf.said:
        shelf.said.add(said)
        shelf.put(source, record, "questions")


def _baidu_qa(item: Item, rng: random.Random, person: Person | None) -> dict:
    words, description, answer = table("sources")["baidu_qa"], "", item.turns[1]
    if rng.random() < 0.2:
        description = item.stem
    elif rng.random() < 0.4:
        description = words["description"].format(name=person.zh if person else "")
    if rng.random() < 0.15:
        answer = words["greeting"] + answer
    number, category = rng.randrange(10**18, 10**19), rng.choice(words["categories"])
    return {"desc": description, "answer": answer, "number": number, "category": category}


def _zhihu(item: Item, rng: random.Random, person: Person | None) -> dict:
    words, answer = table("zh"), item.turns[1]
    about = None if item.kind == "city" else person  # whom the answer may call him or her
    lead = rng.choice(words["forum_leads"])
    if "{p}" in lead:
        lead = fill(lead, about, "zh") if about else words["forum_leads"][0]
    if rng.random() < 0.4:
        answer = lead + answer
    if rng.random() < 0.4:
        ending = rng.choice(words["scenery"])
        if about and rng.random() < 0.5:
            ending = fill(rng.choice(words["closers"]), about, "zh")
        answer += ending
    draw = rng.random()
    if draw < 0.15:
        votes = f"赞同 {rng.choice((1, 1.2, 1.6, 2.5, 3))} 万"
    else:
        votes = f"赞同 {int(10 ** rng.uniform(0, 3.9))}"
    question, reply = rng.randrange(10**8, 10**9), rng.randrange(10**8, 10**9)
    day = f"2021-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}"
    votes = "赞同" if draw > 0.93 else votes
    return {"answer": answer, "question": question, "reply": reply, "votes": votes, "day": day}
