"""Checks of chapter 19's coding exercises."""

import math
import random
import struct
from numbers import Number


def exercise_3(answer):
    """Whole numbers add up to the same in any order, and every float32 is a whole multiple of 2^-149. Round once, in
    merge: a rank that rounds its own part, however well, has lost what the others would have needed."""
    partial, merge = answer
    draw = random.Random(1)
    single = lambda x: struct.unpack("f", struct.pack("f", x))[0]  # noqa: E731
    for spread in (0, 10, 30):  # powers of two between the smallest and the largest
        values = [
            single(draw.uniform(-1, 1) * 2.0 ** draw.randint(-spread, spread)) for _ in range(240)
        ]
        values[:2] = [2.0**spread, -(2.0**spread)]  # two that cancel
        found = set()
        for ranks in (1, 2, 3, 8):
            for _ in range(4):
                draw.shuffle(values)
                parts = [partial(list(values[r::ranks])) for r in range(ranks)]
                assert all(isinstance(part, Number) for part in parts), (
                    "partial gives one number a rank"
                )
                found.add(float(merge(parts)))
        right = math.fsum(values)
        wrong = max(abs(got - right) for got in found)
        assert wrong <= 1e-9 * sum(map(abs, values)), (
            f"the sum is {right:.9g}, merge said {found.pop():.9g}"
        )
        assert len(found) == 1, (
            f"{len(found)} different sums of the same 240 values over 1, 2, 3 and 8 ranks in several orders; "
            f"the largest distance is {max(found) - min(found):.0e}"
        )
