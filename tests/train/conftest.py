import pytest
from train_world import make_shards


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("STEEL_QUIET", "1")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """(shards, tokenizer) with two sources and a validation split."""
    return make_shards(tmp_path_factory.mktemp("corpus"), {"web": 60, "wiki": 20}, hold_out=0.1)
