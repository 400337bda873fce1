"""The test's side of running a script beside ComfyUI's modules: see `Inside`."""

import json
import subprocess
from pathlib import Path

from ..launch import REPOSITORY, child_environment, comfyui_python

HERE = Path(__file__).parent


class Inside:
    """`inside(script, **inputs)` runs the script's `main` in a child process and returns what it returns.

    `script` is a file of this folder (name or path) or Python source; either defines `main(pack, **inputs) -> dict`.
    `pack` is this repository, imported the way ComfyUI imports it, under the name `likeness_in_comfyui`: scripts may
    also say `from likeness_in_comfyui.core import ...`. ComfyUI's own modules (`comfy`, `nodes`) come first on
    `sys.path`; the helpers of this folder come last (`from inprocess import run_prompt`).
    Inputs are JSON. Of the result, top-level tensors come back as tensors, the rest as JSON.
    """

    def __init__(self, comfyui, folder):
        self.comfyui, self.folder, self.runs = Path(comfyui), Path(folder), 0

    def __call__(self, script, *, inference_mode=False, timeout=300, arguments=("--cpu",), **inputs):
        """Nodes run under torch.inference_mode: ask for it where that matters. `arguments` are ComfyUI's own."""
        job = self._write_job(script, inference_mode, arguments, inputs)
        done = subprocess.run(
            [comfyui_python(), str(HERE / "child.py"), str(job)],
            cwd=job,
            env=child_environment(),
            timeout=timeout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise AssertionError(f"{script_name(script)} failed inside ComfyUI:\n{done.stdout}")
        return read_result(job)

    def _write_job(self, script, inference_mode, arguments, inputs):
        self.runs += 1
        job = self.folder / f"inside{self.runs}"
        job.mkdir()
        if is_source(script):
            (job / "script.py").write_text(script)
        path = job / "script.py" if is_source(script) else (HERE / script).resolve()
        order = {
            "comfyui": str(self.comfyui),
            "repository": str(REPOSITORY),
            "script": str(path),
            "inference_mode": inference_mode,
            "arguments": list(arguments),
            "inputs": inputs,
        }
        (job / "job.json").write_text(json.dumps(order))
        return job


def is_source(script):
    return isinstance(script, str) and "\n" in script


def script_name(script):
    return "the given source" if is_source(script) else str(script)


def read_result(job):
    """JSON values and tensors, together again."""
    result = json.loads((job / "result.json").read_text())
    if (job / "result.safetensors").exists():
        from safetensors.torch import load_file

        result.update(load_file(job / "result.safetensors"))
    return result
