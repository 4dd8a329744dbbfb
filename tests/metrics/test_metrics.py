"""The numbers of the evaluation on features: distances, intervals, the classifier. Checked against torchmetrics."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from dsmap.errors import InputError
from dsmap.metrics import distances
from dsmap.metrics.classifier import fit_classifier
from dsmap.metrics.distances import FrechetDistance, KernelDistance, KernelReference, frechet_distance, kernel_distance
from dsmap.metrics.intervals import bootstrap, distance_interval, mean_interval, share_interval


def features(n, d=12, seed=0, shift=0.0, scale=1.0):
    """Correlated, skewed features with means far from 0, as networks give them."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((d, d))
    return scale * (np.exp(0.5 * rng.standard_normal((n, d))) @ mixing / d**0.5 + 3) + shift


class AsTheyAre(nn.Module):
    """For torchmetrics: a feature network whose images are features already."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features = num_features

    def forward(self, x):
        return x


def torchmetrics_distance(metric, x, y):
    metric.update(torch.from_numpy(y), real=True)
    metric.update(torch.from_numpy(x), real=False)
    return metric.compute()


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 16), (200, 300, 64), (40, 60, 96)])
def test_frechet_as_torchmetrics_has_it(n, m, d):
    from torchmetrics.image.fid import FrechetInceptionDistance

    x, y = features(n, d, 1, shift=0.1), features(m, d, 2)
    expected = torchmetrics_distance(FrechetInceptionDistance(AsTheyAre(d)), x, y).item()
    assert expected > 0.1
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-4)


def test_frechet_of_normal_distributions():
    """Independent features: the sum of (mean difference)^2 + (difference of deviations)^2."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200_000, 3)) * (1, 2, 3) + (5, 0, 0), rng.standard_normal((200_000, 3))
    assert frechet_distance(x, y) == pytest.approx(25 + 0 + 1 + 4, rel=0.01)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
@pytest.mark.parametrize(("n", "d"), [(60, 16), (60, 200)])
def test_kernel_distance_as_torchmetrics_has_it(n, d):
    from torchmetrics.image.kid import KernelInceptionDistance

    x, y = features(n, d, 1, shift=0.1), features(n, d, 2)
    metric = KernelInceptionDistance(AsTheyAre(d), subsets=1, subset_size=n)
    expected = torchmetrics_distance(metric, x, y)[0].item()
    assert abs(expected) > 1e-3
    assert kernel_distance(x, y, standardise=False) == pytest.approx(expected, rel=1e-6)


def test_identical_folders_are_at_0():
    x = features(50)
    twice = np.concatenate([x, x[:5]])  # five images lie in the folder under two names
    noise = 1 + 1e-7 * np.random.default_rng(0).standard_normal(x.shape)  # float32 on another machine
    for one, other in ((x, x), (x, x[::-1]), (twice, twice[::-1]), (x, x * noise)):
        for standardise in (False, True):
            assert kernel_distance(one, other, standardise=standardise) == pytest.approx(0, abs=1e-4)
        assert frechet_distance(one, other) == pytest.approx(0, abs=1e-8)


def test_images_in_both_sets_are_not_compared_with_themselves():
    x, y = features(30, seed=1), features(30, seed=2)
    overlapping = np.concatenate([x[:15], y[15:]])
    usual = naive_kernel_distance(overlapping, y, np.ones(30), np.ones(30), np.zeros((30, 30), bool))
    same = np.zeros((30, 30), bool)
    same[np.arange(15, 30), np.arange(15, 30)] = True
    found = kernel_distance(overlapping, y, standardise=False)
    assert found == pytest.approx(naive_kernel_distance(overlapping, y, np.ones(30), np.ones(30), same))
    assert found > usual + 1e-3


