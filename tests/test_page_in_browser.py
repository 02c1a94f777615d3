"""The page in a real browser: label, move, browse, predict, choose a point; nothing leaves it."""

import json
import time
from pathlib import Path

import numpy as np
import page
import pytest
from best_of_n import best_of_n_kl_bound, expected_best_of_n
from browser import Browser, find_browser, start_browser
from made_up_page import made_up_data, made_up_studies
from own_data.read import load_preferences
from rlhf_objectives import (
    clipped_surrogate,
    generalized_advantage_estimate,
    kl_regularized_optimum,
)

LEFT, RIGHT, BACKSPACE = "\ue012", "\ue014", "\ue003"  # keys of the WebDriver protocol
pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="chromium and chromedriver are not installed"
)


@pytest.fixture(scope="module")
def data() -> dict:
    return made_up_data()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def window(data, folder):
    """The page, open; downloads go to the folder."""
    lab = folder / "lab.html"
    lab.write_text(page.fill_template(data), encoding="utf-8")
    with start_browser(folder / "profile") as browser:
        allowed = {"behavior": "allow", "downloadPath": str(folder)}
        browser.devtools("Browser.setDownloadBehavior", **allowed)
        browser.call("url", {"url": "about:blank"})
        browser.requests()  # of the browser's own first page
        yield browser


@pytest.fixture
def lab(window, folder) -> Browser:
    """The page as it is when it opens; no test may leave an error in the console or ask the net."""
    window.emulate(1280)
    window.open(folder / "lab.html")
    yield window
    assert window.log("browser") == []
    addresses = [a for a in window.requests() if not a.startswith(("data:", "blob:", "chrome"))]
    assert set(addresses) <= {(folder / "lab.html").as_uri()}


def text_of(lab: Browser, name: str) -> str:
    return lab.run("return document.getElementById(arguments[0]).innerText", name)


def set_value(lab: Browser, name: str, value, event: str = "input") -> None:
    """Set a control as a user does."""
    lab.run(
        "const node = document.getElementById(arguments[0]); node.value = arguments[1];"
        "node.dispatchEvent(new Event(arguments[2], {bubbles: true}))",
        *(name, value, event),
    )


def click(lab: Browser, name: str) -> None:
    lab.run("document.getElementById(arguments[0]).click()", name)


def downloaded(folder: Path) -> Path:
    """The file of labels, once it is there."""
    path, end = folder / "pairs.jsonl", time.monotonic() + 20
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return path


def rows_of_table(lab: Browser, name: str) -> dict[str, str]:
    """First cell: second cell of the rows of a table."""
    rows = lab.run(
        "return [...document.querySelectorAll('#' + arguments[0] + ' tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.innerText))",
        name,
    )
    return {row[0]: row[1] for row in rows}


# --- Label ---


def test_sixteen_labels_by_keyboard_say_what_they_say_and_can_be_trained_on(lab, data, folder):
    lab.run("document.getElementById('trial-prompt').focus()")
    lab.press(RIGHT, BACKSPACE, LEFT, "s")
    assert text_of(lab, "trial-count") == "Pair 3 of 16"
    lab.press(BACKSPACE, *[LEFT] * 15)
    found = rows_of_table(lab, "judged-table")
    assert found["Position: left (or upper) chosen"] == "16 of 16: 100 % [81, 100]"
    assert found["Agreement with yourself"] == "0 of 4: 0 % [0, 49]"
    assert lab.run("return document.activeElement.id") == "judged"
    click(lab, "judged-download")
    path = downloaded(folder)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    expected = []
    for trial in data["label"]["trials"]:
        pair = data["label"]["pairs"][trial["pair"]]
        chosen, rejected = pair["texts"][::-1] if trial["exchanged"] else pair["texts"]
        expected.append({"prompt": pair["prompt"], "chosen": chosen, "rejected": rejected})
    assert rows == expected
    loaded = load_preferences(str(path))
    assert [row["chosen"] for row in loaded] == [row["chosen"] for row in rows]
    path.unlink()


