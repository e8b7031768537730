"""Decoding state: keys and values, and beside them the running slots of the causal soft MoE.

Shapes: B batch (beams included).
"""

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class SteelCacheLayer(DynamicLayer):
    """A growing key/value cache that also carries `slots`: named tensors, batch axis first.

    Everything that reorders, repeats or selects batch rows does the same to the slots, so beam
    search, parallel sampling and batch splits keep each hypothesis with its own state. Slots are
    sums over the past and cannot be rolled back: `crop` refuses, and `is_croppable` tells assisted
    generation so.
    """

    is_croppable = False

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.slots: dict[str, torch.Tensor] | None = None

    def _map_slots(self, function) -> None:
        if self.slots is not None:
            self.slots = {name: function(value) for name, value in self.slots.items()}

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self._map_slots(lambda value: value.index_select(0, beam_idx.to(value.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._map_slots(lambda value: value.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._map_slots(lambda value: value[indices.to(value.device)])

    def reset(self) -> None:
        # Dropped, not zeroed: some transformers 5 releases would keep the old length.
        self.keys = self.values = self.slots = None
        self.is_initialized = False

    def offload(self) -> None:
        super().offload()
        self._map_slots(lambda value: value.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        super().prefetch()
        if self.is_initialized:
            self._map_slots(lambda value: value.to(self.device, non_blocking=True))

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove != 0:
            raise ValueError(
                "crop: a causal soft MoE cache keeps sums over the past and cannot drop tokens; "
                "decode again from the shorter prompt"
            )


def with_slots(cache: Cache, num_layers: int) -> Cache:
    """Let an empty cache carry slot state, in place; refuse a filled one that cannot.

    `generate` and users hand in a plain `DynamicCache`; its layers are replaced while they hold
    nothing yet.
    """
    if len(cache.layers) == num_layers and all(
        isinstance(layer, SteelCacheLayer) for layer in cache.layers
    ):
        return cache
    if not isinstance(cache, DynamicCache) or cache.get_seq_length() > 0:
        raise ValueError(
            "past_key_values: causal_soft_moe decodes with a DynamicCache from its first token "
            f"on, not with {type(cache).__name__} ({cache.get_seq_length()} tokens); pass an empty "
            "DynamicCache or None"
        )
    cache.layers = [SteelCacheLayer() for _ in range(num_layers)]
    cache.layer_class_to_replicate = None
    return cache
