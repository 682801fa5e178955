"""Statistics over seeds: hand arithmetic, scipy, and coverage on a known distribution."""

import math

import numpy as np
import pytest
from scipy import stats

from dm2.errors import InputError
from dm2.studies.statistics import (
    area_under_curve,
    bootstrap_interval,
    censor,
    curves_on_grid,
    final,
    interquartile_mean,
    mean_and_standard_error,
    ratio_interval,
    smooth,
    steps_to_threshold,
)

pytestmark = pytest.mark.filterwarnings("error")


def test_smooth_is_a_centred_mean_over_what_exists():
    # (0+3)/2, (0+3+0)/3, (3+0+6)/3, (0+6)/2
    assert smooth([0, 3, 0, 6]) == pytest.approx([1.5, 1.0, 3.0, 3.0])
    assert smooth([0.25], window=5) == pytest.approx([0.25])
    assert smooth([1, 2, 4], window=1) == pytest.approx([1, 2, 4])


@pytest.mark.parametrize("window", [0, 2, -1])
def test_smooth_refuses_a_window_without_a_centre(window):
    with pytest.raises(InputError, match=f"window = {window}"):
        smooth([1.0, 2.0], window)


def test_steps_to_threshold_interpolates_the_smoothed_curve():
    # Smoothed: 0, 0.2, 0.5, 0.8, 0.9. From 0.5 at 200 to 0.8 at 400, 0.6 is a third of the way.
    steps, values = [0, 100, 200, 400, 500], [0.0, 0.0, 0.6, 0.9, 0.9]
    assert steps_to_threshold(steps, values, 0.6) == pytest.approx(200 + 200 / 3)
    assert steps_to_threshold(steps, values, 0.5) == pytest.approx(200)


def test_steps_to_threshold_ignores_one_lucky_evaluation():
    # Unsmoothed, 0.6 is reached at 60 of the first 100 steps; smoothed: 1/2, 1/3, 1/3, 1/3, 2/3.
    steps, values = [0, 100, 200, 300, 400, 500], [0, 1, 0, 0, 1, 1]
    assert steps_to_threshold(steps, values, 0.6, window=1) == pytest.approx(60)
    # From 1/3 at 300 to 2/3 at 400; 0.6 - 1/3 = 4/15 of 5/15, so 0.8 of the way.
    assert steps_to_threshold(steps, values, 0.6) == pytest.approx(380)


def test_steps_to_threshold_at_the_start_and_never():
    assert steps_to_threshold([50, 100], [0.9, 0.9], 0.8) == 50
    # In floating point, (0.7 + 0.7 + 0.7) / 3 < 0.7.
    assert steps_to_threshold([0, 100, 200], [0.7, 0.7, 0.7], 0.7, window=5) == 0
    assert steps_to_threshold([0, 100], [0.1, 0.7], 0.8) == math.inf


@pytest.mark.parametrize(
    ("steps", "values", "message"),
    [
        ([0, 0, 1], [0, 0, 0], "increase"),
        ([0, 1], [0, 0, 0], "equally long"),
        ([], [], "non-empty"),
        ([0, 1], [0, math.nan], "finite"),
    ],
)
def test_malformed_curves_are_refused(steps, values, message):
    with pytest.raises(InputError, match=message):
        steps_to_threshold(steps, values, 0.5)


def test_area_is_the_mean_height_over_the_budget():
    # Trapezoids: 100 * 0.25 + 300 * 0.75 = 250, over 400 steps.
    steps, values = [0, 100, 400], [0.0, 0.5, 1.0]
    assert area_under_curve(steps, values) == pytest.approx(0.625)
    # Up to 250 the curve ends at 0.75: 25 + 150 * 0.625 = 118.75, over 250.
    assert area_under_curve(steps, values, budget=250) == pytest.approx(0.475)
    assert area_under_curve([100, 300], [1, 1]) == pytest.approx(1.0)


@pytest.mark.parametrize("budget", [0, 401])
def test_area_is_not_extrapolated(budget):
    with pytest.raises(InputError, match=f"budget = {budget}"):
        area_under_curve([0, 100, 400], [0.0, 0.5, 1.0], budget)


def test_final_is_the_mean_over_a_stretch_with_both_its_ends():
    steps, values = [0, 100, 200, 300, 400], [9.0, 1.0, 2.0, 6.0, 8.0]
    assert final(steps, values, 100, 300) == pytest.approx(3.0)
    assert final(steps, values, 101, 399) == pytest.approx(4.0)
    with pytest.raises(InputError, match="first, budget = 110, 190: no evaluation"):
        final(steps, values, 110, 190)


def test_mean_and_standard_error():
    # Deviations -2, 0, 2: variance 8 / 2 = 4, so the error is 2 / sqrt(3).
    mean, error = mean_and_standard_error([1, 3, 5])
    assert (mean, error) == pytest.approx((3.0, 2 / math.sqrt(3)))
    assert math.isnan(mean_and_standard_error([4.0])[1])
    means, errors = mean_and_standard_error([[1, 0], [3, 0], [5, 0]])
    assert means == pytest.approx([3, 0]) and errors == pytest.approx([2 / math.sqrt(3), 0])


