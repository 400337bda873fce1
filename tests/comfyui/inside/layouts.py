"""SD1.x's, SD2.x's and SDXL's layouts with random weights: both hooks, both runtimes, beside what others patch in."""

import importlib.util
from pathlib import Path

import comfy.controlnet
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import torch
from common import Everywhere, rel
from likeness_in_comfyui.core.denoiser import Hooks
from likeness_in_comfyui.core.diffusers import DiffusersDenoiser, Text
from likeness_in_comfyui.core.diffusion import Schedule
from likeness_in_comfyui.nodes import denoiser

FAMILIES = {"sd1": comfy.supported_models.SD15, "sd2": comfy.supported_models.SD20, "sdxl": comfy.supported_models.SDXL}
SIZES = {
    "sd1": dict(
        transformer_depth=[1, 1, 1, 1, 0, 0],
        transformer_depth_output=[1, 1, 1, 1, 1, 1, 0, 0, 0],
        transformer_depth_middle=1,
        num_heads=4,
        num_head_channels=-1,
        use_linear_in_transformer=False,
    ),
    "sd2": dict(
        transformer_depth=[1, 1, 1, 1, 0, 0],
        transformer_depth_output=[1, 1, 1, 1, 1, 1, 0, 0, 0],
        transformer_depth_middle=1,
        num_heads=-1,
        num_head_channels=16,
        use_linear_in_transformer=True,
    ),
    "sdxl": dict(
        transformer_depth=[0, 0, 2, 2, 3, 3],
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 3, 3, 3],
        transformer_depth_middle=3,
        num_heads=-1,
        num_head_channels=16,
        use_linear_in_transformer=True,
        num_classes="sequential",
        adm_in_channels=256 * 6 + 16,
    ),
}


