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
