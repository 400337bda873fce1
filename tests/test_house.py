"""The architecture, held by tests: who may import whom, what importing costs, what the package contains."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"core": set(), "training": {"core"}, "nodes": {"core", "training"}}
DATA = ("web", "workflows", "subgraphs")
LIGHT = {"torch", "einops", "safetensors"}
HEAVY = {
    "accelerate",
    "diffusers",
    "matplotlib",
    "peft",
    "PIL",
    "pyarrow",
    "ray",
    "scipy",
    "torchvision",
    "transformers",
}
COMFY = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "server", "execution", "nodes", "latent_preview"}


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path, *, top_level_only: bool) -> list[tuple[str, int]]:
    """(module, relative level) of every import in a file."""
    found = []
    for node in at_import(ast.parse(path.read_text())) if top_level_only else ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            if isinstance(node, ast.Import):
                found += [(alias.name, 0) for alias in node.names]
            else:
                names = [node.module] if node.module else [a.name for a in node.names]
                found += [(name, node.level) for name in names]
    return found


def at_import(tree):
    """Every node that runs when the file is imported: all but the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            yield from at_import(node)


def room_of(path: Path, module: str, level: int) -> str | None:
    """The room that a relative import enters, None if it stays inside its own."""
    package = list(path.relative_to(ROOT).parts[:-1])
    target = package[: len(package) - level + 1] + module.split(".")
    return target[0] if target[0] != package[0] else None


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_never_point_back(room):
    for path in sources(room):
        for module, level in imports(path, top_level_only=False):
            where = f"{path.relative_to(ROOT)} imports {'.' * level}{module}"
            top = module.split(".")[0]
            assert top != "likeness", f"{where}: relative imports only"
            if level:
                entered = room_of(path, module, level)
                assert entered is None or entered in ROOMS[room], where
            elif room != "nodes":
                assert top not in COMFY, where


def test_core_imports_only_light_packages_at_module_level():
    for path in sources("core"):
        for module, level in imports(path, top_level_only=True):
            top = module.split(".")[0]
            assert level or top in LIGHT or top in sys.stdlib_module_names, f"{path.relative_to(ROOT)} imports {module}"


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


MODULES = sorted(
    "likeness." + ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for room in ("core", "training")
    for p in sources(room)
)


def test_importing_the_pack_is_fast(tmp_path):
    # Python compiles a module once, at its first import ever: that is installation, not what every start waits for
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    # seconds of this process: others that run beside it don't count. A slow machine is slow with torch too: there the
    # limit, 0.3 s where torch takes 1.5 s, grows alike
    clock = "from time import process_time as now; s = now(); import torch; torch_seconds = now() - s; s = now()"

    def seconds(what: str) -> float:
        code = f"{clock}; import {what}; print((now() - s) / max(1, torch_seconds / 1.5))"
        return min(float(python(code, **compiled)) for _ in range(4))

    assert seconds("likeness") < 0.1
    assert seconds(", ".join(MODULES)) < 0.3


def test_no_module_imports_what_is_heavy():
    code = (
        f"import torch, sys; before = set(sys.modules); import {', '.join(MODULES)}; print(*set(sys.modules) - before)"
    )
    assert not {name.split(".")[0] for name in python(code).split()} & HEAVY


@pytest.mark.parametrize("absent", ["diffusers", "transformers", "accelerate", "segment_anything", "tyro", "PIL"])
def test_importing_works_without(absent):
    python(f"import sys; sys.modules[{absent!r}] = None; import likeness, likeness.cli, {', '.join(MODULES)}")


def test_a_missing_package_is_named_at_use():
    code = "import sys; sys.modules['diffusers'] = None; from likeness.cli import main; main(['demo'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "this needs the package diffusers: pip install diffusers" in done.stderr
    assert "Traceback" not in done.stderr and done.returncode == 1


def test_packages_listed_are_the_packages_there():
    listed = set(re.findall(r'^    "(likeness[\w.]*)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    there = {"likeness"} | {
        "likeness." + ".".join(p.parent.relative_to(ROOT).parts)
        for room in ROOMS
        for p in (ROOT / room).rglob("__init__.py")
    }
    assert listed == there


def test_requirements_are_the_packages_dependencies_without_pins():
    needed = (ROOT / "requirements.txt").read_text().split()
    block = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M).group(1)
    assert set(re.findall(r'"(.+?)"', block)) == {*needed, "pyyaml>=6", "tyro>=0.8"}
    assert "torch" in needed and all("==" not in line and "<" not in line for line in needed)


def test_the_version_is_one():
    import likeness

    assert f'version = "{likeness.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {likeness.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_wheel_has_everything_that_runs(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    copy = tmp_path / "some other name"
    tracked = ("__init__.py", "cli.py", "pyproject.toml", "README.md", "LICENSE", *ROOMS, *DATA)
    for name in tracked:
        source, target = ROOT / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    done = subprocess.run([*build, str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    packed = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    wanted = [p for name in (*ROOMS, *DATA) for p in (ROOT / name).rglob("*") if p.is_file()]
    missing = {str(p.relative_to(ROOT)) for p in wanted if "__pycache__" not in p.parts} - {
        name.removeprefix("likeness/") for name in packed
    }
    assert not missing


def test_every_link_in_the_readme_leads_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_files_are_short():
    long = {
        str(p.relative_to(ROOT)): n
        for room in ROOMS
        for p in sources(room)
        if (n := len(p.read_text().splitlines())) > 320
    }
    assert not long
