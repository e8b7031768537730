"""Import the original Steel-LLM's checkpoints; trade weights with transformers' Llama, Qwen2, Qwen3.

All three name their tensors alike (model.layers.N.self_attn.q_proj.weight, mlp.gate_proj.weight,
…). The original adds `FFN_type`, `mlp_type` (raw: SwiGLU; senet: double SwiGLU), `mlp_div_ratio`,
`n_experts` and `slots_per_expert` to a Qwen2 configuration.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file

from ..config import ModelConfig, UserError, sound
from ..runlog import read_json
from .build import steel_config
from .configuration import SteelConfig
from .modeling import SteelForCausalLM

FEED_FORWARDS = {"raw": "dense", **{f"softmoe_v{n}": f"soft_moe_v{n}" for n in (1, 2, 3)}}
EXPERTS = {"raw": "swiglu", "senet": "double_swiglu"}
SAME_IN_TRANSFORMERS = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
    "num_key_value_heads head_dim rms_norm_eps tie_word_embeddings max_position_embeddings "
    "initializer_range bos_token_id eos_token_id pad_token_id"
).split()


def import_original(folder: str | Path, out: str | Path | None = None) -> SteelForCausalLM:
    """Load a checkpoint folder of the original code (config.json with weights in one or more files).

    Returns the model in the checkpoint's dtype, in evaluation mode; saves it to `out` with its own
    code if given. Raises UserError naming the file or field that is missing or unknown.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no config.json; give an original Steel-LLM checkpoint's folder")
    with sound(path):
        config = original_config(read_json(path), str(path))
    model = load_state(config, _read_weights(folder), f"{folder}: weights")
    if out is not None:
        model.save_pretrained(out)
    return model


def original_config(fields: dict, where: str) -> SteelConfig:
    """The original's configuration as a `SteelConfig`."""
    for name, known in (("FFN_type", FEED_FORWARDS), ("mlp_type", EXPERTS)):
        if fields.get(name) not in known:
            remedy = f"must be one of {', '.join(known)}"
            raise UserError(f"{where}: {name}={fields.get(name)!r} {remedy}")
    if "mlp_div_ratio" not in fields:
        remedy = "an expert is intermediate_size / mlp_div_ratio wide"
        raise UserError(f"{where}: mlp_div_ratio is missing; {remedy}")
    if fields.get("use_sliding_window"):
        raise UserError(f"{where}: use_sliding_window is not supported; Steel-LLM had none")
    rope = fields.get("rope_parameters") or {}
    given = {
        "rope_theta": rope.get("rope_theta", 10_000.0),
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "max_position_embeddings": 2048,
        "num_key_value_heads": fields["num_attention_heads"],
        **{name: value for name, value in fields.items() if value is not None},
        "intermediate_size": fields["intermediate_size"] // fields["mlp_div_ratio"],
        "feed_forward": FEED_FORWARDS[fields["FFN_type"]],
        "expert": EXPERTS[fields["mlp_type"]],
        "num_experts": fields.get("n_experts", 1),
    }
    names = ModelConfig.__dataclass_fields__.keys() - {"source", "path"}
    tokens = ("hidden_act", "bos_token_id", "eos_token_id", "pad_token_id")
    shape = ModelConfig(**{name: given[name] for name in names & given.keys()})
    return steel_config(shape, **{name: given[name] for name in tokens if name in given})


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of model*.safetensors or, without unpickling objects, of pytorch_model*.bin."""
    state: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        with sound(file):
            state |= load_file(file)
    for file in [] if state else sorted(folder.glob("pytorch_model*.bin")):
        with sound(file):
            state |= torch.load(file, map_location="cpu", weights_only=True)
    if not state:
        raise UserError(f"{folder}: no model*.safetensors or pytorch_model*.bin")
    return {name: value for name, value in state.items() if "rotary_emb." not in name}


def load_state(config: SteelConfig, state: dict, what: str = "weights") -> SteelForCausalLM:
    """A model that holds these tensors, under the names of the original, Llama or Qwen2."""
    with torch.device("meta"):
        model = SteelForCausalLM(config)
    try:
        state = convert_state(state, config)
        if config.tie_word_embeddings:
            state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
        model.load_state_dict(state, assign=True)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} do not fit the configuration: {reason}") from None
    model.tie_weights()
    return model.eval()


def convert_state(state: dict[str, torch.Tensor], config: SteelConfig) -> dict[str, torch.Tensor]:
    """Tensors named as in the original, Llama or Qwen2 -> Steel's fused and stacked tensors."""
    out = dict(state)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        part = {name[len(prefix) :]: out.pop(name) for name in state if name.startswith(prefix)}
        for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
            heads = [part.pop(f"self_attn.{p}_proj.{kind}") for p in "qkv"]
            part[f"self_attn.qkv_proj.{kind}"] = torch.cat(heads)
        _convert_feed_forward(part, config)
        out |= {prefix + name: value for name, value in part.items()}
    return out


