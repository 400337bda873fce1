"""Segment Anything by checkpoint file: what lies in a box or under a point (Kirillov et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from . import prompts

SUFFIXES = (".pth", ".safetensors")
_ENCODER = "image_encoder."
# what the three published sizes (ViT-B, L, H) share, from segment_anything's build_sam.py
_MASK_CHANNELS, _DECODER_DEPTH, _DECODER_HEADS, _MASKS = 16, 2, 8, 3


class Sam:
    """A SAM of the segment_anything package, loaded when first used.

    Args:
        file: the authors' checkpoint, as .pth or .safetensors; its size (ViT-B, L, H) is read off the weights.
        device, dtype: where it runs, and in what precision its image encoder does; the small rest stays in float32.

    Raises:
        FileNotFoundError: no such file, at once.
        ValueError: a file that is no such checkpoint or can't be read, when first used.
    """

    def __init__(self, file: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32):
        self.file, self.device, self.dtype = Path(file), torch.device(device), dtype
        if self.file.suffix not in SUFFIXES or not self.file.is_file():
            raise FileNotFoundError(f"no SAM at {file}; give a checkpoint file, {' or '.join(SUFFIXES)}")

    @cached_property
    def model(self) -> Any:
        """The `segment_anything.modeling.Sam`, frozen."""
        state = _read(self.file)
        try:
            model = build(state)
            model.load_state_dict(state)
        except (LookupError, ValueError, RuntimeError) as e:
            raise ValueError(
                f"{self.file.name} is no Segment Anything checkpoint (ViT-B, L or H); SAM 2 and SAM 3 are folders in "
                f"transformers' layout ({str(e).strip().splitlines()[0]})"
            ) from e
        model.image_encoder.to(self.dtype)
        return model.to(self.device).eval().requires_grad_(False)

    def release(self) -> None:
        """Forget the weights, so that their memory is free; the next use loads them again."""
        self.__dict__.pop("model", None)

    def segment(
        self, images: Tensor, *, boxes: Sequence[Tensor] | None = None, points: Sequence[Tensor] | None = None
    ) -> Tensor:
        """What the boxes and points mean: see `protocols.PromptSegmenter`."""
        return prompts.segment(images, boxes, points, self._masks)

    @torch.no_grad()
    def _masks(self, image: Tensor, prompt: prompts.Prompt) -> Tensor:
        """Masks (N, 1, H, W), bool, of a picture (3, H, W)."""
        model, height, width = self.model, *image.shape[-2:]
        size = _longest(height, width, model.image_encoder.img_size)
        pixels = image[None].to(self.device).float().clamp(0, 1) * 255
        pixels = nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        features = model.image_encoder(model.preprocess(pixels).to(self.dtype)).float()
        scale = pixels.new_tensor([size[1] / width, size[0] / height])
        points = None if prompt.points is None else (prompt.points.to(scale) * scale, prompt.labels.to(self.device))
        boxes = None if prompt.boxes is None else prompt.boxes.to(scale) * scale.repeat(2)
        sparse, dense = model.prompt_encoder(points=points, boxes=boxes, masks=None)
        low, quality = model.mask_decoder(
            image_embeddings=features,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=prompt.ambiguous,
        )
        low = prompts.best(low, quality)
        return model.postprocess_masks(low, size, (height, width)) > model.mask_threshold


def _longest(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width whose longer one is `side`, rounded as ResizeLongestSide does."""
    scale = side / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def _read(file: Path) -> Mapping[str, Tensor]:
    """The weights in a file, never anything else that it may hold."""
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, SafetensorError, RuntimeError, EOFError) as e:
        raise ValueError(
            f"{file.name} can't be read as weights; the download may be incomplete, or it holds more than weights, "
            "which is never opened"
        ) from e
    return state if isinstance(state, Mapping) else {}


def encoder_shape(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `ImageEncoderViT`, read off a checkpoint's shapes; LookupError where they are not there."""
    width, _, patch, _ = state[f"{_ENCODER}patch_embed.proj.weight"].shape
    side = state[f"{_ENCODER}pos_embed"].shape[1]
    depth = sum(name.startswith(f"{_ENCODER}blocks.") and name.endswith(".attn.rel_pos_h") for name in state)
    relative = [state[f"{_ENCODER}blocks.{i}.attn.rel_pos_h"].shape for i in range(depth)]  # (2 * reach - 1, head)
    reach = [(rows + 1) // 2 for rows, _ in relative]
    return dict(
        img_size=side * patch,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=width // relative[0][1],
        out_chans=state[f"{_ENCODER}neck.0.weight"].shape[0],
        window_size=min(reach),
        global_attn_indexes=tuple(i for i, r in enumerate(reach) if r == side),
    )


def build(state: Mapping[str, Tensor]) -> Any:
    """A SAM of a checkpoint's size with random weights, as segment_anything's `_build_sam` makes the published ones."""
    from segment_anything import modeling

    shape = encoder_shape(state)
    width, size, side = shape["out_chans"], shape["img_size"], shape["img_size"] // shape["patch_size"]
    encoder = modeling.ImageEncoderViT(
        **shape, mlp_ratio=4, norm_layer=partial(nn.LayerNorm, eps=1e-6), qkv_bias=True, use_rel_pos=True
    )
    hidden = state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]
    decoder = modeling.MaskDecoder(
        transformer_dim=width,
        transformer=modeling.TwoWayTransformer(_DECODER_DEPTH, width, _DECODER_HEADS, hidden),
        num_multimask_outputs=_MASKS,
        iou_head_depth=3,
        iou_head_hidden_dim=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
    )
    prompt_encoder = modeling.PromptEncoder(width, (side, side), (size, size), _MASK_CHANNELS)
    return modeling.Sam(encoder, prompt_encoder, decoder)
