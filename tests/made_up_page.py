"""Results of studies that are made up, as the page reads them, for tests."""

import random

import page

from common.answers import point_name
from common.preferences import draw_style, gold_utility, questions, write_response
from common.runs import COMMITTED

ASKED = questions("test")[:8]
PROMPTS = [question.prompt for question in ASKED]


def made_up_studies() -> dict:
    """What `page.read_studies` finds: a few studies of a committed run over two seeds."""
    of_dpo = [
        made_up_point("SFT", "sft", "SFT model", kl=0.0),
        made_up_point("DPO", "unbiased", "1 epoch, beta 0.3", kl=0.8),
        made_up_point("DPO", "unbiased", "5 epochs, beta 0.3", kl=6.0),
        made_up_point("DPO", "biased", "5 epochs, beta 0.3", kl=7.0, biased=True),
        made_up_point("DPO", "768", "768 pairs", kl=1.2),
    ]
    of_best = []
    for series in ("6400", "length"):
        for n in (1, 4, 16):
            point = made_up_point("best of n", series, f"n = {n}", 0.1 * n, series == "length")
            of_best.append({**point, "n": n})
    optimum = made_up_point("optimum", "gold", "beta = 1", kl=0.5)
    of_hacks = [made_up_point("DPO", "length", "verbosity", kl=2.0, biased=True)]
    pools = [made_up_pool(question, random.Random(k)) for k, question in enumerate(ASKED[:2])]
    studies = {
        "what_dpo_does": {},
        "too_much_dpo": {"points": of_dpo, "answers": made_up_answers(of_dpo, 1)},
        "best_of_n_and_the_limit": {
            "points": [*of_best, {**optimum, "sample_share": 0.5}],
            "answers": {**made_up_answers(of_best, 2, rewarded=True), "pools": pools},
        },
        "three_hacks": {"answers": made_up_answers(of_hacks, 3, rewarded=True)},
    }
    return {name: (COMMITTED, as_results(name, metrics)) for name, metrics in studies.items()}


def as_results(name: str, metrics: dict) -> dict:
    """The JSON of a study with two seeds, and claims of every verdict."""
    verdicts = ("holds", "does not hold", "no difference", "undecided")
    claims = [made_up_claim(name, verdict) for verdict in verdicts]
    runs = [{"seed": seed, "metrics": metrics} for seed in (0, 1)]
    return {"script": f"{name}.py", "seeds": [0, 1], "runs": runs, "claims": claims}


def made_up_claim(name: str, verdict: str) -> dict:
    return {
        "id": f"{name}_{verdict}",
        "says": f"what {name} claims is so",
        "measured": "how far it is so, nats",
        "true": [0.0, None],
        "mean": 0.3,
        "ci95": [0.1, 0.5],
        "verdict": verdict,
        "by_seed": [0.2, 0.4],
        "predicted": "holds",
        "published": "agrees: Nobody et al. 2025",
    }


def made_up_point(method: str, series: str, label: str, kl: float, biased: bool = False) -> dict:
    measured = {"kl": kl, "gold": 2.0 + kl / 4, "good": 0.5}
    about = {"method": method, "series": series, "label": label, "biased": biased}
    return {**about, **measured, "annotations": 1 if kl else 0}


def made_up_answers(points: list[dict], seed: int, rewarded: bool = False) -> dict:
    """Answers of every policy, and a reward of them, as a study keeps them."""
    rng = random.Random(seed)
    names = [point_name(point) for point in points]
    texts = {name: [made_up_response(question, rng) for question in ASKED] for name in names}
    rewards = {}
    for name in names if rewarded else ():
        rewards[name] = {when: [rng.gauss(0, 1) for _ in ASKED] for when in ("before", "after")}
    return {"prompts": PROMPTS, "texts": texts, "rewards": rewards}


def made_up_response(question, rng: random.Random) -> str:
    return write_response(question, draw_style(question, rng), rng)


def made_up_pool(question, rng: random.Random) -> dict:
    """Twenty candidates for a prompt."""
    drawn = [made_up_response(question, rng) for _ in range(20)]
    texts = list(dict.fromkeys(drawn))
    gold = [gold_utility(question.prompt, text) for text in texts]
    return {
        "prompt": question.prompt,
        "texts": texts,
        "logp": [-1 - 3 * rng.random() for _ in texts],
        "reward": [u + rng.gauss(0, 2) for u in gold],
        "length_reward": [len(text) / 10 for text in texts],
        "gold": gold,
        "drawn": [texts.index(text) for text in drawn],
    }


def made_up_data() -> dict:
    """What the page shows of them."""
    return page.gather(made_up_studies(), seed=0)
