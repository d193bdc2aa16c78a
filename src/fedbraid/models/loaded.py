"""What all models do alike with the values that are loaded into them, and with the inputs of their layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from fedbraid.algebra import Tensors
from fedbraid.errors import UserError


def check_places(tensors: Tensors, places: Sequence[str]) -> None:
    """`UserError` for a tensor of a kind that the model does not load."""
    unknown = [key for key in tensors if key.split("/", 1)[0] not in places]
    if unknown:
        raise UserError(f"the model has no place for {unknown[0]!r}; it loads {', '.join(places)}")


def requiring(values: Tensors, kinds: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters of these kinds (`lora_A`, `base`, `head/3`, ...), which alone require gradients now."""
    chosen: dict[str, nn.Parameter] = {}
    for key, value in values.items():
        if isinstance(value, nn.Parameter):
            value.requires_grad_(_among(key, kinds))
            if value.requires_grad:
                chosen[key] = value
    return chosen


def copies(values: Tensors, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Copies on the CPU of the values of these kinds."""
    return {key: value.detach().cpu().clone() for key, value in values.items() if _among(key, kinds)}


@contextmanager
def watched(
    modules: Mapping[str, nn.Module], watch: Callable[[str, Tensor], None], mask: Callable[[], Tensor | None]
) -> Iterator[None]:
    """Calls `watch(name, x)` with each module's input, (tokens, d_in), on every forward pass inside.

    Padding is left out: where `mask()` has the shape of an input's tokens, it says which of them count.
    """

    def hook(name: str):
        def see(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            watch(name, _tokens(inputs[0].detach(), mask()))

        return see

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tokens(x: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None and x.shape[:-1] == mask.shape:
        return x[mask.bool()]
    return x.reshape(-1, x.shape[-1])


def _among(key: str, kinds: Sequence[str]) -> bool:
    return any(key == kind or key.startswith(kind + "/") for kind in kinds)