def test_own_pairs_are_labelled_here_and_keep_their_other_columns(lab, folder):
    lab.run("document.getElementById('own').open = true")
    click(lab, "trial-left")
    assert choose_file(lab, folder / "bad.jsonl", "{") == "bad.jsonl: line 1 is not JSON"
    assert text_of(lab, "trial-count") == "Pair 2 of 16"  # nothing was lost
    said = choose_file(lab, folder / "own.csv", 'prompt,a,b,id\n"Hm, why?",<b>x</b>,y,7\nq,z,w,8\n')
    assert said == "2 pairs of own.csv; nothing of them leaves this page."
    assert text_of(lab, "trial-prompt") == "Hm, why?"
    sides = [text_of(lab, f"trial-{side}") for side in ("left", "right")]
    assert sorted(sides) == ["<b>x</b>", "y"]  # a text, and no markup
    click(lab, "trial-left")
    click(lab, "trial-skip")
    assert "1 label. 1 left out" in text_of(lab, "judged-note")
    click(lab, "judged-download")
    path = downloaded(folder)
    chosen, rejected = sides
    row = {"prompt": "Hm, why?", "id": "7", "chosen": chosen, "rejected": rejected}
    assert json.loads(path.read_text(encoding="utf-8")) == row
    path.unlink()
    lab.run(
        "const files = new DataTransfer();"
        'files.items.add(new File([\'[{"prompt": "P", "a": "x", "b": "y"}]\'], \'d.json\'));'
        "const drop = new DragEvent('drop', {dataTransfer: files, bubbles: true});"
        "document.getElementById('own-message').textContent = '';"
        "document.getElementById('drop').dispatchEvent(drop)"
    )
    assert message(lab) == "1 pair of d.json; nothing of them leaves this page."
    click(lab, "own-world")
    assert text_of(lab, "trial-count") == "Pair 1 of 16"


def choose_file(lab: Browser, path: Path, content: str) -> str:
    """Write a file, choose it in the page, and what the page says of it."""
    path.write_text(content, encoding="utf-8")
    lab.run("document.getElementById('own-message').textContent = ''")
    element = lab.call("element", {"using": "css selector", "value": "#own-file"})
    (reference,) = element.values()
    lab.call(f"element/{reference}/value", {"text": str(path)})
    return message(lab)


def message(lab: Browser) -> str:
    """What the page says of a file, once it does."""
    end = time.monotonic() + 20
    while not text_of(lab, "own-message") and time.monotonic() < end:
        time.sleep(0.05)
    return text_of(lab, "own-message")


# --- Move ---


def signless(text: str) -> str:
    return text.replace("−", "-")


def test_moving_beta_gives_the_numbers_of_kl_regularized_optimum(lab, data):
    for place, judge, power in ((0, "reward", -0.3), (1, "length_reward", 0.5)):
        set_value(lab, "pool", place, "change")
        set_value(lab, "judge", judge, "change")
        set_value(lab, "beta", power)
        pool = data["pools"][place]
        ref = np.exp(pool["logp"])
        ref = ref / ref.sum()
        rewards, gold = np.array(pool[judge]), np.array(pool["gold"])
        probs = kl_regularized_optimum(ref, rewards, 10**power)
        kl = probs @ np.log(np.where(probs > 0, probs / ref, 1))
        says = signless(text_of(lab, "beta-says"))
        assert f"lies {kl:.2f} nats" in says
        assert f"reward {probs @ rewards:.2f} ({(probs - ref) @ rewards:+.2f})" in says
        assert f"gold utility {probs @ gold:.2f} ({(probs - ref) @ gold:+.2f})" in says


def test_moving_opens_where_a_flawed_reward_loses_most(lab, data):
    assert lab.run("return document.getElementById('judge').value") == "length_reward"
    lost = []
    for pool in data["pools"]:
        drawn = np.array(pool["drawn"])
        rewards, gold = (np.array(pool[name])[drawn] for name in ("length_reward", "gold"))
        curve = [expected_best_of_n(rewards, n, gold) for n in range(1, len(drawn) + 1)]
        lost.append(max(curve) - curve[-1])
    assert lab.run("return document.getElementById('pool').value") == str(np.argmax(lost))


def test_moving_n_gives_the_numbers_of_expected_best_of_n(lab, data):
    set_value(lab, "pool", 0, "change")
    set_value(lab, "judge", "reward", "change")
    pool = data["pools"][0]
    drawn = np.array(pool["drawn"])
    rewards, gold = np.array(pool["reward"])[drawn], np.array(pool["gold"])[drawn]
    for n in (1, 5, 20):
        set_value(lab, "n", n)
        says = signless(text_of(lab, "n-says"))
        reward, its_gold = expected_best_of_n(rewards, n), expected_best_of_n(rewards, n, gold)
        assert f"best of {n} has reward {reward:.2f} and gold {its_gold:.2f}" in says
        assert f"at most {best_of_n_kl_bound(n):.2f} nats" in says
        favourite = int(np.argmax(rewards[:n]))
        assert f'Of the first {n}, the reward chooses "{pool["texts"][drawn[favourite]]}"' in says
        assert ("None of them is better" in says) == (gold[favourite] == gold[:n].max())


