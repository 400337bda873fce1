"""The pair factory: right, tolerant, and whole after any kill."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("pyarrow", reason="the factory keeps what it makes in Parquet files")

import killed_pairs
from killed_pairs import DRAW, Embedder, Middle, Painter, coloured, config, content, models
from likeness.core.demo import judges, world
from likeness.training.data import examples
from likeness.training.data.pairs import build, draw, filters, make, plan, prompts, report, table
from likeness.training.data.pairs.masks import edit_mask, pasted
from likeness.training.data.pairs.models import Models
from likeness.training.data.photos import decode, png

OPEN = filters.Filters(dino=-1.0, clip=-1.0)


def made(out):
    """All pairs by number."""
    shards = sorted(out.glob("shard-*.parquet"))
    return {pair.number: pair for shard in shards for pair in table.each(shard, table.Pair)}


def subjects(out):
    files = sorted((out / "work" / plan.SUBJECTS).glob("*.parquet"))
    return {each.number: each for file in files for each in table.each(file, table.Subject)}


def counts(told, what="pair"):
    return {why: found["count"] for why, found in told["dropped"][what].items()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Many pairs that nothing is filtered from, and their report."""
    out = tmp_path_factory.mktemp("built")
    return out, build.build(config(out, pairs=60, filters=OPEN, part=16), models=models)


# --- right


