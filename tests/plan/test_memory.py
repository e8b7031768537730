"""Bytes of one rank: by hand, beside what autograd and FSDP hold, and beside Table 2."""

import json
from pathlib import Path

import pytest
from shapes import QWEN, STEEL, VARIANTS, small

from steel.config import load
from steel.plan import activation_bytes, count_parameters, flops_per_token, memory, plan


def test_state_is_sixteen_bytes_per_parameter_over_the_ranks():
    N = count_parameters(STEEL)["total"]
    for sharding, ranks in (("full", 16), ("grad_op", 16), ("hybrid", 8), ("ddp", 1)):
        parts = memory(STEEL, num_gpus=16, sharding=sharding)
        assert parts["parameters"] + parts["gradients"] + parts["optimizer"] == pytest.approx(
            16 * N / ranks
        )
        assert parts["total"] == pytest.approx(sum(v for k, v in parts.items() if k != "total"))


def test_gradients_are_whole_between_micro_batches_as_counted_on_two_ranks():
    """figures/runs/communication.json holds bytes counted on two ranks, for every sharding."""
    log = Path(__file__).parents[2] / "figures" / "runs" / "communication.json"
    counted = json.loads(log.read_text())
    cfg = load(counted["preset"], counted["overrides"])
    for sharding, held in counted["shardings"].items():
        shape = {"num_gpus": counted["ranks"], "sharding": sharding, "precision": "fp32"}
        once, often = (memory(cfg.model, accumulation=n, **shape) for n in (1, 2))
        assert once["gradients"] == held["gradients"] and once["parameters"] == held["weights"]
        assert often["gradients"] == held["between_micro_batches"]


def test_gathered_is_what_the_units_of_fsdp_hold():
    """One unit per block and one for embedding, last norm and head, which full sharding gathers."""
    count, D = count_parameters(STEEL), STEEL.hidden_size
    rest = count["embedding"] + count["lm_head"] + D
    block = (count["total"] - rest) / STEEL.num_hidden_layers
    full = memory(STEEL, num_gpus=8, sharding="full")["gathered"]
    assert full == pytest.approx(2 * (rest + 2 * block))
    assert memory(STEEL, num_gpus=8, sharding="grad_op")["gathered"] == 2 * count["total"]
    assert memory(STEEL, num_gpus=1, precision="fp32")["gathered"] == 0


def test_eager_logits_take_twelve_bytes_each():
    """Float32 logits, their log-softmax and its gradient live together in PyTorch's backward."""
    parts = memory(STEEL, micro_batch_size=2, head="eager")
    assert parts["logits"] == 12 * 2 * 2048 * STEEL.vocab_size


def test_document_masks_make_attention_cheaper():
    whole, masked = (flops_per_token(STEEL, 2048, document_length=d) for d in (0, 512))
    scores = whole.by_component["attention scores"]
    assert masked.by_component["attention scores"] == scores / 4
    assert whole.total - masked.total == pytest.approx(scores * 3 / 4)
    cfg = load("steel-1b-causal")
    assert plan(cfg, document_length=500).days < plan(cfg).days
    cfg.data.mask_documents = False
    assert plan(cfg, document_length=500).days == plan(cfg).days


def test_memory_falls_with_checkpointing_chunking_and_fusion():
    base = memory(STEEL, num_gpus=8, micro_batch_size=8, kernels="eager", head="eager")["total"]
    for better in ({"kernels": "fused", "head": "eager"}, {"kernels": "eager", "head": "chunked"},
                   {"kernels": "eager", "head": "eager", "activation_checkpointing": True}):  # fmt: skip
        assert memory(STEEL, num_gpus=8, micro_batch_size=8, **better)["total"] < base


def test_memory_of_table_2_within_fifteen_percent():
    """Table 2: 75 GB with PyTorch everywhere, 61 GB with fused norms, RoPE and loss, on 8 sharded A100."""
    eager = memory(QWEN, num_gpus=8, micro_batch_size=8, kernels="eager", head="eager")["total"]
    fused = memory(QWEN, num_gpus=8, micro_batch_size=8, kernels="fused", head="eager")["total"]
    assert eager / 1e9 == pytest.approx(75, rel=0.15)
    assert fused / 1e9 == pytest.approx(61, rel=0.15)


@pytest.mark.parametrize("expert", ("swiglu", "double_swiglu"))
@pytest.mark.parametrize(
    "feed_forward", [name for name in VARIANTS if name not in ("none", "top_k_moe")]
)
def test_activations_agree_with_what_autograd_keeps(feed_forward, expert):
    """Two models that differ by two layers: what autograd saves for one layer, in float32 on a CPU."""
    torch = pytest.importorskip("torch")
    from steel.model import build

    shape = {
        "hidden_size": 128,
        "intermediate_size": 192,
        "feed_forward": feed_forward,
        "expert": expert,
    }
    shape |= {
        "num_shared_experts": int(feed_forward == "causal_soft_moe"),
        "max_position_embeddings": 256,
    }

    def saved(layers: int) -> int:
        network, sizes = build(small(num_hidden_layers=layers, **shape)), {}
        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}

        def note(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = network(input_ids=torch.randint(0, 211, (2, 256))).logits.sum()
        assert loss.requires_grad  # keeps the graph, and with it every storage, alive until here
        return sum(size for key, size in sizes.items() if key not in weights)

    measured = (saved(3) - saved(1)) / 2 / 512
    estimate = activation_bytes(small(**shape), 256, "fp32", "eager")
    assert estimate == pytest.approx(measured, rel=0.05)
