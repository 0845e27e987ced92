"""Run notebooks, sweep one over a grid of parameters, render pages, and tell how weights would be read."""

import locale
import os
import signal
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
import yaml
from tqdm import tqdm

from helpers.files import write_whole
from helpers.parameters import SCHEMAS, BadParameter, read
from helpers.press import committed, pages, run
from helpers.press.kernel import BLAME, Outcome, RunFailed
from helpers.values import Refused

STATUS = "exit status: " + "; ".join(f"{outcome.value} {outcome}" for outcome in Outcome)
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
PROGRAM, LIMIT = "phi-and-pixels", 3600


def command():
    """The console script: `main`, in a Python whose texts and file names are UTF-8, whatever the locale."""
    if not sys.flags.utf8_mode and locale.getencoding().lower() not in ("utf-8", "utf8"):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    return main()


def main(words=None):
    """Returns the exit status, an `Outcome`."""
    stopped = []

    def stop(number, _):
        stopped.append(number)
        signal.raise_signal(signal.SIGINT)

    # both, as a shell's `&` and nohup's have them ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, stop)
    try:
        return _commands.main(words, PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        place = error.ctx.command_path if error.ctx else PROGRAM
        return _complain(f"{error.format_message().rstrip('.')} (see {place} --help)", Outcome.BAD_PARAMETER)
    except RunFailed as error:
        return _complain(error, Outcome.TERMINATED if stopped else error.outcome)
    except Refused as error:
        return _complain(error, BLAME[type(error).__name__])
    except OSError as error:
        return _complain(error, Outcome.NOT_WRITTEN)
    except (click.Abort, KeyboardInterrupt):  # click makes the one of the other
        outcome = Outcome.TERMINATED if stopped else Outcome.INTERRUPTED
        return _complain("interrupted; what was finished is kept", outcome)


_commands = click.Group(help=__doc__, epilog=STATUS, no_args_is_help=False, context_settings=HELP)


def _out(default, text):
    return click.option("--out", type=click.Path(path_type=Path), default=default, show_default=True, help=text)


def _of_a_run(command):
    """The options of commands that run a notebook with parameters."""
    told = 'a parameter; a list is "[DIR, DIR]" (papermill --help-notebook NOTEBOOK lists them)'
    given = click.option("-p", "given", nargs=2, multiple=True, metavar="NAME VALUE", help=told)
    told = "kernels at once (default: the cores)"
    jobs = click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count(), metavar="N", help=told)
    told = f"stop a run after (default: {LIMIT}; 0: never)"
    limit = click.option("--limit", type=click.IntRange(min=0), default=LIMIT, metavar="SECONDS", help=told)
    return given(jobs(limit(command)))


@_commands.command("run", epilog=STATUS)
@click.argument("notebooks", nargs=-1, required=True, metavar="NOTEBOOK...")
@_out("build", "results go to OUT/NOTEBOOK/")
@_of_a_run
def _run(notebooks, out, given, jobs, limit):
    """Run notebooks: executed copy, HTML page and result file of each.

    NOTEBOOK is a path, or a name such as 01_subspace_similarity.
    """
    notebooks = [run.find(notebook) for notebook in notebooks]
    given = {name: _value(name, text, notebooks) for name, text in given}
    with _bars() as show:
        results = run.run_all(notebooks, given, out, jobs=jobs, limit=limit or None, progress=show)
    for result in results:
        if not isinstance(result, RunFailed):
            print(f"report: {result / 'report.html'}")
    failures = [result for result in results if isinstance(result, RunFailed)]
    for failure in failures:
        _complain(failure, failure.outcome)
    return failures[0].outcome if failures else Outcome.DONE