@pytest.mark.parametrize("n", range(1, 14))
def test_interquartile_mean_is_scipys_trimmed_mean(n):
    data = np.random.default_rng(n).normal(size=(n, 3))
    assert interquartile_mean(data) == pytest.approx(stats.trim_mean(data, 0.25, axis=0))
    assert interquartile_mean(data.T, axis=1) == pytest.approx(interquartile_mean(data))


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    repeats, covered = 400, 0
    for seed in range(repeats):
        low, high = bootstrap_interval(rng.normal(2.0, 3.0, size=40), n=400, seed=seed)
        covered += low <= 2.0 <= high
    # Standard error of the share: sqrt(0.95 * 0.05 / 400) = 0.011; a percentile bootstrap of 40
    # values falls short of 0.95 by about 0.015.
    assert 0.90 < covered / repeats < 0.975


def test_bootstrap_interval_narrows_with_the_level_and_repeats_itself():
    data = [1.0, 2.0, 4.0, 8.0]
    wide, narrow = bootstrap_interval(data), bootstrap_interval(data, level=0.5)
    few = bootstrap_interval(data, n=30, seed=1)
    assert few == bootstrap_interval(data, n=30, seed=1) != bootstrap_interval(data, n=30, seed=2)
    assert wide[0] < narrow[0] < np.mean(data) < narrow[1] < wide[1]
    # Two values: resampled means are 0, 1 or 2 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_interval([0.0, 2.0]) == (0.0, 2.0)
    assert bootstrap_interval([0.0, 2.0], level=0.4) == (1.0, 1.0)


def test_bootstrap_interval_of_curves_is_pointwise():
    data = np.array([[1.0, 10.0], [2.0, 30.0], [4.0, 50.0]])
    low, high = bootstrap_interval(data, interquartile_mean, seed=3)
    for point in range(2):
        alone = bootstrap_interval(data[:, point], interquartile_mean, seed=3)
        assert (low[point], high[point]) == pytest.approx(alone)


def test_one_seed_has_no_interval():
    assert np.isnan(bootstrap_interval([3.0])).all()
    assert np.isnan(bootstrap_interval([[3.0, 4.0]])).all()
    value, low, high = ratio_interval([3.0], [1.0, 2.0])
    assert value == pytest.approx(2.0) and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize("data", [[1.0, math.inf], [], [math.nan]])
def test_infinite_data_must_be_censored_first(data):
    with pytest.raises(InputError, match="censor"):
        bootstrap_interval(data)


def test_ratio_interval_resamples_both_sides():
    # a is 2 or 4, b is 1 or 2: extreme resamples are 2 / 2 = 1 and 4 / 1 = 4, each with
    # probability 1/4 * 1/4 > 0.025; resampling in step would only ever give 2.
    assert ratio_interval([2, 4], [1, 2]) == pytest.approx((2.0, 1.0, 4.0))
    assert ratio_interval([2, 3, 10], [1, 1], np.median)[0] == pytest.approx(3.0)


def test_ratio_interval_over_zero_is_undefined():
    assert np.isnan(ratio_interval([1.0, 2.0], [0.0, 0.0])).all()


def test_ratio_interval_covers_a_known_ratio():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        a, b = rng.normal(6, 1, size=30), rng.normal(4, 1, size=20)
        _, low, high = ratio_interval(a, b, n=300, seed=seed)
        covered += low <= 1.5 <= high
    assert 0.88 < covered / 200 < 0.99


def test_censored_runs_count_with_their_own_budget():
    steps, censored = censor([100.0, math.inf, math.inf], [500.0, 500.0, 300.0])
    assert steps.tolist() == [100.0, 500.0, 300.0] and censored == 2
    assert censor([100.0, math.inf], 500.0)[0].tolist() == [100.0, 500.0]


@pytest.mark.parametrize("statistic", [np.mean, np.median, interquartile_mean])
def test_censoring_gives_lower_bounds(statistic):
    truth = np.array([100.0, 400.0, 900.0, 1500.0, 200.0])
    steps, _ = censor(np.where(truth > 600, math.inf, truth), 600.0)
    assert statistic(steps, axis=0) <= statistic(truth, axis=0)


def test_curves_at_the_same_steps_stay_as_they_are():
    curves = [([0, 10, 20], [0.0, 0.3, 0.9]), ([0, 10], [0.1, 0.2])]
    grid, values = curves_on_grid(curves)
    assert grid.tolist() == [0, 10]
    assert values.tolist() == [[0.0, 0.3], [0.1, 0.2]]


def test_curves_at_other_steps_are_interpolated_and_never_extrapolated():
    # Common stretch: 5 to 20. First curve at 5: 0.4 / 2, at 15: (0.4 + 0.8) / 2.
    # Second at 10: (0.1 + 0.5) / 2.
    curves = [([0, 10, 20, 30], [0.0, 0.4, 0.8, 1.0]), ([5, 15, 20], [0.1, 0.5, 0.7])]
    grid, values = curves_on_grid(curves)
    assert grid.tolist() == [5, 10, 15, 20]
    assert values[0] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert values[1] == pytest.approx([0.1, 0.3, 0.5, 0.7])


def test_curves_without_a_common_stretch_are_refused():
    with pytest.raises(InputError, match="starts at 20, after one ends, at 10"):
        curves_on_grid([([0, 10], [0, 0]), ([20, 30], [0, 0])])
    with pytest.raises(InputError, match="at least one"):
        curves_on_grid([])
