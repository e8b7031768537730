"""Scaling laws: fitted to a handful of models, with an interval that says how little a handful knows.

    law = fit(parameters, losses)                     L(x) = E + A x^-alpha, E >= 0, A > 0
    guess = forecast(parameters, losses, at=1e9, noise=0.002, freedom=4)
    best = fit_surface(parameters, tokens, losses)    L(N, D) = E + A N^-alpha + B D^-beta
    best.optimum(flops)                               the N and D that a budget of 6 N D FLOPs should buy

Least squares on relative residuals, (fit - loss) / loss, which are log-residuals to first order and weigh a small model
like a large one (Hoffmann et al. 2022 minimise a Huber loss of log-residuals; with five points there is no outlier to
guard against that one would not rather look at). For given exponents the rest is linear, so the exponents are searched
on a grid and the other parameters solved: no start values, no local minimum.

Letters: S draws (bootstrap samples), X points of a ladder, G exponents on the grid.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from steel.config import UserError

ALPHAS = np.geomspace(0.01, 3.0, 400)
EXPONENTS = np.linspace(0.05, 1.5, 59)  # of the surface, each


@dataclass(frozen=True)
class Law:
    """L(x) = floor + scale (x / unit)^-alpha, in nats per token; x counts parameters, FLOPs or tokens."""

    floor: float
    scale: float
    alpha: float
    unit: float

    def __call__(self, x):
        """Loss at x [nats/token]; x a number or an array."""
        return self.floor + self.scale * (np.asarray(x, float) / self.unit) ** -self.alpha

    @property
    def coefficient(self) -> float:
        """A of L = E + A x^-alpha."""
        return self.scale * self.unit**self.alpha


@dataclass(frozen=True)
class Forecast:
    """What a ladder says about a model that does not exist yet; losses in nats per token."""

    at: float
    loss: float
    low: float
    high: float
    left_out: tuple[float, float]
    no_floor: float
    noise: float
    freedom: int
    law: Law

    @property
    def honest(self) -> tuple[float, float]:
        """From the lowest to the highest of everything the data allow: noise, any rung left out, no floor at all."""
        return min(self.low, self.left_out[0], self.no_floor), max(
            self.high, self.left_out[1], self.no_floor
        )

    def to_dict(self) -> dict:
        """Plain dict for JSON, with the honest interval."""
        return asdict(self) | {"left_out": list(self.left_out), "honest": list(self.honest)}


def fit(x, loss, floor: float | None = None) -> Law:
    """The law through points x (X,) with losses (X,) [nats/token]; floor: a fixed E instead of a fitted one.

    Raises UserError for fewer than three different x (two with a fixed floor) or a value that is not above 0.
    """
    x_X, loss_X = _points(x, loss, 3 if floor is None else 2)
    floors, scales, alphas = _solve(x_X, loss_X[None], floor)
    return Law(float(floors[0]), float(scales[0]), float(alphas[0]), _unit(x_X))


def forecast(x, loss, at: float, noise: float, freedom: int, draws: int = 4000, seed: int = 1,
             level: float = 0.9) -> Forecast:  # fmt: skip
    """Loss at `at` with three doubts beside it.

    noise, freedom: what `seed_noise` gives for repeated rungs. `low` to `high` holds a share `level` of `draws` refits
    with such noise on every point, plus the noise of the new model itself; the noise is drawn, too, since a
    few pairs of seeds know it badly. `left_out`: lowest and highest forecast with one x left out. `no_floor`: the
    forecast with E = 0.
    """
    x_X, loss_X = _points(x, loss, 4)
    law, rng = fit(x_X, loss_X), np.random.default_rng(seed)
    noise_S = noise * (freedom / rng.chisquare(freedom, draws)) ** 0.5
    drawn_SX = law(x_X) * np.exp(noise_S[:, None] * rng.standard_normal((draws, len(x_X))))
    floors_S, scales_S, alphas_S = _solve(x_X, drawn_SX, None)
    ends_S = (floors_S + scales_S * (at / law.unit) ** -alphas_S) * np.exp(
        noise_S * rng.standard_normal(draws)
    )
    low, high = np.quantile(ends_S, [(1 - level) / 2, (1 + level) / 2])
    without = [float(fit(x_X[x_X != one], loss_X[x_X != one])(at)) for one in np.unique(x_X)]
    return Forecast(
        float(at),
        float(law(at)),
        float(low),
        float(high),
        (min(without), max(without)),
        float(fit(x_X, loss_X, floor=0.0)(at)),
        float(noise),
        int(freedom),
        law,
    )


def seed_noise(groups) -> tuple[float, int]:
    """Pooled relative standard deviation [1] of losses that differ by the seed alone, and its degrees of freedom.

    groups: lists of losses; a list of one says nothing. Raises UserError when no list has two.
    """
    squares, freedom = 0.0, 0
    for group in groups:
        logs = np.log(np.asarray(list(group), float))
        squares, freedom = (
            squares + float(((logs - logs.mean()) ** 2).sum()),
            freedom + len(logs) - 1,
        )
    if freedom < 1:
        raise UserError(
            "the noise between seeds needs at least one rung that was trained with two seeds"
        )
    return (squares / freedom) ** 0.5, freedom


def _solve(x_X, loss_SX, floor: float | None):
    """(floors, scales, alphas), each (S,), of the best law through every row of losses."""
    basis_GX = (x_X / _unit(x_X)) ** -ALPHAS[:, None]
    weight_SX = loss_SX**-2.0
    s_S1 = weight_SX.sum(1, keepdims=True)
    sb_SG, sbb_SG = weight_SX @ basis_GX.T, weight_SX @ (basis_GX**2).T
    sl_S1, slb_SG = (weight_SX * loss_SX).sum(1, keepdims=True), (weight_SX * loss_SX) @ basis_GX.T
    if floor is None:
        floor_SG = (sbb_SG * sl_S1 - sb_SG * slb_SG) / (s_S1 * sbb_SG - sb_SG**2)
        floor_SG = np.maximum(floor_SG, 0.0)  # text has no negative entropy
    else:
        floor_SG = np.full_like(sb_SG, floor)
    scale_SG = (slb_SG - floor_SG * sb_SG) / sbb_SG
    sll_S1 = (weight_SX * loss_SX**2).sum(1, keepdims=True)
    error_SG = (
        sll_S1
        - 2 * floor_SG * sl_S1
        - 2 * scale_SG * slb_SG
        + floor_SG**2 * s_S1
        + 2 * floor_SG * scale_SG * sb_SG
        + scale_SG**2 * sbb_SG
    )
    best_S = np.where(scale_SG > 0, error_SG, np.inf).argmin(1)
    rows = np.arange(len(loss_SX))
    return floor_SG[rows, best_S], scale_SG[rows, best_S], ALPHAS[best_S]


def _points(x, loss, least: int):
    x_X, loss_X = np.asarray(x, float), np.asarray(loss, float)
    if x_X.shape != loss_X.shape or x_X.ndim != 1 or not (x_X > 0).all() or not (loss_X > 0).all():
        raise UserError("a law needs as many losses as sizes, all of them above 0")
    if len(np.unique(x_X)) < least:
        raise UserError(f"a law needs at least {least} different sizes, not {len(np.unique(x_X))}")
    return x_X, loss_X


def _unit(x_X) -> float:
    return float(np.exp(np.log(x_X).mean()))


# -- parameters and tokens apart ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surface:
    """L(N, D) = E + A N^-alpha + B D^-beta [nats/token], N parameters, D tokens."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __call__(self, N, D):
        """Loss at N parameters and D tokens [nats/token]; numbers or arrays."""
        return (
            self.E
            + self.A * np.asarray(N, float) ** -self.alpha
            + self.B * np.asarray(D, float) ** -self.beta
        )

    def optimum(self, flops: float) -> tuple[float, float]:
        """(N, D) with the lowest loss among those that cost 6 N D = flops."""
        power = self.alpha + self.beta
        N = (self.alpha * self.A / (self.beta * self.B)) ** (1 / power) * (flops / 6) ** (
            self.beta / power
        )
        return N, flops / 6 / N


