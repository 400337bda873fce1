"""Photos of any sizes."""

import pytest
import torch
from likeness.training.data import photos
from PIL import Image


def test_crop_keeps_the_middle():
    wide = torch.zeros(3, 40, 100)
    wide[:, :, 30:70] = 1
    (group,) = photos.prepare([wide], 64, "crop")
    assert group.data.shape == (1, 3, 64, 64) and group.data.mean() > 0.99 and group.weight is None


def test_pad_leaves_the_border_out():
    tall = torch.rand(3, 100, 50)
    (group,) = photos.prepare([tall], 64, "pad")
    assert group.weight.sum() == 64 * 32 and group.weight[..., :16].sum() == 0
    assert torch.equal(group.data[0, :, :, 0], group.data[0, :, :, 15])  # replicated


def test_buckets_keep_proportions():
    sizes = [(100, 100), (60, 120), (120, 60), (61, 119)]
    groups = photos.prepare([torch.rand(3, *s) for s in sizes], 128, "buckets")
    assert sorted((tuple(g.data.shape[-2:]), len(g)) for g in groups) == [
        ((96, 192), 2),
        ((128, 128), 1),
        ((192, 96), 1),
    ]


def test_masks_are_fitted_like_their_pictures():
    picture, mask = torch.rand(3, 40, 100), torch.zeros(1, 40, 100)
    mask[:, :, 50:] = 1
    (group,) = photos.prepare([picture], 64, "crop", [mask])
    assert group.weight[..., :31].max() == 0 and group.weight[..., 33:].min() > 0.999
    (latents,) = photos.encode([group], lambda x: torch.zeros(1, 4, 8, 8))
    assert latents.weight.shape == (1, 1, 8, 8) and latents.weight.mean() == 0.5


def test_a_folder(tmp_path):
    pixels = Image.new("RGB", (6, 4), (255, 0, 0))
    exif = pixels.getexif()
    exif[0x0112] = 6  # to be turned
    pixels.save(tmp_path / "b.png")
    pixels.save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "note.txt").write_text("no picture")
    found = photos.read_folder(tmp_path)
    assert [(name, tuple(p.shape)) for name, p in found] == [("a.jpg", (3, 6, 4)), ("b.png", (3, 4, 6))]
    assert torch.equal(found[1][1][:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (4, 6), 255).save(masks / "a.png")
    with pytest.raises(FileNotFoundError, match=r"has none for b\.png"):
        photos.read_masks(masks, ["a.jpg", "b.png"])
    assert photos.read_masks(masks, ["a.jpg"])[0].mean() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 64), "no picture"),
        (([torch.rand(3, 8, 8)], 64, "squeeze"), "fit is 'squeeze'"),
        (([torch.rand(3, 8, 8)], 65), "multiple of 32"),
        (([torch.rand(3, 8, 8)], 64, "crop", [torch.ones(1, 9, 8)]), "has 8x9 pixels, its picture 8x8"),
        (([torch.rand(3, 8, 8)], 64, "crop", []), "0 for 1 pictures"),
        (([torch.rand(3, 8, 8)], 64, "crop", [torch.zeros(1, 8, 8)]), "number 1 is empty"),
        (([torch.rand(3, 8, 40)], 64, "crop", [torch.eye(8, 40)[None]]), "outside of the middle square"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        photos.prepare(*arguments)


def test_what_is_transparent_is_white_in_pictures_and_black_in_masks(tmp_path):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 255, 0, 0))  # what a cut-out hides
    image.save(tmp_path / "a.png")
    ((_, picture),) = photos.read_folder(tmp_path)
    assert picture[:, 0].T.tolist() == [[1, 0, 0], [1, 1, 1]]
    mask = Image.new("LA", (2, 1), (255, 255))
    mask.putpixel((1, 0), (255, 0))
    mask.save(tmp_path / "a.png")
    (found,) = photos.read_masks(tmp_path, ["a.jpg"])
    assert found[0, 0].tolist() == [1, 0]
    palette = Image.new("P", (1, 1))
    palette.info["transparency"] = 0
    palette.save(tmp_path / "a.png", transparency=0)
    ((_, picture),) = photos.read_folder(tmp_path)
    assert picture.flatten().tolist() == [1, 1, 1]


def test_more_than_eight_bits_are_no_black_or_white_picture(tmp_path):
    Image.new("I;16", (2, 2), 30000).save(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=r"images: a.png can.t be read \(its pixels are of the kind I;16; save it with 8"
    ):
        photos.read_folder(tmp_path)


def test_broken_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        photos.read_folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no picture"):
        photos.read_folder(tmp_path)
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"x\.png can't be read"):
        photos.read_folder(tmp_path)
