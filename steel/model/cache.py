"""Decoding state: keys and values, and beside them the running slots of the causal soft MoE."""

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class SteelCacheLayer(DynamicLayer):
    """A growing key/value cache that also carries `slots`: named tensors, batch axis first.

    What reorders, repeats or selects batch rows (beams included) does the same to the slots. Slots
    are sums over the past and cannot be rolled back: `crop` refuses, and `is_croppable` tells
    assisted generation so.
    """

    is_croppable = False
    slots: dict[str, torch.Tensor] | None = None

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

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove != 0:
            raise ValueError("crop: a causal soft MoE's sums over the past cannot drop tokens")


def with_slots(cache: Cache, num_layers: int) -> Cache:
    """Let an empty `DynamicCache` carry slot state, in place; ValueError for another cache."""
    if all(isinstance(layer, SteelCacheLayer) for layer in cache.layers) and cache.layers:
        return cache
    if not isinstance(cache, DynamicCache) or cache.get_seq_length() > 0:
        given = f"{type(cache).__name__} of {cache.get_seq_length()} tokens"
        remedy = "an empty DynamicCache or None"
        raise ValueError(f"past_key_values: causal_soft_moe starts with {remedy}, not a {given}")
    cache.layers = [SteelCacheLayer() for _ in range(num_layers)]
    cache.layer_class_to_replicate = None
    return cache
