"""Online RL: what does RLHF's loop do to a model, seen from inside?

    python 05-preference-tuning/online_rl.py
    python 05-preference-tuning/online_rl.py --beta 1         # a stronger pull to the SFT model
    python 05-preference-tuning/online_rl.py --model FOLDER --dataset pairs.jsonl   # your prompts
                                            (--reward-model FOLDER: what you trained yourself)

trained on   the model's own answers: in each of 20 updates 4 to each of 32 questions, scored by a
             reward model of 6,400 labelled pairs. No answer of this loop has a label
by           TRL's RLOOTrainer with LoRA: REINFORCE with a leave-one-out baseline, the simplest
             relative of PPO. A test checks that the advantages below equal TRL's
judged by    sampled answers to 256 held-out questions, whose right answers are known
writes       outputs/online_rl.png, outputs/online_rl.json

About 60 seconds on one core, and 30 for the reward model where outputs/ has none. Left out: a value
model and several passes over the same answers, which make it PPO; what happens at other learning
rates and with a biased reward model (studies/rl_beside_dpo.py).
"""

import inspect
from typing import NamedTuple

import installed  # noqa: F401

import dpo_trainer
import numpy as np
import own_data.look  # and own_data.read with it
import reward_model

from common import answers, figures, models, preferences, prompts, runs, scoring, training
from common.sampling import sample

# --- 1. Reward and advantage ---


def penalized_rewards(rewards, log_ratios, beta: float):
    """r - beta log(pi / pi_ref) of each sampled response, what RLHF maximises; (P, K).

    The log-ratio is that of the sequence, in nats, taken as a constant: the score-function gradient
    is then that of E[r] - beta KL(pi || pi_ref). Ziegler et al. 2019 (arXiv 1909.08593).
    """
    return rewards - beta * log_ratios


def leave_one_out_advantages(rewards):
    """A_i = r_i - mean of the other K - 1 rewards to the same prompt; (P, K), sums to 0 over K.

    The baseline does not depend on the response, so the gradient stays unbiased; r_i - mean r would
    shrink it by (K - 1)/K. Kool et al. 2019; Ahmadian et al. 2024 (arXiv 2402.14740).
    """
    count = rewards.shape[-1]
    others = (rewards.sum(-1, keepdims=True) - rewards) / (count - 1)
    return rewards - others


# --- 2. Training ---


class Update(NamedTuple):
    """What one update learned from: K answers to each of P prompts, and arrays (P, K)."""

    prompts: list
    sampled: list  # (P, K) of Response
    rewards: np.ndarray  # log-odds, without the KL term
    advantages: np.ndarray  # TRL's, of the rewards with it


def train_rl(
    model,
    tokenizer,
    judge: tuple,
    asked: list,
    *,
    beta: float = 0.3,
    learning_rate: float | None = None,
    updates: int = 20,
    prompts_per_update: int = 32,
    samples: int = 4,
    max_new_tokens: int = 48,
    seed: int = 0,
    look=None,
    look_at=(),
) -> tuple:
    """(policy, history, what each Update saw): a LoRA adapter trained on its own answers.

    `judge`, a (reward model, tokenizer), scores answers to the prompts `asked`. Of beta 0.1, 0.3, 1
    this one had the least KL within 0.02 of the best share of good answers (validation prompts).
    """
    import torch
    from trl import RLOOConfig

    learning_rate = learning_rate or (3e-3 if models.is_embedded(model.name_or_path) else 3e-4)
    shared = training.trl_settings(model, seed)
    del shared["max_length"]  # of a pair
    config = RLOOConfig(
        beta=beta,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        max_steps=updates,
        per_device_train_batch_size=training.batch_share(prompts_per_update * samples),
        num_generations=samples,
        max_completion_length=max_new_tokens,
        disable_dropout=True,  # else old and new probabilities come from two different masks
        **shared,
    )
    torch.manual_seed(seed)  # LoRA starts at random
    trainer = rloo_trainer(model, tokenizer, judge, config, prompt_rows(asked, prompts_per_update))
    history = training.run_trainer(trainer, "online RL", look, look_at)
    return trainer.model, history, trainer.seen


