"""What preference tuning starts from: the SFT checkpoint, with data to train on and to judge by."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from support.evaluation import sample_answers
from support.own_pairs import load_own_pairs
from support.policy_data import PolicyData, policy_data, tell_limits
from support.training import load_sft_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Start(NamedTuple):
    """The SFT checkpoint, data, and the settings of the training."""

    reference: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    data: PolicyData
    training: dict
    sft: tuple  # what load_sft_checkpoint takes, for another training from there
    max_new_tokens: int
    samples: int  # answers to each prompt, before and after
    smoke: bool
    reading: dict[str, str] | None = None  # how the user's own pairs are read (cli.READING)

    def answer(self, policy, prompts: list[str], n: int, seed: int) -> tuple:
        """n sampled answers to each prompt: texts, and their readings (prompts, n)."""
        limit = self.max_new_tokens
        return sample_answers(policy, self.tokenizer, prompts, n, limit, seed)


def start_from_sft(
    *,
    model: str,
    dataset: str | None,
    pairs: int | None,
    output_dir: Path,
    device: str,
    sft_steps: int | None = None,
    max_new_tokens: int = 48,
    prompts: int | None = None,
    held_out: int = 500,
    smoke: bool = False,
    reading: dict[str, str] | None = None,
    labelled: bool = False,
    **training,
) -> Start:
    """The world's pairs, or the user's own, and the model to tune on them.

    `prompts` are asked, and `held_out` pairs of the world kept to judge by. `reading` are options
    of `load_preferences`; `labelled` says that answers with a label will do for pairs.
    """
    seed = training["seed"]
    held_out = 32 if smoke else held_out
    reading = reading or {}
    rows = load_own_pairs(dataset, labelled, **reading)
    sft = (model, dataset, sft_steps, seed, output_dir, device)
    reference, tokenizer = load_sft_checkpoint(*sft)
    data = policy_data(rows, tokenizer, pairs, seed, max_new_tokens, prompts, held_out)
    tell_limits(model, dataset, data.train, training["epochs"], training["batch_size"])
    samples = 3 if data.has_gold and not smoke else 1
    return Start(reference, tokenizer, data, training, sft, max_new_tokens, samples, smoke, reading)


def tune_with(train: Callable, **settings) -> tuple:
    """(policy, tokenizer) by a training function, for scripts that need what another one trains."""
    start = start_from_sft(**settings)
    trained = train(start.reference, start.tokenizer, start.data.train, **start.training)
    return trained.policy, start.tokenizer
