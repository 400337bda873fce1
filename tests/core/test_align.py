"""The alignment of masks: closed forms, pictures warped by Pillow, and demo-world masks moved by known amounts."""

import math
import random
import time
from itertools import pairwise

import pytest
import torch
from likeness.core.demo import world
from likeness.core.hifi.align import Similarity, align, iou
from PIL import Image

SIZE = 512


def box(left, top, right, bottom, size=(200, 200)):
    mask = torch.zeros(1, *size)
    mask[:, top:bottom, left:right] = 1
    return mask


def wedge(size=(200, 240)):
    """A long L, which no rotation maps to itself."""
    return torch.maximum(box(70, 60, 90, 140, size), box(70, 125, 105, 140, size))


def disc(radius, x=0.0, y=0.0, size=200):
    across = torch.arange(size) + 0.5 - size / 2
    return (((across - x) ** 2)[None] + ((across - y) ** 2)[:, None] <= radius**2).float()[None]


def warped(mask, truth, size):
    """A mask (1, H, W) under the transform by Pillow, which knows corners, not centres."""
    turn, (height, width) = math.radians(truth.angle), mask.shape[1:]
    c, s = math.cos(turn) / truth.scale, math.sin(turn) / truth.scale
    x = width / 2 - truth.shift[0] - c * size[1] / 2 - s * size[0] / 2
    y = height / 2 - truth.shift[1] + s * size[1] / 2 - c * size[0] / 2
    picture = Image.frombytes("L", (width, height), (mask[0] * 255).byte().numpy().tobytes())
    moved = picture.transform(size[::-1], Image.Transform.AFFINE, (c, s, x, -s, c, y), Image.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(moved.tobytes()), dtype=torch.uint8).reshape(1, *size) / 255


def middle(mask):
    """Centroid of a mask, (x, y) from the picture's middle."""
    y, x = (mask[0] > 0.5).nonzero().float().mean(0).tolist()
    return torch.tensor([x + 0.5 - mask.shape[2] / 2, y + 0.5 - mask.shape[1] / 2])


def spread(mask):
    """Root of the mean squared distance of a mask from its centroid; pixels are squares."""
    return math.sqrt(float((mask[0] > 0.5).nonzero().float().var(0, correction=0).sum()) + 1 / 6)


def turned(a, b):
    """Degrees between two angles."""
    return abs(math.remainder(a - b, 360))


# --- the transform ---------------------------------------------------------------------------------------------------


def test_the_translation_comes_first():
    moved = Similarity(2, 90, (10, 0))(torch.tensor([[0.0, 0], [0, 5], [-10, 1]]))
    torch.testing.assert_close(moved, torch.tensor([[0.0, 20], [-10, 20], [-2, 0]]), atol=1e-5, rtol=0)


def test_it_is_the_paper_s_matrix():
    scale, angle, (x, y) = 1.3, 0.4, (7.0, -3.0)
    c, s = math.cos(angle), math.sin(angle)
    t1 = torch.diag(torch.tensor([scale, scale, 1.0]))
    t2 = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    t3 = torch.tensor([[1, 0, x], [0, 1, y], [0, 0, 1]])
    points = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)) * 50
    expected = (t1 @ t2 @ t3 @ torch.cat([points, torch.ones(5, 1)], 1).T).T[:, :2]
    torch.testing.assert_close(Similarity(scale, math.degrees(angle), (x, y))(points), expected)


def test_the_inverse_takes_points_back():
    there = Similarity(0.7, -130, (12, 31))
    points = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 100
    torch.testing.assert_close(there.inverse()(there(points)), points)
    torch.testing.assert_close(there(there.inverse()(points)), points)


def test_identity_leaves_pictures_alone():
    pictures = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(Similarity().apply(pictures, (20, 30)), pictures, atol=1e-4, rtol=0)
    torch.testing.assert_close(Similarity().apply(pictures[:, 0], (20, 30)), pictures[:, 0], atol=1e-4, rtol=0)


