"""The subgraph blueprints: offered by ComfyUI where it offers any, and every node, link and value in them valid."""

import json

import pytest

from .blueprints import BLUEPRINTS, CATEGORY
from .launch import FOLDER, REPOSITORY

FILES = sorted((REPOSITORY / "subgraphs").glob("*.json"))
IN, OUT = -10, -20  # the front end's ids of a subgraph's own ends


@pytest.fixture(scope="module")
def known(server):
    return server.object_info()


def inside(path):
    """The node and the subgraph of a blueprint file."""
    blueprint = json.loads(path.read_text())
    (node,), (subgraph,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    return node, subgraph


def test_the_files_are_those_that_are_built():
    assert {path.stem for path in FILES} == set(BLUEPRINTS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_server_offers_it(server, path):
    answer = server.get("/global_subgraphs")
    if not answer.ok:
        pytest.skip("this ComfyUI offers no subgraph blueprints")
    ours = {entry["name"]: key for key, entry in answer.json().items() if entry["info"]["node_pack"].endswith(FOLDER)}
    assert server.get(f"/global_subgraphs/{ours[path.stem]}").json()["data"] == path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_node_is_registered_with_these_ends(known, path):
    for node in inside(path)[1]["nodes"]:
        info = known[node["type"]]
        declared = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        assert {entry["name"] for entry in node["inputs"]} <= set(declared), node["type"]
        assert [entry["type"] for entry in node["outputs"]] == info["output"], node["type"]
        unfed = {entry["name"] for entry in node["inputs"] if entry["link"] is None and "widget" not in entry}
        assert not unfed & set(info["input"].get("required", {})), node["type"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_links_types_match(path):
    _, subgraph = inside(path)
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    links = {link["id"]: link for link in subgraph["links"]}
    for link in links.values():
        outputs = subgraph["inputs"] if link["origin_id"] == IN else nodes[link["origin_id"]]["outputs"]
        inputs = subgraph["outputs"] if link["target_id"] == OUT else nodes[link["target_id"]]["inputs"]
        origin, target = outputs[link["origin_slot"]], inputs[link["target_slot"]]
        assert link["type"] == origin["type"] == target["type"], link
        assert link["id"] in (origin.get("links") or origin.get("linkIds"))
        assert link["id"] in (target.get("linkIds") or [target.get("link")])
    named = [i for end in (*subgraph["inputs"], *subgraph["outputs"]) for i in end["linkIds"]]
    assert named and set(named) <= set(links)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_ends_are_those_declared(path):
    made, (node, subgraph) = BLUEPRINTS[path.stem](), inside(path)
    names = [*made.sockets, *made.widgets]
    assert [entry["name"] for entry in node["inputs"]] == [entry["name"] for entry in subgraph["inputs"]] == names
    assert [entry["name"] for entry in node["outputs"]] == list(made.outputs)
    assert (node["title"], node["type"], subgraph["name"]) == (path.stem, subgraph["id"], path.stem)
    assert (subgraph["category"], subgraph["description"]) == (CATEGORY, made.about)
    values = [made.graph[targets[0][0]]["inputs"][targets[0][1]] for targets in made.widgets.values()]
    assert node["widgets_values"] == values
    for targets in made.widgets.values():
        assert len({made.graph[id]["inputs"][name] for id, name in targets}) == 1
    assert sorted(inner["type"] for inner in subgraph["nodes"]) == sorted(n["class_type"] for n in made.graph.values())
