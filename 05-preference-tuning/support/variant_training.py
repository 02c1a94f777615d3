"""Trainings beside the losses of dpo_variants.py: DPO in rounds, and SFT on the chosen answers."""

import copy
from collections.abc import Callable, Sequence

from support.training import Trained, as_dataset, run_trainer, trainer_settings
from support.variant_data import sample_pairs

UNPAIRED = ("kto", "apo_zero_unpaired")  # losses of single labels, which stand alone
LOSSES = (  # all of TRL's
    *("sigmoid", "ipo", "hinge", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard"),
    *("aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sigmoid_norm", "sft"),
    *UNPAIRED,
)
ROUNDS = 3


def train_in_rounds(
    model,
    tokenizer,
    pairs: Sequence[dict],
    *,
    train: Callable[..., Trained],
    source: str,
    max_new_tokens: int,
    seed: int,
    **training,
) -> Trained:
    """Training of pairs (`train`) in rounds on as many pairs as `pairs`, all against one reference.

    A round's pairs are the next ones of `pairs` ("written"), or two answers of the SFT checkpoint
    ("sft") or of the policy at the start of the round ("policy"), labelled by the human annotator.
    """
    reference, policy, count = copy.deepcopy(model), model, len(pairs) // ROUNDS
    for k in range(ROUNDS):
        rows = pairs[k * count : (k + 1) * count]
        if source != "written":
            sampler = policy if source == "policy" else reference
            rows = sample_pairs(sampler, tokenizer, count, max_new_tokens, seed + k)
        against = reference if k else None
        trained = train(policy, tokenizer, rows, seed=seed, reference=against, **training)
        policy = trained.policy
    return trained


def train_sft_on_chosen(
    model, tokenizer, pairs: Sequence[dict], *, lora, seed: int, name: str, look=None, **training
) -> Trained:
    """Imitate the chosen answers with an adapter `lora`; the rejected answers are not read."""
    import torch
    from trl import SFTConfig, SFTTrainer

    data = as_dataset(pairs).remove_columns("rejected").rename_column("chosen", "completion")
    torch.manual_seed(seed)  # LoRA starts at random
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**trainer_settings(model, seed=seed, **training)),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora(model),
    )
    return run_trainer(trainer, name, look)
