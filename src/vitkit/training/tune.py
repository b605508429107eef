"""What of a checkpoint learns: all of it, its head alone, or LoRA's products with what comes after the blocks."""

from __future__ import annotations

from vitkit.errors import ConfigError, list_faults
from vitkit.model.base import HEADS, ImageModel
from vitkit.model.lora import LoraSpec, add_lora
from vitkit.training.spec import TrainSpec

__all__ = ["check_tuning", "freeze"]


def check_tuning(spec: TrainSpec, *, from_checkpoint: bool) -> None:
    """Raises ConfigError where `spec` would keep what was never learned, or describes products that nothing gets."""
    faults = []
    if spec.tune != "full" and not from_checkpoint:
        faults.append(f"tune {spec.tune!r} keeps what a checkpoint has learned; name one with --model")
    if spec.tune != "lora" and spec.lora != LoraSpec():
        faults.append(f"lora is set, but tune is {spec.tune!r}; set tune to 'lora'")
    if faults:
        raise ConfigError(list_faults(faults))


def freeze(model: ImageModel, spec: TrainSpec) -> None:
    """Lets those parameters of `model` learn that `spec.tune` names, in place. ConfigError where there are none."""
    if spec.tune == "full":
        return
    for name, parameter in model.named_parameters():
        last = model.layer_of(name) == model.num_layers
        if not (last if spec.tune == "lora" else name.startswith(HEADS)):
            parameter.requires_grad_(False)
    if spec.tune == "lora":
        add_lora(model, spec.lora)
    elif not model.spec.num_classes:
        raise ConfigError(f"tune 'head' trains a head, and the objective {spec.objective!r} has none; tune it 'full'")
