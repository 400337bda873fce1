"""Fixtures that run the pack inside a real ComfyUI.

Environment:
    COMFYUI_PATH    a ComfyUI checkout; without it every test here is skipped
    COMFYUI_PYTHON  the interpreter with ComfyUI's requirements (default: the one that runs pytest)
    COMFYUI_ARGS    more arguments for the server
"""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def comfyui_path():
    """Where ComfyUI is; skips when nobody said."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.skip("set COMFYUI_PATH to a ComfyUI checkout to run the tests inside ComfyUI")
    if not (Path(path) / "main.py").is_file():
        pytest.fail(f"COMFYUI_PATH={path} holds no main.py")
    return Path(path).resolve()


@pytest.fixture(scope="session")
def server(comfyui_path, tmp_path_factory):
    """A live server with this repository as its only custom node."""
    from .launch import running_server  # here, so that the folder can be skipped without its requirements

    with running_server(comfyui_path, tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture
def inside(comfyui_path, tmp_path):
    """Run a script in a child process beside ComfyUI's modules; see inside/parent.py."""
    from .inside.parent import Inside

    return Inside(comfyui_path, tmp_path)
