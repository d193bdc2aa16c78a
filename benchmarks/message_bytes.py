"""Bytes that one client sends in a B round and in an A round of LoRM, at the shapes of ViT-B/16 with rank 16.

    python benchmarks/message_bytes.py

The messages are those of the method (names, forms, wire format), with random values: 12 blocks with LoRA on the fused
qkv projection, the attention projection and both layers of the MLP, and a head of 10 classes. Beside them what the same
round costs where whole Gram matrices are sent in fp32.
"""

from __future__ import annotations

import torch

from fedbraid.linalg import to_triangle
from fedbraid.runtimes.codec import Codec

BLOCK = {"attn.qkv": (2304, 768), "attn.proj": (768, 768), "mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
LAYERS = {f"blocks.{block}.{name}": shape for block in range(12) for name, shape in BLOCK.items()}
RANK, WIDTH, CLASSES = 16, 768, 10


def main() -> None:
    head = {
        "head/0": torch.randn(CLASSES, WIDTH + 1),
        "triangle/head/0": to_triangle(torch.randn(WIDTH + 1, WIDTH + 1)),
        "count": torch.tensor(500.0, dtype=torch.float64),
        "metric/loss": torch.tensor(0.5, dtype=torch.float64),
        "metric/samples": torch.tensor(500.0, dtype=torch.float64),
    }
    b_round = head | {f"lora_B/{name}": torch.randn(d_out, RANK) for name, (d_out, _) in LAYERS.items()}
    b_round |= {f"triangle/lora_B/{name}": to_triangle(torch.randn(RANK, RANK)) for name in LAYERS}
    a_round = head | {f"lora_A/{name}": torch.randn(RANK, d_in) for name, (_, d_in) in LAYERS.items()}
    a_round |= {f"diagonal/lora_A/{name}": torch.rand(d_in) for name, (_, d_in) in LAYERS.items()}
    whole = 4 * sum(d_in * d_in for _, d_in in LAYERS.values())
    for name, message in (("B round", b_round), ("A round", a_round)):
        size = len(Codec().encode(message))
        print(f"{name}: {size / 1e6:.2f} MB   with whole Grams: {(size + whole) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
