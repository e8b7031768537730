"""Import checkpoints of the original Steel-LLM code, and trade weights with transformers' Llama and
Qwen2.

All three name their tensors alike (model.layers.N.self_attn.q_proj.weight, mlp.gate_proj.weight,
…). The original adds `FFN_type` (raw, softmoe_v1, softmoe_v2, softmoe_v3), `mlp_type` (raw: SwiGLU;
senet: double SwiGLU), `mlp_div_ratio`, `n_experts` and `slots_per_expert` to a Qwen2 configuration.
"""

import json
import re
from pathlib import Path

import torch
from safetensors import safe_open

from ..config import ModelConfig, UserError
from .build import steel_config
from .configuration import SteelConfig
from .modeling import SteelForCausalLM

FEED_FORWARDS = {
    "raw": "dense",
    "softmoe_v1": "soft_moe_v1",
    "softmoe_v2": "soft_moe_v2",
    "softmoe_v3": "soft_moe_v3",
}
EXPERTS = {"raw": "swiglu", "senet": "double_swiglu"}


def import_original(folder: str | Path, out: str | Path | None = None) -> SteelForCausalLM:
    """Load a checkpoint folder of the original code (config.json with weights in one or more
    files).

    Returns the model in the checkpoint's dtype, in evaluation mode; saves it to `out` with its own
    code if given. Raises UserError (a ValueError) naming the file or field that is missing or
    unknown.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: no config.json; give the folder of an original Steel-LLM checkpoint"
        )
    config = original_config(json.loads(path.read_text(encoding="utf-8")), str(path))
    state = convert_state(_read_weights(folder), config)
    model = load_state(config, state)
    if out is not None:
        model.save_pretrained(out)
    return model


def original_config(fields: dict, where: str = "config.json") -> SteelConfig:
    """The original's configuration as a `SteelConfig`."""
    for name, known in (("FFN_type", FEED_FORWARDS), ("mlp_type", EXPERTS)):
        if fields.get(name) not in known:
            raise UserError(
                f"{where}: {name}={fields.get(name)!r} must be one of {', '.join(known)}"
            )
    if "mlp_div_ratio" not in fields:
        raise UserError(
            f"{where}: mlp_div_ratio is missing; an expert is intermediate_size / mlp_div_ratio wide"
        )
    if fields.get("use_sliding_window"):
        raise UserError(
            f"{where}: use_sliding_window=true is not supported; Steel-LLM was trained without it"
        )
    rope = fields.get("rope_parameters") or {}
    given = {
        "rope_theta": rope.get("rope_theta", 10_000.0),
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "max_position_embeddings": 2048,
        **{name: value for name, value in fields.items() if value is not None},
        "intermediate_size": fields["intermediate_size"] // fields["mlp_div_ratio"],
        "feed_forward": FEED_FORWARDS[fields["FFN_type"]],
        "expert": EXPERTS[fields["mlp_type"]],
        "num_experts": fields.get("n_experts", 1),
        "num_key_value_heads": fields.get("num_key_value_heads", fields["num_attention_heads"]),
    }
    names = ModelConfig.__dataclass_fields__.keys() - {"source", "path"}
    tokens = ("hidden_act", "bos_token_id", "eos_token_id", "pad_token_id")
    shape = ModelConfig(**{name: given[name] for name in names & given.keys()})
    return steel_config(shape, **{name: given[name] for name in tokens if name in given})


def load_state(config: SteelConfig, state: dict[str, torch.Tensor]) -> SteelForCausalLM:
    """A model that holds exactly these tensors, without initialising it first."""
    with torch.device("meta"):
        model = SteelForCausalLM(config)
    if config.tie_word_embeddings:
        state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    expected, given = set(model.state_dict()), set(state)
    if expected != given:
        missing, extra = sorted(expected - given), sorted(given - expected)
        raise UserError(
            f"weights do not fit the configuration: missing {missing[:3]}, unexpected {extra[:3]}"
        )
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise UserError(
            f"weights do not fit the configuration: {str(error).splitlines()[1].strip()}"
        ) from None
    model.tie_weights()
    return model.eval()


def convert_state(state: dict[str, torch.Tensor], config: SteelConfig) -> dict[str, torch.Tensor]:
    """Tensors under the names of the original, Llama or Qwen2 -> Steel's fused and stacked tensors."""
    out = {
        name: value
        for name, value in state.items()
        if ".self_attn." not in name and ".mlp." not in name
    }
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        part = {
            name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)
        }
        new = {
            name: value
            for name, value in part.items()
            if name.startswith(("self_attn.o_proj", "self_attn.q_norm"))
        }
        new |= {name: value for name, value in part.items() if name.startswith("self_attn.k_norm")}
        for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
            new[f"self_attn.qkv_proj.{kind}"] = torch.cat(
                [part[f"self_attn.{p}_proj.{kind}"] for p in "qkv"]
            )
        new |= _convert_feed_forward(part, config)
        out |= {prefix + name: value for name, value in new.items()}
    return out


