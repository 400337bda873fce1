"""The RetriBooru builder on the demo world: right, tolerant, and whole after any kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("pyarrow", reason="the builder keeps what it sees in Parquet files")

from killed_builds import NAMES, config, content
from likeness.cli import main
from likeness.core.demo import world
from likeness.training.data import photos, records
from likeness.training.data.photos import decode
from likeness.training.data.retribooru import answers, build, demo, identities, parts, report, shards
from likeness.training.data.retribooru.annotate import Settings, around, face_box
from likeness.training.data.retribooru.models import QUESTIONS, Models, Names
from likeness.training.data.workers import Workers

ODD = {
    "not tagged solo": ["odd0"],
    "no clothing tag": ["odd1"],
    "more than one character": ["odd2"],
    "no artist": ["odd3"],
    "no picture": ["odd4"],
    "unreadable picture": ["odd5"],
    "unreadable tags": ["metadata.jsonl:19"],
}


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Two characters in two outfits, three pictures each, and the odd ones."""
    folder = tmp_path_factory.mktemp("figures")
    demo.draw(demo.Figures(folder, characters=2, outfits=2, pictures=3, twins=0.0))
    return folder


@pytest.fixture(scope="module")
def built(figures, tmp_path_factory):
    """A build in one piece, and its report."""
    out = tmp_path_factory.mktemp("built")
    return out, build.build(config(figures, out))


def found(out):
    """Picture -> cluster."""
    return {record.id: min(record.id, *record.similar) for record in records.read(out)}


def true(figures):
    return {line["id"]: line["identity"] for line in demo.read_truth(figures)}


def outcome(report):
    return {why: entry["examples"] for why, entry in report["dropped"].items()}


# --- right


def test_with_the_truth_all_identities_are_found(figures, built):
    out, told = built
    assert identities.pairwise(found(out), true(figures)) == (1.0, 1.0) and len(found(out)) == 12
    assert (told["pictures"], told["samples"], told["identities"], told["similar"]) == (19, 12, 4, {"2": 12})


def test_twins_by_several_artists_are_told_apart(tmp_path):
    demo.draw(demo.Figures(tmp_path / "in", 2, outfits=1, pictures=2, twins=1.0, artists=2, odd=False, seed=3))
    build.build(config(tmp_path / "in", tmp_path / "out", sheets=False))
    assert len(set(true(tmp_path / "in").values())) == 8
    assert identities.pairwise(found(tmp_path / "out"), true(tmp_path / "in")) == (1.0, 1.0)


def test_a_record_is_the_papers(figures, built):
    truth = {line["id"]: line for line in demo.read_truth(figures)}
    posts = {post["id"]: post for post in map(json.loads, (figures / demo.METADATA).read_text().splitlines()[:12])}
    for record in records.read(built[0]):
        post = posts[int(record.id)]
        assert record.image == (figures / f"{record.id}.png").read_bytes()
        assert torch.equal(
            record.figure(), (decode((figures / "truth" / f"{record.id}.png").read_bytes())[:1] > 0.5) * 1
        )
        assert (record.character, record.artist) == (post["tag_string_character"], post["tag_string_artist"])
        assert record.prompts.split(", ")[0] == "solo" and "_" not in record.prompts
        assert any(tag in world.GARMENTS for tag in record.clothes) and record.id not in record.similar
        bbox = truth[record.id]["bbox"]
        assert (record.bbox is None) == (bbox is None)
        assert bbox is None or torch.allclose(torch.tensor(record.bbox), torch.tensor(bbox), atol=1e-5)


def test_every_dropped_picture_is_counted_and_listed(built):
    out, told = built
    assert outcome(told) == ODD == outcome(json.loads((out / report.JSON).read_text()))
    listed = [json.loads(line) for line in (out / report.DROPPED).read_text().splitlines()]
    assert {line["id"]: line["why"] for line in listed} == {ids[0]: why for why, ids in ODD.items()}
    text = (out / report.TEXT).read_text()
    assert text.startswith("12 samples of 4 identities, out of 19 pictures") and "1  no artist, as odd3" in text
    assert (out / report.PLOT).read_bytes()[:4] == b"\x89PNG"
    sheets = sorted((out / "identities").glob("*.jpg"))
    assert (
        len(sheets) == 4 and decode(sheets[0].read_bytes()).shape[-1] == 6 + 3 * 134
    )  # three pictures beside each other


