"""A federation over hosts that share nothing but a network: a site is cut off in mid-round, and comes back or does not.

    sudo python benchmarks/hosts_apart.py

Every host is a network namespace of its own with one cable to the server's (Linux, as root; the machine's own network
is not touched). LoRM on digits over TLS with node keys, three sites with data of their own. Two runs:

    pause    every site is needed: with one cut off the run pauses, with the cable back in it goes on by itself, and
             ends with the bits of a run in one process that was never disturbed
    quorum   two of three sites are enough: the round ends by its deadline without the site that was cut off
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from federations import (
    BEGUN,
    SETTINGS,
    SITES,
    activity,
    asked,
    fedbraid,
    in_one_process,
    init,
    results,
    wait_for,
    write_digits,
)

ADDRESS, PORT = "10.77.0.1", 9092
CUT = "north"
DEADLINE = 45.0


def main() -> None:
    if os.geteuid() or not shutil.which("ip"):
        sys.exit("network namespaces need Linux, root and the ip command")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_digits(root / "data")
        in_one_process(root / "whole", root / "data", [*SETTINGS, *BEGUN])
        rows = [_paused(root), _without(root)]
    for row in rows:
        print("\t".join(row), flush=True)
    sys.exit(any("DIFFERENT" in row for row in rows))


def _paused(root: Path) -> tuple[str, ...]:
    fed = _made(root, "pause", [f"rounds.deadline={DEADLINE}"])
    with _hosts(fed):
        cut = _cut_in_mid_round(fed)
        wait_for(lambda: any(entry["what"] == "paused" for entry in activity(fed)))
        paused = time.monotonic() - cut
        _cable(CUT, "up")
        wait_for(lambda: (fed / "run" / "results.json").is_file())
    same = results(fed / "run")["state_sha256"] == results(root / "whole")["state_sha256"]
    told = f"paused {paused:.0f} s after the cut (deadline {DEADLINE:.0f} s)"
    return "pause", told, "went on by itself", "equal" if same else "DIFFERENT"


def _without(root: Path) -> tuple[str, ...]:
    fed = _made(root, "quorum", [f"rounds.deadline={DEADLINE}", "rounds.quorum=0.6"])
    with _hosts(fed):
        _cut_in_mid_round(fed)
        wait_for(lambda: (fed / "run" / "results.json").is_file())
    failed = [(entry["round"], entry["seconds"]) for entry in _events(fed) if CUT in entry["failed"]]
    longest = max(seconds for _, seconds in failed)
    late = "" if longest <= DEADLINE + 2 else "DIFFERENT: beyond the deadline + 2 s"
    told = f"{len(failed)} rounds without {CUT}, the longest {longest:.1f} s (deadline {DEADLINE:.0f} s)"
    return "quorum", told, "finished", late or "in time"


def _made(root: Path, name: str, settings: Sequence[str]) -> Path:
    fed = root / name
    init(fed, root / "data", [*SETTINGS, *BEGUN, *settings], address=f"{ADDRESS}:{PORT}")
    return fed


@contextmanager
def _hosts(fed: Path) -> Iterator[None]:
    """Namespaces with cables between them, and in each what runs on that host."""
    with ExitStack() as stack:
        for host in ("server", *SITES):
            _ip("netns", "add", _space(host))
            stack.callback(_ip, "netns", "del", _space(host))
            _ip("-n", _space(host), "link", "set", "lo", "up")
        _ip("-n", _space("server"), "link", "add", "switch", "type", "bridge")
        _ip("-n", _space("server"), "addr", "add", f"{ADDRESS}/24", "dev", "switch")
        _ip("-n", _space("server"), "link", "set", "switch", "up")
        for number, site in enumerate(SITES, start=2):
            _ip("-n", _space("server"), "link", "add", site, "type", "veth", "peer", "eth0", "netns", _space(site))
            _ip("-n", _space("server"), "link", "set", site, "master", "switch", "up")
            _ip("-n", _space(site), "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            _ip("-n", _space(site), "link", "set", "eth0", "up")
        stack.enter_context(_on("server", "server", fed))
        for site in SITES:
            stack.enter_context(_on(site, "site", fed / "sites" / site))
        wait_for(lambda: (fed / "processes" / "server.json").is_file())
        fedbraid("deploy", "run", str(fed))
        yield


@contextmanager
def _on(host: str, *command: object) -> Iterator[None]:
    """A process of a host."""
    program = [sys.executable, "-m", "fedbraid", "deploy", *map(str, command)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(["ip", "netns", "exec", _space(host), *program], **quiet)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _cut_in_mid_round(fed: Path) -> float:
    """Takes out the cable of a site that was asked and has not answered; the moment of it."""
    while True:
        before = asked(fed)
        wait_for(lambda before=before: asked(fed) > max(before, 1))
        _cable(CUT, "down")
        cut = time.monotonic()
        time.sleep(1.0)  # what was under way has arrived
        begin = max(number for number, entry in enumerate(activity(fed)) if entry["what"] == "round")
        if not any(entry.get("client") == CUT for entry in activity(fed)[begin:]):
            return cut
        _cable(CUT, "up")


def _cable(site: str, state: str) -> None:
    _ip("-n", _space(site), "link", "set", "eth0", state)


def _space(host: str) -> str:
    return f"fedbraid-{os.getpid()}-{host}"


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True)


def _events(fed: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (fed / "run" / "events.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main()
