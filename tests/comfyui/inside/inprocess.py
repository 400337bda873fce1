"""Whole API-format prompts without a server, for scripts of this folder: fast, and values stay Python objects."""

import asyncio
import sys
import uuid

import execution
import server

import nodes

KEPT = {}


class AnyType(str):
    """A socket type that accepts every link: ComfyUI compares types with `!=`."""

    def __ne__(self, other):
        return False

    __hash__ = str.__hash__


class Keep:
    """Output node that puts what it receives into KEPT."""

    CATEGORY, FUNCTION, OUTPUT_NODE, RETURN_TYPES = "testing", "keep", True, ()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING", {}), "value": (AnyType("*"), {})}}

    def keep(self, name, value):
        KEPT[name] = value
        return {}


def load_nodes():
    """Register ComfyUI's extra nodes and the pack's, once; the pack's classes are those of the imported `pack`."""
    if "InsideKeep" in nodes.NODE_CLASS_MAPPINGS:
        return
    server.PromptServer(asyncio.new_event_loop())  # never started; some nodes ask for PromptServer.instance
    asyncio.run(_load_nodes(sys.modules["likeness_in_comfyui"]))
    nodes.NODE_CLASS_MAPPINGS["InsideKeep"] = Keep


async def _load_nodes(pack):
    await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False)
    extension = await pack.comfy_entrypoint()
    for node in await extension.get_node_list():
        nodes.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node


def new_executor():
    """An executor with an empty cache."""
    executor = execution.PromptExecutor(server.PromptServer.instance, cache_type=execution.CacheType.CLASSIC)
    if hasattr(executor, "cache_args"):  # newer versions read the RAM limits whatever the kind of cache
        executor.cache_args = {"ram": 0.0, "ram_inactive": 0.0}
    return executor


def run_prompt(workflow, keep=None):
    """Execute a workflow; `keep` names links, {name: [node id, output index]}, whose values are returned by name."""
    load_nodes()
    KEPT.clear()
    prompt = {**workflow, **{f"keep_{name}": _keep_node(name, link) for name, link in (keep or {}).items()}}
    prompt_id = str(uuid.uuid4())
    valid, error, outputs, node_errors = asyncio.run(execution.validate_prompt(prompt_id, prompt, None))
    if not valid:
        raise ValueError(f"{error} {node_errors}")
    executor = new_executor()
    executor.execute(prompt, prompt_id, {}, outputs)
    if not executor.success:
        raise RuntimeError(str(executor.status_messages[-1]))
    return dict(KEPT)


def _keep_node(name, link):
    return {"class_type": "InsideKeep", "inputs": {"name": name, "value": link}}
