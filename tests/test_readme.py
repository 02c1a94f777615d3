"""The README promises only what the committed run over three seeds gave."""

import json
import re
from pathlib import Path

import pytest
import run_all

ROOT = Path(__file__).parents[1]
READMES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "05-preference-tuning/README.md")}
CLAIMS = json.loads((ROOT / "figures" / "claims.json").read_text(encoding="utf-8"))["claims"]


@pytest.mark.parametrize("table", ["claims.md", "headlines.md"])
def test_the_tables_are_those_of_the_committed_run(table):
    assert (ROOT / "figures" / table).read_text(encoding="utf-8") in READMES["README.md"]


def test_the_table_of_speed_is_that_of_the_committed_benchmark():
    assert (ROOT / "benchmarks" / "results.md").read_text(encoding="utf-8").strip() in READMES["README.md"]
    rows = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))["rows"]
    assert all(row["what"] in READMES["README.md"] for row in rows)


def test_the_table_of_claims_is_that_of_the_claims():
    assert (ROOT / "figures" / "claims.md").read_text(encoding="utf-8") == run_all.claims_table(CLAIMS)
    assert all(len(claim["runs"]) >= 3 and claim["predicted"] for claim in CLAIMS)
    assert len({claim["id"] for claim in CLAIMS}) == len(CLAIMS)


def test_every_claim_that_does_not_hold_is_explained():
    explained = READMES["05-preference-tuning/README.md"]
    for claim in CLAIMS:
        assert claim["verdict"] == "holds" or f"`{claim['id']}`" in explained, claim["id"]


def test_every_figure_is_there_and_shown():
    for _, _, name, _ in run_all.SCRIPTS:
        assert all(f"figures/{name}.png" in text for text in READMES.values())
        assert (ROOT / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", READMES)
def test_every_link_leads_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", READMES[name]):
        assert target.startswith("https://") or (ROOT / name).parent.joinpath(target).exists(), target


def test_every_command_is_one_that_the_scripts_take():
    """Each `python 05-preference-tuning/NAME.py FLAGS` of the two texts, parsed by the script's own parser."""
    for text in READMES.values():
        for name, flags in re.findall(r"^(?:python|accelerate.*?) 05-preference-tuning/(\w+)\.py([^#\n]*)", text, re.M):
            __import__(name).build_parser().parse_args(flags.split())


def test_every_launch_is_one_that_accelerate_takes():
    from accelerate.commands.launch import launch_command_parser

    launches = re.findall(r"^accelerate launch (.*)$", READMES["05-preference-tuning/README.md"], re.MULTILINE)
    parsed = [launch_command_parser().parse_args(launch.split()) for launch in launches]
    assert [Path(args.config_file).stem for args in parsed] == ["ddp", "fsdp", "nodes"]
    assert all((ROOT / args.config_file).is_file() and (ROOT / args.training_script).is_file() for args in parsed)
