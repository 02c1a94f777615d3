"""TRL's RLOOTrainer as online_rl.py uses it: with the lab's sampler, in one or more processes."""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from support.training import copy_weights, spare_copy

from common.prompts import Prompt, as_messages, as_prompt
from common.sampling import sample

if TYPE_CHECKING:
    from datasets import Dataset


def as_prompts(prompts: Sequence[Prompt], at_least: int) -> "Dataset":
    """The prompts as TRL reads them, repeated where there are fewer than an update needs."""
    from datasets import Dataset

    rows = [{"prompt": as_messages(prompt)} for prompt in prompts]
    return Dataset.from_list(rows * -(-at_least // len(rows)))


def make_rloo_trainer(score: Callable, **options):
    """TRL's RLOOTrainer whose answers are sampled as everywhere in the lab, at half the time.

    `score(prompts, texts)`, texts (P, 1), gives rewards (P, 1). Random numbers belong to the seed,
    the update and the place of the prompt, so that several processes sample what one samples.
    """
    from accelerate.utils import gather_object
    from trl import RLOOTrainer

    class LabTrainer(RLOOTrainer):
        def _generate_single_turn(self, prompt_ids, images, multimodal_fields):
            n, limit = self.num_generations, self.max_completion_length
            mine = prompt_ids[::n]  # each stands n times in a row
            prompts = gather_object(mine)  # of all processes, since `sample` shares them out
            policy = copy_weights(self.model, self.spare)
            seed = 1000 * (self.args.seed + 1) + self._step
            sampled = sample(policy, self.processing_class, prompts, n, limit, seed=seed)
            first = self.accelerator.process_index * len(mine)
            my_answers = sampled[first : first + len(mine)]
            return [answer.token_ids for answers in my_answers for answer in answers]

    def reward(prompts: list, completions: list, **_) -> list[float]:
        asked = [as_prompt(messages) for messages in prompts]
        texts = [[messages[-1]["content"]] for messages in completions]
        first = trainer.accelerator.process_index * len(asked)
        rewards = score(gather_object(asked), gather_object(texts))[:, 0]
        return rewards[first : first + len(asked)].tolist()

    trainer = LabTrainer(reward_funcs=reward, **options)
    count_positions(trainer.model)
    trainer.spare = spare_copy(trainer.model)
    return trainer


def count_positions(model) -> None:
    """Have a model count positions from its first token on, not from the padding before it.

    TRL pads prompts on the left and gives no positions. GPT-2, whose positions are absolute, then
    reads every shorter prompt at places where it does not stand: its log-ratios are off by nats.
    """

    def add_positions(module, args: tuple, inputs: dict) -> tuple:
        if "position_ids" not in inputs and inputs.get("attention_mask") is not None:
            positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            inputs = {**inputs, "position_ids": positions}
        return args, inputs

    if "position_ids" in inspect.signature(model.get_base_model().forward).parameters:
        model.register_forward_pre_hook(add_positions, with_kwargs=True)


def next_update(trainer, count: int) -> tuple[list, list, list]:
    """What the trainer would learn from next: prompts (P,), token ids and advantages (P, K).

    Each process answers the first `count` training prompts; the answers of all stand together.
    """
    from accelerate.utils import gather_object

    n = trainer.num_generations
    repeated = [trainer.train_dataset[i] for i in range(count) for _ in range(n)]
    trainer.model.train()
    batch = trainer._generate_and_score_completions(repeated)
    trainer.model.eval()
    lengths = batch["completion_mask"].sum(-1).tolist()
    padded = zip(batch["completion_ids"].tolist(), lengths, strict=True)
    token_ids = gather_object([ids[:length] for ids, length in padded])
    prompts = gather_object([as_prompt(row["prompt"]) for row in repeated])
    advantages = gather_object(batch["advantages"].tolist())
    groups = range(0, len(prompts), n)
    return (
        prompts[::n],
        [token_ids[i : i + n] for i in groups],
        [advantages[i : i + n] for i in groups],
    )
