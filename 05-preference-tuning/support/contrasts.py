"""What a reward model absorbed, component by component, read by counterfactual contrasts.

Two texts that answer the same question differ in one thing alone; the reward that this thing adds
is compared with what is planted in the annotators. (A regression of rewards on gold utility would
not do: it charges a model that ignores filler with a liking for it of 0.15 a word.)
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from common.intervals import summary
from common.preferences import (
    AGREEMENTS,
    BIASES,
    CHATTER,
    CLOSERS,
    FILLER_COST,
    OPENERS,
    PREAMBLES,
    RELATIONS,
    Question,
    gold_utility,
    read_response,
)
from common.scoring import score_responses

# Utility per unit: of a right answer, of one on topic, of a word of filler; the rest is bias alone.
GOLD = {"right": 3.0, "on_topic": 1.0, "filler": -FILLER_COST, "style": 0.0, "agreement": 0.0}
# The component in which each biased group differs, by BIASES[group] per unit.
COMPONENT_OF = {"length": "filler", "style": "style", "agreement": "agreement"}


class Contrast(NamedTuple):
    """Two texts to one prompt: `more` has `units` more of one component, else they are alike."""

    component: str
    prompt: str
    more: str
    less: str
    units: float  # words of filler; 1 for the others


def contrasts(
    model, tokenizer, questions: Sequence[Question], seed: int, annotator: str = "human"
) -> dict:
    """Per component {"planted": x, "reward": {mean, ci95}, "share": {mean, ci95}}.

    `reward` is per unit (a word of filler, a right answer, ...), in log-odds, with an interval over
    prompts; `planted` is what the model's annotators (a key of BIASES, or "human") see in it;
    `share` is reward / planted, and of a bias that they do not have, reward / BIASES.
    """
    return recovered(contrast_rewards(scorer(model, tokenizer), questions, seed), annotator)


def scorer(model, tokenizer) -> Callable[[list[str], list[str]], np.ndarray]:
    """The function score(prompts, texts) -> rewards (N,) of a reward model."""

    def score(prompts: list[str], texts: list[str]) -> np.ndarray:
        return score_responses(model, tokenizer, prompts, texts).numpy().astype(float)

    return score


def contrast_rewards(
    score: Callable[[list[str], list[str]], np.ndarray], questions: Sequence[Question], seed: int
) -> dict[str, np.ndarray]:
    """The reward per unit of each component, one number a prompt: {component: (prompts,)}.

    `score(prompts, texts)` gives rewards (N,): a reward model's, or those a policy implies.
    """
    asked = [contrast for question in questions for contrast in contrasts_of(question, seed)]
    prompts = [contrast.prompt for contrast in asked]
    texts = [contrast.more for contrast in asked] + [contrast.less for contrast in asked]
    more, less = score(prompts * 2, texts).reshape(2, -1)
    per_unit = (more - less) / [contrast.units for contrast in asked]
    components = np.array([contrast.component for contrast in asked])
    read = [component for component in GOLD if component in components]
    return {component: per_unit[components == component] for component in read}


def recovered(rewards: dict[str, np.ndarray], annotator: str = "human") -> dict:
    """Rewards per unit beside what is planted in the annotators, as `contrasts` returns them."""
    result = {}
    for component, values in rewards.items():
        planted = planted_in(annotator, component)
        full_amount = planted or bias_in(component)
        shares = {"reward": summary(values), "share": summary(values / full_amount)}
        result[component] = {"planted": planted, **shares}
    return result


def bias_in(component: str) -> float:
    """What the group that is biased in a component sees in one unit of it, in log-odds."""
    groups = {its_component: group for group, its_component in COMPONENT_OF.items()}
    return BIASES[groups[component]]


def absorbed_bias(
    biased: dict[str, np.ndarray], unbiased: dict[str, np.ndarray], annotator: str
) -> dict:
    """What a biased group's reward model has more of its bias than an unbiased one, by prompt."""
    component = COMPONENT_OF[annotator]
    difference = biased[component] - unbiased[component]
    planted = BIASES[annotator]
    return {
        "planted": planted,
        "reward": summary(difference),
        "share": summary(difference / planted),
    }


def planted_in(annotator: str, component: str) -> float:
    """What annotators see in one unit of a component, in log-odds: gold and their bias."""
    bias = BIASES[annotator] if COMPONENT_OF.get(annotator) == component else 0.0
    return GOLD[component] + bias


def contrasts_of(question: Question, seed: int) -> list[Contrast]:
    """The contrasts of one question, those that it allows: not all questions allow all of them.

    right     the right answer and a wrong one, in the same sentence (the user has not said either)
    on_topic  that wrong answer and a text off topic, both without filler
    filler    the right answer with and without filler, as the world's verbose answers have it
    style     the right answer behind an expert's preamble, and with as many words of other filler
    agreement an echo of the user's wrong belief, and that other wrong answer
    """
    rng = random.Random(f"{question.prompt} {seed}")
    answers = RELATIONS[question.relation]["answers"].values()
    others = [answer for answer in answers if answer not in (question.answer, question.belief)]
    right, wrong = sentence(question, question.answer), sentence(question, rng.choice(others))
    padded = [f"{right} {closer}" for closer in CLOSERS]
    padded += [f"{opener} {text}" for opener in OPENERS for text in padded]
    verbose = rng.choice(padded)
    preamble = rng.choice(PREAMBLES).format(field=RELATIONS[question.relation]["field"])
    expert = f"{preamble} {right[0].lower()}{right[1:]}"
    alike = [text for text in padded if filler(question, text) == filler(question, expert)]
    pairs = [("filler", verbose, right, float(filler(question, verbose)))]
    if question.belief != question.answer:
        pairs.append(("right", right, wrong, 1.0))
    elsewhere = off_topic(question)
    if elsewhere:
        pairs.append(("on_topic", wrong, rng.choice(elsewhere), 1.0))
    if alike:
        pairs.append(("style", expert, rng.choice(alike), 1.0))
    if question.belief not in (None, question.answer):
        echo = rng.choice(AGREEMENTS).format(belief=question.belief)
        if filler(question, echo) == 0:
            pairs.append(("agreement", echo, wrong, 1.0))
    return [Contrast(name, question.prompt, *rest) for name, *rest in pairs]


def sentence(question: Question, answer: str) -> str:
    """The shortest full answer."""
    return RELATIONS[question.relation]["sentence"].format(subject=question.subject, answer=answer)


def filler(question: Question, text: str) -> int:
    """How many words of filler the gold standard reads."""
    return read_response(question.prompt, text).filler_words


def off_topic(question: Question) -> list[str]:
    """Texts off topic as the world has them, of no gold utility at all: those without filler."""
    texts = list(CHATTER)
    for name, relation in RELATIONS.items():
        if name != question.relation:
            facts = relation["answers"].items()
            texts += [relation["sentence"].format(subject=s, answer=a) for s, a in facts]
    return [text for text in texts if gold_utility(question.prompt, text) == 0]
