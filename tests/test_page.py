"""The page: what stands on it, its closed forms, and its use in a real browser."""

import base64
import hashlib
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import page
import pytest
from best_of_n import best_of_n_kl_bound, best_of_n_weights, expected_best_of_n
from made_up_page import ASKED, PROMPTS, made_up_data, made_up_studies
from page import PAIRS, answer_table, label_task
from rlhf_objectives import (
    clipped_surrogate,
    generalized_advantage_estimate,
    kl_regularized_optimum,
)

from common.intervals import wilson_ci
from common.preferences import gold_utility, read_response, write_response
from common.runs import COMMITTED, UserError

SCRIPT = page.PARTS / "page.js"


# --- The file ---


@pytest.fixture(scope="module")
def data() -> dict:
    return made_up_data()


@pytest.fixture(scope="module")
def lab(data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "lab.html"
    path.write_text(page.fill_template(data), encoding="utf-8")
    return path


def test_the_page_is_one_small_file_that_loads_nothing(lab, data):
    text = lab.read_text(encoding="utf-8")
    assert lab.stat().st_size <= 2_000_000
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", text)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|sendBeacon", text)
    assert "{{" not in text
    (embedded,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', text, re.S
    )
    assert json.loads(embedded) == json.loads(json.dumps(data))
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


def test_the_committed_page_is_that_of_the_committed_run_and_of_these_parts():
    found = page.read_studies(COMMITTED)
    if not found:
        pytest.skip("there is no committed run of the studies")
    text = (COMMITTED / "lab.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert page.fill_template(data) == text, "make page"
    assert data["claims"] == page.gather(found, seed=0)["claims"], "make page"


def test_a_text_cannot_end_the_element_that_it_stands_in():
    text = page.fill_template({"answer": "</script><script>alert(1)</script>"})
    assert text.count("</script>") == 2
    assert "\\u003c/script>\\u003cscript>" in text


@pytest.mark.parametrize("missing", [*made_up_studies(), "all"])
def test_the_page_of_some_studies_has_the_rest(missing):
    found = {
        name: study for name, study in made_up_studies().items() if missing not in (name, "all")
    }
    data = page.gather(found, seed=0)
    assert len(data["claims"]) == 4 * len(found)
    assert bool(data["points"]) == ("too_much_dpo" in found or "best_of_n_and_the_limit" in found)
    assert bool(data["policies"]) == ("too_much_dpo" in found)  # nothing is compared without SFT's
    of_best = "best_of_n_and_the_limit" in found
    assert (bool(data["limit"]), bool(data["pools"])) == (of_best, of_best)
    page.fill_template(data)


def test_whose_answers_can_be_browsed_and_which_reward_was_optimised(data):
    shown = {policy["name"]: policy["answers"] for policy in data["policies"]}
    assert shown == {
        "SFT model": "SFT, sft, SFT model",
        "DPO": "DPO, 768, 768 pairs",
        "DPO, five passes": "DPO, unbiased, 5 epochs, beta 0.3",
        "best of 16": "best of n, 6400, n = 16",
        "best of 16, annotators prefer long answers": "best of n, length, n = 16",
        "DPO, annotators prefer long answers": "DPO, length, verbosity",
    }
    rewarded = [name for name, answers in shown.items() if answers in data["rewards"]]
    assert rewarded == list(shown)[3:]
    assert data["policies"][1]["about"] == "768 pairs"


def test_answers_to_other_prompts_are_not_mixed():
    found = made_up_studies()
    answers = found["three_hacks"][1]["runs"][0]["metrics"]["answers"]
    (name,) = answers["texts"]
    answers |= {"prompts": PROMPTS[:4]}
    _, joined = page.collect_metrics(found)
    assert joined["prompts"] == PROMPTS[:4]
    assert {len(texts) for texts in joined["texts"].values()} == {4} and name in joined["texts"]
    answers["prompts"] = PROMPTS[::-1]
    command = "python 05-preference-tuning/studies/three_hacks.py makes it again"
    with pytest.raises(UserError, match=f"three_hacks.json has answers to other .*; {command}"):
        page.collect_metrics(found)


def test_answers_of_another_seed_are_not_mixed():
    found = made_up_studies()
    found["three_hacks"][1]["runs"] = found["three_hacks"][1]["runs"][1:]
    (name,) = found["three_hacks"][1]["runs"][0]["metrics"]["answers"]["texts"]
    assert name not in page.collect_metrics(found)[1]["texts"]


def test_the_command_writes_the_page_and_spares_what_is_not_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "read_studies", lambda *_: {})
    written = page.main(["--output-dir", str(tmp_path)])
    assert written == tmp_path / "lab.html"
    assert page.main(["--output-dir", str(tmp_path)]) == written
    other = page.main(["--output-dir", str(tmp_path), "--seed", "1"])
    assert other.name == "lab-seed-1.html"
    assert other.read_bytes() != written.read_bytes()  # other pairs to label
    written.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="not written by the lab"):
        page.main(["--output-dir", str(tmp_path)])
    assert written.read_text(encoding="utf-8") == "mine"


