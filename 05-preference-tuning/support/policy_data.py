"""What a model is trained on and asked: your own pairs, split by prompt, or the world's."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from support.model_limits import keep_readable, policy_rule, reward_rule
from support.own_pairs import fingerprint

import numpy as np

from common.cli import UserError
from common.model_names import is_embedded
from common.preferences import make_pairs, questions
from common.prompts import Prompt, distinct_prompts

if TYPE_CHECKING:
    from datasets import Dataset

HELD_OUT = 1000  # pairs at most: an accuracy is then known to 0.03

# --- Training and held-out rows ---


def split_by_prompt(
    rows: "Dataset", seed: int, most: int | None = None, share: float = 1 / 8
) -> tuple["Dataset", "Dataset"]:
    """(training rows, held-out rows) in random order, all rows of a prompt on one side.

    At most `most` are to train on. What is held out depends on the prompts and the seed alone, so
    it is the same in every script. Raises UserError below two prompts.
    """
    prompts = np.array([fingerprint(str(seed), row["prompt"]) for row in rows], dtype=np.uint64)
    distinct = np.unique(prompts)
    if len(distinct) < 2:
        distinct_prompts = f"{len(distinct)} distinct prompts"
        raise UserError(f"--dataset: {distinct_prompts}; at least 2 are needed to hold some out")
    held = np.isin(prompts, distinct[: max(1, round(share * len(distinct)))])
    order = np.random.default_rng(seed).permutation(len(rows))
    return rows.select(order[~held[order]][:most]), rows.select(order[held[order]][:HELD_OUT])


def split_for_policy(
    rows: "Dataset", tokenizer, seed: int, max_new_tokens: int, most: int | None = None
) -> tuple["Dataset", "Dataset"]:
    """(training rows, held-out rows) for a language model, with room for sampled answers."""
    rule = policy_rule(tokenizer, max_new_tokens)
    return split_by_prompt(keep_readable(rows, tokenizer, rule), seed, most)


def split_for_reward_model(
    rows: "Dataset", tokenizer, seed: int, most: int | None = None
) -> tuple["Dataset", "Dataset"]:
    """(training rows, held-out rows) for a reward model."""
    rule = reward_rule(tokenizer)
    return split_by_prompt(keep_readable(rows, tokenizer, rule), seed, most)


def check_labels(*parts: "Dataset") -> None:
    """Raise UserError where answers with a label are all good, or all bad, in one of the parts."""
    for rows in parts:
        if "label" in rows.column_names and len(set(rows["label"])) < 2:
            reason = f"of {len(rows)} training or held-out answers all have the same label"
            raise UserError(f"--dataset: {reason}; more rows, or another --seed, are needed")


# --- What a policy is trained on and asked, in the world or of your own ---


class PolicyData(NamedTuple):
    """Pairs to train on, held-out pairs, held-out prompts, and those watched during training."""

    train: Sequence[dict]
    held: Sequence[dict]
    prompts: list[Prompt]
    watched: list[Prompt]
    has_gold: bool


def policy_data(
    rows: "Dataset | None",
    tokenizer,
    pairs: int | None,
    seed: int,
    max_new_tokens: int,
    prompts: int | None = None,
    held_out: int = 500,
) -> PolicyData:
    """The user's rows, split; or, for None, the world's pairs. `prompts` is how many are asked.

    In the world the watched prompts are validation prompts, since settings are chosen by them.
    """
    if rows is not None:
        train, held = split_for_policy(rows, tokenizer, seed, max_new_tokens, pairs)
        check_labels(train, held)
        asked = distinct_prompts(held["prompt"])[: prompts or 16]
        return PolicyData(train, held, asked, asked[:8], has_gold=False)
    prompts = prompts or 256
    test = [question.prompt for question in questions("test")[:prompts]]
    watched = [question.prompt for question in questions("validation")[: max(1, 5 * prompts // 16)]]
    train, held = make_pairs(pairs, seed=seed), make_pairs(held_out, "test", seed=seed)
    return PolicyData(train, held, test, watched, has_gold=True)


def tell_limits(
    model: str, dataset: str | None, train: Sequence[dict], epochs: int, batch_size: int
) -> None:
    """Say of a run on the user's own pairs what its result cannot be worth."""
    steps = epochs * -(-len(train) // batch_size)
    if dataset and is_embedded(model):
        print(f"{model} knows only the lab's own world; give your own model with --model")
    if dataset and steps < 20:
        print(f"{len(train)} pairs make only {steps} steps: too few to teach a model much")
