"""What the page shows, as plain lists and dictionaries: pairs to label, pools, answers, claims."""

import random
from collections.abc import Callable, Sequence

from support.answers import point_name
from support.evaluation import marks

from common.preferences import (
    BIASES,
    SIDES,
    all_questions,
    annotator_utility,
    gold_utility,
    make_pairs,
    read_response,
)

PAIRS, AGAIN = 12, 4  # pairs to label, and how many of them come twice
GROUPS = ("human", *BIASES)

# --- Label ---


def label_task(seed: int) -> dict:
    """Pairs to label, and the trials: which pair, and whether its sides are exchanged.

    Each combination of two styles comes once. The last trials hold pairs that were seen before, now
    with the sides exchanged; in half of all trials the better answer is on the left, ties aside.
    """
    rng = random.Random(f"to label {seed}")
    pairs = [labelled_pair(row) for row in distinct_styles(make_pairs(600, "test", seed=seed))]
    rng.shuffle(pairs)
    exchanged = balanced_flags(AGAIN, rng) + balanced_flags(PAIRS - AGAIN, rng)
    first = [{"pair": k, "exchanged": flag} for k, flag in enumerate(exchanged)]
    again = [{**trial, "exchanged": not trial["exchanged"]} for trial in first[:AGAIN]]
    late = first[PAIRS - AGAIN :] + again
    rng.shuffle(late)
    return {"pairs": pairs, "trials": first[: PAIRS - AGAIN] + late}


def balanced_flags(count: int, rng: random.Random) -> list[bool]:
    """As many True as False, in random order."""
    flags = [k % 2 == 0 for k in range(count)]
    rng.shuffle(flags)
    return flags


def distinct_styles(rows: Sequence[dict]) -> list[dict]:
    """The first rows of which no two compare the same two styles, as many as are labelled."""
    by_styles: dict[frozenset, dict] = {}
    for row in rows:
        by_styles.setdefault(frozenset((row["chosen_style"], row["rejected_style"])), row)
    return list(by_styles.values())[:PAIRS]


def labelled_pair(row: dict) -> dict:
    """Both answers, the better one by gold first, with what each group of annotators feels."""
    prompt = row["prompt"]
    texts = sorted((row[side] for side in SIDES), key=lambda text: -gold_utility(prompt, text))
    utilities = {}
    for group in GROUPS:
        utilities[group] = [round(annotator_utility(prompt, text, group), 2) for text in texts]
    fact = all_questions()[prompt].answer
    return {"prompt": prompt, "texts": texts, "utilities": utilities, "fact": fact}


# --- Answers: Browse and the frontier ---


def answer_table(
    prompts: Sequence[str], texts: dict[str, list[str]], score: Callable | None
) -> tuple[list[list], dict[str, list[int]]]:
    """(rows, places): every distinct answer once, and where those of each point stand in the rows.

    A row is [text, gold utility, reward or None, 1 if good, marks]. `texts` are the answers of each
    point to the prompts; `score(prompts, texts)` gives rewards (N,) in log-odds.
    """
    keys = {}
    for answers in texts.values():
        for prompt, text in zip(prompts, answers, strict=True):
            keys.setdefault((prompt, text), len(keys))
    rewards = [None] * len(keys)
    if score and keys:
        rewards = [round(float(reward), 3) for reward in score(*zip(*keys, strict=True))]
    rows = []
    for (prompt, text), reward in zip(keys, rewards, strict=True):
        good = int(read_response(prompt, text).good)
        rows.append([text, round(gold_utility(prompt, text), 2), reward, good, mark(prompt, text)])
    places = {}
    for name, answers in texts.items():
        places[name] = [keys[key] for key in zip(prompts, answers, strict=True)]
    return rows, places


def mark(prompt: str, text: str) -> str:
    """What the gold standard reads in an answer, in a few words."""
    return marks(prompt, text).strip(" []")


def points_for_page(points: Sequence[dict], places: dict[str, list[int]]) -> list[dict]:
    """Points of KL and gold with the name of their answers, where the run kept any."""
    rows = []
    for point in points:
        row = {key: point[key] for key in ("method", "series", "label", "biased", "annotations")}
        row |= {key: quantity(point[key]) for key in ("kl", "gold", "good")}
        name = point_name(point)
        rows.append({**row, "answers": name if name in places else None})
    return rows


def quantity(measured: dict) -> dict:
    """Mean and interval, rounded as a page needs them."""
    ci95 = measured["ci95"] and [round(end, 4) for end in measured["ci95"]]
    return {"mean": round(measured["mean"], 4), "ci95": ci95}


# --- Move ---


def pools_for_page(pools: Sequence[dict]) -> list[dict]:
    """Whole pools of candidates with the marks of every text."""
    shown = []
    for pool in pools:
        read = [mark(pool["prompt"], text) for text in pool["texts"]]
        shown.append({**pool, "marks": read})
    return shown


# --- Predict ---

CLAIM_KEYS = ("id", "says", "measured", "true", "smallest", "mean", "ci95", "verdict")


def claims_for_page(title: str, results: dict) -> list[dict]:
    """The judged claims of a script, with how many seeds alone say the same."""
    rows = []
    for claim in results["claims"]:
        alone = claim.get("verdict_by_seed", [])
        row = {key: claim[key] for key in CLAIM_KEYS}
        row |= {"section": title, "alike": alone.count(claim["verdict"]), "seeds": len(alone)}
        rows.append(row)
    return rows
