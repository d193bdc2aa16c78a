"""A federation of separate processes on this machine, with TLS and node keys, against the same run in one process.

    python benchmarks/deployed.py --methods lorm fedit --kills 3

For every method: two tasks over a server and three sites with data of their own; the same with processes killed by
SIGKILL at random moments (a site's node, its worker, Flower's server, the server's app); then a third task, of classes
that the run did not know, laid behind. Each is compared with a run in one process that knew everything from the start,
on the union of the same data. Equal means: the same `state_sha256`, accuracies and, where nobody was killed, bytes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SITES = ("north", "south", "west")
BEGUN = ["data.classes=4", "stream.sizes=[2,2]"]
EXTENDED = ["data.classes=6", "stream.sizes=[2,2,2]"]
SETTINGS = ["training.rounds=2", "training.epochs=1", "rounds.retries=2", "privacy.small_grams=allow"]
EQUAL = ("state_sha256", "accuracy_matrix", "faa")
BYTES = ("bytes_up_per_client", "bytes_down_per_client")
KINDS = ("node", "worker", "link", "app")


@dataclass(frozen=True)
class Row:
    method: str
    what: str
    equal: bool
    state: str
    seconds: float
    kills: str = ""

    def cells(self) -> list[str]:
        same = "equal" if self.equal else "DIFFERENT"
        return [self.method, self.what, same, self.state[:16], f"{self.seconds:.0f} s", self.kills]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["lorm"])
    parser.add_argument("--kills", type=int, default=2, help="kills a run; 0 leaves the killed run out")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="what is killed, in turn")
    parser.add_argument("--evaluate", choices=("server", "sites"), default="server")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds that a run may take")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    equal = True
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_digits(root / "data", tests_at_sites=options.evaluate == "sites")
        for method in options.methods:
            for row in measured(root, method, options, draw):
                equal &= row.equal
                print("\t".join(row.cells()), flush=True)
    sys.exit(not equal)


def measured(root: Path, method: str, options: argparse.Namespace, draw: random.Random) -> Iterator[Row]:
    """The rows of a method."""
    own = [*SETTINGS, f"method.name={method}"]
    union = [*own, f"data.name={root / 'data' / 'union'}", "partition.kind=natural"]
    whole, longer = root / f"{method}-whole", root / f"{method}-longer"
    for folder, settings in ((whole, BEGUN), (longer, EXTENDED)):
        fedbraid("run", "--out", str(folder), *_set([*union, *settings]))
    for number in (0, options.kills) if options.kills else (0,):
        fed = root / f"{method}-{number}"
        try:
            begin = time.perf_counter()
            _init(fed, root / "data", [*own, *BEGUN], options.evaluate)
            fedbraid("deploy", "up", str(fed))
            told = [_killed(fed, kind, draw, options.patience) for kind in _in_turn(options.kinds, number)]
            _finished(fed, options.patience)
            yield _row(method, "killed" if number else "two tasks", fed / "run", whole, begin, told)
            if not number:
                begin = time.perf_counter()
                fedbraid("deploy", "run", str(fed), *_set(EXTENDED))
                _finished(fed, options.patience)
                yield _row(method, "a third task later", fed / "run", longer, begin, [])
        finally:
            fedbraid("deploy", "down", str(fed))


def _init(fed: Path, data: Path, settings: Sequence[str], evaluate: str) -> None:
    address = f"127.0.0.1:{_free_port()}"
    sites = [part for site in SITES for part in ("--site", f"{site}={data / site}")]
    more = ["--address", address, "--evaluate", evaluate, "--set", f"data.name={data / 'server'}"]
    fedbraid("deploy", "init", str(fed), *sites, *more, *_set(settings))


def _killed(fed: Path, kind: str, draw: random.Random, patience: float) -> str:
    """Kills one process at a random moment of a round that is not the last; says which, and in which round."""
    log = fed / "run" / "activity.jsonl"
    asked = _asked(log)
    _await(lambda: _asked(log) > asked, patience)
    time.sleep(draw.uniform(0.0, 8.0))
    site = draw.choice(SITES)
    if kind in ("node", "worker"):
        pid = json.loads((fed / "sites" / site / "processes" / "site.json").read_bytes())[kind]["pid"]
    else:
        pid = json.loads((fed / "processes" / "server.json").read_bytes())["link"]["pid"]
        pid = _serverapp(pid) if kind == "app" else pid
    if pid is None:
        return f"{kind}: none ran"
    os.kill(pid, signal.SIGKILL)
    return f"{site if kind in ('node', 'worker') else 'server'} {kind} in round {_asked(log)}"


def _serverapp(link: int) -> int | None:
    """The server's app, which Flower's server has started by way of another process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"flwr-serverapp" in (folder / "cmdline").read_bytes() and link in _above(int(folder.name)):
                return int(folder.name)
        except OSError:
            continue
    return None


