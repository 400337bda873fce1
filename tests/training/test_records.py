"""Records: shards of two formats, folders of subjects, one identity's photos."""

import io
import json
import tarfile
from dataclasses import replace

import pytest
import torch
from likeness.core.infusion import concept
from likeness.training import hifi, infusion
from likeness.training.data import photos, records
from likeness.training.data.photos import png
from likeness.training.data.records import Record
from likeness.training.loop import Settings

GREY = png(torch.full((3, 40, 50), 0.5))
MASK = png((torch.arange(50) < 25).float().expand(1, 40, 50))


def jpeg():
    from PIL import Image

    sink = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(sink, "JPEG")
    return sink.getvalue()


FULL = Record("7", "miku", "ann", GREY, (0.5, 0.25, 0.125, 0.25), MASK, ("red_dress", "hat"), "solo, red dress", ("8",))
BARE = Record("ü/8.jpg", "miku", "", jpeg(), None, None, (), "", ("7", "9"))
RECORDS = [FULL, BARE] * 20  # more than a Parquet row group


@pytest.fixture(params=records.FORMATS)
def shard(request, tmp_path):
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"shard-0.{request.param}"
    path.write_bytes(records.WRITERS[request.param](RECORDS))
    return path


def test_what_is_written_is_read(shard):
    assert list(records.read(shard)) == RECORDS == list(records.read(shard.parent))
    assert records.WRITERS[shard.suffix[1:]](RECORDS) == shard.read_bytes()  # the same each time
    shard.with_name(f"shard-1{shard.suffix}").write_bytes(shard.read_bytes())
    assert len(list(records.read(shard.parent))) == 80


def test_pictures_may_stay_on_disk(shard):
    left = list(records.read(shard, leave=True))
    assert len(left) == 40 and all(callable(record.image) for record in left)
    for ours, whole in zip(left, RECORDS):
        assert replace(ours, image=None, mask=None) == replace(whole, image=None, mask=None)
        assert ours.image() == whole.image and torch.equal(ours.picture(), whole.picture())
        assert (ours.figure() is None) == (whole.mask is None)
    assert torch.equal(left[2].figure(), FULL.figure())
    shard.unlink()
    with pytest.raises(ValueError, match=r"record 7: its picture or mask can't be read"):
        left[0].picture()


def test_large_row_groups_are_read_at_once(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "x.parquet").write_bytes(records.to_parquet(RECORDS * 2))
    parquet.write_table(parquet.read_table(tmp_path / "x.parquet"), tmp_path / "y.parquet")
    assert list(records.read(tmp_path / "y.parquet", leave=True)) == RECORDS * 2


def test_pictures_and_masks_are_decoded():
    assert FULL.picture().shape == (3, 40, 50) and abs(FULL.picture().mean() - 0.5) < 0.01
    assert FULL.figure().shape == (1, 40, 50) and FULL.figure().mean() == 0.5
    assert BARE.figure() is None
    with pytest.raises(ValueError, match=r"record 7: its picture or mask can't be read"):
        replace(FULL, image=b"nothing").picture()


def test_a_tar_is_webdatasets(tmp_path):
    (tmp_path / "x.tar").write_bytes(records.to_tar([FULL, BARE]))
    with tarfile.open(tmp_path / "x.tar") as file:
        names = file.getnames()
        assert json.load(file.extractfile("000000.json"))["clothes"] == ["red_dress", "hat"]
        assert file.extractfile("000000.image.png").read() == GREY
    assert names == ["000000.image.png", "000000.mask.png", "000000.json", "000001.image.jpg", "000001.json"]


def test_parquet_has_the_papers_schema(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "x.parquet").write_bytes(records.to_parquet([BARE]))
    table = parquet.read_table(tmp_path / "x.parquet")
    names = ["id", "character", "artist", "image", "bbox", "mask", "clothes", "prompts", "similar"]
    assert table.column_names == names
    assert (
        str(table.schema.field("image").type) == "binary"
        and str(table.schema.field("bbox").type) == "list<element: double>"
    )


