"""Where a RetriNet looks, drawn; its groups of levels; which models it fits."""

from dataclasses import replace

import pytest
import torch
from likeness.core.diffusers import DiffusersDenoiser, Text
from likeness.core.diffusion import Schedule
from likeness.core.retrinet import control
from likeness.core.retrinet import network as retrinet
from likeness.core.retrinet.maps import RetrievalMaps, contact_sheet
from likeness.core.weights import layers_of
from networks import SCHEDULER, random_prompt, random_unet


@pytest.fixture(scope="module")
def denoiser():
    return DiffusersDenoiser(random_unet("sd1"), Schedule.from_scheduler(SCHEDULER))


def test_maps_are_means_over_pictures_and_calls():
    maps = RetrievalMaps()
    first, second = torch.rand(2, 3, 4, 4), torch.rand(1, 3, 4, 4)
    maps("skip.0", 900.0, first)
    maps("skip.0", 900.0, second)
    maps("skip.0", 10.0, second)
    assert torch.allclose(maps.seen["skip.0"][900.0], (first.mean(0) + second[0]) / 2)
    assert maps.times == [900.0, 10.0]


def test_a_sheet_shows_each_reference_at_some_steps():
    maps = RetrievalMaps()
    for t in (900.0, 500.0, 300.0, 10.0):
        for name, size in (("skip.0", 8), ("mid", 2)):
            looked = torch.zeros(1, 2, size, size)
            looked[:, 0, 0, 0] = t / 1000  # the first reference's corner alone
            maps(name, t, looked)
    grey = [torch.full((3, 64, 64), 0.5), torch.full((3, 64, 64), 0.25)]
    sheet = contact_sheet(maps, grey, shown=2, cell=32)
    assert sheet.shape == (3, 4 * 36, 3 * 36)
    rows = sheet.unflatten(1, (4, 36)).unflatten(3, (3, 36))[:, :, 2:-2][..., 2:-2]  # (3, row, 32, column, 32)
    assert torch.allclose(rows[:, 0, :, 0], grey[0][:, :32, :32]) and torch.allclose(
        rows[:, 2, :, 0], grey[1][:, :32, :32]
    )
    white, shade = 1 - 0.35 * 0.5, 0.35 * 0.5
    for row in (0, 1):  # stretched to their own largest value, however noisy the step
        assert float(rows[0, row, 0, 1, 0]) == pytest.approx(white) and float(rows[0, row, 20, 1, 20]) == pytest.approx(
            shade
        )
    assert float(rows[0, 2, 0, 1, 0]) == pytest.approx(0.35 * 0.25)
    with pytest.raises(ValueError, match="maps: the references were never looked at; raise the strength"):
        contact_sheet(RetrievalMaps(), grey, shown=2)


def test_attention_in_parts_is_attention(monkeypatch):
    q, k, mask = torch.randn(2, 4, 30, 8), torch.randn(2, 4, 20, 8), torch.rand(2, 20) > 0.3
    whole = control.looked_at(q, k, mask)
    scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~mask[:, None, None], float("-inf"))
    assert torch.allclose(whole, scores.softmax(-1).mean((1, 2)), atol=1e-6)
    monkeypatch.setattr(control, "AT_ONCE", 4 * 20 * 7)
    assert torch.allclose(control.looked_at(q, k, mask), whole, atol=1e-6)


def test_groups_of_levels(denoiser):
    network = retrinet.blank(denoiser)
    names = [skip.name for skip in denoiser.skips]
    by_level = {skip.name: skip.level for skip in denoiser.skips}
    assert retrinet.levels_of("all", denoiser.skips, network) == names
    deep, shallow = (retrinet.levels_of(c, denoiser.skips, network) for c in ("deep", "shallow"))
    assert {by_level[n] for n in deep} == {2} and {by_level[n] for n in shallow} == {0, 1} and "mid" in deep
    assert sorted(deep + shallow) == sorted(names)
    assert retrinet.levels_of("middle", denoiser.skips, network) == ["mid"]
    assert retrinet.levels_of(" mid, skip.2,", denoiser.skips, network) == ["mid", "skip.2"]
    few = retrinet.blank(denoiser, levels=["skip.0", "mid"])
    assert retrinet.levels_of("all", denoiser.skips, few) == ["skip.0", "mid"]
    for choice in ("top", "skip.0, skip.1", ""):
        with pytest.raises(ValueError, match=r"is not in this RetriNet; it has skip\.0, mid"):
            retrinet.levels_of(choice, denoiser.skips, few)


def test_which_models_it_fits(denoiser):
    network, layers = retrinet.blank(denoiser), layers_of(denoiser.unet)
    network.check(denoiser.sites, denoiser.skips, layers)
    other = [replace(site, context=768) for site in denoiser.sites]
    with pytest.raises(ValueError, match="retrinet: it was trained on context-32, but the model here is sd1"):
        network.check(other, denoiser.skips, layers)
    wider = [replace(skip, channels=48) for skip in denoiser.skips]
    with pytest.raises(ValueError, match=r"retrinet: the model's layer skip\.0 is not as in the one"):
        network.check(denoiser.sites, wider, layers)
    with pytest.raises(ValueError, match="retrinet: the model's layer conv_out is not as in the one"):
        network.check(denoiser.sites, denoiser.skips, [name for name in layers if name != "conv_out"])


@torch.no_grad()
@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
def test_a_batch_of_prompts_is_its_prompts(layout):
    denoiser = DiffusersDenoiser(random_unet(layout), Schedule.from_scheduler(SCHEDULER))
    texts = [Text(**random_prompt(layout, 1)), Text(**random_prompt(layout, 2, tokens=154))]
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    together = denoiser(z, torch.tensor([900, 20]), texts[0].with_rows(texts[1:]))[0]
    for i, t in enumerate((900, 20)):
        assert (denoiser(z[i : i + 1], t, texts[i])[0] - together[i : i + 1]).abs().max() < 1e-5
