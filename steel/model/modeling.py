"""The causal language model: embedding, pre-norm decoder blocks, head; a `transformers` model.

Shapes: B batch, T time, K past + T, D model width, V vocabulary.
"""

import math

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
    document_ends,
    document_index,
    rope_tables,
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
    """What the layers need to know of the batch beside their input; built once per forward, shared by all.

    A plain object, neither tensors nor a dataclass: FSDP2's mixed precision casts the floating tensors it finds in a
    block's arguments (dataclasses included) to bf16, and the rotary tables must stay fp32.
    """

    def __init__(self, cos: torch.Tensor, sin: torch.Tensor) -> None:
        self.cos, self.sin = cos, sin
        self.mask: torch.Tensor | None = None  # for attention; None is plain causal
        self.valid_BT: torch.Tensor | None = None  # False on padding; None when there is none
        self.plan: SegmentPlan | None = None  # causal_soft_moe: which segment each token belongs to


class SteelDecoderLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + feed_forward(norm(x)). `mlp` is None for feed_forward="none"."""

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
        """Width-aware initialisation: every layer speaks at birth, at any width, depth and expert kind.

        Embedding and head: N(0, initializer_range²). A matrix that reads a normalised input: 1/sqrt(fan_in), so that
        its output has unit variance (0.0236 at D=1792, near the customary 0.02). A matrix that writes into the
        residual stream is scaled so that the 2L branches together add BRANCH_SCALE times the embedding's size.
        Modules are leaves: transformers skips parents without own parameters when it loads custom code.
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
        if (
            role == "write_gated"
        ):  # the same, then a second gate: silu(s a) s b has RMS s² / 2 for small s
            return math.sqrt(2.0 * branch) / GATED_RMS * fan_in**-0.5
        return fan_in**-0.5


def _like(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """`values` on the parameter's device and, when the parameter is sharded (FSDP2), sharded as it is."""
    values = values.to(device=parameter.device, dtype=parameter.dtype)
    if not hasattr(parameter, "placements"):
        return values
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values, parameter.device_mesh, parameter.placements)


# E[(silu(a) b)²]^½ for independent standard normal a and b.
GATED_RMS = 0.5965
# RMS of all 2L branch outputs together at birth, in units of the embedding's.
BRANCH_SCALE = 4.0


