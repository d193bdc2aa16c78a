"""Data: read by `load`, cut by `make_stream`, shared out by `make_partition`, served by `make_clients`."""

from fedbraid.data.clients import ClientData, Party, make_clients
from fedbraid.data.datasets import Here, load
from fedbraid.data.held import Dataset, Table
from fedbraid.data.known import DATASETS, source_of
from fedbraid.data.partition import EVALUATOR, PARTITIONS, Partition, make_partition
from fedbraid.data.partition_files import load_partition, partition_text
from fedbraid.data.prompts import Prompt
from fedbraid.data.rows import Columns, Rows, Splits
from fedbraid.data.sources import HubTables, Source
from fedbraid.data.streams import Stream, make_stream
from fedbraid.data.transforms import AUGMENTATIONS, prepare

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "EVALUATOR",
    "PARTITIONS",
    "ClientData",
    "Columns",
    "Dataset",
    "Here",
    "HubTables",
    "Partition",
    "Party",
    "Prompt",
    "Rows",
    "Source",
    "Splits",
    "Stream",
    "Table",
    "load",
    "load_partition",
    "make_clients",
    "make_partition",
    "make_stream",
    "partition_text",
    "prepare",
    "source_of",
]
