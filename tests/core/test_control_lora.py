"""Control-LoRA headless: every layer has its name, a file is the ControlNet it was packed from, messages help."""

import pytest
import torch
from likeness.core import checkpoint, control_lora, controlnet, files, weights
from likeness.core.demo import MODEL
from likeness.core.diffusers import DiffusersDenoiser
from likeness.core.files import Header, LearnedFileError
from likeness.core.toffee.inpainting import widened
from networks import random_unet
from safetensors.torch import save_file

HINT = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def model():
    return checkpoint.load(MODEL)


@pytest.fixture(scope="module")
def unet(model):
    return model.denoiser.unet


def network_of(unet):
    from diffusers import ControlNetModel

    torch.manual_seed(0)
    return ControlNetModel.from_unet(unet).eval().requires_grad_(False)


def packed(unet, scale=0.05, rank=3):
    """A random Control-LoRA's tensors, all zero at scale 0, and the ControlNet that it stands for."""
    network, g = network_of(unet), torch.Generator().manual_seed(5)
    layers, tensors = weights.layers_of(network), {}
    for name, layer in layers.items():
        if name.startswith(control_lora.WHOLE):
            for part, p in layer.named_parameters():
                first = name.startswith("conv_in")
                p.copy_((p if first else torch.randn(p.shape, generator=g) * scale).half().float())
                tensors[f"{name}/{part}"] = p
        elif not isinstance(layer, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
            down, up = (torch.randn(t.shape, generator=g) * scale for t in weights._zeros(layer, rank).values())
            tensors |= {f"{name}/down": down, f"{name}/up": up}
            down, up = down.half().float(), up.half().float()
            layer.weight += torch.einsum("or,r...->o...", up.flatten(1), down)
    return control_lora.pack(tensors, control_lora.ldm_names(network)), network


@torch.no_grad()
def residuals(network, unet, channels=4):
    g = torch.Generator().manual_seed(1)
    z, words = (
        torch.randn(*shape, generator=g) for shape in ((2, channels, 16, 16), (2, 9, unet.config.cross_attention_dim))
    )
    down, middle = network(z, 400, words, HINT.expand(2, -1, -1, -1), return_dict=False)
    return [*down, middle]


def apart(ours, theirs):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def stable_diffusion(levels=4, per_level=2):
    """SD1.5's structure at small width."""
    from diffusers import UNet2DConditionModel

    down = ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1)
    sizes = dict(block_out_channels=(32, 64, 64, 64)[:levels], layers_per_block=per_level, cross_attention_dim=32)
    return UNet2DConditionModel(sample_size=16, **sizes, attention_head_dim=4, down_block_types=down, up_block_types=up)


@pytest.mark.parametrize("which", ["demo", "sd15", "sd1", "sd2", "sdxl"])
def test_every_layer_has_a_name_of_its_own(which, unet):
    some = {"demo": lambda: unet, "sd15": stable_diffusion}.get(which, lambda: random_unet(which))()
    network = network_of(some)
    names = control_lora.ldm_names(network)
    assert len(set(names.values())) == len(names)
    assert {name.rpartition(".")[0] for name, _ in network.named_parameters()} == names.keys()


def test_names_are_stable_diffusions():
    names = control_lora.ldm_names(network_of(stable_diffusion()))
    known = {
        "conv_in": "input_blocks.0.0",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
        "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_out.0": (
            "input_blocks.8.1.transformer_blocks.0.attn2.to_out.0"
        ),
        "down_blocks.3.resnets.1.conv2": "input_blocks.11.0.out_layers.3",
        "mid_block.resnets.1.time_emb_proj": "middle_block.2.emb_layers.1",
        "mid_block.attentions.0.proj_in": "middle_block.1.proj_in",
        "time_embedding.linear_2": "time_embed.2",
        "controlnet_cond_embedding.blocks.5": "input_hint_block.12",
        "controlnet_cond_embedding.conv_out": "input_hint_block.14",
        "controlnet_down_blocks.11": "zero_convs.11.0",
        "controlnet_mid_block": "middle_block_out.0",
    }
    assert {name: names[name] for name in known} == known


@pytest.mark.parametrize("which", ["demo", "sd15", "sdxl"])
def test_a_file_is_what_was_packed(which, unet, tmp_path):
    some = {"demo": lambda: unet, "sd15": stable_diffusion, "sdxl": lambda: random_unet("sdxl")}[which]()
    tensors, network = packed(some)
    files.save(tmp_path / "some.safetensors", tensors, Header(control_lora.KIND))
    loaded = controlnet.load(tmp_path / "some.safetensors", some)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    own = network.state_dict()
    assert own.keys() == loaded.state_dict().keys()
    assert all(torch.allclose(v, own[k], atol=1e-5) for k, v in loaded.state_dict().items())
    if which != "sdxl":
        assert apart(residuals(loaded, some), residuals(network, some)) < 1e-5


