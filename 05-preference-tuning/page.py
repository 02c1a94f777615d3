"""The lab as one page: label pairs, move what the formulas move, read answers, predict verdicts.

    python 05-preference-tuning/page.py            # then open outputs/lab.html with a double click
    python 05-preference-tuning/page.py --seed 1   # of the run with this seed, and other pairs

Everything on it was measured: by today's runs where their results are in outputs/, else by the
committed run in figures/. It is one file that works without network: a browser may open it from a
disk, and a teacher may mail it. Template, style and script are in support/page/; the closed forms
that the script computes are tested against the functions of the sections.

A few seconds; the first time a reward model is trained, so that every answer has a reward. Writes
outputs/lab.html.
"""

import argparse
import base64
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from support.answers import hacked_points, point_name
from support.page_data import (
    answer_table,
    claims_for_page,
    label_task,
    points_for_page,
    pools_for_page,
)
from support.trained import find_trained

import frontier
import reward_hacking
import reward_model
from run_all import SECTIONS

from common import cli
from common.models import load_reward_model
from common.reporting import COMMITTED, name_seeds, read_results, replacing
from common.scoring import score_responses

PARTS = Path(__file__).parent / "support" / "page"
GENERATOR = "page.py of the preference-tuning lab"  # said in the head of every page
ANSWERED = ("dpo_training", "dpo_variants", "online_rl", "best_of_n", "reward_hacking")
# Whose answers can be browsed: the name on the page, and method and series of the point.
BROWSED = (
    ("SFT", "SFT", "sft"),
    ("DPO", "DPO", "default"),
    ("too much DPO", "DPO", "unbiased"),
    ("IPO", "IPO", "ipo"),
    ("KTO", "KTO", "kto"),
    ("DPO on AI labels", "AI labels", "ai_labels"),
    ("on-policy DPO", "on-policy DPO", "policy"),
    ("online RL", "online RL", "default"),
    (f"best of {frontier.N}", "best of n", "human"),
    (f"DPO and best of {frontier.N}", "DPO + best of n", "human"),
    ("online RL, loves length", "online RL", "biased"),
    ("online RL, loves length, no KL term", "online RL", "biased_no_kl"),
)


# --- 1. What was measured ---


def read_sections(folder: Path, changed: dict) -> dict[str, dict]:
    """The results of every script by name: of this folder's run, or else of the committed one.

    `changed` are the flags of the run that differ from the defaults.
    """
    sections = {}
    for section in SECTIONS:
        results = read_results(folder / f"{cli.name_run(section.name, changed)}.json")
        if results["metrics"] is None:
            results = read_results(COMMITTED / f"{section.name}.json")
        sections[section.name] = results
    return sections


def collect_answers(sections: dict[str, dict]) -> tuple[list[str], dict, dict]:
    """(prompts, texts, rewards) of all runs that kept answers, by the name of the point.

    Answers to fewer prompts than another run had (--smoke) shorten all. Raises UserError where a
    run asked other prompts.
    """
    kept = {name: sections[name]["answers"] for name in ANSWERED if "answers" in sections[name]}
    if not kept:
        return [], {}, {}
    prompts = min((answers["prompts"] for answers in kept.values()), key=len)
    texts, rewards = {}, {}
    for name, answers in kept.items():
        if answers["prompts"][: len(prompts)] != prompts:
            reason = f"{name}.json has answers to other prompts than the other results"
            raise cli.UserError(f"{reason}; run {sections[name]['script']} again")
        texts |= answers["texts"]
        rewards |= answers["rewards"]
    texts = {name: answers[: len(prompts)] for name, answers in texts.items()}
    return prompts, texts, rewards


def policies(points: list[dict], texts: dict[str, list[str]]) -> list[dict]:
    """Whose answers can be browsed: the name on the page, what it is, and whose answers it has.

    SFT's come first, since the others are compared with them; without them there are none.
    """
    rows = []
    for name, method, series in BROWSED:
        run = frontier.points_of(points, method, series)
        if run:
            rows.append((name, frontier.stands_for(frontier.Method(method, series), points)))
    for point in hacked_points(reward_hacking.HACKS):
        rows.append((f"DPO, hacked: {point['label']}", point))
    listed = []
    for name, point in rows:
        answers = point_name(point)
        if answers in texts:
            listed.append({"name": name, "about": point["label"], "answers": answers})
    has_base = bool(listed) and listed[0]["name"] == BROWSED[0][0]
    return listed if has_base else []


# --- 2. The page ---