class SteelModel(SteelPreTrainedModel):
    """The decoder without the head. forward(...) -> BaseModelOutputWithPast with last_hidden_state (B, T, D)."""

    @staticmethod
    def attention_form(document_ends, shape: tuple[int, int], device):
        """A `Context.mask` for a batch (B, T) without padding and past; None leaves it to the model.

        document_ends: on the host, see `document_ends`; None for rows of one document. A built model
        may get another implementation here.
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
        **kwargs,
    ) -> BaseModelOutputWithPast:
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
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        position_ids = self._positions(x_BTD, position_ids, attention_mask, past)
        context = self._context(x_BTD, attention_mask, position_ids, past_key_values, past)
        states = (x_BTD,) if kwargs.pop("output_hidden_states", False) else None
        kwargs.pop("output_attentions", None)
        for layer in self.layers:
            x_BTD = layer(x_BTD, context, past_key_values=past_key_values)
            states = states + (x_BTD,) if states is not None else None
        x_BTD = self.norm(x_BTD)
        if states is not None:
            states = states[:-1] + (x_BTD,)
        return BaseModelOutputWithPast(
            last_hidden_state=x_BTD, past_key_values=past_key_values, hidden_states=states
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

    def _context(self, x_BTD, given_mask, position_ids, cache, past: int) -> Context:
        """Rotary tables, attention mask and segment plan of this batch."""
        T = x_BTD.shape[1]
        valid_BK = given_mask.bool() if given_mask is not None and given_mask.ndim == 2 else None
        if valid_BK is not None and bool(valid_BK.all()):
            valid_BK = None
        valid_BT = valid_BK[:, -T:] if valid_BK is not None else None
        document_BT = document_index(position_ids, valid_BT) if past == 0 else None
        cos, sin = rope_tables(position_ids, self.config.head_dim, self.config.rope_theta)
        context = Context(cos, sin)
        context.valid_BT = valid_BT
        if self.config.feed_forward == "causal_soft_moe":
            context.plan = self._plan(x_BTD, position_ids, valid_BT, document_BT is not None, cache)
        if given_mask is not None and given_mask.ndim == 4:
            context.mask = given_mask
        elif self.config._attn_implementation in (None, "sdpa", "eager"):
            whole = valid_BK is None and past == 0 and T > 1
            if whole and self.config._attn_implementation != "eager":
                shape = (x_BTD.shape[0], T)
                ends = (
                    document_ends(position_ids.expand(shape)) if document_BT is not None else None
                )
                context.mask = self.attention_form(ends, shape, x_BTD.device)
            if context.mask is None:
                context.mask = attention_mask(T, past, valid_BK, document_BT, x_BTD.device)
        elif document_BT is not None and "flash" in self.config._attn_implementation:
            raise ValueError(  # it would look across documents without a word: it is given no mask to keep them apart
                f"attn_implementation={self.config._attn_implementation!r} cannot keep packed documents apart; use "
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

    def _plan(self, x_BTD, position_ids, valid_BT, packed: bool, cache) -> SegmentPlan:
        B, T, _ = x_BTD.shape
        slots = cache.layers[0].slots if cache is not None else None
        count_B = slots["count"] if slots is not None else None
        if cache is not None and T == 1:
            if count_B is None:
                count_B = torch.zeros(B, dtype=torch.long, device=x_BTD.device)
            return plan_step(self.config.segment_length, valid_BT, count_B)
        return plan_segments(
            (B, T), self.config.segment_length, position_ids, valid_BT, count_B, packed
        )


class SteelForCausalLM(SteelPreTrainedModel, GenerationMixin):
    """Steel with its vocabulary head.

    forward(input_ids (B, T)) -> CausalLMOutputWithPast. Three ways to a loss, in nats:
      labels (B, T): as in transformers, shifted here; logits are returned too.
      shift_labels (B, T): targets already shifted, -100 ignored; the loss is computed chunk by chunk from the hidden
      state and `logits` is None. With num_items_in_batch the sum is divided by it, else by the valid targets.
      Both add z_loss · logsumexp(logits)² per token when `z_loss` > 0 (shift_labels only).
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
        logits, loss = None, None
        if shift_labels is not None:
            total = self._head_loss(hidden_BTD, shift_labels, z_loss)
            loss = self._divide(total, shift_labels, num_items_in_batch)
        else:
            if isinstance(logits_to_keep, int):
                logits_to_keep = slice(-logits_to_keep, None) if logits_to_keep else slice(None)
            logits = self.lm_head(hidden_BTD[:, logits_to_keep])
        if labels is not None and shift_labels is None:
            targets = nn.functional.pad(labels, (0, 1), value=IGNORE)[:, 1:].reshape(-1)
            total = cross_entropy_sum(
                logits.reshape(-1, logits.shape[-1]), targets.to(logits.device)
            )
            loss = self._divide(total, targets, num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
        )

    def _head_loss(self, hidden_BTD, targets, z_loss):
        if isinstance(self.lm_head, SteelHead):
            return self.lm_head(hidden_BTD, targets, z_loss)
        flat = hidden_BTD.reshape(
            -1, hidden_BTD.shape[-1]
        )  # after resize_token_embeddings the head is a plain Linear
        return linear_cross_entropy(flat, self.lm_head.weight, targets.reshape(-1), z_loss)

    def _divide(self, total, targets, num_items_in_batch):
        """Sum -> loss; in training with the load-balancing term of top_k_moe, weighted like the tokens."""
        count = (targets != IGNORE).sum().clamp_min(1)
        balance = self._take_balance()
        if balance is not None:
            total = total + self.config.balance_loss * count * balance
        return total / (count if num_items_in_batch is None else num_items_in_batch)

    def _take_balance(self) -> torch.Tensor | None:
        """Mean over layers of the routers' balance terms of the last training forward; None where there are none."""
        routed = [layer.mlp for layer in self.model.layers if isinstance(layer.mlp, SteelTopKMoE)]
        terms = [layer.balance for layer in routed if layer.balance is not None]
        for layer in routed:
            layer.balance = None  # holds a graph: let go of it with the step
        return torch.stack(terms).mean() if terms and self.training else None

    def num_parameters_by_component(self) -> dict[str, int]:
        """Parameter counts; the sum is `num_parameters()` (a tied head counts 0)."""
        counts = dict.fromkeys(
            ("embedding", "lm_head", "attention", "experts", "router", "norms"), 0
        )
        for name, parameter in self.named_parameters():
            counts[_component(name)] += parameter.numel()
        return counts


def _component(name: str) -> str:
    if name.startswith("model.embed_tokens."):
        return "embedding"
    if name.startswith("lm_head."):
        return "lm_head"
    if "norm" in name.split(".")[-2]:
        return "norms"
    if ".self_attn." in name:
        return "attention"
    return "experts" if name.split(".")[-1].endswith("_proj") or "_proj." in name else "router"
