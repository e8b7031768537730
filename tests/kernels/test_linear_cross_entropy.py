"""The chunked head loss equals the full-logits formula: value, both gradients, and what it refuses to hold."""

import threading

import pytest
import torch
import torch.nn.functional as F

from steel.kernels.linear_cross_entropy import VocabularyShard, chunk_tokens, linear_cross_entropy

N, D, V = 53, 24, 301


def example(dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=g, dtype=torch.float64).to(dtype)
    weight = torch.randn(V, D, generator=g, dtype=torch.float64).mul_(0.5).to(dtype)
    targets = torch.randint(0, V, (N,), generator=g)
    targets[::7] = -100
    return x.requires_grad_(), weight.requires_grad_(), targets


def full(x, weight, targets, z_loss=0.0):
    logits = x @ weight.t()
    keep = (targets != -100).to(logits.dtype)
    return (
        F.cross_entropy(logits, targets, reduction="none")
        + z_loss * logits.logsumexp(-1).square() * keep
    )


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_sum_and_gradients_equal_full_logits(z_loss):
    x, weight, targets = example()
    expected = full(x, weight, targets, z_loss).sum()
    wanted = torch.autograd.grad(2.5 * expected, (x, weight))
    total, losses = linear_cross_entropy(x, weight, targets, z_loss, reduction="both", rows=16)
    found = torch.autograd.grad(2.5 * total, (x, weight))
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(losses, full(x, weight, targets, z_loss))
    torch.testing.assert_close(found, wanted)
    assert not losses.requires_grad


def test_per_token_losses_carry_their_own_weights():
    x, weight, targets = example(seed=1)
    token_weights = torch.randn(N, dtype=torch.float64)
    wanted = torch.autograd.grad(
        (token_weights * full(x, weight, targets, 1e-2)).sum(), (x, weight)
    )
    losses = linear_cross_entropy(x, weight, targets, 1e-2, reduction="none", rows=10)
    torch.testing.assert_close(
        torch.autograd.grad((token_weights * losses).sum(), (x, weight)), wanted
    )


def test_gradcheck_by_finite_differences():
    x, weight, targets = (t[:5] if t.shape[0] == N else t[:11] for t in example())
    x, weight, targets = (
        x.detach().requires_grad_(),
        weight.detach().requires_grad_(),
        targets.remainder(11),
    )
    for reduction in ("sum", "none"):
        assert torch.autograd.gradcheck(
            lambda a, b, r=reduction: linear_cross_entropy(
                a, b, targets, 1e-2, reduction=r, rows=2
            ),
            (x, weight),
        )


def test_bf16_accumulates_the_weight_gradient_in_fp32():
    x, weight, targets = example(torch.bfloat16)
    exact_x, exact_weight = (t.detach().double().requires_grad_() for t in (x, weight))
    wanted = torch.autograd.grad(
        full(exact_x, exact_weight, targets).sum(), (exact_x, exact_weight)
    )
    master = weight.detach().float().requires_grad_()  # fp32 master weight, bf16 compute
    total = linear_cross_entropy(x, master, targets, rows=4)
    found = torch.autograd.grad(total, (x, master))
    assert total.dtype == found[1].dtype == torch.float32
    for a, b in zip(found, wanted):
        assert (a.double() - b).norm() / b.norm() < 1e-2


def test_only_the_gradients_that_are_needed():
    x, weight, targets = example()
    with torch.no_grad():
        assert not linear_cross_entropy(x, weight, targets).requires_grad
    frozen = linear_cross_entropy(x, weight.detach(), targets)
    torch.testing.assert_close(
        torch.autograd.grad(frozen, x)[0], torch.autograd.grad(full(x, weight, targets).sum(), x)[0]
    )


def test_targets_all_ignored_or_out_of_range_and_extreme_logits():
    x, weight, targets = example(torch.float32)
    total = linear_cross_entropy(x, weight, torch.full_like(targets, -100))
    total.backward()
    assert total == 0 and x.grad.abs().max() == 0 and weight.grad.abs().max() == 0
    assert torch.isnan(linear_cross_entropy(x, weight, torch.full_like(targets, V)))
    assert torch.isfinite(linear_cross_entropy(x * 1e4, weight, targets))
    poisoned = x.detach().clone()
    poisoned[0] = float("nan")  # row 0 is ignored: its NaN must not reach the others
    poisoned.requires_grad_()
    total, losses = linear_cross_entropy(poisoned, weight, targets, reduction="both")
    assert (
        torch.isfinite(losses).all()
        and torch.isfinite(torch.autograd.grad(total, poisoned)[0]).all()
    )


def test_vocabulary_shards_agree_with_the_whole():
    x, weight, targets = example()
    expected = full(x, weight, targets, 1e-2).sum()
    wanted = torch.autograd.grad(expected, (x, weight))
    barrier, slots, results = threading.Barrier(2), [None, None], {}

    def reducer(rank, combine):
        def reduce(t):
            slots[rank] = t.clone()
            barrier.wait(30)
            out = combine(slots[0], slots[1])
            barrier.wait(30)
            return out

        return reduce

    def rank_main(rank, cut=(0, 150, V)):
        part = weight.detach()[cut[rank] : cut[rank + 1]].clone().requires_grad_()
        mine = x.detach().clone().requires_grad_()
        shard = VocabularyShard(cut[rank], reducer(rank, torch.maximum), reducer(rank, torch.add))
        total = linear_cross_entropy(mine, part, targets, 1e-2, rows=20, shard=shard)
        results[rank] = total.detach(), *torch.autograd.grad(total, (mine, part))

    threads = [threading.Thread(target=rank_main, args=(r,)) for r in (0, 1)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    for rank in (0, 1):
        torch.testing.assert_close(results[rank][:2], (expected.detach(), wanted[0]))
    torch.testing.assert_close(torch.cat((results[0][2], results[1][2])), wanted[1])


def test_chunks_are_large_on_a_gpu():
    gpu = torch.device("cuda")
    for tokens in (0, 100, 16_384, 16_385, 50_000):
        for vocabulary in (2_048, 32_000, 151_936):
            rows = chunk_tokens(tokens, vocabulary, gpu)
            chunks = -(-tokens // rows)
            assert rows % 128 == 0 and rows <= 4096 and chunks * rows < tokens + 128 * chunks + 1
            assert rows >= 1024 or chunks <= 1  # nothing to do is no chunk at all
