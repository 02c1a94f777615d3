"""The lab as one page: label pairs, move what the formulas move, read answers, predict verdicts.

    python 05-preference-tuning/classroom/page.py            # then open outputs/lab.html
    python 05-preference-tuning/classroom/page.py --seed 1   # with other pairs to label

Everything on it was measured by the studies: today's results where a study was run (outputs/), else
those of the committed run; the page says which. What no study has measured is left out, and the
page says which command measures it. It is one file that works without network: a browser may open
it from a disk, and a teacher may mail it. The closed forms that its script computes are tested
against the functions of the lessons.

A second or two; trains nothing. Writes outputs/lab.html.
"""

import base64
import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

from common import runs
from common.answers import marks, point_name
from common.claims import LESSONS, name_seeds

# isort: split

import frontier
from run_all import title_of

from common.intervals import over_seeds
from common.preferences import (
    BIASES,
    SIDES,
    all_questions,
    annotator_utility,
    gold_utility,
    make_pairs,
    read_response,
)
from common.saving import check_writable, read_json, whole_file

PARTS = Path(__file__).parent
GENERATOR = "page.py of the preference-tuning lab"  # said in the head of every page
ORDER = (  # of the studies, as the tutorial goes; others come last
    *("pairs_or_scores", "what_a_reward_model_absorbs", "reward_model_data_and_start"),
    *("ppo_on_a_bandit", "what_dpo_does", "too_much_dpo", "on_policy_pairs"),
    *("ties_noise_and_margins", "label_quality", "rl_beside_dpo", "best_of_n_and_the_limit"),
    *("three_hacks", "remedies"),
)
PAIRS, AGAIN = 12, 4  # pairs to label, and how many of them come twice
# Whose answers can be browsed: the name on the page, and method and series of the study's point.
BROWSED = {
    "SFT model": ("SFT", "sft"),
    "DPO": ("DPO", "default"),
    "DPO, five passes": ("DPO", "unbiased"),
    "IPO": ("IPO", "ipo"),
    "KTO": ("KTO", "kto"),
    "DPO on a language model's labels": ("AI labels", "ai_labels"),
    "on-policy DPO": ("on-policy DPO", "policy"),
    "online RL": ("online RL", "default"),
    f"best of {frontier.N}": ("best of n", "human"),
    f"DPO and best of {frontier.N}": ("DPO + best of n", "human"),
    f"best of {frontier.N}, annotators prefer long answers": ("best of n", "length"),
    "online RL, annotators prefer long answers": ("online RL", "biased"),
    "online RL, the same without a KL term": ("online RL", "biased_no_kl"),
    "DPO, annotators prefer long answers": ("DPO", "length"),
    "DPO, annotators prefer an expert's tone": ("DPO", "style"),
    "DPO, annotators prefer agreement": ("DPO", "agreement"),
}

# --- 1. What was measured ---


def read_studies(*folders: Path) -> dict[str, tuple[Path, dict]]:
    """(place, results) of every study that has any, by its name: of the first folder that does."""
    found = {}
    names = {path.stem for path in (LESSONS / "studies").glob("*.py")} - {"__init__"}
    for name in sorted(names, key=lambda name: ((*ORDER, name).index(name), name)):
        for folder in folders:
            results = read_json(folder / "studies" / f"{name}.json")
            if results.get("runs"):
                found[name] = folder, results
                break
    return found


def describe_source(found: dict[str, tuple[Path, dict]]) -> str:
    """Over which seeds the numbers are, and which of them are of your own runs, in words."""
    committed, own = {}, {}
    for name, (folder, results) in found.items():
        group = committed if folder.resolve() == runs.COMMITTED else own
        group.setdefault(name_seeds(results["seeds"]), []).append(name)
    parts = [f"{seeds} (the committed run)" for seeds in committed]
    parts += [f"{seeds} (your own run of {', '.join(names)})" for seeds, names in own.items()]
    return "; ".join(parts) or "no seed yet: run_all.py --studies measures them"


