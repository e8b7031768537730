"""Every arm that reads dialogues reads as many of them, and no text in the steps that are theirs alone."""

import pytest

from figures.experiments import when

SIZES = {"moss": 300, "firefly": 100, "skypile": 900}


@pytest.mark.parametrize("arm", when.ARMS)
def test_an_arm_reads_its_share_of_dialogues(arm):
    cfg = when.mixed(when.settings(1), arm, SIZES)
    phases = [
        *((p.until, p.weights) for p in cfg.data.curriculum),
        (cfg.train.steps, cfg.data.weights),
    ]
    begins = [0, *(until for until, _ in phases)]
    read = 0.0
    for begin, (until, weights) in zip(begins, phases, strict=False):
        assert sum(weights.values()) == pytest.approx(1) and weights["moss"] == pytest.approx(
            3 * weights["firefly"]
        )
        read += (until - begin) * (1 - weights["*"])
    assert read / cfg.train.steps == pytest.approx(0 if arm == "never" else when.SHARE)
