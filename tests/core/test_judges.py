"""The embedded judges: what a picture shows, what may be asked of it, and that their folders open."""

import random
from dataclasses import replace

import pytest
import torch
from likeness.core import files
from likeness.core.demo import attributes, captions, judges, world
from likeness.core.demo.truth import VALUES, truth, visible
from likeness.core.demo.world import Character, Face, Mark, Outfit, Scene, Thing

PLAIN = Scene("meadow", "photo")
COAT = Character(Face("bun", "ginger", "green", "tan"), Outfit("coat", "blue", "yellow", "plain"))
SHIRT = Character(Face("long", "ginger", "green", "tan"), Outfit("shirt", "blue", "yellow", "stripes"))


def test_truth_names_every_attribute_and_only_known_values():
    seen = {}
    for seed in range(300):
        for name, value in truth(*world.sample_scene(seed)).items():
            assert value in VALUES[name]
            seen.setdefault(name, set()).add(value)
    assert set(seen) == set(VALUES)
    assert all(len(seen[name]) > 1 for name in VALUES)


def test_truth_of_things_and_people():
    cat = truth(Thing("cat", "red", (Mark("dip", "white"), Mark("badge", "blue"))), PLAIN)
    assert (cat["dip"], cat["badge"], cat["band"], cat["pose"]) == ("white", "blue", "none", "standing")
    assert "eyes" not in cat and "pose" not in truth(Thing("cup", "red"), PLAIN)
    person = truth(COAT, PLAIN)
    assert (person["kind"], person["second_colour"], person["accessory"]) == ("person", "yellow", "none")
    assert "colour" not in person and "dip" not in person


def test_a_plain_front_view_shows_everything():
    for subject in (COAT, SHIRT, Thing("bear", "red", (Mark("patch", "white"), Mark("band", "blue")))):
        assert visible(subject, PLAIN) == set(truth(subject, PLAIN))


def outfit(subject, **fields):
    return Character(subject.face, replace(subject.outfit, **fields))


