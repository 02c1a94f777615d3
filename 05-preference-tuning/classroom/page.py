"""The lab as one page: label pairs, move what the formulas move, read answers, predict verdicts.

    python 05-preference-tuning/classroom/page.py            # then open outputs/lab.html
    python 05-preference-tuning/classroom/page.py --seed 1   # with other pairs to label

Everything on it was measured by the studies: today's results where a study was run (outputs/), else
those of the committed run; the page says which. What no study has measured is left out, and the
page says which command measures it. It is one file that works without network. A test holds the
closed forms of its script against the functions of the lessons.

A second or two; trains nothing. Writes outputs/lab.html.
"""

import base64
import hashlib
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lessons

import installed  # noqa: F401

import frontier
import run_all

from common import preferences as world
from common import runs
from common.answers import marks, point_name
from common.claims import name_seeds
from common.intervals import t_interval
from common.saving import check_writable, read_json, whole_file

PARTS = Path(__file__).parent
GENERATOR = "page.py of the preference-tuning lab"  # said in the head of every page
MEASURED = ("kl", "gold", "good")  # of a point
PAIRS, AGAIN = 12, 4  # pairs to label, and how many of them come twice
BROWSED = {  # whose answers can be read: the name on the page, and how the study calls its point
    "SFT model": "SFT, sft, ",
    "DPO": "DPO, 768, ",
    "DPO, five passes": "DPO, unbiased, ",
    "IPO": "IPO, ipo, ",
    "KTO": "KTO, kto, ",
    "DPO on a language model's labels": "AI labels, ai_labels, ",
    "on-policy DPO": "on-policy DPO, policy, ",
    "PPO": "PPO, 6400, ",
    f"best of {frontier.N}": "best of n, 6400, ",
    f"DPO and best of {frontier.N}": "DPO + best of n, 6400, ",
    f"best of {frontier.N}, annotators prefer long answers": "best of n, length, ",
    "DPO, annotators prefer long answers": "DPO, length, ",
    "DPO, annotators prefer an expert's tone": "DPO, style, ",
    "DPO, annotators prefer agreement": "DPO, agreement, ",
}


def read_studies(*folders: Path) -> dict[str, tuple[Path, dict]]:
    """(place, results) of every study that has any, by its name: of the first folder that does."""
    found = {}
    for name in run_all.STUDIES:
        for folder in folders:
            results = read_json(folder / "studies" / f"{name}.json")
            if results.get("runs"):
                found.setdefault(name, (folder, results))
    return found


def describe_source(found: dict[str, tuple[Path, dict]]) -> str:
    """Over which seeds the numbers are, and which of them are of your own runs, in words."""
    parts = []
    for name, (folder, results) in found.items():
        is_committed = folder.resolve() == runs.COMMITTED
        whose = "the committed run" if is_committed else f"your own run of {name}"
        parts.append(f"{name_seeds(results['seeds'])} ({whose})")
    return "; ".join(sorted(set(parts))) or "no seed yet: run_all.py --studies measures them"


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
            points += merge_points([each["points"] for each in metrics.values()])
        if "answers" in first:
            seed = next(iter(metrics)) if seed is None else seed
            kept |= {name: metrics[seed]["answers"]} if seed in metrics else {}
    prompts = min((answers["prompts"] for answers in kept.values()), key=len, default=[])
    count, joined = len(prompts), {"prompts": prompts, "texts": {}, "rewards": {}, "pools": []}
    for name, answers in kept.items():
        if answers["prompts"][:count] != prompts:
            remedy = f"python 05-preference-tuning/studies/{name}.py makes it again"
            reason = f"{name}.json has answers to other prompts than the other studies; {remedy}"
            raise runs.UserError(reason)
        joined["texts"] |= {point: texts[:count] for point, texts in answers["texts"].items()}
        joined["rewards"] |= answers["rewards"]
        joined["pools"] += answers.get("pools", [])
    return points, joined


def merge_points(seeds: list[list[dict]]) -> list[dict]:
    """The same points of every seed as one, KL, gold and good answers with their intervals."""
    merged = []
    for same in zip(*seeds, strict=True):
        known = [name for name in MEASURED if name in same[0]]
        measured = {name: t_interval([point[name] for point in same]) for name in known}
        merged.append({**same[0], **measured})
    return merged


def label_task(seed: int) -> dict:
    """Pairs to label, and the trials: which pair, and whether its sides are exchanged.

    Each combination of two styles comes once. The last trials hold pairs that were seen before, now
    with the sides exchanged; in half of all trials the better answer is on the left, ties aside.
    """
    rng = random.Random(f"to label {seed}")
    by_styles: dict[frozenset, dict] = {}
    for row in world.make_pairs(600, "test", seed=seed):
        by_styles.setdefault(frozenset((row["chosen_style"], row["rejected_style"])), row)
    pairs = [pair_to_label(row) for row in list(by_styles.values())[:PAIRS]]
    rng.shuffle(pairs)
    # In the first one a person can prefer without knowing the fact: both are right.
    first = next((k for k, pair in enumerate(pairs) if can_be_preferred(pair)), 0)
    pairs.insert(0, pairs.pop(first))
    exchanged = []
    for count in (AGAIN, PAIRS - AGAIN):
        flags = [k % 2 == 0 for k in range(count)]
        rng.shuffle(flags)
        exchanged += flags
    first = [{"pair": k, "exchanged": flag} for k, flag in enumerate(exchanged)]
    again = [{**trial, "exchanged": not trial["exchanged"]} for trial in first[:AGAIN]]
    late = first[PAIRS - AGAIN :] + again
    rng.shuffle(late)
    return {"pairs": pairs, "trials": first[: PAIRS - AGAIN] + late}


