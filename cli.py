"""The `likeness` command: each subcommand is a typed configuration and the function that takes it."""

from __future__ import annotations

import signal
import sys


def demo(argv: list[str]) -> None:
    """Learn a subject of the embedded world and draw it elsewhere: a concept, a contact sheet, a table."""
    import tyro

    from .training import demo

    config = tyro.cli(demo.Config, args=argv, prog="likeness demo")
    print(demo.table(demo.run(config, _watch())))
    print(f"wrote {config.out}")


def draw(argv: list[str]) -> None:
    """Draw prompts, with what was learned or without: a contact sheet and a table; on the embedded model by default."""
    import tyro

    from .core.demo import sheet
    from .training import drawing

    config = tyro.cli(drawing.Config, args=argv, prog="likeness draw")
    print(sheet.table(drawing.draw(config)))
    print(f"wrote {config.out}")


def train_demo_model(argv: list[str]) -> None:
    """Train the embedded base model from scratch, or on from one."""
    import tyro

    from .training import demo_model

    config = tyro.cli(demo_model.Config, args=argv, prog="likeness train demo-model")
    print(f"wrote {demo_model.train(config, _watch())}")


def train_demo_lora(argv: list[str]) -> None:
    """Train a LoRA for the embedded model: a style, prints in two inks, or with --subject a subject."""
    import tyro

    from .training import demo_lora

    config = tyro.cli(demo_lora.Config, args=argv, prog="likeness train demo-lora")
    print(f"wrote {demo_lora.train(config, _watch())}")


def train_demo_controlnet(argv: list[str]) -> None:
    """Train a depth ControlNet for the embedded model."""
    import tyro

    from .training import demo_controlnet

    config = tyro.cli(demo_controlnet.Config, args=argv, prog="likeness train demo-controlnet")
    print(f"wrote {demo_controlnet.train(config, _watch())}")


def train_judges(argv: list[str]) -> None:
    """Train the embedded judges, which measure pictures of the demo world."""
    import tyro

    from .training import judges

    config = tyro.cli(judges.Config, args=argv, prog="likeness train judges")
    print(f"wrote {judges.train(config, _watch())}")


def train_infusion(argv: list[str]) -> None:
    """Learn a concept from a folder of photos."""
    from .training import infusion

    _train(infusion, argv)


def train_hifi(argv: list[str]) -> None:
    """Learn a subject's step-wise embeddings from a folder of photos."""
    from .training import hifi

    _train(hifi, argv)


def train_retrinet(argv: list[str]) -> None:
    """Train a RetriNet on identities: pictures of the same people in the same clothes."""
    from .training import retrinet_command

    _train(retrinet_command, argv)


def build_retribooru(argv: list[str]) -> None:
    """Build a RetriBooru data set from tagged pictures: who wears what in which of them."""
    import tyro

    from .training.data.retribooru import build, report

    config = tyro.cli(build.Config, args=argv, prog="likeness build retribooru")
    print(report.text(build.build(config, _count())))
    print(f"wrote {config.out}")


def build_pairs(argv: list[str]) -> None:
    """Make pairs of pictures of one subject each, which ToffeeNet learns from: the pair factory."""
    import tyro

    from .training.data.pairs import build, report

    config = tyro.cli(build.Config, args=argv, prog="likeness build pairs")
    print(report.text(build.build(config, _count())))
    print(f"wrote {config.out}")


def build_demo_figures(argv: list[str]) -> None:
    """Draw tagged figures of the demo world to try `build retribooru` on; no download."""
    import tyro

    from .training.data.retribooru import demo

    config = tyro.cli(demo.Figures, args=argv, prog="likeness build demo-figures")
    print(f"wrote {demo.draw(config, _count())}")


def train_refiner(argv: list[str]) -> None:
    """Train a Refiner: pictures drawn from their own DINO tokens."""
    from .training import refiner

    _train(refiner, argv)


def train_view_generator(argv: list[str]) -> None:
    """Train a View Generator: other views of a subject from its DINO tokens."""
    from .training import view_generator

    _train(view_generator, argv)


def train_toffeenet(argv: list[str]) -> None:
    """Train a ToffeeNet: a subject generated or edited by a prompt."""
    from .training import toffeenet

    _train(toffeenet, argv)


def evaluate_pictures(argv: list[str]) -> None:
    """Measure pictures against a subject's photos and their prompts."""
    import tyro

    from .training import evaluate

    for name, value in evaluate.run(tyro.cli(evaluate.Config, args=argv, prog="likeness evaluate pictures")).items():
        print(f"{name:<22} {value:7.4f}")


def evaluate_report(argv: list[str]) -> None:
    """Write the page of a comparison of methods, as `python benchmarks/evidence` measured it."""
    import tyro

    from .training import report

    print(f"wrote {report.write(tyro.cli(report.Config, args=argv, prog='likeness evaluate report'))}")


