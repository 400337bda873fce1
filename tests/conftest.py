"""Denoisers over small random networks of every layout, and Ray."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # each of several processes has a core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from networks import LAYOUTS, random_prompt, random_unet


@pytest.fixture(scope="session", params=LAYOUTS)
def layout(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def denoiser(layout):
    from likeness.core.diffusers import DiffusersDenoiser
    from likeness.core.diffusion import Schedule

    return DiffusersDenoiser(random_unet(layout), Schedule.scaled_linear())


@pytest.fixture(scope="session")
def make_text(layout):
    from likeness.core.diffusers import Text

    return lambda *args, **fields: Text(**random_prompt(layout, *args, **fields))


@pytest.fixture(scope="module")
def ray():
    """Ray with two workers, once for all tests."""
    ray = pytest.importorskip("ray", reason="workers are Ray's: pip install 'ray[data]'")
    from likeness.training.data.workers import Workers

    with Workers(2) as started:
        try:
            started._start()
        except Exception as e:
            pytest.skip(f"Ray doesn't start on this machine: {e}")
        yield ray
