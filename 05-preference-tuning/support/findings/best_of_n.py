"""What best_of_n.py found, in sentences."""

from support.pools import ENDS, FEW

from common.intervals import interval, percent


def findings(metrics: dict, seconds: dict) -> list[str]:
    """What was measured, in sentences."""
    n, cost = metrics["n"], metrics["cost"]
    right = percent(metrics["held_out_accuracy"])
    lines = [
        f"The reward model orders {right} of held-out pairs as labelled.",
        *curve_findings(metrics["curves"], n),
        f"One more candidate costs {interval(cost['one_more_alone'], 0)} MFLOPs by itself, "
        f"{interval(cost['one_more_shared'], 0)} where the prompt is read once for all and equal "
        f"texts are scored once; {cost['n'][-1]} candidates took {seconds['alone']:.2f} s and "
        f"{seconds['shared']:.2f} s.",
    ]
    if "methods" not in metrics:
        return [*lines, "There is no gold standard for these pairs: the reward is what chooses."]
    shares, annotators = metrics["share_of_dpo_gain"], metrics["annotators"]
    first, *_, last = annotators["length"]["utility"]
    gained = f"Gold utility gained from n = 1 to {min(FEW, n)}: {interval(metrics['first_step'])}"
    if "second_step" in metrics:
        gained += f"; from there to {n}: {interval(metrics['second_step'])}"
    return [
        *lines,
        f"{gained}.",
        f"Of DPO's gain best of {n} has {percent(shares['as_many_pairs'])} with as many pairs, "
        f"{percent(shares['best_of_n'])} with all.",
        f"By a reward model of annotators who love length gold utility goes from "
        f"{first['mean']:.2f} to {interval(last)} at n = {annotators['n'][-1]}.",
    ]


def curve_findings(curves: dict[str, dict], n: int) -> list[str]:
    """A sentence for each method: its reward, length and, where it is known, its gold."""
    sentences = {
        "sft": "One answer of the SFT checkpoint",
        "as_many_pairs": f"Best of {n} by a reward model of as many pairs as DPO",
        "best_of_n": f"Best of {n}",
        "dpo": "One answer after DPO",
        "dpo_best_of_n": f"Best of {n} after DPO",
    }
    lines = []
    for method, name in sentences.items():
        arm, end = ENDS[method]
        if arm not in curves:
            continue
        seen = {reading: curve[end] for reading, curve in curves[arm].items()}
        text = f"{name}: reward {interval(seen['reward'])}, {seen['words']['mean']:.1f} words"
        if "ended" in seen:
            text += f", {percent(seen['ended'])} end within --max-new-tokens"
        if "good" in seen:
            text += f", good {percent(seen['good'])}, gold utility {interval(seen['utility'])}"
        lines.append(f"{text}.")
    return lines
