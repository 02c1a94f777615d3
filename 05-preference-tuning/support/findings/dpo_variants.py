"""What dpo_variants.py found, in sentences."""

from functools import partial

from support.findings.second_look import second_look_findings

from common.intervals import interval, percent


def findings(metrics: dict) -> list[str]:
    """What was found, in sentences."""
    if "differences" not in metrics:
        return loss_findings(metrics)
    at_kl = partial(gold_at_kl, {"reference": metrics["reference"], **metrics["arms"]})
    stops = metrics["table"]["pairs"][1]["stops"]
    judge = metrics["labels"]["judge"][0]
    off_line = metrics["differences"]["rlaif_is_its_judge"]
    return [
        f"One pair that wins in 80 %: DPO stops at h = {stops['dpo']:.2f} nats, IPO at "
        f"{stops['ipo']:.2f}; where it always wins, DPO never stops.",
        f"Gold utility: {at_kl('reference')}; in {metrics['passes']} passes "
        f"{at_kl('dpo', 'ipo', 'kto')}.",
        f"Ties: {at_kl('dpo_ties', 'ipo_ties')}.",
        f"One-sided pairs: {at_kl('dpo_one_sided', 'ipo_one_sided')}.",
        f"Noise: {at_kl('dpo_noise', 'kto_noise')}.",
        f"The judge labels {percent(judge['agreement'])} of the pairs in the gold order; from what "
        f"human labels of that quality give, DPO's gold utility differs by {interval(off_line)}.",
        f"One pass, single labels, and two controls: "
        f"{at_kl('flipped_0', 'kto_singles', 'sft_on_chosen', 'coin')}.",
    ]


def gold_at_kl(arms: dict, *keys: str) -> str:
    """Gold utility and KL of some arms: DPO 3.66 at KL 1.1, IPO 3.70 at KL 1.0."""
    texts = []
    for key in keys:
        gold, kl = arms[key]["utility"]["mean"], arms[key]["kl"]["mean"]
        texts.append(f"{arms[key]['name']} {gold:.2f} at KL {kl:.1f}")
    return ", ".join(texts)


def loss_findings(metrics: dict) -> list[str]:
    """Of a few losses side by side, or of the user's own pairs."""
    lines = []
    for arm in metrics["arms"].values():
        accuracy, margin = percent(arm["implicit_reward_accuracy"]), interval(arm["margin"])
        gold = f", good answers {percent(arm['good'])}" if "good" in arm else ""
        if "ended" in arm:
            gold = f"; {percent(arm['ended'])} of its answers end within --max-new-tokens"
        lines.append(
            f"{arm['name']}: ranks {accuracy} of held-out pairs as labelled, margin {margin} and "
            f"KL {interval(arm['kl'])} nats{gold}."
        )
    if "judge" in metrics:
        agrees = percent(metrics["judge"]["agrees_with_labels"])
        lines.append(f"The judge labels {agrees} of the held-out pairs as the data do.")
    if "second_look" in metrics:
        lines += second_look_findings(metrics["second_look"])
    return lines
