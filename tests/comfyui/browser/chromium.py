"""Python's handle on screenshot.mjs."""

import json
import os
import shutil
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).with_name("screenshot.mjs")


def what_is_missing():
    """Why the browser cannot be used here, or None."""
    if not shutil.which("node"):
        return "node is not installed"
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not Path(chromium).exists():
        return f"there is no {chromium}; set CHROMIUM"
    if not (Path(os.environ.get("PLAYWRIGHT_CORE", ".")) / "node_modules" / "playwright-core").is_dir():
        return "set PLAYWRIGHT_CORE to a folder where `npm install playwright-core` was run"
    return None


def browse(server, timeout=180, **options):
    """Run screenshot.mjs against a server; `workflow=`, `to_ui=`, `run=True`, ... become --workflow, --to-ui, --run.

    Returns what it saw ({nodes, missing, ours, otherErrors}); RuntimeError when it found trouble.
    """
    command = ["node", str(SCRIPT), "--server", server.url, "--pack", server.folder]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout)
