"""Titles of figures are plain: at most two numbers in each, in the committed figures."""

import importlib
import json
import re
from types import SimpleNamespace

import best_of_n
import dpo_trainer
import dpo_variants
import frontier
import numpy as np
import online_rl
import preference_data_explorer
import pytest
import reward_hacking
import reward_model
import rlhf_objectives
from helpers import SCRIPTS

FIGURES = SCRIPTS.parent / "figures"
STUDIES = sorted(path.stem for path in (SCRIPTS / "studies").glob("*.py") if path.stem != "lessons")
# Not numbers: the name of a section's n, of a value of a setting, ordinals in words.
NUMBER = re.compile(r"(?<![\w.])[-+\N{MINUS SIGN}]?\d[\d,.]*")


def titles(figure) -> list[str]:
    """All titles of a figure, its own and those of its panels."""
    own = figure._suptitle.get_text() if figure._suptitle else ""
    of_panels = [ax.get_title(loc) for ax in figure.axes for loc in ("left", "center")]
    return [title for title in (own, *of_panels) if title]


def check(figure) -> None:
    import matplotlib.pyplot as plt

    for title in titles(figure):
        assert len(NUMBER.findall(title)) <= 2, title
        assert len(title) <= 160, title
    plt.close(figure)


@pytest.mark.parametrize("name", STUDIES)
def test_titles_of_a_study(name):
    results = json.loads((FIGURES / "studies" / f"{name}.json").read_text(encoding="utf-8"))
    check(importlib.import_module(name).draw([run["metrics"] for run in results["runs"]]))


def update_of(metrics: dict):
    """An update of online RL as the lesson's figure shows one."""
    answers = [SimpleNamespace(text=f"It is {k}.") for k in range(4)]
    values = np.array([[1.0, 0.2, -0.5, -0.7]])
    prompt = preference_data_explorer.world.questions("train")[0].prompt
    return online_rl.Update([prompt], [answers], values, values)


LESSONS = {
    "preference_data": lambda m: preference_data_explorer.draw(m),
    "reward_model": lambda m: reward_model.draw(m["loss"], m["after"]),
    "ppo_objectives": lambda m: rlhf_objectives.draw(m, 0.2, 7),
    "online_rl": lambda m: online_rl.draw(m, [update_of(m)] * 2, "PPO"),
    "dpo_training": lambda m: dpo_trainer.draw(m["training"], m["looks"]),
    "dpo_variants": lambda m: dpo_variants.draw(m["variants"], None, 1, 384),
    "best_of_n": lambda m: best_of_n.draw(m["curve"], m["methods"], m["cost"]),
    "reward_hacking": lambda m: reward_hacking.draw("verbosity", m),
    "frontier": lambda m: frontier.draw(m["points"], m["limit"], m["methods"]),
}


@pytest.mark.parametrize("name", LESSONS)
def test_titles_of_a_lesson(name):
    results = json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))
    check(LESSONS[name](results["metrics"]))
