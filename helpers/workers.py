"""Where tasks run: on the workers of somebody's Dask scheduler, or on threads of this process."""

import logging
from contextlib import contextmanager

import distributed

from helpers.parameters import BadParameter


class _Client(distributed.Client):
    """One that could not start is closed here: garbage collection would do it in any thread, and block that."""

    def start(self, **options):
        try:
            return super().start(**options)
        except (OSError, ValueError):
            self.close()
            raise


@contextmanager
def cluster(scheduler, jobs):
    """A client of the scheduler at an address or, where that is empty, of one in this process with `jobs` threads.

    Raises BadParameter where no scheduler answers.
    """
    if scheduler:
        try:
            client = _Client(scheduler, timeout=10)
        except (OSError, ValueError) as error:
            raise BadParameter(f"no Dask scheduler answers at {scheduler!r}: {error}") from None
        with client:
            yield client
        return
    one = {"processes": False, "n_workers": 1, "threads_per_worker": jobs, "memory_limit": 0}
    own = "127.0.0.1:0"  # its status server cannot be left out
    quiet = {"dashboard_address": own, "worker_dashboard_address": own, "silence_logs": logging.ERROR}
    with distributed.LocalCluster(**one, **quiet) as local, distributed.Client(local) as client:
        yield client