def test_bad_shards_are_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "x.tar").write_bytes(records.to_tar([FULL])[:700])
    (tmp_path / "y.parquet").write_bytes(b"nothing")
    (tmp_path / "z.zip").write_bytes(b"")
    for name, message in {
        "x.tar": "x.tar is no shard of records",
        "y.parquet": "y.parquet is no shard of records",
        "z.zip": "z.zip is no shard; give a .parquet or .tar file",
        "": "shards of two formats",
    }.items():
        with pytest.raises(ValueError, match=message):
            list(records.read(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        list(records.read(tmp_path / "missing"))


@pytest.fixture
def subjects(tmp_path):
    """DreamBooth's layout: cat with masks, dog without."""
    for name in ("cat/a.png", "cat/b.png", "dog/a.png", "cat/masks/a.png", "cat/masks/b.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(MASK if "masks" in name else GREY)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_other_builds_shards_are_named(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"id": ["1"], "word": ["cat"]}), tmp_path / "shard-00000.parquet")
    with pytest.raises(ValueError, match=r"records: shard-00000.parquet is no shard of records \('clothes'\)"):
        list(records.read(tmp_path))


def test_a_folder_of_subjects(subjects):
    cat, other, dog = records.read(subjects)
    assert (cat.id, cat.character, cat.similar, cat.mask) == ("cat/a.png", "cat", ("cat/b.png",), MASK)
    assert other.similar == ("cat/a.png",) and dog.mask is None and dog.similar == ()
    left = next(records.read(subjects, leave=True))
    assert torch.equal(left.picture(), FULL.picture()) and torch.equal(left.figure(), FULL.figure())
    assert [record.id for record in records.read(subjects / "cat")] == ["cat/a.png", "cat/b.png"]
    (subjects / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="neither shards nor pictures"):
        list(records.read(subjects / "empty"))


def test_one_identity_of_many():
    a, b = replace(FULL, id="a", similar=("b",)), replace(FULL, id="b", similar=("a",))
    c, d = replace(FULL, id="c", similar=("d",)), replace(FULL, id="d", similar=("c",))
    rin = replace(FULL, id="e", similar=(), character="rin")
    assert records.of_identity([a, c, rin, b, d], "d") == [c, d]
    assert records.of_identity([a, c, rin], "rin") == [rin]
    with pytest.raises(ValueError, match="miku has 2; name one by the id of a picture: a, c"):
        records.of_identity([a, c, rin, b, d], "miku")
    with pytest.raises(ValueError, match="no picture and no character 'len'"):
        records.of_identity([a], "len")


def test_photos_of_an_identity(subjects):
    (group,) = records.from_folders(subjects, None, 32, "crop", "cat")
    assert group.data.shape == (2, 3, 32, 32) and 0.4 < group.weight.mean() < 0.6
    assert records.from_folders(subjects, None, 32, "crop", "dog")[0].weight is None
    with pytest.raises(ValueError, match="leave masks or identity out"):
        records.from_folders(subjects, subjects, 32, "crop", "cat")
    (plain,) = records.from_folders(subjects / "cat", subjects / "cat" / "masks", 32, "crop")
    assert torch.equal(plain.weight, group.weight) and photos.prepare([torch.rand(3, 32, 32)], 32)[0].weight is None


def test_trainers_read_an_identity(subjects, tmp_path):
    quick = infusion.Learn(batch=1, loop=Settings(steps=1))
    out = tmp_path / "concept.safetensors"
    infusion.train(infusion.Config(subjects, "a photo of a cat", "cat", out, identity="cat/b.png", learn=quick))
    assert concept.load(out).settings["steps"] == 1
    for trainer in (infusion, hifi):
        with pytest.raises(ValueError, match="identity: there is no picture and no character 'mouse'"):
            trainer.train(trainer.Config(subjects, "a cat", "cat", identity="mouse"))
