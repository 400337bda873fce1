"""DreamBench's protocol: its own file of prompts, pictures drawn once, numbers as `evaluate pictures` has them."""

import json
from dataclasses import replace

import pytest
import torch
from likeness.cli import main
from likeness.core.demo import world
from likeness.core.toffee import adapter as adapters
from likeness.training import dreambench, evaluate
from likeness.training.data import photos
from likeness.training.dino_adapter import Learn, begin

FILE = """Classes
The following are our subject names and their respective classes.

subject_name,class
backpack_dog,backpack
red cartoon
dog6,dog
wolf_plushie,stuffed animal

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token),
]

Live Subject Prompts

prompt_list = [
'a {0} {1} wearing a red hat'.format(unique_token, class_token)
]
"""


def test_the_benchmarks_own_file():
    found = dreambench.parse(FILE)
    assert found == {
        "backpack_dog": ("backpack", ("a backpack in the jungle", "a red backpack")),
        "dog6": ("dog", ("a dog wearing a red hat",)),
        "wolf_plushie": ("stuffed animal", ("a stuffed animal in the jungle", "a red stuffed animal")),
    }
    with pytest.raises(ValueError, match=r"prompts_and_classes\.txt is not as DreamBench has it"):
        dreambench.parse("cat,cat\n")


@pytest.fixture
def subjects(tmp_path):
    folder = tmp_path / "dreambench"
    for name, kind in (("my_dog", "dog"), ("my_pot", "teapot")):
        (folder / "dataset" / name).mkdir(parents=True)
        for i, picture in enumerate(world.photos(world.held_out_subjects(1, kind)[0], 2)):
            (folder / "dataset" / name / f"{i}.png").write_bytes(photos.png(picture.image))
    (folder / "prompts_and_classes.txt").write_text(
        FILE.replace("dog6,dog", "my_dog,dog").replace("wolf_plushie,stuffed animal", "my_pot,teapot")
    )
    return folder


@pytest.fixture
def adapter(tmp_path):
    from likeness.core import checkpoint
    from likeness.core.demo import MODEL
    from likeness.core.diffusers import DiffusersDenoiser
    from likeness.core.toffee.inpainting import widened

    base = checkpoint.load(MODEL).denoiser
    torch.manual_seed(0)
    denoiser = DiffusersDenoiser(widened(base.unet), base.schedule)
    begun = begin("toffeenet", denoiser, 160, Learn(what="low-rank", rank=1), "the embedded judge", "")
    return adapters.save(tmp_path / "toffeenet.safetensors", begun)


def test_drawn_once_and_measured(subjects, adapter, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", "dreambench", "--subjects", str(subjects), "--out", str(out), "--size", "64"]
    command += ["--clip", "demo", "--dino", "demo", "--segmenter", "demo", "--images", "2"]
    with pytest.raises(SystemExit, match=r"out: no .*00-00\.png, and 1 more of 2; draw them first"):
        main(command)
    drawing = [*command, "--adapter", str(adapter), "--steps", "2"]
    main(drawing)
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png"))
    assert files == [
        f"my_{name}/{n:02}-{i:02}.png"
        for name, count in (("dog", 1), ("pot", 2))
        for n in range(count)
        for i in range(2)
    ]
    found = json.loads((out / "dreambench.json").read_text())
    assert found["means"].keys() == {"clip_i", "clip_t", "dino", "seg_clip_i", "seg_dino"}
    # every picture counts once, so that the pot with two prompts has twice the dog's weight
    each = found["subjects"]
    assert found["means"]["dino"] == pytest.approx((each["my_dog"]["dino"] + 2 * each["my_pot"]["dino"]) / 3)
    drawn = torch.stack([photos.decode((out / f).read_bytes()) for f in files[:2]])
    [dog, _] = dreambench.read(subjects, None, 64)
    own = evaluate.score(replace(evaluate.embedded(), vqa=None), drawn, dog.images, list(dog.prompts) * 2).summary()
    assert each["my_dog"] == pytest.approx({name: own[name] for name in each["my_dog"]}, abs=1e-6)
    # a picture that is there is not drawn again; a missing one comes back the same
    before = (out / files[0]).read_bytes()
    (out / files[0]).unlink()
    (out / files[3]).write_bytes((out / files[1]).read_bytes())
    main(drawing)
    assert (out / files[0]).read_bytes() == before
    assert (out / files[3]).read_bytes() == (out / files[1]).read_bytes()
    with pytest.raises(SystemExit, match="holds pictures of other settings"):
        main([*drawing, "--guidance", "2"])
    assert "seg_dino" in capsys.readouterr().out


def test_mistakes_are_named(subjects, tmp_path):
    config = dreambench.Config(subjects, tmp_path / "out", size=64)
    with pytest.raises(FileNotFoundError, match="subjects: no folder"):
        dreambench.read(tmp_path / "none", None, 64)
    (subjects / "dataset" / "more").mkdir()
    with pytest.raises(ValueError, match="prompts: there are none for more"):
        dreambench.run(config)
    (tmp_path / "p.json").write_text('{"more": {}}')
    with pytest.raises(ValueError, match=r"prompts: p.json can't be read \('class'\); write"):
        dreambench.read(subjects, tmp_path / "p.json", 64)
    (subjects / "prompts_and_classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"prompts: no prompts_and_classes.txt in .*; copy DreamBench's"):
        dreambench.run(config)
