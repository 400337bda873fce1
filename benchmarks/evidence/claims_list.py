"""The 32 claims, in our words, each with what here would show it."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

from likeness.core.metrics.similarity import Interval
from likeness.training.comparison import interval, told

from .claims import (
    Claim,
    Finding,
    above,
    above_baselines,
    below,
    compared_in,
    costs_nothing,
    found_that,
    from_file,
    kept,
    matched_above,
    most_above,
    not_more,
    segmented_less,
    sure,
    together,
)  # fmt: skip
from .claims_curves import ends_below, falls_less, grows, zero

HIFI = ("HiFi: textual inversion", "HiFi: mask", "HiFi: regularisation", "HiFi: step-wise", "HiFi: guidance")
DB, DB_LED = "DreamBooth", "HiFi: DreamBooth with guidance"
EDITORS = tuple(f"InstructPix2Pix {scale}" for scale in (1.2, 1.5, 1.8))
PRODUCT = "swd clip_i x clip_t"
SWDS = ("swd vqa x clip_i", "swd vqa x clip_t", PRODUCT)
REFINED = "foundation with Refiner"
FISHER = "Fisher divergence"
RIVALS = ("DreamBooth-LoRA", "Custom Diffusion", "Textual Inversion")
KINDS, SCALES = ("controlnet", "ip-adapter", "retrinet"), ("", ", 0.25", ", 0.5", ", 0.75")
AS_SHOWN, TURNED = "photo's depth", "constant depth"
references = partial(compared_in, "retrinet-claims.json")
variants = partial(compared_in, "toffee-variants.json")


def _toy(found: Any) -> list[Finding]:
    """Widths fall and modes vanish with tuning, surely: the intervals over seeds of first and last don't meet."""
    told = []
    for name, metric, what in (("agnostic", "width of others", "width of the other concepts' peaks, relative"),
                               ("specific", "modes", "modes drawn of 25")):  # fmt: skip
        steps = sorted(map(int, found["results"][name]))
        first, last = (found["results"][name][str(s)][metric] for s in (steps[0], steps[-1]))
        text = f"{what}: {first[0]:.2f} before, {last[0]:.2f} [{last[1]:.2f}, {last[2]:.2f}] after {steps[-1]} steps"
        told.append(Finding(text, last[2] < first[1]))
    return told


def _more_steps(found: Any) -> list[Finding]:
    errors = {name: v["masked error"] for name, v in found["steps"]["results"].items() if name.startswith("J = ")}
    names = sorted(errors, key=lambda n: int(n.split()[-1]))
    values = [errors[name] for name in names]
    text = f"masked error to the reference's trajectory with growing J: {', '.join(f'{v:.4f}' for v in values)}"
    gains = {name: Interval(*found["steps"]["results"][name]["against J = 0"], 0) for name in names[1:]}
    each = [found_that(f"masked error, {name} less J = 0", gain, -1) for name, gain in gains.items()]
    return [Finding(text, all(a > b for a, b in pairwise(values))), *each]


def _when(found: Any) -> list[Finding]:
    """Guidance in the first steps changes the rest of the picture more, in the last it loses likeness or prompt."""
    results = {name: {k: Interval(*v["against middle"], 0) for k, v in own.items()}
               for name, own in found["windows"]["results"].items()}  # fmt: skip
    moved = results["first"]["rest, squared distance to the plain picture"]
    lost = {metric: results["last"][metric] for metric in ("Seg-DINO", "CLIP-T")}
    harm = "; ".join(f"{metric} {told(change, signed=True)}" for metric, change in lost.items())
    return [
        found_that("distance of the rest to the plain picture, guided in the first steps less in the middle", moved, 1),
        Finding(f"guided in the last steps less in the middle: {harm}", any(sure(c, -1) for c in lost.values())),
    ]


def _factory(found: Any) -> list[Finding]:
    """One more subject costs the pair factory less than a LoRA of it does."""
    lora = found["subjects"]["dreambooth_lora"]["seconds_a_subject"]
    own = [row["seconds_a_subject"] for row in found["subjects"]["factory"]]
    text = f"one more subject costs the pair factory {max(own):.1f} s of drawing, its own LoRA {lora:.0f} s of training"
    return [Finding(text, max(own) < lora)]


def _replacement(found: Any) -> list[Finding]:
    share, outside = found["means"]["recognised"], found["means"]["outside, against null texts"]
    text = f"new subject recognised in {share:.0%} of photos; outside of both {outside:.1f} dB to the same photo"
    return [Finding(f"{text}; no region was given", share > 0.5 and outside > 20)]


