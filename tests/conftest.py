"""For all tests: no network, one thread, the same examples in every run."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("fedbraid", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("fedbraid")


@pytest.fixture
def identity() -> None:
    """Flower's messages are made inside a task; here there is none."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
