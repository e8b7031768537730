"""Run in a process of its own with TRITON_INTERPRET=1: every kernel against fp64, printed as JSON.

Shapes divide no block. fp16 stands in for bf16, which the interpreter truncates (and multiplies wrongly in tl.dot).
"""

import json
import sys
import time
import traceback

import torch
from kernel_errors import compare, distance, values_and_gradients

from steel.kernels import elementwise, soft_moe
from steel.kernels import linear_cross_entropy as lce
from steel.model import attention, causal_soft_moe, feed_forward, loss


def check_rms_norm():
    plain = compare(
        lambda x, w: elementwise.rms_norm(x, w, 1e-6),
        lambda x, w: attention.rms_norm(x, w, 1e-6),
        [(5, 7, 100), (100,)],
    )
    added = compare(
        lambda x, r, w: elementwise.rms_norm(x, w, 1e-6, r),
        lambda x, r, w: attention.rms_norm(x, w, 1e-6, r),
        [(3, 2500), (3, 2500), (2500,)],
    )
    zeros = elementwise.rms_norm(torch.zeros(2, 3, requires_grad=True), torch.ones(3), 1e-6)
    assert zeros.abs().max() == 0
    poisoned = torch.ones(2, 3)
    poisoned[0, 1] = float("nan")
    y = elementwise.rms_norm(poisoned, torch.ones(3), 1e-6)
    assert torch.isnan(y[0]).all() and torch.isfinite(y[1]).all(), "a NaN stays in its row"
    x, weight, residual = torch.ones(2, 3).half(), torch.ones(3), torch.ones(2, 3)
    with torch.autocast("cpu", torch.float16):
        mixed, total = elementwise.rms_norm(x, weight, 1e-6, residual)
    assert mixed.dtype == torch.float16 and total.dtype == torch.float32
    return {"plain": plain, "added": added}


