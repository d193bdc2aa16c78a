"""Loaded by every Python of a federation that `deployed_kills.py` has started: tells or ends what touches the disk.

With FEDBRAID_POINTS_TO, the server's app and the sites' workers write to that file the points that they touch. With
FEDBRAID_POINTS_AT they die, once, at each of the points that stand in that file, and take it out.
"""

import fcntl
import os
import signal
import sys
from pathlib import Path

_program = " ".join(sys.orig_argv)
_server, _site = os.environ.get("FEDBRAID_FEDERATION"), os.environ.get("FEDBRAID_SITE")
_noted, _wanted = os.environ.get("FEDBRAID_POINTS_TO"), os.environ.get("FEDBRAID_POINTS_AT")


def _tap(who: str, root: Path) -> None:
    sys.path.append(str(Path(__file__).parents[1]))
    from disk import Point, Tap

    def act(point: Point) -> None:
        line = f"{who}\t{point.name}\t{point.when}"
        with open(_noted or _wanted, "r+" if _wanted else "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _noted:
                file.write(f"{line}\n")
                return
            lines = file.read().splitlines()
            if line in lines:
                file.seek(0)
                file.truncate()
                file.write("".join(f"{one}\n" for one in lines if one != line))
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

    Tap(root, act).install()


if _noted or _wanted:
    if _server and "flwr-serverapp" in _program:
        _tap("server", Path(_server) / "run")
    elif _site and "fedbraid.deployment.worker" in _program:
        _tap("site", Path(_site))
