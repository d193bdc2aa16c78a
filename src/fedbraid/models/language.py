"""The language model that clients train and evaluate: a causal model with an adapter, which writes answers to prompts.

It is an `AdaptedModel` without a head: what is learned of a batch are the tokens that its `labels` name, and only their
positions become features and logits, so that no more than the answers is ever held against the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from fedbraid.algebra import Tensors
from fedbraid.core import IGNORED, PromptInput, Task
from fedbraid.errors import UserError
from fedbraid.models.adapters import Adapter
from fedbraid.models.causal import CausalBackbone
from fedbraid.models.loaded import check_places, copies, requiring, watched
from fedbraid.models.tuning import tune


class LanguageModel:
    """A causal language model with an adapter injected. It owns the backbone's module.

    Under `precision` bf16 the backbone multiplies in bfloat16. Adapters are fp32, whatever the precision of the frozen
    weights. With `checkpointing` training keeps the inputs of blocks alone and computes the rest of them again.
    """

    def __init__(
        self,
        backbone: CausalBackbone,
        adapter: Adapter,
        *,
        device: str | torch.device = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
        checkpointing: bool = False,
    ) -> None:
        _check_adapter(backbone, adapter)
        self._half = precision == "bf16"
        self.backbone = backbone
        self.adapter = adapter
        self.device = torch.device(device)
        self._mask: Tensor | None = None
        self._module: Any = backbone.module
        if not getattr(self._module, "is_quantized", False):
            self._module.to(self.device)
        self._module.requires_grad_(False)
        self._scale_logits = _scaling(self._module.config)
        self._check_logits()
        if checkpointing:
            self._keep_block_inputs_alone()
        self._tuning = tune(self._module, adapter)

    @property
    def input(self) -> PromptInput:
        return self.backbone.input

    @property
    def width(self) -> int:
        return self.backbone.width

    @property
    def layers(self) -> Mapping[str, tuple[int, int]]:
        return self._tuning.layers

    def fresh(self, generator: torch.Generator) -> dict[str, Tensor]:
        """First values of the adapter, or the pre-trained weights under full fine-tuning."""
        return self._tuning.fresh(generator)

    def fresh_head(self, task: Task, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """Nothing: the model's own vocabulary answers."""
        return {}

    def load(self, tensors: Tensors) -> None:
        """Makes these the tuned values; a low-rank term whose tensors are missing is inactive."""
        check_places(tensors, self._tuning.kinds)
        self._tuning.load(tensors)

    def parameters(self, kinds: Sequence[str]) -> dict[str, nn.Parameter]:
        """The parameters of these kinds, which alone require gradients now."""
        return requiring(self._tuning.loaded(), kinds)

    def values(self, kinds: Sequence[str]) -> dict[str, Tensor]:
        """Copies on the CPU of the loaded values of these kinds."""
        return copies(self._tuning.loaded(), kinds)

    def train(self, mode: bool = True) -> None:
        """Dropout, and checkpoints where there are any, on or off."""
        self._module.train(mode)

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(tokens to learn, width): the final hidden states from which they are told, sample by sample."""
        self._mask = inputs["attention_mask"]
        with self._autocast():
            hidden = self._hidden(inputs["input_ids"], self._mask)
        return hidden[:, :-1][inputs["labels"][:, 1:] != IGNORED].float()

    def logits(self, features: Tensor) -> Tensor:
        """(tokens to learn, vocabulary), in fp32."""
        head = self._module.get_output_embeddings()
        with self._autocast():
            logits = F.linear(features.to(head.weight.dtype), head.weight, head.bias)
        return self._scale_logits(logits.float())

    def penalty(self) -> Tensor:
        """Zero."""
        return torch.zeros((), device=self.device)

    def inputs_of(self, layers: Sequence[str], watch: Callable[[str, Tensor], None]) -> AbstractContextManager[None]:
        """Calls `watch(layer, x)` with each layer's input, (tokens, d_in), on every pass; padding is left out."""
        modules = {name: self._module.get_submodule(name) for name in layers}
        return watched(modules, watch, lambda: self._mask)

    def write(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, beams: int = 1) -> list[str]:
        """What the model writes after each of these prompts, by the likeliest token or the likeliest of `beams`.

        A prompt that leaves no room for so many tokens loses its beginning; `UserError` where none would.
        """
        room = self.backbone.positions - max_new_tokens
        if room < 1:
            raise UserError(
                f"generation.max_new_tokens = {max_new_tokens} leaves no room for a prompt: backbone "
                f"{self.backbone.name!r} reads and writes {self.backbone.positions} tokens together; lower it"
            )
        rows = [torch.tensor(self.input.cut(prompt, room)) for prompt in prompts]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.input.padding, padding_side="left")
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1]) >= ids.shape[1] - lengths[:, None]).long()
        with torch.no_grad(), self._autocast():
            written = self._module.generate(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                max_new_tokens=max_new_tokens,
                num_beams=beams,
            )
        texts = self.backbone.tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(n, tokens, width), the final hidden states."""
        return self._module.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def _keep_block_inputs_alone(self) -> None:
        if not self._module.supports_gradient_checkpointing:
            raise UserError(f"backbone {self.backbone.name!r} has no training.gradient_checkpointing; remove it")
        older = self._module.gradient_checkpointing_enable  # its name before transformers 5
        getattr(self._module, "activation_checkpointing_enable", older)({"use_reentrant": False})

    def _check_logits(self) -> None:
        """`UserError` where the model makes its logits in a way that is not known here."""
        ids = torch.zeros(1, 2, dtype=torch.int64, device=self.device)
        with torch.no_grad(), self._autocast():
            expected = self._module(input_ids=ids, use_cache=False).logits.float()
            found = self.logits(self._hidden(ids, torch.ones_like(ids)).float())
        if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-2, atol=1e-2):
            raise UserError(
                f"backbone {self.backbone.name!r} (of type {self._module.config.model_type!r}) does not make "
                "its logits from its final hidden states by its output layer alone; such models are not supported"
            )


def next_tokens(inputs: Mapping[str, Tensor]) -> Tensor:
    """The tokens to learn, in the order of the features that they are told from."""
    labels = inputs["labels"][:, 1:]
    return labels[labels != IGNORED]


def _check_adapter(backbone: CausalBackbone, adapter: Adapter) -> None:
    if adapter.kind in ("none", "prompt"):
        raise UserError(
            f"adapter.kind = {adapter.kind!r} tunes nothing of a language model, which has no head of its own; "
            "choose 'lora' or 'full'"
        )
    if adapter.kind == "full" and any(value.dtype != torch.float32 for value in backbone.module.parameters()):
        raise UserError(
            "adapter.kind = 'full' tunes the weights themselves, which needs backbone.dtype = 'fp32'; "
            "training.precision = 'bf16' saves time all the same"
        )


def _scaling(config: Any) -> Callable[[Tensor], Tensor]:
    """What some families do to the output layer's values: Gemma bounds them, Cohere and Granite scale them."""
    cap = getattr(config, "final_logit_softcapping", None)
    factor = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)

    def scale(logits: Tensor) -> Tensor:
        scaled = logits if factor == 1 else logits * factor
        return scaled if cap is None else cap * torch.tanh(scaled / cap)

    return scale
