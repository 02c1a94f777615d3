"""What the texts say is true: links, commands, figures, and every number that a result decides.

python tests/test_texts.py     # writes the numbers of figures/ into the tables of the read-along
"""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAB, FIGURES = ROOT / "05-preference-tuning", ROOT / "figures"
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(LAB)]

from common import runs  # noqa: E402
from common.claims import link_papers  # noqa: E402
from common.intervals import interval, percent  # noqa: E402
from common.preferences import gold_utility  # noqa: E402

READ_ALONG, OWN_DATA = "05-preference-tuning/README.md", "05-preference-tuning/OWN_DATA.md"
NAMES = ("README.md", READ_ALONG, OWN_DATA, "05-preference-tuning/exercises/README.md")
NAMES += ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
MOST_LINES, MOST_NUMBERS = 60, 3  # of a section; of a paragraph
LESSONS = {  # of each lesson its figure
    "preference_data_explorer": "preference_data",
    "reward_model": "reward_model",
    "rlhf_objectives": "ppo_objectives",
    "online_rl": "online_rl",
    "dpo_trainer": "dpo_training",
    "dpo_variants": "dpo_variants",
    "best_of_n": "best_of_n",
    "reward_hacking": "reward_hacking",
    "frontier": "frontier",
}
# Terms that are explained in the glossary: the first time that a section uses one it leads there.
TERMS = {
    "gold utility": "gold-utility",
    "nats?": "nat",
    "margins?": "margin",
    "SFT model": "sft-model",
    "implicit rewards?": "implicit-reward",
    "KL": "kl",
    "log-odds": "log-odds",
    "reference": "reference",
    "policy": "policy",
    "advantages?": "advantage",
    "filler": "filler",
}


def read(name: str) -> dict:
    return json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))


def metrics(name: str) -> dict:
    return read(name)["metrics"]


