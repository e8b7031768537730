"""Checks of chapter 12's coding exercises."""


def exercise_3(optimum):
    """Put D = flops / 6N into the law and set its derivative by N to zero: alpha A N^-alpha = beta B D^-beta."""
    for constants in ((1.69, 406.4, 410.7, 0.34, 0.28), (1.8172, 482.01, 2085.43, 0.3478, 0.3658)):
        E, A, B, alpha, beta = constants
        for flops in (1e18, 7.5e21):
            N, D = optimum(flops, *constants)
            assert abs(6 * N * D / flops - 1) < 1e-6, (
                f"6 N D must be the budget of {flops:g}, yours is {6 * N * D:g}"
            )
            best = A * N**-alpha + B * D**-beta
            for factor in (0.98, 1.02):
                other = A * (N * factor) ** -alpha + B * (D / factor) ** -beta
                assert best <= other, (
                    f"{factor} times your N has a lower loss at the same {flops:g} FLOPs"
                )
