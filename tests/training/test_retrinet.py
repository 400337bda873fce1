"""RetriNet's data and training: who refers to whom, Eq. 3 written out, what is locked, resuming."""

from dataclasses import replace

import pytest
import torch
from likeness.core import files
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule
from likeness.core.retrinet import network as retrinet
from likeness.core.retrinet.control import Retrieval
from likeness.core.retrinet.reference import box_mask
from likeness.training import loop, retrinet_command
from likeness.training import retrinet as training
from likeness.training.data import identities, photos, records
from likeness.training.data.identities import Choice, augmented, choose, reference
from likeness.training.weighting import snr_weight
from networks import SCHEDULER, random_prompt, random_unet
from tiny import SIZE, Tiny

LOOP = loop.Settings(steps=4, lr=1e-3, ema=0.9, every=2)
LEARN = training.Learn(references=2, batch=2, size=SIZE, rank=2, loop=LOOP)


@pytest.fixture(scope="module")
def model():
    return Tiny()


@pytest.fixture(scope="module")
def people():
    return identities.rendered(2, 3, size=SIZE)


def begin(model, people, learn=LEARN, file=None):
    torch.manual_seed(0)
    network = retrinet.blank(model.denoiser, learn.rank, learn.levels)
    bank = identities.Bank(people, model.encode, learn.size)
    return training.Training(model.denoiser, network, model.text, bank, learn, file)


# --- data


def test_other_pictures_once_each():
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        found = choose(3, 4, 1, g, "reconstruction")
        assert sorted(c.shot for c in found) == [0, 2, 3] and {c.word for c in found} == {"figure"}
        more = choose(5, 3, 0, g)
        assert {c.shot for c in more[:2]} == {1, 2} and {c.shot for c in more} == {1, 2}


def test_composition_draws_each_word_by_itself():
    g = torch.Generator().manual_seed(0)
    seen = [tuple(c.word for c in choose(2, 3, 0, g)) for _ in range(400)]
    for pair in (("face", "face"), ("face", "clothes"), ("clothes", "face"), ("clothes", "clothes")):
        assert 70 < seen.count(pair) < 130
    both = [choose(1, 3, 0, g, "multitask")[0].word for _ in range(400)]
    assert 150 < both.count("figure") < 250


def test_pipeline_a_refers_to_the_target():
    g = torch.Generator().manual_seed(0)
    found = [c for _ in range(30) for c in choose(2, 3, 2, g, pipeline="a")]
    assert {c.shot for c in found} == {2} and {c.variant for c in found} == set(range(identities.VARIANTS))
    with pytest.raises(ValueError, match="identities: one has a single picture; pipeline b needs two"):
        choose(2, 1, 0, g)


def test_augmenting_moves_the_face_with_the_picture(people):
    shot = people[0][0]()
    shot = replace(shot, face=shot.face or (0.5, 0.3, 0.2, 0.2))
    marked = replace(shot, image=box_mask(shot.face, (SIZE, SIZE)).repeat(3, 1, 1))
    for seed in range(6):
        other = augmented(marked, torch.Generator().manual_seed(seed))
        found = box_mask(other.face, (SIZE, SIZE))
        assert float((other.image[:1] - found).abs().mean()) < 0.02
        assert not torch.equal(other.image, marked.image)


def test_a_hidden_face_gives_way_to_clothes(people):
    shot = replace(people[0][0](), face=None)
    assert reference(shot, Choice(0, "face"), SIZE)[0] == "clothes"


def test_people_are_the_same_every_time(people):
    again = identities.rendered(2, 3, size=SIZE)
    for one, other in zip(people, again):
        assert all(torch.equal(a().image, b().image) for a, b in zip(one, other))
    held = identities.rendered(2, 2, held_out=True, size=SIZE)
    assert not torch.equal(held[0][0]().image, people[0][0]().image)


@pytest.mark.parametrize("style", ["painting", "drawing"])
def test_people_in_one_style(style):
    """A caption names a style, unless it is a photo."""
    for wanted in (style, "photo"):
        prompts = [one().prompt for person in identities.rendered(2, 4, size=SIZE, style=wanted) for one in person]
        assert {style in prompt.split() for prompt in prompts} == {wanted == style}
    with pytest.raises(ValueError, match="style: 'oil' is not of the demo world; choose from"):
        identities.rendered(1, 2, style="oil")


# --- loss


