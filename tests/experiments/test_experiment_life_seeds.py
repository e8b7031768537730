"""What a stage's scores say of their own doubt."""

from figures.experiments.life_seeds import scores


def test_errors_are_plain_and_by_person_and_silence_is_counted():
    answers = {"key": "ABCDA", "generate": "AB--A", "clusters": [0, 0, 1, 1, 2]}
    exam = {
        "groups": {"people": {"n": 4, "generate": 0.5}},
        "subjects": {"city_en": {"n": 4}, "arith_zh": {"n": 1}},
        "answers": answers,
    }
    found = {
        "exam": exam,
        "cloze": {"accuracy": 1.0},
        "perplexity": {"geometric_mean": {"bpb": 1.0}, "domains": {}},
        "conversation": {"accuracy": 1.0, "kinds": {}, "fragments": 0, "endless": 0},
    }
    row = scores(found)
    assert row["errors"] == {"generate": [0.25, 0.3536]}  # two people, all right and all wrong
    assert row["unparsed"] == 0.5
