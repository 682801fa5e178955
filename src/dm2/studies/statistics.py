"""Sample efficiency and its uncertainty over seeds; numpy alone.

A *curve* is a run's test win rate (0 to 1) or test return against environment steps. A run that
never reaches a threshold is *censored*: all that is known is that it needs more steps than it was
given.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from dm2.errors import InputError

__all__ = [
    "area_under_curve",
    "bootstrap_interval",
    "censor",
    "curves_on_grid",
    "final",
    "interquartile_mean",
    "mean_and_standard_error",
    "probability_of_improvement",
    "ratio_interval",
    "smooth",
    "steps_to_threshold",
]

Reduction = Callable[..., Any]
"""Reduces an array over its keyword argument `axis`, as `numpy.mean` does."""

_ROUNDING = 1e-9  # (0.7 + 0.7 + 0.7) / 3 comes out a hair below 0.7


def _curve(steps: ArrayLike, values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    if steps.ndim != 1 or steps.shape != values.shape or not steps.size:
        given = f"shapes {steps.shape} and {values.shape}"
        raise InputError(f"steps, values = {given}: must be two equally long, non-empty lists")
    if not (np.isfinite(steps).all() and np.isfinite(values).all()):
        raise InputError("steps, values: must be finite")
    if (np.diff(steps) <= 0).any():
        raise InputError("steps: must increase; sort the evaluations and drop repeated steps")
    return steps, values


def _finite(data: ArrayLike, name: str) -> np.ndarray:
    data = np.asarray(data, float)
    if data.ndim == 0 or not len(data) or not np.isfinite(data).all():
        remedy = "must hold one finite value or row per seed; `censor` takes infinite ones out"
        raise InputError(f"{name} = {data!r}: {remedy}")
    return data


def smooth(values: ArrayLike, window: int = 3) -> Float[np.ndarray, " evaluations"]:
    """Centred moving mean over `window` evaluations; at both ends, over those that exist.

    Centred rather than trailing: a trailing mean delays every crossing by (window - 1) / 2
    evaluations, which draws the ratio of a fast and a slow method towards 1. Raises InputError
    unless `window` is odd and above 0.
    """
    if window < 1 or window % 2 == 0:
        raise InputError(f"window = {window!r}: must be an odd number above 0")
    values, half = np.asarray(values, float), window // 2
    parts = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    return np.array(parts)


def steps_to_threshold(
    steps: ArrayLike, values: ArrayLike, threshold: float | int, window: int = 3
) -> float:
    """First step at which the smoothed curve reaches `threshold`; inf if it never does.

    A win rate of 32 episodes has a standard deviation of up to 0.09, and the first passage of a
    noisy curve comes too early; hence `smooth` over `window` evaluations (three: 96 episodes). The
    smoothed curve is linear between evaluations. Raises InputError for a malformed curve, or a
    window that `smooth` refuses.
    """
    steps, values = _curve(steps, values)
    curve = smooth(values, window)
    reached = np.flatnonzero(curve >= threshold - _ROUNDING)
    if not reached.size:
        return float("inf")
    i = reached[0]
    if i == 0:
        return float(steps[0])
    fraction = min(1.0, (threshold - curve[i - 1]) / (curve[i] - curve[i - 1]))
    return float(steps[i - 1] + fraction * (steps[i] - steps[i - 1]))


def area_under_curve(
    steps: ArrayLike, values: ArrayLike, budget: float | int | None = None
) -> float:
    """Mean height of the curve up to `budget` steps: `1 / (t_n - t_0) * integral of v(t) dt`.

    Trapezoidal; of win rates, so from 0 (never won) to 1 (always won). `budget` defaults to the
    last step and may fall between evaluations. Raises InputError if it lies outside of them.
    """
    steps, values = _curve(steps, values)
    budget = float(steps[-1]) if budget is None else budget
    if len(steps) < 2 or not steps[0] < budget <= steps[-1]:
        remedy = "the area needs an evaluation before the budget, and one at or after it"
        raise InputError(f"budget = {budget:g}: {remedy}")
    before = steps < budget
    times = np.append(steps[before], budget)
    heights = np.append(values[before], np.interp(budget, steps, values))
    return float(np.trapezoid(heights, times) / (budget - steps[0]))


def final(steps: ArrayLike, values: ArrayLike, first: float | int, budget: float | int) -> float:
    """Mean of the evaluations at the steps from `first` to `budget`, both included.

    A stretch of steps rather than a number of evaluations, so that runs with other intervals
    between their evaluations are averaged over the same part of training. Raises InputError for a
    malformed curve, or if there is no evaluation in the stretch.
    """
    steps, values = _curve(steps, values)
    inside = (steps >= first) & (steps <= budget)
    if not inside.any():
        raise InputError(f"first, budget = {first:g}, {budget:g}: no evaluation lies between them")
    return float(values[inside].mean())


def mean_and_standard_error(data: ArrayLike, axis: int = 0) -> tuple[Any, Any]:
    """Mean and `s / sqrt(n)` with the unbiased variance; the error of one seed is nan.

    Raises InputError for data that are not finite.
    """
    data = _finite(data, "data")
    n = data.shape[axis]
    mean = data.mean(axis=axis)
    if n < 2:
        return mean, mean * np.nan
    return mean, data.std(axis=axis, ddof=1) / np.sqrt(n)


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """`P(X > Y) + P(X = Y) / 2` for X drawn from `a` and Y from `b` (arXiv 2108.13264).

    Equals Mann and Whitney's U over the number of pairs. Raises InputError for data that are not
    finite.
    """
    a, b = _finite(a, "a"), _finite(b, "b")
    return float((np.sign(a[:, None] - b).mean() + 1) / 2)


def interquartile_mean(data: ArrayLike, axis: int = 0) -> Any:
    """Mean of what is left without the floor(n / 4) lowest and highest (arXiv 2108.13264).

    Equals `scipy.stats.trim_mean(data, 0.25)`; with fewer than four values it is the mean.
    """
    data = np.sort(np.asarray(data, float), axis=axis)
    n = data.shape[axis]
    return data.take(range(n // 4, n - n // 4), axis=axis).mean(axis=axis)


def _resample(data: np.ndarray, statistic: Reduction, n: int, rng: np.random.Generator) -> Any:
    indices = rng.integers(len(data), size=(n, len(data)))
    return statistic(data[indices], axis=1)


def _percentiles(samples: np.ndarray, level: float) -> tuple[Any, Any]:
    tail = (1 - level) / 2
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0)
    return low, high


def bootstrap_interval(
    data: ArrayLike,
    statistic: Reduction = np.mean,
    n: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Any, Any]:
    """Percentile bootstrap over axis 0 (seeds); further axes are kept, so curves work too.

    With few seeds it is too narrow: five seeds of a normal distribution are covered about 84 %
    of the time at level 0.95. One seed says nothing about spread: the interval is nan, nan.
    Raises InputError for data that are not finite.
    """
    data = _finite(data, "data")
    if len(data) < 2:
        blank = np.full(data.shape[1:], np.nan)[()]
        return blank, blank
    samples = _resample(data, statistic, n, np.random.default_rng(seed))
    return _percentiles(samples, level)


def ratio_interval(
    a: ArrayLike,
    b: ArrayLike,
    statistic: Reduction = np.mean,
    n: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """`statistic(a) / statistic(b)` and its percentile interval, as (value, low, high).

    The seeds of both methods are resampled independently. `np.median` fits too. A zero
    denominator gives nan. One seed on either side gives a nan interval. Raises
    InputError for data that are not finite: see `censor`.
    """
    a, b = _finite(a, "a"), _finite(b, "b")
    rng = np.random.default_rng(seed)
    denominator = statistic(b, axis=0)
    value = float(statistic(a, axis=0) / denominator) if denominator else np.nan
    if min(len(a), len(b)) < 2 or np.isnan(value):
        return value, np.nan, np.nan
    below = _resample(b, statistic, n, rng)
    samples = _resample(a, statistic, n, rng) / np.where(below == 0, np.nan, below)
    low, high = _percentiles(samples, level)
    return value, float(low), float(high)


def censor(
    steps: ArrayLike, budgets: ArrayLike | float | int
) -> tuple[Float[np.ndarray, " seeds"], int]:
    """Puts each censored run's own budget in place of inf; returns those and how many there were.

    A run that failed within its budget needs more than that, and the mean, the median and the
    interquartile mean all grow with each of their values: with censored runs, they are *lower
    bounds*, and must be reported as such. Leaving those runs out would favour the method that
    fails. Budgets in environment steps, one for all or one per run.
    """
    steps = np.asarray(steps, float)
    return np.where(np.isinf(steps), budgets, steps), int(np.isinf(steps).sum())


def curves_on_grid(
    curves: Sequence[tuple[ArrayLike, ArrayLike]],
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "seeds points"]]:
    """Every (steps, values) on one grid: all their steps, up to the smallest common budget.

    Curves evaluated at the same steps are returned as they are; others are linear in between.
    The grid starts at the latest first evaluation, so nothing is extrapolated. Raises
    InputError for no curves, malformed ones, or curves without a common stretch.
    """
    checked = [_curve(steps, values) for steps, values in curves]
    if not checked:
        raise InputError("curves = []: needs at least one")
    start = max(steps[0] for steps, _ in checked)
    end = min(steps[-1] for steps, _ in checked)
    if start > end:
        raise InputError(f"curves: the latest starts at {start:g}, after one ends, at {end:g}")
    grid = np.unique(np.concatenate([steps for steps, _ in checked]))
    grid = grid[(grid >= start) & (grid <= end)]
    return grid, np.stack([np.interp(grid, steps, values) for steps, values in checked])