def test_a_shuffled_half_is_at_about_0():
    everything = features(400, 12, seed=3)
    np.random.default_rng(0).shuffle(everything)
    one, other = everything[:200], everything[200:]
    for standardise in (False, True):
        halves = KernelDistance(one, KernelReference(other, standardise=standardise))
        interval = distance_interval(halves, resamples=100)
        assert interval.low < 0 < interval.high
        assert interval.high < 0.1 * kernel_distance(one + 1, other, standardise=standardise)
    assert frechet_distance(one, other) < 0.05 * frechet_distance(one + 1, other)


def test_standardised_features_have_no_unit():
    x, y = features(40, seed=1, shift=0.2), features(50, seed=2)
    unit = np.logspace(-3, 3, 12)
    assert kernel_distance(x * unit, y * unit) == pytest.approx(kernel_distance(x, y))
    assert kernel_distance(x * unit, y * unit, standardise=False) != pytest.approx(
        kernel_distance(x, y, standardise=False)
    )


def naive_kernel_distance(x, y, x_drawn, y_drawn, same, content=None):
    """Pair by pair, of images that are drawn several times; `content` numbers the contents of x."""
    content = np.arange(len(x)) if content is None else content

    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3

    def mean(pairs):
        total = weight = 0.0
        for value, w in pairs:
            total, weight = total + w * value, weight + w
        return total / weight

    xs, ys = range(len(x)), range(len(y))
    within = mean((kernel(x[i], x[j]), x_drawn[i] * x_drawn[j]) for i, j in product(xs, xs) if content[i] != content[j])
    reference = mean((kernel(y[i], y[j]), y_drawn[i] * y_drawn[j]) for i, j in product(ys, ys) if i != j)
    across = mean((kernel(x[i], y[j]), x_drawn[i] * y_drawn[j]) for i, j in product(xs, ys) if not same[i, j])
    return within + reference - 2 * across


def test_resampled_kernel_distance_pair_by_pair():
    x, y = features(14, 6, 1), features(9, 6, 2)
    x[3] = y[4]
    same = np.zeros((14, 9), bool)
    same[3, 4] = True
    contents = ["b", "a", "b", "c", "a", "d", "d", "d", "c", "b", "e", "e", "a", "f"]
    number = np.array([sorted(set(contents), key=contents.index).index(c) for c in contents])
    distance = KernelDistance(x, KernelReference(y, standardise=False), contents=contents)
    assert (distance.contents, distance.references) == (6, 9)
    rng = np.random.default_rng(0)
    for counts, reference_counts in ((np.ones(6), np.ones(9)), (rng.integers(0, 3, 6), rng.integers(0, 3, 9))):
        expected = naive_kernel_distance(x, y, counts[number], reference_counts, same, number)
        assert distance(counts, reference_counts) == pytest.approx(expected)
    assert distance() == distance(np.ones(6), np.ones(9))


@pytest.mark.parametrize("d", [4, 40])
def test_resampled_frechet_distance_is_that_of_repeated_images(d):
    x, y = features(20, d, 1), features(30, d, 2)
    rng = np.random.default_rng(0)
    counts, reference_counts = rng.integers(0, 3, 10), rng.integers(0, 3, 30)
    distance = FrechetDistance(x, y, contents=np.repeat(range(10), 2).tolist())
    repeated = np.repeat(x, np.repeat(counts, 2), axis=0), np.repeat(y, reference_counts, axis=0)
    assert distance(counts, reference_counts) == pytest.approx(frechet_distance(*repeated))
    assert distance() == pytest.approx(frechet_distance(x, y))


def test_many_styles_of_one_content_do_not_add_to_the_kernel_distance():
    """Results of the reference's distribution, ten of each content that are nearly alike: 0 on average."""
    with_contents, without = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        contents, y = rng.standard_normal((20, 8)), rng.standard_normal((100, 8))
        x = np.repeat(contents, 10, axis=0) + 0.01 * rng.standard_normal((200, 8))
        with_contents.append(
            KernelDistance(x, KernelReference(y, standardise=False), contents=np.repeat(range(20), 10).tolist())()
        )
        without.append(kernel_distance(x, y, standardise=False))
    assert abs(np.mean(with_contents)) < 3 * np.std(with_contents) / 40**0.5 < 0.05
    assert np.mean(without) > 0.3


