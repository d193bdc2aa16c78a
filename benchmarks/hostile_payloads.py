"""Bytes that would run code, exhaust memory or leave their folder if something read them carelessly."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

DEEP = b"[" * 200_000
"""Nested deeper than any parser's stack."""


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def pickled(marker: Path, protocol: int = 4) -> bytes:
    return pickle.dumps({"state": Evil(marker)}, protocol=protocol)


def torch_zip(marker: Path, *, legacy: bool = False) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save({"weight": Evil(marker)}, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def object_array(marker: Path) -> bytes:
    """A numpy file whose array holds an object."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil(marker)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def object_arrays(marker: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.array([Evil(marker)], dtype=object), labels=np.array([0]))
    return buffer.getvalue()


def framed(header: bytes, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with this header."""
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def tensor_header(**facts: Any) -> bytes:
    """A header of one tensor whose facts are not its own."""
    return json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **facts}}).encode()


def safetensors_of(marker: Path) -> Mapping[str, bytes]:
    """Files that are no safetensors, or bad ones, by what is wrong with them."""
    return {
        "a pickle": pickled(marker),
        "what torch.save writes": torch_zip(marker),
        "what torch.save wrote before": torch_zip(marker, legacy=True),
        "a header of 2^63 bytes": framed(b"{}", length=2**63),
        "a header longer than the file": framed(b"{}", length=10**8),
        "a nested header": framed(DEEP),
        "a tensor of 2^62 numbers": framed(tensor_header(shape=[2**31, 2**31]), bytes(4)),
        "NaN for a size": framed(tensor_header(shape=[float("nan")]), bytes(4)),
        "offsets behind the end": framed(tensor_header(data_offsets=[0, 2**40], shape=[2**38]), bytes(4)),
        "a pickle in a frame": framed(tensor_header(), pickled(marker)),
    }


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_of(path: Path, *members: tuple[str, bytes, int]) -> Path:
    """Members with the mode that their file is to have."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims this size, and holds nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def parquet_of(path: Path, marker: Path) -> Path:
    """A table that names a Python type for a column, pickled in its metadata (CVE-2023-47248)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickled(marker)}
    schema = pa.schema([pa.field("text", pa.string(), metadata=extension), pa.field("label", pa.string())])
    pq.write_table(pa.table({"text": ["a", "b"], "label": ["x", "y"]}, schema=schema), path)
    return path
