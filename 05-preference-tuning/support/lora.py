"""Which weights of a model LoRA adapts, found out before any work is done."""

import copy

from common.cli import UserError
from common.models import in_brief

ALL = {"target_modules": "all-linear"}  # PEFT's word for every matrix but the head's
# State-space layers read these past their modules, and PEFT refuses to adapt them.
NOT_READ = ["out_proj", "conv1d"]


def lora_targets(config) -> dict:
    """`target_modules` of PEFT's LoraConfig, and what to leave out, for a model of this config.

    What PEFT knows of the type where that fits, else all matrices, else those of attention (experts
    are often no matrices). Tried on a model without weights. Raises UserError where there is
    nothing to adapt.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    candidates = [ALL, {**ALL, "exclude_modules": NOT_READ}]
    candidates.append({"target_modules": attention_matrices(config)})
    if config.model_type in KNOWN:
        candidates.insert(0, {"target_modules": KNOWN[config.model_type]})
    for targets in candidates:
        reason = why_not(config, targets)
        if reason is None:
            return targets
    raise UserError(f"LoRA cannot adapt a model of the type {config.model_type}: {reason}")


def attention_matrices(config) -> list[str]:
    """The names of the matrices in the attention layers."""
    import torch

    names = set()
    for path, module in without_weights(config).named_modules():
        *parents, name = path.split(".")
        if isinstance(module, torch.nn.Linear) and "att" in ".".join(parents):
            names.add(name)
    return sorted(names)


def why_not(config, targets: dict) -> str | None:
    """Why PEFT cannot adapt these modules; None where it can."""
    import torch
    from peft import LoraConfig, get_peft_model

    try:
        with torch.device("meta"):
            lora = LoraConfig(lora_dropout=0.1, task_type="CAUSAL_LM", **targets)
            get_peft_model(without_weights(config), lora)
    except Exception as error:  # whatever the library raises for what does not fit
        return in_brief(error)
    return None


def without_weights(config):
    """A model of this config that takes no memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(copy.deepcopy(config))
