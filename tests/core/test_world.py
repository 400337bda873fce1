"""The demo world: deterministic pictures with consistent truth, and captions that never give an identity away."""

import random
import re

import pytest
import torch
from likeness.core.demo import world
from likeness.core.demo.world import Character, Face, Mark, Outfit, Scene, Thing

PERSON = Character(Face("long", "ginger", "green", "tan"), Outfit("coat", "blue", "yellow", "dots"))
SUBJECTS = [*(Thing(kind, "blue") for kind in world.KINDS), PERSON]
PLAIN = Scene("meadow", "photo", seed=3)


def scenes(count, seed=0, **fixed):
    rng = random.Random(seed)
    return [world.random_scene(rng, **fixed) for _ in range(count)]


def subjects(count, seed=0, **how):
    rng = random.Random(seed)
    return [world.random_subject(rng, **how) for _ in range(count)]


def mean_colour(picture):
    inside = picture.mask[0] > 0.5
    return picture.image[:, inside].mean(dim=1)


def test_same_seed_gives_the_same_picture_and_caption():
    for seed in (0, 7, 2**40):
        a, b = world.sample(seed), world.sample(seed)
        assert torch.equal(a.image, b.image) and torch.equal(a.depth, b.depth)
        assert (a.caption, a.tags, a.subject, a.scene) == (b.caption, b.tags, b.subject, b.scene)
    assert not torch.equal(world.sample(0).image, world.sample(1).image)


def test_drawing_leaves_the_global_generators_alone():
    random.seed(5), torch.manual_seed(5)
    expected = random.random(), torch.rand(1)
    random.seed(5), torch.manual_seed(5)
    world.sample(11)
    assert (random.random(), torch.rand(1)) == expected


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.word)
def test_every_view_has_plausible_truth(subject):
    for k, view in enumerate(world.VIEWS):
        [scene] = scenes(1, seed=k, view=view, background=world.BACKGROUNDS[k], style=world.STYLES[k % 3])
        picture = world.draw(subject, scene)
        assert picture.image.shape == (3, 128, 128) and picture.image.dtype == torch.float32
        for array in (picture.image, picture.mask, picture.depth):
            assert array.min() >= 0.0 and array.max() <= 1.0
        mask = picture.mask[0]
        assert 0.05 < mask.mean() < 0.5
        rim = torch.cat([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert rim.max() == 0.0
        depth = picture.depth[0]
        assert depth[mask > 0.5].mean() > depth[mask < 0.5].mean() + 0.1
        assert depth[-1].mean() > 0.85 > 0.5 > depth[0].mean()


def test_people_have_a_face_box_unless_seen_from_behind_and_always_clothes():
    for view in world.VIEWS:
        for scene in scenes(3, seed=9, view=view, accessory=None):
            picture = world.draw(PERSON, scene)
            assert (picture.face_box is None) == (view == "back")
            assert 0.02 < picture.clothes.mean() < picture.mask.mean()
            assert (picture.clothes <= picture.mask).all()
            if picture.face_box:
                cx, cy, w, h = picture.face_box
                box = [round(128 * v) for v in (cx - w / 2, cx + w / 2, cy - h / 2, cy + h / 2)]
                inside = picture.mask[0, box[2] : box[3], box[0] : box[1]]
                assert inside.mean() > 0.75
                assert picture.clothes[0, box[2] : box[3], box[0] : box[1]].mean() < 0.2
    picture = world.draw(Thing("cup", "red"), PLAIN)
    assert picture.face_box is None and picture.clothes is None


@pytest.mark.parametrize("kind", ["cat", "cup"])
def test_scenes_of_one_subject_share_its_colours(kind):
    pictures = {
        colour: [
            mean_colour(world.draw(Thing(kind, colour), scene))
            for scene in scenes(2, seed=4, style="photo", accessory=None, background="meadow")
        ]
        for colour in ("red", "green", "blue", "white")
    }
    for colour, (a, b) in pictures.items():
        others = [torch.dist(a, c) for other, pair in pictures.items() if other != colour for c in pair]
        assert torch.dist(a, b) < min(others)


@pytest.mark.parametrize("mark", world.MARKS)
def test_marks_show_in_every_view_and_only_inside_the_mask(mark):
    for kind in ("dog", "duck", "robot", "car", "clock", "backpack"):
        for k, view in enumerate(world.VIEWS):
            scene = Scene("kitchen", "photo", view=view)
            plain = world.draw(Thing(kind, "red"), scene, size=64)
            marked = world.draw(Thing(kind, "red", (Mark(mark, "white", k),)), scene, size=64)
            change = (plain.image - marked.image).abs().amax(dim=0)
            assert change[(plain.mask[0] == 0) & (marked.mask[0] == 0)].max() < 0.02
            assert (change[marked.mask[0] > 0.5] > 0.15).float().mean() > 0.02, (kind, view)


def test_marks_are_the_same_in_every_scene_but_differ_between_variants():
    def picture(variant):
        return world.draw(Thing("bear", "brown", (Mark("spots", "yellow", variant),)), PLAIN).image

    assert torch.equal(picture(1), picture(1))
    assert not torch.equal(picture(1), picture(2))


def test_accessories_are_not_part_of_the_mask():
    for subject in (Thing("cat", "orange"), PERSON):
        scene = Scene("snow", "photo", scale=0.8)
        for accessory in world.ACCESSORIES:
            with_it = world.draw(subject, Scene("snow", "photo", scale=0.8, accessory=accessory))
            assert with_it.mask.mean() <= world.draw(subject, scene).mask.mean() + 0.003


def test_styles_and_sizes_keep_the_geometry():
    masks = [world.draw(PERSON, Scene("city", style)).mask for style in world.STYLES]
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])
    large = world.draw(PERSON, Scene("city", "photo"), size=256)
    assert large.image.shape == (3, 256, 256)
    small = torch.nn.functional.avg_pool2d(large.mask[None], 2)[0]
    assert (small - masks[0]).abs().mean() < 0.01


