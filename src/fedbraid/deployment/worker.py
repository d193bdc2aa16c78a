"""The process of a site that computes: `python -m fedbraid.deployment.worker ADDRESS SECRET_FILE`.

It stays, with model and data in memory, and runs the installed package whatever was sent. It takes its tasks from the
site's own node on this machine.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

from fedbraid.deployment import apps
from fedbraid.deployment.inside_flower import Tasks

PULL, AGAIN = 0.2, 2.0
"""Seconds between two looks for a task, and after an error."""

log = logging.getLogger("fedbraid.worker")


def main(address: str, secret: bytes) -> None:
    """Works until the process that started it is gone."""
    tasks, parent = Tasks(address, secret), os.getppid()
    while os.getppid() == parent:
        try:
            if token := tasks.next(PULL):
                _work(tasks, token)
        except Exception as error:  # its node may be gone for a while, in any way
            log.warning("%s: %s", type(error).__name__, error)
            time.sleep(AGAIN)


def _work(tasks: Tasks, token: str) -> None:
    """One message: taken, answered, given back."""
    with tasks.taken(token) as task:
        log.info("%s of run %s", task.message.metadata.message_type, task.message.metadata.run_id)
        try:
            reply = apps.client(message=task.message, context=task.context)
        except BaseException as error:
            log.exception("the app failed")
            task.fail(type(error).__name__)  # the sentence may hold what is the site's alone
            raise
        task.reply(reply)


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    main(sys.argv[1], Path(sys.argv[2]).read_bytes())
