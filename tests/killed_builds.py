"""Builds that are killed at every file they write, each resumed, compared with one that isn't.

Arguments: folder of demo figures, folder to work in. Prints how many kills there were.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import pyarrow.parquet  # noqa: F401 - once, before the forks
import torch
from likeness.training.data.retribooru import build, demo, report
from likeness.training.data.retribooru.annotate import Settings
from likeness.training.data.retribooru.models import Names

NAMES = Names("truth", "truth", faces="truth")


def config(figures: Path, out: Path, **fields) -> build.Config:
    fields = {"look": Settings(part=4, need_face=False), "shard": 6, "workers": 0, **fields}
    return build.Config(figures, out, NAMES, figures / demo.METADATA, **fields)


def content(out: Path) -> dict[str, str]:
    """Every file's digest."""
    files = (p for p in out.rglob("*") if p.is_file())
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def run(figures: Path, out: Path, kill: int | None = None) -> bool:
    """Build in a process of its own, which kills itself around writing file number `kill`; whether it did."""
    child = os.fork()
    if not child:
        replace, count = os.replace, 0

        def counted(source, target):
            nonlocal count
            count += 1
            if count == kill and kill % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
            if count == kill:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = counted
        os.fsync = lambda handle: None  # a kill, unlike a power cut, loses nothing that is written
        build.build(config(figures, out, look=Settings(part=2, need_face=False), shard=2))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def main(figures: Path, folder: Path) -> int:
    torch.set_num_threads(1)
    report.plot = lambda found: b"a plot"  # which takes matplotlib longer than all the rest
    run(figures, folder / "whole")
    whole, kills = content(folder / "whole"), 0
    while run(figures, out := folder / str(kills + 1), kills + 1):
        kills += 1
        left = content(out)
        finished = {name: digest for name, digest in left.items() if not name.endswith(".part")}
        assert all(whole.get(name) == digest for name, digest in finished.items()), f"half a file after kill {kills}"
        assert not run(figures, out)
        assert content(out) == whole, f"kill {kills}: {set(content(out).items()) ^ set(whole.items())}"
    return kills


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2])))
