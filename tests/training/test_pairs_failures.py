"""The pair factory where devices die, weights change, and there are very many pairs."""

import json
import os
import shutil
import tracemalloc
from contextlib import suppress

import pytest
import torch

pytest.importorskip("pyarrow", reason="the factory keeps what it makes in Parquet files")

from killed_pairs import Embedder, Middle, Painter, config, content, models
from likeness.core.demo import MODEL, judges
from likeness.training.data import workers
from likeness.training.data.pairs import build, filters, fingerprints, plan, report, table
from likeness.training.data.pairs.models import Models, Names

OPEN = filters.Filters(dino=-1.0, clip=-1.0)


class Dying(Painter):
    """Draws so many times, and never again."""

    def __init__(self, calls):
        self.calls = calls

    def draw(self, prompts, keys, depth=None):
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError("the device is gone")
        return super().draw(prompts, keys, depth)


def dying(calls):
    return lambda: Models(Dying(calls), Embedder(), Embedder(), Middle())


def failed(out):
    parts = sorted((out / "work" / plan.CANDIDATES).glob("*.parquet"))
    return [row["number"] for part in parts for row in table.columns(part, ["number", "dropped"]) if row["dropped"]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    build.build(config(out, kind="generation"), models=models)
    return out


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A build whose device died within a part, but was mended before the next."""
    out = tmp_path_factory.mktemp("broken")
    with pytest.raises(ValueError, match="candidates 000001"):
        build.build(config(out, kind="generation"), models=dying(4))  # 3 batches of subjects, 1 of the first pairs
    build.build(config(out, kind="generation"), models=models)
    assert len(failed(out)) == 2
    return out


# --- a device that is gone


def test_a_part_that_fails_as_a_whole_stops_the_build_and_is_made_later(whole, tmp_path):
    said = r"candidates 000000: base model failed on all 4 of this part, last with 'RuntimeError: the device is gone'"
    with pytest.raises(ValueError, match=said):
        build.build(config(tmp_path, kind="generation"), models=dying(3))
    assert not (tmp_path / "work" / plan.CANDIDATES).exists() and not (tmp_path / report.JSON).exists()
    build.build(config(tmp_path, kind="generation"), models=models)
    assert content(tmp_path) == content(whole)
    with pytest.raises(ValueError, match=r"subjects 000001: base model failed on all 2 of this part"):
        build.build(config(tmp_path / "subjects"), models=dying(2))


def test_one_row_that_fails_alone_is_no_broken_device(tmp_path):
    class Picky(Painter):
        def draw(self, prompts, keys, depth=None):
            if "0 subject 4" in keys:
                raise RuntimeError("not this one")
            return super().draw(prompts, keys, depth)

    picky = Models(Picky(), Embedder(), Embedder(), Middle())
    told = build.build(config(tmp_path, subjects=5), models=lambda: picky)  # the fifth is alone in its part
    assert told["dropped"]["subject"]["base model failed"]["count"] == 1


# --- made again


def test_failed_pairs_are_made_again_on_demand(whole, broken, tmp_path):
    out = shutil.copytree(broken, tmp_path / "out")
    before = content(out)
    build.build(config(out, kind="generation"), models=lambda: pytest.fail("asked"))
    assert content(out) == before
    calls = Dying(99)
    again = Models(calls, Embedder(), Embedder(), Middle())
    build.build(config(out, kind="generation", retry_failed=True), models=lambda: again)
    assert content(out) == content(whole) and calls.calls == 97  # that part's two batches, no more
    build.build(config(out, kind="generation", retry_failed=True), models=lambda: pytest.fail("asked"))
    assert content(out) == content(whole)


def test_what_fails_again_leaves_the_part_as_it_was(broken, tmp_path):
    out = shutil.copytree(broken, tmp_path / "out")
    with pytest.raises(ValueError, match="candidates 000000: base model failed on all 4"):
        build.build(config(out, kind="generation", retry_failed=True), models=dying(0))
    assert len(failed(out)) == 2
    build.build(config(out, kind="generation"), models=lambda: pytest.fail("asked"))
    assert content(out) == content(broken)


@pytest.mark.parametrize("retry", [True, False])
def test_making_again_killed_at_any_file_it_goes_on(whole, broken, tmp_path, monkeypatch, retry):
    class Killed(BaseException):
        pass

    kills = 0
    while True:
        out, left = shutil.copytree(broken, tmp_path / str(kills)), [kills]

        def replace(source, target, real=os.replace, left=left):
            left[0] -= 1
            if left[0] == -1:
                raise Killed
            real(source, target)

        with monkeypatch.context() as patched, suppress(Killed):
            patched.setattr(os, "replace", replace)
            build.build(config(out, kind="generation", retry_failed=True), models=models)
        if left[0] >= 0:
            break
        kills += 1
        build.build(config(out, kind="generation", retry_failed=retry), models=models)
        # killed before the part was put into its place nothing has happened; later everything has
        assert content(out) == content(broken if kills == 1 and not retry else whole)
    assert kills == 11  # the part, its seconds, 1 + 3 of shards, 5 of the report


def test_failed_subjects_are_made_again_until_pairs_are_planned(whole, tmp_path):
    with pytest.raises(ValueError, match="subjects 000001"):
        build.build(config(tmp_path, kind="generation"), models=dying(1))
    out = shutil.copytree(tmp_path, tmp_path.with_name("other"))
    build.build(config(tmp_path, kind="generation", retry_failed=True), models=models)
    assert content(tmp_path) == content(whole)
    told = build.build(config(out, kind="generation"), models=models)
    assert told["dropped"]["subject"]["base model failed"]["count"] == 2
    before = content(out)
    build.build(config(out, kind="generation", retry_failed=True), models=lambda: pytest.fail("asked"))
    assert content(out) == before  # other subjects would be other pairs


# --- other weights


def test_a_hash_of_files(tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"12345678" * 4)
    first = fingerprints.of(file)
    assert fingerprints.of(shutil.copy(file, tmp_path / "b.safetensors")) == first  # wherever it lies
    file.write_bytes(b"12345678" * 3 + b"12345679")
    assert fingerprints.of(file) != first
    folder = shutil.copytree(MODEL, tmp_path / "model")
    first = fingerprints.of(folder)
    assert fingerprints.of(MODEL) == first
    (folder / "README.md").write_text("other words")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "a.json").write_text("{}")
    assert fingerprints.of(folder) == first
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    assert fingerprints.of(folder) != first


def test_little_of_a_large_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "_WHOLE", 0)
    file, header, total = tmp_path / "a.safetensors", 3 << 20, 64 << 20
    with file.open("wb") as opened:
        opened.write((header - 8).to_bytes(8, "little"))
        opened.truncate(total)  # zeros that take no room
    spans = fingerprints._spans(file, total)
    assert sum(length for _, length in spans) < 10 << 20
    seen = {fingerprints.of(file)}
    for place in (header - 9, header + 100, total // 2, total // 64 * 63, total - 1):
        with file.open("r+b") as opened:
            opened.seek(place)
            opened.write(b"x")
        seen.add(fingerprints.of(file))
    assert len(seen) == 6
    with file.open("r+b") as opened:
        opened.seek(total // 128 * 9)
        opened.write(b"x")
    assert fingerprints.of(file) in seen and fingerprints.of(file, whole=True) not in seen


def test_another_builds_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "refiner.safetensors").write_bytes(b"weights")
    clip = shutil.copytree(judges.JUDGES / "clip", tmp_path / "clip")
    names = Names(refiner=str(tmp_path / "refiner.safetensors"), view_generator="none", clip=str(clip))
    monkeypatch.setattr(Names, "models", lambda self, settings: models())
    out = tmp_path / "out"
    build.build(config(out, models=names))
    done = json.loads((out / "work" / plan.LIST / "done.json").read_text())
    assert set(done["weights"]) == {"base", "dino", "clip", "segmenter", "refiner"}
    before = content(out)
    (tmp_path / "refiner.safetensors").write_bytes(b"weighty")
    with pytest.raises(ValueError, match=r"out holds a build with other weights \(models.refiner\), whose files have"):
        build.build(config(out, models=names))
    (clip / "model.safetensors").write_bytes(b"retrained")
    with pytest.raises(ValueError, match=r"other weights \(models.clip, models.refiner\)"):
        build.build(config(out, models=names))
    assert content(out) == before
    (tmp_path / "refiner.safetensors").write_bytes(b"weights")
    shutil.copy(judges.JUDGES / "clip" / "model.safetensors", clip)
    build.build(config(out, models=names))
    assert content(out) == before


# --- very many pairs


def test_ray_is_given_some_parts_at_once(monkeypatch):
    pytest.importorskip("ray", reason="workers are Ray's: pip install 'ray[data]'")
    given = []
    monkeypatch.setattr(workers, "_TOGETHER", 3)
    monkeypatch.setattr(workers.Workers, "_start", lambda self: None)
    monkeypatch.setattr(workers.Workers, "_together", lambda self, make, some: given.append(some) or some)
    assert list(workers.Workers(2).each(None, range(8))) == list(range(8))
    assert given == [range(0, 3), range(3, 6), range(6, 8)]


def test_a_cluster_that_runs_here_is_joined_only_by_its_address(monkeypatch):
    ray = pytest.importorskip("ray")
    given = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **how: given.append(how))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    for address in (None, "10.0.0.1:6379"):
        with workers.Workers(2, address) as each:
            each._start()
    assert [how["address"] for how in given] == ["local", "10.0.0.1:6379"]
    assert given[0]["num_cpus"] == 2 and "num_cpus" not in given[1]  # which Ray refuses for a cluster that is there


def test_memory_of_many_scores_and_subjects(tmp_path, monkeypatch):
    count, width = 4000, 1536
    vectors = torch.randn(count, width).half()

    def columns(path, names):
        number = int(path.stem)
        row = {"number": number, "word": "cat", "dropped": "", "dino": None, "clip": number / count}
        return [row | {"vector": vectors[number].numpy().tobytes() if "vector" in names else b""}]

    monkeypatch.setattr(table, "columns", columns)
    tracemalloc.start()
    found = filters.Filters(dino=0.0).thresholds(tmp_path, count, {"dino": "x", "clip": "demo"})
    assert found == {"dino": 0.0, "clip": 0.2} and tracemalloc.get_traced_memory()[1] < 30 * count
    monkeypatch.setattr(plan, "repeats", lambda vectors, limit: {0: (1, 0.5)})
    tracemalloc.reset_peak()
    used, alike = plan.distinct(tmp_path, count, 0.9)
    assert len(used) == count - 1 and alike == [{"number": 0, "of": 1, "cosine": 0.5}]
    assert tracemalloc.get_traced_memory()[1] < 600 * count + 200_000  # not 2 * width of each
    tracemalloc.stop()


def test_vectors_of_a_class_are_its_own(whole, monkeypatch):
    seen = []
    monkeypatch.setattr(plan, "repeats", lambda vectors, limit: seen.append(vectors) or {})
    parts = [table.file(whole / "work" / plan.SUBJECTS, part) for part in range(2)]
    rows = [row for part in parts for row in table.columns(part, ["word", "vector"])]
    plan.distinct(whole / "work", 2, 0.9)
    for vectors, word in zip(seen, dict.fromkeys(row["word"] for row in rows), strict=True):
        own = b"".join(row["vector"] for row in rows if row["word"] == word)
        own = torch.frombuffer(bytearray(own), dtype=torch.half).float()
        assert torch.allclose(vectors.flatten(), own, atol=1e-3)


# --- what it costs


def test_planned_repeats_cost_nothing(tmp_path):
    told = build.build(config(tmp_path, subjects=2, pairs=60, prompts="everyday", filters=OPEN), models=models)
    repeats = told["dropped"]["pair"][plan.REPEATED]["count"]
    parts = [json.loads(file.read_text()) for file in (tmp_path / "work" / "seconds").glob("candidates-*.json")]
    assert sum(part["rows"] for part in parts) == 60 - repeats < 60
    seconds = sum(part["seconds"] for part in parts) / (60 - repeats)
    assert told["took"]["seconds a pair made"] == pytest.approx(seconds, abs=1e-4)
    for subject in (tmp_path / "work" / "seconds").glob("subjects-*.json"):
        seconds += json.loads(subject.read_text())["seconds"] / (60 - repeats)
    assert told["took"]["seconds a pair kept, with its subjects"] == pytest.approx(seconds, abs=1e-4)