def test_the_command_with_the_judges(figures, tmp_path, capsys):
    arguments = ["--images", str(figures), "--out", str(tmp_path)]
    judges = ["--models.segmenter", "demo", "--models.vqa", "demo", "--models.faces", "truth", "--workers", "0"]
    main(["build", "retribooru", *arguments, *judges, "--format", "tar"])
    text, bars = capsys.readouterr()
    assert f"wrote {tmp_path}" in text and "out of 19 pictures" in text and "annotations: 100%" in bars
    precision, recall = identities.pairwise(found(tmp_path), true(figures))
    assert precision == 1.0 and recall > 0.3
    with pytest.raises(SystemExit, match="no embedded model finds faces"):
        main(["build", "retribooru", *arguments, *judges[:5], "demo", "--out", str(tmp_path / "more")])


# --- tolerant


class Broken(demo.Truth):
    """The truth, but for pictures that one of its parts fails on."""

    def __init__(self, folder, bad):
        super().__init__(folder)
        self.bad = bad

    def check(self, part, images):
        for image in images:
            if self.bad.get(self.known[demo.digest(image)]["id"]) == part:
                raise RuntimeError(f"no {part}\nfor you")

    def segment(self, images, text):
        self.check("segmenter", images)
        return super().segment(images, text)

    def boxes(self, images, text):
        self.check("face detector", images)
        return super().boxes(images, text)

    def __call__(self, images, questions):
        self.check("vqa", images)
        given = super().__call__(images, questions)
        silent = self.bad.get(self.known[demo.digest(images[0])]["id"]) == "silent"
        return [["", *answers[1:]] for answers in given] if silent else given


def test_a_model_that_fails_costs_its_picture_only(figures, tmp_path):
    bad = {"1": "segmenter", "2": "face detector", "3": "vqa", "4": "silent"}
    broken = Broken(figures, bad)
    told = build.build(config(figures, tmp_path), models=lambda: Models(broken, broken, broken))
    why = {**ODD, "segmenter failed": ["1"], "face detector failed": ["2"], "vqa failed": ["3"]}
    why["no clear answer: colours"] = ["4"]
    got = outcome(told)
    alone = got.pop("no similar picture", [])
    assert got == why and told["samples"] == 8 - len(alone)
    listed = [json.loads(line) for line in (tmp_path / report.DROPPED).read_text().splitlines()]
    assert {line["detail"] for line in listed if line["id"] == "1"} == {"RuntimeError: no segmenter\nfor you"}


def test_a_model_that_always_answers_too_little_stops_the_build(figures, tmp_path):
    truth = demo.Truth(figures)
    with pytest.raises(
        ValueError, match="part 000000: vqa failed on all 4 of this part, last with 'ValueError: not every"
    ):
        build.build(config(figures, tmp_path), models=lambda: Models(truth, truth, lambda x, questions: [["red"]]))
    assert not list(tmp_path.glob("shard-*"))


def test_models_that_fail_on_everything_stop_the_build(figures, tmp_path):
    """As on a broken device: nothing is dropped for it, and the same command tries again."""
    broken = Broken(figures, dict.fromkeys((line["id"] for line in demo.read_truth(figures)), "segmenter"))
    with pytest.raises(
        ValueError, match=r"part 000000: segmenter failed on all .* of this part, last with 'RuntimeError"
    ):
        build.build(config(figures, tmp_path), models=lambda: Models(broken, broken, broken))
    assert not list((tmp_path / "work" / "annotations").glob("*.parquet"))
    truth = demo.Truth(figures)
    assert build.build(config(figures, tmp_path), models=lambda: Models(truth, truth, truth))["samples"]


