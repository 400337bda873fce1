"""ComfyUI's side: thin V3 nodes over core and training. The only room that imports comfy."""


def extension():
    """The pack as ComfyUI's extension object."""
    from comfy_api.latest import ComfyExtension

    from . import (
        compare,
        concepts,
        demo,
        folders,
        hifi,
        hifi_inversion,
        hifi_reference,
        infusion,
        lists,
        metrics,
        references,
        retrinet,
        retrinet_learning,
        retrinets,
        segmentation,
        subjects,
        toffee,
        toffee_adapters,
        vision,
    )

    folders.register()
    vision.register_folders()

    class Likeness(ComfyExtension):
        async def get_node_list(self):
            return [
                *demo.NODES,
                *concepts.NODES,
                *infusion.NODES,
                *subjects.NODES,
                *hifi.NODES,
                *hifi_inversion.NODES,
                *hifi_reference.NODES,
                *lists.NODES,
                *metrics.NODES,
                *compare.NODES,
                *segmentation.NODES,
                *references.NODES,
                *retrinets.NODES,
                *retrinet.NODES,
                *retrinet_learning.NODES,
                *toffee.NODES,
                *toffee_adapters.NODES,
            ]

    return Likeness()
