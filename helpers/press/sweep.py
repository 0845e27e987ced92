"""Run a notebook over a grid of parameters, here or on Dask: resumable, a directory a run, one table, one index.

OUT/NOTEBOOK/KEY/ holds the files of a run and `run.json`, which is written last and says how it ended. KEY is a digest
of all that its numbers come from, so that a run that is done is done again only when one of these has changed.
"""

import asyncio
import hashlib
import itertools
import json
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path

import distributed
import nbformat
import pandas as pd
import yaml

from helpers import workers
from helpers.files import digest, turn, write_together, write_whole
from helpers.parameters import SCHEMAS, BadParameter, read, texts
from helpers.paths import ROOT, resolve, spec_from_here
from helpers.press import pages, run
from helpers.press.kernel import Outcome, RunFailed
from helpers.press.provenance import PACKAGES
from helpers.press.results import RESULT, read_result

RECORD = "run.json"
NUMBERS = (".py", ".toml")  # files of helpers/ that numbers depend on; a page's style is none
# A value that ends in brackets, as c_attn[q, head 3] does: YAML would take it for two.
BRACKETED = re.compile(r"""(?:^|(?<=,))\s*([^\s,"'][^,"'[]*\[[^][]*\])(?=\s*(?:,|$))""")


def grid(notebook, given, over):
    """Parameters of each run of a sweep, checked: `given`, with every combination of `over`, {name: values}.

    Raises BadParameter, also for a parameter that is in both.
    """
    if twice := given.keys() & over.keys():
        raise BadParameter(f"parameter {twice.pop()} is given and swept over: leave one of the two out")
    points = [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]
    content, checked = run.load(notebook), []
    for point in points:
        try:
            checked.append(run.check(Path(notebook).stem, given | point, content))
        except BadParameter as error:
            raise BadParameter(f"{', '.join(f'{k} = {v}' for k, v in point.items())}: {error}") from None
    return checked