BACK = replace(PLAIN, view="back")
HAT = replace(PLAIN, accessory="hat", scale=0.85)
LEFT = replace(PLAIN, view="left")
SCARF = replace(LEFT, accessory="scarf")
BOB = Character(replace(COAT.face, hair_style="bob"), Outfit("hoodie", "blue", "yellow", "plain"))
BAND = Thing("rabbit", "red", (Mark("band", "blue"),))
HIDDEN = {
    "eyes from behind": ("eyes", COAT, BACK, PLAIN),
    "eyes of somebody far away": ("eyes", COAT, replace(LEFT, scale=0.5), LEFT),
    "skin under hair and sleeves from behind": ("skin", BOB, replace(BACK, pose="sitting"), PLAIN),
    "a bun under a hat": ("hair_style", COAT, HAT, replace(HAT, view="left")),
    "a plain coat's trousers, sitting": ("second_colour", COAT, replace(PLAIN, pose="sitting"), PLAIN),
    "a hoodie's stripes under long hair": ("pattern", outfit(SHIRT, garment="hoodie"), BACK, PLAIN),
    "a band under a scarf": ("band", BAND, SCARF, LEFT),
    "no band under a scarf": ("band", Thing("rabbit", "red"), SCARF, LEFT),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_what_is_hidden_is_not_asked(case):
    name, subject, hidden, shown = HIDDEN[case]
    assert name not in visible(subject, hidden)
    assert name in visible(subject, shown)


def test_a_pattern_shows_the_second_colour_of_a_sitting_coat():
    sitting = replace(PLAIN, pose="sitting")
    assert "second_colour" not in visible(COAT, sitting)
    assert "second_colour" in visible(outfit(COAT, pattern="checks"), sitting)


def test_what_is_taken_for_granted_changes_the_picture():
    """Attributes that `visible` does not try: another value always shows."""
    fields = {"garment": "garment", "outfit_colour": "colour"}
    for seed in range(12):
        rng = random.Random(f"granted {seed}")
        scene = replace(world.random_scene(rng), style="photo")
        person, thing = (world.random_subject(rng, characters=share) for share in (1.0, 0.0))
        rivals = {}
        for name in fields:
            other = next(v for v in VALUES[name] if v != truth(person, scene)[name])
            rivals[name] = (person, outfit(person, **{fields[name]: other}), scene)
        other = "hat" if scene.accessory != "hat" else "flower"
        rivals["accessory"] = (person, person, replace(scene, accessory=other))
        pose = "sitting" if scene.pose != "sitting" else "waving"
        rivals["pose"] = (person, person, replace(scene, pose=pose))
        colour = next(c for c in world.COLOURS if c != thing.colour)
        rivals["colour"] = (thing, Thing(thing.kind, colour, thing.marks), scene)
        for name, (a, b, there) in rivals.items():
            one, two = (world.draw(s, at, caption="", size=64).image for s, at in ((a, scene), (b, there)))
            assert ((one - two).abs().amax(0) > 0.1).sum() >= 8, (name, seed)


@pytest.fixture(scope="module")
def random_judge(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("judges") / "attributes"
    net = attributes.AttributeNet(widths=(16, 24, 32), blocks=(1, 2, 1)).half().float()
    attributes.save(net, folder)
    return net.eval(), folder


def test_the_attribute_judge_answers_what_its_net_says(random_judge):
    net, folder = random_judge
    images = torch.rand(70, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    answers = judges.attributes(folder.parent)(images)
    with torch.no_grad():
        logits = net(images)
    assert set(answers) == set(VALUES)
    for name, answer in answers.items():
        assert answer.names == VALUES[name]
        torch.testing.assert_close(answer.probabilities, logits[name].softmax(-1), rtol=1e-4, atol=1e-5)
        assert answer.values == [VALUES[name][i] for i in logits[name].argmax(-1)]


def test_the_attribute_judge_refuses_other_pictures(random_judge):
    judge = judges.attributes(random_judge[1].parent)
    for wrong in (torch.zeros(1, 3, 64, 64), torch.zeros(3, 128, 128), torch.zeros(1, 3, 128, 128, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"\(B, 3, 128, 128\)"):
            judge(wrong)


def test_judges_that_are_not_there_are_named(tmp_path, random_judge):
    for make in (judges.clip, judges.dino):
        with pytest.raises(FileNotFoundError, match=f"{tmp_path}"):
            make(tmp_path)
    with pytest.raises(FileNotFoundError, match=attributes.FILE):
        judges.attributes(tmp_path)
    tensors, _ = files.load(random_judge[1] / attributes.FILE, kind=attributes.KIND)
    other = files.Header(kind=attributes.KIND, settings={"values": {"kind": ["horse"]}})
    files.save(tmp_path / "attributes" / attributes.FILE, tensors, other)
    with pytest.raises(files.LearnedFileError, match="another world's attributes"):
        judges.attributes(tmp_path)


# --- as shipped ------------------------------------------------------------------------------------------------------

# share of right answers where visible
LEAST = {"background": 0.95, "style": 0.95, "colour": 0.9, "accessory": 0.75, "kind": 0.65, "view": 0.65}


def test_the_shipped_judges_are_small():
    paths = [path for path in judges.JUDGES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in paths) <= 8 * 2**20
    assert {path.suffix for path in paths} == {".safetensors", ".json", ".txt", ".md"}


@pytest.fixture(scope="module")
def unseen():
    """Pictures of the world with their truth where it is visible."""
    pairs = [world.sample_scene(30_000_000 + i) for i in range(36)]
    truths = [{name: truth(*pair)[name] for name in visible(*pair)} for pair in pairs]
    return torch.stack([world.draw(*pair).image for pair in pairs]), truths


def test_the_shipped_attribute_judge_reads_pictures(unseen):
    images, truths = unseen
    answers = judges.attributes()(images)
    for name, least in LEAST.items():
        said = answers[name].values
        right = [said[i] == shown[name] for i, shown in enumerate(truths) if name in shown]
        assert sum(right) >= least * len(right), (name, sum(right), len(right))


def pairs_of_one_class(count):
    """Held-out subjects in two scenes, and in a third another held-out one of the same class; (count, 3, H, W) each."""
    kinds = ("cat", "robot", "person", "teapot", "person", "car")
    known, rows = {kind: world.held_out_subjects(count + 1, kind) for kind in set(kinds)}, []
    for i in range(count):
        subject, other = known[kinds[i % len(kinds)]][i : i + 2]
        rng = random.Random(f"shipped {i}")
        rows.append([world.draw(who, world.random_scene(rng)).image for who in (subject, subject, other)])
    return [torch.stack(column) for column in zip(*rows)]


def test_the_shipped_dino_knows_subjects_again():
    dino = judges.dino()
    anchor, same, other = (dino.images(images) for images in pairs_of_one_class(20))
    right = (anchor * same).sum(-1) > (anchor * other).sum(-1)
    assert right.sum() >= 17


def test_the_shipped_clip_tells_a_true_caption_from_a_wrong_one(unseen):
    clip, (images, truths) = judges.clip(), unseen
    style = [f"{'an' if t['style'][0] in 'aeiou' else 'a'} {t['style']} of a {t['kind']}" for t in truths]
    place = [f"{text} {captions.PLACES[t['background']]}" for text, t in zip(style, truths)]
    others = [[p for key, p in captions.PLACES.items() if key != t["background"]] for t in truths]
    wrong = [f"{text} {rest[i % len(rest)]}" for i, (text, rest) in enumerate(zip(style, others))]
    pictures, right, false = clip.images(images), clip.texts(place), clip.texts(wrong)
    assert ((pictures * right).sum(-1) > (pictures * false).sum(-1)).float().mean() >= 0.95
