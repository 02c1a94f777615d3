"""The batches of TRL's trainers as the losses in the open take them, to compare the two."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from support.evaluation import pair_logps, response_logps

from common.models import encode_response
from common.preferences import SIDES

if TYPE_CHECKING:
    from support.training import Trained


def difference_from_trl(losses, trained: "Trained") -> float:
    """|mean of our losses (B,) - TRL's loss| on the first B rows that it was trained on."""
    import torch

    trainer = trained.trainer
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(losses))])
    with torch.no_grad():
        trl_loss = trainer.compute_loss(trained.policy, trainer._prepare_inputs(batch)).item()
    return abs(losses.mean().item() - trl_loss)


def loss_difference(losses, trained: "Trained") -> dict:
    """`difference_from_trl` for the metrics; nothing where the training was in bfloat16.

    Its rounding, some thousandths of a nat, would hide what the check is about.
    """
    if trained.trainer.args.bf16:
        return {}
    return {"loss_difference_from_trl": difference_from_trl(losses, trained)}


def loss_differences(trained: dict, ipo_loss: Callable, kto_loss: Callable) -> dict:
    """|loss in the open - TRL's| after training, on the first batch that was trained on.

    `trained` are (training, tokenizer, first pairs) by arm; only "ipo" and "kto" are read.
    """
    differences = {}
    if any(training.trainer.args.bf16 for training, *_ in trained.values()):
        return differences  # see loss_difference
    if "ipo" in trained:
        training, tokenizer, pairs = trained["ipo"]
        ours = ipo_loss(**ipo_inputs(training, tokenizer, pairs))
        differences["ipo_difference_from_trl"] = difference_from_trl(ours, training)
    if "kto" in trained:
        training, tokenizer, pairs = trained["kto"]
        ours = kto_loss(**kto_inputs(training, tokenizer, 2 * len(pairs)))
        differences["kto_difference_from_trl"] = difference_from_trl(ours, training)
    return differences


def ipo_inputs(trained: "Trained", tokenizer, pairs: Sequence[dict]) -> dict:
    """What `ipo_loss` takes for these pairs, all (B,): log-probabilities in nats, tokens."""
    import torch

    policy, reference = pair_logps(trained.policy, tokenizer, pairs)
    lengths = []
    for side in SIDES:
        responses = [encode_response(tokenizer, row[side], row["prompt"]) for row in pairs]
        lengths.append(torch.tensor([len(response) for response in responses]))
    return {
        "policy_chosen_logps": policy[0],
        "policy_rejected_logps": policy[1],
        "ref_chosen_logps": reference[0],
        "ref_rejected_logps": reference[1],
        "beta": trained.trainer.beta,
        "chosen_lengths": lengths[0],
        "rejected_lengths": lengths[1],
    }


def kto_inputs(trained: "Trained", tokenizer, count: int) -> dict:
    """What `kto_loss` takes for the first `count` rows, log-probabilities (B,) in nats.

    For the reference point every prompt gets the response to the prompt before it.
    """
    import torch

    trainer, policy = trained.trainer, trained.policy
    rows = [trainer.train_dataset[i] for i in range(count)]
    prompts = [row["prompt_ids"] for row in rows]
    responses = [row["completion_ids"] for row in rows]
    mismatched = responses[-1:] + responses[:-1]
    logps = response_logps(policy, tokenizer, prompts, responses)
    kl_logps = response_logps(policy, tokenizer, prompts, mismatched)
    with policy.disable_adapter():
        ref_logps = response_logps(policy, tokenizer, prompts, responses)
        kl = (kl_logps - response_logps(policy, tokenizer, prompts, mismatched)).mean()
    return {
        "policy_logps": logps,
        "ref_logps": ref_logps,
        "labels": torch.tensor([row["label"] for row in rows]),
        "kl": kl.clamp(min=0),
        "beta": trainer.beta,
        "desirable_weight": trainer.desirable_weight,
        "undesirable_weight": trainer.undesirable_weight,
    }
