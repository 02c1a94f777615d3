"""What dpo_trainer.py found, in sentences."""

from support.findings.dpo_variants import gold_at_kl
from support.findings.second_look import second_look_findings, share_ended
from support.sources import SOURCES

from common.intervals import interval, percent


def findings(metrics: dict) -> list[str]:
    """What was found, in sentences."""
    before, after, held = (metrics[name] for name in ("reference", "policy", "held_out_pairs"))
    lines = [
        f"Of held-out pairs the implicit reward ranks {percent(held['accuracy'])} as labelled; "
        f"log p of chosen responses changed by {interval(held['chosen'])} nats, of rejected ones "
        f"by {interval(held['rejected'])}.",
        f"Sampled answers to held-out prompts lie {interval(after['kl'])} nats from the reference "
        f"and have {before['words']['mean']:.1f} words before, {after['words']['mean']:.1f} after.",
        *win_rate_findings(metrics.get("win_rates", {})),
    ]
    if "second_look" in metrics:
        lines += share_ended(before, after)
        return [*lines, *second_look_findings(metrics["second_look"])]
    good = (
        f"Good answers: {percent(before['good'])} before, {percent(after['good'])} after; "
        f"gold utility {interval(before['utility'])} and {interval(after['utility'])}."
    )
    lines += [*style_findings(metrics), *amount_findings(metrics["amounts"])]
    return [good, *lines, source_finding(metrics)]


def win_rate_findings(rates: dict) -> list[str]:
    """Who prefers the tuned answers how often, in sentences."""
    lines = []
    for name, who in (("judge", "The judge"), ("reward_model", "The reward model")):
        if name in rates:
            raw, controlled = rates[name]["raw"], rates[name]["length_controlled"]
            lines.append(
                f"{who} prefers the answers after training to those before in {percent(raw)}, "
                f"between answers of equal length in {percent(controlled)}."
            )
    if "judge" in rates:
        order, answers = (
            percent(rates["judge"][name]) for name in ("verdict_depends_on_order", "answers_a_or_b")
        )
        lines.append(
            f"The judge's verdict depends on the order in {order}; it says A or B in {answers}."
        )
    return lines


def style_findings(metrics: dict) -> list[str]:
    """What changed of the two, in sentences."""
    right, filler = metrics["log_odds"]["right"], metrics["log_odds"]["filler"]
    return [
        f"Of the room it had, style (on-topic answers without filler) gained "
        f"{percent(metrics['style_of_room'])}, substance (right ones) "
        f"{percent(metrics['substance_of_room'])}.",
        f"log p of a right answer minus that of a wrong one in the same words went from "
        f"{interval(right['before'])} to {interval(right['after'])} nats: "
        f"{percent(right['share'])} of what unlimited pairs would teach; of a word of filler "
        f"{percent(filler['share'])}.",
    ]


def amount_findings(amounts: dict) -> list[str]:
    """What became of answers with more of it, in sentences."""
    lines = []
    for name, labels in (("unbiased", "unbiased labels"), ("biased", "labels that love length")):
        amount = amounts[name]
        last = amount["curve"][-1]
        lines.append(
            f"More of it on {labels}, at a constant rate: gold utility is best at epoch "
            f"{amount['peak_epoch']:.3g} and has lost {interval(amount['gold_lost'])} by epoch "
            f"{last['epoch']:.3g} (KL {interval(last['kl'])} nats, good answers "
            f"{percent(last['good'])}); of training pairs meanwhile {percent(last['accuracy'])} "
            f"are ranked as labelled, {amount['accuracy_gained']['mean']:+.0%}."
        )
    sides = amounts["unbiased"]["curve"][-1]
    lines.append(
        f"There log p of chosen responses changed by {interval(sides['chosen'])} nats, of "
        f"rejected ones by {interval(sides['rejected'])}."
    )
    return lines


def source_finding(metrics: dict) -> str:
    """What pairs from three sources are worth, in a sentence."""
    policies = {"written": {**metrics["policy"], "name": "written"}}
    for source, name in SOURCES.items():
        policies[source] = {**metrics["sources"][source], "name": name}
    return (
        f"As many pairs of three sources, gold utility: {gold_at_kl(policies, *policies)}; samples "
        f"of the policy minus those of the SFT model {interval(metrics['fresh_minus_old'])}."
    )
