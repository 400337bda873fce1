"""Make workflows/NAME.json (UI format, through the browser), workflows/NAME.jpg and web/docs/NAME.jpg.

    COMFYUI_PATH=... PLAYWRIGHT_CORE=... python tests/comfyui/browser/build_workflow.py hello-likeness

The graph comes from ../workflows.py. The thumbnail shows what the workflow really puts out, the help's picture how it
looks in the front end after Run. Environment as for the tests: see ../conftest.py, screenshot.mjs.
"""

import argparse
import io
import json
import math
import os
import sys
import tempfile
import uuid
from pathlib import Path

from PIL import Image, ImageChops

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from comfyui.browser.chromium import browse, what_is_missing
from comfyui.launch import REPOSITORY, running_server
from comfyui.workflows import WORKFLOWS

THUMBNAIL_SIDE = 512
SCREEN_WIDTH = 1600
THUMBNAIL_BYTES = 100_000


def tile(images):
    """Pictures side by side on a grid as square as possible, cells as large as the largest."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = max(i.width for i in images), max(i.height for i in images)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for n, image in enumerate(images):
        sheet.paste(image, (n % columns * width, n // columns * height))
    return sheet


def thumbnail(images):
    """JPEG bytes of the tiled pictures, with the best quality that stays within the limit."""
    sheet = tile(images)
    scale = THUMBNAIL_SIDE / max(sheet.size)
    sheet = sheet.resize((round(sheet.width * scale), round(sheet.height * scale)), Image.Resampling.LANCZOS)
    for quality in range(92, 20, -6):
        data = io.BytesIO()
        sheet.save(data, "JPEG", quality=quality, optimize=True)
        if data.tell() <= THUMBNAIL_BYTES:
            break
    return data.getvalue()


def to_ui(server, graph, name, folder):
    """The graph in UI format; its id is derived from the name, so that building again changes nothing."""
    api, ui = folder / "api.json", folder / "ui.json"
    api.write_text(json.dumps(graph))
    browse(server, workflow=api, to_ui=ui)
    # seeds stay what they are: a shared workflow shows everybody the same picture first
    workflow = json.loads(ui.read_text().replace('"randomize"', '"fixed"'))
    return {**workflow, "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"likeness/workflows/{name}"))}


def screenshot(server, workflow, target, folder, timeout):
    """The front end after the workflow ran in it, without menus."""
    browse(server, workflow=workflow, run=True, png=folder / "screen.png", timeout=timeout)
    screen = Image.open(folder / "screen.png").convert("RGB")
    screen = screen.crop(used(screen))
    scale = min(1.0, SCREEN_WIDTH / screen.width)
    screen.resize((round(screen.width * scale), round(screen.height * scale)), Image.Resampling.LANCZOS).save(
        target, quality=88
    )


def used(screen, margin=30):
    """The box of the graph itself, between the front end's bars."""
    bars = (80, 140, screen.width - 20, screen.height - 110)
    canvas = screen.crop(bars)
    empty = Image.new("RGB", canvas.size, canvas.getpixel((5, canvas.height // 2)))
    # the canvas has a faint grid
    seen = ImageChops.difference(canvas, empty).convert("L").point(lambda x: 255 * (x > 12)).getbbox()
    left, top, right, bottom = seen or (0, 0, *canvas.size)
    return (
        max(0, bars[0] + left - margin),
        max(0, bars[1] + top - margin),
        min(screen.width, bars[0] + right + margin),
        min(screen.height, bars[1] + bottom + margin),
    )


def shown(server, entry):
    """What the workflow is for: its saved pictures, or its previews where it saves none."""
    saved = [f for output in entry["outputs"].values() for f in output.get("images", []) if f["type"] == "output"]
    return [server.view(file) for file in saved] or server.images(entry)


def build(server, name, folder, timeout):
    graph = WORKFLOWS[name]()
    images = shown(server, server.run(graph, timeout))
    workflow = to_ui(server, graph, name, folder)
    target = REPOSITORY / "workflows" / name
    target.with_suffix(".json").write_text(json.dumps(workflow, indent=2) + "\n")
    target.with_suffix(".jpg").write_bytes(thumbnail(images))
    screenshot(server, target.with_suffix(".json"), REPOSITORY / "web" / "docs" / f"{name}.jpg", folder, timeout)
    print(f"{name}: {len(workflow['nodes'])} nodes, {len(images)} pictures, {target}.json and .jpg")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=sorted(WORKFLOWS), metavar="NAME", help=", ".join(WORKFLOWS))
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one workflow to run")
    options = parser.parse_args()
    missing = what_is_missing() or ("COMFYUI_PATH" not in os.environ and "set COMFYUI_PATH to a ComfyUI checkout")
    if missing:
        parser.error(missing)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with running_server(os.environ["COMFYUI_PATH"], folder / "comfyui") as server:
            for name in options.names:
                build(server, name, folder, options.timeout)


if __name__ == "__main__":
    main()