def sections(text: str) -> dict[str, str]:
    """The text of every section of the second level, by its heading."""
    parts = re.split(r"^## (.+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


SECTIONS = sections(TEXTS[READ_ALONG])
NUMBERED = [heading for heading in SECTIONS if heading[0].isdigit()]


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def prose(text: str) -> str:
    """A text without code, tables, comments, headings, and where links lead."""
    text = re.sub(r"<!--.*?-->|`[^`]*`|^#.*$", "", without_code(text), flags=re.M | re.S)
    text = re.sub(r"^\|.*$|^!\[.*$", "", text, flags=re.M)
    return re.sub(r"\]\([^)]*\)", "]", text)


# --- Numbers of the studies ---

ROW = re.compile(r"^\| \[[^\]]+\]\(studies/(\w+)\.py\) <!-- (\w+) --> \|(.*)\|$")


def fill_study_row(line: str) -> str:
    """A row of "What the studies say" with the interval, the range and the verdict of its claim."""
    study, claim_id, rest = ROW.match(line).groups()
    claims = {claim["id"]: claim for claim in read(f"studies/{study}")["claims"]}
    claim, cells = claims[claim_id], [cell.strip() for cell in rest.split(" | ")]
    answer, measured = cells[:2]
    unit = "%" if "%" in measured else measured.split("]")[-1].strip("? ")
    measured = percent(claim) if unit == "%" else f"{interval(claim)} {unit}"
    ends = min(claim["by_seed"]), max(claim["by_seed"])
    times, digits = (100, 0) if unit == "%" else (1, 2)
    # + 0.0: what rounds to zero has no sign
    low, high = (round(times * end, digits) + 0.0 for end in ends)
    spread = f"{low:.{digits}f} to {high:.{digits}f}"
    start = line[: line.index(" --> |") + len(" --> |")]
    published = link_papers(claim["published"]) or "-"
    return f"{start} {answer} | {measured} | {spread} | {claim['verdict']} | {published} |"


def methods_table() -> list[str]:
    """The methods at each number of labels, the one that gains most first."""
    head = ("method", "labelled pairs", "gold utility gained", "share of the limit's gain")
    lines = [f"| {' | '.join((*head, 'KL, nats'))} |", "|---|---|---|---|---|"]
    rows = metrics("frontier")["methods"]
    for budget in sorted({row["budget"] for row in rows}):
        lines.append(f"| **at most {budget:,} pairs** | | | | |")
        group = [row for row in rows if row["budget"] == budget]
        for row in sorted(group, key=lambda row: -row["gain"]["mean"]):
            share = percent(row["share"]) if row["kl"] > 0.1 else "-"
            cells = (row["method"], f"{row['labels']:,}", interval(row["gain"]), share)
            cells += (f"{row['kl']:.2f}",)
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def fill(text: str) -> str:
    """The read-along with today's numbers in its tables."""
    lines = [fill_study_row(line) if ROW.match(line) else line for line in text.split("\n")]
    methods = methods_table()
    start = lines.index(methods[0])
    end = next(k for k in range(start, len(lines)) if not lines[k].startswith("|"))
    return "\n".join([*lines[:start], *methods, *lines[end:]])


def test_the_tables_of_the_studies_are_those_of_the_committed_run():
    said, measured = TEXTS[READ_ALONG].split("\n"), fill(TEXTS[READ_ALONG]).split("\n")
    assert said == measured, "python tests/test_texts.py writes the numbers anew"


def test_every_study_is_asked_over_the_seeds_that_are_named():
    studies = {path.stem for path in (FIGURES / "studies").glob("*.json")}
    assert all(read(f"studies/{name}")["seeds"] == list(range(8)) for name in studies)
    assert "seeds 0 to 7" in TEXTS[READ_ALONG]
    asked = {found[1] for line in TEXTS[READ_ALONG].split("\n") if (found := ROW.match(line))}
    assert studies and asked == studies


def test_every_claim_that_does_not_hold_is_explained():
    explained = SECTIONS["Why some claims do not hold here"]
    told = re.findall(
        r"<!-- (\w+) -->\s+\((?:it )?(does not\s+hold|undecided|no difference)", explained
    )
    told = {claim_id: " ".join(verdict.split()) for claim_id, verdict in told}
    found = {}
    for path in (FIGURES / "studies").glob("*.json"):
        for claim in json.loads(path.read_text(encoding="utf-8"))["claims"]:
            if claim["verdict"] != "holds":
                found[claim["id"]] = claim["verdict"]
    assert told == found


# --- Numbers of the lessons ---


def good(measured: dict) -> str:
    return f"{100 * measured['kinds']['right and concise']:.0f} %"


def first_minus_last(curve: list[float]) -> float:
    return curve[0] - curve[-1]


SAID = {  # of each section what is said of its lesson's committed run
    "1. Preference data": (
        "preference_data",
        lambda m: f"In {100 * m['raters']['two_raters_agree']:.0f} % of the cases",
        lambda m: f"same score in {100 * m['raters']['one_rater_asked_twice_agrees']:.0f} %",
        lambda m: f"only {100 * m['raters']['second_given_first'][2][2]:.0f} % of the cases",
        lambda m: f"chosen answers {100 * m['sides']['chosen']['styles']['concise']:.0f} % are",
    ),
    "2. Reward models": (
        "reward_model",
        lambda m: f"{100 * m['after']['in_order']['all']:.0f} % are in the right order",
    ),
    "3. What PPO optimises": (
        "ppo_objectives",
        lambda m: f"ends at {m['ppo'][-1]['gold']:.2f}",
        lambda m: f"take {sum(m['memory']['PPO']['weights_gb'].values()):.0f} GB",
    ),
    "4. Online RL": (
        "online_rl",
        lambda m: f"After {len(m['training']['reward'])} updates {good(m['looks'][-1])} of the",
    ),
    "5. DPO": (
        "dpo_training",
        lambda m: f"rejected ones fall by {-m['looks'][-1]['first_pairs']['rejected']:.1f}",
        lambda m: f"grow to {good(m['after'])} of all",
    ),
    "6. Variants of DPO": (
        "dpo_variants",
        lambda m: f"good answers, DPO {good(m['variants']['DPO'])}",
    ),
    "7. Best-of-n": (
        "best_of_n",
        lambda m: f"Best of 16 gives {good(m['methods']['best of 16'])} right",
    ),
    "8. Reward hacking": (
        "reward_hacking",
        lambda m: f"does so in {100 * m['bias']['biased']['reward_model']:.0f} %",
        lambda m: f"{first_minus_last(m['curves']['biased']['gold']):.1f} below that of one",
    ),
}


@pytest.mark.parametrize("heading", SAID)
def test_what_is_said_of_a_lesson_is_its_committed_run(heading):
    name, *sayings = SAID[heading]
    text = " ".join(prose(SECTIONS[heading]).split())
    text = re.sub(r"\[([^\]]*)\]", r"\1", text)
    for saying in sayings:
        assert saying(metrics(name)) in text, saying(metrics(name))


def test_the_first_terminal_is_that_of_the_committed_run():
    before, after = (metrics("dpo_training")[when] for when in ("before", "after"))
    shown = next(part for part in TEXTS["README.md"].split("```") if "right and concise" in part)
    for kind, share in before["kinds"].items():
        rounded = [f"{100 * value:.0f}" for value in (share, after["kinds"][kind])]
        assert re.search(rf"^{kind} +{rounded[0]} +{rounded[1]} ", shown, re.M), kind
    for name, key in (("gold utility", "gold"), ("length", "words")):
        assert re.search(rf"^{name} +{before[key]:.2f} +{after[key]:.2f} ", shown, re.M), name


def test_the_world_is_as_it_is_shown():
    shown = SECTIONS["The world of the lab"]
    question = re.search(r'answer to "([^"]+)"', shown)[1]
    rows = re.findall(r"^\| (\w[^|]+\.) \|[^|]*\| ([\d.]+) \|$", shown, re.M)
    assert len(rows) == 5
    for answer, worth in rows:
        assert f"{gold_utility(question, answer):g}" == worth, answer


def test_the_checks_of_the_second_look_are_those_that_are_made():
    checks = json.loads((LAB / "own_data" / "questions.json").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| [\w ,]+ \| `(\w+)` \| (.+) \|$", TEXTS[OWN_DATA], re.M)
    assert {name for name, _ in rows} == set(checks)
    for name, asks in rows:
        limit = checks[name]["limit"]
        assert f"{limit:g}" in asks or f"{100 * limit:g} %" in asks, name


# --- Links, commands, figures ---


def anchors(text: str) -> set[str]:
    """Where links within a text may lead, as GitHub names headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.M)
    named = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {*named, *re.findall(r'<a id="([\w-]+)">', text)}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(TEXTS[name])):
        if target.startswith("https://"):
            continue
        place, _, anchor = target.partition("#")
        path = (ROOT / name).parent.joinpath(place) if place else ROOT / name
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), target


# Not what a terminal proposes as the next step.
COMMAND = r"(?<!next  )(?:python|accelerate launch) 05-preference-tuning/[^\n`]+"


def commands() -> list[tuple[str, str]]:
    """(script, flags) of every command of the lab that a text gives."""
    found = []
    for text in TEXTS.values():
        for line in re.findall(COMMAND, text):
            script, *flags = shlex.split(line.split("05-preference-tuning/")[1], comments=True)
            found.append((script.removesuffix(".py"), shlex.join(flags)))
    return sorted(set(found))


class Parsed(Exception):
    """The flags were understood."""


def stop_once_parsed(parser, argv, *others, **more):
    parser.parse_args(argv)
    raise Parsed


@pytest.mark.parametrize(("script", "flags"), commands())
def test_every_command_is_one_that_the_scripts_take(script, flags, monkeypatch, tmp_path):
    assert (LAB / f"{script}.py").is_file()
    flags = shlex.split(flags)
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"\S+\.(?:jsonl|csv)", " ".join(flags)):
        (tmp_path / name).touch()  # the reader's data are there
    if script.startswith("studies/"):
        from common.claims import study_parser

        study_parser(LAB / f"{script}.py").parse_args(flags)
    elif "/" not in script:
        monkeypatch.setattr(runs, "start", stop_once_parsed)
        module = importlib.import_module(script)
        if hasattr(module, "build_parser"):
            module.build_parser().parse_args(flags)
        else:
            with pytest.raises(Parsed):
                module.main(flags)


def test_every_lesson_is_shown_with_its_command_and_figure():
    given = {script for script, _ in commands()}
    assert set(LESSONS) <= given
    for lesson, figure in LESSONS.items():
        png = FIGURES / f"{figure}.png"
        assert png.read_bytes().startswith(b"\x89PNG")
        shown = [heading for heading in NUMBERED if f"figures/{figure}.png" in SECTIONS[heading]]
        assert len(shown) == 1, figure
        assert f"05-preference-tuning/{lesson}.py" in SECTIONS[shown[0]]
    assert "figures/dpo_training.png" in TEXTS["README.md"]


def test_the_seconds_are_those_that_the_lessons_say():
    rows = re.findall(r"^\| \[\d\..*\| (\w+)\.py \| (\d+) \|$", TEXTS[READ_ALONG], re.M)
    assert [lesson for lesson, _ in rows] == list(LESSONS)
    for lesson, seconds in rows:
        code = (LAB / f"{lesson}.py").read_text(encoding="utf-8")
        said = re.search(r"^About (\w+) seconds?\b", code, re.M)[1]
        assert seconds == said.replace("a", "1"), lesson


@pytest.mark.parametrize("heading", NUMBERED)
def test_the_functions_that_are_named_are_there(heading):
    text = SECTIONS[heading].split("**In the code.**")[1].split("**Try.**")[0]
    lesson = re.search(r"05-preference-tuning/(\w+)\.py", SECTIONS[heading])[1]
    code = (LAB / f"{lesson}.py").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`", text)
    assert len(named) >= 2
    for name in named:
        assert re.search(rf"^def {name}\(", code, re.M), name
    for exercise in re.findall(r"exercises/(e\d+_\w+)\.py", text):
        function = exercise.split("_", 1)[1]
        if function != "answer_logps":  # in the lessons TRL computes it
            assert re.search(rf"^def {function}\(", code, re.M), function


# --- Words ---


def test_every_section_asks_before_it_answers():
    assert len(NUMBERED) == len(LESSONS)
    parts = ("**Question.**", "**Predict first.**", "<summary>Answers</summary>", "```", "![")
    parts += (
        "**Three things to see.**",
        "**Why.**",
        "**What it cannot tell.**",
        "**In the code.**",
    )
    parts += ("**Try.**", "**What the studies say.**")
    for heading in NUMBERED:
        text, place = SECTIONS[heading], -1
        for part in parts:
            assert text.find(part, place + 1) > place, f"{heading}: {part}"
            place = text.find(part, place + 1)
        asked, answered = text.split("<details>")[0], text.split("<details>")[1].split("</det")[0]
        questions, answers = (re.findall(r"^(\d)\. \S", part, re.M) for part in (asked, answered))
        assert questions == answers == ["1", "2"] and asked.count("?") >= 3, heading
        seen = text.split("to see.**")[1].split("**Why.**")[0]
        assert len(re.findall(r"^- ", seen, re.M)) == 3, heading


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_section_is_read_in_ten_minutes(heading):
    text = SECTIONS[heading].strip()
    most = MOST_LINES if heading in NUMBERED else 100
    assert text.count("\n") + 1 <= most, text.count("\n") + 1
    assert heading not in NUMBERED or len(prose(text).split()) < 700


@pytest.mark.parametrize("name", NAMES)
def test_no_paragraph_is_full_of_numbers(name):
    """Not counted: code, tables, links, names such as GPT-2, and the numbers of a list."""
    text = re.sub(r"^(\d+\.|-|#+) ", "\n", prose(TEXTS[name]), flags=re.M)
    for paragraph in re.split(r"\n\s*\n", text):
        numbers = re.findall(r"(?<![\w.,-])[-+]?\d[\d,]*(?:\.\d+)?(?![\w-]|\.\d)", paragraph)
        assert len(numbers) <= MOST_NUMBERS, (numbers, paragraph)


@pytest.mark.parametrize("heading", [*NUMBERED, "The world of the lab"])
def test_a_term_leads_to_the_glossary_where_it_first_stands(heading):
    """Read from the top, without the questions that are to be answered first."""
    text = re.sub(r"<details>.*?</details>|`[^`]*`|<!--.*?-->", "", SECTIONS[heading], flags=re.S)
    text = re.sub(r"^!\[.*$", "", without_code(text), flags=re.M)
    for term, anchor in TERMS.items():
        first = re.search(rf"(?i)(?<![\w-]){term}(?![\w-])", text)
        if first:
            link = re.compile(rf"(?i)\[(?:[^\]]*\W)?{term}(?:\W[^\]]*)?\]\(#{anchor}\)")
            linked = link.search(text)
            assert linked and linked.start() <= first.start(), f"{term} is not explained"


def test_the_glossary_has_an_example_for_every_term():
    terms = re.findall(r'^- <a id="([\w-]+)"></a>\*\*', SECTIONS["Glossary"], re.M)
    assert 18 <= len(terms) == len(set(terms))
    used = set(re.findall(r"\(#([\w-]+)\)", TEXTS[READ_ALONG]))
    assert set(terms) <= used, set(terms) - used


if __name__ == "__main__":
    path = ROOT / READ_ALONG
    path.write_text(fill(TEXTS[READ_ALONG]), encoding="utf-8")
    print(f"wrote the numbers of figures/ into {READ_ALONG}")
