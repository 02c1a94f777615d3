"""What online_rl.py found, in sentences."""

from support.findings.second_look import second_look_findings, share_ended

from common.intervals import interval, percent


def findings(metrics: dict, seconds: dict) -> list[str]:
    """What was found, in sentences."""
    before, dpo, after = (metrics[name] for name in ("reference", "dpo", "policy"))
    updates, budget = len(metrics["training"]["reward"]), metrics["budget"]
    lines = [
        f"Before: {describe(before)}.",
        f"After {updates} updates of online RL: {describe(after)}.",
        f"After DPO: {describe(dpo)}.",
        f"DPO learned from {budget['dpo_labels']} labels; online RL asked a reward model for "
        f"{budget['rl_scores']} scores, which had learned from {budget['rl_labels']} labels. "
        f"An update took {seconds['rl_update']:.2f} s.",
    ]
    if "second_look" in metrics:
        lines += share_ended(before, after)
        return [*lines, *second_look_findings(metrics["second_look"])]
    spread, cost = metrics["spread"], metrics["cost"]
    with_kl, without_kl = (metrics["curves"][name][-1] for name in ("biased", "biased_no_kl"))
    return [
        *lines,
        f"{cost['rl_passes'] / cost['dpo_passes']:.1f} times as many tokens pass through models "
        f"as in DPO's training, whose steps took {seconds['dpo_step']:.2f} s.",
        "From half to twice the learning rate gold utility varies by "
        f"{interval(spread['rl_spread'])} with online RL, {interval(spread['dpo_spread'])} with "
        "DPO.",
        f"Online RL against a reward model that loves length: {describe(with_kl)}.",
        f"The same without the KL term: {describe(without_kl)}.",
    ]


def describe(answers: dict) -> str:
    """Answers in words: gold where it is known, reward, measured KL, length."""
    text = f"reward {interval(answers['reward'])}, KL {interval(answers['kl'])} nats, "
    text += f"{answers['words']['mean']:.1f} words"
    if "good" not in answers:
        return text
    return f"good answers {percent(answers['good'])}, gold {interval(answers['utility'])}, {text}"
