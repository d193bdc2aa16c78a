"""Flower's programs by their names, in this Python: `python -m fedbraid.deployment.program NAME ...`.

Their scripts need not lie on any path, and a program that is run here can be changed first (see `inside_flower`).
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points


def command(name: str) -> list[str]:
    """The beginning of a command line that starts this program."""
    return [sys.executable, "-m", __name__, name]


def run(name: str) -> None:
    """Runs the program in this process, with the arguments of this one."""
    (found,) = entry_points(group="console_scripts", name=name)
    found.load()()


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    run(sys.argv[0])
