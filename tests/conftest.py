"""Denoisers over small random networks of every layout."""

from __future__ import annotations

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
