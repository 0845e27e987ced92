"""`python -m helpers`: run notebooks and render their pages."""

import argparse
import sys
from pathlib import Path

import yaml

from helpers import run


def main():
    """Exit status 0: done; 1: the notebook failed; 2: a bad parameter or command line."""
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="run notebooks: executed copy, HTML page and result file of each")
    one.add_argument("notebooks", type=Path, nargs="+", help="such as notebooks/01_subspace_similarity.ipynb")
    one.add_argument(
        "-p",
        dest="given",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help='a parameter; VALUE is YAML, so a list is "[DIR, DIR]" (papermill --help-notebook NOTEBOOK lists them)',
    )
    one.add_argument("--out", type=Path, default="build", help="results go to OUT/NOTEBOOK/ (default: %(default)s)")
    again = commands.add_parser("refresh", help="run notebooks with their own parameters and keep the outputs in them")
    again.add_argument("notebooks", type=Path, nargs="+")
    options = parser.parse_args()
    try:
        if options.command == "run":
            given = {name: _value(name, text) for name, text in options.given}
            names = [notebook.stem for notebook in options.notebooks]
            for notebook in options.notebooks:
                run.check(notebook, given)
            for notebook in options.notebooks:
                print(f"report: {run.run(notebook, given, options.out, names) / 'report.html'}", flush=True)
        else:
            for notebook in options.notebooks:
                run.refresh(notebook)
    except run.RunFailed as error:
        return _complain(error, 1)
    except ValueError as error:
        return _complain(error, 2)
    return 0


def _value(name, text):
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise ValueError(f'parameter {name} is {text!r}, which is not YAML: a list is "[DIR, DIR]"') from None


def _complain(error, status):
    print(f"error: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
