"""DPO's variants: what do IPO, KTO, AI feedback and on-policy pairs change, at the same budget?

    python 05-preference-tuning/dpo_variants.py
    python 05-preference-tuning/dpo_variants.py --loss-type hinge                  # any of TRL's losses on its own
    python 05-preference-tuning/dpo_variants.py --loss-type sigmoid sft            # their sum
    python 05-preference-tuning/dpo_variants.py --judge FOLDER                     # another language model as annotator
    python 05-preference-tuning/dpo_variants.py --model FOLDER --dataset pairs.jsonl

First one pair of answers and a policy that is a table: where DPO, conservative DPO and IPO stop. Then the SFT
checkpoint, trained with each variant on as many annotations as plain DPO and judged by sampled answers to held-out
prompts: IPO and DPO on clean, tied and one-sided pairs; KTO and DPO under label noise, and KTO without pairs and with
unequal classes; DPO on the labels of a language model that reads two answers and says A or B; DPO on pairs that the
policy samples itself.

About two minutes on 2 cores for seventeen short trainings. Writes dpo_variants.png.
Left out: rewards that are queried during training (PPO, GRPO), and iterations of the judge itself.
"""

import argparse
import random
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from dpo_trainer import (
    dpo_loss,
    fit,
    formatted,
    history,
    lora_config,
    pair_logps,
    run_trainer,
    train_dpo,
    training_settings,
)
from drawing.dpo_variants import losses_figure, variants_figure
from evaluation import (
    interval,
    judge_responses,
    sample_and_judge,
    sample_texts,
    summaries,
    summary,
)
from own_pairs import load_own_pairs, split_for_policy
from sft_checkpoint import load_sft_checkpoint

from common.cli import (
    UserError,
    add_batch_flag,
    add_model_flags,
    check_writable,
    make_parser,
    pick_device,
    positive_float,
    quiet_libraries,
    run,
    whole_number,
)
from common.preferences import (
    annotate,
    draw_style,
    gold_utility,
    judge_prompt,
    make_pairs,
    make_unpaired,
    questions,
    write_response,
)
from common.reporting import make_claim, print_claims, print_summary, write_results

if TYPE_CHECKING:
    from datasets import Dataset

