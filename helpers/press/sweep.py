"""Run a notebook over a grid of parameters on Dask: resumable, one directory for each run, one table, one index.

OUT/NOTEBOOK/KEY/ holds the files of a run and `run.json`, which is written last and says how it ended. KEY is a digest
of all that its numbers come from, so that a run is done again when, and only when, one of these has changed.
"""

import asyncio
import fcntl
import hashlib
import importlib.util
import itertools
import json
import platform
import re
import shutil
import threading
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import distributed
import nbformat
import pandas as pd
import yaml

from helpers import workers
from helpers.files import digest, write_whole
from helpers.parameters import SCHEMAS, BadParameter, read, texts
from helpers.paths import ROOT, resolve
from helpers.press import pages, run
from helpers.press.report import PACKAGES, write_together
from helpers.press.run import Outcome, RunFailed

RECORD = "run.json"
# A value that ends in brackets, as c_attn[q, head 3] does: YAML would take it for two.
BRACKETED = re.compile(r"""(?:^|(?<=,))\s*([^\s,"'][^,"'[]*\[[^][]*\])(?=\s*(?:,|$))""")
_interrupted, _running = threading.Event(), set()  # the loops and tasks of the runs in this process


def grid(notebook, given, over):
    """Parameters of each run of a sweep, checked: `given`, with every combination of `over`, {name: values}.

    Raises BadParameter, also for a parameter that is in both.
    """
    if twice := given.keys() & over.keys():
        raise BadParameter(f"parameter {twice.pop()} is given and swept over: leave one of the two out")
    points = [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]
    checked = []
    for point in points:
        try:
            checked.append(run.check(notebook, given | point))
        except BadParameter as error:
            raise BadParameter(f"{', '.join(f'{k} = {v}' for k, v in point.items())}: {error}") from None
    return checked


def values(text, typed):
    """NAME=V1,V2,… as (name, values), in which a list is [DIR, DIR]. Raises BadParameter.

    A part of a module, as in `c_attn[q, head 3]`, is one value.

    typed: whether to `read` the values, as nothing else will; otherwise they are texts, for a schema to read.
    """
    name, _, listed = text.partition("=")
    listed = BRACKETED.sub(r'"\1"', listed)
    try:
        found = read(f"[{listed}]") if typed else texts(f"[{listed}]")
    except yaml.YAMLError:
        found = []
    except BadParameter as error:
        raise BadParameter(f"parameter {name}: {error}") from None
    if not found or not isinstance(found, list):
        raise BadParameter(f'--over is {text!r}: expected NAME=VALUE,VALUE,…, where a list is "[DIR, DIR]"')
    return name, found


def key(content, name, parameters):
    """Digest of what the numbers of a run come from: parameters, notebook, helpers, inputs, and versions.

    Of a file above 256 MB it takes parts (`files.digest`). All of data/ counts as input.
    """
    schema = SCHEMAS.get(name)
    whole = schema.parse(parameters) if schema else None
    paths = [getattr(whole, field) for field in schema.inputs] if schema else []
    paths = itertools.chain.from_iterable(path if isinstance(path, list) else [path] for path in paths if path)
    origin = {
        "notebook": [name, [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in content.cells]],
        "parameters": whole.model_dump() if schema else parameters,
        "helpers": [
            _hash(file)
            for file in sorted((ROOT / "helpers").rglob("*"))
            if file.suffix in (".py", ".toml", ".j2", ".css")
        ],
        "data": [_hash(file) for file in sorted((ROOT / "data").rglob("*")) if file.is_file()],
        "inputs": [_hash(file) for path in paths for file in _files(path)],
        "versions": [platform.python_version(), *map(version, PACKAGES)],
    }
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:16]


def sweep(notebook, parameters, out, *, scheduler=None, jobs=1, limit=None, progress=None):
    """Run a notebook with each of `parameters` (see `grid`); OUT/NOTEBOOK/ gets index.html, runs.csv and runs.parquet.

    Runs that are done are kept. Two sweeps into one directory take turns. scheduler: address of a Dask scheduler, whose
    workers have this repository; else a cluster in this process, of `jobs` kernels at once. limit: seconds for a run.
    progress: called with (done, all, record of the run that ended). Returns the records, as in `run.json`.
    """
    content, place = run.load(notebook), Path(out, Path(notebook).stem)
    progress = progress or (lambda *_: None)
    with _turn(place):
        wanted = {key(content, place.name, given): given for given in parameters}
        records = {name: record for name in wanted if (record := _record(place / name)) and not record["outcome"]}
        left = {name: given for name, given in wanted.items() if name not in records}
        progress(len(records), len(wanted), None)
        try:
            with workers.cluster(scheduler, max(1, min(jobs, len(left)))) as client:
                futures = _submit(client, nbformat.writes(content), place.name, left, limit)
                with _stopped_with(client, futures):
                    for future in distributed.as_completed(list(futures)):
                        name = futures.pop(future)
                        records[name] = _keep(place / name, left[name], future)
                        progress(len(records), len(wanted), records[name])
        finally:
            _summarise(place, content)
    return [records[name] for name in wanted]


def runs_in(place, content):
    """(record, claims) of each run in a sweep's directory that is of the notebook's, the helpers' and inputs' now."""
    found = sorted(filter(None, map(_record, place.iterdir())), key=_in_order)
    found = [record for record in found if _is_of_now(record, content, place.name)]
    return [(record, [] if record["outcome"] else _claims(place / record["key"])) for record in found]


