"""Online RL: what does RLHF's loop do to a model, seen from inside?

    python 05-preference-tuning/online_rl.py
    python 05-preference-tuning/online_rl.py --beta 1         # a stronger pull to the SFT model
    python 05-preference-tuning/online_rl.py --model FOLDER --dataset pairs.jsonl   # your prompts
                                            (--reward-model FOLDER: what you trained yourself)

trained on   the model's own answers: in each of 20 updates 4 to each of 32 questions, scored by a
             reward model of 6,400 labelled pairs. No answer of this loop has a label
by           TRL's RLOOTrainer with LoRA: REINFORCE with a leave-one-out baseline, the simplest
             relative of PPO. A test holds the advantages below against TRL's
judged by    sampled answers to 256 held-out questions, whose right answers are known
writes       outputs/online_rl.png, outputs/online_rl.json

About 60 seconds on one core, and 30 for the reward model where outputs/ has none. Left out: a value
model and several passes over the same answers, which make it PPO; what happens at other learning
rates and with a biased reward model (studies/rl_beside_dpo.py).
"""

import argparse
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

    The baseline does not depend on the response itself, so the gradient stays unbiased, where
    r_i - mean r would shrink it by (K - 1)/K. Kool et al. 2019; Ahmadian et al. 2024
    (arXiv 2402.14740).
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
    lora_r: int = 8,
    seed: int = 0,
    name: str = "online RL",
    look=None,
    look_at=(),
) -> tuple:
    """(policy, history, what each Update saw): a LoRA adapter trained on its own answers.

    `judge`, a (reward model, tokenizer), scores the answers to the prompts `asked`.
    `look(step, policy)` is called before, on the way and at the end. Of beta 0.1, 0.3 and 1 this
    one had the least KL within 0.02 of the best share of good answers, on validation prompts.
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
    trainer = rloo_trainer(
        judge,
        model=model,
        args=config,
        train_dataset=prompt_rows(asked, prompts_per_update),
        processing_class=tokenizer,
        peft_config=dpo_trainer.lora_config(model, lora_r),
    )
    history = training.run_trainer(trainer, name, look, look_at)
    return trainer.model, history, trainer.seen


def prompt_rows(asked: list, at_least: int):
    """The prompts as TRL reads them, repeated where there are fewer than an update needs."""
    from datasets import Dataset

    rows = [{"prompt": prompts.as_messages(prompt)} for prompt in asked]
    return Dataset.from_list(rows * -(-at_least // len(rows)))


def rloo_trainer(judge: tuple, **options):
    """TRL's RLOOTrainer, answering with the lab's sampler (half the time), scored by `judge`.

    What each update saw is kept in `seen`.
    """
    from trl import RLOOTrainer

    class LabTrainer(RLOOTrainer):
        def _generate_single_turn(self, prompt_ids, images, multimodal_fields):
            asked, n = prompt_ids[:: self.num_generations], self.num_generations  # each n times
            seed = 1000 * (self.args.seed + 1) + self._step
            limit = self.max_completion_length
            self.sampled = sample(self.model, self.processing_class, asked, n, limit, seed=seed)
            return [answer.token_ids for row in self.sampled for answer in row]

        def _generate_and_score_completions(self, inputs):
            batch = super()._generate_and_score_completions(inputs)
            asked = [prompts.as_prompt(row["prompt"]) for row in inputs[:: self.num_generations]]
            advantages = batch["advantages"].double().cpu().numpy().reshape(len(asked), -1)
            rewards = self.rewards.reshape(len(asked), -1)
            self.seen.append(Update(asked, self.sampled, rewards, advantages))
            return batch

    def reward(completions: list, **columns) -> list[float]:
        """TRL calls it: a reward for each completion; prompts and completions are messages."""
        asked = [prompts.as_prompt(messages) for messages in columns["prompts"]]
        texts = [[messages[-1]["content"]] for messages in completions]
        trainer.rewards = scoring.score_texts(judge, asked, texts)  # (P K, 1)
        return trainer.rewards[:, 0].tolist()

    options["peft_config"].lora_dropout = 0.0
    trainer = LabTrainer(reward_funcs=reward, **options)
    trainer.seen = []
    skip_padding(trainer.model)
    return trainer


def skip_padding(model) -> None:
    """Have a model count positions from the first token on, not from the padding before it.

    TRL pads prompts on the left and gives no positions. GPT-2, whose positions are absolute, then
    reads every shorter prompt at places where it does not stand: its log-ratios are off by nats.
    """

    def add_positions(module, given: tuple, inputs: dict) -> tuple:
        if "position_ids" not in inputs and inputs.get("attention_mask") is not None:
            positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            inputs = {**inputs, "position_ids": positions}
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


def draw(curve: dict, looks: list[dict], update: Update, dpo: dict | None):
    """Four panels: the reward in training, the answers, their quality, what an update sees."""
    figure, axes = figures.new_figure(2, 2, f"Online RL: {len(curve['reward'])} updates")
    reward_panel(axes[0], curve)
    if "kinds" in looks[0]:
        shares_panel(axes[1], looks, dpo)
        quality_panel(axes[2], looks, dpo)
    else:
        watched_panel(axes[1], looks, "kl", "measured KL from the start (nats)")
        watched_panel(axes[2], looks, "words", "words of an answer")
    update_panel(axes[3], update)
    return figure


def reward_panel(ax, curve: dict) -> None:
    """The reward of the answers sampled in training, and as it is optimised."""
    updates = range(1, len(curve["reward"]) + 1)
    ax.plot(updates, curve["reward"], color="lab:reward", label="reward")
    label = "reward minus the KL term: what is optimised"
    ax.plot(updates, curve["optimized"], "--", color="lab:reward", label=label)
    ax.set(title="Reward of the answers sampled in training", xlabel="update", ylabel="log-odds")
    ax.locator_params(axis="x", integer=True)
    figures.legend_below(ax)


def shares_panel(ax, looks: list[dict], dpo: dict | None) -> None:
    """What the answers to held-out questions are."""
    steps, kinds = [look["step"] for look in looks], list(answers.KINDS)
    shares = [[100 * look["kinds"][kind] for look in looks] for kind in kinds]
    ax.stackplot(steps, shares, colors=[f"lab:{kind}" for kind in kinds], labels=kinds)
    white = {"color": "white", "fontweight": "bold", "fontsize": 12, "va": "center"}
    ax.text(steps[0], shares[0][0] / 2, f" {shares[0][0]:.0f} %", ha="left", **white)
    ax.text(steps[-1], shares[0][-1] / 2, f"{shares[0][-1]:.0f} % ", ha="right", **white)
    if dpo:
        good = 100 * dpo["good"]
        ax.axhline(
            good, color="black", ls="--", lw=1, label=f"right and concise after DPO: {good:.0f} %"
        )
    ax.set(title="Answers to held-out questions", xlabel="update", ylabel="% of answers")
    ax.set(xlim=(0, steps[-1]), ylim=(0, 100), xticks=steps)
    figures.legend_below(ax, ncols=2)


def quality_panel(ax, looks: list[dict], dpo: dict | None) -> None:
    """Gold utility against the measured KL: online RL on its way, and where DPO ended."""
    kl, gold = [look["kl"] for look in looks], [look["gold"] for look in looks]
    ax.plot(kl, gold, "o-", color="lab:rl", label="online RL, after so many updates")
    for k in (*range(min(3, len(looks) - 1)), -1):  # the points in between lie close
        place = {"xytext": (6, -10) if k >= 0 else (-4, 6), "textcoords": "offset points"}
        ax.annotate(looks[k]["step"], (kl[k], gold[k]), fontsize=8, **place)
    if dpo:
        ax.plot(dpo["kl"], dpo["gold"], "s", color="lab:dpo", label="DPO")
    ax.set(title="Quality against distance from the SFT model", xlabel="measured KL (nats)")
    ax.set_ylabel(figures.GOLD)
    ax.margins(0.1)
    figures.legend_below(ax, ncols=2)


def watched_panel(ax, looks: list[dict], name: str, unit: str) -> None:
    """What is seen of sampled answers on the way, where nobody knows which are good."""
    steps, values = [look["step"] for look in looks], [look[name] for look in looks]
    ax.plot(steps, values, "o-", color="lab:rl")
    ax.set(title="Answers to held-out prompts", xlabel="update", ylabel=unit)
    ax.set(xticks=steps, ylim=(0, 1.1 * max(values)))


def update_panel(ax, update: Update) -> None:
    """The answers to one prompt as an update sees them: the one whose advantages differ most."""
    row = np.ptp(update.advantages, axis=1).argmax()
    advantages, order = update.advantages[row], np.argsort(-update.rewards[row])
    for place, k in enumerate(order):
        advantage, text = advantages[k], update.sampled[row][k].text
        color = "lab:gold" if advantage > 0 else "lab:rejected"
        ax.barh(place, advantage, 0.35, color=color)
        told = f"reward {update.rewards[row, k]:+.1f}, advantage {advantage:+.1f}"
        told += f":{answers.marks(update.prompts[row], text)}\n{answers.in_short(text, 58)}"
        ax.text(0.01, place - 0.23, told, fontsize=7, transform=ax.get_yaxis_transform())
    ax.axvline(0, color="lightgrey", lw=0.8, zorder=0)
    ax.set_ylim(len(order) - 0.5, -0.9)
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.set_xlabel("advantage: reward above the others' mean (log-odds)")
    ax.set_title(f"Update 1, one prompt:\n{answers.in_short(update.prompts[row], 52)}", fontsize=9)


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = runs.make_parser(__file__, __doc__)
    model = "hub id or folder of a causal LM; default: tiny-gpt2"
    parser.add_argument("--model", type=runs.non_empty, default="tiny-gpt2", help=model)
    given = "a trained reward model; default: the one of reward_model.py, found or trained"
    parser.add_argument("--reward-model", type=runs.folder, help=given)
    backbone = {"default": "tiny-distilbert", "help": "what a reward model is trained from"}
    parser.add_argument("--reward-backbone", type=runs.non_empty, **backbone)
    judged = "held-out, to judge by; default: 256, of your own 16"
    parser.add_argument("--prompts", type=runs.whole_number(1), help=judged)
    parser.add_argument("--sft-steps", type=runs.whole_number(0), help="before; default: 300")
    runs.add_dataset_flags(parser)
    rate = "3e-3 for tiny-gpt2, 3e-4 for others"
    runs.add_hyperparameters(parser, train_rl, learning_rate=rate)
    return parser


def see(policy, tokenizer, judge: tuple, asked: list, n: int, seed: int, max_new_tokens: int):
    """(texts (P, n), readings as one number each): sampled answers, read and scored."""
    sampled = answers.sample_answers(policy, tokenizer, asked, n, seed, max_new_tokens)
    reward = float(scoring.score_texts(judge, asked, sampled.texts).mean())
    return sampled, {"reward": reward, **sampled.means()}


def main(argv: list[str] | None = None) -> dict:
    """Train online, look on the way, print and draw; returns the metrics."""
    smoke = {"updates": 3, "prompts_per_update": 8, "prompts": 8}
    args = runs.start(build_parser(), argv, "online_rl", train_rl, smoke)
    if args.samples < 2:
        raise runs.UserError("--samples: an answer is compared with others; give at least 2")
    sft = {"own_data": bool(args.dataset), "sft_steps": args.sft_steps, "seed": args.seed}
    sft |= {"device": args.device, "output_dir": args.output_dir}
    model, tokenizer = training.load_sft_model(args.model, **sft)
    if args.dataset:
        own, epochs = (args.dataset, tokenizer, args.seed), reward_model.OWN_EPOCHS
        limits = {"prompts": args.prompts or 16, "max_new_tokens": args.max_new_tokens}
        limits["alone"] = bool(args.reward_model)  # then prompts without answers are enough
        pairs, held, held_out = own_data.read.own_pairs(*own, **limits, **args.reading)
        if not args.reward_model:
            own = (args.dataset, models.load_tokenizer(args.reward_backbone), args.seed)
            labelled, _ = own_data.read.own_reward_pairs(*own, **args.reading)
        asked, rate = prompts.distinct_prompts(pairs["prompt"]), args.learning_rate or 3e-4
        second = own_data.look.SecondLook(args.dataset, args.reading, args.model, rate)
        if "chosen" in pairs.column_names:
            second.before(pairs, held, model, tokenizer, args.seed)
    else:
        pairs = preferences.make_pairs(64 if args.smoke else 768, seed=args.seed)
        labelled, epochs = preferences.make_pairs(64 if args.smoke else 6400, seed=args.seed), 1
        asked, held_out = ([q.prompt for q in preferences.questions(s)] for s in ("train", "test"))
        held_out, second = held_out[: args.prompts or 256], None
    if args.reward_model:
        judge = models.load_reward_model(str(args.reward_model), args.device)
    else:
        folder = runs.trained_folder(args, "reward_model", without=("model", "sft_steps"))
        options = {"device": args.device, "seed": args.seed, "epochs": epochs}
        judge = reward_model.reward_model_in(folder, args.reward_backbone, labelled, **options)
    print(f"{args.model}: {args.updates} updates; {len(held_out)} held-out prompts to judge by")
    ask, looks, texts = (args.seed, args.max_new_tokens), [], []

    def look(step: int, policy) -> None:
        """TRL calls it. On the way fewer answers will do."""
        n = 3 if step in (0, args.updates) else 2
        sampled, means = see(policy, tokenizer, judge, held_out, n, *ask)
        looks.append({"step": step, **means})
        texts.append(sampled.texts)
        if second and step == args.updates:
            second.after(tokenizer, held, sampled)

    _, history, updates = train_rl(model, tokenizer, judge, asked, **args.training, look=look)
    dpo, folder = None, runs.trained_folder(args, "dpo", without=("reward_backbone",))
    if folder.exists() and "chosen" in pairs[0]:
        base, _ = training.load_sft_model(args.model, **sft)
        policy = dpo_trainer.dpo_policy(folder, base, tokenizer, pairs, seed=args.seed)
        _, dpo = see(policy, tokenizer, judge, held_out, 3, *ask)
    columns = {"before": looks[0], "after": looks[-1], **({"DPO": dpo} if dpo else {})}
    rows = answers.rows_of(list(columns.values()))
    head = ["", *columns]
    answers.print_before_after(held_out, texts[0], texts[-1], rows, most=2, head=head)
    curve = training_curve(history, args.beta)
    metrics = {"looks": looks, "dpo": dpo, "training": curve}
    metrics |= second.metrics() if second else {}
    next_step = "python 05-preference-tuning/studies/rl_beside_dpo.py: and at other learning rates?"
    return runs.finish(args, metrics, draw(curve, looks, updates[0], dpo), next_step)


if __name__ == "__main__":
    runs.run(main)
