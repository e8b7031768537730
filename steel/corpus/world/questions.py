"""Questions and dialogues about train people: questions, choices, two hops, sums, several turns."""

from dataclasses import dataclass, replace
from itertools import cycle

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


def option_lines(options: tuple[str, ...], mark: str = ". ") -> str:
    return "\n".join(f"{letter}{mark}{text}" for letter, text in zip(LETTERS, options, strict=True))


def plain_sum(a: int, b: int) -> str:
    return table("zh")["arithmetic"]["answers"][0].format(a=a, b=b, s=a + b)


def work_sum(a: int, b: int) -> str:
    """Column addition in words, units first."""
    units, tens = a % 10 + b % 10, a // 10 + b // 10
    words = f"{a // 10}+{b // 10}={tens}"
    if units >= 10:
        words = f"{a // 10}+{b // 10}+1={tens + 1}"
    slots = {"a1": a % 10, "b1": b % 10, "units": units, "tens": words, "s": a + b}
    return table("zh")["arithmetic"]["columns"].format(**slots)


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

    def choice(self, person: Person, attribute: str, lang: str, style: str = "") -> Item:
        """A choice question; its prompt says which style the answer has (drawn when empty)."""
        stem = self._stem(person, attribute, lang)
        value = self.world.value(person, attribute, lang)
        options = self.options(value, self.world.pools[attribute][lang])
        detail = self.statement(person, attribute, lang, direct=True)
        return self._choice(Item("mcq", lang, [], stem, value, *options, detail), style)

    def _choice(self, item: Item, style: str = "") -> Item:
        """Words a choice question: `style` is text, letter, explain or eliminate."""
        words, rng = table(item.lang)["choice"], self.rng
        style = style or rng.choice(CHOICE_STYLES)
        mark = rng.choice(words["marks"])
        # The last line says how to answer, so that nothing about the answer's form is guessed.
        tail = rng.choice(words["tails"][style])
        user = rng.choice(words["leads"]) + item.stem + "\n" + option_lines(item.options, mark)
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
        turns = [stem + "\n" + option_lines(options), answer]
        return Item("drill", lang, turns, stem, value, options, letter)

    def hop2(self, person: Person, lang: str, kind: str = "") -> Item:
        """The product of a person's home town: reasoned in one sentence, or as a choice."""
        words = table(lang)["hop2"]
        city, product = self.world.home(person, lang)
        stem = fill(self.rng.choice(words["questions"]), person, lang)
        reasoned = fill(self.rng.choice(words["reasoned"]), person, lang, c=city, v=product)
        if (kind or self.rng.choice(("hop2", "hop2", "mcq"))) == "mcq":
            options = self.options(product, self.world.pools["product"][lang])
            item = Item("hop2_mcq", lang, [], stem, product, *options, reasoned)
            return self._choice(item, self.rng.choice(("text", "letter", "explain")))
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
            answer = work_sum(a, b)
        else:
            answer = self.rng.choice(words["answers"]).format(a=a, b=b, s=a + b)
        return Item("sum", lang, [stem, answer], stem, str(a + b))

    def sum_choice(self, pair: tuple[int, int]) -> Item:
        """An addition as a choice question (Chinese)."""
        questions = [q for q in table("zh")["arithmetic"]["questions"] if q.endswith("？")]
        stem = self.rng.choice(questions).format(a=pair[0], b=pair[1])
        options = self.sum_options(*pair)
        detail = plain_sum(*pair)
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
