"""The page: what stands on it, its closed forms, and its use in a real browser."""

import base64
import hashlib
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

from support.answers import point_name
from support.page_data import PAIRS, answer_table, label_task

import frontier
import numpy as np
import page
import pytest
from best_of_n import best_of_n_kl_bound, best_of_n_weights, expected_best_of_n
from made_up_page import ASKED, PROMPTS, made_up_data
from rlhf_objectives import (
    clipped_surrogate,
    generalized_advantage_estimate,
    kl_regularized_optimum,
)

from common.cli import UserError
from common.intervals import wilson_ci
from common.preferences import gold_utility, write_response
from common.reporting import COMMITTED

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
    text = (COMMITTED / "lab.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert page.fill_template(data) == text, "make page"
    claims = []
    for section in page.SECTIONS:
        results = page.read_results(COMMITTED / f"{section.name}.json")
        claims += page.claims_for_page(section.title, results)
    assert data["claims"] == claims, "make page"


def test_a_text_cannot_end_the_element_that_it_stands_in():
    text = page.fill_template({"answer": "</script><script>alert(1)</script>"})
    assert text.count("</script>") == 2
    assert "\\u003c/script>\\u003cscript>" in text


def test_the_page_of_runs_without_answers_has_the_rest():
    sections = page.read_sections(COMMITTED, {})
    for results in sections.values():
        results.pop("answers", None)
    points, _ = frontier.collect(0, COMMITTED, False)
    data = page.gather(sections, points, 0, None)
    assert (data["prompts"], data["policies"], data["pools"], data["answers"]) == ([], [], [], [])
    assert all(point["answers"] is None for point in data["points"])
    assert len(data["claims"]) == sum(len(s["claims"]) for s in sections.values()) > 50


def test_answers_to_other_prompts_are_not_mixed():
    sections = page.read_sections(COMMITTED, {})
    answers = {"prompts": PROMPTS, "texts": {"x": ["a"] * 8}, "rewards": {}}
    for name in page.ANSWERED:
        sections[name] = {**sections[name], "answers": answers}
    assert page.collect_answers(sections) == (PROMPTS, {"x": ["a"] * 8}, {})
    sections["online_rl"]["answers"] = {**answers, "prompts": PROMPTS[:4]}
    assert page.collect_answers(sections)[:2] == (PROMPTS[:4], {"x": ["a"] * 4})
    sections["best_of_n"]["answers"] = {**answers, "prompts": PROMPTS[::-1]}
    with pytest.raises(UserError, match=r"best_of_n.json has answers to other prompts.* run best_"):
        page.collect_answers(sections)


def test_nothing_is_compared_without_the_answers_of_sft():
    points, _ = frontier.collect(0, COMMITTED, False)
    sft, *others = [point_name(point) for point in points if point["method"] in ("SFT", "DPO")]
    assert page.policies(points, dict.fromkeys(others, ())) == []
    names = [policy["name"] for policy in page.policies(points, dict.fromkeys([*others, sft], ()))]
    assert names == ["SFT", "DPO", "too much DPO"]


def test_the_command_writes_the_page_and_spares_what_is_not_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "collect_answers", lambda sections: ([], {}, {}))
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


def test_a_run_of_today_goes_before_the_committed_one(tmp_path):
    committed = page.read_sections(tmp_path, {})
    today = {**committed["best_of_n"], "metrics": {"n": 3}}
    (tmp_path / "best_of_n-seed-1.json").write_text(json.dumps(today), encoding="utf-8")
    assert page.read_sections(tmp_path, {"seed": 1})["best_of_n"]["metrics"] == {"n": 3}
    assert page.read_sections(tmp_path, {})["best_of_n"] == committed["best_of_n"]


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


def test_every_distinct_answer_stands_once_with_its_gold_and_reward():
    first, second = PROMPTS[:2]
    right = write_response(ASKED[0], "concise", random.Random(0))
    texts = {"one": [right, "No."], "two": [right, "So."]}
    scored = []

    def score(prompts, texts):
        scored.extend(zip(prompts, texts, strict=True))
        return np.arange(len(texts)) / 3

    rows, places = answer_table([first, second], texts, score)
    assert scored == [(first, right), (second, "No."), (second, "So.")]
    assert places == {"one": [0, 1], "two": [0, 2]}
    assert rows[0] == [right, 4.0, 0.0, 1, "right"]
    assert rows[2] == ["So.", gold_utility(second, "So."), 0.667, 0, "off topic"]
    assert answer_table([first, second], texts, None)[0][0][2] is None


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
    for group in found["groups"]:
        better, worse = np.array([pair["utilities"][group["group"]] for pair in task["pairs"]]).T
        agree = 1 / (1 + np.exp(worse - better))  # Bradley-Terry
        half = 1.96 * np.sqrt((agree * (1 - agree)).sum()) / PAIRS
        ends = max(0, agree.mean() - half), min(1, agree.mean() + half)
        assert group["mean"] == pytest.approx(agree.mean())
        assert group["range"] == pytest.approx(ends)
        assert group["logLikelihood"] == pytest.approx(np.log(agree).sum())


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
    likelihoods = {row["group"]: row["logLikelihood"] for row in longer["groups"]}
    assert max(likelihoods, key=likelihoods.get) == "length"