CHINCHILLA = Surface(1.69, 406.4, 410.7, 0.34, 0.28)
"""Hoffmann et al. (2022), approach 3, on MassiveText with its own tokenizer."""
CHINCHILLA_REFIT = Surface(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
"""The same data read off its figure and fitted again by Besiroglu et al. (2024)."""


def same_loss(law: Surface, N: float, D: float) -> tuple[float, float, float]:
    """(parameters, tokens, share of 6ND) of the cheapest model with the loss of N on D tokens; by bisection."""
    low, high = 1e-6, 1.0
    for _ in range(60):
        share = (low * high) ** 0.5
        low, high = (
            (low, share) if law(*law.optimum(6 * N * D * share)) <= law(N, D) else (share, high)
        )
    return *law.optimum(6 * N * D * high), high


def fit_surface(N, D, loss) -> Surface:
    """The surface through points (N, D) with their losses, each (X,); E, A and B are not negative.

    Raises UserError when N and D rise together in every point: then no data can tell their effects apart.
    """
    N_X, D_X, loss_X = (np.asarray(v, float) for v in (N, D, loss))
    ratios = D_X / N_X
    if len(np.unique(N_X)) < 3 or len(loss_X) < 6 or ratios.max() / ratios.min() < 1.5:
        raise UserError(
            "L(N, D) needs at least six points, three sizes and different tokens per parameter; "
            "with one ratio for all, fit L(N) or L(C)"
        )
    n0, d0, best = _unit(N_X), _unit(D_X), (np.inf, None)
    for alpha in EXPONENTS:
        for beta in EXPONENTS:
            columns = (
                np.stack([np.ones_like(N_X), (N_X / n0) ** -alpha, (D_X / d0) ** -beta], 1)
                / loss_X[:, None]
            )
            error, (E, A, B) = _not_negative(columns)
            if error < best[0]:
                best = (error, Surface(E, A * n0**alpha, B * d0**beta, float(alpha), float(beta)))
    return best[1]


def _not_negative(columns_X3) -> tuple[float, tuple[float, float, float]]:
    """Least squares of columns @ weights = 1 with weights >= 0; drops the floor, then refuses."""
    one_X = np.ones(len(columns_X3))
    for used in ([0, 1, 2], [1, 2]):
        weights, *_ = np.linalg.lstsq(columns_X3[:, used], one_X, rcond=None)
        if (weights >= 0).all():
            full = np.zeros(3)
            full[used] = weights
            return float(((columns_X3 @ full - 1) ** 2).sum()), tuple(float(w) for w in full)
    return np.inf, (0.0, 0.0, 0.0)
