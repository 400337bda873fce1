"""What the scripts of this folder share."""

import torch


def rel(a, b):
    """Largest difference, relative to the largest value."""
    return float((a.float() - b.float()).abs().max() / b.float().abs().max())


def conditioning(clip, prompt):
    """What CLIP Text Encode gives."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


class Everywhere:
    """Takes part in everything and changes nothing."""

    def __init__(self):
        self.sites, self.skips = set(), set()

    def wants(self, site):
        return True

    def __call__(self, site, *args):
        if len(args) == 2:
            self.skips.add(site.name)
            return None
        self.sites.add(site.name)
        q, k, v, _, attend = args
        return attend(q, k, v)


class Recorder(Everywhere):
    """Also keeps what it was shown, rows as plain values and features at the skips."""

    def __init__(self):
        super().__init__()
        self.rows, self.features = [], []

    def __call__(self, site, *args):
        rows = args[3] if len(args) == 5 else args[1]
        # ComfyUI puts the conditionings of a batch in an order of its own
        order = rows.conditional.to(torch.uint8).argsort(stable=True)
        values = (rows.conditional, rows.stream, rows.timestep.round(), rows.where("cat", 77))
        self.rows.append((site.name, [v[order].tolist() for v in values]))
        if len(args) == 2:
            self.features.append(args[0][order])
        return super().__call__(site, *args)


def controlled(positive, negative, seed=5):
    """Both conditionings under a small random ControlNet that fits the embedded model."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    import nodes

    network = comfy.cldm.cldm.ControlNet(
        image_size=32,
        in_channels=4,
        model_channels=64,
        hint_channels=3,
        num_res_blocks=[1, 1, 1],
        channel_mult=[1, 2, 2],
        num_heads=4,
        use_spatial_transformer=True,
        transformer_depth=[1, 1, 1],
        transformer_depth_middle=1,
        context_dim=192,
        operations=comfy.ops.disable_weight_init,
        device="cpu",
        dtype=torch.float32,
        use_linear_in_transformer=False,
        legacy=False,
    )
    g = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.copy_(torch.randn(p.shape, generator=g) * 0.02)
    net = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"), manual_cast_dtype=None)
    hint = torch.rand(1, 128, 128, 3, generator=g)
    return network, *nodes.ControlNetApplyAdvanced().apply_controlnet(positive, negative, net, hint, 1.0, 0.0, 1.0)