def test_a_pair_is_the_recipe_written_out(built):
    out, _ = built
    known, painter, seen = subjects(out), Painter(), Counter()
    for number, pair in made(out).items():
        subject = known[pair.subject]
        picture, figure = decode(subject.image), decode(subject.mask)[:1]
        drawn = next(line for line in plan.lines(out / "work" / plan.PLAN, number // 16) if line["number"] == number)
        prompt, key = drawn["prompt"], f"0 pair {number}"
        new, masks = coloured(f"{prompt} {key}")[None], None
        if pair.editing:
            masks = edit_mask(figure, pair.category, DRAW.margin)[None]
            new = pasted(picture[None], masks, new)
        new = (new * 255).round() / 255
        refined = painter.refine(new, picture[None], figure[None], [key], masks)[0][0]
        refined = (refined * 255).round() / 255
        given, target = (refined, picture) if pair.category == "removal" else (picture, refined)
        assert torch.equal(decode(pair.target), target)
        assert torch.equal(decode(pair.input), given if pair.editing else given.flip(-1))
        assert pair.prompt == (f"a photo of {draw_word(pair)}" if pair.category == "removal" else prompt)
        assert (pair.mask is None) == (not pair.editing)
        assert pair.matched == pytest.approx(float(figure.mean()))
        cosine = Embedder().images(torch.stack([decode(pair.input), decode(pair.target)]))
        assert pair.dino == pytest.approx(float(cosine[0] @ cosine[1]), abs=1e-5)
        text = Embedder().texts([pair.prompt])
        assert pair.clip == pytest.approx(float((cosine[1] @ text.T)[0]), abs=1e-5)
        seen[pair.category, pair.editing] += 1
    assert len(seen) == 10  # five of the demo's categories, of both kinds


def draw_word(pair):
    return prompts.article(pair.word)


def test_editing_pairs_differ_only_in_their_masks(built):
    edits = [pair for pair in made(built[0]).values() if pair.editing]
    for pair in edits:
        given, target, mask = decode(pair.input), decode(pair.target), decode(pair.mask)[:1]
        assert float(((given - target).abs() * (1 - mask)).max()) == 0 < float((given - target).abs().max())
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert len({pair.category for pair in edits}) == 5


def test_what_is_made_is_counted(built):
    out, told = built
    pairs = made(out)
    repeated = counts(told).get(plan.REPEATED, 0)
    assert counts(told) == ({plan.REPEATED: repeated} if repeated else {})
    assert told["pairs"] == len(pairs) == 60 - repeated and told["made"] == {"subject": 6, "pair": 60}
    assert told["editing"] == sum(pair.editing for pair in pairs.values())
    assert {pair.number for pair in pairs.values() if pair.editing} <= set(range(2, 60, 3))  # a third, as in Toffee-5M
    assert sum(told["categories"].values()) == told["pairs"] and told["categories"]["texture"] == 0
    assert json.loads((out / report.JSON).read_text()) == {k: v for k, v in told.items() if k != "took"}
    text = (out / report.TEXT).read_text()
    assert text.startswith(f"{len(pairs)} pairs (") and "of 6 subjects out of 6" in text
    assert (out / report.SHEET).read_bytes()[:2] == b"\xff\xd8"
    took = told["took"]
    assert took["worker hours of 1 M pairs"] == pytest.approx(
        took["worker seconds"] / len(pairs) * 1e6 / 3600, abs=0.1, rel=0.01
    )


def test_the_sheet_shows_pairs_that_are_there():
    tally = report.Tally("pair", kept=Counter({0: 2, 2: 3}))
    assert tally.some(9, 0) == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    few = tally.some(2, 0)
    assert len(set(few)) == 2 and few == tally.some(2, 0) and set(few) < set(tally.some(5, 1))


def test_jpeg_is_for_pictures_only(tmp_path):
    build.build(config(tmp_path, encoding="jpeg", filters=OPEN), models=models)
    for pair in made(tmp_path).values():
        assert pair.input[:2] == pair.target[:2] == b"\xff\xd8"
        assert pair.mask is None or pair.mask[:4] == b"\x89PNG"


def test_depth_is_kept_beside_the_target(tmp_path):
    near = replace(models(), depth=lambda images: images.mean(1, keepdim=True))
    build.build(config(tmp_path, filters=OPEN), models=lambda: near)
    for load, pair in zip(examples.of_pairs(tmp_path, 32), made(tmp_path).values()):
        assert torch.allclose(load().depth, decode(pair.target).mean(0, keepdim=True), atol=1 / 255)


def test_masks_by_category():
    figure = torch.zeros(1, 40, 40)
    figure[:, 10:20, 12:16] = 1
    figure[:, 10, 12] = 0  # a corner of its box
    assert torch.equal(edit_mask(figure, "background", 0.1), 1 - figure)
    wider = edit_mask(figure, "colour", 0.05)
    assert float(wider[:, 8:22, 10:18].sum()) == float(wider.sum()) == 14 * 8 - 1  # but for the corner
    box = edit_mask(figure, "addition", 0.05)
    assert float(box[:, 4:26, 6:22].mean()) == 1 and float(box.sum()) == 22 * 16
    assert float(edit_mask(torch.ones(1, 8, 8), "background", 0.1).sum()) == 0


def test_other_parts_and_settings_of_the_shards_hold_the_same_pairs(built, tmp_path):
    build.build(config(tmp_path, pairs=60, filters=OPEN, part=7), models=models)
    assert made(tmp_path) == made(built[0])
    build.build(config(tmp_path / "seed", pairs=60, filters=OPEN, part=16, seed=1), models=models)
    ours, theirs = made(built[0]), made(tmp_path / "seed")
    assert not {pair.target for pair in ours.values()} & {pair.target for pair in theirs.values()}


# --- filters


def test_thresholds_are_the_papers_or_a_share(tmp_path):
    told = build.build(config(tmp_path, pairs=40, filters=filters.Filters()), models=models)
    scores = {pair.number: pair for part in range(10) for pair in candidates(tmp_path, part) if not pair.dropped}
    assert len(scores) + counts(told).get(plan.REPEATED, 0) == 40
    ordered, limits = sorted(pair.clip for pair in scores.values()), told["thresholds"]
    assert limits == {"dino": 0.6, "clip": ordered[int(0.2 * len(ordered))]}
    kept = {n for n, pair in scores.items() if pair.dino >= limits["dino"] and pair.clip >= limits["clip"]}
    assert set(made(tmp_path)) == kept and 3 < len(kept) < len(scores) - 3
    short = {
        f"DINO of input and target below {limits['dino']:.3g}",
        f"CLIP of target and prompt below {limits['clip']:.3g}",
    }
    assert short <= set(counts(told)) and sum(counts(told).values()) == 40 - len(kept)
    assert filters.Filters().thresholds(tmp_path, 0, {"dino": "facebook/dino-vits16", "clip": "x"}) == filters.PAPER

    # other thresholds cost no drawing
    before = content(tmp_path)
    looser = build.build(config(tmp_path, pairs=40, filters=OPEN), models=lambda: pytest.fail("asked"))
    assert looser["pairs"] == len(scores) and made(tmp_path).keys() == scores.keys()
    build.build(config(tmp_path, pairs=40, filters=filters.Filters()), models=lambda: pytest.fail("asked"))
    assert content(tmp_path) == before


def test_the_papers_threshold_fits_the_demos_dino():
    same, others = [], []
    for kind in ("cat", "car", "robot", "teapot"):
        subjects = world.held_out_subjects(4, kind)
        shots = [world.photos(each, 3, seed=3, style="photo", accessory=None) for each in subjects]
        seen = [judges.dino().images(torch.stack([picture.image for picture in own])) for own in shots]
        same += [seen[i][a] @ seen[i][b] for i in range(4) for a, b in ((0, 1), (0, 2), (1, 2))]
        others += [seen[i][a] @ seen[j][a] for i in range(4) for j in range(i) for a in range(3)]
    reach = [float((torch.stack(some) >= filters.PAPER["dino"]).float().mean()) for some in (same, others)]
    assert reach[0] > 0.9 and reach[1] < 0.3


def candidates(out, part):
    return list(table.each(table.file(out / "work" / plan.CANDIDATES, part), table.Pair))


def test_the_same_couple_is_made_once(tmp_path):
    (tmp_path / "prompts.txt").write_text(
        "# mine\nstyle: a drawing of {a}\n\nstyle:  a  Drawing of {a}\ncolour: a red {word}"
    )
    told = build.build(
        config(tmp_path / "out", subjects=2, prompts=str(tmp_path / "prompts.txt"), kind="generation", filters=OPEN),
        models=models,
    )
    assert told["dropped"]["prompt"]["same as another prompt"]["count"] == 1
    assert counts(told) == {plan.REPEATED: 10 - told["pairs"]} and told["pairs"] <= 4
    couples = [(pair.subject, pair.prompt) for pair in made(tmp_path / "out").values()]
    assert len(couples) == len(set(couples)) == told["pairs"] > 1


def test_near_identical_subjects_are_used_once(tmp_path):
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.05], [0, 1], [0.999, 0.02], [1, 0.5]]))
    assert plan.repeats(vectors, 0.99) == {1: (0, 0.9988), 3: (0, 0.9998)}
    for word in ("cat", "dog"):
        for name in ("a", "b"):
            picture = tmp_path / "in" / word / f"{name}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(png(coloured(word if word == "cat" else name)))
    told = build.build(config(tmp_path / "out", images=tmp_path / "in", filters=OPEN), models=models)
    assert told["dropped"]["subject"] == {"near-identical to another": {"count": 1, "examples": [1]}}
    assert told["subjects"] == 3 and {pair.subject for pair in made(tmp_path / "out").values()} == {0, 2, 3}
    listed = [json.loads(line) for line in (tmp_path / "out" / report.DROPPED).read_text().splitlines()]
    assert listed[0] == {"what": "subject", "number": 1, "why": "near-identical to another", "detail": "0, cosine 1.0"}