def _convert_feed_forward(part: dict[str, torch.Tensor], config: SteelConfig) -> None:
    """Exchange the tensors of one layer's feed-forward in place."""
    if config.feed_forward == "dense":
        gate_up, down = _pop_expert(part, "mlp.", config.expert)
        part |= {"mlp.gate_up_proj.weight": gate_up, "mlp.down_proj.weight": down}
        return
    experts = [f"mlp.experts.{index}." for index in range(config.num_experts)]
    pairs = [_pop_expert(part, prefix, config.expert) for prefix in experts]
    part["mlp.experts.gate_up_proj"] = torch.stack([gate_up.t() for gate_up, _ in pairs])
    part["mlp.experts.down_proj"] = torch.stack([down.t() for _, down in pairs])
    if config.feed_forward == "soft_moe_v1":
        for kind in ("weight", "bias"):
            part[f"mlp.router.{kind}"] = part.pop(f"mlp.gating.{kind}")
    elif config.feed_forward == "soft_moe_v3":
        part["mlp.phi"] = part["mlp.phi"].flatten(1)


def _pop_expert(part: dict[str, torch.Tensor], prefix: str, kind: str):
    """One expert's [gate; up] (2F, D) and down (D, F), or [gate; down] (2D, F) when double."""
    if kind == "swiglu":
        into, back = ("gate_proj", "up_proj"), ("down_proj",)
    else:
        into, back = ("gate_up_proj", "up_proj"), ("gate_down_proj", "down_proj")
    pair = ([part.pop(f"{prefix}{name}.weight") for name in names] for names in (into, back))
    return tuple(torch.cat(matrices) for matrices in pair)


def to_transformers(model: torch.nn.Module, kind: str = "") -> torch.nn.Module:
    """A dense Steel as one of transformers' own classes, which computes the same function; for
    tools that know those architectures only.

    kind: qwen3 for a model with QK-norm; qwen2 or llama for one without, by default the one that
    has biases just where the model has them. A bias of the class that Steel lacks is zero. Raises
    UserError for a mixture, a double SwiGLU, a model that is none of ours and a kind that does not fit.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = model.config
    only = {"model_type": "steel", "feed_forward": "dense", "expert": "swiglu"}
    if getattr(config, "qk_norm", False):
        only["qkv_bias"] = False  # no class has both
    for field, needed in only.items():
        if (value := getattr(config, field, None)) != needed:
            what = f"{field}={value!r}, and only {needed!r} fits Qwen2, Qwen3, Llama and GGUF"
            remedy = "'steel export hf' takes Steel's own code along, 'steel serve' runs the model"
            raise UserError(f"this model has {what}; {remedy}")
    fitting = ("qwen3",) if config.qk_norm else ("qwen2", "llama")
    if kind not in ("", *fitting):
        raise UserError(f"this model can be a {' or a '.join(fitting)}, not a {kind}")
    kind = kind or fitting[0 if config.qkv_bias or config.qk_norm else 1]
    fields = {name: getattr(config, name) for name in SAME_IN_TRANSFORMERS}
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    bias = {"attention_bias": config.qkv_bias} if kind == "llama" else {}
    with torch.device("meta"):
        shape = AutoConfig.for_model(kind, **fields, **bias, rope_parameters=rope)
        twin = AutoModelForCausalLM.from_config(shape)
    twin.to_empty(device=model.device).to(model.dtype)
    twin.init_weights()  # the rotary tables are buffers outside the state dict
    state = _split_state(model)
    biases = [name for name in twin.state_dict() if name.endswith(".bias")]
    state |= {k: torch.zeros_like(twin.state_dict()[k]) for k in biases if k not in state}
    twin.load_state_dict(state)
    return twin.eval()


def _split_state(model: SteelForCausalLM) -> dict[str, torch.Tensor]:
    """The tensors of a dense Steel under the names that Llama, Qwen2 and Qwen3 share."""
    config, out = model.config, {}
    heads = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
    for name, value in model.state_dict().items():
        if ".qkv_proj." in name:
            parts = value.split([count * config.head_dim for count in heads])
            out |= {name.replace("qkv", letter): part for letter, part in zip("qkv", parts)}
        elif ".gate_up_proj." in name:
            gate, up = value.chunk(2)
            out |= {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}
        else:
            out[name] = value
    return out
