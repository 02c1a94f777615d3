"""What frontier.py found, in sentences."""

from common.intervals import interval, percent


def findings(metrics: dict, n: int) -> list[str]:
    """What was found, in sentences, and the table of methods; `n` is that of best-of-n."""
    head = ("method", "gain", "KL", "share of pi*'s", "labels", "models", "samples")
    lines = [
        "Gain in gold utility over the SFT checkpoint, and its share of what pi*, the limit, gains "
        "at the same KL. Labels: annotated comparisons. Models: in training. Samples: an answer.",
        "{:<16} {:>5} {:>5} {:>15} {:>7} {:>7} {:>8}".format(*head),
    ]
    for row in sorted(metrics["methods"], key=lambda row: -row["gain"]["mean"]):
        costs = row["costs"]
        lines.append(
            f"{row['method']:<16} {row['gain']['mean']:5.2f} {row['kl']['mean']:5.2f} "
            f"{row['share']['mean']:15.0%} {costs['annotations'] or '-':>7} "
            f"{costs['models_in_training']:>7} {costs['samples_per_answer']:>8}"
        )
    share, lost = metrics["best_of_n_share"], metrics["lost_by_biased_dpo"]
    return [
        *lines,
        f"Best-of-{n} has {percent(share)} of the gain of the best tuned policy "
        f"({metrics['best_tuned']}), without any training of the policy.",
        f"DPO on the labels of annotators who love length loses {interval(lost)} of gold utility "
        "after its best point.",
    ]