# --- tolerant


class Failing(Painter):
    """Fails on some keys, and draws nothing for others."""

    def __init__(self, bad):
        self.bad = bad

    def check(self, step, keys):
        for key in keys:
            if self.bad.get(key) == step:
                raise RuntimeError(f"no {step}\nfor you")

    def draw(self, prompts, keys, depth=None):
        self.check("draw", keys)
        found = super().draw(prompts, keys)
        for i, key in enumerate(keys):
            if self.bad.get(key) in ("flat", "nan"):
                found[i] = 0.5 if self.bad[key] == "flat" else float("nan")
        return found

    def refine(self, images, subjects, figures, keys, masks=None):
        self.check("refine", keys)
        return super().refine(images, subjects, figures, keys, masks)

    def view(self, images, keys, words):
        self.check("view", keys)
        return super().view(images, keys, words)


class Blind(Middle):
    """Finds nothing in bright pictures, and everything in dark ones."""

    def segment(self, images, text):
        if text == "sick":
            raise RuntimeError("out of memory")
        share = images.mean((1, 2, 3), keepdim=True)
        return torch.where(share > 0.9, 0.0, torch.where(share < 0.1, 1.0, super().segment(images, text)))


def test_what_goes_wrong_costs_its_picture_only(tmp_path):
    for word, data in {
        "cat": png(coloured("cat")),
        "dog": b"no picture",
        "owl": png(coloured("owl"))[:200],
        "duck": png(0.99 + 0.01 * coloured("duck")),
        "bear": png(0.01 * coloured("bear")),
        "sick": png(coloured("sick")),
    }.items():
        (tmp_path / "in" / word).mkdir(parents=True)
        (tmp_path / "in" / word / "1.png").write_bytes(data)
    bad = dict(enumerate(["draw", "flat", "refine", "view", "nan", "fine", "view"]))
    painter = Failing({f"0 pair {number}": what for number, what in bad.items()})
    broken = Models(painter, Embedder(), Embedder(), Blind())
    settings = dict(images=tmp_path / "in", kind="generation", filters=OPEN, pairs=12)
    told = build.build(config(tmp_path / "out", **settings), models=lambda: broken)
    wrong = {"unreadable picture": 2, "no subject found": 1, "subject fills the picture": 1, "segmenter failed": 1}
    assert counts(told, "subject") == wrong and told["subjects"] == 1
    got = counts(told)
    got.pop(plan.REPEATED, 0)
    assert got == {
        "base model failed": 1,
        "base model drew nothing": 2,
        "refiner failed": 1,
        "view generator failed": 2,
    }
    listed = [json.loads(line) for line in (tmp_path / "out" / report.DROPPED).read_text().splitlines()]
    assert {line["detail"] for line in listed if line["why"] == "refiner failed"} == {
        "RuntimeError: no refine\nfor you"
    }
    assert sum(counts(told).values()) + told["pairs"] == 12 and told["pairs"] > 0


