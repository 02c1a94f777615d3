"""What the second look at a run on your own pairs asks, in sentences."""

from support.evidence import FEW
from support.second_look import LIMITS

from common.intervals import percent

INVISIBLE = (
    "There is no gold standard for these pairs. No check sees labels that are wrong throughout, "
    "annotators with a bias, or a reward model of the same file: read the words, pairs and answers "
    "above. Would you have chosen so?"
)


def second_look_findings(second_look: dict) -> list[str]:
    """All questions, what no check can see, and the next command: that of the first question."""
    raised, numbers = second_look["questions"], second_look["numbers"]
    lines = [question["asks"] for question in raised]
    if not raised:
        lines.append(f"None of the {len(LIMITS)} checks of the second look has fired.")
    pairs = min((seen.get("pairs", FEW) for seen in numbers.values()), default=FEW)
    if pairs < FEW:
        lines.append(f"{pairs} held-out pairs are too few to tell an accuracy from chance.")
    lines.append(INVISIBLE)
    return [*lines, f"Next:\n  {raised[0]['next']}"] if raised else lines


def share_ended(before: dict, after: dict) -> list[str]:
    """What share of the answers ended by themselves, of a model before tuning and after.

    Nothing where it was not read: all prompts of the pairs are questions of the world.
    """
    if "ended" not in before:
        return []
    shares = percent(before["ended"]), percent(after["ended"])
    return ["Within --max-new-tokens {} of sampled answers end before, {} after.".format(*shares)]