def test_a_run_of_today_goes_before_the_committed_one_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(page.runs, "COMMITTED", tmp_path / "figures")
    for name, (_, results) in made_up_studies().items():
        for folder in ("figures", "outputs"):
            if folder == "figures" or name == "three_hacks":
                path = tmp_path / folder / "studies" / f"{name}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(results), encoding="utf-8")
    found = page.read_studies(tmp_path / "outputs", tmp_path / "figures")
    assert list(found) == sorted(made_up_studies())
    committed, own = "seeds 0, 1 (the committed run)", "seeds 0, 1 (your own run of three_hacks)"
    assert page.describe_source(found) == f"{committed}; {own}"


# --- The data ---


def test_pairs_to_label_come_in_both_orders_and_no_side_is_better():
    task = label_task(0)
    assert (len(task["pairs"]), len(task["trials"])) == (PAIRS, 16)
    by_pair = {}
    for place, trial in enumerate(task["trials"]):
        by_pair.setdefault(trial["pair"], []).append((place, trial["exchanged"]))
    again = [seen for seen in by_pair.values() if len(seen) == 2]
    assert (len(by_pair), len(again)) == (PAIRS, 4)
    assert all(first[1] != second[1] and second[0] - first[0] > 3 for first, second in again)
    assert sum(trial["exchanged"] for trial in task["trials"]) == 8
    for pair in task["pairs"]:
        gold = [gold_utility(pair["prompt"], text) for text in pair["texts"]]
        assert gold == pytest.approx(pair["utilities"]["human"])
        assert gold[0] >= gold[1]
    assert label_task(0) == task != label_task(1)


@pytest.mark.parametrize("seed", range(5))
def test_in_the_first_pair_a_person_can_prefer_without_knowing_the_fact(seed):
    task = label_task(seed)
    first = task["pairs"][task["trials"][0]["pair"]]
    readings = [read_response(first["prompt"], text) for text in first["texts"]]
    assert [r.correct for r in readings] == [True, True]
    assert sorted(r.filler_words > 0 for r in readings) == [False, True]


def test_every_distinct_answer_stands_once_with_its_gold():
    first, second = PROMPTS[:2]
    right = write_response(ASKED[0], "concise", random.Random(0))
    rows, places = answer_table([first, second], {"one": [right, "No."], "two": [right, "So."]})
    assert places == {"one": [0, 1], "two": [0, 2]}
    assert rows[0] == [right, 4.0, 1, "right"]
    assert rows[2] == ["So.", gold_utility(second, "So."), 0, "off topic"]


# --- Closed forms, in Node or in the browser ---

POOL = [1.5, -0.5, 1.5, 3.0, 0.25, -2.0]
VALUES = [0.0, 1.0, 2.0, -1.0, 4.0, 3.0]
PROBS = [0.1, 0.4, 0.05, 0.15, 0.3, 0.0]
GAE = ([0.0, 0.0, 1.0], [0.5, 0.6, 0.7])


