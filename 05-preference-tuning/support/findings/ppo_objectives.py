"""What rlhf_objectives.py found, in sentences."""

from support.model_sizes import memory_finding

from common.intervals import interval


def findings(metrics: dict) -> list[str]:
    """What was found, in sentences."""
    start, kept, free = metrics["start"], metrics["end"]["with_kl"], metrics["end"]["without_kl"]
    near, far = metrics["kl_estimators"].values()
    return [
        f"Without the KL term the policy ends with {free['favourite']['mean']:.1%} on the proxy's "
        f"favourite: gold utility {start['gold']['mean']:.2f} at the start, at most "
        f"{metrics['peak_gold_without_kl']['mean']:.2f}, {interval(free['gold'])} at the end.",
        f"With it gold utility ends at {interval(kept['gold'])}, KL {interval(kept['kl'])} nats, "
        f"total variation {interval(kept['distance'], 4)} from the closed-form optimum.",
        "Sixteen epochs at the learning rate that suits one add "
        f"{interval(metrics['distance_added_by_epochs'], 3)} of total variation; leaving out the "
        f"clip adds {interval(metrics['distance_saved_by_clipping'])} over all settings.",
        f"Estimated from samples, that KL is on average {interval(far['k1']['average'])} by k1, "
        f"{interval(far['k2']['average'])} by k2, {interval(far['k3']['average'])} by k3.",
        f"One sample strays from it by {far['k1']['spread']['mean']:.2f} with k1, by "
        f"{far['k3']['spread']['mean']:.2f} with k3; nearer, after the first update, by "
        f"{near['k1']['spread']['mean']:.2f} and {near['k3']['spread']['mean']:.2f}.",
        memory_finding("7B", metrics["memory"]["7B"]),
    ]