def prompt_rows(asked: list, at_least: int):
    """The prompts as TRL reads them, repeated where there are fewer than an update needs."""
    from datasets import Dataset

    rows = [{"prompt": prompts.as_messages(prompt)} for prompt in asked]
    return Dataset.from_list(rows * -(-at_least // len(rows)))


def rloo_trainer(model, tokenizer, judge: tuple, config, rows):
    """TRL's RLOOTrainer with the lab's sampler and judge; it keeps what updates have `seen`."""
    from trl import RLOOTrainer

    class LabTrainer(RLOOTrainer):
        def _generate_single_turn(self, prompt_ids, images, multimodal_fields):
            asked, n = prompt_ids[:: self.num_generations], self.num_generations  # each n times
            limit, seed = config.max_completion_length, 1000 * (config.seed + 1) + self._step
            self.sampled = sample(self.model, tokenizer, asked, n, limit, seed=seed)
            return [answer.token_ids for row in self.sampled for answer in row]

        def _generate_and_score_completions(self, inputs):
            batch = super()._generate_and_score_completions(inputs)  # calls `reward`
            asked = self.asked[:: self.num_generations]
            advantages = batch["advantages"].double().cpu().numpy()
            arrays = (array.reshape(len(asked), -1) for array in (self.rewards, advantages))
            self.seen.append(Update(asked, self.sampled, *arrays))
            return batch

    def reward(completions: list, **columns) -> list[float]:
        """TRL calls it: a reward for each completion; prompts and completions are messages."""
        trainer.asked = [prompts.as_prompt(messages) for messages in columns["prompts"]]
        texts = [[messages[-1]["content"]] for messages in completions]
        trainer.rewards = scoring.score_texts(judge, trainer.asked, texts)  # (P K, 1)
        return trainer.rewards[:, 0].tolist()

    lora = dpo_trainer.lora_config(model)
    lora.lora_dropout = 0.0
    options = {"train_dataset": rows, "processing_class": tokenizer, "peft_config": lora}
    trainer = LabTrainer(model, reward, args=config, **options)
    trainer.seen = []
    skip_padding(trainer.model)
    return trainer


def skip_padding(model) -> None:
    """Have a model count positions from the first token on, not from the padding before it.

    TRL pads prompts on the left and gives no positions: GPT-2 would read every shorter prompt at
    places where it does not stand, and its log-ratios would be off by nats.
    """

    def add_positions(module, given: tuple, inputs: dict) -> tuple:
        if "position_ids" not in inputs and inputs.get("attention_mask") is not None:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return given, inputs

    if "position_ids" in inspect.signature(model.get_base_model().forward).parameters:
        model.register_forward_pre_hook(add_positions, with_kwargs=True)


def training_curve(history: list[dict], beta: float) -> dict[str, list[float]]:
    """Per update: the mean reward of the sampled answers, and as it is optimised, log-odds."""
    reward = [row["reward"] for row in history]
    # TRL logs the mean of log pi/pi_ref per token; without a KL term it logs none.
    penalty = [beta * row.get("kl", 0) * row["completions/mean_length"] for row in history]
    return {"reward": reward, "optimized": np.subtract(reward, penalty).tolist()}


# --- 3. The figure ---


def draw(metrics: dict, update: Update):
    """Four panels: the reward in training, the answers, their quality, what an update sees."""
    curve, looks, dpo = (metrics[name] for name in ("training", "looks", "dpo"))
    steps, updates = [look["step"] for look in looks], range(1, len(curve["reward"]) + 1)
    figure, axes = figures.new_figure(2, 2, f"Online RL: {steps[-1]} updates")
    label, color = "reward minus the KL term: what is optimised", "lab:reward"
    axes[0].plot(updates, curve["reward"], color=color, label="reward")
    axes[0].plot(updates, curve["optimized"], "--", color=color, label=label)
    axes[0].set(title="Reward of the answers sampled in training", ylabel="log-odds")
    axes[0].set(xlabel="update", xticks=steps)
    figures.legend_below(axes[0])
    if "kinds" in looks[0]:
        dpo_trainer.kinds_panel(axes[1], looks)
        axes[1].set(title="Answers to held-out questions", xlabel="update", xticks=steps)
        dpo_trainer.distance_panel(axes[2], looks, "lab:rl", "update")
        if dpo:
            good = 100 * dpo["kinds"][answers.KINDS[0]]
            label = f"right and concise after DPO: {good:.0f} %"
            axes[1].axhline(good, color="black", ls="--", lw=1, label=label)
            figures.legend_below(axes[1], ncols=2)
            axes[2].plot(dpo["kl"], dpo["gold"], "s", color="lab:dpo", label="DPO")
            axes[2].set_xlim(0, 1.35 * max(dpo["kl"], looks[-1]["kl"]))
            figures.legend_below(axes[2])
    else:  # nobody knows how good the answers are
        units = {"words": "words of an answer", "kl": "measured KL from the start (nats)"}
        for ax, (name, unit) in zip(axes[1:], units.items(), strict=False):
            ax.plot(steps, [look[name] for look in looks], "o-", color="lab:rl")
            ax.set(title="Answers to held-out prompts", ylabel=unit, ylim=(0, None))
            ax.set(xlabel="update", xticks=steps)
    update_panel(axes[3], update)
    return figure


def update_panel(ax, update: Update) -> None:
    """The answers to one prompt as an update sees them: the one whose advantages differ most."""
    row = np.ptp(update.advantages, axis=1).argmax()
    advantages, order = update.advantages[row], np.argsort(-update.rewards[row])
    for place, k in enumerate(order):
        advantage, text = advantages[k], update.sampled[row][k].text
        ax.barh(place, advantage, 0.35, color="lab:gold" if advantage > 0 else "lab:rejected")
        told = f"reward {update.rewards[row, k]:+.1f}, advantage {advantage:+.1f}"
        told += f":{answers.marks(update.prompts[row], text)}\n{answers.in_short(text, 58)}"
        ax.text(0.01, place - 0.23, told, fontsize=7, transform=ax.get_yaxis_transform())
    ax.axvline(0, color="lightgrey", lw=0.8, zorder=0)
    ax.grid(visible=False)
    ax.set(xlabel="advantage: reward above the others' mean (log-odds)", yticks=[])
    ax.set_ylim(len(order) - 0.5, -0.9)
    ax.set_title(f"Update 1, one prompt:\n{answers.in_short(update.prompts[row], 52)}", fontsize=9)


# --- 4. The run ---


def find_reward_model(given, folder, backbone, dataset, reading, smoke, seed, device) -> tuple:
    """(reward model, tokenizer): the given one, or reward_model.py's, found or trained."""
    if given:
        return models.load_reward_model(str(given), device)
    if dataset:
        tokenizer, epochs = models.load_tokenizer(backbone), reward_model.OWN_EPOCHS
        pairs, _ = own_data.read.own_reward_pairs(dataset, tokenizer, seed, **reading)
    else:
        pairs, epochs = preferences.make_pairs(64 if smoke else 6400, seed=seed), 1
    how = {"device": device, "seed": seed, "epochs": epochs}
    return reward_model.reward_model_in(folder, backbone, pairs, **how)


def build_parser():
    parser = runs.make_parser(__file__, __doc__)
    parser.add_argument("--model", default="tiny-gpt2", help="hub id or folder of a causal LM")
    parser.add_argument("--reward-model", type=runs.folder, help="default: that of reward_model.py")
    parser.add_argument("--reward-backbone", default="tiny-distilbert", help="what it starts from")
    parser.add_argument("--prompts", type=runs.whole_number(1), help="default: 256, of your own 16")
    parser.add_argument("--sft-steps", type=runs.whole_number(0), help="before; default: 300")
    runs.add_dataset_flags(parser)
    runs.add_hyperparameters(parser, train_rl, learning_rate="3e-3 for tiny-gpt2, others 3e-4")
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Train online, look on the way, print and draw; returns the metrics."""
    smoke = {"updates": 3, "prompts_per_update": 8, "prompts": 8}
    args = runs.start(build_parser(), argv, "online_rl", train_rl, smoke)
    if args.samples < 2:
        raise runs.UserError("--samples: an answer is compared with others; give at least 2")
    sft = {"own_data": bool(args.dataset), "sft_steps": args.sft_steps, "seed": args.seed}
    sft["output_dir"] = args.output_dir
    model, tokenizer = training.load_sft_model(args.model, args.device, **sft)
    if args.dataset:
        limits = {"seed": args.seed, "prompts": args.prompts or 16, **args.reading}
        limits |= {"alone": bool(args.reward_model), "max_new_tokens": args.max_new_tokens}
        pairs, held, held_out = own_data.read.own_pairs(args.dataset, tokenizer, **limits)
        asked, rate = prompts.distinct_prompts(pairs["prompt"]), args.learning_rate or 3e-4
        second = own_data.look.SecondLook(args.dataset, args.reading, args.model, rate)
        if "chosen" in pairs.column_names:
            second.before(pairs, held, model, tokenizer, args.seed)
    else:
        pairs = preferences.make_pairs(64 if args.smoke else 768, seed=args.seed)
        asked, held_out = ([q.prompt for q in preferences.questions(s)] for s in ("train", "test"))
        held_out, second = held_out[: args.prompts or 256], None
    folder = runs.trained_folder(args, "reward_model", without=("model", "sft_steps"))
    judge = (args.reward_backbone, args.dataset, args.reading, args.smoke, args.seed, args.device)
    judge = find_reward_model(args.reward_model, folder, *judge)
    print(f"{args.model}: {args.updates} updates; {len(held_out)} held-out prompts to judge by")
    looks, seen = [], []

    def look(step: int, policy) -> None:
        ask = 3 if step in (0, args.updates) else 2, args.seed, args.max_new_tokens
        sampled = answers.sample_answers(policy, tokenizer, held_out, *ask)
        reward = float(scoring.score_texts(judge, held_out, sampled.texts).mean())
        looks.append({"step": step, "reward": reward, **sampled.means()})
        seen.append(sampled)

    policy, history, updates = train_rl(model, tokenizer, judge, asked, **args.training, look=look)
    columns, (first, *_, last) = {"before": looks[0], "after": looks[-1]}, seen
    folder = runs.trained_folder(args, "dpo", without=("reward_backbone",))
    if folder.exists() and "chosen" in pairs[0]:
        base = policy.unload()
        look(args.updates, dpo_trainer.dpo_policy(folder, base, tokenizer, pairs, seed=args.seed))
        columns["DPO"] = {**looks.pop(), "step": None}
    rows = answers.rows_of(list(columns.values()))
    answers.print_before_after(held_out, first.texts, last.texts, rows, 2, ["", *columns])
    curve = training_curve(history, args.beta)
    metrics = {"looks": looks, "dpo": columns.get("DPO"), "training": curve}
    if second:
        second.after(tokenizer, held, last)
        metrics |= second.metrics()
    next_step = "python 05-preference-tuning/studies/rl_beside_dpo.py: and at other learning rates?"
    return runs.finish(args, metrics, draw(metrics, updates[0]), next_step)


if __name__ == "__main__":
    runs.run(main)
