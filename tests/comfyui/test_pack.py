"""The pack in a live ComfyUI: it loads clean, explains itself, and the hello workflow runs."""

import io
import re
import time

import numpy as np
import pytest
from likeness.core.demo import world
from PIL import Image, ImageChops, ImageStat

from .client import BadPrompt, Interrupted, cached_nodes
from .graphs import CONCEPTS, demo_subject, hello, node
from .launch import FOLDER, REPOSITORY
from .workflows import WORKFLOWS as GRAPHS

WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
THUMBNAIL_BYTES = 100_000
OURS = f"(?:{FOLDER}|{re.escape(str(REPOSITORY))}/)"
# "0.1 seconds: .../my-likeness" is ComfyUI's list of import times, the only place where our name is good news
COMPLAINT = re.compile(
    rf"(IMPORT FAILED|Cannot import|warning|error|skip).*{OURS}|{OURS}.*(warning|error|not callable|did not return)"
    rf"|File \".*{OURS}",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def ours(server):
    """Descriptions of the pack's nodes by id."""
    return {name: info for name, info in server.object_info().items() if name.startswith("Likeness")}


def complaints(log):
    return [line for line in log.splitlines() if COMPLAINT.search(line)]


def inputs_of(info):
    """(name, options) of every visible input; sockets without options have none."""
    for kind in ("required", "optional"):
        for name, declared in info["input"].get(kind, {}).items():
            yield name, declared[1] if len(declared) > 1 else {}


@pytest.fixture(scope="module", autouse=True)
def log_before(server):
    """Length of the log before this file's tests: others may provoke errors of the pack on purpose."""
    return len(server.log())


def test_loads_without_complaint(server, ours):
    start, _, _ = server.log().partition("To see the GUI go to")
    assert not complaints(start)
    assert ours


def test_complaints_are_found():
    base = f"/tmp/base/custom_nodes/{FOLDER}"
    assert complaints(f"   0.0 seconds (IMPORT FAILED): {base}")
    assert complaints(f"WARNING:root:Error while calling comfy_entrypoint in {base}: boom")
    assert complaints(f'  File "{base}/nodes/demo.py", line 3, in execute')
    assert complaints(f"{base}/core/files.py:12: UserWarning: hm")
    assert not complaints(f"   0.0 seconds: {base}\nIMPORT FAILED: nodes_audio.py")


def test_every_node_describes_itself(ours):
    assert not [name for name, info in ours.items() if not info["description"]]
    assert not [name for name, info in ours.items() if info["category"].split("/")[0] != "likeness"]


def test_every_input_and_output_has_a_tooltip(ours):
    silent = [f"{name}.{key}" for name, info in ours.items() for key, o in inputs_of(info) if not o.get("tooltip")]
    for name, info in ours.items():
        tips = info.get("output_tooltips") or [None] * len(info["output"])
        silent += [f"{name} -> {key}" for key, tip in zip(info["output_name"], tips, strict=True) if not tip]
    assert not silent


def test_every_node_has_a_help_page(server, ours):
    missing = [name for name in ours if not help_page(server, name).strip()]
    assert not missing


def help_page(server, name):
    """The page as the front end looks for it: by language first, then the plain one."""
    for path in (f"{name}/en.md", f"{name}.md"):
        answer = server.get(f"/extensions/{FOLDER}/docs/{path}")
        if answer.ok:
            return answer.text
    return ""


def test_pictures_in_help_pages_are_served(server, ours):
    names = {picture for name in ours for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", help_page(server, name))}
    assert names
    assert not [picture for picture in names if not server.get(f"/extensions/{FOLDER}/docs/{picture}").ok]


def test_no_help_page_without_a_node(ours):
    pages = {path.stem for path in (REPOSITORY / "web" / "docs").glob("*.md")}
    assert pages <= set(ours)


def test_the_workflows_are_those_that_are_built():
    assert {path.stem for path in WORKFLOWS} == set(GRAPHS)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_is_a_template(server, path):
    assert path.stem in server.get("/workflow_templates").json()[FOLDER]
    picture = server.get(f"/api/workflow_templates/{FOLDER}/{path.stem}.jpg")
    assert picture.ok and len(picture.content) <= THUMBNAIL_BYTES
    assert Image.open(io.BytesIO(picture.content)).format == "JPEG"


def is_flat(image):
    """The demo world's pictures vary by 29 of 255 at least; an untrained model's mud by 10."""
    return max(ImageStat.Stat(image).stddev) < 20


def same(a, b):
    return ImageChops.difference(a, b).getbbox() is None


def test_hello_makes_pictures(server):
    with server.events() as events:
        images = server.images(server.run(hello(steps=10)))
    assert [image.size for image in images] == [(128, 128)] * 4
    assert not any(map(is_flat, images))
    assert not same(images[0], images[1])
    assert events.of("progress") and events.previews


def test_same_seed_same_pictures(server):
    first = server.images(server.run(hello(seed=7, steps=4)))
    again = hello(seed=7, steps=4)
    again["8"] = node("RepeatLatentBatch", samples=["4", 0], amount=1)  # changes nothing, but the cache cannot know
    again["5"]["inputs"]["latent_image"] = ["8", 0]
    entry = server.run(again)
    assert "5" not in cached_nodes(entry), "the sampler did not run a second time"
    assert all(map(same, first, server.images(entry)))
    assert not same(first[0], server.images(server.run(hello(seed=8, steps=4)))[0])


def test_an_interrupt_stops_sampling(server):
    with server.events() as events:
        prompt_id = server.queue(hello(steps=2000))
        events.wait_for("progress", accept=lambda data: data["value"] > 1)
        start = time.monotonic()
        server.interrupt()
        with pytest.raises(Interrupted):
            server.wait(prompt_id)
        assert time.monotonic() - start < 5
    assert len(server.images(server.run(hello(seed=9, steps=2)))) == 4


@pytest.mark.parametrize("kind", ["cat", "person"])
def test_demo_subject_draws(server, kind):
    a, b, mask_a, mask_b = server.images(server.run(demo_subject(kind)))
    assert a.size == mask_a.size == (128, 128)
    assert not is_flat(a) and not is_flat(b) and not same(a, b)
    assert [mask.getextrema()[0] for mask in (mask_a, mask_b)] == [(0, 255)] * 2


def test_demo_subject_tells_how_near_things_are(server):
    graph = demo_subject("car", count=1)
    graph["2"]["inputs"]["images"] = ["1", 5]
    depth, mask = (np.asarray(image.convert("L"), dtype=float) for image in server.images(server.run(graph)))
    assert depth[:32].mean() < depth[mask > 127].mean() < 255
    subject = world.held_out_subjects(1, "car")[0]
    (own,) = world.photos(subject, 1, 0, style="photo", view="front", accessory=None)
    assert np.abs(depth - 255 * own.depth[0].numpy()).max() <= 1


def test_concept_info_shows_its_text_on_the_node(server):
    graph = {
        "1": node("LikenessLoadConcept", file=CONCEPTS[0]),
        "2": node("LikenessConceptInfo", concept=["1", 0]),
    }
    with server.events() as events:
        entry = server.run(graph)
        events.wait_for("executed")
    assert any(node == "2" and "word: cat" in text for node, text in events.texts)
    assert "word: cat" in entry["outputs"]["2"]["text"][0]


@pytest.mark.parametrize(("at", "name", "value"), [("5", "sampler_name", "no such"), ("4", "width", "wide")])
def test_a_wrong_value_is_refused(server, at, name, value):
    graph = hello()
    graph[at]["inputs"][name] = value
    with pytest.raises(BadPrompt) as caught:
        server.queue(graph)
    assert caught.value.node_errors[at]["errors"][0]["extra_info"]["input_name"] == name


def test_in_process_equals_the_server(server, inside):
    """What other tests measure in a child process is what a user sees."""
    server_picture = server.images(server.run(hello(seed=3, steps=4, batch=1)))[0]
    kept = inside("run_prompt.py", workflow=hello(seed=3, steps=4, batch=1), keep={"image": ["6", 0]})["image"]
    pixels = (kept[0] * 255).clamp(0, 255).byte().numpy()
    assert same(server_picture, Image.fromarray(pixels))


def test_nothing_complained_meanwhile(server, log_before):
    """Last on purpose: the log of everything above."""
    assert not complaints(server.log()[log_before:])