def test_distances_need_two_images():
    x = features(5)
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(InputError, match="two results or more, got 1"):
            distance(x[:1], x)
        with pytest.raises(InputError, match="two reference images or more, got 0"):
            distance(x, x[:0])
        with pytest.raises(ValueError, match="expected"):
            distance(x, x[:, :3])
    with pytest.raises(InputError, match="one content"):
        KernelDistance(x, KernelReference(x, standardise=True), contents=["a"] * 5)
    with pytest.raises(ValueError, match="4 contents for 5"):
        FrechetDistance(x, x, contents=["a"] * 4)


def test_the_training_ranks_checkpoints_by_the_same_distance():
    from dsmap.training import checkpoint_score as quality

    assert quality.kernel_distance is distances.kernel_distance


def test_interval_of_a_mean():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = mean_interval(values, resamples=4000)
    half = 1.96 * values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05 * half)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values) != mean_interval(values, seed=1)


def test_results_of_one_content_are_drawn_together():
    values = np.random.default_rng(0).normal(5, 2, 40)
    contents = [f"content {i}" for i in range(40) for _ in range(10)]
    alone, together = mean_interval(values), mean_interval(np.repeat(values, 10), contents)
    assert together == pytest.approx(alone)
    naive = mean_interval(np.repeat(values, 10))
    assert together.high - together.low > 2.5 * (naive.high - naive.low)


def test_scores_that_do_not_exist_are_left_out():
    values = np.random.default_rng(0).normal(5, 2, 40)
    gaps = np.insert(values, [0, 7, 40], np.nan)
    contents = list(range(43))
    assert mean_interval(gaps, contents) == mean_interval(values)
    assert mean_interval([np.nan, np.nan]) is None
    assert mean_interval([1.0, np.nan]) is None
    assert mean_interval([1.0, 2.0, 3.0], ["a", "a", "a"]) is None


def test_intervals_end_where_values_end():
    assert mean_interval([0.9, 1.0, 1.0, 1.0], limits=(0, 1)).high == 1
    assert mean_interval([0.9, 1.0, 1.0, 1.0]).high > 1
    x = features(12)
    near = FrechetDistance(x, x)
    assert distance_interval(near, resamples=10).low == 0