def networks():
    spec = importlib.util.spec_from_file_location("networks", Path(__file__).parents[2] / "networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def comfy_model(layout, weights, channels=4):
    """A MODEL of a layout from a diffusers U-Net's weights."""
    sizes = dict(
        image_size=32,
        in_channels=channels,
        out_channels=4,
        model_channels=32,
        num_res_blocks=[2, 2, 2],
        channel_mult=[1, 2, 2],
        context_dim=32,
        use_spatial_transformer=True,
        use_temporal_attention=False,
        legacy=False,
        **SIZES[layout],
    )

    class Family(FAMILIES[layout]):
        unet_config, unet_extra_config = {}, {}

        def model_type(self, state_dict, prefix=""):
            return comfy.model_base.ModelType.V_PREDICTION if layout == "sd2" else comfy.model_base.ModelType.EPS

    family = Family(sizes)
    family.set_inference_dtype(torch.float32, None)
    model = family.get_model({}, "", torch.device("cpu"))
    names = comfy.utils.unet_to_diffusers(sizes)
    model.diffusion_model.load_state_dict({names[k]: v for k, v in weights.items()})
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


class Add(Everywhere):
    """Adds residuals that depend on the features."""

    def __init__(self):
        super().__init__()
        self.features = []

    def __call__(self, skip, features, rows):
        self.features.append(features.clone())
        return features.sin() * 0.3 + skip.order


class Control(comfy.controlnet.ControlBase):
    """A stand-in for a ControlNet: fixed residuals for the middle and every skip."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options=None):
        def ones(channels, level, value):
            return torch.full((len(x_noisy), channels, 16 // 2**level, 16 // 2**level), value)

        *outer, mid = self.channels
        return {"output": [ones(*c, 0.3) for c in outer], "middle": [ones(*mid, 0.4)]}

    def copy(self):
        return self

    def get_models(self):
        return []

    def pre_run(self, model, percent_to_timestep_function):
        pass


def one_layout(layout, nets):
    result = {}
    unet = nets.random_unet(layout)
    schedule = Schedule(Schedule.scaled_linear().alphas, "v_prediction" if layout == "sd2" else "epsilon")
    base = DiffusersDenoiser(unet, schedule)
    text, null = (Text(**nets.random_prompt(layout, seed)) for seed in (1, 2))
    model = comfy_model(layout, unet.state_dict())
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(7))

    def conditioning(text, **options):
        pooled = text.extra.get("added_cond_kwargs", {}).get("text_embeds")
        return [[text.tokens, {**({} if pooled is None else {"pooled_output": pooled}), **options}]]

    control = Control([(s.channels, s.level) for s in base.skips])
    conds = {
        "positive": conditioning(text),
        "negative": conditioning(null),
        "controlled": conditioning(text, control=control, control_apply_to_uncond=False),
    }

    def work(native, _, prompts):
        plain = native(z, 400, prompts["negative"], prompts["positive"])
        result["outputs"] = max(rel(a, b) for a, b in zip(plain, base(z, 400, null, text)))
        result["names"] = [s.name for s in native.sites] == [s.name for s in base.sites]
        result["known"] = [s.__dict__ for s in (*native.sites, *native.skips)] == [
            s.__dict__ for s in (*base.sites, *base.skips)
        ]
        watch = Everywhere()
        watched = native(z, 400, prompts["negative"], prompts["positive"], hooks=Hooks(watch, watch))
        result["untouched"] = all(torch.equal(a, b) for a, b in zip(plain, watched))
        result["everywhere"] = len(watch.sites) == len(base.sites) and len(watch.skips) == len(base.skips)
        result["residuals"] = rel(
            native(z, 400, prompts["positive"], hooks=Hooks(skips=Add()))[0],
            base(z, 400, text, hooks=Hooks(skips=Add()))[0],
        )
        # beside a ControlNet: its part stays, and the features are those before it
        alone, beside = Add(), Add()
        controlled = native(z, 400, prompts["controlled"])[0]
        watched = native(z, 400, prompts["controlled"], hooks=Hooks(watch, watch))[0]
        result["control_untouched"] = torch.equal(controlled, watched)
        result["control_differs"] = rel(controlled, plain[1])
        native(z, 400, prompts["positive"], hooks=Hooks(skips=alone))
        both = native(z, 400, prompts["controlled"], hooks=Hooks(skips=beside))[0]
        result["features_before_control"] = all(torch.equal(a, b) for a, b in zip(alone.features, beside.features))
        residuals = [torch.full((2, s.channels, 16 // 2**s.level, 16 // 2**s.level), 0.3) for s in base.skips[:-1]]
        mid = torch.full((2, base.skips[-1].channels, 4, 4), 0.4)
        extra = {
            **text.extra,
            "down_block_additional_residuals": tuple(residuals),
            "mid_block_additional_residual": mid,
        }
        result["control"] = rel(both, base(z, 400, Text(text.tokens, extra=extra), hooks=Hooks(skips=Add()))[0])

    with torch.no_grad():
        denoiser.run(model, conds, torch.zeros(2, 4, 16, 16), work)

        # beside another pack's attention patch, set without and with the block's depth
        def halve(q, k, v, extra):
            return attention(q, k, v, extra["n_heads"]) * 0.5

        from comfy.ldm.modules.attention import optimized_attention as attention

        for depth in (None, 0):
            other = model.clone()
            other.set_model_attn2_replace(halve, "output", 3 if layout != "sdxl" else 4, depth)
            outs = []

            def both_ways(native, _, prompts, outs=outs):
                for hooks in (None, Hooks(Everywhere(), Everywhere())):
                    outs.append(native(z, 400, prompts["positive"], hooks=hooks)[0])
                outs.append(base(z, 400, text)[0])

            denoiser.run(other, conds, torch.zeros(2, 4, 16, 16), both_ways)
            result[f"chained_{depth}"] = torch.equal(outs[0], outs[1]) and not torch.allclose(
                outs[0], outs[2], rtol=1e-3
            )
    return result


def main(pack):
    nets = networks()
    return {layout: one_layout(layout, nets) for layout in nets.LAYOUTS}
