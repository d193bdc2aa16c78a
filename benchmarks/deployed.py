"""A federation of separate processes on this machine, with TLS and node keys, against the same run in one process.

    python benchmarks/deployed.py                                  every method
    python benchmarks/deployed.py --methods lorm --set secure.masked=true
    python benchmarks/deployed.py --methods lorm --insecure --evaluate sites

For every method: two tasks over a server and three sites with data of their own; then a third task, of classes that
the run did not know, laid behind (where the method can go on so). Each is compared with a run in one process that knew
everything from the start, on the union of the same data. Equal means: the same `state_sha256` and accuracies, and
bytes where the server tests.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from equal_states import EXTRA
from federations import (
    BEGUN,
    BYTES,
    EQUAL,
    EXTENDED,
    SETTINGS,
    fedbraid,
    finish,
    given,
    in_one_process,
    init,
    results,
    write_digits,
)

from fedbraid.methods import METHODS

NO_LATER = {"derpp": "its clients keep samples by number"}
"""Methods that refuse a task that nobody knew of, and why."""


@dataclass(frozen=True)
class Row:
    method: str
    what: str
    unequal: list[str]
    state: str
    seconds: float

    def cells(self) -> list[str]:
        same = f"DIFFERENT: {', '.join(self.unequal)}" if self.unequal else "equal"
        return [self.method, self.what, same, self.state[:16], f"{self.seconds:.0f} s"]


def main() -> None:
    known = [name for name, options in METHODS.items() if not options.about.centralised]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=known, choices=known)
    parser.add_argument("--set", action="append", default=[], help="a setting of all runs, KEY=VALUE")
    parser.add_argument("--evaluate", choices=("server", "sites"), default="server")
    parser.add_argument("--insecure", action="store_true", help="without TLS and node keys")
    parser.add_argument("--no-later", action="store_true", help="without the third task")
    options = parser.parse_args()
    equal = True
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_digits(root / "data", tests_at_sites=options.evaluate == "sites")
        for method in options.methods:
            for row in measured(root, method, options):
                equal &= not row.unequal
                print("\t".join(row.cells()), flush=True)
    sys.exit(not equal)


def measured(root: Path, method: str, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of a method."""
    own = [*SETTINGS, f"method.name={method}", *EXTRA.get(method, ()), *options.set]
    keys = EQUAL if options.evaluate == "sites" else (*EQUAL, *BYTES)  # sites that test are sent what they test
    whole, longer, fed = (root / f"{method}-{name}" for name in ("whole", "longer", "fed"))
    in_one_process(whole, root / "data", [*own, *BEGUN])
    try:
        begin = time.perf_counter()
        init(fed, root / "data", [*own, *BEGUN], "--evaluate", options.evaluate, *["--insecure"] * options.insecure)
        fedbraid("deploy", "up", str(fed))
        finish(fed)
        yield _row(method, "two tasks", fed / "run", whole, begin, keys)
        if options.no_later or method in NO_LATER:
            return
        in_one_process(longer, root / "data", [*own, *EXTENDED])
        begin = time.perf_counter()
        fedbraid("deploy", "run", str(fed), *given(EXTENDED))
        finish(fed)
        yield _row(method, "a third task later", fed / "run", longer, begin, keys)
    finally:
        fedbraid("deploy", "down", str(fed))


def _row(method: str, what: str, run: Path, expected: Path, begin: float, keys: Sequence[str]) -> Row:
    found, wanted = results(run), results(expected)
    unequal = [key for key in keys if found.get(key) != wanted[key]]
    return Row(method, what, unequal, found.get("state_sha256", "unfinished"), time.perf_counter() - begin)


if __name__ == "__main__":
    main()
