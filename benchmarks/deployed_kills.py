"""A federation of separate processes with TLS, killed by SIGKILL again and again while it runs, and compared.

    python benchmarks/deployed_kills.py --kills 20 --points 20

Each run is LoRM's over three tasks of digits, a server and three sites, and ends when nothing is left to do. Equal
means that state and accuracies are those of a run in one process that nobody disturbed.

    random   at a random moment of a round, in turn: a site's node, its worker, Flower's server, the server's app, a
             whole site with its supervisor, the whole server with its supervisor, and a site and the server together.
             A supervisor that was killed is started again, as systemd would.
    points   where the server's app or a site's worker touches its disk, at points drawn from all those that an
             undisturbed run touched (see `disk`): before, after, or with half of a write written
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from federations import (
    EQUAL,
    EXTENDED,
    SETTINGS,
    SITES,
    asked,
    fedbraid,
    finish,
    in_one_process,
    init,
    results,
    wait_for,
    write_digits,
)

KINDS = ("node", "worker", "link", "app", "site", "server", "site and server")
A_RUN = 7
"""Kills of one run."""
HOOK = Path(__file__).parent / "hook"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="lorm")
    parser.add_argument("--kills", type=int, default=14, help="at random moments")
    parser.add_argument("--points", type=int, default=14, help="at named points")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    settings = [*SETTINGS, *EXTENDED, "training.rounds=3", f"method.name={options.method}"]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_digits(root / "data")
        in_one_process(root / "whole", root / "data", settings)
        trial = Trial(root, settings, draw)
        good = [trial.random([KINDS[n % len(KINDS)] for n in some]) for some in _by(A_RUN, range(options.kills))]
        if options.points:
            found = trial.listed()
            drawn = draw.sample(found, min(options.points, len(found)))
            good += [trial.at(some) for some in _by(A_RUN, drawn)]
    print(f"{sum(good)} of {len(good)} runs are equal")
    sys.exit(not all(good))


class Trial:
    """Runs of one federation's settings."""

    def __init__(self, root: Path, settings: Sequence[str], draw: random.Random) -> None:
        self._root, self._settings, self._draw = root, settings, draw
        self._number = 0

    def random(self, kinds: Sequence[str]) -> bool:
        """Killed at random moments."""
        with self._up() as fed:
            told = []
            for kind in kinds:
                before = asked(fed)
                wait_for(lambda before=before: asked(fed) > before or bool(results(fed / "run")))
                time.sleep(self._draw.uniform(0.0, 3.0))
                told.append(self._kill(fed, kind) if not results(fed / "run") else f"{kind}: the run was over")
            return self._ended(fed, "random", told)

    def listed(self) -> list[str]:
        """The points that an undisturbed run touches, by who touches them."""
        noted = self._root / "noted"
        with self._up(FEDBRAID_POINTS_TO=str(noted)) as fed:
            finish(fed)
        found = sorted(set(noted.read_text().splitlines()))
        print(f"{len(found)} points of server and sites", flush=True)
        return found

    def at(self, points: Sequence[str]) -> bool:
        """Killed once at each of these points."""
        wanted = self._root / "wanted"
        wanted.write_text("".join(f"{point}\n" for point in points))
        with self._up(FEDBRAID_POINTS_AT=str(wanted)) as fed:
            finish(fed)
            missed = wanted.read_text().splitlines()
            told = [point.replace("\t", " ") + ": not reached" * (point in missed) for point in points]
            return self._ended(fed, "points", told)

    @contextmanager
    def _up(self, **surroundings: str) -> Iterator[Path]:
        self._number += 1
        fed = self._root / f"fed-{self._number}"
        init(fed, self._root / "data", self._settings)
        hooked = {"PYTHONPATH": os.pathsep.join([str(HOOK), os.environ.get("PYTHONPATH", "")])} if surroundings else {}
        os.environ.update(hooked | surroundings)
        try:
            fedbraid("deploy", "up", str(fed))
            yield fed
        finally:
            fedbraid("deploy", "down", str(fed))
            for name in surroundings:
                del os.environ[name]

    def _kill(self, fed: Path, kind: str) -> str:
        site = self._draw.choice(SITES)
        at_site, at_server = fed / "sites" / site, fed
        if kind in ("node", "worker"):
            dead = [_kept(at_site / "processes" / "site.json").get(kind)]
        elif kind == "link":
            dead = [_kept(fed / "processes" / "server.json").get(kind)]
        elif kind == "app":
            dead = [pid for pid in _family(fed / "processes" / "server.json") if b"flwr-serverapp" in _command(pid)]
        else:
            dead = _family(at_site / "processes" / "site.json") if "site" in kind else []
            dead += _family(fed / "processes" / "server.json") if "server" in kind else []
        for pid in filter(None, dead):
            os.kill(pid, signal.SIGKILL)
        if "site" in kind:
            _serve("site", at_site)
        if "server" in kind:
            _serve("server", at_server)
        return f"{kind} in round {asked(fed)}" if any(dead) else f"{kind}: none ran"

    def _ended(self, fed: Path, what: str, told: Sequence[str]) -> bool:
        finish(fed)
        found, wanted = results(fed / "run"), results(self._root / "whole")
        unequal = [key for key in EQUAL if found.get(key) != wanted[key]]
        same = f"DIFFERENT: {', '.join(unequal)}" if unequal else "equal"
        print("\t".join([what, same, "; ".join(told)]), flush=True)
        return not unequal


def _serve(what: str, folder: Path) -> None:
    """What a service manager does when a supervisor has died."""
    command = [sys.executable, "-m", "fedbraid", "deploy", what, str(folder)]
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def _kept(note: Path) -> dict[str, int]:
    """The processes of a supervisor by name."""
    return {name: one["pid"] for name, one in json.loads(note.read_bytes()).items()} if note.is_file() else {}


def _family(note: Path) -> list[int]:
    """The processes of a supervisor, itself first, and all that they have started."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid for _, pid in sorted(_kept(note).items(), key=lambda one: one[0] != "supervisor") if pid in parents]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid and child not in found]
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _by(count: int, items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + count] for start in range(0, len(items), count)]


if __name__ == "__main__":
    main()