def captions(count=600):
    rng = random.Random(2)
    pairs = [(world.random_subject(rng), world.random_scene(rng)) for _ in range(count)]
    return [(subject, scene, world.caption(subject, scene, rng)) for subject, scene in pairs]


def test_captions_use_their_vocabulary_and_all_of_it():
    seen = {word for _, _, text in captions(3000) for word in text.split()}
    seen |= {word for region in ("face", "clothes") for word in world.region_caption(region, PERSON).split()}
    assert seen == set(world.words())
    assert 55 <= len(world.words()) <= 75


def test_captions_never_name_an_identity():
    names = (world.MARKS, world.HAIR_STYLES, world.GARMENTS, world.PATTERNS, ("hair", "eyes", "skin"))
    hidden = {word for group in names for word in group}
    for subject, _, text in captions():
        said = set(text.split())
        assert not said & hidden
        named = said & set(world.COLOURS)
        assert named <= ({subject.colour} if isinstance(subject, Thing) else set())


def test_captions_tell_the_truth():
    named = {"colour": 0, "background": 0}
    things = 0
    for subject, scene, text in captions():
        style = re.match(r"an? (photo|painting|drawing) of ", text)
        assert (style[1] if style else "photo") == scene.style
        assert (scene.accessory is None) == (not re.search(r"wearing|with", text))
        assert scene.accessory is None or scene.accessory in text
        view = re.search(r"(front|back|left|right|side) view", text)
        assert not view or view[1] == scene.view or (view[1] == "side" and scene.view in ("left", "right"))
        named["background"] += scene.background in text
        things += isinstance(subject, Thing)
        named["colour"] += bool(set(text.split()) & set(world.COLOURS))
    assert 0.4 < named["colour"] / things < 0.6
    assert 0.65 < named["background"] / 600 < 0.85


def test_attributes_and_tags_name_what_captions_hide():
    truth = world.attributes(PERSON, PLAIN)
    assert truth["hair_style"] == "long" and truth["pattern"] == "dots" and truth["accessory"] == "none"
    assert {"person", "long hair", "ginger hair", "green eyes", "coat", "blue outfit"} <= set(world.tags(PERSON, PLAIN))
    cat = Thing("cat", "red", (Mark("dip", "white"), Mark("badge", "blue")))
    assert world.attributes(cat, PLAIN)["marks"] == "white dip, blue badge"
    assert {"cat", "red", "white dip", "blue badge"} <= set(world.tags(cat, PLAIN))


def test_held_out_subjects_are_never_sampled():
    drawn = subjects(2000)
    assert not any(world.held_out(subject) for subject in drawn)
    tests = world.held_out_subjects(20)
    assert len(set(tests)) == 20 and all(world.held_out(subject) for subject in tests)
    assert world.held_out_subjects(5) == tests[:5]
    assert {subject.word for subject in world.held_out_subjects(4, "teapot")} == {"teapot"}
    assert {subject.word for subject in world.held_out_subjects(4, "person")} == {"person"}


def test_random_subjects_follow_their_arguments():
    assert {subject.word for subject in subjects(30, kinds=("cup", "dog"), characters=0.0)} == {"cup", "dog"}
    assert all(isinstance(subject, Character) for subject in subjects(10, characters=1.0))
    marked = [bool(subject.marks) for subject in subjects(600, characters=0.0)]
    assert 0.4 < sum(marked) / 600 < 0.6


@pytest.mark.parametrize(
    "make, parts",
    [
        (lambda: Thing("horse", "red"), ("Thing.kind", "'horse'", "teapot")),
        (lambda: Thing("cat", "pink"), ("Thing.colour", "'pink'", "purple")),
        (lambda: Mark("glitter", "red"), ("Mark.kind", "'glitter'", "stripes")),
        (lambda: Mark("spots", "red", 12), ("Mark.variant", "12", "11")),
        (lambda: Face("mohawk", "black", "blue", "tan"), ("Face.hair_style", "'mohawk'", "curly")),
        (lambda: Outfit("toga", "red", "blue"), ("Outfit.garment", "'toga'", "dress")),
        (lambda: Scene("moon", "photo"), ("Scene.background", "'moon'", "beach")),
        (lambda: Scene("beach", "film"), ("Scene.style", "'film'", "drawing")),
        (lambda: Scene("beach", "photo", scale=3.0), ("Scene.scale", "3.0", "1.2")),
        (lambda: world.random_scene(random.Random(0), light="red"), ("random_scene", "'light'", "style")),
        (lambda: subjects(1, kinds=("cat", "horse")), ("kinds", "'horse'", "cat")),
        (lambda: world.held_out_subjects(1, "horse"), ("held_out_subjects", "'horse'", "person")),
        (lambda: world.draw(PERSON, PLAIN, size=100), ("draw", "100", "64")),
        (lambda: world.region_caption("hand", PERSON), ("region_caption", "'hand'", "face")),
    ],
)
def test_errors_name_input_value_and_choices(make, parts):
    with pytest.raises(ValueError) as error:
        make()
    assert all(part in str(error.value) for part in parts), str(error.value)
