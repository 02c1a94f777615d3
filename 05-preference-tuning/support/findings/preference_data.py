"""What preference_data_explorer.py found, in sentences."""

from support.annotation_study import NEW_RATER, OWN_RATER, SAME_RATER, TWO_STANDARDISED

from common.intervals import interval, percent
from common.preferences import COLUMNS, SIDES


def findings(metrics: dict, compared: int) -> list[str]:
    """What was found, in sentences; budgets are compared at the place `compared`."""
    if "labels" in metrics:
        return findings_on_labels(metrics)
    if "tau" not in metrics:
        return findings_on_own_pairs(metrics)
    pairs, raters, breaks = metrics["pairs"], metrics["raters"], metrics["break_even"]
    tau = {name: interval(budgets[compared]) for name, budgets in metrics["tau"].items()}
    read = metrics["responses_read"][compared]
    return [
        f"Two raters give the same score to {percent(raters['two_raters_agree'])} of responses, "
        f"one rater asked twice to {percent(raters['one_rater_asked_twice_agrees'])}.",
        f"Chosen answers have {interval(pairs['words']['chosen'], 1)} words, rejected ones "
        f"{interval(pairs['words']['rejected'], 1)}; {length_finding(pairs['longer_wins'])}.",
        f"Kendall's tau with the true order at {read} responses read: pairs {tau['pairwise']}, "
        f"rankings {tau['listwise']}, scores by a new rater each time {tau[NEW_RATER.name]}, by "
        f"one rater for all {tau[SAME_RATER.name]}, by one rater per response "
        f"{tau[OWN_RATER.name]}.",
        f"Two scores by one rater, standardised, recover {tau[TWO_STANDARDISED.name]}: a "
        "comparison is two scores without the distance between them, which is why pairs lose.",
        "Pairs win once a reading for a score is "
        f"{interval(breaks['at_equal_cost'])} times as noisy as one for a comparison at equal "
        f"cost, {interval(breaks['per_annotation'])} times at as many annotations.",
    ]


def length_finding(longer: dict) -> str:
    """What the interval of the length baseline allows to say."""
    share = longer["mean"]
    if longer["ci95"] is None:
        return f"the longer answer wins {share:.0%} of too few prompts to tell"
    low, high = longer["ci95"]
    if high < 0.5:
        return f"the shorter answer wins {1 - share:.0%} [{1 - high:.0%}, {1 - low:.0%}]"
    undecided = "" if low > 0.5 else "no telling by length: "
    return f"{undecided}the longer answer wins {share:.0%} [{low:.0%}, {high:.0%}]"


def findings_on_own_pairs(metrics: dict) -> list[str]:
    """What `diagnose` and `describe_own_pairs` say of the user's pairs."""
    pairs = metrics["pairs"]
    words = [f"{interval(pairs['words'][side], 1)} {side}" for side in SIDES]
    return [
        f"{pairs['rows']} rows, {pairs['usable']} usable pairs on {pairs['prompts']} prompts; "
        f"dropped: {pairs['dropped'] or 'none'}.",
        *(f"{remark[0].upper()}{remark[1:]}." for remark in metrics.get("remarks", ())),
        f"Comparisons labelled both ways: {pairs['contradictory']}.",
        f"If split by row, {pairs['leaked']} of {pairs['held_out']} held-out rows have a prompt "
        "that is also in training; the lab's scripts split by prompt.",
        f"{metrics.get('unit', 'words').capitalize()} on average: {', '.join(words)}; "
        f"{length_finding(pairs['longer_wins'])}.",
        *token_findings(metrics.get("tokens")),
    ]


def findings_on_labels(metrics: dict) -> list[str]:
    """What `study_labelled` says of the user's answers with labels."""
    labels = metrics["labels"]
    words = [f"{interval(measured, 1)} {kind}" for kind, measured in labels["words"].items()]
    return [
        f"{labels['rows']} rows, {labels['usable']} usable answers with a label, "
        f"{percent(labels['good'])} of them good; dropped: {labels['dropped'] or 'none'}.",
        *(f"{remark[0].upper()}{remark[1:]}." for remark in metrics.get("remarks", ())),
        f"{labels['prompts_with_both']} of {labels['prompts']} prompts have a good and a bad "
        f"answer; answers labelled both ways: {labels['contradictory']}.",
        f"Words on average: {', '.join(words)}.",
        "They train: dpo_variants.py --loss-type kto.",
    ]


def token_findings(tokens: dict | None) -> list[str]:
    """The lengths in tokens, where a model was named."""
    if tokens is None:
        return []
    means = [
        f"{column} {tokens[column]['mean']:.1f} (at most {tokens[column]['longest']})"
        for column in COLUMNS
    ]
    lines = [
        f"Tokens of {tokens['model']} on average: {', '.join(means)}; {tokens['too_long']} pairs "
        f"are longer than {tokens['limit']}, all that the model reads."
    ]
    if tokens["left_out"]:
        lines.append(f"A training with it would leave out {tokens['left_out']}.")
    return lines
