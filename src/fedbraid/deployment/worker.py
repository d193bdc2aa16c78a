"""The process of a site that computes: `python -m fedbraid.deployment.worker ADDRESS SECRET_FILE`.

Flower would start a process for every message, and run in it the app that the server sent. This one stays, with model
and data in memory, and runs the installed package whatever was sent: a site executes no code from elsewhere. It takes
its tasks from the site's own node on this machine, to whom it proves itself by a secret that both were started with.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.app.error import Error
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from fedbraid.deployment import apps

PULL, AGAIN = 0.2, 2.0
"""Seconds between two looks for a task, and after an error."""

log = logging.getLogger("fedbraid.worker")


def main(address: str, secret: bytes) -> None:
    """Works until the process that started it is gone."""
    protected = frozenset({"/flwr.proto.Runtime/AcquireTask"})
    client = _connected(address, SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=protected))
    parent = os.getppid()
    while os.getppid() == parent:
        try:
            found = client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-clientapp"]))
            if found.token:
                _work(address, found.token)
            else:
                time.sleep(PULL)
        except Exception as error:  # its node may be gone for a while, in any way
            log.warning("%s: %s", type(error).__name__, error)
            time.sleep(AGAIN)


def _work(address: str, token: str) -> None:
    """One message: taken, answered, given back."""
    client = _connected(address, RuntimeTokenHttpInterceptor(token))
    beat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    beat.start()
    context, status, details = None, SubStatus.FAILED, "the message could not be read"
    try:
        message, context, _, _ = pull_task_input(client)
        log.info("%s of run %s", message.metadata.message_type, message.metadata.run_id)
        try:
            reply = apps.client(message=message, context=context)
            status, details = SubStatus.COMPLETED, ""
        except BaseException as error:
            log.exception("the app failed")
            details = type(error).__name__  # the sentence may hold what is the site's alone
            push_message(
                client, Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, details), reply_to=message), context
            )
            raise
        push_message(client, reply, context)
    finally:
        push_task_output(client, context, status, details)
        beat.stop()
        client.close()


def _connected(address: str, interceptor: Any) -> RuntimeHttpClient:
    """To the node on this machine, whose port nobody else can reach."""
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), interceptor],
        retry_invoker=make_simple_http_retry_invoker(),
    )


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    main(sys.argv[1], Path(sys.argv[2]).read_bytes())