@torch.no_grad()
@pytest.mark.parametrize(("snr", "figure_weight"), [(False, 0.0), (True, 0.0), (False, 0.3)])
def test_loss_is_equation_3(model, people, snr, figure_weight):
    """And with a weight of the figure outside of the face, which is ours, one term more."""
    learn = replace(LEARN, snr=snr, face_weight=0.7, figure_weight=figure_weight, drop=0.5)
    ours = begin(model, people, learn)
    for p in ours.network.parameters():
        p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    value = float(ours._loss(0, torch.Generator().manual_seed(5)))

    g = torch.Generator().manual_seed(5)
    chosen = torch.randint(2, (2,), generator=g).tolist()
    aims = [int(torch.randint(3, (), generator=g)) for _ in chosen]
    shots = [people[i][a]() for i, a in zip(chosen, aims)]
    z0 = model.encode(torch.stack([s.image for s in shots]))
    choices = [choose(2, 3, aim, g) for aim in aims]
    given = ours.references(chosen, choices)
    dropped = torch.rand(2, generator=g) < 0.5
    t = model.denoiser.schedule.stratified(2, g)
    eps = torch.randn(z0.shape, generator=g)
    weight = snr_weight(model.denoiser.schedule) if snr else torch.ones(1000)
    seen, faces, figures = torch.zeros(2), torch.zeros(2), torch.zeros(2)
    total_faces = total_figures = 0.0
    for i, shot in enumerate(shots):
        z = model.denoiser.schedule.noise(z0[i : i + 1], eps[i : i + 1], int(t[i]))
        alone = type(given)(given.latents[i], given.tokens[2 * i : 2 * i + 2], given.masks[i])
        prompt = model.text("" if dropped[i] else shot.prompt)
        answer = model.denoiser(z, int(t[i]), prompt, hooks=Retrieval(ours.network, alone, 1000).hooks)[0]
        wrong = (answer - eps[i]).square().mean(1)[0] * weight[t[i]]
        seen[i] = wrong.mean()
        mask = box_mask(shot.face, (8, 8))[0] if shot.face else torch.zeros(8, 8)
        faces[i], total_faces = (wrong * mask).sum(), total_faces + float(mask.sum())
        rest = torch.nn.functional.avg_pool2d(shot.figure, SIZE // 8)[0] * (1 - mask)
        figures[i], total_figures = (wrong * rest).sum(), total_figures + float(rest.sum())
    wanted = float(seen.mean() + 0.7 * faces.sum() / total_faces + figure_weight * figures.sum() / total_figures)
    assert value == pytest.approx(wanted, rel=1e-4)


@torch.no_grad()
def test_padding_is_not_learned(model, people):
    """An error in the padded half of the targets costs nothing, the same error in the other half does."""
    half = torch.zeros(1, SIZE, SIZE)
    half[:, :, : SIZE // 2] = 1
    shots = [replace(load(), seen=half, face=None) for load in people[0]]
    ours = begin(model, [[lambda shot=shot: shot for shot in shots]])
    whole, losses = ours.denoiser, []
    for wrong in (slice(0, 0), slice(4, 8), slice(0, 4)):

        def worse(*args, wrong=wrong, **hooks):
            answer = whole(*args, **hooks)[0].clone()
            answer[..., wrong] += 3
            return (answer,)

        worse.schedule, ours.denoiser = whole.schedule, worse
        losses.append(float(ours._loss(0, torch.Generator().manual_seed(1))))
    assert losses[0] == losses[1] < losses[2] - 1


# --- training


@pytest.mark.parametrize(
    ("lock", "parts"),
    [("none", {"encoder", "lookups", "delta"}), ("decoder", {"encoder", "lookups"}), ("both", {"lookups"})],
)
def test_locks(model, people, lock, parts):
    ours = begin(model, people, replace(LEARN, lock=lock))
    assert {name.split(".")[0] for name in ours.trainer.parameters} == parts
    before = {k: v.clone() for k, v in ours.network.state_dict().items()}
    learned = ours.run(until=2)
    after = learned.state_dict()
    assert (learned.delta is None) == (lock != "none")
    frozen = [k for k in after if k.split(".")[0] not in parts]
    assert all(torch.equal(before[k], after[k]) for k in frozen)
    assert any(not torch.equal(before[k], after[k]) for k in after if k.startswith("lookups"))


def test_the_base_is_untouched_and_it_learns(model, people):
    before = files.fingerprint(model.denoiser.unet.state_dict())
    learn = replace(LEARN, batch=4, drop=0.0, snr=True, loop=replace(LOOP, steps=30, lr=2e-3, ema=0.0))
    ours = begin(model, people, learn)
    with torch.no_grad():
        fixed = [float(ours._loss(0, torch.Generator().manual_seed(s))) for s in range(6)]
    ours.run()
    with torch.no_grad():
        after = [float(ours._loss(0, torch.Generator().manual_seed(s))) for s in range(6)]
    assert sum(after) < 0.95 * sum(fixed)
    assert files.fingerprint(model.denoiser.unet.state_dict()) == before


def test_resuming_repeats_an_unbroken_run(model, people, tmp_path):
    whole = begin(model, people).run().state_dict()
    file = tmp_path / "r.checkpoint"

    def stop(progress):
        if progress.step == 3:
            raise loop.Cancelled

    with pytest.raises(loop.Cancelled):
        begin(model, people, file=file).run(stop)
    resumed = begin(model, people, file=file)
    assert resumed.trainer.step == 3
    again = resumed.run().state_dict()
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    with pytest.raises(files.LearnedFileError, match="of a training with other settings"):
        begin(model, people, replace(LEARN, drop=0.25), file)


def test_what_a_step_shows_can_be_made_ready_before(model, people):
    """After `prepare` neither a picture nor another prompt is encoded while the model learns."""
    learn = replace(LEARN, task="multitask", loop=replace(LEARN.loop, accumulation=3))
    ours = begin(model, people, learn)
    prompts = set().union(*(ours.prepare(step) for step in range(3)))
    assert "" in prompts and prompts & {"face", "clothes", "figure"}
    ours.bank.encode = None
    ours.text = {prompt: model.text(prompt) for prompt in prompts}.__getitem__
    ours.run(until=3)
    assert ours.trainer.step == 3


@torch.no_grad()
def test_sdxl_reads_what_it_wants_besides_of_every_prompt(people):
    """Each target has its own prompt's vector, each reference its word's: a batch's loss is its targets' mean."""
    denoiser = DiffusersDenoiser(random_unet("sdxl"), Schedule.from_scheduler(SCHEDULER))
    seeds: dict[str, int] = {}

    def text(prompt):
        return Text(**random_prompt("sdxl", seeds.setdefault(prompt, len(seeds))))

    def extra(word):
        return text(word).extra["added_cond_kwargs"]

    learn = replace(LEARN, drop=0.0, face_weight=0.0)
    network = retrinet.blank(denoiser)
    for p in network.parameters():
        p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    bank = identities.Bank(people, lambda image: torch.nn.functional.avg_pool2d(image, 8)[:, [0, 1, 2, 0]], SIZE)
    ours = training.Training(denoiser, network, text, bank, learn, extra=extra)
    value, g = float(ours._loss(0, torch.Generator().manual_seed(5))), torch.Generator().manual_seed(5)
    chosen, aims, choices = ours.drawn(g)
    torch.rand(2, generator=g)
    t, total = denoiser.schedule.stratified(2, g), 0.0
    eps = torch.randn(2, 4, SIZE // 8, SIZE // 8, generator=g)
    for i in range(2):
        z0, shot = bank.target(chosen[i], aims[i])
        z = denoiser.schedule.noise(z0[None], eps[i : i + 1], int(t[i]))
        hooks = Retrieval(network, ours.references(chosen[i : i + 1], choices[i : i + 1]), 1000).hooks
        total += float((denoiser(z, int(t[i]), text(shot.prompt), hooks=hooks)[0] - eps[i]).square().mean()) / 2
    assert value == pytest.approx(total, rel=1e-4)


def test_what_a_training_may_go_on_from(model):
    base, learn = model.denoiser, replace(LEARN, rank=2)
    network = retrinet.blank(base, rank=2)
    assert retrinet_command.begun(network, base, learn) is network
    with pytest.raises(
        ValueError, match="rank: init's decoder differences are of another rank than 3; give init's own"
    ):
        retrinet_command.begun(network, base, replace(learn, rank=3))
    with pytest.raises(ValueError, match=r"levels: init has skip\.0, "):
        retrinet_command.begun(network, base, replace(learn, levels=("mid",)))
    other = DiffusersDenoiser(random_unet("sdxl"), Schedule.from_scheduler(SCHEDULER))
    with pytest.raises(ValueError, match=r"retrinet: the model.s layer .* is not as in the one that it was trained on"):
        retrinet_command.begun(network, other, learn)
    network.delta = None
    with pytest.raises(ValueError, match="init: its decoder was locked, so it has no differences to train on"):
        retrinet_command.begun(network, base, learn)
    assert retrinet_command.begun(network, base, replace(learn, lock="decoder")) is network


def test_masks_of_records_are_checked():
    picture = torch.rand(3, 64, 48)

    def load(mask):
        figure = photos.png(mask.expand(3, -1, -1))
        pairs = (("a", "b"), ("b", "a"))
        made = [records.Record(a, "ann", "", photos.png(picture), None, figure, (), "", (b,)) for a, b in pairs]
        return identities.from_records(made, SIZE)[0][0]()

    assert load(torch.ones(1, 64, 48)).figure.any()
    with pytest.raises(
        ValueError, match="records: the mask of a is 64 x 64, its picture 48 x 64 pixels; make them alike"
    ):
        load(torch.ones(1, 64, 64))
    with pytest.raises(ValueError, match=f"records: the mask of a is empty at {SIZE} pixels; paint it, or remove"):
        load(torch.zeros(1, 64, 48))


def test_command(tmp_path):
    config = retrinet_command.Config(
        out=tmp_path / "r.safetensors", people=2, shots=2, learn=replace(LEARN, size=128), threads=1
    )
    retrinet_command.train(config)
    network = retrinet.load(config.out, base="context-192")
    assert network.settings["steps"] == 4 and network.settings["references"] == 2 and network.source
    assert not config.out.with_suffix(".checkpoint").exists()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="task 'faces', pipeline 'b', lock 'none': choose from"):
        training.Learn(task="faces")
    with pytest.raises(ValueError, match="references and batch must be at least 1"):
        training.Learn(references=0)
