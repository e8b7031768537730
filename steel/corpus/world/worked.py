"""Questions in the worked style, which a model of a million parameters can answer for a reason.

An option's letter stands directly after its value ("云州 C"), in the question and in the answer: the letter is
then the token that followed this value before, which an induction head copies (in "A. value" it
would have to look one token further back). Every kind of question has one form of answer, which
restates the name; sums and two hops are worked out.
"""

from dataclasses import replace

from ...tokenizer.texts import option_lines
from .people import Person, World, table
from .questions import Asker, Item
from .text import fill


def column_sum(a: int, b: int, lang: str) -> str:
    """Column addition in words, units first."""
    units = a % 10 + b % 10
    carry = "+1" if units >= 10 else ""
    tens = f"{a // 10}+{b // 10}{carry}={a // 10 + b // 10 + bool(carry)}"
    slots = {"a1": a % 10, "b1": b % 10, "units": units, "tens": tens, "s": a + b}
    return table(lang)["arithmetic"]["columns"].format(**slots)


class Tutor(Asker):
    """Draws dialogues whose answers are worked out; see `Asker` for what is asked.

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

    def choice(self, person: Person, attribute: str, lang: str, style: str = "") -> Item:
        """A choice question in a trained phrasing."""
        item = self.qa(person, attribute, lang)
        options = self.options(item.value, self.world.pools[attribute][lang])
        return self._options(item, options, self.rng.choice(table(lang)["choice"]["leads"]))

    def which(self, person: Person, attribute: str, lang: str) -> Item:
        """A choice question that only its options explain; attribute "home": by two hops."""
        stem = fill(self.rng.choice(table(lang)["which"]), person, lang)
        if attribute == "home":
            (_, value), pool, answer = self.world.home(person, lang), "product", "_hops"
        else:
            value, pool, answer = self.world.value(person, attribute, lang), attribute, "_answer"
        said = getattr(self, answer)(*(person, attribute, lang)[:: 2 if pool == "product" else 1])
        item = Item("which", lang, [stem, said], stem, value)
        return self._options(item, self.options(value, self.world.pools[pool][lang]))

    def reading(self, person: Person, attribute: str, lang: str) -> Item:
        """A question about a stranger, whose biography stands above it: name and value are copied."""
        zh, en = self.rng.choice(self.world.strangers["train"])
        pools = self.world.pools
        values = {a: self.rng.randrange(len(pools[a]["zh"])) for a in self.world.attributes}
        stranger = Person(zh, en, self.rng.random() < 0.5, "stranger", values)
        return super().reading(stranger, attribute, lang)

    def hop2(self, person: Person, lang: str, kind: str = "") -> Item:
        """The product of a person's home town, by way of the town; or as a choice."""
        product = self.world.home(person, lang)[1]
        stem = fill(self.rng.choice(table(lang)["hop2"]["questions"]), person, lang)
        item = self._asked("hop2", lang, stem, self._hops(person, lang), product)
        if (kind or self.rng.choice(("hop2", "hop2", "choice"))) == "hop2":
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
