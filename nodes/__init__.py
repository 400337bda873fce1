"""ComfyUI's side: thin V3 nodes over core and training. The only room that imports comfy."""


def extension():
    """The pack as ComfyUI's extension object."""
    from comfy_api.latest import ComfyExtension

    from . import concepts, demo, folders, infusion, lists, metrics

    concepts.register_folder()
    folders.register_shipped()

    class Likeness(ComfyExtension):
        async def get_node_list(self):
            return [*demo.NODES, *concepts.NODES, *infusion.NODES, *lists.NODES, *metrics.NODES]

    return Likeness()
