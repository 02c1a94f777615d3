"""Data and start of a reward model: from which model, with how many pairs, or from DPO itself?

    python 05-preference-tuning/studies/reward_model_data_and_start.py  # one seed, 3 minutes

Two rewards from one SFT model and 1,600 pairs of unbiased annotators: explicit, the model with a
head that gives one number (InstructGPT), and implicit, log(pi / pi_ref) of a DPO policy. Judged by
how many pairs they put in the order of gold utility: held-out ones; of facts that no training pair
asks about; of styles that no training pair shows (an expert's tone, an echo of the user). Beside
them, with 6,400 pairs: a head, and an encoder that read about the facts in pre-training.
Why does the implicit reward tell right from wrong, and the head hardly? The SFT model finds a right
answer likelier than a wrong one in nearly all pairs (`log_p`), and DPO's reward is a change of
these very probabilities. The head reads one state, which never had to say whether the answer was
right: it has to learn that from labels alone, and four times the pairs do not suffice.
"""

from functools import partial

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import train_dpo
from reward_model import gold_order, pair_hits, reward_model_in

from common.claims import INFINITY, Claim, run_study, study_folder
from common.figures import new_figure, seed_columns
from common.preferences import SIDES, make_pairs
from common.scoring import pair_logps, score_pairs
from common.training import load_sft_model

HIDDEN = {"expert", "sycophantic"}  # styles that a training does not see
FACT_ALONE = ("concise", "wrong")  # styles of a pair in gold order where only a fact tells
# Kinds of test pairs.
TESTS = {"held": "same kind", "new_facts": "new facts", "new_style": "new styles"}
REWARDS = {  # colour, name
    "log_p": ("lab:other", "log p of\nSFT model,\nno labels"),
    "implicit": ("lab:dpo", "DPO's\nimplicit\nreward"),
    "explicit": ("lab:sft", "SFT model\nand head"),
    "explicit_many": ("lab:sft", "SFT model,\n6,400\npairs"),
    "encoder_many": ("lab:reward", "encoder,\n6,400\npairs"),
}
IN_ORDER = "share of pairs in the gold order, same model and 1,600 training pairs: "

claim_on_order = partial(Claim, smallest=0.02)  # a smaller share is not worth calling a difference
CLAIMS = (
    claim_on_order(
        "dpo_needs_no_reward_model",
        "DPO needs no reward model: its implicit reward is as good as an explicit one",
        f"{IN_ORDER}implicit minus explicit reward, pairs of the same kind",
        of=lambda m: m["all"]["held"]["implicit"] - m["all"]["held"]["explicit"],
        true=(-0.05, INFINITY),
    ),
    claim_on_order(
        "implicit_is_worse_on_new_facts",
        "an implicit reward is the worse one on facts that no pair asks about",
        f"{IN_ORDER}explicit minus implicit reward, new facts",
        of=lambda m: m["all"]["new_facts"]["explicit"] - m["all"]["new_facts"]["implicit"],
        predicted="does not hold",
    ),
    claim_on_order(
        "implicit_is_worse_on_new_styles",
        "an implicit reward is the worse one on styles that no pair shows",
        f"{IN_ORDER}explicit minus implicit reward, new styles",
        of=lambda m: m["all"]["new_style"]["explicit"] - m["all"]["new_style"]["implicit"],
    ),
    claim_on_order(
        "encoder_over_sft_start",
        "an encoder that read about the facts is a better start than the SFT model",
        "share of pairs in the gold order, 6,400 training pairs: encoder minus SFT model",
        of=lambda m: m["all"]["held"]["encoder_many"] - m["all"]["held"]["explicit_many"],
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """Pairs in the gold order by each reward: all, and where only a fact tells."""
    few, many, count = (16, 32, 100) if smoke else (1600, 6400, 1000)
    pairs = make_pairs(many, seed=seed)
    held = gold_order(make_pairs(count, "test", seed=seed))
    new_facts = gold_order(make_pairs(count, "test", seed=seed, unseen=True))
    without = [row for row in pairs if not shows_hidden(row)][:few]
    folder, start = study_folder(seed, smoke), "tiny-gpt2"
    encoder = folder / "reward_model_6400", "tiny-distilbert"
    heads = {
        "explicit": reward_model_in(folder / "head_1600", start, pairs[:few], seed=seed),
        "explicit_many": reward_model_in(folder / "head_6400", start, pairs, seed=seed),
        "encoder_many": reward_model_in(*encoder, pairs, seed=seed),
    }
    unaware = reward_model_in(folder / "head_without_styles", start, without, seed=seed)
    rewards = rewards_by(pairs[:few], seed, heads, {"held": held, "new_facts": new_facts})
    new_style = {"new_style": list(filter(shows_hidden, held))}
    rewards |= rewards_by(without, seed, {"explicit": unaware}, new_style)
    only_facts = [(row["chosen_style"], row["rejected_style"]) == FACT_ALONE for row in held]
    rewards["facts"] = {way: table[only_facts] for way, table in rewards["held"].items()}
    shares = {}
    for test, tables in rewards.items():
        shares[test] = {way: float(pair_hits(table).mean()) for way, table in tables.items()}
    return {"facts": shares.pop("facts"), "all": shares}


def shows_hidden(row: dict) -> bool:
    """Whether one of the two answers is in a hidden style."""
    return any(row[f"{side}_style"] in HIDDEN for side in SIDES)


def rewards_by(pairs: list[dict], seed: int, heads: dict, tests: dict[str, list]) -> dict:
    """Rewards (N, 2) of each test: by DPO on `pairs` and its SFT model, in nats, and by heads."""
    model, tokenizer = load_sft_model()
    policy, _ = train_dpo(model, tokenizer, pairs, seed=seed, name=f"DPO, {len(pairs)} pairs")
    rewards = {}
    for test, rows in tests.items():
        logps, ref_logps = (each.numpy().T for each in pair_logps(policy, tokenizer, rows))
        rewards[test] = {"implicit": logps - ref_logps, "log_p": ref_logps}
        rewards[test] |= {way: score_pairs(*head, rows) for way, head in heads.items()}
    return rewards


def draw(runs: list[dict]):
    """Explicit and implicit reward under shift, and who tells right from wrong."""
    facts = {way: [100 * run["facts"][way] for run in runs] for way in REWARDS}
    implicit, explicit = np.mean(facts["implicit"]), np.mean(facts["explicit"])
    title = f"Right from wrong: DPO's implicit reward {implicit:.0f} %, "
    title += f"a reward head on the same model {explicit:.0f} %"
    figure, axes = new_figure(1, 2, title, height=3.6)
    shift = {}
    for test, told in TESTS.items():
        for way, name in (("explicit", "head"), ("implicit", "DPO")):
            shift[f"{told}, {name}"] = [100 * run["all"][test][way] for run in runs]
    seed_columns(axes[0], shift, ("lab:sft", "lab:dpo") * len(TESTS), digits=0)
    axes[0].set_title("The same model, the same 1,600 pairs")
    columns = {name: facts[way] for way, (_, name) in REWARDS.items()}
    seed_columns(axes[1], columns, [color for color, _ in REWARDS.values()], digits=0)
    axes[1].set(title="Both answers concise: only a fact tells")
    for ax in axes:
        ax.tick_params(axis="x", labelsize=6.5)
        ax.axhline(50, color="black", lw=0.8, ls=":")
        ax.text(ax.get_xlim()[1], 50, "by chance ", ha="right", va="top")
        ax.set(ylabel="% of pairs in the gold order", ylim=(40, 105))
    return figure


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
