"""Parameters spread over two processes learn what whole ones do, and go on from their checkpoint."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from likeness.core import files
from likeness.training import sharding


def learned(path, processes, accumulation, fsdp):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += [str(Path(__file__).with_name("sharded.py")), str(path), str(accumulation)]
    asked = {"ACCELERATE_USE_FSDP": "true"} if fsdp else {}
    done = subprocess.run(command, capture_output=True, text=True, cwd=path.parent, env={**os.environ, **asked})
    assert done.returncode == 0, done.stderr
    return files.load(path, kind="x")[0]


def test_two_halves_learn_what_a_whole_one_does(tmp_path):
    whole = learned(tmp_path / "whole.safetensors", 1, 2, False)
    halves = learned(tmp_path / "halves.safetensors", 2, 1, True)
    assert whole.keys() == halves.keys()
    for name in ("retrinet part", "refiner part"):
        assert float(whole.pop(name)) == 1 and 0.49 < float(halves.pop(name)) < 0.52
    apart = torch.cat([(halves[name] - tensor).abs().flatten() for name, tensor in whole.items()])
    # AdamW makes whole steps, 1e-3 here, also of a gradient that is nothing but rounding: some biases have one
    assert float((apart > 1e-4).float().mean()) < 1e-3 and float(apart.mean()) < 1e-5


def test_when_it_is_asked_for(monkeypatch):
    def accelerator(processes, kind, precision="no"):
        return SimpleNamespace(num_processes=processes, distributed_type=kind, mixed_precision=precision)

    assert not sharding.asked(None) and not sharding.asked(accelerator(2, "MULTI_GPU"))
    assert not sharding.asked(accelerator(1, "FSDP")) and sharding.asked(accelerator(2, "FSDP", "bf16"))
    with pytest.raises(ValueError, match="mixed_precision: fp16 does not go with FSDP here; choose bf16 or no"):
        sharding.asked(accelerator(2, "FSDP", "fp16"))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding.asked(accelerator(2, "MULTI_CPU")) and not sharding.asked(accelerator(1, "NO"))