def _above(pid: int) -> list[int]:
    """The parent of a process, its parent, and so on."""
    found = [pid]
    while found[-1] > 1:
        found.append(int(Path(f"/proc/{found[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
    return found[1:]


def _asked(log: Path) -> int:
    return log.read_bytes().count(b'"what": "round"') if log.is_file() else 0


def _finished(fed: Path, patience: float) -> None:
    _await(lambda: not json.loads((fed / "wanted.json").read_bytes())["go_on"], patience)


def _await(ready: Callable[[], bool], patience: float) -> None:
    until = time.monotonic() + patience
    while not ready():
        if time.monotonic() > until:
            raise SystemExit(f"nothing happened within {patience:.0f} s")
        time.sleep(0.1)


def _row(method: str, what: str, run: Path, expected: Path, begin: float, told: Sequence[str]) -> Row:
    path = run / "results.json"
    found, wanted = (json.loads(one.read_bytes()) if one.is_file() else {} for one in (path, expected / path.name))
    keys = EQUAL if told else (*EQUAL, *BYTES)
    same = {key: found.get(key) for key in keys} == {key: wanted[key] for key in keys}
    return Row(
        method, what, same, found.get("state_sha256", "unfinished"), time.perf_counter() - begin, "; ".join(told)
    )


def _in_turn(kinds: Sequence[str], count: int) -> list[str]:
    return [kinds[number % len(kinds)] for number in range(count)]


def _set(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def fedbraid(*arguments: str) -> None:
    command = [sys.executable, "-m", "fedbraid", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"fedbraid {' '.join(arguments[:3])} failed: {done.stderr.strip()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_digits(folder: Path, *, classes: int = 6, each: int = 14, tests_at_sites: bool = False) -> None:
    """Digits as tables of image files: one folder a site, one with the server's test samples, one with everything.

    A site lacks every third class; what is everybody's lies in `union`, where a column tells whose each sample is. The
    test samples are the server's, and are dealt to the sites where it is they who test.
    """
    sites = SITES
    images, labels = load_digits(return_X_y=True)
    own: dict[str, list[int]] = {site: [] for site in sites}
    tests: list[int] = []
    for label in range(classes):
        rows = np.flatnonzero(labels == label).tolist()
        tests += rows[:each]
        holders = [site for number, site in enumerate(sites) if (label + number) % 3]
        for number, site in enumerate(holders):
            own[site] += rows[each * (number + 1) : each * (number + 2)]
    for number, (name, rows) in enumerate(own.items()):
        _write(folder / name, "train.csv", [(row, labels[row], name) for row in rows], images, with_client=False)
        if tests_at_sites:
            dealt = [(row, labels[row], name) for row in tests[number :: len(sites)]]
            _write(folder / name, "test.csv", dealt, images, with_client=False)
    _write(folder / "server", "test.csv", [(row, labels[row], "") for row in tests], images, with_client=False)
    everything = [(row, labels[row], name) for name, rows in own.items() for row in rows]
    _write(folder / "union", "train.csv", everything, images, with_client=True)
    _write(folder / "union", "test.csv", [(row, labels[row], "nobody") for row in tests], images, with_client=True)


def _write(
    folder: Path, table: str, rows: Sequence[tuple[int, int, str]], images: np.ndarray, *, with_client: bool
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / table).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", *(["client"] if with_client else [])])
        for row, label, client in rows:
            pixels = (images[row].reshape(8, 8) * (255 / 16)).round().astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{row}.png")
            writer.writerow([f"{row}.png", label, *([client] if with_client else [])])


if __name__ == "__main__":
    main()