def test_moving_epsilon_gives_the_numbers_of_clipped_surrogate(lab):
    zero, slope = "the gradient is zero", "the gradient with respect to the ratio is 1.00"
    for epsilon, ratio, advantage, gradient in (
        (0.2, 1.4, 1, zero),
        (0.3, 0.5, -2, zero),
        (0.2, 0.5, 1, slope),
    ):
        for name, value in {"epsilon": epsilon, "ratio": ratio, "advantage": advantage}.items():
            set_value(lab, name, value)
        objective = clipped_surrogate(ratio, advantage, epsilon)
        said = signless(text_of(lab, "epsilon-says"))
        assert f"The objective is {objective:.3f}, and {gradient}" in said


def test_moving_lambda_gives_the_numbers_of_the_advantage_estimate(lab):
    for lam, gamma, reward in ((0, 1, 1), (0.5, 0.9, 2)):
        for name, value in {"lambda": lam, "gamma": gamma, "rewards-2": reward}.items():
            set_value(lab, name, value)
        rewards, values = np.array([0, 0, reward]), np.array([0.5, 0.6, 0.7])
        expected = generalized_advantage_estimate(rewards, values, gamma, lam)
        shown = [float(signless(text_of(lab, f"advantage-{t}"))) for t in range(3)]
        assert shown == pytest.approx(expected, abs=1e-4)


# --- Browse, Predict, The frontier ---


def answers_of(data: dict, policy: dict) -> list[list]:
    return [data["answers"][place] for place in data["places"][policy["answers"]]]


def read_all(data: dict) -> list[dict[str, bool]]:
    """Of every answer but SFT's whether it is changed, worse than before, and hacked."""
    sft, *others = data["policies"]
    before, read = answers_of(data, sft), []
    for policy in others:
        own = data["rewards"].get(policy["answers"])
        for k, (text, gold, *_) in enumerate(answers_of(data, policy)):
            rose = own is not None and own["after"][k] > own["before"][k]
            worse = gold < before[k][1]
            changed = text != before[k][0]
            read.append({"all": True, "changed": changed, "worse": worse, "hacked": worse and rose})
    return read


def test_a_filter_shows_the_answers_that_pass_it_and_pages_show_all(lab, data):
    for test in ("hacked", "worse", "changed", "all"):
        set_value(lab, "browse-filter", test, "change")
        passed = sum(answer[test] for answer in read_all(data))
        assert passed > 0
        assert text_of(lab, "browse-count").startswith(f"{passed} answer")
    place, seen = 3, []
    set_value(lab, "browse-policy", place, "change")
    for _ in range(2):
        seen += lab.run(
            "return [...document.querySelectorAll('#browse-list tbody tr:nth-child(2) .text')]"
            ".map(cell => cell.firstChild.textContent)"
        )
        click(lab, "browse-next")
    assert seen == [answer[0] for answer in answers_of(data, data["policies"][place + 1])]


def test_predictions_are_scored_beside_always_saying_holds(lab, data):
    click(lab, "claim-show")
    assert text_of(lab, "claim-answer") == "Say first what you expect."
    assert text_of(lab, "score") == ""
    outcomes, probabilities = [], []
    for k, claim in enumerate(data["claims"][:12]):
        expected, sure = ("holds", 0.9) if k % 3 else ("not", 0.6)
        set_value(lab, "sure", round(100 * sure))
        click(lab, f"expect-{expected}")
        click(lab, "claim-show")
        verdict = claim["verdict"]
        assert text_of(lab, "claim-answer").startswith(verdict[0].upper() + verdict[1:])
        if verdict != "undecided":
            outcomes.append(verdict == "holds")
            probabilities.append(sure if expected == "holds" else 1 - sure)
        click(lab, "claim-next")
    brier = np.mean((np.array(probabilities) - outcomes) ** 2)
    always = np.mean((1 - np.array(outcomes)) ** 2)
    says = text_of(lab, "score")
    assert f"of {len(outcomes)} decided claims: you {brier:.3f}" in says
    assert f'always saying "holds" {always:.3f}' in says


