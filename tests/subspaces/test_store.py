"""What an atlas keeps, and what it does where runs, workers and files come and go; processes where these matter."""

import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import dask
import distributed
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from helpers import files, parameters, subspaces, workers
from helpers.parameters import BadParameter
from helpers.paths import ROOT
from helpers.subspaces import store as stores
from helpers.subspaces.atlas import client, mapped
from helpers.subspaces.store import Store
from tests.subspaces.test_atlas import name, random_factors, write_base, write_lora

D, LAYERS = 24, 6
ADAPTERS = ("r2", "r5")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    rng, place = np.random.default_rng(3), tmp_path_factory.mktemp("kept")
    weights = {name(n, kind): rng.standard_normal((D, D)).astype("f") for n in range(LAYERS) for kind in "qv"}
    write_base(place / "base", weights)
    for rank in (2, 5):
        write_lora(place / f"r{rank}", random_factors(rng, weights, rank))
    return place


def surveyed(place, **asked):
    return subspaces.atlas(place / "base", [place / each for each in ADAPTERS], **{"i": 5, **asked})


@pytest.fixture(scope="module")
def undisturbed(model):
    return surveyed(model)


def same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def kept(store):
    return {file.name: file.stat().st_mtime_ns for file in Path(store).glob("*.parquet")}