def check_swiglu():
    errors = compare(elementwise.swiglu, feed_forward.swiglu, [(3, 5, 2 * 1030)])
    extreme = torch.tensor([[1e4, -1e4, -88.0, 0.0, 1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    y = elementwise.swiglu(extreme)
    torch.testing.assert_close(y, feed_forward.swiglu(extreme))
    (gradient,) = torch.autograd.grad(y.sum(), extreme)
    assert torch.isfinite(gradient).all()
    return errors


def check_rope():
    errors = {}
    for width in (56, 64, 128):
        position = torch.arange(9)[None, :, None, None]
        angle = position * 10000.0 ** (-torch.arange(0, width, 2) / width)
        cos, sin = angle.cos().float(), angle.sin().float()
        errors[width] = compare(
            lambda x, c=cos, s=sin: elementwise.rope_qkv(x, c, s, 3, 2),
            lambda x, c=cos, s=sin: attention.rope_qkv(x, c, s, 3, 2),
            [(2, 9, 7, width)],
        )
    qkv = torch.randn(2, 9, 7, 128, requires_grad=True)
    out = [
        part.transpose(1, 2) for part in elementwise.rope_qkv(qkv, cos, sin, 3, 2)
    ]  # gradients come strided
    (gradient,) = torch.autograd.grad([o.flatten(2).cumsum(-1).sum() for o in out], qkv)
    wanted = [part.transpose(1, 2) for part in attention.rope_qkv(qkv, cos, sin, 3, 2)]
    torch.testing.assert_close(
        gradient,
        torch.autograd.grad([o.flatten(2).cumsum(-1).sum() for o in wanted], qkv)[0],
        rtol=1e-4,
        atol=1e-4,
    )
    return errors


def check_soft_moe():
    plan = causal_soft_moe.plan_segments
    starts, valid = torch.zeros(2, 17, dtype=torch.bool), torch.ones(2, 17, dtype=torch.bool)
    starts[0, 4] = starts[0, 8] = starts[1, 6] = True
    valid[1, 0] = valid[1, 12:] = False
    spans = plan((2, 17), 9, starts, valid)
    assert spans.length_BS.tolist() == [[4, 4, 9], [5, 6, 0]] and spans.padded

    def both(T, S, plan):
        return [
            compare(
                lambda x, w: soft_moe.segment_sums(x, w, plan),
                lambda x, w: causal_soft_moe.segment_sums(x, w, plan),
                [(2, T, 150), (2, T, 5)],
            ),
            compare(
                lambda c, z: soft_moe.segment_combine(c, z, plan),
                lambda c, z: causal_soft_moe.segment_combine(c, z, plan),
                [(2, T, 5), (2, S, 5, 150)],
            ),
        ]

    return {
        "even": both(17, 3, plan((2, 17), 6)),
        "long": both(39, 1, plan((2, 39), 40)),
        "spans": both(17, 3, spans),
    }


def check_selection():
    """Everything that can run here passes its start-up check; a kernel gone wrong falls back in one line."""
    from steel.kernels import select

    choice = select.choose("triton", device="cpu")
    fused = {op: name for op, name in choice.names.items() if op not in ("experts", "attention")}
    assert set(fused.values()) == {"triton"} and set(choice.errors) == set(fused), choice.notes
    right = elementwise.swiglu
    elementwise.swiglu = lambda pair: right(pair) * 1.01
    try:
        lines = []
        broken = select.choose({"swiglu": "triton"}, device="cpu", say=lines.append)
    finally:
        elementwise.swiglu = right
    assert broken.names["swiglu"] == "reference" and broken.names["rms_norm"] == "reference"
    assert len(lines) == 2 and "swiglu" in lines[0] and "differs" in lines[0], lines
    return lines


def check_linear_cross_entropy():
    """Chunks against the whole, tokens left out, and what happens to logits that nobody wants."""
    N, D, V = 37, 20, 5000
    targets = torch.randint(0, V, (N,), generator=torch.Generator().manual_seed(1))
    targets[::5] = -100
    errors = {}
    for rows in (16, 40):
        errors[rows] = compare(
            lambda x, w, rows=rows: lce.linear_cross_entropy(x, w, targets, 1e-2, rows),
            lambda x, w: loss.linear_cross_entropy(x, w, targets, 1e-2),
            [(N, D), (V, D)],
            scale=0.7,
        )
    logits = torch.tensor(
        [[3e4, -3e4, 0.0], [float("-inf"), 1.0, float("-inf")], [float("nan"), 0.0, 0.0]]
    )
    log_z, picked = lce.statistics(logits, torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(log_z[:2], logits[:2].logsumexp(-1))
    torch.testing.assert_close(picked[:2], logits[:2, 0])
    assert torch.isnan(log_z[2]), "a NaN logit must reach the loss"
    x, w = torch.randn(N, D), torch.randn(V, D)
    assert torch.isnan(lce.linear_cross_entropy(x, w, torch.full_like(targets, V)))
    with torch.no_grad():
        assert not lce.linear_cross_entropy(x.requires_grad_(), w, targets).requires_grad
    frozen = values_and_gradients(lambda x: lce.linear_cross_entropy(x, w, targets), [x])
    wanted = values_and_gradients(lambda x: loss.linear_cross_entropy(x, w, targets), [x])
    assert distance(frozen, wanted) < 1e-5
    w.requires_grad_()
    for none, count in ((x, N), (x[:0], 0)):  # the first chunk's product needs no zeros before it
        total = lce.linear_cross_entropy(none, w, torch.full_like(targets[:count], -100))
        assert total == 0 and torch.autograd.grad(total, w)[0].abs().max() == 0
    padded = torch.zeros(4, D).index_fill(0, torch.tensor([0]), 3e38)  # its logits overflow
    total = lce.linear_cross_entropy(padded, 10 * w, torch.tensor([-100, 1, 2, 3]))
    assert torch.isfinite(total) and torch.isfinite(torch.autograd.grad(total, w)[0]).all()
    half, master = x.detach().half().requires_grad_(), w.detach().clone().requires_grad_()
    total = lce.linear_cross_entropy(half, master, targets)
    found = torch.autograd.grad(2.5 * total, (half, master))
    assert total.dtype == found[1].dtype == torch.float32 and found[0].dtype == torch.float16
    return errors


def train(fields: dict, kernels: str | None, steps: int) -> list[float]:
    """Losses of a tiny Steel on packed documents, with the model's own code (None) or with exchanged forwards."""
    from steel.config import ModelConfig
    from steel.kernels import choose, install
    from steel.model import build

    model = build(ModelConfig(**fields), seed=0)
    if kernels is not None:
        changed = install(model, choose(kernels, device="cpu"))
        assert (
            changed["linear_cross_entropy"] == 1
            and changed["rms_norm"] == 2 * fields["num_hidden_layers"] + 1
        ), changed
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, fields["vocab_size"], (2, 22), generator=generator)
    targets = tokens.roll(-1, 1)
    targets[:, -1] = -100
    position = torch.cat((torch.arange(9), torch.arange(13))).expand(2, -1)
    losses = []
    for _ in range(steps):
        loss = model(tokens, position_ids=position, shift_labels=targets, z_loss=1e-4).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def check_layers():
    """One v3 and one causal layer with large weights, padding and packing: outputs and all gradients agree.

    Training from birth would not show an error in v3, whose feed-forward is born dead.
    """
    from types import SimpleNamespace

    from steel.config import ModelConfig
    from steel.kernels import choose, install
    from steel.model import steel_config
    from steel.model.causal_soft_moe import SteelCausalSoftMoE, plan_segments
    from steel.model.soft_moe import SteelSoftMoEV3

    shape = ModelConfig(
        hidden_size=40,
        intermediate_size=20,
        num_attention_heads=4,
        num_experts=3,
        slots_per_expert=2,
        segment_length=4,
        expert="double_swiglu",
        vocab_size=10,
    )
    config = steel_config(shape)
    starts = (torch.arange(22) == 9).expand(2, -1)
    valid = torch.ones(2, 22, dtype=torch.bool)
    valid[1, -3:] = False
    plan = plan_segments((2, 22), 4, starts, valid)
    context = SimpleNamespace(valid_BT=valid, plan=plan)
    assert plan.padded and int(plan.length_BS.sum()) == int(valid.sum())
    choice, worst = choose("triton", device="cpu"), {}
    for make in (SteelSoftMoEV3, SteelCausalSoftMoE):
        torch.manual_seed(0)
        layer = make(config)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_()
        x = torch.randn(2, 22, 40, requires_grad=True)
        seed = torch.randn(2, 22, 40) * valid[..., None]

        def run(layer=layer, x=x, seed=seed):
            out = layer(x, context) * valid[..., None]
            return [out, *torch.autograd.grad(out, [x, *layer.parameters()], seed)]

        own = run()
        assert sum(install(torch.nn.ModuleList([layer]), choice).values()) >= 2
        worst[make.__name__] = distance(run(), own)
        assert worst[make.__name__] < 1e-4, worst
    return worst


def check_registration():
    """Schemas, fake tensors and gradients of the operators are what the compiler is told."""
    ops = torch.ops.steel
    x, w = torch.randn(6, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    head, targets = torch.randn(9, 8, requires_grad=True), torch.arange(6)
    tokens, weights = (
        torch.randn(1, 6, 8, requires_grad=True),
        torch.randn(1, 6, 2, requires_grad=True),
    )
    plain, ones = torch.randn(6, 8), torch.ones(6)
    start, length = torch.tensor([[0, 4]]), torch.tensor([[4, 2]])
    where = start.int(), length.int(), 4, False
    parts = torch.randn(1, 6, 2, 64), torch.randn(1, 6, 1, 64), torch.randn(1, 6, 1, 64)
    angles = torch.ones(6, 32), torch.ones(6, 32)
    slots = torch.randn(1, 2, 2, 8)
    for op, args in (
        (ops.linear_cross_entropy, (x, head, targets, 0.0, 4, [True, True])),
        (ops.add_rms_norm, (x, torch.randn(6, 8), w, 1e-6, torch.float32)),
        (ops.add_rms_norm, (x, None, w, 1e-6, None)),
        (ops.swiglu, (x,)),
        (ops.rms_norm_backward, (plain, plain, plain, w.detach(), ones)),
        (ops.swiglu_backward, (plain[:, :4], plain)),
        (ops.rope_qkv, (torch.randn(1, 6, 4, 64, requires_grad=True), *angles, 2, 1)),
        (ops.rope_qkv_backward, (*parts, *angles)),
        (ops.segment_sums, (tokens, weights, *where)),
        (ops.segment_dots, (plain[None], slots, *where)),
        (ops.segment_combine, (weights, slots, *where, torch.float32)),
    ):
        torch.library.opcheck(
            op, args, test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
        )

    def loss(x, w, head):
        h = elementwise.rms_norm(x, w, 1e-6)
        return lce.linear_cross_entropy(h, head, targets)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found, wanted = (torch.autograd.grad(f(x, w, head), (x, w, head)) for f in (compiled, loss))
    assert distance(found, wanted) < 1e-6
    return distance(found, wanted)


def check_compiled_blocks():
    """A block with every kernel installed is captured in one graph, in which the operators are still to be seen."""
    from steel.config import ModelConfig
    from steel.kernels import choose, install
    from steel.model import build

    seen = {}
    shared = {
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_experts": 2,
        "segment_length": 4,
    }
    for kind, expert in (("soft_moe_v3", "double_swiglu"), ("causal_soft_moe", "swiglu")):
        model = build(ModelConfig(feed_forward=kind, expert=expert, **shared), seed=0).train()
        install(model, choose("triton", device="cpu"))
        graphs = []

        def keep(graph, inputs, graphs=graphs):
            graphs.append(graph)
            return graph.forward

        tokens = torch.arange(12).reshape(1, 12)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in model.model.layers:
            layer.compile(backend=keep, fullgraph=True)
        positions = torch.arange(12).remainder(7)[None]
        found = model(tokens, position_ids=positions, shift_labels=tokens).loss
        found.backward()
        assert len(graphs) == 1
        targets = {
            str(node.target)
            for module in graphs[0].modules()
            if isinstance(module, torch.fx.GraphModule)
            for node in module.graph.nodes
        }
        for name in ("add_rms_norm", "rope_qkv", "swiglu", "segment_sums", "segment_combine"):
            assert any(f"steel.{name}" in target for target in targets), (name, targets)
        seen[kind] = len(targets)
    return seen


def check_install():
    """A few steps of a tiny Steel with all kernels stay within 0.5 % of the model's own code; nothing else changes."""
    fields = {
        "vocab_size": 67,
        "hidden_size": 48,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "segment_length": 4,
        "num_experts": 2,
        "feed_forward": "causal_soft_moe",
        "expert": "swiglu",
    }
    v3 = {
        **fields,
        "feed_forward": "soft_moe_v3",
        "expert": "double_swiglu",
        "num_hidden_layers": 1,
    }
    worst = {}
    for name, case, steps in (("causal", fields, 5), ("v3", v3, 2)):
        own, kernels = train(case, None, steps), train(case, "triton", steps)
        assert own[-1] < own[0]
        worst[name] = max(abs(a - b) / a for a, b in zip(own, kernels))
        assert worst[name] <= 5e-3, (name, own, kernels)
    return worst


def main() -> None:
    results = {}
    for name, check in list(globals().items()):
        if name.startswith("check_") and (len(sys.argv) == 1 or name in sys.argv[1:]):
            started = time.process_time()
            try:
                results[name] = {"passed": True, "errors": check()}
            except Exception:  # noqa: BLE001 - the parent process reports it
                results[name] = {"passed": False, "trace": traceback.format_exc()}
            verdict = "passed" if results[name]["passed"] else results[name]["trace"]
            print(
                f"{name}: {verdict}, {time.process_time() - started:.1f} s of CPU",
                file=sys.stderr,
                flush=True,
            )
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
