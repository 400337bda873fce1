"""Make subgraphs/NAME.json, a blueprint for ComfyUI's node library, in the front end.

    COMFYUI_PATH=... PLAYWRIGHT_CORE=... python tests/comfyui/browser/build_blueprint.py

All of ../blueprints.py are made. Environment as for build_workflow.py.
"""

import json
import os
import re
import sys
import tempfile
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from comfyui.blueprints import BLUEPRINTS, CATEGORY
from comfyui.browser.chromium import browse, what_is_missing
from comfyui.launch import REPOSITORY, running_server

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def build(server, name, folder):
    """One blueprint as the front end serializes it; building again changes nothing."""
    made = BLUEPRINTS[name]()
    api, spec, ui = (folder / f"{what}.json" for what in ("api", "spec", "ui"))
    api.write_text(json.dumps(made.graph))
    outer = {"sockets": made.sockets, "widgets": made.widgets, "outputs": made.outputs}
    spec.write_text(json.dumps({"name": name, **outer}))
    browse(server, workflow=api, wrap=spec, to_ui=ui)
    blueprint = json.loads(own_ids(ui.read_text().replace('"randomize"', '"fixed"'), name))
    (subgraph,) = blueprint["definitions"]["subgraphs"]
    subgraph |= {"category": CATEGORY, "description": made.about}
    return {key: value for key, value in blueprint.items() if key not in ("config", "extra", "groups")}


def own_ids(text, name):
    """Random ids replaced by ones that follow from the name and the order of their appearance."""
    found = dict.fromkeys(UUID.findall(text))
    ids = {old: uuid.uuid5(uuid.NAMESPACE_URL, f"likeness/subgraphs/{name}/{i}") for i, old in enumerate(found)}
    return UUID.sub(lambda match: str(ids[match.group()]), text)


def main():
    missing = what_is_missing() or ("COMFYUI_PATH" not in os.environ and "set COMFYUI_PATH to a ComfyUI checkout")
    if missing:
        sys.exit(missing)
    target = REPOSITORY / "subgraphs"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with running_server(os.environ["COMFYUI_PATH"], folder / "comfyui") as server:
            for name in BLUEPRINTS:
                blueprint = build(server, name, folder)
                (target / f"{name}.json").write_text(json.dumps(blueprint, indent=2) + "\n")
                (node,) = blueprint["nodes"]
                print(f"{name}: {len(node['inputs'])} inputs, {len(node['outputs'])} outputs")


if __name__ == "__main__":
    main()