def test_a_picture_that_was_changed_is_not_cut_as_the_old_one(figures, built, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(figures, images)
    shutil.copytree(built[0], out)
    folder = out / "work" / "annotations"
    used = [i for i, row in enumerate(parts.columns(folder, 0, ["dropped"])) if not row["dropped"]]
    [seen] = parts.rows(folder, [(0, used[0])])
    assert shards.record(images, seen, []).id == seen.entry.id
    (images / seen.entry.file).write_bytes(photos.png(torch.rand(3, 8, 8)))
    with pytest.raises(ValueError, match="is another picture than when it was looked at; put the old one back"):
        shards.record(images, seen, [])


def test_a_folder_of_pairs_is_not_taken(figures, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "kind.json").write_text('{"kind": "pairs"}')
    (tmp_path / "shard-00000.parquet").write_text("pairs")
    with pytest.raises(ValueError, match=r"out: .* holds pairs, not RetriBooru's identities; give another folder"):
        build.build(config(figures, tmp_path))
    assert (tmp_path / "shard-00000.parquet").read_text() == "pairs"


def test_models_that_can_not_be_had_are_no_fault_of_the_pictures(figures, tmp_path):
    for names, message in {
        Names("demo", "demo", faces=str(tmp_path / "none")): "no object detector model at",
        Names("sam.pth", "demo", None, "truth"): "models.detector: none is named",
        Names("demo", "demo", None): "models.detector: none is named",
        Names("demo", "demo"): "models.detector: IDEA-Research/grounding-dino-tiny is neither a folder nor",
        Names("demo", faces="truth"): r"models.vqa: Salesforce/instructblip-vicuna-7b is .* add --models.download",
    }.items():
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            build.build(replace(config(figures, tmp_path / "out"), models=names))
    assert not list((tmp_path / "out").glob("work/annotations/*.parquet"))
    with pytest.raises(FileNotFoundError, match=r"has no truth.jsonl; `likeness build demo-figures` writes one"):
        NAMES.models(tmp_path)


class Boxes:
    """The same boxes in every picture."""

    def __init__(self, boxes):
        self.found = boxes

    def boxes(self, images, text):
        return [self.found] * len(images)


def test_figures_and_faces_that_are_not_there(figures, tmp_path):
    truth = demo.Truth(figures)
    settings = Settings(part=4, least=0.2, most=0.25)
    told = build.build(replace(config(figures, tmp_path), look=settings), models=lambda: Models(truth, truth, truth))
    masks = [decode(p.read_bytes())[:1] for p in (figures / "truth").iterdir()]
    shares = [float((mask > 0.5).float().mean()) for mask in masks]
    assert told["dropped"]["no figure"]["pictures"] == sum(share < 0.2 for share in shares) > 0
    filled = told["dropped"]["figure fills the picture"]["pictures"]
    assert filled == sum(share > 0.25 for share in shares) > 0
    blind = Models(truth, Boxes(torch.zeros(0, 4)), truth)
    told = build.build(replace(config(figures, tmp_path / "b"), look=Settings(part=4)), models=lambda: blind)
    assert told["dropped"]["no face"]["pictures"] == 12


def test_copies_of_a_picture_are_not_similar_to_it(figures, tmp_path):
    folder = tmp_path / "in"
    demo.draw(demo.Figures(folder, 1, outfits=1, pictures=1, twins=0.0, odd=False))
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    post = json.loads((folder / demo.METADATA).read_text().splitlines()[0])
    (folder / demo.METADATA).write_text(json.dumps(post) + "\n" + json.dumps({**post, "id": "c", "file": "copy.png"}))
    told = build.build(config(folder, tmp_path / "out"))
    assert outcome(told) == {"no similar picture": ["1"], "copy of another picture": ["c"]}


# --- whole after any kill


def test_a_build_killed_at_any_file_goes_on(tmp_path):
    demo.draw(demo.Figures(figures := tmp_path / "in", characters=1, outfits=2, pictures=2, twins=0.0))
    script = Path(__file__).parents[1] / "killed_builds.py"
    done = subprocess.run([sys.executable, str(script), str(figures), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (
        int(done.stdout) == 20
    )  # files: 1 kind, 3 + 1 entries, 3 + 1 annotations, 2 + 1 plan, 2 sheets, 2 shards, 4 report


def test_other_groups_from_the_same_annotations(figures, tmp_path):
    build.build(config(figures, tmp_path))
    before = content(tmp_path)
    coarse = build.build(
        config(figures, tmp_path, match=("colour",), format="tar"), models=lambda: pytest.fail("asked")
    )
    kept = {name: digest for name, digest in content(tmp_path).items() if name.startswith("work/a")}
    assert kept and kept.items() <= before.items()
    assert coarse["samples"] == 12 and not list(tmp_path.glob("*.parquet")) and list(tmp_path.glob("*.tar"))
    build.build(config(figures, tmp_path))
    assert content(tmp_path) == before
    with pytest.raises(ValueError, match=r"match: shoes was not asked; choose from colours, colour, garment, pattern"):
        build.build(config(figures, tmp_path, match=("shoes",)))


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"look": Settings(part=4, need_face=False, views=2)}, "look.views"),
        ({"models": Names("demo", "truth", faces="truth")}, "models.segmenter"),
        ({"tags": Path("other.jsonl")}, "tags"),
    ],
)
def test_another_builds_folder_is_refused(figures, built, fields, named):
    out = built[0]
    before = content(out)
    with pytest.raises(ValueError, match=rf"holds a build with other settings \({named}\); give the same ones"):
        build.build(replace(config(figures, out), **fields))
    assert content(out) == before


def test_missing_packages_are_named(figures, tmp_path, monkeypatch):
    arguments = ["build", "retribooru", "--images", str(figures), "--tags", str(figures / demo.METADATA)]
    for name in ("segmenter", "vqa", "faces"):
        arguments += [f"--models.{name}", "truth"]
    for module, package in {"ray": r"ray\[data\]", "pyarrow": "pyarrow"}.items():
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            with pytest.raises(SystemExit, match=f"needs the package {package}: pip install {package}"):
                main([*arguments, "--out", str(tmp_path / module)])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    build.build(config(figures, tmp_path / "plain"))
    assert "no plots: they need matplotlib (pip install" in (tmp_path / "plain" / report.TEXT).read_text()
    assert not (tmp_path / "plain" / report.PLOT).exists()


