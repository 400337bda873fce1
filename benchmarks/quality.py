"""How good Infusion is: `python benchmarks/quality.py`, written to benchmarks/results/infusion-quality.json.

Held-out subjects of the demo world in eight scenes, after 100, 500 and 2000 training steps, against the foundation
model from the same noise. Learned concepts and drawn cells are cached in runs/grid, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from grid import CACHE, KINDS, Case, Draw, Method, cases, model, pictures, run, table
from likeness.core import files
from likeness.core.demo import sheet
from likeness.core.infusion import concept as concepts
from likeness.core.infusion.control import Infusion, Use
from likeness.core.infusion.sampling import draw
from likeness.training import infusion
from likeness.training.data import photos
from likeness.training.loop import Settings
from torch import Tensor

DOCS = Path(__file__).resolve().parent.parent / "docs"
SHOWN = ("dog", "teapot")
STEPS, GUIDANCE = 25, 5.0
TRAINED = (100, 500, 2000)


def learned(case: Case, learn: infusion.Learn, steps: int) -> concepts.Concept:
    """The concept after so many steps of one training, whose earlier and later states are cached."""
    loaded, base = model()
    known = files.fingerprint({f"{case.name} {learn} {base}": case.images})
    path = CACHE / "concepts" / f"{known}-{steps}.safetensors"
    if not path.exists():
        groups = photos.encode(photos.prepare(list(case.images), 128), loaded.encode)
        prompt = loaded.text(f"a photo of a {case.word}", [case.word])
        kept = path.with_name(f"{known}.checkpoint")
        training = infusion.Training(loaded.denoiser, prompt, groups, case.word, learn, kept)
        if training.trainer.step > steps:
            raise ValueError(f"{kept} has gone on to step {training.trainer.step}; remove it to go back to {steps}")
        training.trainer.run(until=steps)
        concepts.save(path, training.concept(), torch.float32)
    return concepts.load(path)


def foundation() -> Method:
    return Method("foundation", f"{model()[1]} {STEPS} {GUIDANCE}", lambda case: drawer(None))


def customised(name: str, learn: infusion.Learn, steps: int) -> Method:
    settings = f"{model()[1]} {STEPS} {GUIDANCE} {learn} {steps}"
    return Method(name, settings, lambda case: drawer(learned(case, learn, steps)))


def drawer(concept: concepts.Concept | None) -> Draw:
    """Pictures of a prompt: the customised ones, or the foundation's where there is no concept."""
    loaded, _ = model()

    @torch.no_grad()
    def pictures_of(prompt: str, noise: Tensor) -> Tensor:
        if concept is None:
            return sheet.text_to_image(loaded, prompt, noise, steps=STEPS, guidance=GUIDANCE)
        steps = loaded.denoiser.schedule.timesteps(STEPS)
        text, null = loaded.text(prompt, concept.words), loaded.text("")
        control = Infusion([Use(concept)])
        return loaded.decode(draw(loaded.denoiser, text, null, control, noise, steps, guidance=GUIDANCE)[1])

    return pictures_of


def learn(space: str) -> infusion.Learn:
    """The paper's learning rate and batch; the last number of steps only bounds the run."""
    return infusion.Learn(space=space, loop=Settings(steps=max(TRAINED), lr=0.01, clip=0.0, every=100))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--runs", nargs="+", default=["text-100", "text-500", "text-2000", "value-500"])
    parser.add_argument(
        "--learn", nargs=2, type=int, metavar=("I", "N"), help="only learn every N-th subject from I on"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    subjects = cases(options.subjects, KINDS)
    wanted = [(space, int(steps)) for space, steps in (each.split("-") for each in options.runs)]
    if options.learn:
        for space, steps in wanted:
            for case in subjects[options.learn[0] :: options.learn[1]]:
                learned(case, learn(space), steps)
                print(f"{case.name}: {space}, {steps} steps", flush=True)
        return
    methods = [foundation(), *(customised(f"{space}, {steps} steps", learn(space), steps) for space, steps in wanted)]
    result = run(methods, subjects)
    print(table(result))
    print(f"wrote {result.save('infusion-quality')}")
    shown = [case for case in subjects if case.word in SHOWN]
    print(f"wrote {pictures(methods, shown, DOCS / 'infusion-quality.jpg')}")


if __name__ == "__main__":
    main()
