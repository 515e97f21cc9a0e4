"""Estimates, intervals, tests and splits, against closed forms, scipy and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from mlx_interp import stats
from mlx_interp.stats import (
    Estimate,
    clopper_pearson,
    crossed_interval,
    difference_interval,
    function_interval,
    jackknife_interval,
    mean_interval,
    mean_or_none,
    number,
    permutation_test,
    spearman_interval,
    split_halves,
)


def test_an_estimate_prints_itself_without_leading_zeros():
    assert str(Estimate(0.411, 0.332, 0.489, 120)) == ".41 [.33, .49]"
    assert str(Estimate(-0.041, -1.3, 0.0, 9)) == "-.04 [-1.30, .00]"


def test_per_cent_is_a_matter_of_print():
    assert Estimate(0.411, 0.332, 1.0, 120).text(percent=True) == "41 [33, 100]"
    assert Estimate(0.411, 0.332, 1.0, 120).text(digits=3, percent=True) == "41.1 [33.2, 100.0]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, ".50"),
        (-0.001, ".00"),
        (1.0, "1.00"),
        (-12.345, "-12.35"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        (10.0, "10.00"),
    ],
)
def test_numbers_have_one_form(value: float, text: str):
    assert number(value) == text


def test_the_interval_equals_scipys_bootstrap_where_every_unit_has_one_row():
    values = np.random.default_rng(1).normal(3, 2, 40)
    ours = mean_interval(list(values), unit=range(40), seed=0)
    theirs = scipy_stats.bootstrap((values,), np.mean, method="percentile", random_state=2).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)
    assert ours.n == 40


def test_units_are_resampled_whole():
    """Rows repeated within their unit say nothing new: the interval must not shrink."""
    values = list(np.random.default_rng(1).normal(0, 1, 30))
    once = mean_interval(values, unit=range(30), seed=0)
    repeated = mean_interval(values * 50, unit=list(range(30)) * 50, seed=0)
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))
    assert repeated.n == 30


def test_the_order_of_rows_does_not_change_the_interval():
    rng = np.random.default_rng(3)
    values, units = list(rng.normal(0, 1, 200)), [f"prompt {n}" for n in rng.integers(0, 20, 200)]
    order = rng.permutation(200)
    shuffled = mean_interval([values[i] for i in order], unit=[units[i] for i in order], seed=5)
    assert shuffled == mean_interval(values, unit=units, seed=5)


def test_another_seed_gives_another_interval_and_the_same_mean():
    values = list(np.random.default_rng(6).normal(0, 1, 25))
    first, second = (mean_interval(values, unit=range(25), seed=seed) for seed in (0, 1))
    assert first.value == second.value
    assert first != second


@pytest.mark.parametrize(("values", "successes"), [([0] * 12, 0), ([1] * 12, 12)])
def test_a_unanimous_rate_gets_the_exact_interval_over_units(values: list[int], successes: int):
    estimate = mean_interval(values * 3, unit=list(range(12)) * 3, seed=0)
    exact = scipy_stats.binomtest(successes, 12).proportion_ci(method="exact")
    assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high))
    assert estimate.n == 12


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (3, 17), (16, 17)])
def test_clopper_pearson_equals_scipy(successes: int, n: int):
    exact = scipy_stats.binomtest(successes, n).proportion_ci(method="exact", confidence_level=0.9)
    ours = clopper_pearson(successes, n, level=0.9)
    assert (ours.low, ours.high) == pytest.approx((exact.low, exact.high))


def test_constant_measurements_that_are_no_rate_have_no_width():
    estimate = mean_interval([7.5, 7.5, 7.5], unit="abc", seed=0)
    assert (estimate.low, estimate.high) == (7.5, 7.5)


def test_one_prompt_gives_no_interval():
    with pytest.raises(ValueError, match="two units or more, found 1"):
        mean_interval([0.1, 0.2], unit=["a", "a"], seed=0)
    assert mean_or_none([0.1, 0.2], unit=["a", "a"], seed=0) is None
    assert mean_or_none([], unit=[], seed=0) is None


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="unit 'b' has the value nan"):
        mean_interval([1.0, math.nan], unit="ab", seed=0)
    with pytest.raises(ValueError, match="2 values for 3 units"):
        mean_interval([1.0, 2.0], unit="abc", seed=0)


@pytest.mark.parametrize("true_rate", [0.2, 0.5])
def test_the_interval_covers_the_truth_nearly_as_often_as_it_says(true_rate: float):
    """Clustered rates: 40 units of 5 rows whose chances differ by unit. A bootstrap over rows would cover far less."""
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(200):
        chances = rng.beta(2 * true_rate, 2 * (1 - true_rate), 40)
        values = (rng.random((40, 5)) < chances[:, None]).ravel()
        estimate = mean_interval(list(values), unit=[n // 5 for n in range(200)], seed=seed, resamples=500)
        covered += estimate.low <= true_rate <= estimate.high
    assert 0.90 <= covered / 200 <= 0.99


def test_a_paired_difference_is_narrower_than_its_arms():
    rng = np.random.default_rng(2)
    base = rng.normal(0, 5, 30)
    difference = difference_interval(list(base + 1 + rng.normal(0, 0.1, 30)), list(base), unit=range(30), seed=0)
    assert difference.value == pytest.approx(1, abs=0.1)
    assert difference.high - difference.low < 0.2
    assert difference.low < 1.05
    assert difference.high > 0.95


def test_the_difference_is_that_of_the_two_means_in_the_table():
    units, control_units = list("aabbbc"), list("abbc")
    values, control = [1, 0, 1, 1, 0, 1], [0, 0, 1, 0]
    difference = difference_interval(values, control, unit=units, control_unit=control_units, seed=0)
    assert difference.value == pytest.approx(np.mean(values) - np.mean(control))


def test_a_unanimous_difference_of_rates_is_not_certain():
    everywhere = difference_interval([1] * 10, [0] * 10, unit=range(10), seed=0)
    unseen = 1 - 0.025 ** (1 / 10)
    assert (everywhere.low, everywhere.high) == pytest.approx((1 - 2 * unseen, 1))
    nowhere = difference_interval([0] * 10, [0] * 10, unit=range(10), seed=0)
    assert (nowhere.low, nowhere.high) == pytest.approx((-unseen, unseen))


def test_arms_of_different_units_are_refused():
    with pytest.raises(ValueError, match=r"'c' .* in one arm only"):
        difference_interval([1, 2, 3], [1, 2, 3], unit="abc", control_unit="abb", seed=0)


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("n", [8, 30])
def test_the_permutation_test_agrees_with_scipy(alternative: str, n: int):
    rng = np.random.default_rng(4)
    values, control = rng.normal(0.4, 1, n), rng.normal(0, 1, n)
    ours = permutation_test(list(values), list(control), unit=range(n), seed=0, alternative=alternative)  # type: ignore[arg-type]
    theirs = scipy_stats.permutation_test(
        (values, control),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        alternative=alternative,
        n_resamples=5000,
        random_state=1,
    ).pvalue
    assert ours == pytest.approx(theirs, abs=1e-12 if n == 8 else 0.03)


def test_equal_arms_give_p_of_one():
    assert permutation_test([1, 2, 3], [1, 2, 3], unit="abc", seed=0) == 1


def test_halves_are_disjoint_whole_and_of_equal_size():
    keys = [f"query {n}" for n in range(101)]
    first, second = split_halves(keys, 0)
    assert sorted(first + second) == sorted(keys)
    assert (len(first), len(second)) == (50, 51)


def test_halves_do_not_depend_on_the_order_of_keys_but_on_the_seed():
    keys = [f"query {n}" for n in range(50)]
    first, _ = split_halves(keys, 0)
    assert set(split_halves(keys[::-1], 0)[0]) == set(first)
    assert set(split_halves(keys, 1)[0]) != set(first)


def test_a_key_that_occurs_twice_cannot_be_split():
    with pytest.raises(ValueError, match="'b' occurs twice"):
        split_halves("abcb", 0)


def test_an_unpaired_difference_covers_the_truth_and_needs_two_units_a_side() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for draw in range(200):
        a, b = rng.normal(1.0, 1.0, 30), rng.normal(0.5, 2.0, 25)
        found = stats.unpaired_difference(
            list(a), list(b), unit=range(30), other_unit=range(25), seed=draw, resamples=400
        )
        assert found is not None
        assert found.value == pytest.approx(a.mean() - b.mean())
        covered += found.low <= 0.5 <= found.high
    assert 180 <= covered <= 198
    assert stats.unpaired_difference([1.0], [1.0, 2.0], unit=["a"], other_unit=["b", "c"], seed=0) is None


def test_a_trend_is_told_from_noise_by_permutation() -> None:
    x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    rho, p = stats.trend_test(x, [2.0, 3.0, 5.0, 8.0, 9.0, 11.0], seed=0)
    assert rho == pytest.approx(1.0)
    assert p == pytest.approx(2 / 720, rel=1e-6)
    assert stats.trend_test(x, [3.0, 1.0, 2.0, 3.0, 2.0, 1.0], seed=0)[1] > 0.1
    with pytest.raises(ValueError, match="three pairs"):
        stats.trend_test([1.0, 2.0], [1.0, 2.0], seed=0)


def test_a_stable_draw_depends_on_seed_and_key_alone() -> None:
    drawn = [stats.stable_draw(0, f"key {i}", 5) for i in range(200)]
    assert drawn == [stats.stable_draw(0, f"key {i}", 5) for i in range(200)]
    assert drawn != [stats.stable_draw(1, f"key {i}", 5) for i in range(200)]
    assert set(drawn) == set(range(5))


def test_the_gap_closed_is_the_share_of_what_was_missing() -> None:
    values, base = [1.0] * 8 + [0.0] * 2, [1.0] * 4 + [0.0] * 6
    units = list(range(10))
    found = stats.gap_closed(values, base, unit=units, seed=0)
    assert found is not None
    assert found.value == pytest.approx((0.8 - 0.4) / 0.6)
    assert found.low < found.value < found.high <= 1
    worse = stats.gap_closed(base, values, unit=units, seed=0)
    assert worse is not None
    assert worse.value == pytest.approx(-2.0)
    assert stats.gap_closed(values, [1.0] * 10, unit=units, seed=0) is None
    assert stats.gap_closed([1.0], [0.0], unit=[0], seed=0) is None


def test_the_area_under_the_roc_curve_counts_pairs_and_ties_half() -> None:
    found = stats.auroc([3.0, 2.0, 1.0], [2.0, 0.0], seed=0)
    assert found is not None
    assert found.value == pytest.approx((3 + 1.5) / 6)
    assert found.low < found.value < found.high
    apart = stats.auroc([2.0, 3.0, 4.0], [0.0, 1.0], seed=0)
    assert apart is not None
    assert (apart.value, apart.high) == (1.0, 1.0)
    assert 0 < apart.low < 0.5
    assert stats.auroc([1.0], [0.0, 2.0], seed=0) is None


def test_an_interval_of_a_figure_of_the_mean_is_the_mean_s_own() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(3, 1, 200)
    found = function_interval(lambda rows: values[rows].mean(1) * 2, 200, seed=0)
    expected = mean_interval(values.tolist(), unit=list(range(200)), seed=0)
    assert found is not None
    assert found.value == pytest.approx(2 * expected.value)
    assert (found.low, found.high) == pytest.approx((2 * expected.low, 2 * expected.high), abs=0.05)
    assert function_interval(lambda rows: values[rows].mean(1), 1, seed=0) is None
    assert function_interval(lambda rows: np.full(len(rows), np.nan), 5, seed=0) is None


def test_a_mean_over_prompts_and_draws_is_less_sure_than_over_prompts_alone() -> None:
    rng = np.random.default_rng(0)
    grid = 0.3 * rng.normal(size=30)[:, None] + rng.normal(size=8)[None]
    unit, draw = (axis.ravel().tolist() for axis in np.meshgrid(range(30), range(8), indexing="ij"))
    values = grid.ravel().tolist()
    crossed, flat = crossed_interval(values, unit=unit, draw=draw, seed=0), mean_interval(values, unit=unit, seed=0)
    assert crossed is not None
    assert crossed.value == pytest.approx(flat.value)
    assert crossed.high - crossed.low > 3 * (flat.high - flat.low)
    assert crossed.low < 0 < crossed.high
    again = crossed_interval(values[::-1], unit=unit[::-1], draw=draw[::-1], seed=0)
    assert again is not None
    assert (again.low, again.high) == pytest.approx((crossed.low, crossed.high))


def test_draws_that_all_agree_are_as_sure_as_the_smaller_sample() -> None:
    unit, draw = [0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]
    found = crossed_interval([0.0] * 6, unit=unit, draw=draw, seed=0, bounds=(-1, 1))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((-clopper_pearson(0, 2).high, clopper_pearson(0, 2).high))
    with pytest.raises(ValueError, match="one value a pair"):
        crossed_interval([0.0] * 5, unit=unit[:5], draw=draw[:5], seed=0)
    assert crossed_interval([0.0] * 3, unit=[0, 1, 2], draw=[0, 0, 0], seed=0) is None


def test_the_jackknife_is_the_t_interval_of_a_mean_and_takes_the_error_out_of_a_variance() -> None:
    values = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    mean = jackknife_interval(lambda rows: values[rows].mean(axis=1), 5)
    assert mean is not None
    reach = 2.7764451 * values.std(ddof=1) / math.sqrt(5)
    assert (mean.value, mean.low) == (pytest.approx(4.0), pytest.approx(4.0 - reach))
    spread = jackknife_interval(lambda rows: values[rows].var(axis=1), 5)
    assert spread is not None
    assert spread.value == pytest.approx(values.var(ddof=1))
    assert jackknife_interval(lambda rows: values[rows].mean(axis=1), 1) is None


def test_rank_correlations_are_spearmans_with_ties() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 40).astype(float), rng.integers(0, 5, 40).astype(float)
    found = spearman_interval(x.tolist(), y.tolist(), seed=0)
    assert found is not None
    assert found.value == pytest.approx(float(scipy_stats.spearmanr(x, y).statistic))
    assert found.low < found.value < found.high
    assert spearman_interval([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], seed=0) is None
    assert spearman_interval([1.0, 2.0], [1.0, 2.0], seed=0) is None


def test_an_amount_of_zero_in_every_unit_is_no_rate() -> None:
    nats, unit = [0.0] * 16, range(16)
    as_rate, as_amount = (mean_interval(nats, unit=unit, seed=0, hits=hits) for hits in (True, False))
    assert as_rate.high == pytest.approx(1 - 0.025 ** (1 / 16))
    assert (as_amount.value, as_amount.low, as_amount.high) == (0, 0, 0)
    gone = difference_interval(nats, nats, unit=unit, seed=0, hits=False)
    assert (gone.low, gone.high) == (0, 0)
    assert difference_interval(nats, nats, unit=unit, seed=0).high > 0.1