# --- Ray


KILLED = """
import os, signal, sys
from pathlib import Path
from killed_builds import config
from likeness.training.data.retribooru.build import build

def kill(stage, done, total):
    if stage == "annotations" and done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    build(config(Path(sys.argv[1]), Path(sys.argv[2]), workers=1), kill)
"""


def test_killed_among_workers_it_goes_on_with_others(figures, built, tmp_path, ray):
    command = [sys.executable, "-c", KILLED, str(figures), str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert 2 <= len(list(tmp_path.glob("work/annotations/*.parquet"))) <= 4 and not list(tmp_path.glob("shard-*"))
    build.build(config(figures, tmp_path, workers=2))
    assert content(tmp_path) == content(built[0])


def test_what_is_wrong_in_a_worker_is_told(tmp_path, ray):
    with Workers(1) as run, pytest.raises(ValueError, match=r"has no truth.jsonl"):
        list(run.each(partial(demo.Truth, tmp_path), [1]))


# --- small parts


def test_equal_answers_are_equal():
    same = ["Red and white.", "white, the red", "WHITE / red", "the colors are red & white", "red;white"]
    assert {answers.canonical(answer) for answer in same} == {"red, white"}
    assert answers.canonical("t-shirt with dots") == "dots, t-shirt" and answers.canonical(" The... ") == ""
    assert answers.canonical("dark red") != answers.canonical("red, dark")


def test_most_views_decide():
    seen = []

    def vqa(images, questions):
        seen.append(images)
        return [[answer] for answer in ("red", "blue", "Blue.", "green", "blue")]

    image = torch.rand(3, 32, 48)
    assert answers.ask(vqa, image[None], ["?"], 5, 0.5) == [["blue"]]
    assert answers.ask(vqa, image[None], ["?"], 5, 0.7) == [[""]]
    (views, _) = seen
    assert views.shape == (5, 3, 32, 48)
    assert torch.equal(views[0], image) and torch.equal(views[1], image.flip(-1))


def test_cropped_to_the_figure(figures, tmp_path):
    truth = demo.Truth(figures)
    look = Settings(part=4, margin=0.1)
    models = Models(
        truth, Boxes(torch.tensor([[0.0, 0, 4, 2]])), lambda x, questions: [["red"] * len(questions)] * len(x)
    )
    build.build(replace(config(figures, tmp_path), look=look), models=lambda: models)
    for record in records.read(tmp_path):
        mask = decode((figures / "truth" / f"{record.id}.png").read_bytes())[:1]
        left, top, right, bottom = around(mask, 0.1)
        picture = decode((figures / f"{record.id}.png").read_bytes())[:, top:bottom, left:right]
        assert torch.equal(record.picture(), picture) and record.figure().shape[1:] == picture.shape[1:]
        height, width = picture.shape[1:]
        assert record.bbox == pytest.approx((2 / width, 1 / height, 4 / width, 2 / height), abs=1e-6)


def test_boxes_of_masks_and_faces():
    mask = torch.zeros(1, 20, 30)
    mask[:, 5:10, 8:18] = 1
    assert around(mask, 0.0) == (8, 5, 18, 10) and around(mask, 0.6) == (2, 0, 24, 16)
    picture = torch.zeros(3, 20, 40)
    boxes = torch.tensor([[0.0, 0, 4, 4], [10.0, 5, 30, 15], [35.0, 0, 60, 3]])
    assert face_box(boxes, picture) == (0.5, 0.5, 0.5, 0.5)
    assert face_box(boxes[2:], picture) == (0.9375, 0.075, 0.125, 0.15)  # cut at the edge
    assert face_box(boxes[:0], picture) is None and face_box(torch.tensor([[50.0, 0, 60, 3]]), picture) is None


def test_pairs_are_counted():
    true = dict(a=1, b=1, c=1, d=2, e=2)
    assert identities.pairwise(dict(a="x", b="x", d="x"), true) == (1 / 3, 1 / 4)
    assert identities.pairwise({}, true) == (1.0, 0.0)


def test_settings_that_make_no_sense():
    for wrong, message in (
        (dict(questions={}), "questions: there is none"),
        (dict(views=8), "views is 8; it must lie between 1 and 7"),
        (dict(part=0), "batch is 8 and part 0; at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Settings(**wrong)
    with pytest.raises(ValueError, match="workers is -1"):
        Workers(-1)
    here = Path("pictures")
    with pytest.raises(ValueError, match="out: it lies within images"):
        build.Config(here, here / "out", NAMES)
    assert QUESTIONS["colours"] == "list top two colors of the clothing"  # the paper's
