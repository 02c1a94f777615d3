"""Which weights of a model LoRA adapts, found out before any work is done."""

import copy

from common.cli import UserError
from common.models import in_brief

ALL = "all-linear"  # PEFT's word for every matrix but the head's
# Matrices of state-space layers that are read past their modules, where PEFT refuses an adapter.
NOT_TO_ADAPT = ["out_proj", "conv1d"]


def lora_targets(config) -> dict:
    """`target_modules` of PEFT's LoraConfig, and what to leave out, for a model of this config.

    What PEFT knows of the type where that fits, else all matrices. Tried on a model without
    weights. Raises UserError where there is nothing to adapt.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    everything = {"target_modules": ALL}
    candidates = [everything, {**everything, "exclude_modules": NOT_TO_ADAPT}]
    if config.model_type in KNOWN:
        candidates.insert(0, {"target_modules": KNOWN[config.model_type]})
    for targets in candidates:
        reason = why_not(config, targets)
        if reason is None:
            return targets
    raise UserError(f"LoRA cannot adapt a model of the type {config.model_type}: {reason}")


def why_not(config, targets: dict) -> str | None:
    """Why PEFT cannot adapt these modules; None where it can."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
            get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **targets))
    except Exception as error:  # whatever the library raises for what does not fit
        return in_brief(error)
    return None
