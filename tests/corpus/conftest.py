"""Raw files that were prepared once, and the tasks that a run begins."""

import pytest
from raw_samples import write_raw

from steel.corpus import steps
from steel.corpus.pipeline import prepare


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepare")
    report = prepare(write_raw(root / "raw"), root / "out", trace=1)
    return root / "raw", root / "out", report


@pytest.fixture
def worked(monkeypatch):
    """The tasks that began to convert, by rank."""
    ranks, run = [], steps.Convert.run

    def counted(self, data=None, rank=0, world_size=1):
        ranks.append(rank)
        yield from run(self, data, rank, world_size)

    monkeypatch.setattr(steps.Convert, "run", counted)
    return ranks
