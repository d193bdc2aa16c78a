"""A run with much merged beside its adapter, as peft loads it: one adapter, two, or a whole model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedbraid.errors import UserError
from fedbraid.models import AdaptedModel, Adapter, load_backbone
from fedbraid.models.peft_files import _lora, save_adapter, save_apart, save_merged

Saved = Callable[[str], Path]
ADAPTER = Adapter(rank=2, alpha=5.0, layers=("q_proj", "fc1", "fc2"))


def weights_of(model: AdaptedModel, *, dense: bool, delta: bool) -> dict[str, Tensor]:
    """An adapter, with merged factors of unlike ranks on some layers and matrices on others."""
    draws = torch.Generator().manual_seed(0)
    values: dict[str, Tensor] = {}
    for number, (layer, (d_out, d_in)) in enumerate(model.layers.items()):
        values[f"lora_A/{layer}"] = torch.randn(2, d_in, generator=draws) * 0.1
        values[f"lora_B/{layer}"] = torch.randn(d_out, 2, generator=draws) * 0.1
        left, right = torch.randn(d_out, 3 + number, generator=draws), torch.randn(3 + number, d_in, generator=draws)
        if delta and number % 3 != 1:
            values |= {f"delta_B/{layer}": left * 0.05, f"delta_A/{layer}": right * 0.05}
        if dense and number % 3 != 0:
            values[f"dense/{layer}"] = left @ right * 0.01
    return values


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("dense", "delta"), [(True, True), (False, True), (True, False)])
def test_all_forms_answer_as_the_run_does(
    dense: bool, delta: bool, saved: Saved, pixels: Tensor, tmp_path: Path
) -> None:
    from peft import PeftModel

    model = AdaptedModel(load_backbone(str(saved("vit"))), ADAPTER)
    weights = weights_of(model, dense=dense, delta=delta)
    model.load(weights)
    with torch.no_grad():
        expected = model.features({"pixel_values": pixels})
    given = (weights, ADAPTER, model.layers, model.backbone)
    for save in (save_adapter, save_apart, save_merged):
        (tmp_path / save.__name__).mkdir()
        save(*given, tmp_path / save.__name__)
    one = PeftModel.from_pretrained(load_backbone(str(saved("vit"))).module, tmp_path / "save_adapter")
    two = PeftModel.from_pretrained(load_backbone(str(saved("vit"))).module, tmp_path / "save_apart" / "adapter")
    two.load_adapter(tmp_path / "save_apart" / "residual", "residual")
    two.base_model.set_adapter(["default", "residual"])
    assert {layer.r["default"] for layer in two.modules() if hasattr(layer, "lora_A")} == {2}
    for module in (one, two, load_backbone(str(tmp_path / "save_merged")).module):
        with torch.no_grad():
            got = module.eval()(pixel_values=pixels).last_hidden_state[:, 0]
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


def test_where_nothing_was_merged_there_is_nothing_apart(saved: Saved, tmp_path: Path) -> None:
    model = AdaptedModel(load_backbone(str(saved("vit"))), ADAPTER)
    weights = weights_of(model, dense=False, delta=False)
    with pytest.raises(UserError, match="use --format peft"):
        save_apart(weights, ADAPTER, model.layers, model.backbone, tmp_path)


def test_a_rank_is_that_of_its_layer_alone_also_where_another_name_ends_like_it() -> None:
    from peft import inject_adapter_in_model

    inner = torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 4)})
    module = torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 4), "inner": inner})
    factors = {"fc": (torch.ones(4, 1), torch.ones(1, 4)), "inner.fc": (torch.ones(4, 2), torch.ones(2, 4))}
    config, tensors = _lora(factors)
    inject_adapter_in_model(config, module)
    ranks = {name: module.get_submodule(name).r["default"] for name in factors}
    assert ranks == {"fc": 1, "inner.fc": 2}
    assert tensors["fc.lora_A.weight"].shape == (1, 4)
