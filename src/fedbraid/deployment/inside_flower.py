"""All that is used of Flower's inside, each with its reason; everything else is in its public modules and programs.

Public are `flwr.app`, `flwr.clientapp`, `flwr.serverapp`, `flwr.simulation` and the programs `flwr`,
`flower-superlink`, `flower-supernode`. What is in here may change with any version of Flower, and is imported where it
is used, since each of them runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr.app import Context, Message


def wrap_server(*applications: type) -> None:
    """Puts applications before the one that Flower's server builds, in this process.

    Reason: the port that answers nodes answers commands too, from anywhere, and no option of Flower's parts them; and
    Flower does not compare who signed a request with whose answer is in it.
    """
    from flwr.superlink import extensions
    from starlette.middleware import Middleware

    known = extensions.get_middleware()
    extensions.get_middleware = lambda: (*map(Middleware, applications), *known)


def senders(request: bytes) -> tuple[int, set[int]]:
    """(node that sends a request of answers, nodes in whose names these are); (0, none) where it is no such request.

    Reason: the path of a request tells what it is, and its body who speaks.
    """
    from flwr.proto.fleet_pb2 import PushMessagesRequest
    from google.protobuf.message import DecodeError

    try:
        told = PushMessagesRequest.FromString(request)
    except DecodeError:
        return 0, set()
    return told.node.node_id, {message.metadata.src_node_id for message in told.messages_list}


def start_apps_by(started: Callable[[Sequence[str]], list[str]]) -> None:
    """Changes the command by which Flower's server starts what starts its app, in this process.

    Reason: that process writes a token on the app's command line, which every account of the machine can read.
    """
    module: Any = import_module("flwr.superlink.cli.flower_superlink")
    usual = module._get_superexec_command
    module._get_superexec_command = lambda **options: started(usual(**options))


def start_programs_by(started: Callable[..., subprocess.Popen[bytes]]) -> None:
    """Changes how the process that starts Flower's apps starts them, in this process. The reason is the same."""
    from flwr.supercore.superexec.executor import subprocess_executor

    starts: Any = SimpleNamespace(Popen=started, DEVNULL=subprocess.DEVNULL)
    subprocess_executor.subprocess = starts  # pyright: ignore[reportPrivateImportUsage]


def registered_nodes(connection: str) -> list[dict[str, Any]]:
    """Number, name and status of every node that the server of a connection knows.

    Reason: `flwr supernode list` tells numbers and no names, and it is by name that a node is a site.
    """
    from flwr.cli.flower_config import read_superlink_connection
    from flwr.cli.utils import init_http_client_from_connection
    from flwr.proto.control_pb2 import ListNodesRequest

    client = init_http_client_from_connection(read_superlink_connection(connection))
    try:
        nodes = client.ListNodes(ListNodesRequest()).nodes_info
    finally:
        client.close()
    return [{"id": node.node_id, "name": node.name, "status": node.status} for node in nodes]


class Tasks:
    """The messages that a node on this machine has for its client app, taken one at a time.

    Reason: Flower's own executor starts a process for every message, and runs in it the code that the server sent. A
    site keeps model and data in memory, and executes nothing from elsewhere. The node knows this process by a secret
    that both were started with.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor

        self._address = address
        protected = frozenset({"/flwr.proto.Runtime/AcquireTask"})
        self._client = self._connected(SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=protected))

    def next(self, pause: float) -> str:
        """The token of the next message, or of none after a pause in seconds."""
        from flwr.proto.runtime_pb2 import AcquireTaskRequest

        token = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-clientapp"])).token
        if not token:
            time.sleep(pause)
        return token

    @contextmanager
    def taken(self, token: str) -> Generator[Task]:
        """The message of a token. The node is told that it is being worked on, and whether it was answered."""
        from flwr.common.constant import SubStatus
        from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
        from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
        from flwr.supernode.runtime.run_clientapp import pull_task_input, push_task_output

        client = self._connected(RuntimeTokenHttpInterceptor(token))
        beat = HeartbeatSender(make_task_heartbeat_fn_http(client))
        beat.start()
        context, status, details = None, SubStatus.FAILED, "the message was not answered"
        try:
            message, context, _, _ = pull_task_input(client)
            task = Task(message, context, client)
            yield task
            status, details = SubStatus.COMPLETED, ""
        finally:
            push_task_output(client, context, status, details)
            beat.stop()
            client.close()

    def _connected(self, interceptor: Any) -> Any:
        """To the node on this machine, whose port nobody else can reach."""
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
        from flwr.supercore.retry import make_simple_http_retry_invoker
        from flwr.supercore.runtime import RuntimeHttpClient

        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), interceptor],
            retry_invoker=make_simple_http_retry_invoker(),
        )


class Task:
    """A message that is being worked on."""

    def __init__(self, message: Message, context: Context, client: Any) -> None:
        self.message = message
        self.context = context
        self._client = client

    def reply(self, reply: Message) -> None:
        """Gives the answer to the node."""
        from flwr.supernode.runtime.run_clientapp import push_message

        push_message(self._client, reply, self.context)

    def fail(self, reason: str) -> None:
        """Tells the node, and through it the server, that there is no answer."""
        from flwr.app import Error, Message
        from flwr.common.constant import ErrorCode

        self.reply(Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=self.message))
