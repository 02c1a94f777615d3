"""Looking at pairs: the words that tell chosen from rejected, and a few pairs to read."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from textwrap import shorten

from support.evaluation import in_short
from support.own_pairs import pick

from common.cli import show_progress
from common.preferences import SIDES

TELLING = 3.5  # standard errors: chance reaches it for one word in two thousand
ALONE = "\u3040-\u30ff\u3400-\u9fff"  # scripts without spaces: every sign is a word
WORD = re.compile(rf"[{ALONE}]|[^\W_{ALONE}]+")


def telling_words(rows: Sequence[dict]) -> dict[str, float]:
    """Words that tell chosen from rejected, the most telling first, with z; above 0: chosen.

    Of the pairs in which only one answer has the word, (chosen - rejected) / sqrt(chosen +
    rejected): McNemar 1947.
    """
    difference, pairs = Counter(), Counter()
    for row in show_progress(rows, "comparing words"):
        chosen, rejected = (set(WORD.findall(row[side].lower())) for side in SIDES)
        for word in chosen ^ rejected:
            difference[word] += 1 if word in chosen else -1
            pairs[word] += 1
    z = {word: difference[word] / math.sqrt(count) for word, count in pairs.items()}
    z = {word: value for word, value in z.items() if abs(value) > TELLING}
    return dict(sorted(z.items(), key=lambda item: (-abs(item[1]), item[0])))


def show_pairs(rows: Sequence[dict], most: int = 3) -> None:
    """Print the words that tell chosen from rejected, and the first pairs.

    Of `side_by_side` answers with a label, good and bad ones.
    """
    telling, labelled = telling_words(rows), "rejected_prompt" in rows[0]
    good, bad = ("good", "bad") if labelled else SIDES
    words = {
        good: [word for word, z in telling.items() if z > 0],
        bad: [word for word, z in telling.items() if z < 0],
    }
    print(f"\nwords that tell {good} from {bad} (|z| > {TELLING}):")
    for side, its_words in words.items():
        print(f"  {side + ':':<10} {', '.join(its_words[:10]) or 'none'}")
    for row in pick(rows, range(min(most, len(rows)))):
        print(f"\n{in_short(row['prompt'])}")
        print(f"  {good + ':':<10} {shorten(row['chosen'], 86, placeholder=' ...')}")
        if labelled:
            print(in_short(row["rejected_prompt"]))
        print(f"  {bad + ':':<10} {shorten(row['rejected'], 86, placeholder=' ...')}")
