"""Parameters of the tutorial's models and of the lab's, and what they take in memory."""

import json
import math
from pathlib import Path
from typing import NamedTuple

from common import reporting


class Sizes(NamedTuple):
    """Parameters of each role, without the heads of reward and value model."""

    policy: int
    reward: int
    adapter: int  # LoRA of rank 8


def model_sizes() -> dict[str, Sizes]:
    """Of 7B models, of the tutorial's, and of the embedded ones where they are installed."""
    llama = 32 * 2 * 8 * (4096 + 4096)  # q and v of 32 layers
    distilgpt2 = 6 * 8 * ((768 + 2304) + (768 + 768) + (3072 + 768))  # c_attn and both c_proj
    sizes = {
        "7B": Sizes(7_000_000_000, 7_000_000_000, llama),
        "distilgpt2": Sizes(81_912_576, 66_362_880, distilgpt2),
    }
    tiny = Path(reporting.__file__).with_name("tiny")
    gpt2, bert = (tiny / name / "model.safetensors" for name in ("tiny-gpt2", "tiny-distilbert"))
    if gpt2.is_file() and bert.is_file():
        policy, adapter = read_counts(gpt2)
        sizes["tiny-gpt2"] = Sizes(policy, read_counts(bert)[0], adapter)
    return sizes


def read_counts(path: Path) -> tuple[int, int]:
    """Parameters of a backbone, and of LoRA (r = 8) on c_attn and c_proj, from a file's header."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = adapter = 0
    for name, tensor in header.items():
        if name.startswith(("__", "lm_head", "vocab_")):
            continue
        total += math.prod(tensor["shape"])
        if name.endswith(("c_attn.weight", "c_proj.weight")):
            adapter += 8 * sum(tensor["shape"])
    return total, adapter


def in_gb(trained: dict[str, int], frozen: dict[str, int]) -> dict:
    """GB (1e9 bytes) of fp16 weights by role, of parameters by role; AdamW's two fp32 moments."""
    weights = {role: 2 * size / 1e9 for role, size in (trained | frozen).items()}
    count = sum(trained.values())
    return {
        "weights_gb": sum(weights.values()),
        "by_role": weights,
        "trained_roles": list(trained),
        "trained": count,
        "adamw_gb": 2 * 4 * count / 1e9,
    }


def memory_finding(model: str, methods: dict[str, dict]) -> str:
    """What every method holds for models of one size, in a sentence."""
    held = [f"{name} {row['weights_gb']:.3g}" for name, row in methods.items()]
    moments = [f"{row['adamw_gb']:.3g}" for row in methods.values()]
    weights = f"GB of fp16 weights, {model}: {', '.join(held)}"
    return f"{weights}; AdamW's moments add {', '.join(moments)}."
