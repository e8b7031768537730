"""What a comparison with seeds may say: paired differences, Student's t, Holm's correction.

    better = paired([5.21, 5.19, 5.20], [5.26, 5.27, 5.25])     differences a - b, seed by seed
    better.mean, better.half, better.established                mean, 95 % half-width, whether zero lies outside
    holm({"x": a, "y": b})                                      which stay established when several are asked at once

Two arms that see the same tokens in the same order under each seed are compared seed by seed: what the order and the
initial weights do to both cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Paired:
    """A difference over seeds: its mean and standard error [nats/token], and the number of seeds."""

    mean: float
    error: float
    seeds: int

    @property
    def t(self) -> float:
        """Student's statistic: the mean in standard errors."""
        return self.mean / self.error if self.error else math.copysign(math.inf, self.mean)

    @property
    def p(self) -> float:
        """Two-sided probability of a mean this far from zero when there is no difference."""
        return 2 * (1 - student_cdf(abs(self.t), self.seeds - 1))

    @property
    def half(self) -> float:
        """Half-width of the 95 % interval."""
        return quantile(0.975, self.seeds - 1) * self.error

    @property
    def established(self) -> bool:
        """The book's rule: zero lies outside the 95 % interval."""
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.half:.3f}"


def paired(a: list[float], b: list[float]) -> Paired:
    """a - b, seed by seed. ValueError for fewer than two pairs or lists of two lengths."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    n = len(differences)
    if n < 2:
        raise ValueError("a difference over seeds needs at least two of them")
    mean = math.fsum(differences) / n
    variance = math.fsum((d - mean) ** 2 for d in differences) / (n - 1)
    return Paired(mean, math.sqrt(variance / n), n)


def holm(family: dict[str, Paired], level: float = 0.05) -> dict[str, bool]:
    """Which differences stay established when all of `family` are asked at once (Holm 1979)."""
    verdicts, left, going = {}, len(family), True
    for name, difference in sorted(family.items(), key=lambda item: item[1].p):
        going = going and difference.p <= level / left
        verdicts[name], left = going, left - 1
    return {name: verdicts[name] for name in family}


def student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) of Student's distribution, for whole degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    theta, cosine = math.atan2(t, math.sqrt(freedom)), freedom / (freedom + t * t)
    term, total = (1.0, 0.0) if freedom % 2 == 0 else (math.sqrt(cosine), 0.0)
    for k in range(freedom % 2, freedom - 1, 2):
        total += term
        term *= cosine * (k + 1) / (k + 2)
    if freedom % 2 == 0:
        return 0.5 + 0.5 * math.sin(theta) * total
    return 0.5 + (theta + math.sin(theta) * total) / math.pi


def quantile(probability: float, freedom: int) -> float:
    """The t that `student_cdf` takes to `probability`, above one half, by bisection."""
    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < probability else (low, middle)
    return high