def test_a_score_that_is_no_number_is_dropped(tmp_path):
    class Lost(Embedder):
        def texts(self, texts):
            return (
                super().texts(texts) * torch.tensor([float("nan") if "cat" in text else 1.0 for text in texts])[:, None]
            )

    lost = Models(Painter(), Embedder(), Lost(), Middle())
    told = build.build(config(tmp_path, pairs=30, filters=OPEN), models=lambda: lost)
    words = {each.number: each.word for each in subjects(tmp_path).values()}
    assert counts(told)["CLIP failed"] > 0 and told["pairs"] > 0
    assert all(words[pair.subject] != "cat" for pair in made(tmp_path).values())


def test_an_empty_mask_is_dropped(tmp_path):
    class Everything(Middle):
        def segment(self, images, text):
            return torch.ones_like(images[:, :1])

    whole = Models(Painter(), Embedder(), Embedder(), Everything())
    settings = dict(draw=replace(DRAW, most=1.0), kind="editing", filters=OPEN, pairs=30)
    told = build.build(config(tmp_path, **settings), models=lambda: whole)
    got = counts(told)
    got.pop(plan.REPEATED, 0)
    assert set(got) == {"empty mask"} and told["categories"]["background"] == 0 < told["categories"]["colour"]


def test_no_subjects_are_told_clearly(tmp_path):
    blind = Models(Failing({f"0 subject {i}": "flat" for i in range(6)}), Embedder(), Embedder(), Middle())
    with pytest.raises(ValueError, match=r"subjects: none is left \(6 base model drew nothing\)"):
        build.build(config(tmp_path), models=lambda: blind)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(pairs=0), "pairs is 0; at least 1"),
        (dict(subject_prompt="a cat"), "subject_prompt: 'a cat' has no place for the class"),
        (dict(images=Path("missing")), "images: no folder"),
        (dict(classes=Path("missing.txt")), "classes: no file"),
        (dict(prompts="missing.txt"), "prompts: no file missing.txt; give one, or demo, everyday, none"),
        (dict(prompts="none"), "prompts: there is none; give a file, templates"),
    ],
)
def test_mistakes_are_named(tmp_path, fields, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build.build(config(tmp_path, **fields), models=models)


def test_settings_that_make_no_sense(tmp_path):
    for wrong, message in (
        (dict(size=100), "size is 100; it must be a multiple of 32"),
        (dict(start=2.0), "start is 2.0; it must lie within"),
        (dict(least=0.5, most=0.4), "least is 0.5 and most 0.4"),
        (dict(batch=0), "batch is 0 and steps 50; at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            draw.Settings(**wrong)
    with pytest.raises(ValueError, match="quantile is 1"):
        filters.Filters(quantile=1.0)
    (tmp_path / "cat.png").write_bytes(png(coloured("cat")))
    with pytest.raises(ValueError, match=r"images: cat.png lies in no class's folder"):
        list(plan.pictures(tmp_path, "{a}"))


# --- prompts


def test_prompts_of_a_file(tmp_path):
    file = tmp_path / "p.txt"
    for line, message in {
        "a drawing of {a}": "line 2 of p.txt: it has no category; write one before a colon",
        "mood: a sad {word}": "line 2 of p.txt: no category 'mood'; choose style, background",
        "style: a drawing": "line 2 of p.txt: 'a drawing' has no place for the subject",
    }.items():
        file.write_text(f"style: an etching of {{a}}\n{line}")
        with pytest.raises(ValueError, match=message):
            prompts.read(str(file))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"p.txt is no text in UTF-8"):
        prompts.read(str(file))
    assert prompts.Prompt("colour", "a red {word} and {a}").of("owl") == "a red owl and an owl"


@pytest.mark.parametrize("name", ["demo", "everyday"])
def test_templates(name):
    found, dropped = prompts.read(name), Counter()
    assert prompts.distinct(found, dropped) == found and not dropped
    missing = {"texture"} if name == "demo" else set()
    assert {prompt.category for prompt in found} == set(prompts.CATEGORIES) - missing
    if name == "demo":
        from likeness.core.demo import world

        assert {word for prompt in found for word in prompt.of("cat").split()} <= set(world.words())


def test_what_a_language_model_says():
    answer = '1. "A painting of SUBJECT."\n- a cat\n\na woodcut of the SUBJECT\nA painting of a SUBJECT'
    dropped = Counter()
    found = prompts.distinct(prompts.parsed("style", answer, dropped), dropped)
    assert [prompt.text for prompt in found] == ["A painting of {a}", "a woodcut of {a}"]
    assert dropped == {"no caption of a subject": 1, "same as another prompt": 1}

    def model(question, tokens, seed):
        if "another colour" in question:
            raise RuntimeError("out of memory")
        return f"SUBJECT number {seed}"

    dropped = Counter()
    found = prompts.ask(model, 2, 5, dropped, rounds=3)
    assert dropped == {"language model failed: RuntimeError": 3} and len(found) == 10
    assert [p.text for p in found if p.category == "texture"] == ["{a} number 5", "{a} number 6"]


# --- whole after any kill


def test_killed_at_any_file_it_goes_on(tmp_path):
    script = Path(killed_pairs.__file__)
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    # files: the kind, 2 + 2 of the list, 2 x 2 of subjects, 3 + 2 of the plan, 3 x 2 of pairs, 1 + 3 of shards, 5 of
    # the report
    assert int(done.stdout) == 29


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"seed": 3}, "seed"),
        ({"draw": replace(DRAW, steps=7)}, "draw.steps"),
        ({"pairs": 61, "part": 3}, "pairs, part"),
    ],
)
def test_another_builds_folder_is_refused(built, fields, named):
    out, before = built[0], content(built[0])
    settings = {"pairs": 60, "filters": OPEN, "part": 16, **fields}
    with pytest.raises(ValueError, match=rf"holds a build with other settings \({named}\); give the same ones"):
        build.build(config(out, **settings), models=models)
    assert content(out) == before


