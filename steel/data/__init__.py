"""Token shards, sample order, mixture and loader: all that training reads.

    from steel.data import Loader, ShardSet
    loader = Loader(ShardSet.open("RUN/shards"), sequence_length=256, batch_size=32, seed=1)
    batch = loader.batch(step)

Reading needs only numpy and torch. Writing (`pack`, `append`) imports the tokenizer and zstandard when it is called.
"""

from .batch import Batch
from .loader import Loader
from .pack import append, pack
from .shards import ShardSet

__all__ = ["Batch", "Loader", "ShardSet", "append", "pack"]