def can_be_preferred(pair: dict) -> bool:
    """Whether both answers are right and only one of them has filler."""
    readings = [world.read_response(pair["prompt"], text) for text in pair["texts"]]
    return all(r.correct for r in readings) and sum(r.filler_words > 0 for r in readings) == 1


def pair_to_label(row: dict) -> dict:
    """Both answers, the better one by gold first, with what each group of annotators feels."""
    prompt, texts = row["prompt"], [row[side] for side in world.SIDES]
    texts.sort(key=lambda text: -world.gold_utility(prompt, text))
    utilities = {}
    for group in ("human", *world.BIASES):
        felt = (world.annotator_utility(prompt, text, group) for text in texts)
        utilities[group] = [round(utility, 2) for utility in felt]
    fact = world.all_questions()[prompt].answer
    return {"prompt": prompt, "texts": texts, "utilities": utilities, "fact": fact}


def answer_table(prompts: list[str], texts: dict[str, list[str]]) -> tuple[list, dict]:
    """(rows, places): every distinct answer once, and where those of each point stand in the rows.

    A row is [text, gold utility, 1 if good, marks]; `texts` are the answers of each point.
    """
    rows, places = {}, {}
    for name, answers in texts.items():
        keys = list(zip(prompts, answers, strict=True))
        for prompt, text in keys:
            if (prompt, text) not in rows:
                good = int(world.read_response(prompt, text).good)
                gold = round(world.gold_utility(prompt, text), 2)
                rows[prompt, text] = [text, gold, good, marks(prompt, text).strip(" []")]
        places[name] = keys
    row_of = {key: place for place, key in enumerate(rows)}
    return list(rows.values()), {name: [row_of[k] for k in keys] for name, keys in places.items()}


def policies_to_browse(texts: dict[str, list[str]]) -> list[dict]:
    """Whose answers can be browsed: the name on the page, what it is, and whose answers it has.

    SFT's come first, since the others are compared with them; without them there are none.
    """
    listed = []
    for name, start in BROWSED.items():
        known = [key for key in texts if key.startswith(start)]
        of_n = [key for key in known if key.endswith(f"n = {frontier.N}")]
        for key in (of_n or known)[-1:]:
            listed.append({"name": name, "about": key.removeprefix(start), "answers": key})
    return listed if listed and listed[0]["name"] == "SFT model" else []


def points_for_page(points: list[dict], places: dict) -> list[dict]:
    """Points of KL and gold with the name of their answers, where the study kept any."""
    rows = []
    for point in points:
        if point["method"] != "optimum":
            name = point_name(point)
            rows.append({**point, "answers": name if name in places else None})
    return rows


def gather(found: dict, seed: int) -> dict:
    """All that the page shows, ready for JSON."""
    points, answers = collect_metrics(found)
    rows, places = answer_table(answers["prompts"], answers["texts"])
    for pool in answers["pools"]:
        pool["marks"] = [marks(pool["prompt"], text).strip(" []") for text in pool["texts"]]
    claims = []
    for name, (_, results) in found.items():
        study = run_all.title_of(run_all.HERE / "studies" / f"{name}.py").split(":")[0]
        claims += [{**claim, "study": study} for claim in results["claims"]]
    has_limit = any(point["method"] == "optimum" for point in points)
    means = [
        {**point, "kl": point["kl"]["mean"], "gold": point["gold"]["mean"]} for point in points
    ]
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
        "limit": frontier.limit_curve(means) if has_limit else [],
        "claims": claims,
    }


def fill_template(data: dict) -> str:
    """One HTML file of template, style, script and data; the browser is told to load nothing.

    The policy of the page (Content-Security-Policy) allows this one script, by its hash.
    """
    names = ("template.html", "style.css", "page.js")
    template, style, script = ((PARTS / name).read_text(encoding="utf-8") for name in names)
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


def main(argv: list[str] | None = None) -> Path:
    """Read what was measured and write the page; returns its path."""
    parser = runs.OneLineParser("page.py", description=__doc__)
    parser.add_argument("--seed", type=runs.whole_number(0), default=0, help="of pairs to label")
    where = "your results are read here, and the page is written; default: outputs"
    parser.add_argument("--output-dir", type=runs.folder, default=Path("outputs"), help=where)
    args = parser.parse_args(argv)
    path = args.output_dir / ("lab.html" if args.seed == 0 else f"lab-seed-{args.seed}.html")
    check_writable(args.output_dir)
    if path.exists() and not (path.is_file() and GENERATOR.encode() in path.read_bytes()[:1000]):
        remedy = "move it, or choose another folder with --output-dir"
        raise runs.UserError(f"{path} was not written by the lab, so it is not replaced; {remedy}")
    found = read_studies(args.output_dir, runs.COMMITTED)
    with whole_file(path) as temporary:
        temporary.write_text(fill_template(gather(found, args.seed)), encoding="utf-8")
    print(f"{len(found)} studies, measured over {describe_source(found)}")
    print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB); open it in a browser")
    return path


if __name__ == "__main__":
    runs.run(main)