def same_as_python() -> list[tuple[str, tuple, object]]:
    """Name of a function in the page, arguments, and what the section's function gives."""
    cases = []
    for beta in (0.05, 0.7, 10):
        args = (PROBS, POOL, beta)
        cases.append(("klRegularizedOptimum", args, kl_regularized_optimum(*map(np.array, args))))
    for n in (1, 2, 5, 6):
        cases.append(("expectedBestOfN", (POOL, n), expected_best_of_n(POOL, n)))
        cases.append(("expectedBestOfN", (POOL, n, VALUES), expected_best_of_n(POOL, n, VALUES)))
        cases.append(("bestOfNWeights", (6, n), best_of_n_weights(6, n)))
        cases.append(("bestOfNKlBound", (n,), best_of_n_kl_bound(n)))
    for ratio in (0.3, 0.8, 1.0, 1.4):
        for advantage in (-2.0, 0.5):
            args = (ratio, advantage, 0.2)
            cases.append(("clippedSurrogate", args, clipped_surrogate(*args)))
    for gamma, lam in ((1, 0), (1, 1), (1, 0.95), (0.9, 0.5)):
        expected = generalized_advantage_estimate(*map(np.array, GAE), gamma, lam)
        cases.append(("generalizedAdvantageEstimate", (*GAE, gamma, lam), expected))
    for k, n in ((0, 4), (3, 4), (9, 16)):
        cases.append(("wilson", (k, n), wilson_ci(k / n, n)))
    return cases


def known_answers() -> list[tuple[str, tuple, object]]:
    """The same of what the scripts have no function for."""
    return [
        ("generalizedAdvantageEstimate", (*GAE, 1, 0.95), [0.46575, 0.385, 0.3]),
        ("klDivergence", ([0.5, 0.5, 0], [0.25, 0.25, 0.5]), np.log(2)),
        ("brierScore", ([0.9, 0.2], [1, 1]), (0.01 + 0.64) / 2),
        ("sigmoid", (np.log(3),), 0.75),
        ("isClipped", (1.3, 1, 0.2), True),
        ("isClipped", (0.7, 1, 0.2), False),
        ("isClipped", (1.3, -1, 0.2), False),
        ("isClipped", (0.7, -1, 0.2), True),
    ]


CASES = [*same_as_python(), *known_answers()]


