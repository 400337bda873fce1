"""The pack loads inside ComfyUI without its optional packages, and quickly."""

import pytest

LIST_NODES = """
import asyncio, sys, time

def main(pack, absent):
    if absent:
        sys.modules[absent] = None
    import comfy_api.latest
    start = time.process_time()  # of this process alone: tests may run beside others
    extension = asyncio.run(pack.comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    ids = [node.GET_SCHEMA().node_id for node in nodes]
    return {"ids": ids, "seconds": time.process_time() - start}
"""


@pytest.mark.parametrize("absent", ["", "diffusers", "accelerate", "segment_anything", "tyro"])
def test_nodes_are_listed_without(inside, absent):
    seen = inside(LIST_NODES, absent=absent)
    assert "LikenessLoadDemoModel" in seen["ids"] and "LikenessDemoSubject" in seen["ids"]
    assert seen["seconds"] < 0.3
