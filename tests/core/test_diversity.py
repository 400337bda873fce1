"""Similarity-weighted diversity: a mean of products, and the diversity of answers."""

import pytest
import torch
from likeness.core.metrics.diversity import swd, vqa_diversity


def test_it_is_the_mean_of_products():
    """Half of the pictures are likenesses, half follow their prompts: the product of means would be 0.25."""
    diversity, similarity = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    assert float(swd(diversity, similarity).mean()) == 0.0
    assert float(diversity.mean() * similarity.mean()) == 0.25
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(50, 1, generator=g), torch.rand(50, 1, generator=g)
    assert float(swd(a, b).mean()) == pytest.approx(sum(float(x) * float(y) for x, y in zip(a, b)) / 50, rel=1e-6)


def test_each_reference_has_its_own_product():
    """The likest of two references has the same answers: the product of their means would be 0.25."""
    diversity, similarity = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    assert swd(diversity, similarity).tolist() == [0.0]
    prompt = torch.tensor([[0.5], [1.0]])  # knows no reference
    assert swd(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), prompt).tolist() == [0.25, 1.0]


def test_it_is_bounded_by_cauchy_and_schwarz():
    g = torch.Generator().manual_seed(1)
    a, b = torch.rand(40, 1, generator=g), torch.rand(40, 1, generator=g)
    assert float(swd(a, b).mean()) ** 2 <= float(a.square().mean() * b.square().mean()) + 1e-7  # Eq. 2


def test_answers_that_differ():
    words = ["standing", "sitting", "left", "right"]

    def embed(texts):
        return torch.tensor([[float(w in t) for w in words] for t in texts])

    same, half, none = ["standing", "left"], ["standing", "right"], ["sitting", "right"]
    found = vqa_diversity([same, half, none], [same, same, same], embed)
    assert torch.allclose(found, torch.tensor([0.0, 0.5, 1.0]), atol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"diversity of shape \(2,\) and similarity of shape \(3,\)"):
        swd(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="diversity of shape"):
        swd(torch.zeros(2, 1), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="diversity of shape"):
        swd(torch.zeros(0, 1), torch.zeros(0, 1))
    with pytest.raises(ValueError, match="answers: give the same questions' answers"):
        vqa_diversity([["a"]], [["a", "b"]], lambda texts: torch.zeros(len(texts), 2))
