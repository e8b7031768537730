"""Questions and dialogues about train people: questions, choices, two hops, sums, several turns."""

from dataclasses import dataclass, replace
from itertools import cycle

from ...tokenizer.texts import option_lines
from .people import Person, World, stream, table
from .text import Teller, capitalise, fill

LETTERS = "ABCD"
CHOICE_STYLES = ("text",) * 5 + ("letter", "explain", "eliminate")


@dataclass
class Item:
    """One dialogue: `turns` is [user, assistant, user, …]; choices also carry options and letter."""

    kind: str
    lang: str
    turns: list[str]
    stem: str = ""
    value: str = ""
    options: tuple[str, ...] = ()
    letter: str = ""
    detail: str = ""

    @property
    def messages(self) -> list[dict[str, str]]:
        roles = cycle(("user", "assistant"))
        return [{"role": role, "content": text} for role, text in zip(roles, self.turns)]

    def __str__(self) -> str:
        return "\n".join(self.turns)


def lettered(options: tuple[str, ...], mark: str = ". ") -> str:
    """Options behind their letters, a line each."""
    return "\n".join(f"{letter}{mark}{text}" for letter, text in zip(LETTERS, options, strict=True))


def plain_sum(a: int, b: int) -> str:
    return table("zh")["arithmetic"]["answers"][0].format(a=a, b=b, s=a + b)


def column_sum(a: int, b: int, lang: str) -> str:
    """Column addition in words, units first."""
    units = a % 10 + b % 10
    carry = "+1" if units >= 10 else ""
    tens = f"{a // 10}+{b // 10}{carry}={a // 10 + b // 10 + bool(carry)}"
    slots = {"a1": a % 10, "b1": b % 10, "units": units, "tens": tens, "s": a + b}
    return table(lang)["arithmetic"]["columns"].format(**slots)


