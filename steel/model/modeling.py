"""The causal language model: embedding, pre-norm decoder blocks, head; a `transformers` model.

Shapes: B batch, T time, K past + T, D model width, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .attention import (
    SteelAttention,
    SteelRMSNorm,
    attention_mask,
    ends_from_starts,
    rope_tables,
    starts_from_ends,
    starts_from_positions,
)
from .cache import with_slots
from .causal_soft_moe import SegmentPlan, SteelCausalSoftMoE, plan_segments, plan_step
from .configuration import NON_CAUSAL, SteelConfig
from .feed_forward import SteelDenseFeedForward, SteelExperts, SteelSoftMoEV1, SteelTopKMoE
from .loss import IGNORE, SteelHead, cross_entropy_sum, linear_cross_entropy
from .soft_moe import SteelSoftMoEV2, SteelSoftMoEV3

FEED_FORWARD_CLASSES = {
    "dense": SteelDenseFeedForward,
    "soft_moe_v1": SteelSoftMoEV1,
    "soft_moe_v2": SteelSoftMoEV2,
    "soft_moe_v3": SteelSoftMoEV3,
    "causal_soft_moe": SteelCausalSoftMoE,
    "top_k_moe": SteelTopKMoE,
}


class Context:
    """What the layers need to know of the batch beside their input; built once per forward, shared
    by all.

    A plain object, neither tensors nor a dataclass: FSDP2's mixed precision casts the floating
    tensors it finds in a block's arguments (dataclasses included) to bf16, and the rotary tables
    must stay fp32.
    """

    def __init__(self, cos: torch.Tensor, sin: torch.Tensor) -> None:
        self.cos, self.sin = cos, sin
        self.mask: torch.Tensor | None = None  # for attention; None is plain causal
        self.valid_BT: torch.Tensor | None = None  # False on padding; None when there is none
        self.plan: SegmentPlan | None = None  # causal_soft_moe: which segment each token belongs to


class SteelDecoderLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + feed_forward(norm(x)). `mlp` is None for
    feed_forward="none".

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

    def forward(
        self, x_BTD, context: Context, past_key_values: Cache | None = None
    ) -> torch.Tensor:
        attended_BTD = self.self_attn(self.input_layernorm(x_BTD), context, past_key_values)
        if self.mlp is None:
            return x_BTD + attended_BTD
        h_BTD, x_BTD = self.post_attention_layernorm(attended_BTD, x_BTD)
        if past_key_values is not None and isinstance(self.mlp, SteelCausalSoftMoE):
            return x_BTD + self.mlp(h_BTD, context, past_key_values.layers[self.layer_idx])
        if isinstance(self.mlp, SteelTopKMoE):
            branch_BTD, balance = self.mlp(h_BTD, context)
            return x_BTD + branch_BTD if balance is None else (x_BTD + branch_BTD, balance)
        return x_BTD + self.mlp(h_BTD, context)


class SteelPreTrainedModel(PreTrainedModel):
    config_class = SteelConfig
    config: SteelConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SteelDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Width-aware initialisation: every layer speaks at birth, at any width, depth and expert
        kind.

        Embedding and head: N(0, initializer_range²). A matrix that reads a normalised input:
        1/sqrt(fan_in), so that its output has unit variance (0.0236 at D=1792, near the customary
        0.02). A matrix that writes into the residual stream is scaled so that the 2L branches
        together add BRANCH_SCALE times the embedding's size. Modules are leaves: transformers skips
        parents without own parameters when it loads custom code.
        """
        cfg = self.config
        if isinstance(module, SteelRMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, (nn.Embedding, SteelHead)):
            init.normal_(module.weight, std=cfg.initializer_range)
        elif isinstance(module, nn.Linear):
            init.normal_(
                module.weight,
                std=self._standard_deviation(getattr(module, "role", "read"), module.in_features),
            )
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, SteelExperts):
            role = "write_gated" if module.double else "write_hidden"
            init.normal_(module.gate_up_proj, std=self._standard_deviation("read", cfg.hidden_size))
            init.normal_(
                module.down_proj, std=self._standard_deviation(role, cfg.intermediate_size)
            )
        elif isinstance(module, SteelSoftMoEV3):
            init.normal_(module.phi, std=cfg.hidden_size**-0.5)
            init.constant_(module.scale, cfg.hidden_size**0.5 if module.normalize_slots else 1.0)
        elif isinstance(module, SteelSoftMoEV2):
            init.normal_(module.score, std=cfg.hidden_size**-0.5 if module.normalize_slots else 1.0)
        elif isinstance(module, SteelCausalSoftMoE):
            init.normal_(module.dispatch, std=cfg.hidden_size**-0.5)
            init.normal_(module.combine, std=cfg.hidden_size**-0.5)
            init.normal_(module.prior)
            init.zeros_(module.prior_weight)
            init.copy_(
                module.decay, _like(torch.linspace(-1.0, 5.0, module.decay.shape[0]), module.decay)
            )

    def _standard_deviation(self, role: str, fan_in: int) -> float:
        """Of a weight by what it does: read | write | write_hidden | write_gated | route."""
        branch = (
            BRANCH_SCALE
            * self.config.initializer_range
            / math.sqrt(2 * self.config.num_hidden_layers)
        )
        if role == "route":
            return self.config.initializer_range  # near-uniform choice at birth
        if role == "write":
            return branch * fan_in**-0.5
        if role == "write_hidden":  # reads silu(a) b, writes to the residual stream
            return branch / GATED_RMS * fan_in**-0.5
        if role == "write_gated":  # then a second gate: silu(s a) s b has RMS s² / 2 for small s
            return math.sqrt(2.0 * branch) / GATED_RMS * fan_in**-0.5
        return fan_in**-0.5