def alike(one, other):
    """Whether two values are of the same types and hold the same bits, however deep."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, np.ndarray | np.generic):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return np.float64(one).tobytes() == np.float64(other).tobytes() if isinstance(one, float) else one == other


EVERYTHING = {
    "numbers": [0, -1, 2**63 - 1, True, False, 1.0, -0.0, 5e-324, math.inf, -math.inf, math.nan, 0.1, None],
    "of NumPy": (np.float64(0.1), np.float32(0.1), np.float16(np.nan), np.int8(-3), np.uint64(2**64 - 1), np.True_),
    "texts": ["", "φ ≥ 1\n", "a\0b\0", np.str_("ΔW")],
    "empty": [np.zeros(0), np.zeros((0, 3), "f"), np.zeros((2, 0), bool)],
    "arrays": [np.array(2.5), np.arange(24.0).reshape(2, 3, 4).T, np.arange(3) > 1, np.array([[np.nan, -0.0]])],
    "more": (np.array(["q", "ΔW"]), np.array([2**64 - 1], np.uint64), np.arange(4, dtype=">i2")),
    "": {"deep": [[(), [], {}, {"a": ((1,),)}]]},
}


@pytest.mark.parametrize("value", [EVERYTHING, [], (), {}, 1, 1.5, "a", np.arange(3), None])
def test_what_is_kept_comes_back_bit_for_bit(value, tmp_path):
    Store(tmp_path, {}).write("this", [value])
    store = Store(tmp_path, {})
    assert alike(store.read("this"), [value])
    assert store.read("that") is None and store.notes == []


@pytest.mark.parametrize(
    "value",
    [object(), 1j, 2**63, np.zeros(1, np.longdouble), np.array([None]), namedtuple("Pair", "a b")(1, 2), {1: 2}, b"a"],
    ids=lambda value: type(value).__name__,
)
def test_what_could_not_come_back_so_is_not_kept(value, tmp_path):
    with pytest.raises(TypeError):
        Store(tmp_path, {}).write("this", [value])
    assert kept(tmp_path) == {}


def test_another_run_takes_everything_from_the_store(model, undisturbed, tmp_path):
    seen = []
    same(surveyed(model, store=tmp_path / "store"), undisturbed)
    before = kept(tmp_path / "store")
    assert len(before) == 2 * LAYERS + 2
    same(surveyed(model, store=tmp_path / "store", progress=lambda *told: seen.append(told)), undisturbed)
    assert seen == [(12, 12)] and kept(tmp_path / "store") == before
    given = {
        "base": str(model / "base"),
        "adapters": [str(model / each) for each in ADAPTERS],
        "i": 5,
        "beside_base": "",
    }
    given |= {"beside_adapters": [], "tested": [name(0)], "store": str(tmp_path / "store")}
    first, second = (subspaces.ModelAtlas(parameters.ModelAtlas.parse(given)) for _ in range(2))
    same(first.rows, undisturbed)
    assert first.notes == [] and len(kept(tmp_path / "store")) == len(before)
    same(second.tested, first.tested)
    assert len(kept(tmp_path / "store")) == len(before) + 2
    assert list(second.details) == list(first.details)
    assert all(map(alike, map(tuple, second.details.values()), map(tuple, first.details.values())))


def test_what_numbers_depend_on_is_measured_anew_and_nothing_else(model, tmp_path, monkeypatch):
    place = tmp_path / "one"
    shutil.copytree(model, place)
    store = tmp_path / "store"

    def new(where=place, **asked):
        before = kept(store)
        with pytest.warns() if asked.pop("warned", False) else contextlib.nullcontext():
            surveyed(where, modules=name(0), store=store, **asked)
        after = kept(store)
        assert before.items() <= after.items()
        return len(after) - len(before)

    assert new() == 3 and new() == 0
    shutil.copytree(place, tmp_path / "two")
    (tmp_path / "two" / "base" / "README.md").write_text("moved", encoding="utf-8")
    os.utime(tmp_path / "two" / "r2" / "adapter_config.json", (1, 1))
    assert new(tmp_path / "two") == 0
    assert new(i=4, warned=False) == 1 and new(j=1) == 1 and new(seed=1) == 2
    for file in ("r5/adapter_model.safetensors", "base/model.safetensors"):
        content = bytearray((place / file).read_bytes())
        content[-3] ^= 1
        (place / file).write_bytes(content)
        assert new() == 1 and new() == 0
    config = json.loads((place / "r2" / "adapter_config.json").read_text(encoding="utf-8"))
    (place / "r2" / "adapter_config.json").write_text(json.dumps(config | {"note": "other"}), encoding="utf-8")
    assert new() == 1
    monkeypatch.setitem(workers.VERSION, "sources", "others")
    assert new(warned=True) == 3
    monkeypatch.setitem(workers.VERSION, "scipy", "0")
    assert new(warned=True) == 3 and new() == 0


def test_sources_of_the_numbers_count_and_those_of_pages_do_not(tmp_path):
    place = tmp_path / "helpers"
    shutil.copytree(ROOT / "helpers", place)
    seen = [workers.sources(place)]
    assert seen == [workers.VERSION["sources"]]
    for file in ("show/atlas.py", "press/page/report.css", "press/run.py", "digits/study.py", "weights/README.md"):
        (place / file).write_text("", encoding="utf-8")
    assert workers.sources(place) == seen[0]
    for file in ("subspaces/chance.py", "weights/formats/peft.py", "weights/architectures.toml"):
        (place / file).write_text((place / file).read_text(encoding="utf-8") + "\n", encoding="utf-8")
        seen.append(workers.sources(place))
    (place / "subspaces" / "chance.py").rename(place / "subspaces" / "chances.py")
    assert len({*seen, workers.sources(place)}) == 5


def test_a_large_file_is_known_by_its_header_both_ends_and_blocks_between(tmp_path, monkeypatch):
    for name_of, value in {"HASHED_UP_TO": 4096, "END": 64, "BLOCK": 8, "BLOCKS": 16}.items():
        monkeypatch.setattr(files, name_of, value)
    file = tmp_path / "model.safetensors"
    plain = bytearray((500).to_bytes(8, "little") + bytes(9_492))
    header = list(range(8, 508))

    def digest(content):
        file.write_bytes(content)
        os.utime(file, ns=(1, digest.time))
        digest.time += 1
        return files.digest(file)

    digest.time = 1

    def changed(place):
        return digest(plain[:place] + b"\1" + plain[place + 1 :]) != digest(plain)

    assert all(map(changed, [*header[::50], header[-1], 520, 9_990, 9_999])) and digest(plain + b"\0") != digest(plain)
    assert not changed(700)
    for start in range(800, 9_000, 1_000):  # whatever fills a sixteenth of it is seen
        assert digest(plain[:start] + bytes([1]) * 640 + plain[start + 640 :]) != digest(plain)
    other = tmp_path / "model.gguf"
    other.write_bytes(plain[:100] + b"\1" + plain[101:])
    content = files.digest(other)
    other.write_bytes(plain)
    os.utime(other, (5, 5))
    assert files.digest(other) == content


def test_a_file_is_read_once_while_it_stays(model, tmp_path, monkeypatch):
    read, place = [], tmp_path / "model"
    shutil.copytree(model, place)
    monkeypatch.setattr(files, "file_hash", lambda file: read.append(file.name) or "0" * 64)
    for _ in range(2):
        surveyed(place, store=tmp_path / "store")
    assert sorted(read) == ["adapter_config.json"] * 2 + ["adapter_model.safetensors"] * 2 + ["model.safetensors"]


def other_columns(file):
    parquet.write_table(pa.table({"a": [1]}), file)


def of_another(file):
    shutil.copy(next(each for each in file.parent.glob("*.parquet") if each != file), file)


def row_less(file):
    table = parquet.read_table(file)
    parquet.write_table(table.slice(0, len(table) - 1), file)


def row_more(file):
    table = parquet.read_table(file)
    parquet.write_table(pa.concat_tables([table, table.slice(0, 1)]), file)


DAMAGES = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: os.truncate(file, 0),
    "text": lambda file: file.write_text("no parquet", encoding="utf-8"),
    "a directory": lambda file: (file.unlink(), file.mkdir()),
}
DAMAGES |= {each.__name__: each for each in (other_columns, of_another, row_less, row_more)}


def test_damaged_files_are_named_and_measured_anew(model, undisturbed, tmp_path):
    store = tmp_path / "store"
    surveyed(model, store=store)
    whole = sorted(store.glob("*.parquet"))
    for damage, file in zip(DAMAGES.values(), whole, strict=False):
        damage(file)
    with pytest.warns() as told:
        same(surveyed(model, store=store), undisturbed)
    told = [str(each.message) for each in told]
    for damage, file in zip(DAMAGES, whole, strict=False):
        (note,) = (each for each in told if f"{file} is damaged (" in each)
        assert note.endswith("so that its numbers were computed anew") and "\n" not in note, damage
    assert [
        each for each in told if "damaged" not in each and not each.startswith("not everything could be kept")
    ] == []
    whole[list(DAMAGES).index("a directory")].rmdir()
    same(surveyed(model, store=store), undisturbed)
    same(surveyed(model, store=store), undisturbed)


def test_whatever_bit_is_turned_nothing_else_comes_out(tmp_path):
    value = [({"phi": 0.25, "i": 5, "why": "a"}, {"grid": np.arange(6.0).reshape(2, 3)}), None]
    rng = np.random.default_rng(0)
    Store(tmp_path, {}).write("this", value)
    (file,) = tmp_path.glob("*.parquet")
    content, found, store = file.read_bytes(), [], Store(tmp_path, {})
    for place in rng.choice(len(content), 400, replace=False):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.integers(8)]) + content[place + 1 :])
        found.append(store.read("this"))
    assert found == [None] * 400 and len(store.notes) == 400
    file.write_bytes(content)
    assert alike(store.read("this"), value)


def test_a_store_that_cannot_be_one_is_refused_before_anything_is_computed(model, tmp_path, monkeypatch):
    def computed(*_):
        raise AssertionError

    monkeypatch.setattr(workers, "results", computed)
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/store"):
        with pytest.raises(BadParameter, match="no directory that can be written") as refusal:
            surveyed(model, store=place)
        assert "\n" not in str(refusal.value) and str(place) in str(refusal.value)
        given = {"base": str(model / "base"), "adapters": [str(model / "r2")], "store": str(place)}
        with pytest.raises(BadParameter, match="no directory"):
            subspaces.ModelAtlas(parameters.ModelAtlas.parse(given | {"beside_base": "", "beside_adapters": []}))


def test_a_full_disk_costs_no_result(model, undisturbed, tmp_path, monkeypatch):
    real = stores.write_whole

    def full(path, content):
        if path.suffix == ".parquet":
            raise OSError("no space left")
        real(path, content)

    monkeypatch.setattr(stores, "write_whole", full)
    with pytest.warns(
        match=r"not everything could be kept in .* \(no space left\): another run computes it anew"
    ) as told:
        same(surveyed(model, store=tmp_path / "store"), undisturbed)
    assert len(told) == 1


def test_a_store_of_other_inputs_is_named_and_left_as_it_is(model, undisturbed, tmp_path, rng):
    store = tmp_path / "store"
    surveyed(model, store=store, i=3, modules=name(0), seed=9)
    before = kept(store)
    with pytest.warns(match=r"the 3 results in .*store are of other inputs, settings or versions, so that everything"):
        same(surveyed(model, store=store), undisturbed)
    assert before.items() < kept(store).items()


def test_files_that_change_under_way_are_not_kept_under_an_old_name(model, tmp_path):
    place = tmp_path / "changing"
    shutil.copytree(model, place)

    def progress(done, _):
        if done == 3:
            (place / "r2" / "adapter_config.json").write_text(
                (place / "r2" / "adapter_config.json").read_text(encoding="utf-8") + "\n", encoding="utf-8"
            )

    with pytest.raises(BadParameter, match="changed while they were read: run again"):
        surveyed(place, store=tmp_path / "store", progress=progress)
    assert len(kept(tmp_path / "store")) == 3


RUN = """
import sys, time
from helpers import subspaces
place, store = sys.argv[1:]
adapters = [f"{place}/{each}" for each in ("r2", "r5")]
subspaces.atlas(f"{place}/base", adapters, i=5, store=store, progress=lambda *_: time.sleep(0.1))
"""


def started(model, store):
    """A run in a process of its own, that takes a while."""
    return subprocess.Popen([sys.executable, "-c", RUN, model, store], cwd=ROOT, env={**os.environ, "PYTHONPATH": ROOT})


def wait_until(told, process):
    while not told():
        assert process.poll() is None
        time.sleep(0.01)


def test_a_run_that_was_killed_goes_on_where_it_was(model, undisturbed, tmp_path):
    store, moment = tmp_path / "store", random.Random()
    child, many = started(model, store), moment.randint(1, 4)  # of 12: a slow machine kills late
    wait_until(lambda: len(kept(store)) >= many, child)
    time.sleep(moment.uniform(0, 0.1))
    child.kill()
    child.wait()
    before, seen = kept(store), []
    assert many <= len(before) < 2 * LAYERS
    same(surveyed(model, store=store, progress=lambda *told: seen.append(told)), undisturbed)
    assert seen == [(done, 12) for done in range(len(before), 13)]
    assert before.items() < kept(store).items() and len(kept(store)) == 2 * LAYERS + 2


def test_two_runs_into_one_store_do_no_harm(model, undisturbed, tmp_path):
    store = tmp_path / "store"
    other = started(model, store)
    wait_until(lambda: kept(store), other)
    same(surveyed(model, store=store, progress=lambda *_: time.sleep(0.01)), undisturbed)
    assert other.wait() == 0
    before, seen = kept(store), []
    same(surveyed(model, store=store, progress=lambda *told: seen.append(told)), undisturbed)
    assert seen == [(12, 12)] and kept(store) == before and len(before) == 2 * LAYERS + 2
    assert not list(store.glob(".*"))


class Cluster:
    """A Dask scheduler that does not have this package, and workers, in processes of their own.

    protocol: tcp or tls; tls: settings of Dask's, distributed.comm.tls.*.
    """

    def __init__(self, place, protocol="tcp", tls=()):
        self.place, self.file, self.workers = place, place / "scheduler.json", []
        settings = yaml.safe_dump({"distributed": {"comm": {"tls": dict(tls)}}})
        (place / "distributed.yaml").write_text(settings, encoding="utf-8")
        self.lacking = place / "lacking"
        (self.lacking / "helpers").mkdir(parents=True)
        (self.lacking / "helpers" / "__init__.py").write_text("raise ImportError('none here')", encoding="utf-8")
        self.scheduler = self._start(self.lacking, "scheduler", "--port", "0", "--protocol", protocol)
        wait_until(lambda: self.file.exists() and self.file.read_text(encoding="utf-8").endswith("}"), self.scheduler)
        self.address = json.loads(self.file.read_text(encoding="utf-8"))["address"]

    def _start(self, where, kind, *words):
        words = ["-m", "dask", kind, "--scheduler-file", self.file, "--no-dashboard", *words]
        more = {
            "PYTHONPATH": str(where),
            "DASK_CONFIG": str(self.place),
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0",
        }  # no task waits there
        options = {"env": {**os.environ, **more}, "cwd": self.place, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, *words], **options)

    def have(self, many, place=ROOT):
        """See to it that so many workers are there, which find their packages at a place."""
        fit = [each for each in self.workers if each.poll() is None and each.place == place]
        for worker in {*self.workers} - {*fit[:many]}:
            self.kill(worker)
        while len(self.workers) < many:
            self.workers.append(self._start(place, "worker", "--nthreads", "1", "--no-nanny"))
            self.workers[-1].place = place
        with distributed.Client(self.address) as at:
            at.wait_for_workers(many, timeout=60)
            while len(found := list(at.nthreads())) > many:
                time.sleep(0.01)
        return found

    def kill(self, worker):
        worker.kill()
        worker.wait()
        self.workers.remove(worker)

    def close(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with contextlib.closing(Cluster(tmp_path_factory.mktemp("cluster"))) as found:
        yield found


def test_of_a_killed_worker_the_tasks_run_elsewhere(cluster, model, undisturbed, tmp_path):
    moment = random.Random().randint(1, 8)
    cluster.have(2)

    def progress(done, _):
        if done == moment:
            cluster.kill(random.choice(cluster.workers))

    same(surveyed(model, scheduler=cluster.address, store=tmp_path, progress=progress), undisturbed)
    assert len(cluster.workers) == 1 and len(kept(tmp_path)) == 2 * LAYERS + 2


def test_a_task_that_kills_its_workers_is_told_of_and_the_rest_goes_on(cluster):
    cluster.have(3)
    with client(cluster.address, 3) as at:
        at.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 0))
        with pytest.raises(BadParameter, match="9: all 1 workers that had it died"):
            mapped(at, signal.raise_signal, [9], lambda *_: None)
        tasks = [0, 0, 0, 0, 9, 0, 0, 0]
        found = mapped(at, signal.raise_signal, tasks, lambda *_: None, lost=lambda task, why: (task, why))
        at.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 3))
    told = 9, "all 1 workers that had it died, as where memory is short"
    assert found == [told if task else None for task in tasks]


def test_without_workers_it_ends_and_keeps_what_is_done(cluster, model, undisturbed, tmp_path, monkeypatch):
    cluster.have(1)

    def progress(done, _):
        if done == 3:
            cluster.kill(*cluster.workers)

    seen = []
    monkeypatch.setattr(workers, "PATIENCE", 1)
    for more in ({"store": tmp_path, "progress": progress}, {}):  # lost under way, and none to begin with
        with pytest.raises(
            BadParameter, match=f"{cluster.address} has had no worker for 1 s: start one, and run again"
        ):
            surveyed(model, scheduler=cluster.address, **more)
    assert len(kept(tmp_path)) >= 3
    same(surveyed(model, store=tmp_path, progress=lambda *told: seen.append(told)), undisturbed)
    assert seen[0][0] >= 3


def test_workers_without_this_version_are_named(cluster, model, tmp_path):
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers")
    with (tmp_path / "helpers" / "subspaces" / "chance.py").open("a", encoding="utf-8") as file:
        file.write("\n")
    for place, words in ((cluster.lacking, r"does not have this package \(none here\)"), (tmp_path, "has another ver")):
        (address,) = cluster.have(1, place)
        with pytest.raises(BadParameter, match=f"the Dask worker at {address} {words}.*; make it the same, or stop"):
            surveyed(model, scheduler=cluster.address)


def test_a_module_whose_workers_died_is_a_row_with_its_reason(model, undisturbed, tmp_path, monkeypatch):
    lost, real = workers.Lost("all 4 workers died"), workers.results

    def results(at, function, tasks):
        for n, found in real(at, function, tasks):
            yield n, lost if getattr(tasks[n], "module", "") == name(2) else found

    monkeypatch.setattr(workers, "results", results)
    rows = surveyed(model, store=tmp_path)
    without = rows["module"] == name(2)
    assert rows[without]["why"].eq(lost.why).all() and rows[without]["norm"].isna().all()
    columns = [column for column in rows if "holm" not in column and "rank" not in column]
    rest = (each.loc[~without, columns] for each in (rows, undisturbed))
    pd.testing.assert_frame_equal(*rest, check_exact=True, check_dtype=False)  # of `whole`, which one row lacks
    monkeypatch.undo()
    before = kept(tmp_path)
    same(surveyed(model, store=tmp_path), undisturbed)
    assert before.items() < kept(tmp_path).items()


def certified(place, name):
    """A key and a certificate of an authority of that name, and those of a node that it signed, as Dask's settings."""
    new = ["-newkey", "rsa:2048", "-nodes", "-subj"]
    signed = ["-CA", f"{name}.pem", "-CAkey", f"{name}.key", "-CAcreateserial"]
    for words in (
        ["req", "-x509", *new, f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"],
        ["req", *new, "/CN=node", "-keyout", "node.key", "-out", "node.csr"],
        ["x509", "-req", "-in", "node.csr", *signed, "-out", "node.pem"],
    ):
        subprocess.run(["openssl", *words], cwd=place, check=True, capture_output=True)
    own = {"cert": str(place / "node.pem"), "key": str(place / "node.key")}
    return {"ca-file": str(place / f"{name}.pem"), "client": own, "scheduler": own, "worker": own}


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    """A cluster with certificates; `tls`: their settings."""
    tls = certified(tmp_path_factory.mktemp("certificates"), "authority")
    with contextlib.closing(Cluster(tmp_path_factory.mktemp("encrypted"), "tls", tls)) as found:
        found.tls = tls
        yield found


def with_certificates(tls):
    return dask.config.set({f"distributed.comm.tls.{name}": value for name, value in tls.items()})


def test_with_certificates_work_is_done_over_tls(encrypted, model, undisturbed):
    assert encrypted.address.startswith("tls://")
    with with_certificates(encrypted.tls):
        (address,) = encrypted.have(1)
        assert address.startswith("tls://")
        same(surveyed(model, scheduler=encrypted.address), undisturbed)


def test_threads_of_this_process_need_no_certificates(model, undisturbed):
    with dask.config.set({"distributed.comm.require-encryption": True}):
        same(surveyed(model), undisturbed)


def test_without_the_right_certificates_it_ends_at_once_in_one_sentence(cluster, encrypted, tmp_path):
    other, tls, started = certified(tmp_path, "other"), encrypted.tls, time.monotonic()
    needed = "its certificates are ca-file, client.cert and client.key under distributed.comm.tls"
    for address, given, words in (
        (encrypted.address, {}, needed),
        (encrypted.address, {"ca-file": tls["ca-file"]}, needed),
        (encrypted.address, {**tls, "ca-file": str(tmp_path / "none.pem")}, f"No such file or directory.*{needed}"),
        (encrypted.address, {**tls, "ca-file": other["ca-file"]}, f"certificate does not match.*{needed}"),
        (encrypted.address, {**tls, "client": other["client"]}, needed),
        (encrypted.address.replace("tls", "tcp"), tls, "one that has certificates answers at tls:// only"),
        (cluster.address.replace("tcp", "tls"), tls, needed),
    ):
        with with_certificates(given), pytest.raises(BadParameter, match=words) as refusal:
            next(workers.cluster(address, 0).gen)
        assert str(refusal.value).startswith(f"no Dask scheduler answers at '{address}' (")
        assert "\n" not in str(refusal.value)
    assert time.monotonic() - started < 15 and "IO loop" not in {thread.name for thread in threading.enumerate()}