def _convert_feed_forward(
    part: dict[str, torch.Tensor], config: SteelConfig
) -> dict[str, torch.Tensor]:
    if config.feed_forward == "dense":
        gate_up, down = _expert(part, "mlp.", config.expert)
        return {"mlp.gate_up_proj.weight": gate_up, "mlp.down_proj.weight": down}
    pairs = [_expert(part, f"mlp.experts.{e}.", config.expert) for e in range(config.num_experts)]
    new = {
        "mlp.experts.gate_up_proj": torch.stack([gate_up.t() for gate_up, _ in pairs]),
        "mlp.experts.down_proj": torch.stack([down.t() for _, down in pairs]),
    }
    if config.feed_forward == "soft_moe_v1":
        new |= {f"mlp.router.{kind}": part[f"mlp.gating.{kind}"] for kind in ("weight", "bias")}
    elif config.feed_forward == "soft_moe_v2":
        new["mlp.score"] = part["mlp.score"]
    elif config.feed_forward == "soft_moe_v3":
        new["mlp.phi"] = part["mlp.phi"].flatten(1)
        new["mlp.scale"] = part["mlp.scale"]
    return new


def _expert(
    part: dict[str, torch.Tensor], prefix: str, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """One expert's [gate; up] (2F, D) and down (D, F), or [gate; down] (2D, F) when double."""
    first, second = ("gate_proj", []) if kind == "swiglu" else ("gate_up_proj", ["gate_down_proj"])
    gate_up = torch.cat([part[f"{prefix}{name}.weight"] for name in (first, "up_proj")])
    return gate_up, torch.cat([part[f"{prefix}{name}.weight"] for name in (*second, "down_proj")])


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of model.safetensors, its shards, or pytorch_model*.bin (read without unpickling
    objects).
    """
    state: dict[str, torch.Tensor] = {}
    files = sorted(folder.glob("model*.safetensors"))
    for file in files:
        with safe_open(file, framework="pt") as handle:
            names = handle.keys()
            state |= {name: handle.get_tensor(name) for name in names}
    if not files:
        files = sorted(folder.glob("pytorch_model*.bin"))
        for file in files:
            state |= torch.load(file, map_location="cpu", weights_only=True)
    if not files:
        raise UserError(f"{folder}: no model*.safetensors or pytorch_model*.bin")
    return {name: value for name, value in state.items() if not re.search(r"rotary_emb\.", name)}


def to_transformers(model: SteelForCausalLM) -> torch.nn.Module:
    """A dense Steel as transformers' own Qwen2ForCausalLM (QKV bias) or LlamaForCausalLM (none):
    the same function.

    For tools that know those architectures only (GGUF converters, inference servers). Raises
    UserError for a model that neither can express: a mixture of experts, a double SwiGLU, QK-norm.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    config = model.config
    for field, only in (("feed_forward", "dense"), ("expert", "swiglu"), ("qk_norm", False)):
        if getattr(config, field) != only:
            raise UserError(
                f"{field}={getattr(config, field)!r}: Llama and Qwen2 express only {only!r}; "
                "save this model with save_pretrained and load it with trust_remote_code=True"
            )
    same = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads head_dim rms_norm_eps tie_word_embeddings max_position_embeddings initializer_range "
        "bos_token_id eos_token_id pad_token_id"
    )
    fields = {name: getattr(config, name) for name in same.split()}
    kinds = (Qwen2Config, Qwen2ForCausalLM) if config.qkv_bias else (LlamaConfig, LlamaForCausalLM)
    with torch.device("meta"):
        twin = kinds[1](
            kinds[0](
                **fields, rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta}
            )
        )
    twin.to_empty(device=model.device).to(model.dtype)
    twin.init_weights()  # the rotary tables are buffers outside the state dict
    twin.load_state_dict(split_state(model))
    return twin.eval()


def split_state(model: SteelForCausalLM) -> dict[str, torch.Tensor]:
    """The tensors of a dense Steel under Llama's and Qwen2's names; the inverse of `convert_state`."""
    config, out = model.config, {}
    sizes = [
        n * config.head_dim for n in (config.num_attention_heads, *[config.num_key_value_heads] * 2)
    ]
    for name, value in model.state_dict().items():
        if ".qkv_proj." in name:
            for letter, piece in zip("qkv", value.split(sizes), strict=True):
                out[name.replace("qkv_proj", f"{letter}_proj")] = piece
        elif ".gate_up_proj." in name:
            for letter, piece in zip(("gate", "up"), value.chunk(2), strict=True):
                out[name.replace("gate_up_proj", f"{letter}_proj")] = piece
        else:
            out[name] = value
    return out