def values(text, typed):
    """NAME=V1,V2,… as (name, values); a list is [DIR, DIR], a part `c_attn[q, head 3]` one value. Raises BadParameter.

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
    """Digest of what the numbers of a run come from: parameters, notebook, helpers, inputs (all of data/), versions."""
    schema = SCHEMAS.get(name)
    whole = schema.parse(parameters) if schema else None
    paths = [getattr(whole, field) for field in schema.inputs] if schema else []
    paths = itertools.chain.from_iterable(path if isinstance(path, list) else [path] for path in paths if path)
    origin = {
        "notebook": [name, [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in content.cells]],
        "parameters": whole.model_dump() if schema else parameters,
        "helpers": [_hash(file) for file in _files_in("helpers") if file.suffix in NUMBERS],
        "data": [_hash(file) for file in _files_in("data")],
        "inputs": [_hash(file) for path in paths for file in _files(path)],
        "versions": [platform.python_version(), *map(version, PACKAGES)],
    }
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:16]


def sweep(notebook, parameters, out, *, scheduler=None, jobs=1, limit=None, progress=lambda *_: None):
    """Run a notebook with each of `parameters` (see `grid`); OUT/NOTEBOOK/ gets index.html, runs.csv and runs.parquet.

    Runs that are done are kept. Two sweeps into one directory take turns. scheduler: address of a Dask scheduler, whose
    workers have this repository; else there are `jobs` kernels at once here. limit: seconds for a run. progress: called
    with (done, all, record of the run that ended). Returns the records, as in `run.json`.
    """
    content, place = run.load(notebook), Path(out, Path(notebook).stem)
    with turn(place, f"another sweep is at work in {place}; waiting for it to end"):
        wanted = {key(content, place.name, given): given for given in parameters}
        records = {name: record for name in wanted if (record := _record(place / name)) and not record["outcome"]}
        left = {name: given for name, given in wanted.items() if name not in records}
        progress(len(records), len(wanted), None)

        def keep(name, found):
            records[name] = _keep(place / name, left[name], *found)
            progress(len(records), len(wanted), records[name])

        tasks = {name: (nbformat.writes(content), place.name, given, limit) for name, given in left.items()}
        try:
            (_elsewhere if scheduler else _here)(tasks, scheduler or jobs, keep)
        finally:
            runs = runs_in(place, content)
            frame = table(runs)
            write_whole(place / "runs.csv", frame.to_csv(index=False))
            write_whole(place / "runs.parquet", frame.to_parquet(index=False))
            pages.write_sweep_index(place, runs)
    return [records[name] for name in wanted]


def runs_in(place, content):
    """(record, claims) of each run in a sweep's directory that is of the notebook's, the helpers' and inputs' now."""
    records = [
        record for each in place.iterdir() if (record := _record(each)) and _is_of_now(record, content, place.name)
    ]
    return [
        (record, [] if record["outcome"] else read_result(place / record["key"] / RESULT)["claims"])
        for record in sorted(records, key=_in_order)
    ]


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


def _here(tasks, jobs, keep):
    async def one(name, task):
        keep(name, await _attempt(*task, min(jobs, len(tasks))))

    run.wait(run.at_once(one, tasks.items(), jobs))


def _elsewhere(tasks, scheduler, keep):
    names = [*tasks]
    with workers.cluster(scheduler, 1) as client:
        for n, found in workers.results(client, _on_worker, [*tasks.values()]):
            if isinstance(found, workers.Lost):
                message = f"its worker was lost ({found.why})"
                found = {}, {"outcome": Outcome.DEAD_KERNEL, "message": message, "seconds": 0.0}, names[n]
            keep(names[n], found)


def _on_worker(task):
    return asyncio.run(_attempt(*task, distributed.get_worker().state.nthreads))


async def _attempt(text, name, given, limit, jobs):
    """One run: its files, how it ended, and its key now."""
    started, content = time.monotonic(), nbformat.reads(text, as_version=4)
    outcome, message = Outcome.DONE, ""
    try:
        files = await run.produce(content, given, name=name, limit=limit, jobs=jobs)
    except RunFailed as failure:
        if failure.outcome is Outcome.INTERRUPTED:
            raise asyncio.CancelledError(str(failure)) from None
        outcome, message = failure.outcome, str(failure)
        files = {run.FAILED: nbformat.writes(failure.content)} if failure.content else {}
    record = {"outcome": outcome, "message": message, "seconds": round(time.monotonic() - started, 1)}
    return files, record, key(nbformat.reads(text, as_version=4), name, given)


def _keep(place, given, files, record, origin):
    """Write what a run left behind into its directory, the record last, and return the record."""
    if origin != place.name and not record["outcome"]:
        message = "helpers, inputs or versions changed while it ran, or its worker has others"
        files, record = {}, record | {"outcome": Outcome.UNREADABLE_FILE, "message": message}
    schema = SCHEMAS.get(place.parent.name)
    whole = schema.parse(given).model_dump(exclude={"results"}) if schema else given
    record = {"key": place.name, "given": given, "parameters": whole, **record, "outcome": int(record["outcome"])}
    for old in (run.FAILED, RECORD):
        (place / old).unlink(missing_ok=True)
    write_together(place, {**files, RECORD: json.dumps(record, indent=1) + "\n"})
    return record


def _record(place):
    """The record in a run's directory, or None where there is none or something is missing."""
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        return record if record["outcome"] != Outcome.DONE or read_result(place / RESULT) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_of_now(record, content, name):
    try:
        return key(content, name, record["given"]) == record["key"]
    except (BadParameter, KeyError):  # one that the schema has no more; a record of something else
        return False


def _in_order(record):
    """Sort key of a run: its parameters, numbers by size."""
    values = record["parameters"].values()
    return [(0, value, "") if isinstance(value, int | float) else (1, 0, json.dumps(value)) for value in values]


def _files(path):
    """The files that an input parameter names; of `package.module:callable`, the sources of the package."""
    place, package = resolve(path), path.partition(":")[0].partition(".")[0]
    if not place.exists() and ":" in path and package.isidentifier():
        found = spec_from_here(package)
        if found and found.submodule_search_locations:
            return sorted(file for where in found.submodule_search_locations for file in Path(where).rglob("*.py"))
        return [Path(found.origin)] if found and found.origin else [place]
    # a model's config.json is read with its weights
    return sorted(filter(Path.is_file, place.iterdir())) if place.is_dir() else [place, place.with_name("config.json")]


def _files_in(folder):
    return sorted(filter(Path.is_file, (ROOT / folder).rglob("*")))


def _hash(file):
    """[name, digest] of a file; None for one that is not there."""
    return [file.name, digest(file) if file.is_file() else None]