def test_nothing_learned_is_the_base_bit_for_bit(model, unet, tmp_path):
    save_file(packed(unet, scale=0)[0], tmp_path / "nothing.safetensors")
    nothing = controlnet.load(tmp_path / "nothing.safetensors", unet)
    assert all((r == 0).all() for r in residuals(nothing, unet))
    own = network_of(unet).state_dict()
    copied = {k: v for k, v in nothing.state_dict().items() if not k.startswith("controlnet_")}
    assert all(torch.equal(v.half(), own[k].half()) for k, v in copied.items())
    z, text = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1)), model.text("a red cat")
    with torch.no_grad():
        assert torch.equal(
            controlnet.Controlled(model.denoiser, nothing, HINT)(z, 300, text)[0], model.denoiser(z, 300, text)[0]
        )


def test_an_inpainting_model_is_guided_alike(unet, tmp_path):
    save_file(packed(unet)[0], tmp_path / "some.safetensors")
    plain, wide = (control_lora.load(tmp_path / "some.safetensors", each) for each in (unet, widened(unet)))
    assert wide.config.in_channels == 4
    assert apart(residuals(wide, unet), residuals(plain, unet)) == 0


def test_it_is_on_the_units_device_and_in_its_precision(unet, tmp_path):
    save_file(packed(unet)[0], tmp_path / "some.safetensors")
    import copy

    half = controlnet.load(tmp_path / "some.safetensors", copy.deepcopy(unet).to(torch.bfloat16))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_a_folder_is_diffusers_own(unet, tmp_path):
    network = network_of(unet)
    network.save_pretrained(tmp_path / "depth")
    loaded = controlnet.load(tmp_path / "depth", unet)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in loaded.state_dict().items())
    with pytest.raises(ValueError, match="of the kind AutoencoderTiny, but a ControlNet is needed"):
        controlnet.load(MODEL / "vae", unet)


def test_files_that_do_not_fit(unet, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file none\.safetensors"):
        control_lora.load(tmp_path / "none.safetensors", unet)
    (tmp_path / "torn.safetensors").write_bytes(b"nothing")
    with pytest.raises(LearnedFileError, match=r"torn.safetensors is damaged .*; copy or download it again"):
        control_lora.load(tmp_path / "torn.safetensors", unet)
    with pytest.raises(LearnedFileError, match=r"duotone.safetensors is no Control-LoRA; give one, or a ControlNet as"):
        control_lora.load(MODEL.parent / "loras" / "duotone.safetensors", unet)
    tensors, _ = packed(unet)
    save_file(tensors, tmp_path / "demo.safetensors")
    with pytest.raises(LearnedFileError, match=r"demo.safetensors does not fit this model: .*; use it with the model"):
        control_lora.load(tmp_path / "demo.safetensors", random_unet("sd1"))
    for changed, why in (
        ({"zero_convs.1.0.weight": None}, "it has no zero_convs.1.0"),
        ({"input_blocks.9.0.in_layers.2.up": torch.zeros(4, 4)}, "the model has no input_blocks.9.0.in_layers.2"),
        ({"middle_block.0.in_layers.2.up": None}, "the low rank of mid_block.resnets.0.conv1 has another shape"),
        ({"input_hint_block.2.bias": torch.zeros(3)}, "controlnet_cond_embedding.blocks.0 has another bias"),
    ):
        other = {k: v for k, v in {**tensors, **changed}.items() if v is not None}
        save_file(other, tmp_path / "other.safetensors")
        with pytest.raises(LearnedFileError, match=why):
            control_lora.load(tmp_path / "other.safetensors", unet)


def test_a_lora_in_the_layers_comes_after(tmp_path):
    from likeness.training.demo_lora import add_lora

    some = random_unet("sd1")
    save_file(packed(some)[0], tmp_path / "some.safetensors")
    add_lora(some, 2, 0)
    with pytest.raises(ValueError, match=r"unet: it has a LoRA in its layers; load some.safetensors before the LoRA"):
        control_lora.load(tmp_path / "some.safetensors", some)


def test_a_file_holds_no_weights_of_the_base(unet):
    tensors, _ = packed(unet)
    assert tensors["lora_controlnet"].numel() == 0
    whole = {k.split(".")[0] for k in tensors if k.endswith(("weight", "bias"))}
    assert whole == {"input_blocks", "input_hint_block", "zero_convs", "middle_block_out"}
    assert {k for k in tensors if k.startswith("input_blocks") and k.endswith(("weight", "bias"))} == {
        "input_blocks.0.0.weight",
        "input_blocks.0.0.bias",
    }
    assert all(v.dtype == torch.half for k, v in tensors.items() if k != "lora_controlnet")


def test_toffees_models_see_it(unet, model, tmp_path):
    """A ControlNet on the base guides the nine-channel copy, whose further channels only the U-Net sees."""
    from dataclasses import replace

    save_file(packed(unet)[0], tmp_path / "some.safetensors")
    network = controlnet.load(tmp_path / "some.safetensors", unet)
    wide, text = DiffusersDenoiser(widened(unet), model.denoiser.schedule), model.text("a red cat")
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = controlnet.Controlled(model.denoiser, network, HINT)(z, 300, text)[0]
        led = controlnet.Controlled(wide, network, HINT)(z, 300, replace(text, channels=torch.rand(1, 5, 16, 16)))[0]
    assert float((plain - led).abs().max() / plain.abs().max()) < 1e-5
