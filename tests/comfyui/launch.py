"""Start a real ComfyUI whose only custom node is this repository, under a folder name that is not the pack's own."""

import os
import shlex
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import requests

from .client import Client

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = "my-likeness"  # users clone into folders of any name: nothing may rely on it
START_SECONDS = 120


class Server(Client):
    """A running ComfyUI: a Client that also knows its folders and its log."""

    def __init__(self, url, base, process):
        super().__init__(url)
        self.base, self.process, self.folder = Path(base), process, FOLDER

    def log(self):
        """Everything the server has written so far."""
        return log_file(self.base).read_text(errors="replace")

    def answers(self):
        try:
            return self.get("/system_stats").ok
        except requests.ConnectionError:
            return False

    def wait_until_up(self):
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI exited with {self.process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"ComfyUI did not answer within {START_SECONDS} s:\n{self.log()}")
            time.sleep(0.3)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def comfyui_python():
    """The interpreter that has ComfyUI's requirements."""
    return os.environ.get("COMFYUI_PYTHON", sys.executable)


def child_environment():
    """One thread: on a busy machine more threads make tiny models many times slower."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def log_file(base):
    return Path(base) / "server.log"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def command(comfyui, base, port):
    """ComfyUI's command line; COMFYUI_ARGS adds to it (for example another --front-end-root)."""
    options = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--disable-api-nodes"]
    options += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    options += ["--preview-method", "latent2rgb"]
    options += shlex.split(os.environ.get("COMFYUI_ARGS", ""))
    return [comfyui_python(), str(Path(comfyui) / "main.py"), *options]


@contextmanager
def running_server(comfyui, base):
    """A Server for the ComfyUI checkout `comfyui`, with `base` as its base directory, stopped at the end."""
    nodes = Path(base) / "custom_nodes"
    nodes.mkdir(parents=True)
    (nodes / FOLDER).symlink_to(REPOSITORY, target_is_directory=True)
    port = free_port()
    with log_file(base).open("w") as log:
        process = subprocess.Popen(
            command(comfyui, base, port), cwd=base, env=child_environment(), stdout=log, stderr=subprocess.STDOUT
        )
    server = Server(f"http://127.0.0.1:{port}", base, process)
    try:
        server.wait_until_up()
        yield server
    finally:
        server.stop()
