"""All workflows that come with the pack: file name in workflows/ -> the graph that it is built from."""

from . import graphs, hifi_graphs, retrinet_graphs, toffee_graphs

WORKFLOWS = {**graphs.WORKFLOWS, **hifi_graphs.WORKFLOWS, **retrinet_graphs.WORKFLOWS, **toffee_graphs.WORKFLOWS}
