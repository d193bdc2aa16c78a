"""Every method in process and on Flower's simulation: the same state to the bit, metrics and bytes.

    python benchmarks/equal_states.py                     every method
    python benchmarks/equal_states.py --methods lorm afl

Digits on the embedded backbone: 2 tasks of 2 classes, 3 clients, 2 rounds of 1 epoch. Finished runs stay in the
folder `--out`, so it goes on where it was stopped. Joint training has no federation and is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from fedbraid.methods import METHODS

SETTINGS = (
    *("data.classes=4", "stream.tasks=2", "partition.clients=3", "training.rounds=2", "training.epochs=1"),
    *("data.train_per_class=40", "data.test_per_class=20"),
)
EXTRA = {"target": ("method.steps=5", "method.generator_batch=8")}
EQUAL = ("state_sha256", "faa", "aia", "forgetting", "accuracy_matrix", "bytes_up_per_client", "bytes_down_per_client")


def main() -> None:
    known = [name for name, options in METHODS.items() if not options.about.centralised]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="*", default=known, choices=known)
    parser.add_argument("--out", type=Path, default=Path("runs/equal-states"))
    options = parser.parse_args()
    different = 0
    for name in options.methods:
        here = _run(options.out / name / "inprocess", name, "inprocess")
        there = _run(options.out / name / "flower", name, "flower")
        unequal = [key for key in EQUAL if here.get(key) != there.get(key)]
        different += bool(unequal)
        told = f"DIFFERENT: {', '.join(unequal)}" if unequal else f"equal, state {here['state_sha256'][:16]}"
        print(f"{name}: {told}", flush=True)
    print(f"{len(options.methods) - different} of {len(options.methods)} methods are equal in both runtimes")
    sys.exit(different > 0)


def _run(folder: Path, method: str, runtime: str) -> dict[str, object]:
    """The results of a run that is in the folder, or is made or finished there now."""
    if not (folder / "results.json").is_file():
        begun = (folder / "config.toml").is_file()
        settings = (f"method.name={method}", f"run.runtime={runtime}", *SETTINGS, *EXTRA.get(method, ()))
        given = [part for setting in settings for part in ("--set", setting)]
        command = ["resume", str(folder)] if begun else ["run", "--out", str(folder), *given]
        subprocess.run([sys.executable, "-m", "fedbraid", *command], check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "results.json").read_bytes())


if __name__ == "__main__":
    main()
