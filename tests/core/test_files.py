"""Learned files: what is written is read, and everything else is refused with a sentence."""

import json

import pytest
import torch
from likeness.core import files
from likeness.core.files import Header, LearnedFileError
from safetensors.torch import save_file

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}
HEADER = Header(kind="concept", base="sd1", word="cat", settings={"steps": 500, "lr": 0.01}, source="abc")


def test_round_trip(tmp_path):
    path = files.save(tmp_path / "new folder" / "x.safetensors", TENSORS, HEADER)
    tensors, header = files.load(path, kind="concept", base="sd1")
    assert header == HEADER and files.peek(path) == HEADER
    assert all(torch.equal(tensors[k], v) and tensors[k].dtype == v.dtype for k, v in TENSORS.items())


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = files.save(tmp_path / "x.safetensors", TENSORS, HEADER)
    before = path.read_bytes()
    monkeypatch.setattr(files.os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.save(path, {"a": torch.zeros(1)}, HEADER)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_wrong_files_are_refused_with_a_sentence(tmp_path):
    path = files.save(tmp_path / "x.safetensors", TENSORS, HEADER)
    with pytest.raises(LearnedFileError, match="holds a concept, but a adapter is needed"):
        files.load(path, kind="adapter")
    with pytest.raises(LearnedFileError, match="learned on sd1, but the model here is sdxl"):
        files.load(path, kind="concept", base="sdxl")
    with pytest.raises(FileNotFoundError, match=r"no file y\.safetensors"):
        files.peek(tmp_path / "y.safetensors")
    data = path.read_bytes()
    for cut in (4, 40, len(data) - 5):
        (tmp_path / "cut.safetensors").write_bytes(data[:cut])
        with pytest.raises(LearnedFileError, match="damaged or incomplete"):
            files.load(tmp_path / "cut.safetensors", kind="concept")
    save_file(TENSORS, tmp_path / "other.safetensors")
    with pytest.raises(LearnedFileError, match="not written by Likeness"):
        files.peek(tmp_path / "other.safetensors")
    metadata = {"format": "likeness", "header": json.dumps({"kind": "concept", "version": 99})}
    save_file(TENSORS, tmp_path / "newer.safetensors", metadata)
    with pytest.raises(LearnedFileError, match="format 99"):
        files.peek(tmp_path / "newer.safetensors")


def test_fingerprint_knows_values_names_and_types():
    same = files.fingerprint({k: TENSORS[k].clone() for k in ("b", "a")})
    assert files.fingerprint(TENSORS) == same
    for other in (
        {**TENSORS, "a": TENSORS["a"] + 1},
        {**TENSORS, "c": torch.zeros(1)},
        {**TENSORS, "a": TENSORS["a"].half()},
    ):
        assert files.fingerprint(other) != same
