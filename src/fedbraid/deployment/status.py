"""The state of a federation, from files alone: without Flower and without torch, so it is there at once."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedbraid.deployment.directing import answers
from fedbraid.deployment.federation import read
from fedbraid.deployment.notes import ended, read_note, wanted
from fedbraid.deployment.owning import owner_alone
from fedbraid.deployment.supervising import running
from fedbraid.naming import file_name
from fedbraid.watch.status import watching


@owner_alone()
def status(folder: Path) -> dict[str, Any]:
    """What there is to see: processes, nodes, and the run in short."""
    federation = read(folder)
    now, last = wanted(federation.folder), ended(federation.folder)
    up, seen = answers(federation.port), read_note(federation.seen)
    with suppress(OSError):
        federation.asked.touch()  # the supervisor looks again
    online = seen.get("online", {}) if up else {}
    begun = (federation.run / "config.toml").is_file()
    return {
        "address": federation.terms.address,
        "tls": not federation.terms.insecure,
        "server": {"up": up, "processes": dict(running(federation.processes / "server.json"))},
        "sites": [
            {
                "name": name,
                "registered": file_name(name) in online,
                "online": online.get(file_name(name), False),
                "processes": dict(running(federation.site(name) / "processes" / "site.json")),
            }
            for name in federation.terms.sites
        ],
        "flower_run": {
            "wanted": now.go_on,
            "id": now.flower_run,
            "status": seen.get("status") if up and seen.get("run") == now.flower_run else None,
            "seen": round(time.time() - seen["at"]) if up and "at" in seen else None,
            "ended": last.get("outcome"),
            "why": last.get("reason", ""),
        },
        "run": watching(federation.run).look().data() if begun else None,
    }
