"""Best-of-N: how far does choosing among samples get, what does it cost, how does it suit DPO?

    python 05-preference-tuning/best_of_n.py
    python 05-preference-tuning/best_of_n.py --n 32          # choose among more
    python 05-preference-tuning/best_of_n.py --model FOLDER --dataset pairs.jsonl   # yours

One pool of candidates per held-out prompt is sampled in one go, and each is scored once. Every n is
then estimated from that pool without bias: for the SFT checkpoint and for the DPO policy, by a
reward model of as many pairs as DPO has, by one of 6,400, and by one of annotators who love length.

About 70 seconds on one core. Expect 4 candidates to gain more than 12 further ones, and gold to
fall from 2.3 to 1.6 where the annotators love length. Writes outputs/best_of_n.png. Left out:
early-stopped variants, weighted voting, distilling best-of-n back into the weights.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from support.answers import best_of_n_answers
from support.artifacts import check_adapter, load_adapter
from support.cost import study_cost
from support.drawing.best_of_n import draw_best_of_n
from support.evaluation import (
    largest_weight_change,
    log_ratios,
    readings,
    score_texts,
    show_candidates,
    which_ended,
)
from support.findings.best_of_n import findings
from support.held_out_pairs import pair_hits
from support.pools import FEW, NS, read_pools, rescored
from support.reward_study import score_pairs
from support.start import Start
from support.trained import START_FLAGS, label_counts, start_beside_dpo
from support.training import load_sft_checkpoint

import dpo_trainer
import numpy as np
import reward_model
from rlhf_objectives import kl_regularized_optimum

from common import cli
from common.intervals import summary
from common.models import load_reward_model
from common.reporting import Check, Claim, finish
from common.sampling import sample

PROMPTS, POOL = 128, 128  # of the world: held-out prompts, candidates for each
TWO_STEPS = "first_step_minus_second"  # measured where n goes beyond the first step

CLAIMS = (
    Claim(
        "best_of_n_cost_is_linear",
        "the cost of best-of-n is roughly linear in n, not counting batching",
        "FLOPs grow as n to this power, each candidate sampled and scored on its own",
        path="cost.exponent",
        true=(0.9, 1.1),
        smallest=0.02,
    ),
    Claim(
        "one_to_four_beats_four_to_sixteen",
        "n from 1 to 4 gains more than from 4 to 16",
        "gold utility gained from n = 1 to 4, minus that from 4 to the largest n, log-odds",
        path=TWO_STEPS,
        smallest=0.05,
    ),
    Claim(
        "best_of_n_captures_dpo_gain",
        "best-of-n captures a large part of DPO's gain without training",
        "share of DPO's gain in gold utility, by a reward model trained on as many pairs as DPO",
        path="share_of_dpo_gain.as_many_pairs",
        true=(0.5, float("inf")),
        smallest=0.05,
    ),
    Claim(
        "dpo_plus_best_of_n_is_best",
        "DPO with best-of-n on top is better than either alone",
        "gold utility of both together, minus that of the better one alone, log-odds",
        path="both_minus_better_single",
        smallest=0.05,
    ),
    Claim(
        "length_bias_slows_best_of_n",
        "a reward model of annotators who love length makes best-of-n worse",
        "gold utility at the largest n, unbiased minus length-biased annotators, log-odds",
        path="lost_to_length",
        smallest=0.1,
    ),
)
CHECKS = (
    Check("best_of_n_leaves_weights", "no weight changes", "largest_weight_change", (0, 0)),
    Check("no_gold_above_the_optimum", "none has more than pi*", "excess_over_optimum", (-9, 0.02)),
)


# --- 1. Best-of-n in closed form ---


def expected_best_of_n(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    """Unbiased estimate of the expected value of the best of n by reward, from a pool of M >= n.

    rewards (M,) rank the pool, values (M,) are averaged (default: the rewards); within ties values
    count equally. The i-th smallest reward is the largest of a random subset of n with probability
    C(i-1, n-1) / C(M, n); its binary case is pass@k (Chen et al. 2021, arXiv 2107.03374). Raises
    ValueError for n outside 1 ... M.
    """
    rewards = np.asarray(rewards, dtype=float)
    if not 1 <= n <= len(rewards):
        raise ValueError(f"n = {n} must lie between 1 and the pool size {len(rewards)}")
    _, tie_group = np.unique(rewards, return_inverse=True)
    sums = np.bincount(tie_group, rewards if values is None else values)
    means = sums / np.bincount(tie_group)
    return float(best_of_n_weights(len(rewards), n) @ means[np.sort(tie_group)])


def best_of_n_weights(size: int, n: int) -> np.ndarray:
    """The chance that the i-th smallest of a pool is the best of n: (size,).

    C(i-1, n-1) / C(size, n) for i = 1 ... size.
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size + 1)))])

    def log_choose(a: np.ndarray | int, b: int) -> np.ndarray:
        return log_factorial[a] - log_factorial[b] - log_factorial[np.asarray(a) - b]

    weights = np.zeros(size)
    below = np.arange(n - 1, size)
    weights[n - 1 :] = np.exp(log_choose(below, n - 1) - log_choose(size, n))
    return weights


