"""Distances between distributions and likeness of embeddings, against closed forms, scipy, and the long way round."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from likeness.core.metrics.overfitting import wasserstein2, wasserstein2_by_prompt
from likeness.core.metrics.similarity import _student, average, best, masked, matched, paired_bootstrap, similarity


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# --- Wasserstein -----------------------------------------------------------------------------------------------------


def normal(n, d, seed, scale=1.0):
    """Correlated samples, (n, d)."""
    g = seeded(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return scale * torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + torch.randn(d, generator=g).double()


def whitened(n, d, seed):
    """Samples whose mean is exactly 0 and covariance exactly the identity."""
    x = torch.randn(n, d, generator=seeded(seed), dtype=torch.float64)
    return torch.linalg.qr(x - x.mean(0)).Q * math.sqrt(n - 1)


def by_sqrtm(a, b, regularisation=0.0):
    """The textbook formula on covariance matrices."""
    a, b = a.flatten(1).double().numpy(), b.flatten(1).double().numpy()
    s1, s2 = (np.cov(x, rowvar=False) + regularisation * np.eye(x.shape[1]) for x in (a, b))
    root = scipy.linalg.sqrtm(s1)
    cross = scipy.linalg.sqrtm(root @ s2 @ root).real
    return float(np.sqrt(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * cross)))


def test_wasserstein_in_one_dimension():
    a, b = 2 * torch.randn(50, 1, generator=seeded(1)) + 1, torch.randn(80, 1, generator=seeded(2))
    found = wasserstein2(a, b)
    assert found.w2 == pytest.approx(math.hypot(float(a.mean() - b.mean()), float(a.std() - b.std())), rel=1e-5)
    assert found.n == (50, 80)


@pytest.mark.parametrize("n, d", [(40, 6), (5, 12)])
def test_wasserstein_of_a_translation_is_its_length(n, d):
    a, shift = normal(n, d, 3), normal(1, d, 4)
    assert wasserstein2(a, a + shift).w2 == pytest.approx(float(shift.norm()), rel=1e-9)


def test_wasserstein_of_diagonal_gaussians():
    s1, s2 = torch.tensor([1.0, 2, 3, 0.5]).double(), torch.tensor([2.0, 2, 0, 4]).double()
    mean = torch.tensor([0.5, 0, -1, 2]).double()
    found = wasserstein2(whitened(30, 4, 5) * s1, whitened(20, 4, 6) * s2 + mean)
    assert found.w2 == pytest.approx(float(((s1 - s2).square() + mean.square()).sum().sqrt()), rel=1e-9)


@pytest.mark.parametrize("n, m", [(60, 60), (60, 35)])
def test_wasserstein_agrees_with_the_matrix_square_root(n, m):
    a, b = normal(n, 8, 7), normal(m, 8, 8, scale=0.6)
    assert wasserstein2(a, b).w2 == pytest.approx(by_sqrtm(a, b), rel=1e-6)


@pytest.mark.parametrize("n, m", [(6, 6), (9, 5), (4, 60)])
def test_with_fewer_samples_than_dimensions_it_is_the_limit_of_regularisation(n, m):
    a, b = normal(n, 12, 9), normal(m, 12, 10)
    found = wasserstein2(a, b).w2
    errors = [abs(by_sqrtm(a, b, r) - found) / found for r in (1e-2, 1e-4, 1e-6)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2] and errors[2] < 1e-4


def test_wasserstein_is_the_nuclear_norm_form():
    a, b = normal(7, 20, 11), normal(10, 20, 12)
    roots = [(x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (a, b)]
    traces = sum(r.square().sum() for r in roots) - 2 * torch.linalg.matrix_norm(roots[0] @ roots[1].T, "nuc")
    assert wasserstein2(a, b).w2 == pytest.approx(float(((a.mean(0) - b.mean(0)).square().sum() + traces).sqrt()))


@pytest.mark.parametrize("n, d", [(40, 6), (5, 12)])
def test_wasserstein_is_a_distance(n, d):
    a, b, c = normal(n, d, 13), normal(n + 3, d, 14), normal(n, d, 15)
    assert wasserstein2(a, b).w2 == pytest.approx(wasserstein2(b, a).w2, rel=1e-10)
    assert wasserstein2(a, c).w2 <= wasserstein2(a, b).w2 + wasserstein2(b, c).w2
    # the difference of traces would stop near 1e-7 here
    assert wasserstein2(a, a.clone()).w2 < 1e-12 < 1e-2 < wasserstein2(a, b).w2
    assert wasserstein2(a, a.flip(0)).w2 < 1e-12
    rotation = torch.linalg.qr(normal(d, d, 16)).Q
    assert wasserstein2(a @ rotation, b @ rotation).w2 == pytest.approx(wasserstein2(a, b).w2, rel=1e-10)
    assert wasserstein2(3 * a, 3 * b).w2 == pytest.approx(3 * wasserstein2(a, b).w2, rel=1e-10)


def test_latents_are_flattened():
    a, b = torch.randn(5, 2, 3, 4, generator=seeded(17)), torch.randn(6, 2, 3, 4, generator=seeded(18))
    assert wasserstein2(a, b) == wasserstein2(a.reshape(5, -1), b.reshape(6, -1))
    assert wasserstein2(a.half(), b.half()).w2 == pytest.approx(wasserstein2(a, b).w2, rel=1e-2)


def test_prompts_are_reported_one_by_one_and_pooled():
    samples = {name: (normal(9, 6, s), normal(9, 6, s + 1)) for name, s in (("a cat", 20), ("a dog", 30))}
    found = wasserstein2_by_prompt(samples)
    assert found.prompts == {name: wasserstein2(*pair) for name, pair in samples.items()}
    pools = [torch.cat(side) for side in zip(*samples.values())]
    assert found.pooled.w2 == pytest.approx(wasserstein2(*pools).w2, rel=1e-10)
    assert found.pooled.n == (18, 18)


def test_each_prompt_weighs_the_same_in_the_pool():
    sides = [[normal(n, 1, s) + far for n, s, far in side] for side in ([(30, 40, 0), (10, 41, 9)],
                                                                       [(12, 42, 0), (25, 43, 9)])]  # fmt: skip
    found = wasserstein2_by_prompt({"a cat": (sides[0][0], sides[1][0]), "a dog": (sides[0][1], sides[1][1])})
    means, deviations = [], []
    for side in sides:
        x, w = torch.cat(side)[:, 0].numpy(), np.concatenate([np.full(len(g), 0.5 / len(g)) for g in side])
        means.append(np.average(x, weights=w))
        deviations.append(np.sqrt(np.cov(x, aweights=w)))
    expected = math.hypot(means[0] - means[1], deviations[0] - deviations[1])
    assert found.pooled.w2 == pytest.approx(expected, rel=1e-8)
    assert found.pooled.n == (40, 37)


def test_wasserstein_errors_say_what_was_wrong():
    with pytest.raises(ValueError, match="at least two each"):
        wasserstein2(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="3 and 4 dimensions"):
        wasserstein2(torch.zeros(5, 3), torch.zeros(5, 4))
    with pytest.raises(ValueError, match="not finite"):
        wasserstein2(torch.zeros(5, 3), torch.full((5, 3), math.nan))
    with pytest.raises(ValueError, match="no prompts"):
        wasserstein2_by_prompt({})


# --- similarity ------------------------------------------------------------------------------------------------------


def test_similarity_is_the_cosine():
    a, b = torch.tensor([[3.0, 4], [1, 0]]), torch.tensor([[10.0, 0], [0, 2], [-6, -8]])
    torch.testing.assert_close(similarity(a, b), torch.tensor([[0.6, 0.8, -1], [1, 0, -0.6]]))
    torch.testing.assert_close(matched(a, b[:2]), torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(average(a, b), torch.tensor([0.4 / 3, 0.4 / 3]))
    values, which = best(a, b)
    torch.testing.assert_close(values, torch.tensor([0.8, 1.0]))
    assert which.tolist() == [1, 0]
    assert similarity(a.half(), b.half()).dtype == torch.float32
    assert similarity(torch.zeros(1, 2), b).tolist() == [[0, 0, 0]]


def test_masks_lay_the_subject_on_a_plain_background():
    images = torch.rand(2, 3, 1, 3, generator=seeded(50))
    masks = torch.tensor([0.0, 0.25, 1]).expand(2, 1, 1, 3)
    cut = masked(images, masks)
    assert (cut[..., 0] == 1).all() and torch.equal(cut[..., 2], images[..., 2])
    torch.testing.assert_close(cut[..., 1], 0.25 * images[..., 1] + 0.75)
    assert torch.equal(masked(images, masks[:1, 0]), cut) and torch.equal(masked(images, masks[:, 0]), cut)
    green = masked(images, masks > 0.5, (0.0, 1.0, 0.5))
    assert green[:, :, 0, 0].tolist() == [[0, 1, 0.5]] * 2 and torch.equal(green[..., 2], images[..., 2])


def test_similarity_errors_say_what_was_wrong():
    images, masks = torch.zeros(2, 3, 4, 4), torch.ones(2, 1, 4, 4)
    with pytest.raises(ValueError, match="don't compare"):
        similarity(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="row by row"):
        matched(torch.zeros(2, 3), torch.zeros(1, 3))
    for wrong in (torch.ones(2, 1, 4, 5), torch.ones(3, 1, 4, 4), torch.ones(2, 3, 4, 4)):
        with pytest.raises(ValueError, match="don't fit"):
            masked(images, wrong)
    with pytest.raises(ValueError, match="from 255 to 255"):
        masked(images, 255 * masks)
    masks[1] = 0
    with pytest.raises(ValueError, match=r"masks \[1\] are empty"):
        masked(images, masks)


# --- bootstrap -------------------------------------------------------------------------------------------------------


def drawn(subjects, each, seed, between=1.0, within=0.5):
    g = seeded(seed)
    centres = 0.3 + between * torch.randn(subjects, 1, generator=g)
    values = centres + within * torch.randn(subjects, each, generator=g)
    return {str(i): row for i, row in enumerate(values)}


@pytest.mark.parametrize("subjects, level", [(6, 0.8), (12, 0.8), (12, 0.95), (40, 0.95)])
def test_the_bootstrap_interval_of_normal_subjects_is_their_t_interval(subjects, level):
    differences = drawn(subjects, 5, seed=subjects)
    means = torch.stack([v.mean() for v in differences.values()]).double()
    found = paired_bootstrap(differences, level=level)
    wide = scipy.stats.t.interval(level, subjects - 1, float(means.mean()), float(means.std()) / math.sqrt(subjects))
    assert found.mean == pytest.approx(float(means.mean())) and found.subjects == subjects
    assert found.high - found.low == pytest.approx(wide[1] - wide[0], rel=0.04)
    assert found.low < found.mean < found.high


def test_the_expansion_of_student_s_quantile():
    for freedom in (5, 11, 39):
        for tail in (0.1, 0.025):
            assert _student(tail, freedom) == pytest.approx(scipy.stats.t.ppf(tail, freedom), rel=0.2 / freedom**3)


def test_the_bootstrap_covers_what_it_says():
    found = [paired_bootstrap(drawn(10, 4, seed), n=1000, seed=seed) for seed in range(600)]
    covered = sum(i.low <= 0.3 <= i.high for i in found) / 600
    # 0.95 give or take three standard errors and the discreteness of ten subjects; plain percentiles cover 0.91
    assert 0.925 < covered < 0.98


def test_the_bootstrap_resamples_subjects_not_pictures():
    differences = drawn(8, 3, seed=1)
    repeated = {k: v.repeat(20 if k == "0" else 10) for k, v in differences.items()}
    assert paired_bootstrap(repeated).high == pytest.approx(paired_bootstrap(differences).high, abs=1e-6)
    alike = {str(i): [0.1, 0.9, -0.4, 0.2] for i in range(5)}
    found = paired_bootstrap(alike)
    assert [found.low, found.high] == pytest.approx([0.2, 0.2]), "pictures differ, subjects don't"


def test_the_bootstrap_is_deterministic():
    differences = drawn(8, 3, seed=2)
    assert paired_bootstrap(differences, seed=3) == paired_bootstrap(differences, seed=3)
    assert paired_bootstrap(differences, seed=3) != paired_bootstrap(differences, seed=4)
    narrow, wide = paired_bootstrap(differences, level=0.5), paired_bootstrap(differences, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_bootstrap_errors_say_what_was_wrong():
    with pytest.raises(ValueError, match="1 subjects"):
        paired_bootstrap({"a cat": [0.1, 0.2]})
    with pytest.raises(ValueError, match=r"\['a dog'\] have no differences"):
        paired_bootstrap({"a cat": [0.1, 0.2], "a dog": []})
    with pytest.raises(ValueError, match="level 95"):
        paired_bootstrap({"a cat": [0.1], "a dog": [0.2]}, level=95)
