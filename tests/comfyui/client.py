"""A small client for one ComfyUI server: queue, wait, look at the pictures, listen to the events."""

import io
import json
import threading
import time
import uuid
from contextlib import contextmanager

import requests
import websocket
from PIL import Image


class ComfyError(RuntimeError):
    """A prompt failed or was refused; `node_errors` is what the server said about single nodes."""

    def __init__(self, message, node_errors=None):
        super().__init__(message)
        self.node_errors = node_errors or {}


class BadPrompt(ComfyError):
    """The server answered HTTP 400: the graph itself is wrong, nothing ran."""


class Interrupted(ComfyError):
    """The prompt was stopped by an interrupt."""


class Client:
    """Talks HTTP to the server at `url`; one client id, so that events of its own prompts reach `events()`."""

    def __init__(self, url):
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex

    def get(self, path, **params):
        return requests.get(self.url + path, params=params, timeout=60)

    def post(self, path, body=None):
        return requests.post(self.url + path, json=body or {}, timeout=60)

    def object_info(self, node=None):
        """Every node's description, or one node's (KeyError when the server does not know it)."""
        info = self.get("/object_info" + (f"/{node}" if node else "")).json()
        return info[node] if node else info

    def queue(self, workflow):
        """Queue an API-format workflow and return its prompt id; BadPrompt when the server refuses it."""
        answer = self.post("/prompt", {"prompt": workflow, "client_id": self.client_id})
        body = answer.json()
        if answer.status_code != 200:
            raise BadPrompt(f"HTTP {answer.status_code}: {json.dumps(body, indent=1)}", body.get("node_errors"))
        return body["prompt_id"]

    def wait(self, prompt_id, timeout=120):
        """The prompt's history entry once it has finished; ComfyError with the node's own message when it failed."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").json().get(prompt_id)
            if entry:
                raise_for_status(entry)
                return entry
            time.sleep(0.1)
        raise TimeoutError(f"prompt {prompt_id} did not finish within {timeout} s")

    def run(self, workflow, timeout=120):
        """Queue, wait, and return the history entry."""
        return self.wait(self.queue(workflow), timeout)

    def images(self, entry):
        """The pictures that a finished prompt saved or previewed, in the order of node ids, then of the batch."""
        outputs = sorted(entry["outputs"].items(), key=lambda item: (len(item[0]), item[0]))
        return [self.view(file) for _, output in outputs for file in output.get("images", [])]

    def view(self, file):
        """One picture by its {filename, subfolder, type}."""
        answer = self.get("/view", **file)
        answer.raise_for_status()
        return Image.open(io.BytesIO(answer.content)).convert("RGB")

    def upload(self, image, name):
        """Put a picture into ComfyUI's input folder; returns the name to give LoadImage."""
        data = io.BytesIO()
        image.save(data, "PNG")
        files = {"image": (name, data.getvalue(), "image/png")}
        answer = requests.post(self.url + "/upload/image", files=files, data={"overwrite": "true"}, timeout=60)
        answer.raise_for_status()
        return answer.json()["name"]

    def interrupt(self):
        self.post("/interrupt").raise_for_status()

    @contextmanager
    def events(self):
        """Collect what the server sends over the websocket while the block runs."""
        address = self.url.replace("http", "ws", 1) + f"/ws?clientId={self.client_id}"
        events = Events(websocket.create_connection(address, timeout=30))
        try:
            yield events
        finally:
            events.close()


class Events:
    """Messages of one websocket, read in the background: `messages` (JSON), `previews` (pictures) and `texts`.

    A text is (node id, what the node shows).
    """

    def __init__(self, socket):
        self.messages, self.previews, self.texts = [], [], []
        self._socket = socket
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def of(self, kind):
        """The data of every message of this kind so far, e.g. "progress" or "executed"."""
        return [message["data"] for message in list(self.messages) if message["type"] == kind]

    def wait_for(self, kind, timeout=60, accept=lambda data: True):
        """The first message of this kind that is accepted, waiting for it where it has not come yet."""
        with self._changed:
            self._changed.wait_for(lambda: any(map(accept, self.of(kind))) or self.of("execution_error"), timeout)
        found = list(filter(accept, self.of(kind)))
        if not found:
            seen = self.of("execution_error") or self.of(kind)
            raise TimeoutError(f"no accepted {kind!r} within {timeout} s; seen {seen[-1:]}")
        return found[0]

    def close(self):
        self._socket.close()
        self._thread.join(10)

    def _read(self):
        while True:
            try:
                frame = self._socket.recv()
            except websocket.WebSocketTimeoutException:
                continue
            except (websocket.WebSocketException, OSError):
                return
            if not frame:
                return
            with self._changed:
                self._keep(frame)
                self._changed.notify_all()

    def _keep(self, frame):
        if isinstance(frame, str):
            self.messages.append(json.loads(frame))
        elif int.from_bytes(frame[:4], "big") == 3:  # 3 = text: length of the node id, node id, text
            at = 8 + int.from_bytes(frame[4:8], "big")
            self.texts.append((frame[8:at].decode(), frame[at:].decode()))
        elif int.from_bytes(frame[:4], "big") == 1:  # 1 = preview image: kind, picture format, encoded picture
            self.previews.append(Image.open(io.BytesIO(frame[8:])).convert("RGB"))


def raise_for_status(entry):
    """Raise what a history entry reports: an interrupt, or the failing node with its own message and traceback."""
    if entry["status"]["status_str"] == "success":
        return
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_interrupted":
            raise Interrupted(f"interrupted in {data['node_type']}")
        if kind == "execution_error":
            trace = "".join(data["traceback"])
            raise ComfyError(f"{data['node_type']} ({data['node_id']}): {data['exception_message']}\n{trace}")
    raise ComfyError(f"the prompt failed: {entry['status']}")


def cached_nodes(entry):
    """Ids of the nodes that did not run because the server had their outputs cached."""
    return {node for kind, data in entry["status"]["messages"] if kind == "execution_cached" for node in data["nodes"]}