def collect_metrics(found: dict) -> tuple[list[dict], dict]:
    """(points, answers) of all studies: points of KL and gold over seeds, answers of one seed.

    With one seed the SFT model's answers are the same in every study, so that the others can be
    compared with them. Answers to fewer prompts than another study had (--smoke) shorten all.
    Raises UserError where a study asked other prompts.
    """
    points, kept, seed = [], {}, None
    for name, (_, results) in found.items():
        metrics = {run["seed"]: run["metrics"] for run in results["runs"]}
        first = next(iter(metrics.values()))
        if "points" in first:
            points += over_seeds([each["points"] for each in metrics.values()])
        if "answers" in first:
            seed = next(iter(metrics)) if seed is None else seed
            kept |= {name: metrics[seed]["answers"]} if seed in metrics else {}
    prompts = min((answers["prompts"] for answers in kept.values()), key=len, default=[])
    count, joined = len(prompts), {"texts": {}, "rewards": {}, "pools": []}
    for name, answers in kept.items():
        if answers["prompts"][:count] != prompts:
            reason = f"{name}.json has answers to other prompts than the other studies"
            command = f"python 05-preference-tuning/studies/{name}.py"
            raise runs.UserError(f"{reason}; {command} makes it again")
        joined["texts"] |= {point: texts[:count] for point, texts in answers["texts"].items()}
        joined["rewards"] |= answers["rewards"]
        joined["pools"] += answers.get("pools", [])
    return points, {"prompts": prompts, **joined}


def claims_for_page(found: dict) -> list[dict]:
    """The judged claims of all studies."""
    keys = ("id", "says", "measured", "true", "mean", "ci95", "verdict", "by_seed", "published")
    claims = []
    for name, (_, results) in found.items():
        study = title_of(LESSONS / "studies" / f"{name}.py").split(":")[0]
        for claim in results["claims"]:
            claims.append({key: claim.get(key) for key in keys} | {"study": study})
    return claims


# --- 2. Label ---


def label_task(seed: int) -> dict:
    """Pairs to label, and the trials: which pair, and whether its sides are exchanged.

    Each combination of two styles comes once. The last trials hold pairs that were seen before, now
    with the sides exchanged; in half of all trials the better answer is on the left, ties aside.
    """
    rng = random.Random(f"to label {seed}")
    by_styles: dict[frozenset, dict] = {}
    for row in make_pairs(600, "test", seed=seed):
        by_styles.setdefault(frozenset((row["chosen_style"], row["rejected_style"])), row)
    pairs = [pair_to_label(row) for row in list(by_styles.values())[:PAIRS]]
    rng.shuffle(pairs)
    exchanged = balanced_flags(AGAIN, rng) + balanced_flags(PAIRS - AGAIN, rng)
    first = [{"pair": k, "exchanged": flag} for k, flag in enumerate(exchanged)]
    again = [{**trial, "exchanged": not trial["exchanged"]} for trial in first[:AGAIN]]
    late = first[PAIRS - AGAIN :] + again
    rng.shuffle(late)
    return {"pairs": pairs, "trials": first[: PAIRS - AGAIN] + late}


def balanced_flags(count: int, rng: random.Random) -> list[bool]:
    """As many True as False, in random order."""
    flags = [k % 2 == 0 for k in range(count)]
    rng.shuffle(flags)
    return flags


def pair_to_label(row: dict) -> dict:
    """Both answers, the better one by gold first, with what each group of annotators feels."""
    prompt = row["prompt"]
    texts = sorted((row[side] for side in SIDES), key=lambda text: -gold_utility(prompt, text))
    utilities = {}
    for group in ("human", *BIASES):
        utilities[group] = [round(annotator_utility(prompt, text, group), 2) for text in texts]
    fact = all_questions()[prompt].answer
    return {"prompt": prompt, "texts": texts, "utilities": utilities, "fact": fact}


# --- 3. Answers, points and pools, as the page shows them ---


def answer_table(prompts: Sequence[str], texts: dict[str, list[str]]) -> tuple[list, dict]:
    """(rows, places): every distinct answer once, and where those of each point stand in the rows.

    A row is [text, gold utility, 1 if good, marks]; `texts` are the answers of each point.
    """
    rows, row_of, places = [], {}, {}
    for name, answers in texts.items():
        for prompt, text in zip(prompts, answers, strict=True):
            if (prompt, text) not in row_of:
                row_of[prompt, text] = len(rows)
                good = int(read_response(prompt, text).good)
                gold = round(gold_utility(prompt, text), 2)
                rows.append([text, gold, good, mark_in_words(prompt, text)])
        places[name] = [row_of[key] for key in zip(prompts, answers, strict=True)]
    return rows, places


