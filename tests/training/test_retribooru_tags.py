"""Tagged pictures: every layout of metadata that is read, and what is kept of it."""

import json

import pytest
from likeness.training.data.retribooru import tags
from likeness.training.data.retribooru.tags import Entry, Filter

GOOD = {"tag_string_general": "solo red_dress smile", "tag_string_character": "miku", "tag_string_artist": "ann"}
KEPT = dict(character="miku", artist="ann", tags=("solo", "red_dress", "smile"), clothes=("red_dress",))

# Danbooru2019's categories; 3 is where the character is from
NAMED = {"solo": "0", "red_dress": 0, "smile": "0", "miku": "4", "ann": "1", "vocaloid": "3"}


def read(folder, metadata="posts.jsonl", keep=None):
    return list(tags.read(folder, metadata and folder / metadata, keep or Filter()))


def lines(*posts):
    return "\n".join(map(json.dumps, posts))


@pytest.mark.parametrize(
    "file, post",
    [
        ("1.png", {}),
        ("1.jpg", {"file_ext": "jpg"}),
        ("abc.webp", {"md5": "abc", "file_ext": "webp"}),
        ("x.png", {"file_url": "https://somewhere/else/x.png"}),
        ("deep/y.png", {"file": "deep/y.png"}),
        ("0001/1.png", {}),
    ],
)
def test_a_posts_picture_is_found(tmp_path, file, post):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    (tmp_path / "posts.jsonl").write_text(lines({"id": 1, **GOOD, **post}))
    assert read(tmp_path) == [Entry("1", file, **KEPT)]


def test_a_picture_outside_is_not_taken(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "1.png").touch()
    posts = lines({"id": 1, **GOOD, "file": "../1.png"}, {"id": 2, **GOOD, "file": str(tmp_path / "1.png")})
    (tmp_path / "in" / "posts.jsonl").write_text(posts)
    assert [entry.dropped for entry in read(tmp_path / "in")] == ["no picture"] * 2


@pytest.mark.parametrize(
    "post",
    [
        GOOD,
        {"tags": [{"name": name, "category": kind} for name, kind in NAMED.items()]},
        {"tags": "solo, Red Dress, smile, character:miku, artist:ann"},
        {"tags": ["solo", "red_dress", "smile", "character:miku", "artist:ann"]},
    ],
)
def test_every_way_of_tagging(tmp_path, post):
    (tmp_path / "1.png").touch()
    for text in (lines({"id": 1, **post}), json.dumps([{"id": 1, **post}])):
        (tmp_path / "posts.jsonl").write_text(text)
        assert read(tmp_path) == [Entry("1", "1.png", **KEPT)]


def test_a_folder_of_metadata_is_read_in_order(tmp_path):
    for number in (2, 1):
        (tmp_path / f"{number}.png").touch()
        (tmp_path / "meta").mkdir(exist_ok=True)
        (tmp_path / "meta" / f"2019{number:012d}").write_text(lines({"id": number, **GOOD}))
    assert [entry.id for entry in read(tmp_path, "meta")] == ["1", "2"]


def test_a_file_beside_each_picture(tmp_path):
    plain = "solo, red dress, smile\ncharacter:miku, artist:ann"
    written = {"a.json": json.dumps(GOOD), "b.png.json": json.dumps(GOOD), "c.txt": plain, "d.png.txt": plain}
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    for name in "abcdef":
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "e.json").write_text('{"tag_string')
    found = read(tmp_path, None)
    assert found[:4] == [Entry(name, f"{name}.png", **KEPT) for name in "abcd"]
    assert [(entry.id, entry.dropped) for entry in found[4:]] == [("e", "unreadable tags"), ("f", "no tag file")]


def test_why_pictures_are_left_out(tmp_path):
    (tmp_path / "1.png").touch()
    bad = {
        "no tags": {},
        "not tagged solo": {**GOOD, "tag_string_general": "2girls dress"},
        "tagged monochrome": {**GOOD, "tag_string_general": "solo dress monochrome"},
        "no clothing tag": {**GOOD, "tag_string_general": "solo dress_up smile"},
        "more than one character": {**GOOD, "tag_string_character": "miku rin"},
        "no artist": {**GOOD, "tag_string_artist": ""},
        "no picture": {**GOOD, "file": "2.png"},
        "duplicate id": {**GOOD, "id": "fine"},
    }
    fine = {"id": "fine", "file": "1.png", **GOOD}
    posts = [fine, *({"id": str(i), "file": "1.png", **post} for i, post in enumerate(bad.values()))]
    (tmp_path / "posts.jsonl").write_text(lines(*posts) + '\n{"id": \n[1]\n')
    found = read(tmp_path, keep=Filter(exclude=("monochrome",)))
    assert [entry.dropped for entry in found] == ["", *bad, "unreadable tags", "unreadable tags"]


def test_which_tags_are_clothes():
    kinds = {
        "general": ["solo", "pleated_skirt", "thighhighs", "skirt_lift", "long_hair"],
        "artist": ["a"],
        "character": ["b"],
    }
    assert Filter()(Entry("1"), kinds).clothes == ("pleated_skirt", "thighhighs")
    assert Filter(clothes=("hair",))(Entry("1"), kinds).clothes == ("long_hair",)
    kinds["general"] = ["solo", "no_panties", "unworn_hat", "holding_shoes", "nontraditional_skirt"]
    assert Filter()(Entry("1"), kinds).clothes == ("nontraditional_skirt",)


def test_null_is_no_tag():
    found = tags.kinds_of({"tag_string_artist": None, "tag_string_character": None, "tag_string_general": "solo"})
    assert found == {"general": ["solo"], "artist": [], "character": []}


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="images: no folder"):
        read(tmp_path / "missing", None)
    with pytest.raises(FileNotFoundError, match=r"tags: no metadata .*leave it out where each picture has its own"):
        read(tmp_path)
    (tmp_path / "posts.jsonl").write_text("[1, 2")
    with pytest.raises(ValueError, match=r"posts.jsonl is neither JSON nor JSON Lines"):
        read(tmp_path)
