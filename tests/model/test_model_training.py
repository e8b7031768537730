"""Loss, gradients and initialisation: what training relies on."""

import math

import pytest
import torch
from model_helpers import CAUSAL, NON_CAUSAL, VOCABULARY, double_model, perturb, random_tokens, tiny

from steel.model import SteelConfig, SteelForCausalLM, decoder_layers, initialize, loss
from steel.model.causal_soft_moe import plan_segments


def chunks_of(device: str):
    """Which tokens the head computes together on a device: a CPU, or one that is not asked."""
    ours, where = loss._chunks, {"cpu": "cpu", "cuda": "meta"}[device]
    return lambda targets_N, length: ours(targets_N.to(where), length)


def shifted(tokens: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(tokens, (0, 1), value=-100)[:, 1:]


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("elements", [1, 5 * 31, 1 << 20])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_chunked_cross_entropy_equals_the_plain_one(elements, device, z_loss, monkeypatch):
    """Value and both gradients in fp64, whatever the chunk, ignored targets included.

    A CPU leaves tokens without a target out, a GPU counts them as zero: both ways, run here.
    """
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS_CPU", elements)
    monkeypatch.setattr(loss, "_chunks", chunks_of(device))
    torch.manual_seed(0)
    x = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(31, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 31, (50,))
    targets[::7] = -100
    logits = x @ weight.t()
    plain = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    plain = plain + z_loss * (logits.logsumexp(-1).square() * (targets != -100)).sum()
    expected = torch.autograd.grad(3 * plain, (x, weight))
    chunked = loss.linear_cross_entropy(x, weight, targets, z_loss)
    torch.testing.assert_close(chunked, plain)
    for ours, theirs in zip(torch.autograd.grad(3 * chunked, (x, weight)), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_overflow_in_a_padded_row_reaches_no_gradient(device, monkeypatch):
    monkeypatch.setattr(loss, "_chunks", chunks_of(device))
    x, weight = torch.randn(4, 8), torch.full((31, 8), 10.0, requires_grad=True)
    x[0] = 3e38  # finite, its logits are not
    value = loss.linear_cross_entropy(x, weight, torch.tensor([-100, 1, 2, 3]))
    assert torch.isfinite(value) and torch.isfinite(torch.autograd.grad(value, weight)[0]).all()


def test_labels_and_shift_labels_give_the_same_loss_and_gradients():
    model = double_model(tiny("dense", tie_word_embeddings=True))
    tokens = random_tokens(2, 13)
    labels = tokens.clone()
    labels[:, :4] = -100
    results = []
    for kwargs in ({"labels": labels}, {"shift_labels": shifted(labels)}):
        model.zero_grad()
        value = model(tokens, **kwargs).loss
        value.backward()
        results.append((value.detach(), model.model.embed_tokens.weight.grad.clone()))
    torch.testing.assert_close(*results)
    valid = int((shifted(labels) != -100).sum())
    total = model(tokens, shift_labels=shifted(labels), num_items_in_batch=1).loss
    torch.testing.assert_close(total, valid * results[0][0])
    assert model(tokens, shift_labels=shifted(labels)).logits is None
    assert model(tokens, logits_to_keep=2).logits.shape[1] == 2
    nothing = model(tokens, shift_labels=torch.full_like(tokens, -100)).loss
    assert nothing == 0


def test_loss_works_after_resizing_the_vocabulary():
    model = SteelForCausalLM(tiny("dense"))
    model.resize_token_embeddings(VOCABULARY + 5)
    tokens = random_tokens(1, 6)
    first, second = (
        model(tokens, labels=tokens).loss,
        model(tokens, shift_labels=shifted(tokens)).loss,
    )
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("feed_forward", CAUSAL + NON_CAUSAL)
def test_gradient_checkpointing_changes_nothing(feed_forward):
    model = double_model(tiny(feed_forward)).train()
    tokens = random_tokens(2, 11)

    def run():
        model.zero_grad()
        value = model(tokens, shift_labels=shifted(tokens)).loss
        value.backward()
        return value.detach(), [parameter.grad.clone() for parameter in model.parameters()]

    plain = run()
    model.gradient_checkpointing_enable()
    assert decoder_layers(model)[0].gradient_checkpointing
    torch.testing.assert_close(run(), plain, rtol=0, atol=1e-14)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_module_keeps_a_graph_alive_after_a_step(checkpointing):
    """The recomputation of a checkpointed layer happens in backward, when nobody takes its term."""
    model = SteelForCausalLM(tiny("top_k_moe")).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    tokens = random_tokens(2, 9)
    model(tokens, shift_labels=shifted(tokens)).loss.backward()
    held = [v for module in model.modules() for v in vars(module).values()]
    assert not any(isinstance(v, torch.Tensor) and v.grad_fn is not None for v in held)


def test_padding_has_no_part_in_the_balance():
    model = double_model(tiny("top_k_moe")).train()
    tokens = random_tokens(1, 12)
    mask = (torch.arange(12) >= 5).long()[None]
    targets = shifted(tokens[:, 5:])
    alone = model(tokens[:, 5:], shift_labels=targets).loss
    padded_targets = torch.nn.functional.pad(targets, (5, 0), value=-100)
    padded = model(tokens, attention_mask=mask, shift_labels=padded_targets).loss
    torch.testing.assert_close(padded, alone)


def test_generation_in_training_mode_with_checkpointing_is_refused():
    """The layers drop the cache there, and the model would continue from its last token alone."""
    model = double_model(tiny("dense"))
    model.gradient_checkpointing_enable()
    expected = model.generate(random_tokens(1, 5), max_new_tokens=4, do_sample=False)
    with pytest.raises(ValueError, match="call model.eval"):
        model.train().generate(random_tokens(1, 5), max_new_tokens=4, do_sample=False)
    again = model.eval().generate(random_tokens(1, 5), max_new_tokens=4, do_sample=False)
    assert torch.equal(again, expected)


@pytest.mark.parametrize("feed_forward", CAUSAL + NON_CAUSAL)
def test_every_parameter_gets_a_gradient(feed_forward):
    changes = {"soft_moe_normalize_slots": True, "segment_length": 3, "qk_norm": True}
    model = perturb(SteelForCausalLM(tiny(feed_forward, "double_swiglu", **changes)))
    tokens = random_tokens(2, 16)
    model(tokens, shift_labels=shifted(tokens)).loss.backward()
    silent = [
        name for name, parameter in model.named_parameters() if not parameter.grad.abs().max() > 0
    ]
    assert not silent


def test_load_balance_is_one_when_even_and_larger_when_not():
    layer = SteelForCausalLM(tiny("top_k_moe")).model.layers[0].mlp.train()
    layer.router.weight.data.zero_()
    x = torch.randn(2, 40, 32)
    assert layer(x)[1].item() == pytest.approx(1.0, abs=1e-5)
    layer.router.weight.data[0] += 1.0
    assert layer(x.abs())[1] > 1.2
    assert layer.eval()(x)[1] is None


def test_balance_term_enters_the_training_loss_only():
    model = SteelForCausalLM(tiny("top_k_moe", balance_loss=0.5))
    tokens = random_tokens(2, 9)
    evaluated = model.eval()(tokens, labels=tokens).loss
    trained = model.train()(tokens, labels=tokens).loss
    assert 0.4 < (trained - evaluated) < 0.8


def feed_forward_ratios(config: SteelConfig, time: int = 96) -> list[float]:
    """RMS of each layer's feed-forward output over the RMS of the residual stream it joins."""
    torch.manual_seed(0)
    model = SteelForCausalLM(config).eval()
    ratios = []

    def record(layer, args, output):
        branch = recorded.pop()
        residual = output - branch
        ratios.append((branch.square().mean() / residual.square().mean()).sqrt().item())

    recorded = []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(
            lambda _, __, output: recorded.append(
                output[0] if isinstance(output, tuple) else output
            )
        )
        layer.register_forward_hook(record)
    with torch.no_grad():
        model(torch.randint(0, config.vocab_size, (2, time)))
    return ratios


@pytest.mark.parametrize("layers", [2, 8, 24, 48])
@pytest.mark.parametrize("expert", ["swiglu", "double_swiglu"])
@pytest.mark.parametrize("feed_forward", ["dense", "soft_moe_v1", "causal_soft_moe", "top_k_moe"])
def test_every_layer_is_alive_at_birth(feed_forward, expert, layers):
    """The feed-forward adds between 1 % and 300 % of the residual in each layer, at any depth and expert kind."""
    for width in (32, 128) if layers == 2 else (32,):
        config = tiny(
            feed_forward,
            expert,
            num_hidden_layers=layers,
            hidden_size=width,
            intermediate_size=width,
            segment_length=16,
        )
        ratios = feed_forward_ratios(config)
        assert len(ratios) == layers
        assert min(ratios) > 0.01 and max(ratios) < 3.0, ratios


@pytest.mark.parametrize("layers", [2, 18])
def test_v3_is_born_dead_and_normalised_slots_revive_it(layers):
    shape = {
        "num_hidden_layers": layers,
        "hidden_size": 128,
        "intermediate_size": 32,
        "slots_per_expert": 1,
    }
    dead = feed_forward_ratios(tiny("soft_moe_v3", "double_swiglu", **shape), time=256)
    assert max(dead) < 1e-5
    alive = feed_forward_ratios(
        tiny("soft_moe_v3", "double_swiglu", soft_moe_normalize_slots=True, **shape), time=256
    )
    assert min(alive) > 0.01 and max(alive) < 3.0


def test_initial_loss_is_that_of_a_uniform_guess():
    for feed_forward in CAUSAL:
        torch.manual_seed(0)
        model = SteelForCausalLM(tiny(feed_forward, "double_swiglu", hidden_size=128)).eval()
        tokens = random_tokens(4, 32)
        assert abs(model(tokens, labels=tokens).loss.item() - math.log(VOCABULARY)) < 0.15


@pytest.mark.parametrize("feed_forward", ["dense", "causal_soft_moe", "soft_moe_v3", "top_k_moe"])
def test_bfloat16_runs_and_stays_near_fp32(feed_forward):
    torch.manual_seed(0)
    model = SteelForCausalLM(tiny(feed_forward)).eval()
    tokens = random_tokens(2, 21)
    expected = model(tokens).logits
    got = model.bfloat16()(tokens, use_cache=True)
    assert got.logits.dtype == torch.bfloat16
    assert (got.logits.float() - expected).abs().max() < 0.05 * expected.abs().max() + 0.02
    if feed_forward == "causal_soft_moe":
        slots = got.past_key_values.layers[0].slots
        assert all(slots[name].dtype == torch.float32 for name in "nmNM")


def test_slots_sum_in_fp32_under_autocast():
    """One GPU trains under autocast: it must compute the sums that many GPUs compute."""
    torch.manual_seed(0)
    model = SteelForCausalLM(tiny("causal_soft_moe")).eval()
    with torch.autocast("cpu", torch.bfloat16):
        slots = model(random_tokens(2, 21), use_cache=True).past_key_values.layers[0].slots
    assert all(slots[name].dtype == torch.float32 for name in "nmNM")


def test_both_routers_are_one_aligned_product():
    """Ten columns of bf16 are 20 bytes: a row that is not aligned to 16 takes the slow path."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Products(TorchDispatchMode):
        columns = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
                self.columns.append(args[1].shape[-1])
            return function(*args, **(kwargs or {}))

    layer = SteelForCausalLM(tiny("causal_soft_moe", num_experts=5)).model.layers[0].mlp
    with Products() as seen, torch.no_grad():
        layer._router_logits(torch.randn(2, 4, 32))
    assert seen.columns == [24]  # 2 routers x 10 slots, rounded up to a multiple of 8


@pytest.mark.parametrize("feed_forward", ["dense", "none", "soft_moe_v1", "causal_soft_moe"])
def test_a_training_step_with_document_ends_never_waits_for_the_device(feed_forward):
    """On the meta device every look at a value raises: forward and backward must not need one."""
    model = SteelForCausalLM(tiny(feed_forward)).train().to("meta")
    tokens = random_tokens(2, 12).to("meta")
    positions = torch.cat((torch.arange(7), torch.arange(5))).expand(2, -1).to("meta")
    ends = torch.tensor([7, 12, 19, 24])
    model(tokens, position_ids=positions, document_ends=ends, shift_labels=tokens).loss.backward()
    model(tokens, shift_labels=tokens).loss.backward()  # one document a row: positions are counted
    with pytest.raises((RuntimeError, NotImplementedError)):
        model(tokens, position_ids=positions, shift_labels=tokens)


def test_what_the_host_has_laid_out_is_sent_from_pinned_memory(monkeypatch):
    """From other memory a GPU's driver may wait for the queue, although nobody asked it to."""
    pinned, sent = [], []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: (pinned.append(id(t)), t)[1])
    monkeypatch.setattr(
        torch.Tensor, "to", lambda t, *_, **given: (sent.append((id(t), given)), t)[1]
    )
    starts = torch.zeros(2, 12, dtype=torch.bool)
    starts[:, 5] = True
    plan = plan_segments((2, 12), 4, starts).to(torch.device("cuda"))
    tensors = [t for t in vars(plan).values() if isinstance(t, torch.Tensor)]
    assert len(tensors) == 7 and sent == [(id(t), {"non_blocking": True}) for t in tensors]
    assert pinned == [id(t) for t in tensors]


@pytest.fixture
def mesh(tmp_path):
    """A process group of one, so that FSDP2 runs in the test's own process."""
    from torch.distributed.device_mesh import init_device_mesh

    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_sharded_mixed_precision_keeps_rotary_tables_in_fp32(mesh):
    """FSDP2 casts the tensor arguments of a block to bf16: the tables travel outside of its reach."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    torch.manual_seed(0)
    model = SteelForCausalLM(tiny("causal_soft_moe", tie_word_embeddings=False)).train()
    tokens = random_tokens(2, 16)
    positions = torch.cat((torch.arange(10), torch.arange(6))).expand(2, -1)
    expected = model(tokens, position_ids=positions, shift_labels=shifted(tokens)).loss.item()
    seen = []
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
        layer.self_attn.register_forward_pre_hook(
            lambda _, args: seen.append((args[0].dtype, args[1].cos.dtype))
        )
    fully_shard([model.model.norm, model.lm_head], mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    value = model(tokens, position_ids=positions, shift_labels=shifted(tokens)).loss
    value.backward()
    assert set(seen) == {(torch.bfloat16, torch.float32)}
    assert abs(value.item() - expected) < 0.02
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("feed_forward", ["dense", "causal_soft_moe"])
def test_sharded_meta_model_is_filled_and_trained_like_a_whole_one(feed_forward, tied, mesh):
    from torch.distributed.fsdp import fully_shard

    tokens, losses = random_tokens(2, 9), []
    for sharded in (False, True):
        with torch.device("meta"):
            model = SteelForCausalLM(tiny(feed_forward, tie_word_embeddings=tied)).train()
        for block in [*decoder_layers(model), model] if sharded else []:
            fully_shard(block, mesh=mesh)
        initialize(model, seed=3)
        optimizer, path = torch.optim.SGD(model.parameters(), lr=0.1), []
        for _ in range(3):
            value = model(tokens, shift_labels=shifted(tokens)).loss
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            path.append(value.item())
        losses.append(path)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6) and losses[0][2] < losses[0][0]