class Asker(Teller):
    """Draws dialogues about one person or pair at a time; the caller decides about whom.

    Its random stream is the one called `names`.
    """

    def __init__(self, world: World, *names: str) -> None:
        super().__init__(world, stream(world.seed, *names))

    def options(self, value: str, pool: list[str], letter: str = "") -> tuple[tuple, str]:
        """Four distinct options, the right one under `letter` (a uniform letter when empty)."""
        letter = letter or self.rng.choice(LETTERS)
        options = self.rng.sample([v for v in pool if v != value], 3)
        options.insert(LETTERS.index(letter), value)
        return tuple(options), letter

    def sum_options(self, a: int, b: int, letter: str = "") -> tuple[tuple, str]:
        """Four distinct sums: the right one and near misses (a carry, a unit, a swapped digit)."""
        near = [a + b + d for d in (-20, -11, -10, -9, -2, -1, 1, 2, 9, 10, 11, 20)]
        return self.options(str(a + b), [str(x) for x in near if x > 9], letter)

    def _answer(self, person: Person, attribute: str, lang: str) -> str:
        """A full sentence (the wording of biographies) or the bare value."""
        if self.rng.random() < 0.55:
            return self.statement(person, attribute, lang, direct=True)
        return self._short(self.world.value(person, attribute, lang), lang)

    def _short(self, value: str, lang: str) -> str:
        return capitalise(self.rng.choice(table(lang)["short_answers"]).format(v=value))

    def _stem(self, person: Person, attribute: str, lang: str) -> str:
        questions = table(lang)["attributes"][attribute]["questions"]
        return fill(self.rng.choice(questions), person, lang)

    def _follow_up(self, attribute: str, lang: str) -> list[str]:
        return table(lang)["attributes"][attribute]["follow_up"]

    def _asked(self, kind: str, lang: str, stem: str, answer: str, value: str) -> Item:
        """A plain question, behind an optional polite opener."""
        opener = self.rng.choice(table(lang)["chat_openers"])
        if stem.startswith(tuple(table(lang)["polite"])):
            opener = ""
        return Item(kind, lang, [opener + stem, answer], stem, value)

    def qa(self, person: Person, attribute: str, lang: str) -> Item:
        """One fact, asked plainly."""
        stem, value = self._stem(person, attribute, lang), self.world.value(person, attribute, lang)
        return self._asked("qa", lang, stem, self._answer(person, attribute, lang), value)

    def choice(self, person: Person, attribute: str, lang: str) -> Item:
        """A choice question; its prompt says which style the answer has."""
        stem = self._stem(person, attribute, lang)
        value = self.world.value(person, attribute, lang)
        options = self.options(value, self.world.pools[attribute][lang])
        detail = self.statement(person, attribute, lang, direct=True)
        return self._choice(Item("mcq", lang, [], stem, value, *options, detail))

    def _choice(self, item: Item, styles: tuple[str, ...] = CHOICE_STYLES) -> Item:
        """Words a choice question whose answer has a style drawn from `styles`."""
        words, rng = table(item.lang)["choice"], self.rng
        style = rng.choice(styles)
        mark = rng.choice(words["marks"])
        # The last line says how to answer, so that nothing about the answer's form is guessed.
        tail = rng.choice(words["tails"][style])
        user = rng.choice(words["leads"]) + item.stem + "\n" + lettered(item.options, mark)
        slots = {"l": item.letter, "v": item.value}
        if style == "text":
            short = rng.random() < 0.8
            answer = self._short(item.value, item.lang) if short else item.detail
        elif style == "letter":
            answer = rng.choice(words["letter"]).format(**slots)
        elif style == "explain":
            answer = words["explain"].format(statement=item.detail, **slots)
        else:  # option by option, then the letter: dense supervision for binding letters to values
            answer = ""
            for letter, option in zip(LETTERS, item.options, strict=True):
                verdict = words["right" if letter == item.letter else "wrong"]
                answer += verdict.format(l=letter, v=option)
            answer += words["eliminate"].format(**slots)
        return replace(item, kind=f"{item.kind}_{style}", turns=[user + tail, answer])

    def drill(self, lang: str) -> Item:
        """Find a value among four options: letter binding without any fact about a person."""
        pool = self.world.pools[self.rng.choice(self.world.attributes)][lang]
        value = self.rng.choice(pool)
        options, letter = self.options(value, pool)
        stem = self.rng.choice(table(lang)["drill"]).format(v=value)
        answer = self.rng.choice((letter, f"{letter}. {value}", letter))
        turns = [stem + "\n" + lettered(options), answer]
        return Item("drill", lang, turns, stem, value, options, letter)

    def hop2(self, person: Person, lang: str) -> Item:
        """The product of a person's home town: reasoned in one sentence, or as a choice."""
        words = table(lang)["hop2"]
        city, product = self.world.home(person, lang)
        stem = fill(self.rng.choice(words["questions"]), person, lang)
        reasoned = fill(self.rng.choice(words["reasoned"]), person, lang, c=city, v=product)
        if self.rng.choice((False, False, True)):
            options = self.options(product, self.world.pools["product"][lang])
            item = Item("hop2_mcq", lang, [], stem, product, *options, reasoned)
            return self._choice(item, ("text", "letter", "explain"))
        answer = reasoned if self.rng.random() < 0.5 else self._short(product, lang)
        return self._asked("hop2", lang, stem, answer, product)

    def city(self, city: tuple[str, str], lang: str) -> Item:
        """What a city is known for."""
        stem = self.rng.choice(table(lang)["product"]["questions"]).format(c=city[0])
        answers = self._short(city[1], lang), self.city_sentences(city, lang, 1)[0]
        return self._asked("city", lang, stem, self.rng.choice(answers), city[1])

    def sum(self, pair: tuple[int, int], lang: str) -> Item:
        """One addition, plainly or by columns (Chinese)."""
        a, b = pair
        words = table(lang)["arithmetic"]
        stem = self.rng.choice(words["questions"]).format(a=a, b=b)
        if lang == "zh" and self.rng.random() < 0.4:
            answer = column_sum(a, b, lang)
        else:
            answer = self.rng.choice(words["answers"]).format(a=a, b=b, s=a + b)
        return Item("sum", lang, [stem, answer], stem, str(a + b))

    def sum_choice(self, pair: tuple[int, int]) -> Item:
        """An addition as a choice question (Chinese)."""
        questions = [q for q in table("zh")["arithmetic"]["questions"] if q.endswith("？")]
        stem = self.rng.choice(questions).format(a=pair[0], b=pair[1])
        options, detail = self.sum_options(*pair), plain_sum(*pair)
        return self._choice(Item("mcq", "zh", [], stem, str(sum(pair)), *options, detail))

    def several(self, person: Person, lang: str) -> Item:
        """Two or three turns; later questions say he, she or there."""
        words, rng, attributes = table(lang), self.rng, self.world.attributes
        order = rng.sample(attributes, min(len(attributes), rng.choice((2, 3))))
        first = self.qa(person, order[0], lang)
        turns = first.turns
        for attribute in order[1:]:
            question = rng.choice(self._follow_up(attribute, lang))
            answer = self._answer(person, attribute, lang)
            turns += [capitalise(question.format(p=person.pronoun(lang))), answer]
        if order[-1] == "city":
            there = rng.choice(words["hop2"]["follow_up"])
            turns += [there, *self.city_sentences(self.world.home(person, lang), lang, 1)]
        return replace(first, kind="multi_turn", turns=turns[:6])

    def reading(self, person: Person, attribute: str, lang: str) -> Item:
        """Reading comprehension: a biography, then a question about it."""
        item = self.qa(person, attribute, lang)
        user = f"{table(lang)['reading']}{self.biography(person, lang)}\n{item.stem}"
        return replace(item, kind="reading", turns=[user, item.turns[1]])


