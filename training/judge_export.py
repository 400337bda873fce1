"""The trained judges as folders that open by themselves, and their card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from ..core import files
from ..core.demo import attributes, judges, segments
from . import judge_measures as measures

RECORD = "training.json"
# pictures of the world are shown whole and as they are
PREPROCESS = dict(
    do_resize=True,
    size={"shortest_edge": 128},
    do_center_crop=True,
    crop_size={"height": 128, "width": 128},
    resample=3,
    do_rescale=True,
    rescale_factor=1 / 255,
    do_normalize=True,
    image_mean=[0.5, 0.5, 0.5],
    image_std=[0.5, 0.5, 0.5],
)
_PICTURES, _TRIPLES = 120, 120  # what the card's numbers are measured on


def save(name: str, model: nn.Module, trainer: Any, config: Any) -> Path:
    """Half-precision weights of one judge, and a record of its training and of what it can do."""
    folder = config.out / name
    if name == "attributes":
        attributes.save(model, folder)
    elif name == "segments":
        segments.save(model, folder)
    else:
        model.half().save_pretrained(folder, safe_serialization=True)
        kind = {"clip": "CLIPImageProcessor", "dino": "BitImageProcessor"}[name]
        text = json.dumps(PREPROCESS | {"image_processor_type": kind}, indent=2)
        files.write_atomically(folder / "preprocessor_config.json", text.encode())
    model.half()
    record = dict(
        parameters=sum(p.numel() for p in model.parameters()),
        steps=trainer.step,
        settings=asdict(trainer.settings),
        loss=round(trainer.recent, 4),
        precision=str(trainer.accelerator.mixed_precision),
        pictures=f"{config.subjects} subjects in 4 scenes, {config.twins} also after the autoencoder",
        batch={
            "attributes": f"{config.attributes_batch} pictures",
            "dino": f"2 x {config.groups} x {config.group} pictures",
            "clip": f"{config.clip_batch} pictures, {2 * config.clip_batch} captions",
            "segments": f"{config.segments_batch} pictures",
        }[name],
        hash=files.fingerprint(model.state_dict()),
        measured=_measured(name, config.out),
    )
    return files.write_atomically(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def _measured(name: str, out: Path) -> str:
    """What the finished judge gets right, in words."""
    if name == "dino":
        right = measures.ranked_right(judges.dino(out), measures.triples(_TRIPLES))["all"][0]
        return f"{right:.0%} of {_TRIPLES} triples of held-out subjects ranked right"
    unseen = measures.Unseen.draw(_PICTURES)
    if name == "segments":
        overlap = measures.overlap(judges.segments(out), unseen)
        return f"{overlap:.2f} mean intersection over union on {_PICTURES} unseen pictures"
    if name == "clip":
        right = measures.captions_right(judges.clip(out), unseen)
        return f"{right:.0%} of {_PICTURES} pictures prefer their caption to a wrong one"
    found = measures.accuracy(judges.attributes(out), unseen.images, unseen.labels)
    shares = [share for name, (share, _count) in found.items() if not name.endswith(" colour")]
    return f"{sum(shares) / len(shares):.0%} right, mean over attributes on {_PICTURES} unseen pictures"


def write_card(out: Path) -> Path:
    """The card of the judges that are there."""
    rows, hashes = [], []
    for name, what in JUDGES.items():
        if not (out / name / RECORD).is_file():
            continue
        record = json.loads((out / name / RECORD).read_text())
        settings = record["settings"]
        rows.append(
            f"| `{name}`: {what} | {record['parameters']:,} | {record['steps']} steps of {record['batch']}, "
            f"seed {settings['seed']}{PRECISIONS.get(record['precision'], '')}, recent loss {record['loss']:.4f}; "
            f"{record['pictures']} | {record['measured']} |"
        )
        hashes.append(f"{name} `{record['hash']}`")
    return files.write_atomically(
        out / "README.md", CARD.format(rows="\n".join(rows), hashes=", ".join(hashes)).encode()
    )


JUDGES = {
    "attributes": "what a picture shows",
    "dino": "whom it shows, and which place is which",
    "clip": "whether a caption fits it",
    "segments": "where its subject is",
}
PRECISIONS = {"bf16": ", bfloat16 autocast", "fp16": ", float16 autocast"}
CARD = """# The embedded judges

Small models that measure 128x128 pictures of the demo world, trained from scratch on it by `likeness train judges` and
on nothing of the base model but its autoencoder's blur. Outside of that world they mean nothing.

| judge | parameters | trained | result |
|---|---|---|---|
{rows}

`dino` (a DINOv2 layout) learned without labels: its two views of a subject are two drawings of it in different scenes;
wrong answers are subjects of the same kind; patch tokens are matched to those of its own running average. `clip` also
learned from captions with one claim changed. `attributes` learned each attribute where the picture shows it, `segments`
the renderer's masks.
Weights are running averages in half precision. `training.json` in each folder holds all settings.

Hashes of the weights: {hashes}.
"""
