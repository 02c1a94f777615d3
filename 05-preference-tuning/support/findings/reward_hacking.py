"""What reward_hacking.py found, in sentences."""

from common.intervals import interval, percent


def findings(metrics: dict, hacks: dict[str, str], times_beta: float) -> list[str]:
    """What was found, in sentences: `hacks` by name, the strong KL term is `times_beta` of beta."""
    dpo, gold = metrics["dpo"], metrics["gold"]
    return [
        *hack_findings(hacks, metrics),
        f"Against verbosity: {times_beta:g} times beta in DPO, gold "
        f"{gold['kl_mitigates_dpo']['mean']:+.2f} (KL {interval(dpo['strong_kl']['kl'])} nats for "
        f"{interval(dpo['length']['kl'])}); reward / words {interval(gold['per_word_mitigates'])}, "
        f"and {interval(gold['per_word_beats_shortest'])} more than the shortest answer.",
        f"Mere noise of sd 6, best of 16 to 64: gold {-gold['noise_bends_sd_6']['mean']:+.2f}.",
    ]


def hack_findings(names: dict[str, str], metrics: dict) -> list[str]:
    """A sentence for each hack: what the reward model absorbed, and what choosing and DPO did."""
    lines = []
    for hack, name in names.items():
        measured, best = metrics[hack], metrics[hack]["best_of_n"]
        lines.append(
            f"{name.capitalize()}: {percent(measured['absorbed']['share'])} of the planted bias is "
            f"in the reward model. Best of {metrics['ns'][-1]}: reward "
            f"{best['proxy'][-1]['mean']:+.2f}, gold {best['gold'][-1]['mean']:+.2f}. DPO: reward "
            f"{measured['proxy_gain']['mean']:+.2f}, gold {-measured['gold_lost']['mean']:+.2f}."
        )
    return lines
