"""What the processes of a federation are started with: Flower without telemetry, updates or installations."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FEDERATION, SITE = "FEDBRAID_FEDERATION", "FEDBRAID_SITE"
"""The variables by which the Flower app finds the folder that it works for."""
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
    "PYTHONUNBUFFERED": "1",
}


def surroundings(home: Path, **more: str) -> dict[str, str]:
    """The environment of a process that uses this home of Flower's.

    Flower starts programs of its own by name, so those beside this Python come first.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, **QUIET, "FLWR_HOME": str(home), "PATH": path, **more}