def test_missing_packages_are_named(tmp_path, monkeypatch):
    from likeness.cli import main

    for module, package in {"ray": r"ray\[data\]", "pyarrow": "pyarrow"}.items():
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            with pytest.raises(SystemExit, match=f"needs the package {package}: pip install {package}"):
                main(["build", "pairs", "--out", str(tmp_path / module)])


# --- Ray


KILLED = """
import os, signal, sys
from pathlib import Path
from killed_pairs import config, models
from likeness.training.data.pairs.build import build

def kill(stage, done, total):
    if stage == "candidates" and done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    build(config(Path(sys.argv[1]), workers=1, pairs=24), kill, models)
"""


def test_killed_among_workers_it_goes_on_with_others(tmp_path, ray):
    build.build(config(tmp_path / "whole", pairs=24), models=models)
    for done in (plan.LIST, plan.SUBJECTS):
        shutil.copytree(tmp_path / "whole" / "work" / done, tmp_path / "killed" / "work" / done)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert 2 <= len(list((tmp_path / "killed").glob("work/candidates/*.parquet"))) < 6
    build.build(config(tmp_path / "killed", workers=2, pairs=24), models=models)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_parts_in_any_order_are_the_same(built, tmp_path):
    out = built[0]
    maker = make.Pairs(out / "work", 0, DRAW, "png", 1, models())
    order = list(range(4))
    random.Random(1).shuffle(order)
    before = content(out)
    for part in order:
        table.file(out / "work" / plan.CANDIDATES, part).unlink()
        maker(part)
    assert content(out) == before


