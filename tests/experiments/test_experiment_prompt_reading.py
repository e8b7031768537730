"""The original's reward pays for the prompt's own letters; Steel's reads the response alone."""

from figures.experiments.prompt_reading import RESPONSES, first_letter, paid


def test_the_prompts_options_are_read_as_the_answer():
    rows = [
        {
            "Question": "钢城的特产是什么？",
            "A": "茶叶",
            "B": "海盐",
            "C": "瓷器",
            "D": "丝绸",
            "Answer": right,
        }
        for right in "ABCD"
    ]
    found = paid(rows)
    for name in ("nothing", "the right letter", "a wrong letter"):
        assert found[name]["original"] == 0.25 and found[name]["reads_A"] == 1
    assert found["答案是 + right letter"]["original"] == 1
    only = {name: shares["response_only"] for name, shares in found.items()}
    assert list(only.values()) == [0, 1, 1, 0] and only.keys() == RESPONSES.keys()


def test_the_cascade_goes_from_statements_to_any_letter():
    said = {"答案是C": "C", "B选项正确": "B", "D. 丝绸": "D", "我看是 A": "A", "没有": None}
    assert {text: first_letter(text) for text in said} == said