def run_node(calls: list) -> list:
    """What functions of the page return, [name, arguments] each; an error becomes its message."""
    node = shutil.which("node")
    if not node:
        pytest.skip("Node is not installed; the browser test calls some of these functions")
    code = (
        f"const page = require({json.dumps(str(SCRIPT))});"
        "const calls = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        "const call = ([name, args]) => { try { return page[name](...args) } "
        "catch (error) { return 'error: ' + error.message } };"
        "console.log(JSON.stringify(calls.map(call)))"
    )
    done = subprocess.run(
        [node, "-e", code], input=json.dumps(calls), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_closed_forms_are_those_of_the_sections():
    values = run_node([[name, args] for name, args, _ in CASES])
    for (name, args, expected), value in zip(CASES, values, strict=True):
        assert value == pytest.approx(expected, abs=1e-9), (name, args)


FILES = {
    "lines.jsonl": '{"prompt": "p", "chosen": "a", "rejected": "b", "id": 7}\n\n',
    "list.json": '[{"prompt": "p", "chosen": "a", "rejected": "b"}]',
    "data.json": '{"data": [{"prompt": "p", "a": "a", "b": "b"}]}',
    "cells.csv": '\ufeffprompt,chosen,rejected\r\np,"a","b"\r\n',
    "quotes.csv": 'prompt,chosen,rejected\n"p","a, ""x""\n2",b\n',
}


def test_files_of_pairs_are_read():
    pairs = run_node([["readPairs", item] for item in FILES.items()])
    for (pair,), name in zip(pairs, FILES, strict=True):
        first = 'a, "x"\n2' if name == "quotes.csv" else "a"
        assert (pair["prompt"], pair["texts"]) == ("p", [first, "b"])
        assert pair["labelled"] == (name != "data.json")


def test_messages_are_read_as_texts():
    turn = {"role": "user", "content": "Hello"}
    sides = [[turn, {"role": "assistant", "content": text}] for text in "ab"]
    implicit = {"chosen": sides[0], "rejected": sides[1]}
    explicit = {"prompt": [turn], "chosen": sides[0][1:], "rejected": sides[1][1:]}
    for row in (implicit, explicit):
        ((pair,),) = run_node([["readPairs", ["x.json", json.dumps([row])]]])
        assert (pair["prompt"], pair["texts"]) == ("Hello", ["a", "b"])


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("x.txt", "", "the name of the file must end in .jsonl, .json or .csv"),
        ("x.jsonl", "\n", "there are no rows"),
        ("x.jsonl", '{"prompt": "p", "chosen": "a", "rejected": "b"}\n{', "line 2 is not JSON"),
        ("x.json", '[{"prompt": "p", "chosen": "a"}]', "row 1: no chosen and rejected, and no a"),
        ("x.json", '[{"chosen": "a", "rejected": "b"}]', "row 1: no prompt"),
        ("x.json", '[{"prompt": 3, "a": "a", "b": "b"}]', "row 1: a text, or a list of messages"),
        ("x.json", '{"rows": 3}', "no list of rows"),
        ("x.csv", 'prompt,a,b\np,"a,b', "a quote is not closed"),
        ("x.csv", "prompt,a,b\np,a,b\np,a\n", "row 2: 2 cells for 3 columns"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_a_line(name, text, error):
    assert run_node([["readPairs", [name, text]]])[0].startswith(f"error: {error}")


def test_own_pairs_come_again_with_their_sides_exchanged():
    (trials,) = run_node([["trialsOf", [list(range(30))]]])
    assert sorted({trial["pair"] for trial in trials}) == list(range(30))
    twice = [t["pair"] for t in trials if sum(t["pair"] == u["pair"] for u in trials) == 2]
    assert sorted(set(twice)) == [0, 1, 2, 3, 12, 13, 14, 15]  # none in a block that is too short
    for pair in set(twice):
        assert sum(t["exchanged"] for t in trials if t["pair"] == pair) == 1


def labels_by(task: dict, side_of) -> list[dict]:
    """Judged trials where `side_of(left, right)` (0 or 1) chooses the side by its text."""
    labels = []
    for trial in task["trials"]:
        pair = task["pairs"][trial["pair"]]
        sides = pair["texts"][::-1] if trial["exchanged"] else pair["texts"]
        side = side_of(*sides)
        picked = 1 - side if trial["exchanged"] else side
        labels.append({"pair": trial["pair"], "side": side, "picked": picked})
    return labels


def test_what_labels_say_of_somebody_who_knows_gold():
    task, labels = label_task(0), []
    for trial in task["trials"]:  # the better text stands first
        labels.append({"pair": trial["pair"], "side": int(trial["exchanged"]), "picked": 0})
    (found,) = run_node([["describeLabels", [task["pairs"], labels]]])
    unequal = [pair for pair in task["pairs"] if len(set(pair["utilities"]["human"])) == 2]
    assert found["gold"] == {"k": len(unequal), "n": len(unequal)}
    assert found["itself"] == {"k": 4, "n": 4}
    assert found["left"] == {"k": 8, "n": 16}
    for row in found["groups"]:
        felt = [pair["utilities"][row["group"]] for pair in task["pairs"]]
        likes = [better > worse for better, worse in felt if better != worse]
        assert row["count"] == {"k": sum(likes), "n": len(likes)}


def test_what_labels_say_of_simple_annotators():
    task = label_task(0)
    behaviours = {
        "always left": lambda left, right: 0,
        "longer": lambda left, right: int(len(right.split()) > len(left.split())),
    }
    calls = [["describeLabels", [task["pairs"], labels_by(task, f)]] for f in behaviours.values()]
    found = dict(zip(behaviours, run_node(calls), strict=True))
    left, longer = found["always left"], found["longer"]
    assert left["left"] == {"k": 16, "n": 16}
    assert left["itself"] == {"k": 0, "n": 4}
    assert longer["longer"]["k"] == longer["longer"]["n"] > 8
    assert longer["itself"] == {"k": 4, "n": 4}
    shares = {row["group"]: row["count"]["k"] / row["count"]["n"] for row in longer["groups"]}
    assert max(shares, key=shares.get) == "length"
