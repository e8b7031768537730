"""Questions and dialogues about train people: single questions, choices, two hops, sums, several turns."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .people import Person, World
from .text import Teller, capitalise, fill, phrases

LETTERS = "ABCD"
_POLITE = ("请问", "你知道", "想", "Do you")


@dataclass
class Item:
    """One dialogue: `turns` is [(user, assistant), ...]; choices also carry their options and letter."""

    kind: str
    lang: str
    turns: list[tuple[str, str]]
    stem: str = ""
    value: str = ""
    options: tuple[str, ...] = ()
    letter: str = ""
    detail: str = ""

    @property
    def messages(self) -> list[dict[str, str]]:
        roles = ("user", "assistant")
        return [
            {"role": r, "content": c}
            for turn in self.turns
            for r, c in zip(roles, turn, strict=True)
        ]

    @property
    def text(self) -> str:
        return "\n".join(part for turn in self.turns for part in turn)


def draw_options(
    value: str, pool: list[str], rng: random.Random, letter: str = ""
) -> tuple[tuple[str, ...], str]:
    """Four distinct options with the right one under `letter` (a uniform letter when empty)."""
    letter = letter or rng.choice(LETTERS)
    options = rng.sample([v for v in pool if v != value], 3)
    options.insert(LETTERS.index(letter), value)
    return tuple(options), letter


def sum_options(
    a: int, b: int, rng: random.Random, letter: str = ""
) -> tuple[tuple[str, ...], str]:
    """Four distinct sums: the right one and near misses (a carry, a unit, a swapped digit)."""
    total = a + b
    near = {total + d for d in (-20, -11, -10, -9, -2, -1, 1, 2, 9, 10, 11, 20) if total + d > 9}
    return draw_options(str(total), [str(x) for x in sorted(near)], rng, letter)


def option_lines(options: tuple[str, ...], mark: str = ". ") -> str:
    return "\n".join(f"{letter}{mark}{text}" for letter, text in zip(LETTERS, options, strict=True))


def work_sum(a: int, b: int) -> str:
    """Column addition in words, units first."""
    units, carry = a % 10 + b % 10, (a % 10 + b % 10) // 10
    tens = f"{a // 10}+{b // 10}" + ("+1" if carry else "") + f"={a // 10 + b // 10 + carry}"
    return f"个位{a % 10}+{b % 10}={units}，十位{tens}，答案是{a + b}。"


class Asker:
    """Draws dialogues about one person or pair at a time; the caller decides about whom."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.teller = Teller(world, rng)

    def _answer(self, person: Person, attribute: str, lang: str) -> str:
        """A full sentence (the wording of biographies) or the bare value."""
        if self.rng.random() < 0.55:
            return self.teller.statement(person, attribute, lang, direct=True)
        return self.short(self.world.value(person, attribute, lang), lang)

    def short(self, value: str, lang: str) -> str:
        return capitalise(self.rng.choice(phrases(lang).SHORT_ANSWERS).format(v=value))

    def stem(self, person: Person, attribute: str, lang: str) -> str:
        return fill(self.rng.choice(phrases(lang).ATTRIBUTES[attribute]["questions"]), person, lang)

    def opened(self, question: str, lang: str) -> str:
        """A question behind an optional polite opener."""
        opener = self.rng.choice(phrases(lang).CHAT_OPENERS)
        return question if question.startswith(_POLITE) else opener + question

    def qa(self, person: Person, attribute: str, lang: str) -> Item:
        stem = self.stem(person, attribute, lang)
        value = self.world.value(person, attribute, lang)
        answer = self._answer(person, attribute, lang)
        return Item("qa", lang, [(self.opened(stem, lang), answer)], stem, value)

    def choice(
        self, person: Person, attribute: str, lang: str, style: str = "", letter: str = ""
    ) -> Item:
        """A choice question; style text, letter, explain or eliminate (drawn when empty). The prompt says which."""
        stem = self.stem(person, attribute, lang)
        value = self.world.value(person, attribute, lang)
        options, letter = draw_options(value, self.world.values(attribute, lang), self.rng, letter)
        statement = self.teller.statement(person, attribute, lang, direct=True)
        return self._choice(stem, value, options, letter, statement, lang, style)

    def _choice(self, stem, value, options, letter, statement, lang, style) -> Item:
        words, rng = phrases(lang), self.rng
        style = style or rng.choice(("text",) * 5 + ("letter", "explain", "eliminate"))
        mark = rng.choice((". ", ". ", ". ", "、" if lang == "zh" else ") "))
        # The last line decides how to answer, so that nothing about the answer's form has to be guessed.
        tail = rng.choice(words.CHOICE_TAILS[style])
        user = rng.choice(words.CHOICE_LEADS) + stem + "\n" + option_lines(options, mark) + tail
        if style == "text":
            answer = self.short(value, lang) if rng.random() < 0.8 else statement
        elif style == "letter":
            answer = rng.choice(words.CHOICE_LETTER).format(l=letter, v=value)
        elif style == "explain":
            answer = statement + (
                f"所以选{letter}。" if lang == "zh" else f" So the answer is {letter}."
            )
        else:
            answer = self._eliminate(options, letter, lang)
        return Item(f"mcq_{style}", lang, [(user, answer)], stem, value, options, letter, statement)

    def _eliminate(self, options: tuple[str, ...], letter: str, lang: str) -> str:
        """Option by option, right or wrong, then the letter: dense supervision for binding letters to values."""
        right, wrong = ("对。", "错。") if lang == "zh" else (": right. ", ": wrong. ")
        marks = [
            f"{k}. {v}{right if k == letter else wrong}"
            for k, v in zip(LETTERS, options, strict=True)
        ]
        value = options[LETTERS.index(letter)]
        end = f"答案是{letter}，{value}。" if lang == "zh" else f"The answer is {letter}, {value}."
        return "".join(marks) + end

    def drill(self, lang: str) -> Item:
        """Find a value among four options: letter binding without any fact about a person."""
        attribute = self.rng.choice(self.world.attributes)
        pool = self.world.values(attribute, lang)
        value = self.rng.choice(pool)
        options, letter = draw_options(value, pool, self.rng)
        stem = self.rng.choice(phrases(lang).DRILL).format(v=value)
        answer = self.rng.choice((f"{letter}", f"{letter}. {value}", f"{letter}"))
        return Item(
            "drill",
            lang,
            [(stem + "\n" + option_lines(options), answer)],
            stem,
            value,
            options,
            letter,
        )

    def hop2(self, person: Person, lang: str, kind: str = "") -> Item:
        """The product of a person's home town: reasoned in one sentence, or as a choice."""
        words = phrases(lang)
        city, product = self.world.hop2(person, lang)
        stem = fill(self.rng.choice(words.HOP2["questions"]), person, lang)
        reasoned = fill(self.rng.choice(words.HOP2["reasoned"]), person, lang, c=city, v=product)
        if (kind or self.rng.choice(("hop2", "hop2", "mcq"))) == "mcq":
            options, letter = draw_options(product, self.world.values("product", lang), self.rng)
            style = self.rng.choice(("text", "letter", "explain"))
            item = self._choice(stem, product, options, letter, reasoned, lang, style)
            item.kind = "hop2_" + item.kind
            return item
        answer = reasoned if self.rng.random() < 0.5 else self.short(product, lang)
        return Item("hop2", lang, [(self.opened(stem, lang), answer)], stem, product)

    def city(self, index: int, lang: str) -> Item:
        """What a city is known for."""
        slots = {"c": self.world.pools["city"][index][lang], "v": self.world.product(index, lang)}
        stem = self.rng.choice(phrases(lang).PRODUCT["questions"]).format(**slots)
        answer = self.rng.choice(
            (self.short(slots["v"], lang), self.teller.city_sentences(index, lang, 1)[0])
        )
        return Item("city", lang, [(self.opened(stem, lang), answer)], stem, slots["v"])

    def sum(self, pair: tuple[int, int], lang: str) -> Item:
        """One addition, plainly or by columns (Chinese)."""
        a, b = pair
        words = phrases(lang).ARITHMETIC
        stem = self.rng.choice(words["questions"]).format(a=a, b=b)
        if lang == "zh" and self.rng.random() < 0.4:
            answer = work_sum(a, b)
        else:
            answer = self.rng.choice(words["answers"]).format(a=a, b=b, s=a + b)
        return Item("sum", lang, [(stem, answer)], stem, str(a + b))

    def sum_choice(self, pair: tuple[int, int]) -> Item:
        """An addition as a choice question (Chinese)."""
        a, b = pair
        stem = self.rng.choice(
            [q for q in phrases("zh").ARITHMETIC["questions"] if q.endswith("？")]
        )
        options, letter = sum_options(a, b, self.rng)
        statement = f"{a}加{b}等于{a + b}。"
        return self._choice(stem.format(a=a, b=b), str(a + b), options, letter, statement, "zh", "")

    def several(self, person: Person, lang: str) -> Item:
        """Two or three turns; later questions say he, she or there."""
        words, rng = phrases(lang), self.rng
        order = rng.sample(
            self.world.attributes, min(len(self.world.attributes), rng.choice((2, 3)))
        )
        first = self.qa(person, order[0], lang)
        turns = list(first.turns)
        for attribute in order[1:]:
            question = rng.choice(words.ATTRIBUTES[attribute]["follow_up"]).format(
                p=person.pronoun(lang)
            )
            turns.append((question, self._answer(person, attribute, lang)))
        if order[-1] == "city":
            there = rng.choice(words.HOP2["follow_up"])
            sentence = self.teller.city_sentences(person.values["city"], lang, 1)[0]
            turns.append((there, sentence))
        return Item("multi_turn", lang, turns[:3], first.stem, first.value)

    def reading(self, person: Person, attribute: str, lang: str) -> Item:
        """Reading comprehension: a biography, then a question about it."""
        item = self.qa(person, attribute, lang)
        passage = self.teller.biography(person, lang)
        lead = "阅读下面的材料，回答问题。\n" if lang == "zh" else "Read the passage and answer.\n"
        return Item(
            "reading",
            lang,
            [(f"{lead}{passage}\n{item.stem}", item.turns[0][1])],
            item.stem,
            item.value,
        )
