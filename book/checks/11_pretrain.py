"""Checks of chapter 11's coding exercises."""


def exercise_3(bytes_sent):
    """A gather or a scatter of S bytes makes each rank send S (ranks - 1) / ranks. Weights are 2 bytes and gathered
    twice a micro-batch by full, once by grad_op; gradients are 4 bytes and scattered once a step. ddp reduces to all:
    a scatter and a gather of the gradients. hybrid is full inside a node of 8; then each rank reduces its eighth of the
    gradients to all over the nodes."""
    assert bytes_sent(1000, 1, 4, "full") == 0, "one rank sends nothing"
    for sharding, per_parameter in (("full", 12), ("grad_op", 8), ("ddp", 8)):
        found, right = bytes_sent(1000, 2, 2, sharding), per_parameter * 1000 / 2
        assert abs(found - right) < 1e-6, (
            f"{sharding}, 1,000 parameters, 2 ranks, 2 micro-batches: {right:,.0f}"
        )
    steel = bytes_sent(1_122_922_770, 8, 8, "full")
    assert abs(steel - 36 * 1_122_922_770 * 7 / 8) < 1, (
        f"Steel on eight GPUs sends 35.4 GB, yours {steel / 1e9:.1f}"
    )
    more = bytes_sent(1_122_922_770, 8, 16, "ddp")
    assert more == bytes_sent(1_122_922_770, 8, 1, "ddp"), (
        "with ddp the micro-batches do not matter"
    )
    assert abs(bytes_sent(1000, 8, 2, "hybrid") - bytes_sent(1000, 8, 2, "full")) < 1e-6, (
        "hybrid on one node is full"
    )
    nodes = bytes_sent(1000, 32, 2, "hybrid")
    assert abs(nodes - (12 * 7 / 8 + 8 / 8 * 3 / 4) * 1000) < 1e-6, (
        f"hybrid, 1,000 parameters, four nodes of 8, 2 micro-batches: 11,250 bytes, yours {nodes:,.0f}"
    )
    for ranks in (4, 16):  # a node that is not full; two nodes
        inside = min(ranks, 8)
        across = 1 - inside / ranks
        right = (12 * (1 - 1 / inside) + 8 / inside * across) * 1000
        found = bytes_sent(1000, ranks, 2, "hybrid")
        assert abs(found - right) < 1e-6, (
            f"hybrid, 1,000 parameters, {ranks} ranks, 2 micro-batches: {right:,.0f} bytes, yours {found:,.0f}"
        )