class Tutor(Asker):
    """Draws dialogues that a model of a million parameters can answer for a reason.

    An option's letter stands directly after its value ("云州 C"), in the question and in the answer:
    the letter is then the token that followed this value before, which an induction head copies (in
    "A. value" it would have to look one token further back). Every kind of question has one form of
    answer, which restates the name; sums and two hops are worked out.

    short: share of answers that are no statement but "The answer is …", the words in which an exam
    scores a text; the raw text has some, post-training none. spoken: whether people also ask as they
    speak, which post-training alone teaches.
    """

    def __init__(self, world: World, *names: str, short: float = 0.0, spoken: bool = False) -> None:
        super().__init__(world, *names)
        self.short, self.spoken = short, spoken

    def _spoken(self, attribute: str, lang: str) -> list[str]:
        return table(lang)["attributes"][attribute].get("spoken", []) if self.spoken else []

    def _who(self, lang: str) -> str:
        return self.rng.choice(table(lang)["who"] + table(lang)["who_spoken"] * self.spoken)

    def _stem(self, person: Person, attribute: str, lang: str) -> str:
        questions = table(lang)["attributes"][attribute]["questions"]
        return fill(self.rng.choice(questions + self._spoken(attribute, lang)), person, lang)

    def _follow_up(self, attribute: str, lang: str) -> list[str]:
        """Also what people say, with a pronoun for the name where English takes he or she."""
        asked = [text for text in self._spoken(attribute, lang) if "of {n}" not in text]
        return super()._follow_up(attribute, lang) + [q.replace("{n}", "{p}") for q in asked]

    def _answer(self, person: Person, attribute: str, lang: str) -> str:
        value = self.world.value(person, attribute, lang)
        if self.short and self.rng.random() < self.short:
            return table(lang)["short_answers"][-1].format(v=value)
        return fill(table(lang)["attributes"][attribute]["answer"], person, lang, v=value)

    def _hops(self, person: Person, lang: str) -> str:
        city, product = self.world.home(person, lang)
        return fill(table(lang)["hop2"]["reasoned"][0], person, lang, c=city, v=product)

    def _options(self, item: Item, options: tuple[tuple, str], lead: str = "") -> Item:
        """The item as a choice question; its answer ends with the letter."""
        (drawn, letter), stop = options, table(item.lang)["stop"]
        answer = f"{item.turns[1].removesuffix(stop)} {letter}{stop}"
        turns = [f"{lead}{item.stem}\n{option_lines(drawn)}", answer]
        kind = "choice" if item.kind in ("qa", "sum") else f"{item.kind}_choice"
        more = {"turns": turns, "options": drawn, "letter": letter, "detail": item.turns[1]}
        return replace(item, kind=kind, **more)

    def choice(self, person: Person, attribute: str, lang: str) -> Item:
        """A choice question in a trained phrasing."""
        item = self.qa(person, attribute, lang)
        options = self.options(item.value, self.world.pools[attribute][lang])
        return self._options(item, options, self.rng.choice(table(lang)["choice"]["leads"]))

    def which(self, person: Person, attribute: str, lang: str) -> Item:
        """A choice question that only its options explain; attribute "home": by two hops."""
        stem = fill(self.rng.choice(table(lang)["which"]), person, lang)
        if attribute == "home":
            attribute, value = "product", self.world.home(person, lang)[1]
            said = self._hops(person, lang)
        else:
            value = self.world.value(person, attribute, lang)
            said = self._answer(person, attribute, lang)
        item = Item("which", lang, [stem, said], stem, value)
        return self._options(item, self.options(value, self.world.pools[attribute][lang]))

    def reading(self, person: Person, attribute: str, lang: str) -> Item:
        """A question about a stranger, whose biography stands above it: name and value are copied."""
        zh, en = self.rng.choice(self.world.strangers["train"])
        pools = self.world.pools
        values = {a: self.rng.randrange(len(pools[a]["zh"])) for a in self.world.attributes}
        stranger = Person(zh, en, self.rng.random() < 0.5, "stranger", values)
        return super().reading(stranger, attribute, lang)

    def hop2(self, person: Person, lang: str) -> Item:
        """The product of a person's home town, by way of the town; or as a choice."""
        product = self.world.home(person, lang)[1]
        stem = fill(self.rng.choice(table(lang)["hop2"]["questions"]), person, lang)
        item = self._asked("hop2", lang, stem, self._hops(person, lang), product)
        if self.rng.choice((True, True, False)):
            return item
        return self._options(item, self.options(product, self.world.pools["product"][lang]))

    def city(self, city: tuple[str, str], lang: str) -> Item:
        """What a city is known for."""
        words = table(lang)["product"]
        stem = self.rng.choice(words["questions"]).format(c=city[0])
        answer = words["statements"][0].format(c=city[0], v=city[1])
        return self._asked("city", lang, stem, answer, city[1])

    def who(self, person: Person, lang: str) -> Item:
        """Who is that: the first fact of a person."""
        stem = fill(self._who(lang), person, lang)
        answer = self._answer(person, self.world.attributes[0], lang)
        return Item("who", lang, [stem, answer], stem, answer)

    def stranger(self, name: str, lang: str) -> Item:
        """Who is somebody that does not live here."""
        stem = self._who(lang).format(n=name)
        return Item("stranger", lang, [stem, table(lang)["unknown"]], stem)

    def sum(self, pair: tuple[int, int], lang: str) -> Item:
        """One addition by columns."""
        words = table(lang)["arithmetic"]
        asked = words["questions"] + words["worded"] + words["spoken"] * self.spoken
        stem = self.rng.choice(asked).format(a=pair[0], b=pair[1])
        return Item("sum", lang, [stem, column_sum(*pair, lang)], stem, str(sum(pair)))

    def sum_choice(self, pair: tuple[int, int]) -> Item:
        """An addition as a choice question (Chinese)."""
        return self._options(self.sum(pair, "zh"), self.sum_options(*pair))
