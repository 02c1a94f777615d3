"""The page of the committed numbers with answers that are made up, for tests."""

import random

from support.answers import point_name

import frontier
import page

from common.preferences import draw_style, gold_utility, questions, write_response
from common.reporting import COMMITTED

ASKED = questions("test")[:8]
PROMPTS = [question.prompt for question in ASKED]


def made_up_answers(names: list[str], seed: int) -> dict:
    """Answers of every policy, and a reward of some, as a run keeps them."""
    rng = random.Random(seed)
    texts = {name: [some_response(question, rng) for question in ASKED] for name in names}
    rewards = {}
    for name in names[::2]:
        rewards[name] = {when: [rng.gauss(0, 1) for _ in ASKED] for when in ("before", "after")}
    return {"prompts": PROMPTS, "texts": texts, "rewards": rewards}


def some_response(question, rng: random.Random) -> str:
    return write_response(question, draw_style(question, rng), rng)


def made_up_pool(question, rng: random.Random) -> dict:
    """Twenty candidates for a prompt."""
    drawn = [some_response(question, rng) for _ in range(20)]
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
    """What the page shows, of the committed run, with answers that are made up."""
    sections = page.read_sections(COMMITTED, {})
    points, _ = frontier.collect(0, COMMITTED, False)
    names = [point_name(point) for point in points if point["method"] != "optimum"]
    hacks = page.hacked_points(page.reward_hacking.HACKS)
    for name in page.ANSWERED:
        sections[name] = {**sections[name], "answers": made_up_answers([], 0)}
    sections["dpo_training"]["answers"] = made_up_answers([*names, *map(point_name, hacks)], 1)
    rng = random.Random(2)
    sections["best_of_n"]["answers"]["pools"] = [made_up_pool(q, rng) for q in ASKED[:2]]
    return page.gather(sections, points, 0, lambda prompts, texts: [len(text) for text in texts])