def gather(
    sections: dict[str, dict], points: list[dict], seed: int, score: Callable | None
) -> dict:
    """All that the page shows, ready for JSON; without `score` answers have no reward."""
    prompts, texts, rewards = collect_answers(sections)
    rows, places = answer_table(prompts, texts, score)
    measured = frontier.study(points)
    claims = []
    for section in SECTIONS:
        claims += claims_for_page(section.title, sections[section.name])
    pools = sections["best_of_n"].get("answers", {}).get("pools", [])
    return {
        "source": describe_source(sections),
        "label": label_task(seed),
        "pools": pools_for_page(pools),
        "prompts": prompts,
        "answers": rows,
        "places": places,
        "rewards": {name: rewards[name] for name in rewards if name in places},
        "policies": policies(points, texts),
        "points": points_for_page(measured["points"], places),
        "limit": measured["limit"],
        "claims": claims,
    }


def describe_source(sections: dict[str, dict]) -> str:
    """Over which seeds the numbers are, in words; several where runs differ."""
    seeds = []
    for results in sections.values():
        settings = results["settings"]
        if settings:
            seeds.append(name_seeds(settings.get("seeds", [settings["seed"]])))
    return " and ".join(dict.fromkeys(seeds))


def fill_template(data: dict) -> str:
    """One HTML file of template, style, script and data; the browser is told to load nothing.

    The policy of the page (Content-Security-Policy) allows this one script, by its hash.
    """
    template, style, script = (
        (PARTS / name).read_text(encoding="utf-8")
        for name in ("template.html", "style.css", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    parts = {
        "{{generator}}": GENERATOR,
        "{{hash}}": f"sha256-{digest}",
        "{{style}}": style,
        "{{script}}": script,
        "{{data}}": text.replace("<", "\\u003c"),  # no text may end the element that it stands in
    }
    for place, part in parts.items():
        before, after = template.split(place)
        template = before + part + after
    return template


def check_page(path: Path) -> None:
    """Raise UserError where a file stands that page.py did not write: it is not replaced."""
    if path.exists() and not (path.is_file() and GENERATOR.encode() in path.read_bytes()[:1000]):
        remedy = "move it, or choose another folder with --figures-dir"
        raise cli.UserError(f"{path} was not written by the lab, so it is not replaced; {remedy}")


def load_scorer(seed: int, smoke: bool, output_dir: Path, device: str) -> Callable:
    """What gives rewards to answers: the reward model of people's labels, found or trained."""
    cli.quiet_libraries()
    settings = {"model": "tiny-distilbert", "dataset": None, "seed": seed, "smoke": smoke}
    device = cli.init_compute(device)
    machine = {"output_dir": output_dir, "device": device}
    trained = find_trained("reward model", reward_model.tune, **settings, **machine)
    return partial(score_responses, *load_reward_model(str(trained), device))


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = cli.bare_parser(__file__, __doc__)
    seed = cli.whole_number(0)
    parser.add_argument("--seed", type=seed, default=0, help="of the run, and of pairs to label")
    default, trained = Path("outputs"), "what was trained is looked for here"
    parser.add_argument("--output-dir", type=cli.folder, default=default, help=trained)
    results = "results are read here, and the page is written; default: --output-dir"
    parser.add_argument("--figures-dir", type=cli.folder, help=results)
    parser.add_argument("--smoke", action="store_true", help="the page of a run with --smoke")
    devices = ("auto", "cuda", "mps", "cpu")
    parser.add_argument("--device", default="auto", choices=devices, help="where to score answers")
    return parser


def main(argv: list[str] | None = None) -> Path:
    """Read what was measured, score the answers, write the page; returns its path."""
    args = build_parser().parse_args(argv)
    folder = args.figures_dir or args.output_dir
    run = {"seed": args.seed, "smoke": args.smoke}
    changed = {flag: value for flag, value in run.items() if value}
    path = folder / f"{cli.name_run('lab', changed)}.html"
    cli.check_writable(folder, args.output_dir)
    check_page(path)
    sections = read_sections(folder, changed)
    points, _ = frontier.collect(args.seed, folder, args.smoke)
    score = None
    if collect_answers(sections)[0]:
        score = load_scorer(**run, output_dir=args.output_dir, device=args.device)
    data = gather(sections, points, args.seed, score)
    with replacing(path) as temporary:
        temporary.write_text(fill_template(data), encoding="utf-8")
    print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB); open it in a browser")
    return path


if __name__ == "__main__":
    cli.run(main)
