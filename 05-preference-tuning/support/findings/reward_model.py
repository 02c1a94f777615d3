"""What reward_model.py found, in sentences."""

from support.findings.second_look import second_look_findings

from common.intervals import interval, percent


def findings(metrics: dict) -> list[str]:
    """What was found, in sentences."""
    labels, temperature = metrics["label_accuracy"], metrics["calibration"]["temperature"]
    on_labels = (
        f"Of held-out pairs the reward model orders {percent(labels)} as labelled; preferring the "
        f"shorter answer {percent(metrics['control_length_labels'])}. Its margins of chosen over "
        f"rejected are {interval(metrics['margin'])} log-odds, their temperature is "
        f"{temperature:.2f} (1: calibrated, above: over-confident)."
    )
    if "gold_order" in metrics:
        return [on_labels, *world_findings(metrics)]
    return [on_labels, *second_look_findings(metrics["second_look"])]


def world_findings(metrics: dict) -> list[str]:
    """What gold utility says of a run, in sentences."""
    gold, ceiling = metrics["gold_order"], metrics["bayes_ceiling"]["accuracy"]
    absorbed, disagreement = metrics["contrasts"], metrics["disagreement"]
    people, sft = absorbed["people"], absorbed["sft"]
    curves = metrics["curve"]
    size, all_pairs = len(curves["dpo"]) - 1, curves["encoder"][-1]
    at_size = {name: curve[size] for name, curve in curves.items()}
    levels = ", ".join(f"{level['mean']:+.1f}" for level in metrics["level"].values())
    return [
        f"It orders {percent(gold['all'])} as gold utility does, of facts that no pair was about "
        f"{percent(metrics['gold_order_unseen_facts'])}; preferring the shorter answer "
        f"{percent(metrics['control_length_only'])}. Of the labels at most {ceiling:.1%} can be "
        "predicted.",
        f"Of the 3 log-odds of a right answer it absorbed {percent(people['right']['share'])}, "
        f"from the SFT checkpoint {percent(sft['right']['share'])}. A word of filler counts "
        f"{interval(people['filler']['reward'])} (planted -0.15), by labels of people who like "
        f"length {interval(absorbed['length']['filler']['reward'])} (planted +0.15).",
        f"The models of people and of length-lovers order {percent(disagreement['length'])} of "
        f"pairs unlike, those of two groups of people {percent(disagreement['others'])}.",
        f"The level is free: the mean reward of four models lies {levels} beside gold utility.",
        f"Where the worse response is plain and wrong, the encoder orders "
        f"{percent(at_size['encoder']['facts'])} right after {at_size['sft']['pairs']:.0f} pairs "
        f"({percent(all_pairs['facts'])} after all), the SFT checkpoint "
        f"{percent(at_size['sft']['facts'])}, DPO's implicit reward "
        f"{percent(at_size['dpo']['facts'])}; where style gives it away "
        f"{percent(at_size['encoder']['style'])}, {percent(at_size['sft']['style'])} and "
        f"{percent(at_size['dpo']['style'])}.",
    ]
