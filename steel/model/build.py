"""Build a model from the configuration: Steel, or any transformers causal LM from a folder."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from ..config import ModelConfig, UserError, sound
from .configuration import SteelConfig
from .modeling import SteelForCausalLM


def steel_config(model_cfg: ModelConfig, **more) -> SteelConfig:
    """The same fields as a `SteelConfig`, and `more` of transformers' own (token ids, hidden_act).

    Raises UserError (a ValueError) naming the field at fault.
    """
    shape = {k: v for k, v in vars(model_cfg).items() if k not in ("source", "path")}
    try:
        return SteelConfig(**shape, **more)
    except ValueError as error:
        raise UserError(f"model.{error}") from None


def build(
    model_cfg: ModelConfig, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> nn.Module:
    """A causal LM, freshly initialised from `seed`, or (source "hf") with a folder's own weights.

    device "meta" allocates nothing: `initialize` does, and fills it.
    """
    if model_cfg.source == "hf":
        return _build_hf(model_cfg.path, device, dtype, seed)
    config = steel_config(model_cfg)
    with torch.device("meta"):
        model = SteelForCausalLM(config)
    if device != "meta":
        initialize(model, seed, device)
    return model.to(dtype)


def _build_hf(path: str, device: str, dtype: torch.dtype, seed: int) -> nn.Module:
    folder = Path(path)
    if not path or not folder.is_dir():
        raise UserError(f"model.path={path!r}: source=hf needs a local folder with a config.json")
    local = {"local_files_only": True}
    if device != "meta" and any(folder.glob("*.safetensors")):
        return read_model(folder, dtype).to(device)
    with sound(folder / "config.json"):
        config = AutoConfig.from_pretrained(folder, **local)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).to(dtype)


def read_model(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The model as its configuration says, every weight from the folder.

    transformers would draw at random, with a warning, what is not there or has another shape.
    """
    logging.disable_progress_bar()  # a bar for a second of loading only tears our own
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    strict = {"ignore_mismatched_sizes": True, "output_loading_info": True}
    how = {"dtype": dtype, "local_files_only": True, **strict}
    try:  # our own type runs the installed code, not the copy that travels with the folder
        with sound(f"the model in {folder}"):
            model, found = AutoModelForCausalLM.from_pretrained(folder, **how)
    finally:
        logging.set_verbosity(verbosity)
    odd = [f"{name} is missing" for name in sorted(found["missing_keys"])]
    odd += [f"{name} has another shape" for name, *_ in sorted(found["mismatched_keys"])]
    if odd:
        what = f"{folder}: weights and config.json do not belong together ({odd[0]})"
        raise UserError(f"{what}; write or fetch the folder again")
    return model


@torch.no_grad()
def initialize(model: nn.Module, seed: int = 0, device: str | torch.device = "cpu") -> None:
    """Allocate and fill a model that was built on the meta device, sharded or not.

    Every rank draws every tensor whole, on the CPU, from `seed`, one module at a time, and keeps its
    part: the weights do not depend on the number of ranks, no rank holds more than one whole module,
    and nothing is communicated.
    """
    model.to_empty(device=device)
    done: set[int] = set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            own = {name: p for name, p in module._parameters.items() if p is not None}
            for name, p in own.items():
                module._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype))
            model._init_weights(module)
            for name, p in own.items():
                drawn, module._parameters[name] = module._parameters[name].to(device), p
                if id(p) in done:  # a tied weight keeps what its first owner drew
                    continue
                done.add(id(p))
                if hasattr(p, "placements"):
                    from torch.distributed.tensor import distribute_tensor

                    place = (p.device_mesh, p.placements)
                    drawn = distribute_tensor(drawn, *place, src_data_rank=None)
                p.copy_(drawn)
    model.tie_weights()  # `to_empty` parted a tied head from its embedding


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The decoder blocks in order: the units of compilation, sharding and checkpointing."""
    layers = getattr(getattr(model, "model", model), "layers", None)
    if layers is None:
        raise UserError(f"{type(model).__name__} has no model.layers: not supported")
    return list(layers)


def require_causal(model: nn.Module, what: str) -> None:
    """Raise UserError for a model whose outputs depend on later tokens and on row neighbours.

    `what` names the work that packs, pads or batches rows and would change such a model's answers.
    """
    if not getattr(model, "is_causal", True):
        why = f"feed_forward={model.config.feed_forward} mixes all tokens of a row, neighbours too"
        remedy = "use causal_soft_moe, top_k_moe or dense"
        raise UserError(f"{what} needs a causal model: {why}; {remedy}")
