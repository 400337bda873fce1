"""Execute a whole workflow in this process and return the kept values that are tensors (latents: their samples)."""

from inprocess import run_prompt


def main(pack, workflow, keep):
    kept = run_prompt(workflow, keep)
    return {name: value["samples"] if isinstance(value, dict) else value for name, value in kept.items()}