def evaluate_summary(argv: list[str]) -> None:
    """Print the main table of such a comparison as Markdown."""
    import tyro

    from .training import summary

    print(summary.run(tyro.cli(summary.Config, args=argv, prog="likeness evaluate summary")))


def evaluate_dreambench(argv: list[str]) -> None:
    """Draw DreamBench's subjects and prompts, and measure them as papers do."""
    import tyro

    from .training import dreambench

    config = tyro.cli(dreambench.Config, args=argv, prog="likeness evaluate dreambench")
    for name, value in dreambench.run(config, _count())["means"].items():
        print(f"{name:<22} {value:7.4f}")
    print(f"wrote {config.out / dreambench.RESULT}")


def _train(what, argv: list[str]) -> None:
    import tyro

    name = what.__name__.rpartition(".")[2].removesuffix("_command").replace("_", "-")
    config = tyro.cli(what.Config, args=argv, prog=f"likeness train {name}")
    print(f"wrote {what.train(config, _watch())}")


def _watch():
    """A progress bar a stage; Ctrl-C and a polite kill stop after the step under way, checkpointed."""
    from tqdm import tqdm

    from .training.loop import Cancelled

    bars: dict[str, tqdm] = {}
    asked: list[int] = []

    def ask(number, frame) -> None:
        if asked:  # the second time, at once
            signal.default_int_handler(number, frame)
        asked.append(number)

    def watch(stage, progress) -> None:
        if not bars:
            signal.signal(signal.SIGINT, ask)
            signal.signal(signal.SIGTERM, ask)
        if stage not in bars:
            bars[stage] = tqdm(desc=stage, total=progress.steps, initial=progress.step - 1, smoothing=0.05)
        bar = bars[stage]
        bar.set_postfix(loss=f"{progress.loss:.4f}", refresh=False)
        bar.update(progress.step - bar.n)
        if asked:
            bar.close()
            raise Cancelled("stopped; run the same command again to go on")

    return watch


def _count():
    """A progress bar a stage, for work that may be stopped anywhere and goes on."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def watch(stage: str, done: int, total: int) -> None:
        for name, other in bars.items():
            if name != stage:
                other.close()
        if stage not in bars:
            bars[stage] = tqdm(desc=stage, total=total or None, initial=done)
        bars[stage].update(done - bars[stage].n)

    return watch


PACKAGES = {"ray": "ray[data]", "PIL": "pillow", "segment_anything": "segment-anything", "yaml": "pyyaml"}
COMMANDS = {
    ("demo",): demo,
    ("draw",): draw,
    ("train", "infusion"): train_infusion,
    ("train", "hifi"): train_hifi,
    ("train", "retrinet"): train_retrinet,
    ("train", "refiner"): train_refiner,
    ("train", "view-generator"): train_view_generator,
    ("train", "toffeenet"): train_toffeenet,
    ("build", "retribooru"): build_retribooru,
    ("build", "demo-figures"): build_demo_figures,
    ("build", "pairs"): build_pairs,
    ("evaluate", "pictures"): evaluate_pictures,
    ("evaluate", "dreambench"): evaluate_dreambench,
    ("evaluate", "report"): evaluate_report,
    ("evaluate", "summary"): evaluate_summary,
    ("train", "demo-model"): train_demo_model,
    ("train", "demo-lora"): train_demo_lora,
    ("train", "demo-controlnet"): train_demo_controlnet,
    ("train", "judges"): train_judges,
}


def usage() -> str:
    from .training import config_file

    lines = [f"  likeness {' '.join(path):<21} {command.__doc__}" for path, command in COMMANDS.items()]
    return (
        "usage: likeness COMMAND [options]\n\n"
        + "\n".join(lines)
        + "\n\nlikeness COMMAND --help lists a command's options\n"
        f"likeness COMMAND {config_file.OPTION} FILE reads options from a YAML file; those given beside it win"
    )


def main(argv: list[str] | None = None) -> None:
    """Run one command; a mistake of the user's ends in one sentence, not in a traceback."""
    from .training import config_file
    from .training.loop import Cancelled

    argv = list(sys.argv[1:] if argv is None else argv)
    for path, command in COMMANDS.items():
        if tuple(argv[: len(path)]) == path:
            try:
                return command(config_file.expanded(argv[len(path) :]))
            except KeyboardInterrupt:
                raise SystemExit("stopped") from None
            except ModuleNotFoundError as e:
                package = PACKAGES.get(e.name, e.name)
                raise SystemExit(f"likeness: this needs the package {package}: pip install {package}") from None
            except (ValueError, FileNotFoundError, FloatingPointError, Cancelled) as e:
                raise SystemExit(f"likeness: {e}") from None
    if argv[:1] in (["-h"], ["--help"]):
        print(usage())
        return
    if argv:
        print(f"likeness: no command {' '.join(argv[:2])!r}\n", file=sys.stderr)
    print(usage(), file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":  # accelerate launch -m likeness.cli
    main()