UNPAIRED = ("kto", "apo_zero_unpaired")
LOSSES = (
    *("sigmoid", "ipo", "hinge", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sigmoid_norm", "sft", *UNPAIRED),
)
# beta, from 0.1, 0.3, 1 and 3, by sampled answers to validation prompts: the least KL among those within 0.02 of the
# best share of good answers. IPO's is tau, per token of the response. All other losses take DPO's 0.3.
BETAS = {"ipo": 1.0, "kto": 1.0}
SHOWN_ARMS = {
    "SFT": "SFT",
    "DPO": "sigmoid, clean",
    "IPO": "ipo, clean",
    "KTO": "kto, noise 0.0",
    "AI labels": "AI labels",
    "on-policy": "on-policy",
}
PAIR_LOSSES = ("sigmoid", "ipo")
NOISE = (0.0, 0.1, 0.2, 0.3)


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add_model_flags(parser, model="tiny-gpt2")
    group = parser.add_argument_group("training")
    group.add_argument("--loss-type", nargs="+", choices=LOSSES, metavar="LOSS", help=f"one run: {', '.join(LOSSES)}")
    group.add_argument("--judge", help="language model that labels pairs; default: tiny-gpt2, for your own pairs none")
    group.add_argument(
        "--pairs", type=whole_number(2), help="in every run; default: 384 of the synthetic world, all of your own"
    )
    group.add_argument("--beta", type=positive_float, help="default: 0.3; 1 for ipo (per token) and kto")
    group.add_argument("--learning-rate", type=positive_float, help="default: 1.4e-3 embedded, 3e-4 for other models")
    group.add_argument("--num-train-epochs", type=whole_number(1), default=1, help="passes over the pairs")
    add_batch_flag(group, 8)
    group.add_argument("--sft-steps", type=int, help="SFT of a base model first; default 300 on the world, else 0")
    group.add_argument("--max-new-tokens", type=whole_number(1), default=48, help="length limit of sampled answers")
    return parser


# --- 1. The losses ---


def ipo_loss(
    policy_chosen_logps,
    policy_rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    beta: float,
    chosen_lengths=1,
    rejected_lengths=1,
):
    """(h - 1 / (2 beta))^2 per pair, h the log-ratio of chosen minus that of rejected; tensors (B,).

    Azar et al. 2023 (arXiv 2310.12036), Eq. 17, where beta is called tau. With the lengths (B,) of the responses in
    tokens, h is a difference of means per token, as in TRL and in the paper's own runs; without them, of sums.
    """
    chosen_logratios = (policy_chosen_logps - ref_chosen_logps) / chosen_lengths
    rejected_logratios = (policy_rejected_logps - ref_rejected_logps) / rejected_lengths
    return (chosen_logratios - rejected_logratios - 1 / (2 * beta)) ** 2


def kto_loss(policy_logps, ref_logps, labels, kl, beta: float, desirable_weight=1.0, undesirable_weight=1.0):
    """w (1 - sigmoid(beta (log-ratio - kl))) for good responses, w (1 - sigmoid(beta (kl - log-ratio))) for bad; (B,).

    Ethayarajh et al. 2024 (arXiv 2402.01306), Eq. 8. `labels` are True for good; `kl` >= 0 is the reference point z0,
    in nats: the mean log-ratio of mismatched prompts and responses, through which no gradient flows.
    """
    import torch

    gain = torch.where(labels, policy_logps - ref_logps - kl, kl - policy_logps + ref_logps)
    weight = torch.where(labels, desirable_weight, undesirable_weight)
    return weight * (1 - torch.sigmoid(beta * gain))


# --- 2. One pair and a policy that is a table ---


def stopping_points(p: float, beta: float, smoothing: float) -> dict[str, float]:
    """The log-ratio margin h (nats) at which each expected loss is least on one pair that is won with probability p.

    DPO: logit(p) / beta; conservative DPO takes labels for wrong with probability `smoothing`; IPO: (p - 1/2) / beta.
    """
    believed = p * (1 - smoothing) + (1 - p) * smoothing
    with np.errstate(divide="ignore"):
        logits = {name: float(np.log(q) - np.log(1 - q)) for name, q in (("dpo", p), ("cdpo", believed))}
    return {**{name: logit / beta for name, logit in logits.items()}, "ipo": (p - 0.5) / beta}


def train_table(loss: str, p: float, beta: float, smoothing: float, looks: np.ndarray) -> np.ndarray:
    """h after each of the (rising) numbers of gradient steps in `looks`, for a softmax over two answers.

    Gradient descent on the expected loss of one pair, won with probability p. A first step moves h by 0.1 nats,
    whatever the loss, so that the curves can share an axis.
    """
    import torch

    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros((), dtype=torch.float64)
    wrong = {"dpo": 1 - p, "cdpo": p * smoothing + (1 - p) * (1 - smoothing), "ipo": 1 - p}[loss]
    loss_of = ipo_loss if loss == "ipo" else dpo_loss
    rate, found = None, []
    for step in range(int(looks[-1]) + 1):
        logps = logits.log_softmax(-1)
        if step in looks:
            found.append((logps[0] - logps[1]).item())
        expected = (1 - wrong) * loss_of(*logps, zero, zero, beta) + wrong * loss_of(*logps.flip(0), zero, zero, beta)
        (gradient,) = torch.autograd.grad(expected, logits)
        rate = rate or 0.1 / (gradient[1] - gradient[0]).item()
        logits = (logits - rate * gradient).detach().requires_grad_()
    return np.array(found)


def study_table(args: argparse.Namespace) -> dict:
    """h over training for a pair that is always won and one that is won in 80 %, beside where it should stop."""
    beta, smoothing, looks = 0.1, 0.1, np.unique(np.geomspace(1, 300 if args.smoke else 3000, 40).astype(int))
    found = {"steps": looks.tolist(), "beta": beta, "smoothing": smoothing, "h": {}, "stops": {}}
    for p in (1.0, 0.8):
        stops = stopping_points(p, beta, smoothing).items()
        found["stops"][str(p)] = {loss: stop if np.isfinite(stop) else None for loss, stop in stops}  # as JSON has it
        found["h"][str(p)] = {
            loss: train_table(loss, p, beta, smoothing, looks).tolist() for loss in ("dpo", "cdpo", "ipo")
        }
    return found


# --- 3. The data: ties, one-sided pairs, noise, single labels ---


def tied_pairs(count: int, seed: int, share: float = 0.75) -> list[dict]:
    """The world's pairs, but a `share` of them are two different answers of equal gold utility: a coin decides."""
    rng, pool, ties = random.Random(f"ties {seed}"), questions("train"), []
    while len(ties) < round(share * count):
        question = rng.choice(pool)
        style = draw_style(question, rng)
        first, second = (write_response(question, style, rng) for _ in range(2))
        if first != second and gold_utility(question.prompt, first) == gold_utility(question.prompt, second):
            ties.append({"prompt": question.prompt, "chosen": first, "rejected": second})
    rows = make_pairs(count - len(ties), seed=seed) + ties
    rng.shuffle(rows)
    return rows


def one_sided_pairs(count: int, seed: int) -> list[dict]:
    """Pairs of one kind with one answer: the concise response always beats the verbose one, without noise."""
    rng, rows = random.Random(f"one-sided {seed}"), []
    for question in rng.sample(questions("train"), count):
        chosen, rejected = (write_response(question, style, rng) for style in ("concise", "verbose"))
        rows.append({"prompt": question.prompt, "chosen": chosen, "rejected": rejected})
    return rows


def flip_labels(pairs: list[dict], share: float, seed: int) -> list[dict]:
    """The pairs with chosen and rejected swapped in a `share` of them; a larger share swaps the same ones and more."""
    order = random.Random(f"flips {seed}").sample(range(len(pairs)), len(pairs))
    flipped = set(order[: round(share * len(pairs))])
    return [swap_sides(row) if k in flipped else row for k, row in enumerate(pairs)]


def swap_sides(row: dict) -> dict:
    """The pair labelled the other way round, with all that it says of either side."""
    other = {"chosen": "rejected", "rejected": "chosen"}
    return {re.sub("^(chosen|rejected)", lambda side: other[side[0]], key): value for key, value in row.items()}


def single_labels(pairs: list[dict], good_share: float, seed: int) -> list[dict]:
    """One response of each pair with its label, so that no prompt has both: the chosen one in `good_share` of them."""
    rng = random.Random(f"single {seed}")
    order = rng.sample(range(len(pairs)), len(pairs))
    good = set(order[: round(good_share * len(pairs))])
    return [row for k, pair in enumerate(pairs) for row in make_unpaired([pair]) if row["label"] == (k in good)]


# --- 4. Training: any loss, KTO, on-policy ---


def train_variant(args: argparse.Namespace, device: str, pairs: Sequence[dict], *losses: str):
    """(trainer, tokenizer): the SFT checkpoint trained on the pairs with the sum of TRL's losses of these names."""
    if losses[0] in UNPAIRED:
        return fit_kto(args, device, pairs, loss_type=losses[0])
    needs_smoothing = {"robust", "exo_pair"} & set(losses)
    changes = {"label_smoothing": 0.1} if needs_smoothing else {}
    beta = args.beta or BETAS.get(losses[0], 0.3)
    trainer, tokenizer, _ = fit(args, device, pairs, loss_type=list(losses), beta=beta, **changes)
    return trainer, tokenizer


def unpaired(tokenizer, rows: Sequence[dict]) -> "Dataset":
    """Pairs, or rows of prompt, completion, label, as TRL's KTOTrainer reads them."""
    from trl import unpair_preference_dataset

    if "label" not in rows[0]:
        return unpair_preference_dataset(formatted(tokenizer, rows))
    pairs = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": ""} for row in rows]
    completions = formatted(tokenizer, pairs).remove_columns("rejected").rename_column("chosen", "completion")
    return completions.add_column("label", [row["label"] for row in rows])


def fit_kto(args: argparse.Namespace, device: str, rows: Sequence[dict], balance: bool = True, loss_type: str = "kto"):
    """Train on pairs, or rows of prompt, completion, label, with TRL's KTOTrainer: (trainer, tokenizer).

    A step reads twice as many responses as DPO reads pairs. `balance` weighs the classes so that both count alike. The
    trainer takes its rows in order, and z0 from each batch: so they are shuffled here.
    """
    import torch
    from trl import KTOConfig, KTOTrainer

    model, tokenizer = load_sft_checkpoint(args, device)
    data = unpaired(tokenizer, rows).shuffle(args.seed)
    good = sum(data["label"])
    changes = {
        "loss_type": loss_type,
        "beta": args.beta or BETAS["kto"],
        "per_device_train_batch_size": 2 * args.per_device_train_batch_size,
        "desirable_weight": (len(data) - good) / good if balance else 1.0,
    }
    torch.manual_seed(args.seed)  # LoRA starts at random
    trainer = KTOTrainer(
        model=model,
        args=KTOConfig(**training_settings(args, device, **changes)),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora_config(model),
    )
    return run_trainer(trainer), tokenizer


def fit_on_policy(args: argparse.Namespace, device: str, rounds: int):
    """DPO on as many pairs as ever, but sampled from the policy at the start of each round: (trainer, tokenizer).

    The reference stays the SFT checkpoint.
    """
    import torch
    from trl import DPOConfig

    reference, tokenizer = load_sft_checkpoint(args, device)
    policy, _ = load_sft_checkpoint(args, device)
    config = DPOConfig(**training_settings(args, device, beta=args.beta or 0.3))
    torch.manual_seed(args.seed)
    for k in range(rounds):
        rows = sample_pairs(args, policy, tokenizer, args.pairs // rounds, seed=args.seed + k)
        trainer = train_dpo(policy, tokenizer, rows, config, reference=reference if k else None)
        policy = trainer.model
    return trainer, tokenizer


def sample_pairs(args: argparse.Namespace, policy, tokenizer, count: int, seed: int) -> list[dict]:
    """`count` pairs of two different answers that the policy gives to one prompt, labelled by the human annotator."""
    from common.models import sample

    rng, noise, rows = random.Random(f"on-policy {seed}"), np.random.default_rng([1, seed]), []
    while len(rows) < count:
        prompts = [question.prompt for question in rng.sample(questions("train"), min(count, 256))]
        sampled = sample(policy, tokenizer, prompts, 4, args.max_new_tokens, seed=len(rows) + seed)
        for prompt, answers in zip(prompts, sampled, strict=True):
            two = list(dict.fromkeys(answer.text for answer in answers))[:2]
            if len(two) == 2:
                perceived = annotate(np.array([gold_utility(prompt, text) for text in two]), noise)
                best = int(np.argmax(perceived))
                rows.append({"prompt": prompt, "chosen": two[best], "rejected": two[1 - best]})
    return rows[:count]


# --- 5. RLAIF: a language model as annotator ---


def averaged_preference(forward, backward):
    """P(first is better), both orders averaged; `forward` is P(A) with the first as A, `backward` with it as B.

    A judge that says A with probability sigmoid(d + b) has a position bias b, which cancels here to first order in b,
    and exactly where d = 0.
    """
    return (forward + 1 - backward) / 2


def judge_pairs(judge, tokenizer, pairs: list[dict]) -> dict[str, np.ndarray]:
    """P(A) with chosen as A (`forward`), with chosen as B (`backward`) and with one answer as both (`same`); (N,)."""
    from common.models import judge_first_better

    orders = {"forward": ("chosen", "rejected"), "backward": ("rejected", "chosen"), "same": ("chosen", "chosen")}
    shown = [judge_prompt(row["prompt"], row[a], row[b]) for a, b in orders.values() for row in pairs]
    first, mass = judge_first_better(judge, tokenizer, shown)
    found = dict(zip(orders, first.double().numpy().reshape(3, -1), strict=True))
    return found | {"answered": mass.double().numpy()}


def ai_labels(judge, tokenizer, pairs: list[dict]) -> list[dict]:
    """The pairs as the judge labels them."""
    found = judge_pairs(judge, tokenizer, pairs)
    agrees = averaged_preference(found["forward"], found["backward"]) > 0.5
    return [row if same else swap_sides(row) for same, row in zip(agrees, pairs, strict=True)]


def study_judge(judge, tokenizer, pairs: list[dict]) -> dict:
    """How often the judge agrees with the gold order and with the human labels, and its position bias."""
    found = judge_pairs(judge, tokenizer, pairs)
    gaps = np.array([row["chosen_utility"] - row["rejected_utility"] for row in pairs])
    clear = gaps != 0
    kinds = np.array(
        [row[f"{'rejected' if gap > 0 else 'chosen'}_style"] for row, gap in zip(pairs, gaps, strict=True)]
    )
    verdicts = {
        "human labels": np.ones(len(pairs), dtype=bool),
        "judge, one order": np.where(np.arange(len(pairs)) % 2, found["forward"] > 0.5, found["backward"] < 0.5),
        "judge, both orders": averaged_preference(found["forward"], found["backward"]) > 0.5,
    }
    with_gold = {name: (verdict == (gaps > 0))[clear] for name, verdict in verdicts.items()}
    says_a = np.where(np.arange(len(pairs)) % 2, found["forward"], found["backward"])
    return {
        "answers_a_or_b": summary(found["answered"] > 0.5),
        "agrees_with_gold": {name: summary(hits) for name, hits in with_gold.items()},
        "agrees_with_gold_by_reason": {
            name: {kind: summary(hits[kinds[clear] == kind]) for kind in sorted(set(kinds[clear]))}
            for name, hits in with_gold.items()
        },
        "agrees_with_human": summary(verdicts["judge, both orders"]),
        "human_minus_judge": summary(with_gold["human labels"].astype(float) - with_gold["judge, both orders"]),
        "position_bias": {
            "P(A) for two equal answers": summary(found["same"]),
            "P(A) in one order": summary(says_a > 0.5),
            "verdict depends on the order": summary((found["forward"] > 0.5) != (found["backward"] < 0.5)),
        },
    }


# --- 6. Every variant on the synthetic world ---


def run_world(args: argparse.Namespace, device: str) -> tuple[dict, list[dict], list[str]]:
    """The default run: (metrics, claims, lines of the summary)."""
    from common.models import load_causal_lm

    judge = load_causal_lm(args.judge or "tiny-gpt2", device)
    prompts = [question.prompt for question in questions("test")][: 16 if args.smoke else 256]
    held = make_pairs(32 if args.smoke else 300, "test", seed=args.seed)
    pairs = make_pairs(args.pairs, seed=args.seed)
    once = one_sided_pairs(max(1, args.pairs // 8), args.seed)
    sets = {"clean": pairs, "ties": tied_pairs(args.pairs, args.seed), "one-sided": once * 8}
    singles = single_labels(make_pairs(2 * args.pairs, seed=args.seed + 500), 0.25, args.seed)
    runs = {f"{loss}, {data}": (train_variant, rows, loss) for data, rows in sets.items() for loss in PAIR_LOSSES}
    for noise in NOISE[:: 3 if args.smoke else 1]:
        flipped = flip_labels(pairs, noise, args.seed)
        runs |= {f"{loss}, noise {noise}": (train_variant, flipped, loss) for loss in ("sigmoid", "kto")}
    del runs["sigmoid, noise 0.0"]  # that is "sigmoid, clean"
    runs["kto, no pairs, weighted"] = (fit_kto, singles, True)
    runs["kto, no pairs, unweighted"] = (fit_kto, singles, False)
    runs["AI labels"] = (train_variant, ai_labels(*judge, pairs), "sigmoid")
    runs["on-policy"] = (fit_on_policy, 3)

    reference, tokenizer = load_sft_checkpoint(args, device)
    found = {"SFT": sample_and_judge(reference, tokenizer, prompts, 2, args.max_new_tokens, args.seed)[1]}
    margins, training = {}, {}
    for name, (train, *how) in runs.items():
        trainer, tokenizer = train(args, device, *how)
        found[name] = sample_and_judge(trainer.model, tokenizer, prompts, 2, args.max_new_tokens, args.seed)[1]
        if name.endswith(tuple(sets)):
            logps, ref_logps = pair_logps(trainer.model, tokenizer, held if "one-sided" not in name else once)
            margins[name] = (logps[0] - ref_logps[0] - logps[1] + ref_logps[1]).numpy()
            training[name] = (np.array(history(trainer)["rewards/margins"]) / trainer.args.beta).tolist()
    metrics = {
        "table": study_table(args),
        "arms": {name: summaries(readings) for name, readings in found.items()},
        "margins": {name: summary(values) for name, values in margins.items()},
        "training_margins": training,
        "judge": study_judge(*judge, held),
        "differences": differences(found, margins),
    }
    variants_figure(args.figures_dir / "dpo_variants.png", metrics)
    return metrics, world_claims(metrics), world_lines(metrics)


def differences(found: dict, margins: dict) -> dict:
    """The comparisons of the claims: gold utility, paired by prompt, with intervals over prompts."""
    utility = {name: readings["utility"].mean(1) for name, readings in found.items()}
    dpo, kto, ipo, worst = (
        utility[n] for n in ("sigmoid, clean", "kto, noise 0.0", "ipo, clean", "sigmoid, noise 0.3")
    )
    return {
        "ipo_under_ties": summary((dpo - utility["sigmoid, ties"]) - (ipo - utility["ipo, ties"])),
        "ipo_under_imbalance": summary((dpo - utility["sigmoid, one-sided"]) - (ipo - utility["ipo, one-sided"])),
        "dpo_extreme_margins": summary(margins["sigmoid, one-sided"] - margins["ipo, one-sided"]),
        "kto_no_pairs": summary(utility["kto, no pairs, weighted"] - utility["SFT"]),
        "kto_noise": summary((dpo - worst) - (kto - utility["kto, noise 0.3"])),
        "data_bounds_quality": summary(dpo - worst),
        "rlaif_is_dpo": summary(utility["AI labels"] - utility["SFT"]),
        "rlaif_is_its_judge": summary(dpo - utility["AI labels"]),
        "on_policy_is_better": summary(utility["on-policy"] - dpo),
        "kto_class_weights": summary(utility["kto, no pairs, weighted"] - utility["kto, no pairs, unweighted"]),
    }


CLAIMS = {  # what the tutorial says, and the difference that was predicted to lie above 0
    "ipo_under_ties": (
        "IPO regularises better than DPO where many pairs are tied",
        "gold utility that 75 % ties cost DPO, minus what they cost IPO",
    ),
    "ipo_under_imbalance": (
        "IPO regularises better than DPO where the pairs are one-sided",
        "gold utility that 48 one-sided pairs, shown 8 times, cost DPO, minus what they cost IPO",
    ),
    "dpo_extreme_margins": (
        "DPO runs to extreme margins where IPO stops",
        "log-ratio margin (nats) of the one-sided pairs that were trained on, DPO minus IPO",
    ),
    "kto_no_pairs": ("KTO needs no pairs", "gold utility gained over SFT from single labels, one good to three bad"),
    "kto_noise": (
        "KTO is more robust to noisy labels than DPO",
        "gold utility that 30 % flipped labels cost DPO, minus what they cost KTO",
    ),
    "data_bounds_quality": (
        "the quality of the preference data bounds that of the tuning",
        "gold utility that 30 % flipped labels cost DPO",
    ),
    "rlaif_is_dpo": (
        "RLAIF is DPO once the labels are there",
        "gold utility gained over SFT by DPO on the labels of a language model",
    ),
    "rlaif_is_its_judge": (
        "RLAIF is as good as its judge, who agrees with gold less than humans do",
        "gold utility of DPO on human labels minus DPO on the judge's labels of the same pairs",
    ),
    "on_policy_is_better": (
        "pairs from the current policy are better than a fixed set",
        "gold utility of DPO on pairs sampled from the policy in three rounds, minus DPO on the fixed set",
    ),
}


def world_claims(metrics: dict) -> list[dict]:
    """The section's claims: each says that a difference is above 0."""
    found = metrics["differences"]
    return [
        make_claim(id, claim, f"{predicted}: above 0", found[id]["mean"], found[id]["ci95"])
        for id, (claim, predicted) in CLAIMS.items()
    ]


def world_lines(metrics: dict) -> list[str]:
    """The summary of the default run."""
    arms, judge, stops = metrics["arms"], metrics["judge"], metrics["table"]["stops"]
    shown = {label: arms[name] for label, name in SHOWN_ARMS.items()}
    return [
        f"one pair won in 80 %: DPO stops at h = {stops['0.8']['dpo']:.3f}, IPO at {stops['0.8']['ipo']:.3f}; "
        f"always won: DPO never, IPO at {stops['1.0']['ipo']:.3f}",
        "good answers: " + ", ".join(f"{label} {arm['good']['mean']:.3f}" for label, arm in shown.items()),
        "KL in nats:   " + ", ".join(f"{label} {arm['kl']['mean']:.2f}" for label, arm in shown.items()),
        f"judge and gold agree {interval(judge['agrees_with_gold']['judge, both orders'])}, human labels and gold "
        f"{interval(judge['agrees_with_gold']['human labels'])}",
        f"two equal answers: the judge says A with {interval(judge['position_bias']['P(A) for two equal answers'])}, "
        "averaged over both orders with 0.5",
        f"class weights of KTO change gold utility by {interval(metrics['differences']['kto_class_weights'])}",
    ]


# --- 7. One loss on its own, or your own model and pairs ---


def run_losses(args: argparse.Namespace, device: str, rows) -> tuple[dict, list, list[str]]:
    """Train with --loss-type, or with DPO, IPO and KTO in turn, and report what can be known of the data at hand.

    With --judge also DPO on that model's labels of the same pairs.
    """
    from common.models import load_causal_lm, load_tokenizer

    if rows:
        tokenizer = load_tokenizer(args.model)
        train, held = split_for_policy(rows, tokenizer, args.dataset, args.seed, args.max_new_tokens, args.pairs)
    else:
        train = make_pairs(args.pairs, seed=args.seed)
        held = make_pairs(32 if args.smoke else 400, "test", seed=args.seed)
    prompts = sorted({row["prompt"] for row in held})[: 16 if args.smoke or rows else 128]
    losses = [args.loss_type] if args.loss_type else [["sigmoid"], ["ipo"], ["kto"]]
    runs = {" + ".join(names): (train, *names) for names in losses}
    metrics = {"train_pairs": len(train), "arms": {}}
    if args.judge:
        labelled = ai_labels(*load_causal_lm(args.judge, device), train)
        runs["sigmoid, AI labels"] = (labelled, "sigmoid")
        metrics["judge_agrees"] = summary([a["chosen"] == b["chosen"] for a, b in zip(labelled, train, strict=True)])
    for name, how in runs.items():
        trainer, tokenizer = train_variant(args, device, *how)
        logps, ref_logps = pair_logps(trainer.model, tokenizer, held)
        margin = (logps[0] - ref_logps[0] - logps[1] + ref_logps[1]).numpy()
        texts, kl = sample_texts(trainer.model, tokenizer, prompts, 1, args.max_new_tokens, args.seed)
        readings = {"kl": kl, "words": np.array([[float(len(text.split())) for text in row] for row in texts])}
        if not rows:
            readings |= judge_responses(prompts, texts)
        metrics["arms"][name] = {
            "implicit_reward_accuracy": summary(margin > 0),
            "margin": summary(margin),
            **{reading: summary(values.mean(1)) for reading, values in readings.items()},
        }
    lines = [f"{len(train)} pairs to train on, {len(held)} held out" + "; no gold standard for these" * bool(rows)]
    if args.judge:
        lines.append(f"{args.judge} labels as the data do: {interval(metrics['judge_agrees'])}")
    for name, arm in metrics["arms"].items():
        gold = "" if rows else f", good answers {interval(arm['good'])}"
        accuracy, margin, kl = (interval(arm[key]) for key in ("implicit_reward_accuracy", "margin", "kl"))
        lines.append(f"{name}: held-out accuracy {accuracy}, margin {margin} and KL {kl} nats{gold}")
    losses_figure(args.figures_dir / "dpo_variants.png", metrics["arms"])
    return metrics, [], lines


# --- Main ---


def main(argv: list[str] | None = None) -> dict:
    """Train every variant, judge, draw; returns the metrics."""
    from common.models import find_model

    args = build_parser().parse_args(argv)
    started = time.time()
    if args.loss_type and len(args.loss_type) > 1 and set(args.loss_type) & set(UNPAIRED):
        raise UserError("--loss-type: kto and apo_zero_unpaired read single labels and stand alone")
    check_writable(args.output_dir, args.figures_dir)
    rows = load_own_pairs(args.dataset) if args.dataset else None
    if not rows:
        args.pairs = args.pairs or 384
    if args.smoke:
        args.pairs, args.num_train_epochs = min(args.pairs or 16, 16), 1
    for name in (args.model, args.judge or "tiny-gpt2"):  # before any work is done
        find_model(name)
    quiet_libraries()
    device = pick_device(args.device)
    if args.learning_rate is None:  # embedded: half as many steps as dpo_trainer.py takes, of twice the size
        args.learning_rate = 1.4e-3 if args.model.startswith("tiny-") else 3e-4
    default = rows is None and not args.loss_type
    metrics, claims, lines = run_world(args, device) if default else run_losses(args, device, rows)
    results = args.figures_dir / "dpo_variants.json"
    write_results(results, "dpo_variants.py", vars(args), started, metrics, claims, device)
    print_claims(claims)
    print_summary(lines, [results.with_suffix(".png"), results])
    return metrics


if __name__ == "__main__":
    run(main)