def mark_in_words(prompt: str, text: str) -> str:
    return marks(prompt, text).strip(" []").replace("1 words", "1 word")


def policies_to_browse(texts: dict[str, list[str]]) -> list[dict]:
    """Whose answers can be browsed: the name on the page, what it is, and whose answers it has.

    SFT's come first, since the others are compared with them; without them there are none.
    """
    listed = []
    for name, (method, series) in BROWSED.items():
        start = f"{method}, {series}, "
        names = [known for known in texts if known.startswith(start)]
        chosen = [known for known in names if known.endswith(f"n = {frontier.N}")] or names[-1:]
        for known in chosen[:1]:
            about = {"name": name, "about": known.removeprefix(start)}
            listed.append({**about, "answers": known})
    has_base = bool(listed) and listed[0]["name"] == next(iter(BROWSED))
    return listed if has_base else []


def points_for_page(points: Sequence[dict], places: dict[str, list[int]]) -> list[dict]:
    """Points of KL and gold with the name of their answers, where the study kept any."""
    rows = []
    for point in points:
        if point["method"] != "optimum":
            name = point_name(point)
            about = ("method", "series", "label", "biased", "annotations")
            row = {key: point[key] for key in about}
            row |= {key: rounded_quantity(point[key]) for key in ("kl", "gold", "good")}
            rows.append({**row, "answers": name if name in places else None})
    return rows


def rounded_quantity(measured: dict) -> dict:
    """Mean and interval, rounded as a page needs them."""
    ci95 = measured["ci95"] and [round(end, 4) for end in measured["ci95"]]
    return {"mean": round(measured["mean"], 4), "ci95": ci95}


# --- 4. The page ---


def gather(found: dict, seed: int) -> dict:
    """All that the page shows, ready for JSON."""
    points, answers = collect_metrics(found)
    rows, places = answer_table(answers["prompts"], answers["texts"])
    for pool in answers["pools"]:
        pool["marks"] = [mark_in_words(pool["prompt"], text) for text in pool["texts"]]
    has_limit = any(point["method"] == "optimum" for point in points)
    return {
        "source": describe_source(found),
        "label": label_task(seed),
        "pools": answers["pools"],
        "prompts": answers["prompts"],
        "answers": rows,
        "places": places,
        "rewards": answers["rewards"],
        "policies": policies_to_browse(answers["texts"]),
        "points": points_for_page(points, places),
        "limit": frontier.limit_curve(points) if has_limit else [],
        "claims": claims_for_page(found),
    }


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
        remedy = "move it, or choose another folder with --output-dir"
        raise runs.UserError(f"{path} was not written by the lab, so it is not replaced; {remedy}")


# --- Main ---


def main(argv: list[str] | None = None) -> Path:
    """Read what was measured and write the page; returns its path."""
    parser = runs.OneLineParser("page.py", description=__doc__)
    parser.add_argument("--seed", type=runs.whole_number(0), default=0, help="of pairs to label")
    where = "your results are read here, and the page is written; default: outputs"
    parser.add_argument("--output-dir", type=runs.folder, default=Path("outputs"), help=where)
    committed = "the page of the committed run, into figures/"
    parser.add_argument("--committed", action="store_true", help=committed)
    args = parser.parse_args(argv)
    folder = runs.COMMITTED if args.committed else args.output_dir
    path = folder / ("lab.html" if args.seed == 0 else f"lab-seed-{args.seed}.html")
    check_writable(folder)
    check_page(path)
    found = read_studies(folder, runs.COMMITTED)
    with whole_file(path) as temporary:
        temporary.write_text(fill_template(gather(found, args.seed)), encoding="utf-8")
    print(f"{len(found)} studies, measured over {describe_source(found)}")
    print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB); open it in a browser")
    return path


if __name__ == "__main__":
    runs.run(main)