@_commands.command("sweep", epilog=STATUS)
@click.argument("notebook")
@click.option(
    "--over",
    multiple=True,
    required=True,
    metavar="NAME=V1,V2,…",
    help="values of a parameter; several --over give every combination",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="a Dask scheduler, tcp://HOST:8786 or, as Dask's TCP is unauthenticated, tls://HOST:8786 (default: none)",
)
@_out("build/sweeps", "to OUT/NOTEBOOK/")
@_of_a_run
def _sweep(notebook, over, scheduler, out, given, jobs, limit):
    """Run a notebook over a grid of parameters.

    Done runs are kept, so the same command goes on. NOTEBOOK is a path, or a name such as 01_subspace_similarity.
    """
    from helpers.press import sweep  # Dask takes a second to import, which the other commands need not wait for

    notebook = run.find(notebook)
    given = {name: _value(name, text, [notebook]) for name, text in given}
    grid = dict(sweep.values(text, typed=notebook.stem not in SCHEMAS) for text in over)
    if len(grid) < len(over):
        raise BadParameter("--over names a parameter twice: give all its values in one")
    parameters = sweep.grid(notebook, given, grid)
    with tqdm(total=len(parameters), desc=notebook.stem, unit="run") as bar:

        def show(done, total, record):
            bar.total = total
            bar.update(done - bar.n)
            if record and record["outcome"]:
                bar.write(f"{record['key']}: {record['message']}", file=sys.stderr)

        options = {"scheduler": scheduler, "jobs": jobs, "limit": limit or None, "progress": show}
        records = sweep.sweep(notebook, parameters, out, **options)
    place = out / notebook.stem
    print(f"index: {place / 'index.html'}\ntable: {place / 'runs.parquet'}, {place / 'runs.csv'}")
    failed = [record for record in records if record["outcome"]]
    if not failed:
        return Outcome.DONE
    return _complain(f"{len(failed)} of {len(records)} runs failed, see {place / 'index.html'}", failed[0]["outcome"])


@_commands.command("render", epilog=STATUS)
@click.argument("notebook", type=click.Path(path_type=Path))
@_out(None, "the page (default: beside the notebook, .html)")
def _render(notebook, out):
    """Write the HTML page of an executed notebook."""
    place = out or notebook.with_suffix(".html")
    write_whole(place, pages.page(run.load(notebook, to_run=False), title=notebook.stem))
    print(f"page: {place}")
    return Outcome.DONE


@_commands.command("refresh", epilog=STATUS)
@click.argument("notebooks", nargs=-1, required=True, metavar="NOTEBOOK...")
@click.option("--parameters", is_flag=True, help="only write the cells of parameters anew, and run nothing")
def _refresh(notebooks, parameters):
    """Run notebooks with the defaults of their parameters and keep the outputs in them."""
    for notebook in map(run.find, notebooks):
        if parameters:
            committed.write_parameters(notebook)
            continue
        with _bars() as show:
            committed.refresh(notebook, progress=partial(show, notebook.stem))
    return Outcome.DONE


@_commands.command("inspect", epilog=STATUS)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--base", metavar="PATH", help="the model that they were trained from")
def _inspect(paths, base):
    """Tell how each matrix would be read, or why not.

    PATH is a model or an adapter, a directory or a file; with --base also a whole model that was fine-tuned from it.
    Relative paths start at the repository's root, of an installed package at the current directory. Of a table's
    columns the last is the type that the numbers are stored as.
    """
    from helpers import weights  # only where somebody asks for it

    model = weights.open_base(base) if base else None
    for path in paths:
        try:
            found = weights.open_update(path, model)
        except weights.IsModel:  # without a base, a whole model as one
            found = weights.open_base(path)
        if model:
            weights.match(model, found)  # says what both have where nothing fits
        table = found.describe()
        notes = table.loc[table["module"] == "", "how it is read"]
        print(f"{path}: {len(found.modules())} modules\n{table[table['module'] != ''].to_string(index=False)}")
        print("\n".join(notes), end="\n\n" if len(notes) else "\n")
    return Outcome.DONE


@contextmanager
def _bars():
    """Show a progress bar for each notebook that runs; in a log, a line now and then."""
    bars, pause = {}, 0.1 if sys.stderr.isatty() else 10

    def show(name, done, total, heading):
        if name not in bars:
            bars[name] = tqdm(total=total, desc=name, unit="cell", position=len(bars), mininterval=pause)
        bars[name].set_postfix_str(heading, refresh=False)
        bars[name].update(done - bars[name].n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()


def _value(name, text, notebooks):
    """The text as it stands where a schema reads it; otherwise what it reads as."""
    if all(notebook.stem in SCHEMAS for notebook in notebooks):
        return text
    try:
        return read(text) if text else ""
    except yaml.YAMLError:
        raise BadParameter(f'parameter {name} is {text!r}, which is not YAML: a list is "[DIR, DIR]"') from None
    except BadParameter as error:
        raise BadParameter(f"parameter {name}: {error}") from None


def _complain(error, status):
    print(f"error: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(command())
