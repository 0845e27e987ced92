"""Where tasks run: on the workers of somebody's Dask scheduler, or on threads of this process."""

import hashlib
import logging
import pickle
import time
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

import distributed
from distributed.scheduler import KilledWorker

from helpers.files import file_hash
from helpers.parameters import BadParameter

PATIENCE = 60  # seconds without a worker
TLS = "its certificates are ca-file, client.cert and client.key under distributed.comm.tls in Dask's configuration"
FLOORS, PACKAGES = ("subspaces", "weights"), ("numpy", "scipy", "torch", "safetensors", "gguf")


class Lost(NamedTuple):
    """In the place of a result: why there is none, though other tasks have theirs."""

    why: str


def sources(place):
    """SHA-256 of the sources of FLOORS of the package at a place."""
    files = [file for floor in FLOORS for file in sorted((place / floor).rglob("*")) if file.suffix in (".py", ".toml")]
    told = "".join(f"{file.relative_to(place)} {file_hash(file)}\n" for file in files)
    return hashlib.sha256(told.encode()).hexdigest()


# What numbers come from, as it was when this was imported: sources may change while a process lives.
VERSION = {"sources": sources(Path(__file__).parent)} | {package: version(package) for package in PACKAGES}


class _Client(distributed.Client):
    """One that could not start is closed here: garbage collection would do it in any thread, and block that."""

    def start(self, **options):
        try:
            return super().start(**options)
        except Exception:
            self.close()
            self._loop_runner.stop()  # which `close` leaves alone where Dask has closed it already
            raise


@contextmanager
def cluster(scheduler, jobs):
    """A client of the scheduler at an address or, where that is empty, of one in this process with `jobs` threads.

    With tls:// the certificates are those of Dask's configuration. Raises BadParameter where no scheduler answers.
    """
    if scheduler:
        try:
            client = _Client(scheduler, timeout=10)
        except Exception as error:  # of an address, a network, a file or a certificate: OSError, TypeError, …
            told = TLS if scheduler.startswith("tls:") else "one that has certificates answers at tls:// only"
            raise BadParameter(f"no Dask scheduler answers at {scheduler!r} ({error}): {told}") from None
        with client:
            yield client
        return
    one = {"processes": False, "protocol": "inproc", "n_workers": 1, "threads_per_worker": jobs, "memory_limit": 0}
    own = "127.0.0.1:0"  # its status server cannot be left out
    quiet = {"dashboard_address": own, "worker_dashboard_address": own, "silence_logs": logging.ERROR}
    with distributed.LocalCluster(**one, **quiet) as local, distributed.Client(local) as client:
        yield client


def results(client, function, tasks):
    """(number of a task, its result) as they come, each let go of once it is here; of one whose workers died a Lost.

    function: of a module that the workers have. Raises BadParameter for a worker with another version, and where there
    has been none for a minute; else what the function raises. Left early, it cancels what is not done.
    """
    every = client.map(_carried(), [pickle.dumps((function, task)) for task in tasks], expected=VERSION, pure=False)
    futures, done, seen = {future.key: (n, future) for n, future in enumerate(every)}, SimpleQueue(), time.monotonic()
    for future in every:
        future.add_done_callback(done.put)
    every = future = None  # a result is freed with the last reference to its future
    try:
        while futures:
            try:
                n, future = futures[done.get(timeout=PATIENCE / 10).key]
                result = _result(future)
            except Empty:
                seen = _seen(client, seen)
            except TimeoutError:  # the worker that held it is gone: it is computed again
                if future.status == "error":
                    raise
                future.add_done_callback(done.put)
                seen = _seen(client, seen)
            else:
                del futures[future.key]
                future, seen = None, time.monotonic()
                yield n, result
    finally:
        client.cancel([future for _, future in futures.values()])


def _carried():
    """A function that travels as code, as a worker may not have this package: where it ran, what is wrong, a result."""

    def run(payload, expected):
        here = distributed.get_worker().address
        try:
            from helpers import workers
        except ImportError as error:
            return here, f"does not have this package ({error})", None
        own = getattr(workers, "VERSION", {})
        other = {name: own.get(name) for name in expected if own.get(name) != expected[name]}
        if "sources" in other:
            return here, "has another version of this package", None
        for name, found in other.items():
            return here, f"has {name} {found}, where {expected[name]} is here", None
        function, task = pickle.loads(payload)
        return here, "", function(task)

    return run


def _result(future):
    """What a task gave, or Lost. Raises TimeoutError where it is not to be had now."""
    try:
        if future.status == "error":
            raise future.exception(timeout=PATIENCE)
        address, wrong, result = future.result(timeout=PATIENCE)
    except KilledWorker as error:
        return Lost(f"all {error.allowed_failures + 1} workers that had it died, as where memory is short")
    except CancelledError:
        raise BadParameter("the Dask scheduler is gone, or was restarted: start one, and run again") from None
    if wrong:
        raise BadParameter(f"the Dask worker at {address} {wrong}; make it the same, or stop it")
    return result


def _seen(client, seen):
    """When there was last a worker. Raises BadParameter where that is too long ago."""
    with suppress(OSError):
        if client.nthreads():
            return time.monotonic()
    if time.monotonic() - seen > PATIENCE:
        where = client.scheduler.address
        raise BadParameter(
            f"the Dask scheduler at {where} has had no worker for {PATIENCE} s: start one, and run again"
        )
    return seen