def table(runs):
    """One row for each claim of each of `runs_in`, or for the failure of a run; tidy, as a DataFrame."""
    rows = []
    for record, claims in runs:
        known = {"run": record["key"], **record["parameters"], "outcome": str(Outcome(record["outcome"]))}
        known |= {"message": record["message"], "seconds": record["seconds"]}
        rows += [
            known | {"claim" if name == "name" else name: claim[name] for name in claim} for claim in claims or [{}]
        ]
    frame = pd.DataFrame(rows)
    for name in frame:  # a column of a parquet file has one type
        if len({*frame[name].dropna().map(type)}) > 1 or any(isinstance(value, list) for value in frame[name]):
            frame[name] = frame[name].map(json.dumps)
    return frame.convert_dtypes()


def _submit(client, text, name, left, limit):
    """{future: key} of runs. The task's own number keeps sweeps that share a scheduler from sharing its outcome."""
    return {
        client.submit(_attempt, text, name, given, limit, key=f"{name}-{known}-{uuid4().hex}", pure=False): known
        for known, given in left.items()
    }


@contextmanager
def _stopped_with(client, futures):
    """When the block is left by an error or an interrupt, stop the runs in this process and forget those elsewhere."""
    _interrupted.clear()
    try:
        yield
    except BaseException:
        _interrupted.set()
        client.cancel(list(futures))
        for loop, task in list(_running):
            loop.call_soon_threadsafe(task.cancel)
        raise


def _attempt(text, name, given, limit):
    """One run, on a worker: its files, how it ended, and its key. Raises nothing, so that Dask does not try again."""
    started, files = time.monotonic(), {}
    content, untouched = nbformat.reads(text, as_version=4), nbformat.reads(text, as_version=4)
    options = {"name": name, "limit": limit, "jobs": distributed.get_worker().state.nthreads}
    try:
        files = asyncio.run(_stoppable(run.produce(content, given, **options)))
        outcome, message = Outcome.DONE, ""
    except RunFailed as failure:
        outcome, message = failure.outcome, str(failure)
        files = {"failed.ipynb": nbformat.writes(failure.content)} if failure.content else {}
    except OSError as error:
        outcome, message = Outcome.NOT_WRITTEN, f"{name}: {error}"
    except asyncio.CancelledError:
        outcome, message = Outcome.INTERRUPTED, f"{name} was interrupted"
    seconds = round(time.monotonic() - started, 1)
    return files, {"outcome": outcome, "message": message, "seconds": seconds}, key(untouched, name, given)


async def _stoppable(produced):
    """Await a run in a thread, which cannot be interrupted, so that `_stopped_with` can stop its loop."""
    here = asyncio.get_running_loop(), asyncio.current_task()
    _running.add(here)
    try:
        if _interrupted.is_set():
            here[1].cancel()
        return await produced
    finally:
        _running.discard(here)


def _keep(place, given, future):
    """Write what a run left behind into its directory, the record last, and return the record."""
    try:
        files, record, origin = future.result()
    except Exception as error:  # Dask's: the workers died, or cannot run it
        message = f"its worker was lost ({type(error).__name__}: {error})"
        files, record, origin = {}, {"outcome": Outcome.DEAD_KERNEL, "message": message, "seconds": 0.0}, place.name
    if origin != place.name and not record["outcome"]:
        message = "helpers, inputs or versions changed while it ran, or its worker has others"
        files, record = {}, record | {"outcome": Outcome.UNREADABLE_FILE, "message": message}
    schema = SCHEMAS.get(place.parent.name)
    whole = schema.parse(given).model_dump(exclude={"results"}) if schema else given
    record = {"key": place.name, "given": given, "parameters": whole, **record, "outcome": int(record["outcome"])}
    for old in ("failed.ipynb", RECORD):
        (place / old).unlink(missing_ok=True)
    write_together(place, {**files, RECORD: json.dumps(record, indent=1) + "\n"})
    return record


def _record(place):
    """The record in a run's directory, or None where there is none or something is missing."""
    try:
        record = json.loads((place / RECORD).read_text())
        return record if record["outcome"] != Outcome.DONE or pages.read_result(place / run.RESULT) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_of_now(record, content, name):
    try:
        return key(content, name, record["given"]) == record["key"]
    except BadParameter:  # one that the schema has no more
        return False


def _in_order(record):
    """Sort key of a run: its parameters, numbers by size."""
    values = record["parameters"].values()
    return [(0, value, "") if isinstance(value, int | float) else (1, 0, json.dumps(value)) for value in values]


def _claims(place):
    return json.loads((place / run.RESULT).read_text())["claims"]


def _summarise(place, content):
    runs = runs_in(place, content)
    frame = table(runs)
    write_whole(place / "runs.csv", frame.to_csv(index=False))
    write_whole(place / "runs.parquet", frame.to_parquet(index=False))
    pages.write_sweep_index(place, runs)


def _files(path):
    """The files that an input parameter names; of `package.module:callable`, the sources of the package."""
    place = resolve(path)
    if not place.exists() and ":" in path:
        found = importlib.util.find_spec(path.partition(".")[0].partition(":")[0])
        if found and found.submodule_search_locations:
            return sorted(file for where in found.submodule_search_locations for file in Path(where).rglob("*.py"))
        return [Path(found.origin)] if found and found.origin else [place]
    # a model's config.json is read with its weights
    return sorted(filter(Path.is_file, place.iterdir())) if place.is_dir() else [place, place.with_name("config.json")]


def _hash(file):
    """[name, digest] of a file; None for one that is not there."""
    return [file.name, digest(file) if file.is_file() else None]


@contextmanager
def _turn(place):
    """Hold a sweep's directory alone; the operating system lets go of it when the process dies, however it does."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another sweep is at work in {place}; waiting for it to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for staged in place.glob("*/.new-*"):  # of a sweep that was killed while writing
            shutil.rmtree(staged)
        yield
