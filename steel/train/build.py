"""Make a model ready to train: weights, kernels, recomputation, compilation, sharding (FSDP2).

`make_model` builds one from the configuration, for pretraining and the bench; `prepare` takes any
causal LM as it is, which the alignment stages do; `evaluating` is how a model in training is asked.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from ..config import Config, TrainConfig, UserError
from ..model.build import build, decoder_layers, initialize
from .parallel import World

GRAPHS = 64
"""Graphs of one block that training may compile: batches of other shapes, layers of other kinds."""


def make_model(cfg: Config, world: World) -> nn.Module:
    """The model of cfg on this rank's device, in training mode.

    Without weights to load it is built on the meta device, sharded, then filled, so that no rank
    ever holds the whole; its initial weights are the same at any number of ranks. A transformers
    folder with weights is read and sharded.
    """
    given = cfg.model.source == "hf" and any(Path(cfg.model.path).glob("*.safetensors"))
    model = build(cfg.model, device="cpu" if given else "meta", seed=cfg.seed)
    if given:
        model.to(world.device)
    prepare(model, cfg.train, world, cfg.data.sequence_length, cfg.data.mask_documents)
    if not given:
        initialize(model, cfg.seed, world.device)
    return model.train()


def prepare(
    model: nn.Module, cfg: TrainConfig, world: World, sequence_length: int, documents: bool
) -> None:
    """Kernels, recomputation, compilation and sharding, in place, as the stage's settings say.

    model: a causal LM, or a module with one in `lm`. sequence_length [tokens] and whether rows hold
    several documents: the batch that kernels are picked for.
    """
    causal_lm = getattr(model, "lm", model)
    if cfg.activation_checkpointing:
        causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
    if cfg.kernels:
        _install_kernels(causal_lm, cfg, world, sequence_length, documents)
    layers = decoder_layers(causal_lm)
    if cfg.compile:
        # The layers share one cache of graphs. When it is full, dynamo's default is to run eagerly
        # from then on, at half the speed and without a word.
        torch._dynamo.config.recompile_limit = GRAPHS
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        for layer in layers:
            layer.compile()
    spread(model, layers, cfg, world)


def require_graphs() -> None:
    """UserError when dynamo has given up on every block, after which they run eagerly."""
    if not torch._dynamo.utils.counters["stats"]["unique_graphs"]:
        what = "train.compile=true compiled none of the blocks (TORCH_LOGS=graph_breaks says why)"
        remedy = "set train.compile=false, or train.activation_checkpointing=false"
        raise UserError(f"{what}; {remedy}")


@contextlib.contextmanager
def evaluating(model: nn.Module, cfg: TrainConfig, world: World) -> Iterator[None]:
    """Ask a model in training: eval mode, no gradients, training's precision, and nothing compiled.

    Validation, samples and rollouts meet shapes that training never does; compiled, they would fill
    the cache of graphs that training needs.
    """
    was_training = model.training
    model.eval()
    eager = torch.compiler.set_stance("force_eager") if cfg.compile else contextlib.nullcontext()
    try:
        with torch.no_grad(), computing(model, cfg, world), eager:
            yield
    finally:
        model.train(was_training)


def computing(
    model: nn.Module, cfg: TrainConfig, world: World
) -> contextlib.AbstractContextManager:
    """Inside, the model computes in cfg.precision, forward and backward; FSDP2 sees to it by itself."""
    if cfg.precision != "bf16" or world.size > 1:
        return contextlib.nullcontext()
    if not hasattr(model, "_half"):  # when the weights are there: a model begins without any
        model._half = HalfWeights(model)
    return model._half


class HalfWeights:
    """bf16 copies of a model's weights, which its modules hold inside of `with`, on one rank.

    What FSDP2's mixed precision is on several: weights and activations in bf16; the weights that
    optimizer and checkpoints know, and the sum of their gradients over micro-batches, in fp32.
    `copy.master` is the weight behind a copy.
    """

    def __init__(self, model: nn.Module):
        copies: dict[int, nn.Parameter] = {}
        self._masters, self._places = [], []
        for module in model.modules():
            for name, p in module._parameters.items():
                if p is None or not p.is_floating_point():
                    continue
                if id(p) not in copies:  # a tied weight has one copy
                    copies[id(p)] = _half_of(p)
                    self._masters.append(p.detach())
                self._places.append((module, name, p, copies[id(p)]))
        self._copies = [copy.detach() for copy in copies.values()]

    def __enter__(self) -> None:
        torch._foreach_copy_(self._copies, self._masters)
        for module, name, _, copy in self._places:
            module._parameters[name] = copy

    def __exit__(self, *_) -> None:
        for module, name, master, _ in self._places:
            module._parameters[name] = master


def _half_of(master: nn.Parameter) -> nn.Parameter:
    """A bf16 copy whose gradient is added to its master's as soon as it is there."""
    copy = nn.Parameter(master.detach().to(torch.bfloat16), master.requires_grad)
    copy.master = master

    def add(_) -> None:
        if master.grad is None:
            master.grad = copy.grad.to(master.dtype)
        else:
            master.grad.add_(copy.grad)
        copy.grad = None

    if copy.requires_grad:
        copy.register_post_accumulate_grad_hook(add)
    return copy


def _install_kernels(
    model: nn.Module, cfg: TrainConfig, world: World, sequence_length: int, documents: bool
) -> None:
    """Exchange the operations that the configuration names; a wrong name is the user's mistake."""
    from ..kernels import choose, install, sizes_of

    if model.config.model_type != "steel":
        if world.is_main:
            print("train.kernels: only Steel's own models have operations to exchange")
        return
    shape = {"batch": cfg.micro_batch_size, "length": sequence_length, "documents": documents}
    settings = {
        "device": world.device,
        "dtype": torch.bfloat16 if cfg.precision == "bf16" else torch.float32,
        "compiled": cfg.compile,
        "say": print if world.is_main else None,
        "sizes": sizes_of(model.config, **shape),
    }
    try:
        install(model, choose(cfg.kernels, **settings))
    except (ValueError, RuntimeError) as error:  # or a kernel that broke the GPU's context
        raise UserError(f"train.{error}") from None


def spread(model: nn.Module, layers: list[nn.Module], cfg: TrainConfig, world: World) -> None:
    """Shard the model in place over all ranks, one unit per decoder block and one for the rest.

    full: parameters, gradients and optimizer state sharded. grad_op: parameters stay whole between
    forward and backward. hybrid: sharded within a node, replicated across nodes. ddp: replicated.
    """
    if world.size == 1:
        return
    local = world.local_size
    shapes = {"hybrid": (world.size // local, local), "ddp": (world.size, 1)}
    shape = shapes.get(cfg.sharding, (world.size,))
    names = ("replicate", "shard")[-len(shape) :]
    mesh = init_device_mesh(world.device.type, shape, mesh_dim_names=names)
    options = {"mesh": mesh, "reshard_after_forward": cfg.sharding in ("full", "hybrid")}
    if cfg.precision == "bf16":
        # Inputs stay as they are: casting would round the rotary tables, which must be fp32. The
        # hidden state is bf16 already, since the embedding is.
        types = (torch.bfloat16, torch.float32)
        options["mp_policy"] = MixedPrecisionPolicy(*types, cast_forward_inputs=False)
    for unit in (*layers, model):
        fully_shard(unit, **options)
