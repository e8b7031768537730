"""What more than one room of tests reads: a whole life at toy size, lived once a session."""

import os

import pytest
from toy_life import TOY


@pytest.fixture(scope="session")
def life(tmp_path_factory):
    """The RUN folder of a finished life; nobody changes it."""
    from steel import config
    from steel import life as lifecycle

    os.environ["STEEL_QUIET"] = "1"
    run = tmp_path_factory.mktemp("life") / "run"
    lifecycle.run(config.load("smoke", TOY), run)
    return run