def test_a_point_says_what_it_is_and_shows_its_answers(lab, data):
    place = 5
    point = data["points"][place]
    set_value(lab, "point", place, "change")
    says = text_of(lab, "point-says")
    assert says.startswith(f"{point['method']}: {point['label']}")
    assert f"gold utility {point['gold']['mean']:.2f}" in says
    shown = lab.run(
        "return [...document.querySelectorAll('#point-answers tbody tr td:nth-child(3)')]"
        ".map(cell => cell.firstChild.textContent)"
    )
    mine = [data["answers"][k][0] for k in data["places"][point["answers"]]]
    before = [answer[0] for answer in answers_of(data, data["policies"][0])]
    same = [("the same" if a == b else a) for a, b in zip(mine, before, strict=True)]
    assert shown == same
    drawn = lab.run("return document.querySelectorAll('#plane .point').length")
    assert drawn == len(data["points"])


def test_browse_opens_where_something_is_hacked_and_shows_its_own_reward(lab, data):
    rows = lab.run(
        "return [...document.querySelectorAll('#browse-list tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    hacked = [row for row in rows if row[0].endswith("hacked")]
    assert hacked
    for name, _, gold, reward in hacked:
        policy = next(p for p in data["policies"] if p["name"] == name.removesuffix(" hacked"))
        before, after = map(float, signless(reward).split(" → "))
        own = data["rewards"][policy["answers"]]
        k = [round(value, 2) for value in own["after"]].index(after)
        assert before == round(own["before"][k], 2) and before < after and "(−" in gold


@pytest.mark.parametrize("kept", [(), ("what_dpo_does",), ("too_much_dpo",), ("three_hacks",)])
def test_the_page_of_few_studies_opens_and_says_what_makes_the_rest(kept, window, folder):
    found = {name: study for name, study in made_up_studies().items() if name in kept}
    path = folder / "part.html"
    path.write_text(page.fill_template(page.gather(found, seed=0)), encoding="utf-8")
    window.open(path)
    window.requests()
    assert window.log("browser") == []
    assert "run studies/best_of_n_and_the_limit.py" in text_of(window, "move-missing")
    assert ("run studies/too_much_dpo.py" in text_of(window, "browse")) == (
        "too_much_dpo" not in kept
    )
    assert ("run run_all.py --studies" in text_of(window, "score")) == (not kept)
    assert text_of(window, "trial-count") == "Pair 1 of 16"


# --- For everybody ---


def test_nothing_is_wider_than_the_window(lab):
    for width in (320, 390, 1280):
        lab.emulate(width)
        overflow = lab.run(
            "window.dispatchEvent(new Event('resize'));"
            "const width = document.documentElement.clientWidth;"
            "const outside = [...document.querySelectorAll('main *')].filter(node =>"
            " !node.closest('.scroll, pre') && node.getBoundingClientRect().right > width + 1);"
            "return [document.documentElement.scrollWidth - width,"
            " outside.map(node => node.id || node.tagName)]"
        )
        assert overflow == [0, []], width


def controls(lab: Browser) -> list[dict]:
    """The nodes of the accessibility tree that a user can act on; the browser builds it lazily."""
    roles = ("button", "slider", "combobox", "radio", "spinbutton", "link", "textbox", "image")
    for _ in range(50):
        nodes = lab.devtools("Accessibility.getFullAXTree")["nodes"]
        found = [node for node in nodes if node.get("role", {}).get("value") in roles]
        if found:
            break
        time.sleep(0.1)
    return found


def test_every_control_has_a_name_and_every_id_is_alone(lab):
    named = controls(lab)
    assert len(named) > 30
    assert [node for node in named if not node.get("name", {}).get("value")] == []
    ids = lab.run("return [...document.querySelectorAll('[id]')].map(node => node.id)")
    assert len(ids) == len(set(ids))


def test_texts_can_be_read_in_both_colour_schemes(lab):
    for scheme in ("light", "dark"):
        lab.emulate(1280, scheme=scheme)
        colors = lab.run(
            "const style = getComputedStyle(document.documentElement);"
            "const read = name => [name, style.getPropertyValue('--' + name).trim()];"
            "return Object.fromEntries(arguments[0].map(read))",
            ["page", "card", "text", "quiet", "good", "bad", "main", "on-main"],
        )
        for text in ("text", "quiet", "good", "bad", "main"):
            for ground in ("page", "card"):
                assert contrast(colors[text], colors[ground]) >= 4.5, (scheme, text, ground)
        assert contrast(colors["on-main"], colors["main"]) >= 4.5


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours (#rrggbb), as WCAG 2 defines it."""
    light = []
    for color in (first, second):
        parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(light) + 0.05) / (min(light) + 0.05)
