"""`likeness draw --learned`: each method's file draws what its own parts draw, strength 0 the untouched model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from likeness.cli import main
from likeness.core import checkpoint, controlnet
from likeness.core.demo import MODEL, judges, sheet, world
from likeness.core.denoiser import Hooks, guided
from likeness.core.diffusion import sample
from likeness.core.hifi import subject
from likeness.core.hifi.subject import Subject, SubjectText, carry
from likeness.core.infusion import concept
from likeness.core.infusion import sampling as infusion
from likeness.core.infusion.control import Infusion, Use
from likeness.core.retrinet import network as retrinet
from likeness.core.retrinet.control import Retrieval
from likeness.core.retrinet.reference import References, cut_out
from likeness.core.toffee import adapter as adapters
from likeness.core.toffee.adapter import Injection
from likeness.core.toffee.drawing import prepared
from likeness.training import drawing
from likeness.training.data import photos

SIZE, PROMPT = 64, "a photo of a cat on the beach"
SHIPPED, DEPTH = MODEL.parent, MODEL.parent / "controlnet" / "depth.safetensors"


@pytest.fixture(scope="module")
def model():
    return checkpoint.load(MODEL)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """Learned files that change something, and two pictures with a mask each."""
    folder, base = tmp_path_factory.mktemp("learned"), model.denoiser
    torch.manual_seed(0)
    rows = model.text("").tokens[:, -5:] + torch.randn(2, 5, model.text("").tokens.shape[-1])
    subject.save(folder / "subject.safetensors", Subject(rows, (700, 200), "cat", concept_file().base))
    network = retrinet.blank(base, rank=1)
    for lookup in network.lookups.values():
        torch.nn.init.normal_(lookup.to_out.weight, std=0.2)
    retrinet.save(folder / "retrinet.safetensors", network)
    for i, kind in enumerate(("cat", "person")):
        [picture] = world.photos(world.held_out_subjects(1, kind)[0], 1, seed=i)
        (folder / f"{i}.png").write_bytes(photos.png(picture.image))
        (folder / f"{i}-mask.png").write_bytes(photos.png(picture.mask.expand(3, -1, -1)))
    return folder


def concept_file():
    return concept.load(SHIPPED / "concepts" / "demo cat.safetensors")


def config(folder, **more):
    return drawing.Config(folder / "sheet.png", (PROMPT,), columns=1, steps=2, size=SIZE, **more)


def methods(folder) -> dict[str, dict]:
    two = {"references": (folder / "0.png", folder / "1.png"), "shows": ("figure", "face")}
    masks = (folder / "0-mask.png", folder / "1-mask.png")
    toffee = SHIPPED / "toffee"
    one = {"references": (folder / "0.png",)}
    return {
        "concept": {"learned": SHIPPED / "concepts" / "demo cat.safetensors"},
        "subject": {"learned": folder / "subject.safetensors"},
        "retrinet": {"learned": folder / "retrinet.safetensors", **two, "masks": masks},
        "refiner": {"learned": toffee / "demo refiner.safetensors", **one, "masks": masks[:1]},
        "toffeenet": {"learned": toffee / "demo toffeenet.safetensors", **one, "controlnet": str(DEPTH)},
    }


def picture(path: Path):
    return photos.decode(path.read_bytes())


def by_hand(name, model, folder, noise):
    """What the parts of each method draw."""
    base, steps = model.denoiser, model.denoiser.schedule.timesteps(2)
    size, text, null = (SIZE, SIZE), model.text(PROMPT, ["cat"]), model.text("")
    hooks, denoiser = Hooks(), base
    if name == "concept":
        control = Infusion([Use(concept_file())], len(base.schedule))
        return model.decode(infusion.draw(base, text, null, control, noise, steps, guidance=5.0)[1])
    if name == "subject":
        learned = subject.load(folder / "subject.safetensors")
        text, hooks = carry(text, PROMPT, model.text.tokenize, learned), SubjectText(learned).hooks
    elif name == "retrinet":
        cut = [cut_out(picture(folder / f"{i}.png"), picture(folder / f"{i}-mask.png")[:1], SIZE) for i in (0, 1)]
        latents, masks = model.encode(torch.stack([c[0] for c in cut])), torch.cat([c[1] for c in cut])
        tokens = torch.cat([model.text(word).tokens for word in ("figure", "face")])
        network = retrinet.load(folder / "retrinet.safetensors").eval()
        hooks = Retrieval(network, References(latents, tokens, masks), len(base.schedule)).hooks
    else:
        adapter, image = adapters.load(SHIPPED / "toffee" / f"demo {name}.safetensors"), picture(folder / "0.png")[None]
        if name == "refiner":  # around the subject white
            mask = picture(folder / "0-mask.png")[None, :1]
            image = image * mask + (1 - mask)
        else:
            network = controlnet.load(DEPTH, base.unet)
            denoiser, carried = prepared(model, torch.zeros(1, 3, *size), network=network)
            text, null = carried(text), carried(null)
        hooks = Injection(adapter.eval(), judges.dino().tokens(image), len(base.schedule)).hooks
    return model.decode(sample(base.schedule, guided(denoiser, text, null, 5.0, hooks), noise, steps))


@torch.no_grad()
@pytest.mark.parametrize("name", ["concept", "subject", "retrinet", "refiner", "toffeenet"])
def test_the_file_says_how_it_is_drawn(name, model, folder):
    noise = torch.randn(1, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(0))
    [row] = drawing.draw(config(folder, **methods(folder)[name]))
    wanted = by_hand(name, model, folder, noise)
    assert (row.images - wanted).abs().max() < 1e-5
    plain = sheet.text_to_image(model, PROMPT, noise, steps=2, guidance=5.0)
    assert (row.images - plain).abs().max() > 1e-2
    if name != "toffeenet":  # its depth is no part of its strength
        [row] = drawing.draw(config(folder, **methods(folder)[name], strength=0.0))
        assert (row.images - plain).abs().max() < 1e-5


@torch.no_grad()
def test_a_toffeenet_is_prepared_for_a_place_or_for_everything(model):
    image, mask = torch.rand(1, 3, SIZE, SIZE), torch.zeros(1, 1, SIZE, SIZE)
    mask[..., 16:48, 16:48] = 1
    denoiser, carried = prepared(model, image, mask)
    assert denoiser.unet.config.in_channels == 9 and model.denoiser.unet.config.in_channels == 4
    channels = carried(model.text("")).channels
    assert torch.equal(channels[:, :1], mask[..., ::8, ::8])
    assert torch.equal(channels[:, 1:], model.encode(image * (1 - mask)))
    everything = prepared(model, image)[1](model.text("")).channels
    assert bool((everything[:, 0] == 1).all())
    assert torch.equal(everything[:, 1:], model.encode(torch.zeros_like(image)))
    network = controlnet.load(DEPTH, model.denoiser.unet)
    assert bool((prepared(model, image, network=network)[0].hint == 0.5).all())
    depth = torch.rand(1, SIZE, SIZE)
    assert torch.equal(prepared(model, image, network=network, depth=depth)[0].hint[0], depth.expand(3, -1, -1))


def test_command(folder, tmp_path, capsys):
    learned = SHIPPED / "concepts" / "demo cat.safetensors"
    out = tmp_path / "cat.png"
    main(["draw", "--learned", str(learned), "--prompts", PROMPT, "--columns", "1", "--steps", "1", "--out", str(out)])
    assert out.is_file() and PROMPT in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        (
            "concept",
            {"references": (Path("x.png"),)},
            "references: the infusion-concept in demo cat.safetensors knows its subject; give none",
        ),
        ("retrinet", {"references": ()}, "references: retrinet.safetensors draws from pictures; give their files"),
        ("retrinet", {"references": (Path("x.png"),), "masks": ()}, "references: no file x.png"),
        ("retrinet", {"shows": ("face",)}, "shows: 1 for 2 references; give one for each, or none"),
        ("retrinet", {"masks": (Path("x.png"),)}, "masks: 1 for 2 references; give as many, or none"),
        ("retrinet", {"learned": None}, "references: nothing reads them; give a RetriNet or a DINO adapter as learned"),
        ("retrinet", {"learned": SHIPPED / "loras" / "car.safetensors"}, "car.safetensors"),
        ("refiner", {"references": "both", "masks": ()}, "references: a refiner draws from one picture; 2 are given"),
    ],
)
def test_mistakes_are_named(name, changed, message, folder):
    if changed.get("references") == "both":
        changed = {**changed, "references": (folder / "0.png", folder / "1.png")}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        drawing.draw(replace(config(folder, **methods(folder)[name]), **changed))


def test_a_file_that_is_no_picture(folder):
    (folder / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"references: text.png can't be read \(it is no picture of a known format\)"):
        drawing.draw(config(folder, learned=folder / "retrinet.safetensors", references=(folder / "text.png",)))
