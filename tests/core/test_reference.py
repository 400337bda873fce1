"""Which source picture guides, against vectors by hand and the embedded judge."""

import pytest
import torch
from likeness.core.demo import judges, world
from likeness.core.hifi.reference import pick


class Means:
    """A picture's vector is its three channels' means, of unit length."""

    def images(self, images):
        return torch.nn.functional.normalize(images.mean((2, 3)), dim=-1)


def flat(*colours):
    return torch.tensor(colours).float()[..., None, None].expand(-1, -1, 4, 6)


def test_the_highest_cosine_is_picked():
    index, similarities = pick(Means(), flat([0.4, 0.3, 0]), flat([0, 1, 0], [0.5, 0.5, 0], [1, 0, 0], [0, 0, 1]))
    torch.testing.assert_close(similarities, torch.tensor([0.6, 0.7 * 2**0.5, 0.8, 0]))
    assert index == 1 and isinstance(index, int)


def test_of_equals_the_first_is_picked():
    assert pick(Means(), flat([1, 0, 0]), flat([0, 1, 0], [1, 0, 0], [0.5, 0, 0]))[0] == 1


def test_pictures_may_have_other_sizes():
    assert pick(Means(), flat([1, 0, 0]), torch.ones(2, 3, 9, 9))[1].shape == (2,)


def test_with_masks_only_subjects_count():
    """Red on blue; its own red stands on green, and the same blue behind a green subject."""
    mask = torch.zeros(1, 4, 6)
    mask[..., :2] = 1
    red, green, blue = flat([1, 0, 0], [0, 1, 0], [0, 0, 1])[:, None]
    generated = mask * red + (1 - mask) * blue
    sources = torch.cat([mask * green + (1 - mask) * blue, mask * red + (1 - mask) * green])
    assert pick(Means(), generated, sources)[0] == 0
    index, similarities = pick(Means(), generated, sources, mask, mask.expand(2, -1, -1))
    assert index == 1 and similarities[1] == pytest.approx(1)
    # a third of the picture coloured, white elsewhere: (1, 2/3, 2/3) and (2/3, 1, 2/3)
    assert similarities[0] == pytest.approx(16 / 17)
    assert torch.equal(pick(Means(), generated, sources, mask, mask)[1], similarities)


def test_the_embedded_judge_picks_the_same_cat():
    subjects = [world.held_out_subjects(3, "cat")[i] for i in range(3)]
    shots = [world.photos(subject, 2, seed=i, view="front", style="photo") for i, subject in enumerate(subjects)]
    sources, masks = (torch.stack([getattr(pair[0], name) for pair in shots]) for name in ("image", "mask"))
    dino = judges.dino()
    for i, (_, shot) in enumerate(shots):
        index, similarities = pick(dino, shot.image[None], sources, shot.mask, masks[:, 0])
        assert index == i and similarities[i] > 0.6
        assert index == int(similarities.argmax())
    assert pick(dino, sources[1:2], sources)[1][1] == pytest.approx(1, abs=1e-5)


def test_errors_say_what_was_wrong():
    one, mask = flat([1, 0, 0]), torch.ones(1, 4, 6)
    with pytest.raises(ValueError, match="2 generated pictures"):
        pick(Means(), one.repeat(2, 1, 1, 1), one)
    with pytest.raises(ValueError, match="no source pictures"):
        pick(Means(), one, one[:0])
    with pytest.raises(ValueError, match="generated_mask is missing"):
        pick(Means(), one, one, None, mask)
    with pytest.raises(ValueError, match="source_masks is missing"):
        pick(Means(), one, one, mask)
    with pytest.raises(ValueError, match=r"masks \[0\] are empty"):
        pick(Means(), one, one, mask, 0 * mask)
