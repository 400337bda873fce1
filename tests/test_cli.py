"""The command line: it says what it can do, does it, and fails in one sentence."""

from likeness.cli import COMMANDS, main
from likeness.core.infusion.concept import load
from likeness.training.config_file import expanded
from PIL import Image


def run(capsys, *argv):
    """Exit code, standard output, standard error."""
    code = 0
    try:
        main(list(argv))
    except SystemExit as e:
        code = e.code
    out, err = capsys.readouterr()
    return code, out, err


def test_every_command_is_listed_and_has_help(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for path, command in COMMANDS.items():
        assert f"likeness {' '.join(path)}" in out and command.__doc__ in out
        code, help_text, _ = run(capsys, *path, "--help")
        assert code == 0 and "--out" in help_text


def test_mistakes_end_in_one_sentence(capsys, tmp_path):
    code, _, err = run(capsys, "paint")
    assert code == 2 and "no command 'paint'" in err and "usage:" in err
    code, _, _ = run(capsys, "draw", "--model", str(tmp_path / "missing"), "--out", str(tmp_path / "x.png"))
    assert "no checkpoint at" in code
    code, _, _ = run(capsys, "draw", "--steps", "0", "--out", str(tmp_path / "x.png"))
    assert "steps is 0; it must lie between 1 and 1000" in code
    assert not list(tmp_path.iterdir())


def test_draw_makes_a_sheet_and_a_table(capsys, tmp_path):
    out = tmp_path / "sheet.png"
    code, text, _ = run(
        capsys, "draw", "--out", str(out), "--prompts", "a cat", "a dog", "--columns", "2", "--steps", "2"
    )
    assert code == 0 and out.stat().st_size > 10_000
    assert [line.split()[0:2] for line in text.splitlines()[1:3]] == [["a", "cat"], ["a", "dog"]]
    assert f"wrote {out}" in text


def test_the_demo_learns_a_concept_and_measures_it(capsys, tmp_path):
    out, concept = tmp_path / "demo.png", tmp_path / "cat.safetensors"
    quick = ("--learn.loop.steps", "3", "--learn.batch", "2", "--steps", "2", "--columns", "1")
    code, text, _ = run(capsys, "demo", "--out", str(out), "--concept", str(concept), *quick)
    assert code == 0 and out.stat().st_size > 10_000
    assert load(concept).word == "cat" and load(concept).settings["steps"] == 3
    head, foundation, infusion, size = text.splitlines()[:4]
    assert head.split() == ["dino", "clip_i", "clip_t", "background", "style"]
    assert foundation.split()[0] == "foundation" and infusion.split()[0] == "Infusion"
    assert foundation.split()[1:] != infusion.split()[1:]
    assert f"{concept.stat().st_size / 1024:.1f} KiB on disk" in size


OPTIONS = """
# a quick sheet
prompts: [a cat, a dog]
columns: 3
steps: 1
controlnet: null
"""


def test_a_file_gives_options_and_those_beside_it_win(capsys, tmp_path):
    (tmp_path / "sheet.yaml").write_text(OPTIONS)
    given = ("--config", str(tmp_path / "sheet.yaml"), "--columns", "1")
    code, text, _ = run(capsys, "draw", *given, "--out", str(tmp_path / "sheet.png"))
    assert code == 0 and [line.split()[0:2] for line in text.splitlines()[1:3]] == [["a", "cat"], ["a", "dog"]]
    with Image.open(tmp_path / "sheet.png") as one:
        width = one.width
    run(capsys, "draw", *given[:2], f"--out={tmp_path / 'wide.png'}")
    with Image.open(tmp_path / "wide.png") as three:
        assert three.width > 2 * width


def test_a_file_is_what_the_command_line_would_be(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("draw: {steps: 30, edit_start: -0.5}\nmodels.half: true\nmodels: {download: no}\nclasses: [a b, c]")
    words = [
        "--draw.steps=30",
        "--draw.edit-start=-0.5",
        "--models.half",
        "--models.no-download",
        "--classes",
        "a b",
        "c",
    ]
    assert expanded(["--seed", "1", f"--config={file}"]) == [*words, "--seed", "1"]
    file.write_text("")
    assert expanded(["--config", str(file)]) == [] == expanded([])


def test_a_wrong_file_of_options_says_what_is_wrong(capsys, tmp_path):
    file = tmp_path / "a.yaml"
    wrong = {"a: [": "a.yaml is no YAML", "- a": "a.yaml must hold options by name", "a: {1: 2}": "a must hold options"}
    wrong |= {"a: [[1]]": "a must be a list of plain values", "!!python/object:os.system {}": "is no YAML"}
    for text, message in wrong.items():
        file.write_text(text)
        assert message in run(capsys, "draw", "--config", str(file))[0]
    assert "no file" in run(capsys, "draw", "--config", str(tmp_path / "b.yaml"))[0]
    assert "takes one YAML file" in run(capsys, "draw", "--config")[0]
    assert "takes one YAML file" in run(capsys, "draw", "--config", str(file), f"--config={file}")[0]