def test_whole_pixels_move_exactly_and_the_border_repeats():
    pictures = torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(3))
    right = Similarity(shift=(3, 0))
    moved = right.apply(pictures, (8, 10))
    torch.testing.assert_close(moved[..., 3:], pictures[..., :-3], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[..., :3], pictures[..., :1].expand(-1, -1, -1, 3), atol=1e-4, rtol=0)
    masks = right.apply(torch.ones(1, 8, 10), (8, 10))
    assert masks[0, 0].tolist() == pytest.approx([0] * 3 + [1] * 7, abs=1e-4)


def test_a_quarter_turn_is_clockwise():
    pictures = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(4))
    found = Similarity(angle=90).apply(pictures, (9, 9))
    torch.testing.assert_close(found, pictures.rot90(-1, (2, 3)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_masks_move_as_pillow_moves_them(scale):
    truth = Similarity(scale, -35, (9.5, -14))
    found, expected = truth.apply(wedge(), (260, 180)), warped(wedge(), truth, (260, 180))
    assert expected.sum() > 400 and iou(found, expected) > 0.98


def test_shrinking_averages():
    stripes = (torch.arange(64) % 2).float().expand(1, 3, 64, 64)
    found = Similarity(0.25).apply(stripes, (16, 16))
    torch.testing.assert_close(found[..., 2:-2, 2:-2], torch.full((1, 3, 12, 12), 0.5), atol=0.02, rtol=0)


# --- alignment -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [wedge(), disc(40, 10), box(10, 20, 60, 40), torch.ones(1, 64, 64)])
def test_a_mask_on_itself_is_the_identity(mask):
    found = align(mask, mask)
    assert (found.scale, found.angle) == (1, 0) and found.shift == pytest.approx((0, 0), abs=1e-4)


def test_a_rectangle_moved():
    found = align(box(40, 60, 80, 80), box(70, 100, 110, 120))
    assert found.scale == pytest.approx(1, abs=0.003) and found.angle == pytest.approx(0, abs=0.3)
    assert found.shift == pytest.approx((30, 40), abs=0.3)


def test_a_rectangle_grown_and_turned():
    """From (-40, -30) 40 x 20 to (35, 5) 40 x 80, upright: twice as large, a quarter turn either way."""
    found = align(box(40, 60, 80, 80), box(115, 65, 155, 145))
    assert found.scale == pytest.approx(2, rel=0.005) and abs(found.angle) == pytest.approx(90, abs=0.5)
    torch.testing.assert_close(found(torch.tensor([-40.0, -30])), torch.tensor([35.0, 5]), atol=0.5, rtol=0)


def test_sizes_may_differ():
    """Of a reference twice as large everything is half as long, from middle to middle."""
    large = wedge((200, 240)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    found = align(large, wedge((200, 240)))
    assert found.scale == pytest.approx(0.5, rel=0.005) and abs(found.angle) < 0.3
    assert found.shift == pytest.approx((0, 0), abs=0.6)
    wide = torch.nn.functional.pad(wedge((200, 240)), (100, 0, 0, 40))  # its middle lies 50 further left, 20 lower
    assert align(wedge((200, 240)), wide).shift == pytest.approx((50, -20), abs=0.3)


@pytest.mark.parametrize("angle", [0, 57, 118, 180, -30])
def test_what_is_round_is_not_turned_for_nothing(angle):
    found = align(disc(30, -20, 5), disc(45, 12, -9))
    assert found.angle == pytest.approx(0, abs=2) and found.scale == pytest.approx(1.5, rel=0.01)
    moved = Similarity(angle=angle).apply(disc(60), (200, 200))
    assert abs(align(disc(60), moved).angle) < 5


def test_a_limit_on_rotation_holds():
    upside_down = wedge().flip(1, 2)
    assert turned(align(wedge(), upside_down).angle, 180) < 0.5
    for limit in (0, 30):
        found = align(wedge(), upside_down, max_angle=limit)
        assert abs(found.angle) <= limit + 1e-4 and 0.6 < found.scale < 1.6


CRUEL = {
    "a pixel": box(100, 100, 101, 101),
    "a line": box(20, 90, 180, 91),
    "everything": torch.ones(1, 200, 200),
    "two blobs": torch.maximum(box(10, 10, 40, 40), box(160, 150, 195, 195)),
    "a ring": disc(80) - disc(70),
    "a disc": disc(50),
    "an L": wedge((200, 200)),
}


@pytest.mark.parametrize(("reference", "target"), [*pairwise(CRUEL), *pairwise(reversed(CRUEL))])
def test_nothing_collapses(reference, target):
    """What is laid on something else is about as large as that, and lies on it."""
    a, b = CRUEL[reference], CRUEL[target]
    found = align(a, b)
    assert spread(b) / 2 < found.scale * spread(a) < 2 * spread(b)
    assert float((found(middle(a)) - middle(b)).norm()) < spread(b)


def test_there_and_back_are_inverse():
    cat, dog = (world.photos(world.held_out_subjects(1, kind)[0], 1, view="front")[0].mask for kind in ("cat", "dog"))
    there, back = align(cat, dog), align(dog, cat).inverse()
    assert there.scale == pytest.approx(back.scale, rel=0.05) and turned(there.angle, back.angle) < 3
    assert float((there(middle(cat)) - back(middle(cat))).norm()) < 3


def test_it_is_deterministic_and_leaves_random_numbers_alone():
    state = torch.get_rng_state()
    first, second = (align(wedge(), disc(50)) for _ in range(2))
    assert first == second and torch.equal(torch.get_rng_state(), state)


def test_it_works_where_gradients_are_off():
    expected = align(wedge(), disc(50))
    with torch.inference_mode():
        found = align(wedge(), disc(50))
        assert found == expected and found.apply(wedge(), (9, 9)).is_inference()
    with torch.no_grad():
        assert align(wedge()[0], disc(50)[0]) == expected


def known(count, seed=0):
    """Masks of the demo world drawn at 128 pixels and enlarged, how they were moved, and what came of it."""
    rng = random.Random(seed)
    for i in range(count):
        scale, angle = rng.uniform(0.6, 1.6), rng.uniform(-180, 180)
        kind = ("cat", "dog", "rabbit", "car", "teapot", "duck")[i % 6]
        scene = world.random_scene(rng, scale=0.5, accessory=None)
        mask = world.draw(world.random_subject(rng, (kind,)), scene, size=SIZE // 4).mask
        mask = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)
        points = (mask[0] > 0.5).nonzero().flip(1) + 0.5 - SIZE / 2
        low, high = (edge.tolist() for edge in Similarity(scale, angle)(points).aminmax(dim=0))
        place = [rng.uniform(-SIZE / 2 + 2 - a, SIZE / 2 - 2 - b) for a, b in zip(low, high)]
        shift = Similarity(1 / scale, -angle)(torch.tensor(place)).tolist()
        truth = Similarity(scale, angle, tuple(shift))
        yield mask, truth, warped(mask, truth, (SIZE, SIZE))


def timed(mask, target):
    start = time.thread_time()
    return align(mask, target), time.thread_time() - start


@pytest.fixture
def one_thread():
    """A thread that waits for others of a busy machine counts the waiting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_known_moves_of_the_demo_world_are_recovered(one_thread):
    align(disc(20), disc(20))  # the first use of an optimiser loads half of torch
    for mask, truth, target in known(20):
        found, seconds = timed(mask, target)
        assert seconds < 1
        assert iou(found.apply(mask, (SIZE, SIZE)), target) > 0.95
        assert found.scale == pytest.approx(truth.scale, rel=0.02) and turned(found.angle, truth.angle) < 2
        assert float((found(middle(mask)) - truth(middle(mask))).norm()) < 8


def test_errors_say_what_was_wrong():
    full, empty = torch.ones(1, 8, 8), torch.full((1, 8, 8), 0.5)
    with pytest.raises(ValueError, match="reference mask is empty"):
        align(empty, full)
    with pytest.raises(ValueError, match="target mask is empty"):
        align(full, empty)
    with pytest.raises(ValueError, match=r"target mask has shape \(2, 8, 8\)"):
        align(full, full.repeat(2, 1, 1))
    with pytest.raises(ValueError, match=r"reference mask has shape \(8,\)"):
        align(full[0, 0], full)
    with pytest.raises(ValueError, match="max_angle is 200"):
        align(full, full, max_angle=200)
    with pytest.raises(ValueError, match="scale is 0"):
        Similarity(0)
    with pytest.raises(ValueError, match=r"not \(8, 8\)"):
        Similarity().apply(full[0], (8, 8))
