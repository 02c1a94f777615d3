"""The texts promise only what the committed run over all seeds gave."""

import json
import re
from pathlib import Path

from support.seeds import claims_table, headlines_table

import pytest
import run_all

from common.intervals import interval

ROOT = Path(__file__).parents[1]
READ_ALONG = "05-preference-tuning/README.md"
EXERCISES = "05-preference-tuning/exercises/README.md"
TEXTS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", READ_ALONG, EXERCISES, "benchmarks/README.md", "CONTRIBUTING.md")
}
RESULTS = [
    json.loads((ROOT / "figures" / f"{section.name}.json").read_text(encoding="utf-8"))
    for section in run_all.SECTIONS
]
CLAIMS = [claim for result in RESULTS for claim in result["claims"]]


@pytest.mark.parametrize(
    ("name", "make_table"), [("claims.md", claims_table), ("headlines.md", headlines_table)]
)
def test_the_tables_are_those_of_the_committed_run(name, make_table):
    table = (ROOT / "figures" / name).read_text(encoding="utf-8")
    assert table == make_table(run_all.SECTIONS, RESULTS)
    assert f"figures/{name}" in TEXTS["README.md"]


def test_the_committed_run_is_one_default_run_over_seeds():
    for section, result in zip(run_all.SECTIONS, RESULTS, strict=True):
        assert result["script"] == f"{section.script}.py"
        assert result["settings"]["seeds"] == RESULTS[0]["settings"]["seeds"]
        assert len(set(result["settings"]["seeds"])) >= 4 and not result["settings"]["smoke"]
        assert [claim["id"] for claim in result["claims"]] == [row.id for row in section.claims]
        assert all(check["passes"] for check in result["checks"])


def test_claims_are_rows_that_say_what_is_measured():
    ids = [claim["id"] for claim in CLAIMS]
    assert len(set(ids)) == len(ids)
    for claim in CLAIMS:
        assert claim["says"] and claim["measured"] and claim["smallest"] >= 0


def test_the_table_of_speed_is_that_of_the_committed_benchmark():
    table = (ROOT / "benchmarks" / "results.md").read_text(encoding="utf-8").strip()
    assert table in TEXTS["benchmarks/README.md"]
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    assert all(row["what"] in table for row in results["rows"])


def test_the_table_of_the_second_look_is_that_of_the_committed_runs():
    table = (ROOT / "benchmarks" / "second_look.md").read_text(encoding="utf-8").strip()
    assert table in TEXTS[READ_ALONG]


def test_every_claim_that_does_not_hold_is_explained():
    for claim in CLAIMS:
        explained = f"`{claim['id']}`" in TEXTS[READ_ALONG]
        assert claim["verdict"] == "holds" or explained, claim["id"]


def test_every_claim_is_quoted_as_it_was_measured():
    """`id`; verdict: mean [low, high], wherever a text says it."""
    quoted = re.compile(r"`(\w+)`; ([a-z ]+): (\S+ \[[^\]]+\])")
    claims = {claim["id"]: f"{claim['verdict']}: {interval(claim)}" for claim in CLAIMS}
    quotes = quoted.findall(" ".join(TEXTS[READ_ALONG].split()))
    assert len(quotes) > 40
    wrong = {name: f"{verdict}: {said}" for name, verdict, said in quotes}
    assert wrong == {name: claims[name] for name in wrong}


def test_every_section_asks_before_it_answers():
    numbered = re.split(r"^## (?=\d)", TEXTS[READ_ALONG].split("\n## In class\n")[0], flags=re.M)[
        1:
    ]
    assert len(numbered) == len(run_all.SECTIONS)
    for text in numbered:
        asked, answered = text.split("**Predict first.**")[1].split("<summary>Answers</summary>")
        answered = answered.split("</details>")[0]
        questions, answers = (re.findall(r"^(\d)\. \S", part, re.M) for part in (asked, answered))
        assert questions == answers and questions in (["1", "2"], ["1", "2", "3"])
        assert asked.count("?") >= len(questions) and "```" in asked and "![" in asked
        assert re.search(r"`\w+`; ", answered), "an answer is what was measured"


def test_the_minutes_of_a_class_are_those_of_the_committed_run():
    rows = re.findall(r"^\| (\d)\. .*\| (\d+) \| (\d+) \|$", TEXTS[READ_ALONG], re.M)
    order = re.findall(
        r"^## (\d)\. .*?05-preference-tuning/(\w+)\.py", TEXTS[READ_ALONG], re.M | re.S
    )
    assert [number for number, *_ in rows] == [number for number, _ in order]
    seconds = {result["script"]: result["wall_seconds"]["total"] for result in RESULTS}
    for (_, _, minutes), (_, script) in zip(rows, order, strict=True):
        measured = seconds[f"{script}.py"] / 60
        assert measured / 2 - 0.5 <= int(minutes) <= 2 * measured + 0.5, script


def test_every_figure_is_there_and_shown():
    for section in run_all.SECTIONS:
        assert f"figures/{section.name}.png" in TEXTS["README.md"]
        assert f"figures/{section.name}.png" in TEXTS[READ_ALONG]
        figure = ROOT / "figures" / f"{section.name}.png"
        assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXTS[name]):
        place = (ROOT / name).parent.joinpath(target)
        assert target.startswith("https://") or place.exists(), target


def test_every_command_is_one_that_the_scripts_take():
    """Each `python 05-preference-tuning/NAME.py FLAGS`, parsed by the script's own parser."""
    command = re.compile(
        r"^python (?:\S+launch\.py .*)?05-preference-tuning/(\w+)\.py([^#\n]*)", re.M
    )
    scripts = {section.script for section in run_all.SECTIONS}
    for text in TEXTS.values():
        for name, flags in command.findall(text):
            __import__(name).build_parser().parse_args(flags.split())
            scripts.discard(name)
    assert not scripts, "these scripts stand in no text"


def test_every_launch_is_one_that_accelerate_takes():
    from accelerate.commands.launch import launch_command_parser

    launch = re.compile(
        r"^python 05-preference-tuning/support/accelerate/launch\.py (\w+) (.*)$", re.MULTILINE
    )
    names, launches = zip(*launch.findall(TEXTS[READ_ALONG]), strict=True)
    assert names == ("ddp", "fsdp", "nodes")
    for flags in launches:
        args = launch_command_parser().parse_args(flags.split())
        assert (ROOT / args.training_script).is_file()
