"""References: concept masks, cut-outs, sets of them."""

import pytest
import torch
from likeness.core.retrinet.reference import (
    FACE_MARGIN,
    GREY,
    References,
    box_mask,
    concept_mask,
    cut_out,
)


def block(size, top, bottom, left, right):
    mask = torch.zeros(1, *size)
    mask[:, top:bottom, left:right] = 1
    return mask


def test_a_box_is_a_mask():
    assert torch.equal(box_mask((0.5, 0.25, 0.5, 0.5), (8, 16)), block((8, 16), 0, 4, 4, 12))
    assert torch.equal(box_mask((0.5, 0.5, 0.25, 0.25), (16, 16), 0.5), block((16, 16), 4, 12, 4, 12))


def test_concepts():
    size, face = (20, 20), (0.5, 0.2, 0.2, 0.2)
    figure = block(size, 0, 20, 6, 14)
    head = box_mask(face, size, FACE_MARGIN)
    word, mask = concept_mask("face", figure, face)
    assert word == "face" and torch.equal(mask, head * figure)
    word, mask = concept_mask("clothes", figure, face)
    assert word == "clothes" and torch.equal(mask, figure * (1 - box_mask(face, size)))
    clothes = block(size, 5, 20, 6, 14)
    assert torch.equal(concept_mask("clothes", figure, face, clothes)[1], clothes)
    assert torch.equal(concept_mask("face", figure, face, clothes)[1], head * figure * (1 - clothes))
    assert torch.equal(concept_mask("figure", figure, face)[1], figure)
    # a portrait has no clothes to speak of
    assert concept_mask("clothes", figure, (0.5, 0.4, 1.0, 0.8))[0] == "figure"
    with pytest.raises(ValueError, match="concept: 'hat' is none of face, clothes, figure"):
        concept_mask("hat", figure, face)
    with pytest.raises(ValueError, match="concept: there is no face box"):
        concept_mask("face", figure, None)


def test_a_cut_out_fills_the_square():
    image = torch.zeros(3, 40, 30)
    image[0] = 1
    square, where = cut_out(image, block((40, 30), 10, 30, 5, 15), 64)
    # twice as high as wide: 64 x 32 in the middle, grey beside it
    assert torch.allclose(where, block((64, 64), 0, 64, 16, 48), atol=0.5)
    assert square[:, 32, 32].tolist() == [1.0, 0.0, 0.0]
    assert torch.equal(square[:, :, :14], torch.full((3, 64, 14), GREY))
    assert float(where.mean()) == pytest.approx(0.5, abs=0.01)


def test_mistakes_are_named():
    image = torch.zeros(3, 8, 8)
    with pytest.raises(ValueError, match="mask: a reference's mask is empty"):
        cut_out(image, torch.zeros(1, 8, 8), 64)
    with pytest.raises(ValueError, match=r"mask: it is \(4, 4\), the picture \(8, 8\)"):
        cut_out(image, torch.ones(1, 4, 4), 64)
    with pytest.raises(ValueError, match="mask: a reference's mask is empty"):
        References(torch.zeros(2, 4, 8, 8), torch.zeros(2, 77, 32), torch.stack([torch.ones(8, 8), torch.zeros(8, 8)]))