def _attention(found: Any) -> list[Finding]:
    """Entropies fall from the noisiest to the cleanest step, surely over subjects."""
    values = {name: list(each.values()) for name, each in found["rows"].items()}
    ends = {name: [own[-1] - own[0]] for name, own in values.items()}
    return [found_that("entropy of the rows' maps, cleanest less noisiest step", interval(ends), -1)]


def _maps(found: Any) -> list[Finding]:
    """Entropies, as shares of the largest, that fall from fine to coarse and from noise to clean."""
    from scipy.stats import kendalltau

    told = []
    for what, way in (("levels", "fine to coarse"), ("steps", "noise to clean")):
        values = list(found["maps"][f"{what}, {way}"].values())
        rank = kendalltau(range(len(values)), values).statistic
        shown = f"{values[0]:.3f} to {values[-1]:.3f}, rank correlation {rank:+.2f}"
        told.append(Finding(f"entropy of what is looked at, {way}: {shown}", rank < -0.5))
    return told


I, H, R, T = "Infusion", "HiFi Tuner", "RetriBooru", "Toffee"
CLAIMS = (
    Claim(1, I, "follows prompts best of all tuned methods", "Table 1",
          above_baselines(I, "clip_t"),
          "the foundation itself has 0.775: the best three lose 0.010 to 0.019 of it and are not told apart"),
    Claim(2, I, "is less like the subject than DreamBooth, and more than most of the others", "Table 1",
          together(below((I, DB, "clip_i"), (I, DB, "dino")),
                   most_above(I, DB, ("clip_i", "dino"))),
          "it is the loss more than the residual's size: with the loss weighted by the signal-to-noise ratio [ours] "
          "the same residual brings Seg-DINO +0.220 [+0.108, +0.327] at CLIP-T -0.013 [-0.045, +0.004], and is then no "
          "less like the subject than Textual Inversion: the row Infusion, SNR"),
    Claim(3, I, "keeps the diversity of the subject's class however long it trains; LoRA, Custom Diffusion and Textual "
          "Inversion lose it", "Figure 9",
          together(ends_below(I, RIVALS, "w2", "W2"), *(grows(name, "w2", "W2") for name in RIVALS)),
          "Textual Inversion hardly drifts here: its one vector is where it stays after 100 steps, Seg-DINO 0.92 of "
          "the cat and 0.38 of the robot then and 0.94 and 0.41 at 2000, while Infusion goes from 0.37 and 0.32 to "
          "0.78 and 0.60; two samples of the foundation are 7.5 and 6.8 apart"),
    Claim(4, I, "leaves prompts without the subject alone; others drift further from the foundation with training",
          "Figure 10", together(zero(I, "fisher", FISHER), *(grows(n, "fisher", FISHER) for n in RIVALS[:2]))),
    Claim(5, I, "still follows prompts after many training steps", "Figure 11", falls_less(I, RIVALS, "clip_t")),
    Claim(6, I, "keeps the layout and the surroundings that the foundation draws", "Figure 7",
          above_baselines(I, "layout", "surroundings"),
          "more than all that change weights; Textual Inversion changes one word's embedding and keeps as much"),
    Claim(7, I, "draws several learned subjects in a picture where Custom Diffusion drops some", "Figure 8",
          note="pictures of the demo world show one subject each, and its model draws no more", testable=False),
    Claim(8, I, "is preferred by people", "Table 2", note="asks people", testable=False),
    Claim(9, I, "explains overfitting on mixtures of Gaussians: peaks of other concepts shrink, the modes of a concept "
          "collapse onto those of the training data", "Figures 4, 5", from_file("toy.json", _toy)),
    Claim(10, I, "with more residuals is more like the subject and less diverse", "section 6",
          together(above(("Infusion, 4 bins", I, "seg_dino")), below(("Infusion, 4 bins", I, "variety"))),
          "CLIP sees two pictures of a prompt 0.147 apart by the foundation, 0.131 by Infusion, 0.117 with four bins, "
          "0.079 by Textual Inversion: the way of the paper, and too little to be told from eight subjects"),
    Claim(11, H, "each of mask, regularisation, step-wise rows and guidance adds likeness and keeps the prompt",
          "Table 2", together(above(*((b, a, "dino") for a, b in pairwise(HIFI))),
                              kept(*((b, a, "clip_t") for a, b in pairwise(HIFI)))),
          "each adds in the mean and all together surely, Seg-DINO +0.222 [+0.008, +0.800], which differs by subject: "
          "mask and regularisation bring the dog from 0.17 to 0.61 and the person from 0.39 to 0.85, where the rows "
          "had missed them, and take from the robot and the teapot, which Textual Inversion had at 0.8"),
    Claim(12, H, "guidance improves DreamBooth in likeness and prompt, and the whole beats Textual Inversion and "
          "DreamBooth", "Tables 1, 2",
          together(above(*((DB_LED, DB, m) for m in ("dino", "clip_i", "clip_t"))),
                   above((HIFI[-1], "Textual Inversion", "dino"), (DB_LED, DB, "seg_dino"))),
          "DreamBooth alone is at a DINO of 0.85 where two pictures of the subject in two places have 0.92, so little "
          "is left to gain; it gains likeness surely, by DINO and Seg-DINO, on each of the four subjects that are led, "
          "and prompts are followed as before"),
    Claim(13, H, "more steps of tuning follow prompts less", "section 4",
          grows("Textual Inversion", "clip_t", "CLIP-T", -1),
          "its one vector has learned what it can after 100 steps: Seg-DINO 0.92 of the cat and 0.38 of the robot "
          "then, 0.94 and 0.41 at 2000"),
    Claim(14, H, "more optimisation steps of the guidance resemble the photo more; early guidance changes the "
          "structure, late guidance harms", "section 3.3",
          together(from_file("hifi.json", _more_steps), from_file("hifi.json", _when)),
          "of 30 guided steps of 50; the last ones neither lose likeness nor, surely, the prompt"),
    Claim(15, H, "the learned rows look everywhere at noisy steps and at details at clean ones; Textual Inversion "
          "copies backgrounds", "Figures 3, 6",
          together(from_file("hifi-attention.json", _attention), above((HIFI[1], HIFI[0], "background"))),
          "our measures: the entropy of the maps, of the largest; places drawn as asked, with and without the mask"),
    Claim(16, H, "replaces a subject without being told where it is", "Figures 5, 7",
          from_file("replacement.json", _replacement),
          "our measure: recognised in more than half of the photos, above 20 dB outside"),
    Claim(17, R, "training on other pictures of an identity (b) balances picture and prompt better than training on "
          "the same one (a), whatever the conditioner and its scale", "Table 2, Figure 3",
          references(above(*((f"{kind}-b{s}", f"{kind}-a{s}", PRODUCT) for kind in KINDS for s in SCALES))),
          "of the paper's conditioners ControlNet and IP-Adapter are trained here, and RetriNet itself. Not even with "
          "a do they copy: poses of references are 4 points less to 6 more frequent than those of pictures not "
          "shown, and 5 to 9 more where a ControlNet of strength 0.25 hardly acts"),
    Claim(18, R, "a ControlNet trained on other pictures (b) loses likeness and gains faith to the prompt", "Table 2",
          references(together(below(("controlnet-b", "controlnet-a", "clip_i")),
                              above(("controlnet-b", "controlnet-a", "clip_t")))),
          "in 1,000 steps the ControlNet takes in little on either: DINO to the person 0.32 and 0.35, RetriNet's 0.76"),
    Claim(19, R, "locking the decoder loses faith to the prompt and all SWDs, locking the encoder too loses more",
          "Table 3", references(together(
              below(*(("decoder locked", "not locked", m) for m in ("clip_t", *SWDS))),
              below(*(("both locked", "decoder locked", m) for m in (PRODUCT, "clip_i", "clip_t"))))),
          "all three begin anew and take three times as many steps as the other runs; likeness falls with both locked, "
          "DINO -0.058 [-0.105, -0.007], and attributes are read no worse, which keeps the SWDs with VQA up"),
    Claim(20, R, "dropping a quarter of the prompts gives the best SWD for composition", "Table 3",
          references(above(*((f"composition, drop {p}", f"composition, drop {q}", m)
                             for p, q in ((0.25, 0.5), (0.25, 0.75)) for m in SWDS))),
          "VQA is +0.019 [+0.008, +0.031] at three quarters against one, perhaps because references then have to say "
          "more, and CLIP-T is not surely lower"),
    Claim(21, R, "longer training is more like the subject, follows prompts less and has less diverse answers",
          "Table 3", references(together(above(("longer", "retrinet-b", "clip_i"), ("longer", "retrinet-b", PRODUCT)),
                                         below(("longer", "retrinet-b", "clip_t"),
                                               *(("longer", "retrinet-b", m) for m in SWDS[:2])))),
          "the network that goes on had learned long before: DINO falls by 0.023 [0.005, 0.042]; the demo's CLIP knows "
          "captions, which name no person's marks, so that CLIP-I tells little of likeness"),
    Claim(22, R, "deeper levels and later steps look more sharply at the references", "Figures 6, 7",
          from_file("retrinet-claims.json", _maps),
          "our measure: the entropy of what is looked at, of the largest. At later steps the picture's own latents "
          "tell its details, and references are hardly asked: they take away a quarter of the error in the clothes at "
          "timestep 700 and 1% at 100: python benchmarks/retrinet_regions.py"),
    Claim(23, T, "costs nothing a subject where others train for each", "Figure 2",
          together(costs_nothing("Toffee", ("DreamBooth", "Textual Inversion", "Custom Diffusion")),
                   from_file("pairs.json", _factory, needed=False)),
          "ToffeeNet trains nothing for a subject, so that its 0 s are no measurement; what a subject costs in making "
          "its training pairs is compared where python benchmarks/pairs.py has measured it"),
    Claim(24, T, "its Refiner adds detail and keeps the text", "Figures 4, 5",
          together(above((REFINED, "foundation", "seg_dino")), kept((REFINED, "foundation", "clip_t"))),
          "drawing a picture again from its own tokens, without the subject's patches, loses as much of the text: "
          "python benchmarks/toffee_quality.py --parts redraw"),
    Claim(25, T, "without training on a subject it is more like it than Textual Inversion, DreamBooth and Custom "
          "Diffusion", "Table 1",
          above(*(("Toffee", other, "dino") for other in ("Textual Inversion", DB, "Custom Diffusion"))),
          "of the subject's colours the two others draw more as in the photos: see the colours that agree"),
    Claim(26, T, "segmented metrics see the subject alone, whatever the background", "Figure 12", segmented_less()),
    Claim(27, T, "changing the view loses likeness and gains prompt; generation pairs alone gain likeness and lose "
          "prompt; editing pairs alone are no more like the subject than generation pairs", "Table 2",
          variants(together(below((f"both, {TURNED}", f"both, {AS_SHOWN}", "seg_dino"),
                                  (f"generation, {TURNED}", f"both, {TURNED}", "clip_t")),
                            not_more(f"editing, {AS_SHOWN}", f"generation, {AS_SHOWN}", "seg_dino"),
                            above((f"both, {TURNED}", f"both, {AS_SHOWN}", "clip_t"),
                                  (f"generation, {TURNED}", f"both, {TURNED}", "seg_dino")))),
          "a network of generation pairs does read more of the subject than one of both, and one of editing pairs "
          "less, which eight subjects' pictures do not tell: python benchmarks/toffee_regions.py"),
    Claim(28, T, "more reconstruction in training is more like the subject and follows prompts less", "Table 3",
          variants(together(above((f"reconstruction 0.5, {TURNED}", f"both, {TURNED}", "seg_dino")),
                            below((f"reconstruction 0.5, {TURNED}", f"both, {TURNED}", "clip_t")))),
          "the target's own tokens help no more here than another photo's: python benchmarks/toffee_regions.py"),
    Claim(29, T, "is more like the subject than InstructPix2Pix at the same faith to the prompt", "Table 4",
          matched_above("Toffee", EDITORS, "dino", "clip_t")),
    Claim(30, T, "a lower strength is less like the subject and follows prompts more", "Figure 13",
          together(below(("Toffee, s 0.5", "Toffee", "dino")), above(("Toffee, s 0.5", "Toffee", "clip_t")))),
    Claim(31, T, "a depth map keeps the structure, a constant one lets the view change", "Figure 9",
          variants(above((f"both, {AS_SHOWN}", f"both, {TURNED}", "photo's view")))),
    Claim(32, T, "does as well from the segmented photo as from the whole one", "section 3.3",
          variants(kept((f"segmented, {TURNED}", f"both, {TURNED}", "seg_dino"),
                        (f"segmented, {TURNED}", f"both, {TURNED}", "clip_t"))),
          "each network is shown what it learned from; seven of the eight subjects are about equal in the mean, one "
          "is less like, and of 32 the segmented photo brings no less: python benchmarks/toffee_regions.py --alone; "
          "the row with a segmented photo learned from whole ones"),
)  # fmt: skip