# --- learning from them


def test_pairs_are_examples(built):
    out = built[0]
    pairs, loads = [*made(out).values()], examples.of_pairs(out, 32)
    assert len(loads) == len(pairs)
    for load, pair in zip(loads, pairs):
        e = load()
        assert torch.equal(e.subject, decode(pair.input)) and torch.equal(e.target, decode(pair.target))
        assert e.prompt == pair.prompt and (e.mask is not None) == pair.editing and e.depth is None
        assert e.mask is None or torch.equal(e.mask, decode(pair.mask)[:1])
    edits, first = examples.of_pairs(out, 64, "editing"), table.shard(out, 0)
    assert len(edits) == sum(pair.editing for pair in pairs) and edits[0]().mask.shape == (1, 64, 64)
    assert len(examples.of_pairs(first, 32)) == len(list(table.each(first, table.Pair)))


def test_what_is_no_data_set_of_pairs_is_named(built, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pairs_from: no shard in .*; `likeness build pairs` writes them"):
        examples.of_pairs(tmp_path, 32)
    table.write(table.shard(tmp_path, 0), table.Pair, [])
    with pytest.raises(ValueError, match=r"pairs_from: .* has no pair for editing"):
        examples.of_pairs(tmp_path, 32, "editing")
    with pytest.raises(ValueError, match="pairs is 'all'; choose both"):
        examples.of_pairs(tmp_path, 32, "all")
    table.write(table.shard(tmp_path, 0), table.Subject, [])
    with pytest.raises(
        ValueError, match=r"shard-000000.parquet is no part of a pair factory's \(it has no column editing"
    ):
        examples.of_pairs(tmp_path, 32)
    table.shard(tmp_path, 0).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"shard-000000.parquet is no part of a pair factory's"):
        examples.of_pairs(tmp_path, 32)
