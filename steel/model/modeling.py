"""The causal language model: embedding, pre-norm decoder blocks, head; a `transformers` model.

Shapes: B batch, T time, K past + T, D model width, V vocabulary.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from .attention import (
    SteelAttention,
    SteelRMSNorm,
    attention_mask,
    ends_from_starts,
    rope_tables,
    starts_from_ends,
    starts_from_positions,
)
from .causal_soft_moe import SegmentPlan, SteelCausalSoftMoE, plan_segments, plan_step, with_slots
from .configuration import NON_CAUSAL, SteelConfig
from .feed_forward import SteelDenseFeedForward, SteelExperts, SteelSoftMoEV1, SteelTopKMoE
from .loss import IGNORE, SteelHead, linear_cross_entropy
from .soft_moe import SteelSoftMoEV2, SteelSoftMoEV3

FEED_FORWARD_CLASSES = {
    "dense": SteelDenseFeedForward,
    "soft_moe_v1": SteelSoftMoEV1,
    "soft_moe_v2": SteelSoftMoEV2,
    "soft_moe_v3": SteelSoftMoEV3,
    "causal_soft_moe": SteelCausalSoftMoE,
    "top_k_moe": SteelTopKMoE,
}
# E[(silu(a) b)²]^½ for independent standard normal a and b.
GATED_RMS = 0.5965
# RMS of all 2L branch outputs together at birth, in units of the embedding's.
BRANCH_SCALE = 4.0


class Context:
    """What the layers need to know of the batch beside their input; built once per forward.

    A plain object, neither tensors nor a dataclass: FSDP2's mixed precision casts the floating
    tensors it finds in a block's arguments (dataclasses included) to bf16, and the rotary tables
    must stay fp32.
    """

    def __init__(self, cos: torch.Tensor, sin: torch.Tensor, cache: Cache | None = None) -> None:
        self.cos, self.sin, self.cache = cos, sin, cache
        self.mask: torch.Tensor | None = None  # for attention; None is plain causal
        self.valid_BT: torch.Tensor | None = None  # False on padding; None when there is none
        self.plan: SegmentPlan | None = None  # causal_soft_moe: which segment each token belongs to


class SteelDecoderLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)); `mlp` is None for feed_forward="none".

    A top_k_moe layer in training returns its load-balancing term too: as an output, checkpointing
    can recompute it, and nothing keeps its graph alive.
    """

    def __init__(self, config: SteelConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.input_layernorm = SteelRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SteelAttention(config, layer_idx)
        self.mlp = None
        if config.feed_forward != "none":
            self.post_attention_layernorm = SteelRMSNorm(config.hidden_size, config.rms_norm_eps)
            self.mlp = FEED_FORWARD_CLASSES[config.feed_forward](config)

    def forward(self, x_BTD: torch.Tensor, context: Context) -> torch.Tensor:
        attended_BTD = self.self_attn(self.input_layernorm(x_BTD), context)
        if self.mlp is None:
            return x_BTD + attended_BTD
        h_BTD, x_BTD = self.post_attention_layernorm(attended_BTD, x_BTD)
        cache_layer = context.cache.layers[self.layer_idx] if context.cache is not None else None
        out = self.mlp(h_BTD, context, cache_layer)
        branch_BTD, balance = out if isinstance(out, tuple) else (out, None)
        return x_BTD + branch_BTD if balance is None else (x_BTD + branch_BTD, balance)


class SteelPreTrainedModel(PreTrainedModel):
    config_class = SteelConfig
    config: SteelConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SteelDecoderLayer"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Width-aware: every layer speaks at birth, at any width, depth and expert kind.

        Embedding and head: N(0, initializer_range²). A matrix that reads a normalised input:
        1/sqrt(fan_in), so that its output has unit variance (0.0236 at D=1792, near the customary
        0.02). A matrix that writes into the residual stream is scaled so that the 2L branches
        together add BRANCH_SCALE times the embedding's size. Modules are leaves: transformers skips
        parents without own parameters when it loads custom code.
        """
        D = self.config.hidden_size
        match module:
            case SteelRMSNorm():
                init.ones_(module.weight)
            case nn.Embedding() | SteelHead():
                init.normal_(module.weight, std=self.config.initializer_range)
            case nn.Linear():
                role = getattr(module, "role", "read")
                init.normal_(module.weight, std=self._deviation(role, module.in_features))
                if module.bias is not None:
                    init.zeros_(module.bias)
            case SteelExperts():
                role = "write_gated" if module.double else "write_hidden"
                init.normal_(module.gate_up_proj, std=self._deviation("read", D))
                init.normal_(module.down_proj, std=self._deviation(role, module.down_proj.shape[1]))
            case SteelSoftMoEV3():
                init.normal_(module.phi, std=D**-0.5)
                init.constant_(module.scale, D**0.5 if module.normalize_slots else 1.0)
            case SteelSoftMoEV2():
                init.normal_(module.score, std=D**-0.5 if module.normalize_slots else 1.0)
            case SteelCausalSoftMoE():
                init.normal_(module.dispatch, std=D**-0.5)
                init.normal_(module.combine, std=D**-0.5)
                init.normal_(module.prior)
                init.zeros_(module.prior_weight)
                init.copy_(module.decay, torch.linspace(-1.0, 5.0, len(module.decay)))

    def _deviation(self, role: str, fan_in: int) -> float:
        """Standard deviation of a weight by what it does."""
        birth = self.config.initializer_range
        if role == "route":
            return birth  # near-uniform choice at birth
        branch = BRANCH_SCALE * birth / math.sqrt(2 * self.config.num_hidden_layers)
        scale = {
            "read": 1.0,
            "write": branch,
            "write_hidden": branch / GATED_RMS,  # reads silu(a) b
            # Reads the same, and a second gate follows: silu(s a) s b has RMS s² / 2 for small s.
            "write_gated": math.sqrt(2.0 * branch) / GATED_RMS,
        }
        return scale[role] * fan_in**-0.5


class SteelModelOutput(NamedTuple):
    """What `SteelModel` returns."""

    last_hidden_state: torch.Tensor  # (B, T, D), normalised
    cache: Cache | None
    hidden_states: tuple[torch.Tensor, ...] | None  # each layer's input, and the last
    balance: torch.Tensor | None  # mean over layers of top_k_moe's term, in training


class SteelModel(SteelPreTrainedModel):
    """The decoder without the head, see `SteelForCausalLM`; forward(...) -> SteelModelOutput."""

    @staticmethod
    def attention_form(document_ends, shape: tuple[int, int], device):
        """A `Context.mask` for a batch (B, T) without padding and past; None leaves it to the model.

        document_ends: as `SteelForCausalLM` takes them; None for rows of one document.
        """

    def __init__(self, config: SteelConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        numbers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(SteelDecoderLayer(config, number) for number in numbers)
        self.norm = SteelRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        cache=None,
        inputs_embeds=None,
        use_cache=None,
        document_ends=None,
        output_hidden_states=False,
        **kwargs,
    ) -> SteelModelOutput:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids (B, T) and inputs_embeds (B, T, D)")
        x_BTD = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(use_cache, cache)
        context = self._context(x_BTD, attention_mask, position_ids, document_ends, cache)
        states, balances = [], []
        for layer in self.layers:
            if output_hidden_states:
                states.append(x_BTD)
            x_BTD = layer(x_BTD, context)
            if isinstance(x_BTD, tuple):
                x_BTD, balance = x_BTD
                balances.append(balance)
        x_BTD = self.norm(x_BTD)
        states = (*states, x_BTD) if output_hidden_states else None
        balance = torch.stack(balances).mean() if balances else None
        return SteelModelOutput(x_BTD, cache, states, balance)

    def _cache(self, use_cache: bool | None, cache: Cache | None) -> Cache | None:
        """The cache of this forward: the given one, a new one, or none."""
        recomputes = self.training and self.gradient_checkpointing
        if cache is not None and recomputes:
            raise ValueError("with activation checkpointing, call model.eval() before it generates")
        if use_cache is None:
            use_cache = cache is not None or (self.config.use_cache and not self.training)
        if not use_cache or recomputes:
            return None
        cache = DynamicCache(config=self.config) if cache is None else cache
        if self.config.feed_forward != "causal_soft_moe":
            return cache
        return with_slots(cache, self.config.num_hidden_layers)

    def _context(self, x_BTD, given_mask, position_ids, document_ends, cache) -> Context:
        """Rotary tables, attention mask and segment plan of this batch."""
        B, T, _ = x_BTD.shape
        device, config = x_BTD.device, self.config
        past = cache.get_seq_length() if cache is not None else 0
        whole_mask = given_mask is not None and given_mask.ndim == 4
        valid_BK = given_mask.bool() if given_mask is not None and not whole_mask else None
        if valid_BK is not None and bool(valid_BK.all()):
            valid_BK = None
        starts_BT = self._document_starts((B, T), position_ids, document_ends, valid_BK, past)
        if position_ids is None and valid_BK is None:
            position_ids = torch.arange(past, past + T, device=device)[None].expand(B, T)
        elif position_ids is None:  # counted from the first real token of each row
            position_ids = (valid_BK.long().cumsum(dim=1) - 1).clamp_min(0)[:, -T:]
        context = Context(*rope_tables(position_ids, config.head_dim, config.rope_theta), cache)
        context.valid_BT = valid_BK[:, -T:] if valid_BK is not None else None
        if config.feed_forward == "causal_soft_moe":
            if whole_mask:
                raise ValueError("causal_soft_moe follows a 2-D attention_mask, but no 4-D one")
            context.plan = self._plan((B, T), starts_BT, context.valid_BT, cache).to(device)
        if whole_mask:
            context.mask = given_mask
        elif valid_BK is None and past == 0 and T > 1:
            ends = ends_from_starts(starts_BT) if starts_BT is not None else None
            context.mask = self.attention_form(ends, (B, T), device)
        if context.mask is None:
            context.mask = attention_mask(T, past, valid_BK, starts_BT, device)
        return context

    @staticmethod
    def _document_starts(shape, position_ids, document_ends, valid_BK, past: int):
        """(B, T) bool on the host, see `attention`; None when every row is one document.

        With `document_ends`, and for positions that are counted here, nobody waits for the device.
        """
        if document_ends is not None:
            if position_ids is None or valid_BK is not None or past:
                raise ValueError("document_ends needs position_ids, no padding and no cache")
            starts_BT = starts_from_ends(document_ends, shape)
        elif position_ids is not None:
            starts_BT = starts_from_positions(position_ids.expand(shape), valid_BK, past)
        if (document_ends is None and position_ids is None) or not bool(starts_BT.any()):
            return None
        if past:
            remedy = "decode each document with a cache of its own"
            raise ValueError(f"position_ids start a document behind cached tokens: {remedy}")
        return starts_BT

    def _plan(self, shape, starts_BT, valid_BT, cache) -> SegmentPlan:
        length, slots = self.config.segment_length, None
        if cache is not None:
            slots = cache.layers[0].slots  # of all layers alike
        if slots is not None and shape[1] == 1:
            return plan_step(length, valid_BT, slots["count"])
        count_B = slots["count"].cpu() if slots is not None else None
        valid_BT = valid_BT.cpu() if valid_BT is not None else None
        return plan_segments(shape, length, starts_BT, valid_BT, count_B)


class SteelForCausalLM(SteelPreTrainedModel, GenerationMixin):
    """Steel with its vocabulary head: forward(input_ids (B, T)) -> CausalLMOutputWithPast.

    Two ways to a loss in nats, a sum divided by num_items_in_batch or else by the valid targets:
      labels (B, T): as in transformers, shifted here; logits are returned too.
      shift_labels (B, T): targets already shifted, -100 ignored; the loss is computed chunk by
      chunk from the hidden state, `logits` is None, and z_loss · logsumexp(logits)² is added.
    Packed documents: position_ids (B, T) restart at 0 where one starts. document_ends (N,) int64 on
    the host, the exclusive ends in the flattened (B·T) tokens, says so without asking the device.
    Raises ValueError for documents behind cached tokens or under a mask that cannot part them.
    """

    _auto_class = "AutoModelForCausalLM"
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: SteelConfig) -> None:
        super().__init__(config)
        self.model = SteelModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = SteelHead(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def is_causal(self) -> bool:
        """Whether outputs at t are free of tokens after t (False for soft_moe_v2 and v3)."""
        return self.config.feed_forward not in NON_CAUSAL

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        shift_labels=None,
        num_items_in_batch=None,
        z_loss: float = 0.0,
        cache=None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        if use_cache is None and (labels is not None or shift_labels is not None):
            use_cache = False
        # The cache has this name since transformers 5.24, in outputs too: they are filled by position.
        cache = past_key_values if cache is None else cache
        given = input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache
        out = self.model(*given, **kwargs)
        hidden_BTD, logits, loss, targets = out.last_hidden_state, None, None, shift_labels
        if shift_labels is not None:
            loss = self._head_loss(hidden_BTD, shift_labels, z_loss)
        else:
            if isinstance(logits_to_keep, int):
                logits_to_keep = slice(-logits_to_keep, None) if logits_to_keep else slice(None)
            logits = self.lm_head(hidden_BTD[:, logits_to_keep])
            if labels is not None:
                targets = F.pad(labels, (0, 1), value=IGNORE)[:, 1:].to(logits.device)
                wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
                kept = {"ignore_index": IGNORE, "reduction": "sum"}
                loss = F.cross_entropy(wide, targets.flatten(), **kept)
        if loss is not None:
            count = (targets != IGNORE).sum().clamp_min(1)
            if out.balance is not None:  # weighted like the tokens
                loss = loss + self.config.balance_loss * count * out.balance
            loss = loss / (count if num_items_in_batch is None else num_items_in_batch)
        return CausalLMOutputWithPast(loss, logits, out.cache, out.hidden_states)

    def _head_loss(self, hidden_BTD, targets, z_loss: float) -> torch.Tensor:
        if isinstance(self.lm_head, SteelHead):
            return self.lm_head(hidden_BTD, targets, z_loss)
        # After resize_token_embeddings the head is a plain Linear.
        flat_ND, targets_N = hidden_BTD.flatten(0, 1), targets.flatten()
        return linear_cross_entropy(flat_ND, self.lm_head.weight, targets_N, z_loss)