def test_a_share_of_all_or_none():
    assert share_interval([1, 1, 0, 1]) is None
    assert share_interval([1] * 30) == (0.9, 1)
    assert share_interval([0] * 60) == (0, 0.05)
    assert share_interval([1] * 30, [i // 3 for i in range(30)]) == (0.7, 1)  # of ten contents
    assert share_interval([0, 0]) == (0, 1)
    assert share_interval([1]) is None


def test_any_statistic_can_be_bootstrapped():
    drawn = []
    interval = bootstrap(lambda counts: float(drawn.append(counts) or 7), 5, value=7, resamples=30, seed=3)
    assert interval == (7, 7)
    assert len(drawn) == 30
    assert {int(counts.sum()) for counts in drawn} == {5}
    assert min(np.count_nonzero(counts) for counts in drawn) >= 2
    assert np.mean(drawn, axis=0) == pytest.approx(1, abs=0.6)
    two = []
    bootstrap(lambda counts: float(two.append(tuple(counts)) or 0), 2, value=0, resamples=20)
    assert set(two) == {(1, 1)}  # two of one alone have no spread
    assert bootstrap(lambda counts: 0.0, 1, value=0) is None


def test_the_interval_of_a_distance_is_as_wide_as_repetitions_differ():
    kernel, frechet, kernel_half, frechet_half = [], [], [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x, y = rng.standard_normal((40, 4)) + 1, rng.standard_normal((60, 4))
        k, f = KernelDistance(x, KernelReference(y, standardise=False)), FrechetDistance(x, y)
        kernel.append(k())
        frechet.append(f())
        k_interval = distance_interval(k, value=k(), resamples=100, seed=seed)
        f_interval = distance_interval(f, resamples=40, seed=seed)
        kernel_half.append((k_interval.high - k_interval.low) / 2)
        frechet_half.append((f_interval.high - f_interval.low) / 2)
        assert sum(k_interval) / 2 == pytest.approx(k())
    assert np.mean(kernel_half) == pytest.approx(1.96 * np.std(kernel), rel=0.4)
    assert np.mean(frechet_half) == pytest.approx(1.96 * np.std(frechet), rel=0.4)


def test_the_reference_is_drawn_as_well():
    class Reference:
        contents, references, resamples, limits = 3, 50, 40, (-np.inf, np.inf)

        def __call__(self, counts=None, reference_counts=None):
            return 0.0 if reference_counts is None else float(reference_counts @ np.arange(50)) / 50

    low, high = distance_interval(Reference())
    expected = 1.96 * np.arange(50).std() / 50**0.5
    assert high - low == pytest.approx(2 * expected, rel=0.4)
    assert distance_interval(Reference()) == distance_interval(Reference())


def two_domains(n, m, apart, d=4, seed=0):
    rng = np.random.default_rng(seed)
    source, target = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    source[:, 1] -= apart / 2
    target[:, 1] += apart / 2
    return source * (1, 10, 100, 0.01) + 7, target * (1, 10, 100, 0.01) + 7


def test_the_classifier_knows_the_odds():
    """Two normal distributions two deviations apart, of unequal size: log odds 2x, right in 84.1 % of cases."""
    source, target = two_domains(3000, 1000, apart=2)
    classifier = fit_classifier(source, target)
    assert classifier.accuracy == pytest.approx(0.841, abs=0.015)
    assert classifier.held_out == 4000
    x = np.full((5, 4), 7.0)
    x[:, 1] += 10 * np.linspace(-1, 1, 5)
    expected = 1 / (1 + np.exp(-2 * np.linspace(-1, 1, 5)))
    assert classifier.probability(x) == pytest.approx(expected, abs=0.03)
    assert classifier.probability(x * (1, 1e6, 1, 1))[[0, -1]] == pytest.approx([0, 1])  # no overflow
    assert classifier.reliable
    assert f"right on {classifier.accuracy:.1%} of 4000 held-out images" in classifier.reliability
    again = fit_classifier(source, target)
    assert np.array_equal(again.weight_d, classifier.weight_d)
    assert again.accuracy == classifier.accuracy


def test_a_classifier_that_cannot_know_says_so():
    source, target = two_domains(60, 200, apart=0, d=4)
    many = np.random.default_rng(1).standard_normal((260, 300))  # as separable as noise can be, where it was fitted
    classifier = fit_classifier(np.hstack([source, many[:60]]), np.hstack([target, many[60:]]))
    assert classifier.accuracy == pytest.approx(0.5, abs=0.12)
    assert not classifier.reliable
    assert "too few" in classifier.reliability


def test_the_classifier_on_test_images():
    source, target = two_domains(300, 300, apart=6)
    test = two_domains(50, 70, apart=6, seed=1)
    classifier = fit_classifier(source, target, test=test)
    assert classifier.held_out == 120
    assert classifier.accuracy > 0.98
    assert fit_classifier(source, target, test=test[::-1]).accuracy < 0.02
    assert classifier.probability(test[0]).mean() < 0.1 < 0.9 < classifier.probability(test[1]).mean()


def test_a_classifier_needs_images_and_bears_dead_features():
    source, target = two_domains(20, 20, apart=4)
    with pytest.raises(InputError, match="5 images of the target domain or more, got 4"):
        fit_classifier(source, target[:4])
    dead = [np.hstack([x, np.full((20, 2), 3.0)]) for x in (source, target)]
    assert fit_classifier(*dead).weight_d[-2:].tolist() == [0, 0]
