"""Source files that state facts as literals: registries in Python, Java and C++, and small adders."""

from __future__ import annotations

import random

from .people import Person, World

LANGUAGES = ("python", "java", "cpp")
SUFFIX = {"python": "py", "java": "java", "cpp": "cpp"}


def _entries(
    world: World, people: list[Person], rng: random.Random
) -> list[tuple[str, list[tuple[str, str]]]]:
    """(name, [(attribute, value), ...]) per person, in one language per file."""
    lang = "zh" if rng.random() < 0.8 else "en"
    attributes = list(world.attributes)
    rng.shuffle(attributes)
    return [(p.name(lang), [(a, world.value(p, a, lang)) for a in attributes]) for p in people]


def _python(entries, pairs, rng: random.Random) -> str:
    name = rng.choice(("PEOPLE", "RESIDENTS", "REGISTRY", "TOWN"))
    rows = [
        f'    "{n}": {{' + ", ".join(f'"{a}": "{v}"' for a, v in facts) + "},"
        for n, facts in entries
    ]
    function = rng.choice(("lookup", "find", "get_fact"))
    checks = [f"    assert add({a}, {b}) == {a + b}" for a, b in pairs]
    return "\n".join(
        [
            rng.choice(("# 钢城居民名册", "# Residents of Steeltown", '"""钢城居民的资料。"""')),
            f"{name} = {{",
            *rows,
            "}",
            "",
            "",
            f"def {function}(name, key):",
            f"    return {name}[name][key]",
            "",
            "",
            "def add(a, b):",
            "    return a + b",
            "",
            "",
            "def test():",
            *checks,
            f'    assert {function}("{entries[0][0]}", "{entries[0][1][0][0]}") == "{entries[0][1][0][1]}"',
            "",
        ]
    )


def _java(entries, pairs, rng: random.Random) -> str:
    name = rng.choice(("Residents", "Registry", "TownPeople"))
    rows = []
    for person, facts in entries:
        values = ", ".join(f'"{a}", "{v}"' for a, v in facts)
        rows.append(f'        people.put("{person}", Map.of({values}));')
    return "\n".join(
        [
            "import java.util.HashMap;",
            "import java.util.Map;",
            "",
            rng.choice(
                ("/** 钢城居民名册。 */", "/** Residents of Steeltown. */", "// 钢城居民的资料")
            ),
            f"public class {name} {{",
            "    static final Map<String, Map<String, String>> people = new HashMap<>();",
            "",
            "    static {",
            *rows,
            "    }",
            "",
            "    static int add(int a, int b) {",
            "        return a + b;",
            "    }",
            *(f"    // add({a}, {b}) == {a + b}" for a, b in pairs),
            "}",
            "",
        ]
    )


def _cpp(entries, pairs, rng: random.Random) -> str:
    name = rng.choice(("people", "residents", "registry"))
    rows = [
        f'    {{"{n}", {{' + ", ".join(f'{{"{a}", "{v}"}}' for a, v in facts) + "}},"
        for n, facts in entries
    ]
    return "\n".join(
        [
            rng.choice(("// 钢城居民名册", "// Residents of Steeltown")),
            "#include <cassert>",
            "#include <map>",
            "#include <string>",
            "",
            f"std::map<std::string, std::map<std::string, std::string>> {name} = {{",
            *rows,
            "};",
            "",
            "int add(int a, int b) { return a + b; }",
            "",
            "int main() {",
            *(f"    assert(add({a}, {b}) == {a + b});" for a, b in pairs),
            "    return 0;",
            "}",
            "",
        ]
    )


_WRITERS = {"python": _python, "java": _java, "cpp": _cpp}


def source_file(
    world: World, language: str, people: list[Person], pairs, rng: random.Random
) -> str:
    """One source file about a few people (any split: it states, it does not ask)."""
    return _WRITERS[language](_entries(world, people, rng), pairs, rng)
