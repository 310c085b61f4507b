"""Run the measuring half of a comparison in a peer's own environment: options, and the rows that it prints."""

import argparse
import json
import pathlib
import subprocess
from collections.abc import Mapping, Sequence

from gpu4d.benchmarks.peers.environments import default_folder


def options_of(arguments: Sequence[str] | None, about: str | None, quick: str) -> argparse.Namespace:
    """Return the options --quick, --rounds, --folder and --python of a command. `quick` is the help of the first."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=pathlib.Path, default=default_folder(), help="folder for the environment")
    parser.add_argument("--python", type=pathlib.Path, help="interpreter of an environment that exists")
    return parser.parse_args(arguments)


def rows_of(python: pathlib.Path, script: pathlib.Path, given: Sequence[object], variables: Mapping[str, str]) -> list[dict] | None:
    """Run a script that ends with its rows as JSON. If it fails, print the end of what it says and return None."""
    command = [str(python), "-W", "ignore", str(script), *map(str, given)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-2000:])
        return None
    return json.loads(done.stdout.splitlines()[-1])