def best_of_n_policy(ref_probs: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """Exact distribution (K,) of the best of n draws from ref_probs (K,), by reward.

    F^n - F_-^n, shared by ref_probs within ties: F is the probability of a reward up to this one,
    F_- of a lower one (Beirami et al. 2024, arXiv 2401.01879).
    """
    ref_probs = np.asarray(ref_probs, dtype=float)
    _, group = np.unique(rewards, return_inverse=True)
    mass = np.bincount(group, ref_probs)
    up_to = np.minimum(np.cumsum(mass), 1.0)
    win = up_to**n - np.concatenate([[0.0], up_to[:-1]]) ** n
    return ref_probs * np.divide(win, mass, out=np.zeros_like(mass), where=mass > 0)[group]


def best_of_n_kl_bound(n: int | np.ndarray) -> float | np.ndarray:
    """Upper bound of KL(best-of-n || reference) in nats, reached without ties (Beirami et al.)."""
    return np.log(n) - (n - 1) / n


# --- 2. One pool of candidates, scored once ---


def make_pool(
    model, tokenizer, judge: tuple, prompts: list[str], size: int, max_new_tokens: int, seed: int
) -> dict:
    """Sample `size` candidates per prompt and score them: texts, and arrays (P, size) by name.

    `judge` is (reward model, tokenizer); its `reward` is in log-odds. The mean of `log_ratio`, log
    pi/pi_ref in nats, is the KL. The other arrays are `support.evaluation.readings`.
    """
    sampled = sample(model, tokenizer, prompts, size, max_new_tokens, seed=seed)
    texts, token_ids = [], []
    for candidates in sampled:  # of one prompt
        texts.append([candidate.text for candidate in candidates])
        token_ids.append([candidate.token_ids for candidate in candidates])
    return {
        "texts": texts,
        "reward": score_texts(judge, prompts, texts),
        "log_ratio": log_ratios(model, tokenizer, prompts, token_ids),
        **readings(prompts, texts),
        **which_ended(prompts, sampled),
    }


def best_of_n_curve(rewards: np.ndarray, values: np.ndarray, ns: Sequence[int]) -> np.ndarray:
    """Expected value of the best of n by reward: (P, len(ns)); rewards and values (P, M)."""
    curve = np.empty((len(rewards), len(ns)))
    for row, (pool_rewards, pool_values) in enumerate(zip(rewards, values, strict=True)):
        curve[row] = [expected_best_of_n(pool_rewards, n, pool_values) for n in ns]
    return curve


# --- 3. SFT, best-of-n, DPO, and both, on the same prompts ---


def study(start: Start, judges: dict[str, Path], adapter: Path, n: int, pool_size: int) -> tuple:
    """The section: (metrics, seconds that n candidates took).

    `judges` are folders of reward models: "human" (which chooses); in the world also
    "as_many_pairs", trained on as many as DPO, and "length". `adapter` is DPO's.
    """
    data, reference, tokenizer = start.data, start.reference, start.tokenizer
    policy = load_adapter(load_sft_checkpoint(*start.sft)[0], adapter)
    device, seed = str(reference.device), start.training["seed"]
    models = {name: load_reward_model(str(folder), device) for name, folder in judges.items()}
    human = models.pop("human")
    before = {name: tensor.clone() for name, tensor in reference.state_dict().items()}

    def answer(model, prompts: list[str], size: int, seed: int) -> dict:
        return make_pool(model, tokenizer, human, prompts, size, start.max_new_tokens, seed)

    pool = answer(reference, data.prompts, pool_size, seed)
    others = {name: rescored(pool, data.prompts, judge) for name, judge in models.items()}
    pools = {"human": pool, **others}
    dpo_pool = answer(policy, data.prompts, 2 * n, seed)
    show_candidates(data.prompts[0], pool["texts"][0][:FEW], pool["reward"][0, :FEW])
    cost, seconds = study_cost(partial(answer, reference), data, n, NS, FEW)
    labels = {**label_counts(judges), "dpo": len(data.train)}
    formulas = (best_of_n_curve, best_of_n_policy, kl_regularized_optimum)
    metrics = read_pools(pools, dpo_pool, labels, n, *formulas)
    metrics |= {
        "n": n,
        "largest_weight_change": largest_weight_change(before, reference),
        "held_out_accuracy": summary(pair_hits(score_pairs(*human, data.held))),
        "kl_bound": [float(best_of_n_kl_bound(k)) for k in NS if 2 * k <= pool_size],
        "cost": cost,
    }
    if data.has_gold:
        made = (pools, dpo_pool, reference, tokenizer)
        metrics["answers"] = best_of_n_answers(data.prompts, metrics["frontier"], *made)
    return metrics, seconds


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__file__, __doc__)
    group = cli.add_model_flags(parser, model="tiny-gpt2")
    cli.add_reward_flags(group)
    adapter = f"a trained DPO adapter; {cli.OR_TRAINED}"
    group.add_argument("--adapter", type=cli.folder, help=adapter)
    group = cli.add_policy_flags(parser, prompts=f"{PROMPTS}, of your own 16")
    largest = "the largest n; the pool holds at least twice as many candidates"
    group.add_argument("--n", type=cli.whole_number(2), default=16, help=largest)
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Sample, score, compare, draw; returns the metrics."""
    args = cli.start(build_parser(), argv, "best_of_n", {"n": 4, "prompts": 8})
    if args.adapter:
        check_adapter(args.adapter)
    device = cli.init_compute(args.device)
    start, judges, adapter = start_beside_dpo(
        dpo_trainer.tune,
        reward_model.tune,
        beta=dpo_trainer.BETA,
        prompts=args.prompts or (None if args.dataset else PROMPTS),
        adapter=args.adapter,
        few=True,
        output_dir=args.output_dir,
        device=device,
        reading=args.reading,
        **{name: args.settings[name] for name in START_FLAGS},
    )
    pool_size = 2 * args.n if args.dataset or args.smoke else max(POOL, 2 * args.n)
    metrics, seconds = study(start, judges, adapter, args.n, pool_size)
    claims = [claim for claim in CLAIMS if claim.path != TWO_STEPS or TWO_STEPS in metrics]
    return finish(
        args,
        metrics,
        draw_best_of_n,
        findings(metrics, seconds),
        claims=() if args.dataset else claims,
        checks=CHECKS[:1] if args.dataset else CHECKS,  # pi* is of gold
        settings={"reward_model": judges["human"], "adapter": adapter},
        device=device,
        timings={"candidates": seconds},
    )


if __name__ == "__main__":
    cli.run(main)