def _like(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """`values` on the parameter's device and, when the parameter is sharded (FSDP2), sharded as it
    is.
    """
    values = values.to(device=parameter.device, dtype=parameter.dtype)
    if not hasattr(parameter, "placements"):
        return values
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values, parameter.device_mesh, parameter.placements)


# E[(silu(a) b)²]^½ for independent standard normal a and b.
GATED_RMS = 0.5965
# RMS of all 2L branch outputs together at birth, in units of the embedding's.
BRANCH_SCALE = 4.0


@dataclass
class SteelModelOutput(BaseModelOutputWithPast):
    """last_hidden_state (B, T, D), and the mean over layers of top_k_moe's `balance` in training."""

    balance: torch.Tensor | None = None


class SteelModel(SteelPreTrainedModel):
    """The decoder without the head, see `SteelForCausalLM`; forward(...) -> SteelModelOutput."""

    @staticmethod
    def attention_form(document_ends, shape: tuple[int, int], device):
        """A `Context.mask` for a batch (B, T) without padding and past; None leaves it to the
        model.

        document_ends: as `SteelForCausalLM` takes them; None for rows of one document. A built
        model may get another implementation here.
        """

    def __init__(self, config: SteelConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            SteelDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = SteelRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        document_ends=None,
        **kwargs,
    ) -> SteelModelOutput:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids (B, T) and inputs_embeds (B, T, D)")
        x_BTD = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self._use_cache(use_cache, past_key_values)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if not use_cache:
            past_key_values = None
        if past_key_values is not None and self.config.feed_forward == "causal_soft_moe":
            past_key_values = with_slots(past_key_values, self.config.num_hidden_layers)
        context = self._context(x_BTD, attention_mask, position_ids, document_ends, past_key_values)
        states = (x_BTD,) if kwargs.pop("output_hidden_states", False) else None
        balances = []
        for layer in self.layers:
            x_BTD = layer(x_BTD, context, past_key_values=past_key_values)
            if isinstance(x_BTD, tuple):
                x_BTD, balance = x_BTD
                balances.append(balance)
            states = states + (x_BTD,) if states is not None else None
        x_BTD = self.norm(x_BTD)
        if states is not None:
            states = states[:-1] + (x_BTD,)
        return SteelModelOutput(
            last_hidden_state=x_BTD,
            past_key_values=past_key_values,
            hidden_states=states,
            balance=torch.stack(balances).mean() if balances else None,
        )

    def _use_cache(self, use_cache: bool | None, past_key_values: Cache | None) -> bool:
        if past_key_values is not None and self.training and self.gradient_checkpointing:
            # The layers would drop the cache, and `generate` go on from its last token alone.
            raise ValueError(
                "a model in training mode with activation checkpointing keeps no cache; call "
                "model.eval() before it generates"
            )
        if use_cache is None:
            use_cache = past_key_values is not None or (self.config.use_cache and not self.training)
        return use_cache and not (self.training and self.gradient_checkpointing)

    @staticmethod
    def _positions(x_BTD, position_ids, attention_mask, past: int) -> torch.Tensor:
        """Given, or counted from the first real token of each row, or from the cache's length."""
        if position_ids is not None:
            return position_ids
        B, T, _ = x_BTD.shape
        if attention_mask is not None and attention_mask.ndim == 2:
            return (attention_mask.long().cumsum(dim=1) - 1).clamp_min(0)[:, -T:]
        return torch.arange(past, past + T, device=x_BTD.device)[None].expand(B, T)

    def _context(self, x_BTD, given_mask, position_ids, document_ends, cache) -> Context:
        """Rotary tables, attention mask and segment plan of this batch."""
        B, T, _ = x_BTD.shape
        device, implementation = x_BTD.device, self.config._attn_implementation
        past = cache.get_seq_length() if cache is not None else 0
        whole_mask = given_mask is not None and given_mask.ndim == 4
        if whole_mask and self.config.feed_forward == "causal_soft_moe":
            raise ValueError("causal_soft_moe cannot follow a 4-D attention_mask: give a 2-D one")
        valid_BK = given_mask.bool() if given_mask is not None and not whole_mask else None
        if valid_BK is not None and bool(valid_BK.all()):
            valid_BK = None
        starts_BT = self._document_starts((B, T), position_ids, document_ends, valid_BK, past)
        position_ids = self._positions(x_BTD, position_ids, given_mask, past)
        context = Context(*rope_tables(position_ids, self.config.head_dim, self.config.rope_theta))
        context.valid_BT = valid_BK[:, -T:] if valid_BK is not None else None
        if self.config.feed_forward == "causal_soft_moe":
            context.plan = self._plan((B, T), starts_BT, context.valid_BT, cache).to(device)
        packed = starts_BT is not None
        if whole_mask:
            context.mask = given_mask
        elif implementation in (None, "sdpa", "eager"):
            if valid_BK is None and past == 0 and T > 1 and implementation != "eager":
                ends = ends_from_starts(starts_BT) if packed else None
                context.mask = self.attention_form(ends, (B, T), device)
            if context.mask is None:
                document_BT = None
                if packed:
                    document_BT = starts_BT.cumsum(dim=1).to(device, non_blocking=True)
                context.mask = attention_mask(T, past, valid_BK, document_BT, device)
        elif packed and "flash" in implementation:  # it has no mask that keeps documents apart
            raise ValueError(
                f"attn_implementation={implementation!r} cannot keep packed documents apart; use "
                "sdpa or flex_attention, or train with train.kernels={attention: auto}"
            )
        else:
            context.mask = create_causal_mask(
                config=self.config,
                inputs_embeds=x_BTD,
                attention_mask=given_mask,
                past_key_values=cache if past else None,
                position_ids=position_ids,
            )
        return context

    @staticmethod
    def _document_starts(shape, position_ids, document_ends, valid_BK, past: int):
        """(B, T) bool on the host, see `attention`; None when every row is one document.

        With `document_ends`, and for positions that are counted here, nobody waits for the device.
        """
        if document_ends is not None:
            if position_ids is None or valid_BK is not None or past:
                raise ValueError(
                    "document_ends needs position_ids, and goes with neither padding nor a cache"
                )
            starts_BT = starts_from_ends(document_ends, shape)
            return starts_BT if len(document_ends) > shape[0] else None
        if position_ids is None:
            return None
        starts_BT = starts_from_positions(position_ids.expand(shape), valid_BK, past)
        if not bool(starts_BT.any()):
            return None
        if past:
            raise ValueError(
                "position_ids start another document behind cached tokens: decode each document "
                "with a cache of its own"
            )
        return starts_BT

    def _plan(self, shape, starts_BT, valid_BT, cache) -> SegmentPlan:
        C, slots = self.config.segment_length, cache.layers[0].slots if cache is not None else None
        count_B = slots["count"] if slots is not None else None
        if cache is not None and shape[1] == 1:
            empty_B = torch.zeros(
                shape[0], dtype=torch.long, device=self.embed_tokens.weight.device
            )
            return plan_step(C, valid_BT, empty_B if count_B is None else count_B)
        valid_BT, count_B = (None if t is None else t.cpu() for t in (valid_BT, count_B))
        return plan_segments(shape, C, starts_BT, valid_BT, count_B)


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
        **kwargs,
    ) -> CausalLMOutputWithPast:
        kwargs.pop("return_dict", None)
        if use_cache is None and (labels is not None or shift_labels is not None):
            use_cache = False
        out = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            **kwargs,
        )
        hidden_BTD = out.last_hidden_state
        logits, loss, targets = None, None, shift_labels
        if shift_labels is not None:
            loss = self._head_loss(hidden_BTD, shift_labels, z_loss)
        else:
            if isinstance(logits_to_keep, int):
                logits_to_keep = slice(-logits_to_keep, None) if logits_to_keep else slice(None)
            logits = self.lm_head(hidden_BTD[:, logits_to_keep])
            if labels is not None:
                targets = nn.functional.pad(labels, (0, 1), value=IGNORE)[:, 1:].to(logits.device)
                loss = cross_entropy_sum(logits.flatten(0, 1), targets.flatten())
        if loss is not None:
            count = (targets != IGNORE).sum().clamp_min(1)
            if out.balance is not None:  # weighted like the tokens
                loss = loss + self.config.balance_loss * count * out.balance
            loss = loss / (count if num_items_in_batch is None else num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
        )

    def _head_loss(self, hidden_BTD, targets, z_loss):
        if isinstance(self.lm_head, SteelHead):
            return self.lm_head(hidden_BTD, targets, z_loss)
        # After resize_token_embeddings the head is a plain Linear.
        flat_ND, targets_N = hidden_BTD.flatten(0, 1), targets.flatten()
        return linear_cross_entropy(flat_ND, self.lm_head.weight, targets_N, z_loss)
