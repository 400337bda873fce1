"""What a level takes from references: their features as keys and values, where they may be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class Lookup(nn.Module):
    """A level's cross-attention: pixels of the picture ask, pixels of the references answer.

    The output projection is zero at first, as ControlNet's (RetriBooru, figure 4); normalising both sides is ours.

    Args:
        channels: of the features on both sides.
        heads: number of heads.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_q, self.norm_kv = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.to_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def keys(self, features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """k and v of references' features, each (B, heads, M, width), and what is still to be masked, bool (B, M).

        Pixels that are masked away are left out where there is one row of references: the attention is then shorter,
        and fused attention is faster without a mask.

        Args:
            features: (B, N, C, h, w).
            mask: bool, (B, N h w): where to look.
        """
        tokens = rearrange(features, "b n c h w -> b (n h w) c")
        if mask is not None and len(mask) == 1:
            tokens, mask = tokens[:, mask[0]], None
        tokens = self.norm_kv(tokens)
        return self._split(self.to_k(tokens)), self._split(self.to_v(tokens)), mask

    def queries(self, features: Tensor) -> Tensor:
        """q of a picture's features (R, C, H, W), (R, heads, H W, width)."""
        return self._split(self.to_q(self.norm_q(rearrange(features, "r c h w -> r (h w) c"))))

    def forward(self, features: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """What a picture takes from its references, (R, C, H, W).

        Args:
            features: (R, C, H, W).
            k, v: (R, heads, M, width).
            mask: bool, (R, M): where to look.
        """
        where = None if mask is None else mask[:, None, None]
        out = F.scaled_dot_product_attention(self.queries(features), k, v, attn_mask=where)
        out = self.to_out(rearrange(out, "r h m d -> r m (h d)"))
        return rearrange(out, "r (h w) c -> r c h w", w=features.shape[-1])

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b m (h d) -> b h m d", h=self.heads)


@dataclass(frozen=True)
class Encoded:
    """References as one timestep's levels see them.

    Args:
        features: skip name -> (B, N, C, h, w), B 1 or the batch's.
        masks: (B, N, H, W) or None, as in `References`.
    """

    features: Mapping[str, Tensor]
    masks: Tensor | None = None

    def mask(self, name: str) -> Tensor | None:
        """bool, (B, N h w): where to look at this level."""
        if self.masks is None:
            return None
        size = self.features[name].shape[-2:]
        return F.adaptive_max_pool2d(self.masks, size).flatten(1) > 0  # what counts as empty elsewhere too

    def unfold(self, name: str, seen: Tensor) -> Tensor:
        """Values of the pixels that `Lookup.keys` kept, (R, M), at their places in the references, (R, N, h, w)."""
        shape = self.features[name].shape
        whole = seen.new_zeros(len(seen), shape[1] * shape[-2] * shape[-1])
        kept = slice(None) if whole.shape == seen.shape else self.mask(name)[0]
        whole[:, kept] = seen
        return whole.unflatten(1, (shape[1], *shape[-2:]))
