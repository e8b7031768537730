"""AdamW is torch's, with decay on matrices only; Muon's update is orthogonal, alone and in stacks."""

import pytest
import torch
from torch import nn
from train_world import Toy, tiny, toy_batches, toy_config, toy_loss

from steel.config import ModelConfig
from steel.model.build import build
from steel.model.feed_forward import SteelExperts
from steel.train.optim import Muon, build_optimizers, orthogonalise, set_learning_rate


def grads(model, step=0):
    model.zero_grad()
    toy_loss(model, toy_batches(step)[0])[0].backward()


def test_adamw_walks_with_torchs_own_recipe():
    cfg = toy_config(weight_decay=0.1, learning_rate=3e-3, beta1=0.9, beta2=0.95)
    ours, theirs = Toy(), Toy()
    optimizers = build_optimizers(ours, cfg)
    decayed = [p for p in theirs.parameters() if p.ndim >= 2]
    plain = [p for p in theirs.parameters() if p.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=3e-3,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    for step in range(5):
        factor = 1 / (step + 1)
        set_learning_rate(optimizers, factor)
        for group in reference.param_groups:
            group["lr"] = 3e-3 * factor
        grads(ours, step)
        grads(theirs, step)
        for optimizer in (*optimizers, reference):
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(32, 32), (48, 20), (20, 48), (3, 40, 24)])
def test_orthogonalise_brings_every_singular_value_near_one(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(g))
    assert float(values.min()) > 0.3 and float(values.max()) < 1.3
    u, _, vt = torch.linalg.svd(g, full_matrices=False)
    cosine = nn.functional.cosine_similarity(orthogonalise(g).flatten(), (u @ vt).flatten(), dim=0)
    assert float(cosine) > 0.95, "it points where the polar factor points"


def test_orthogonalise_ignores_the_scale_of_the_gradient():
    g = torch.randn(24, 24, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(orthogonalise(g), orthogonalise(1e-3 * g), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32)])
def test_muon_walks_with_torchs_own(shape):
    """Momentum, decay, and the scale of tall and wide matrices; torch iterates in bf16."""
    draw = torch.Generator().manual_seed(3)
    start = torch.randn(shape, generator=draw)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.1, "momentum": 0.95, "weight_decay": 0.3}
    both = (
        Muon([ours], **settings),
        torch.optim.Muon([theirs], **settings, adjust_lr_fn="original"),
    )
    for _ in range(5):
        ours.grad = torch.randn(shape, generator=draw)
        theirs.grad = ours.grad.clone()
        for optimizer in both:
            optimizer.step()
    assert float((ours - start).abs().max()) > 0.3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.01)


def test_stacked_experts_step_like_experts_one_by_one():
    torch.manual_seed(0)
    weights, gradient = torch.randn(4, 32, 20), torch.randn(4, 32, 20)
    stack = nn.Parameter(weights.clone())
    single = [nn.Parameter(w.clone()) for w in weights]
    together, apart = (
        Muon([stack], lr=0.1, weight_decay=0.1),
        Muon(single, lr=0.1, weight_decay=0.1),
    )
    for _ in range(3):
        stack.grad = gradient.clone()
        for p, g in zip(single, gradient, strict=True):
            p.grad = g.clone()
        together.step()
        apart.step()
    torch.testing.assert_close(stack, torch.stack(list(single)), rtol=1e-5, atol=1e-6)


def test_an_expert_learns_as_fast_as_the_same_map_in_a_linear_layer():
    """Stacked experts hold (E, in, out), a Linear (out, in); their factors were once inverted."""
    shape = ModelConfig(hidden_size=8, intermediate_size=8)
    for columns, rows in ((448, 112), (112, 448)):
        gradient = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
        linear, stack = nn.Linear(columns, rows, bias=False), SteelExperts(shape, 1)
        stack.gate_up_proj = nn.Parameter(linear.weight.detach().mT[None].clone())
        linear.weight.grad, stack.gate_up_proj.grad = gradient, gradient.mT[None].clone()
        holder = nn.Module()
        holder.layers = nn.ModuleList([linear, stack])
        before = linear.weight.detach().clone()
        for optimizer in build_optimizers(holder, toy_config(optimizer="muon", weight_decay=0.0)):
            optimizer.step()
        assert not linear.weight.equal(before)
        torch.testing.assert_close(stack.gate_up_proj[0].mT, linear.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind", ["dense", "soft_moe_v1", "soft_moe_v3", "causal_soft_moe", "top_k_moe"]
)
def test_muon_takes_the_blocks_matrices_and_adamw_routers_and_the_rest(kind):
    """With 32 experts a router was once taken for a matrix like any other."""
    cfg = tiny(model__feed_forward=kind, model__num_experts=32, model__num_shared_experts=1)
    model = build(cfg.model)
    adamw, muon = build_optimizers(model, toy_config(optimizer="muon", weight_decay=0.3))
    names = {id(p): name for name, p in model.named_parameters()}
    taken = {
        names[id(p)].rpartition(".layers.")[2][2:] for g in muon.param_groups for p in g["params"]
    }
    last = {name.removesuffix(".weight").rpartition(".")[2] for name in taken}
    assert last == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}, taken
    every = [id(p) for o in (adamw, muon) for g in o.param_groups for p in g["params"]]
    assert sorted(every) == sorted(names)
    assert all(g["weight_decay"] == 0.0 for g in adamw.param_groups if g["params"][0].ndim < 2)
