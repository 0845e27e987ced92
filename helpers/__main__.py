"""`python -m helpers`: run notebooks, sweep one over a grid of parameters, render pages."""

import argparse
import os
import re
import signal
import sys
from pathlib import Path

import yaml
from tqdm import tqdm

from helpers.parameters import SCHEMAS
from helpers.press import pages, run
from helpers.press.report import write_whole
from helpers.press.run import Outcome, RunFailed

STATUS = "exit status: " + "; ".join(f"{outcome.value} {outcome}" for outcome in Outcome)
LIMIT = 3600


def main(words=None):
    """Returns the exit status, a `run.Outcome`."""
    options = _parser().parse_args(words)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return options.command(options)
    except RunFailed as error:
        return _complain(error, error.outcome)
    except ValueError as error:
        return _complain(error, Outcome.BAD_PARAMETER)
    except OSError as error:
        return _complain(error, Outcome.NOT_WRITTEN)
    except KeyboardInterrupt:
        return _complain("interrupted; what was finished is kept", Outcome.INTERRUPTED)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__, epilog=STATUS)
    commands = parser.add_subparsers(required=True)

    def command(function, summary):
        made = commands.add_parser(function.__name__.strip("_"), help=summary, description=summary, epilog=STATUS)
        made.set_defaults(command=function)
        return made

    one = command(_run, "run notebooks: executed copy, HTML page and result file of each")
    one.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help="path, or name such as 01_subspace_similarity")
    one.add_argument("--out", type=Path, default="build", help="results go to OUT/NOTEBOOK/ (default: %(default)s)")
    many = command(_sweep, "run a notebook over a grid of parameters; done runs are kept, so the same command goes on")
    many.add_argument("notebook", metavar="NOTEBOOK", help="path, or name such as 01_subspace_similarity")
    many.add_argument(
        "--over",
        action="append",
        required=True,
        metavar="NAME=V1,V2,…",
        help="values of a parameter; several --over give every combination",
    )
    many.add_argument(
        "--scheduler", metavar="ADDRESS", help="a Dask scheduler, such as tcp://host:8786 (default: none)"
    )
    many.add_argument("--out", type=Path, default="build/sweeps", help="to OUT/NOTEBOOK/ (default: %(default)s)")
    page = command(_render, "write the HTML page of an executed notebook")
    page.add_argument("notebook", type=Path, help="path of the notebook")
    page.add_argument("--out", type=Path, help="the page (default: beside the notebook, .html)")
    again = command(_refresh, "run notebooks with their own parameters and keep the outputs in them")
    again.add_argument("notebooks", nargs="+", metavar="NOTEBOOK")
    for made in (one, many):
        made.add_argument(
            "-p",
            dest="given",
            nargs=2,
            action="append",
            default=[],
            metavar=("NAME", "VALUE"),
            help='a parameter; a list is "[DIR, DIR]" (papermill --help-notebook NOTEBOOK lists them)',
        )
        made.add_argument(
            "--jobs", type=_count, default=os.cpu_count(), help="kernels at once (default: %(default)s, the cores)"
        )
        made.add_argument(
            "--limit",
            type=_seconds,
            default=LIMIT,
            metavar="SECONDS",
            help="stop a run after (default: %(default)s; 0: never)",
        )
    return parser


def _count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more")
    return int(text)


def _seconds(text):
    if not re.fullmatch(r"\d+(\.\d*)?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds, or 0 for no limit")
    return float(text)


def _run(options):
    notebooks = [run.find(notebook) for notebook in options.notebooks]
    given = {name: _value(name, text, notebooks) for name, text in options.given}
    with _Bars() as bars:
        results = run.run_all(
            notebooks, given, options.out, jobs=options.jobs, limit=options.limit or None, progress=bars.show
        )
    for result in results:
        if not isinstance(result, RunFailed):
            print(f"report: {result / 'report.html'}")
    failures = [result for result in results if isinstance(result, RunFailed)]
    for failure in failures:
        _complain(failure, failure.outcome)
    return failures[0].outcome if failures else Outcome.DONE


def _sweep(options):
    from helpers.press import sweep  # Dask takes a second to import, which the other commands need not wait for

    notebook = run.find(options.notebook)
    given = {name: _value(name, text, [notebook]) for name, text in options.given}
    over = dict(map(sweep.values, options.over))
    if len(over) < len(options.over):
        raise ValueError("--over names a parameter twice: give all its values in one")
    parameters = sweep.grid(notebook, given, over)
    with tqdm(total=len(parameters), desc=notebook.stem, unit="run") as bar:

        def show(done, total, record):
            bar.total = total
            bar.update(done - bar.n)
            if record and record["outcome"]:
                bar.write(f"{record['key']}: {record['message']}", file=sys.stderr)

        limit = options.limit or None
        records = sweep.sweep(
            notebook,
            parameters,
            options.out,
            scheduler=options.scheduler,
            jobs=options.jobs,
            limit=limit,
            progress=show,
        )
    place = options.out / notebook.stem
    print(f"index: {place / 'index.html'}\ntable: {place / 'runs.parquet'}, {place / 'runs.csv'}")
    failed = [record for record in records if record["outcome"]]
    if not failed:
        return Outcome.DONE
    return _complain(f"{len(failed)} of {len(records)} runs failed, see {place / 'index.html'}", failed[0]["outcome"])


def _render(options):
    content = run.load(options.notebook)
    place = options.out or options.notebook.with_suffix(".html")
    write_whole(place, pages.page(content))
    print(f"page: {place}")
    return Outcome.DONE


def _refresh(options):
    for notebook in map(run.find, options.notebooks):
        with _Bars() as bars:
            run.refresh(notebook, lambda *step, name=notebook.stem: bars.show(name, *step))
    return Outcome.DONE


class _Bars:
    """A progress bar for each notebook that runs; in a log, a line now and then."""

    def __enter__(self):
        self.bars = {}
        return self

    def show(self, name, done, total, heading):
        if name not in self.bars:
            pause = 0.1 if sys.stderr.isatty() else 10
            self.bars[name] = tqdm(total=total, desc=name, unit="cell", position=len(self.bars), mininterval=pause)
        self.bars[name].set_postfix_str(heading, refresh=False)
        self.bars[name].update(done - self.bars[name].n)
        if done == total:
            self.bars[name].close()

    def __exit__(self, *_):
        for bar in self.bars.values():
            bar.close()


def _value(name, text, notebooks):
    """The text as it stands where a schema reads it; otherwise as YAML."""
    if all(notebook.stem in SCHEMAS for notebook in notebooks):
        return text
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise ValueError(f'parameter {name} is {text!r}, which is not YAML: a list is "[DIR, DIR]"') from None


def _complain(error, status):
    print(f"error: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
