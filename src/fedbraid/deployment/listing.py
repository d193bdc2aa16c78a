"""The nodes that a server knows, as JSON: `python -m fedbraid.deployment.listing CONNECTION`."""

from __future__ import annotations

import json
import sys

from fedbraid.deployment.inside_flower import registered_nodes

if __name__ == "__main__":
    sys.stdout.write(json.dumps({"nodes": registered_nodes(sys.argv[1])}) + "\n")
