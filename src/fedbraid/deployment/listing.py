"""The nodes that a server knows, as JSON: `python -m fedbraid.deployment.listing CONNECTION`.

Flower's own command tells numbers and no names, and it is by name that a node is a site.
"""

from __future__ import annotations

import json
import sys


def main(connection: str) -> None:
    """Prints every node that is registered: number, name, status."""
    from flwr.cli.flower_config import read_superlink_connection
    from flwr.cli.utils import init_http_client_from_connection
    from flwr.proto.control_pb2 import ListNodesRequest

    client = init_http_client_from_connection(read_superlink_connection(connection))
    try:
        nodes = client.ListNodes(ListNodesRequest()).nodes_info
    finally:
        client.close()
    told = [{"id": node.node_id, "name": node.name, "status": node.status} for node in nodes]
    sys.stdout.write(json.dumps({"nodes": told}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
