"""Runs one script's `main` beside ComfyUI's modules, in a process of its own: `python child.py JOB_FOLDER`.

A child, because the pack's root holds a `nodes` package as ComfyUI has a `nodes` module, and because ComfyUI reads
its settings from the command line when it is imported.
"""

import contextlib
import importlib.util
import json
import sys
from pathlib import Path

PACK = "likeness_in_comfyui"


def enter_comfyui(comfyui, base, arguments):
    """ComfyUI's modules first on the path, its settings as a server with these arguments would have them."""
    here = sys.path.pop(0)
    sys.path.insert(0, comfyui)
    sys.path.append(here)
    sys.argv = [str(Path(comfyui) / "main.py"), *arguments, "--disable-api-nodes", "--base-directory", str(base)]
    import comfy.options

    comfy.options.enable_args_parsing()
    import utils.extra_config  # noqa: F401  before `nodes`, which puts another `utils` on the path


def load(name, path):
    """Import a file as ComfyUI does: by location, known in sys.modules before it runs."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def write_result(folder, result):
    """Top-level tensors to safetensors, the rest to JSON."""
    import torch
    from safetensors.torch import save_file

    tensors = {k: v.detach().clone().contiguous() for k, v in result.items() if isinstance(v, torch.Tensor)}
    if tensors:
        save_file(tensors, folder / "result.safetensors")
    (folder / "result.json").write_text(json.dumps({k: v for k, v in result.items() if k not in tensors}))


def main():
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    enter_comfyui(job["comfyui"], folder, job["arguments"])
    import torch

    pack = load(PACK, Path(job["repository"]) / "__init__.py")
    script = load("inside_script", job["script"])
    import comfy.utils

    comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL = 0.0  # scripts stop at certain steps, however fast these are
    with torch.inference_mode() if job["inference_mode"] else contextlib.nullcontext():
        write_result(folder, script.main(pack, **job["inputs"]) or {})


if __name__ == "__main__":
    main()
