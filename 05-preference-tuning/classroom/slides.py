"""A talk of 45 minutes in one file: slides.html, with every figure as an appendix.

    python 05-preference-tuning/classroom/slides.py       # or: make slides

Takes the results of today's runs where there are any (outputs/), else those of the committed run,
and trains nothing. Writes outputs/slides/: slides.html, which needs no network, and the PNGs of all
figures. In a browser the arrow keys turn the slides and N shows the speaker's notes; printed, each
slide is a page with its notes. What has no results yet is left out, and named.

What is said stands in talk.json: of each slide the title, minutes, lines, notes, a question to ask.
A few seconds.
"""

import ast
import base64
import hashlib
import io
import json
import re
import shutil
import sys
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lessons

import installed  # noqa: F401

import best_of_n
import dpo_trainer
import frontier
import preference_data_explorer
import reward_hacking
import reward_model
import rlhf_objectives
import run_all

from common import figures, preferences, runs
from common.answers import marks
from common.claims import name_seeds
from common.intervals import interval
from common.saving import check_writable, read_json, whole_file

TALK = Path(__file__).parent
BRADLEY_TERRY = r"$P(y_w \succ y_l) = \sigma(r_w - r_l)\qquad$loss$\,= -\log \sigma(r_w - r_l)$"
OBJECTIVE = r"maximise$\quad \mathrm{E}\left[r(x, y)\right] - \beta\,\mathrm{KL}(\pi, \pi_{ref})$"
DPO_LOSS = r"loss$\,= -\log \sigma\left(\beta \log\frac{\pi(y_w)}{\pi_{ref}(y_w)}"
DPO_LOSS += r" - \beta \log\frac{\pi(y_l)}{\pi_{ref}(y_l)}\right)$"

# --- Pictures: panels of the lessons, drawn from what the runs have measured ---


def blank(panels: int = 1, formula: str = "", height: float = 3.7):
    """(figure, axes) for one slide, with a formula above."""
    figure, axes = figures.new_figure(1, panels, "", height)
    figure.suptitle(formula, x=0.5, ha="center", fontsize=17, parse_math=True)
    return figure, axes


def cards(results: dict):
    figure, (ax,) = blank()
    preference_data_explorer.cards_panel(ax, results["preference_data"]["example"])
    return figure


def bradley_terry(results: dict):
    figure, (left, right) = blank(2, BRADLEY_TERRY)
    model = results["reward_model"]
    reward_model.reward_loss_panel(left, model["loss"], model["after"]["limits"])
    reward_hacking.bias_panel(right, results["reward_hacking"]["bias"])
    right.set_title("How often the longer answer wins")
    return figure


def objective(results: dict):
    figure, (ax,) = blank(1, OBJECTIVE)
    rlhf_objectives.memory_panel(ax, results["ppo_objectives"]["memory"], 7)
    return figure


def dpo_formula(results: dict):
    figure, (ax,) = blank(1, height=1.6)
    ax.text(0.5, 0.5, DPO_LOSS, ha="center", va="center", fontsize=24)
    ax.axis("off")
    return figure


def kinds(results: dict):
    figure, (ax,) = blank()
    figure.set_size_inches(4.8, 4.3)  # the answers stand beside it
    dpo_trainer.kinds_panel(ax, results["dpo_training"]["looks"])
    return figure


def sides(results: dict):
    figure, (left, right) = blank(2)
    dpo_trainer.log_panel(left, results["dpo_training"]["training"])
    dpo_trainer.sides_panel(right, results["dpo_training"]["looks"])
    return figure


def five_passes(results: dict):
    figure, axes = blank(2)
    arms = {"unbiased": "Unbiased annotators", "biased": "Annotators who prefer long answers"}
    for ax, (arm, title) in zip(axes, arms.items(), strict=True):
        curve = results["too_much_dpo"]["arms"][arm]["curve"]
        dpo_trainer.kinds_panel(ax, [{**look, "step": look["epoch"]} for look in curve])
        ax.set(title=title, xlabel="passes over the pairs")
    return figure


def candidates(results: dict):
    figure, (left, right) = blank(2)
    lines = {"gold": figures.GOLD, "reward": "reward: what chooses"}
    title, found = "The chosen answer by n", results["best_of_n"]
    best_of_n.by_n_panel(left, found["curve"], lines, title, "log-odds")
    best_of_n.methods_panel(right, found["methods"])
    return figure


def hacking(results: dict):
    figure, (ax,) = blank()
    reward_hacking.gains_panel(ax, results["reward_hacking"])
    return figure


def remedies(results: dict):
    figure, (ax,) = blank()
    reward_hacking.remedies_panel(ax, results["reward_hacking"]["remedies"])
    return figure


def planes(results: dict):
    figure, axes = blank(2)
    found = results["frontier"]
    for ax, budget in zip(axes, frontier.BUDGETS, strict=True):
        points = [point for point in found["points"] if frontier.budget_of(point) == budget]
        frontier.plane_of_methods(ax, points, found["limit"])
        ax.set(title=f"{budget:,} labelled pairs", xlabel="measured KL from the SFT model (nats)")
    named = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(named.values(), named, loc="outside lower center", ncols=4)
    return figure


PICTURES = (
    *(cards, bradley_terry, objective, dpo_formula, kinds, sides, five_passes, candidates, hacking),
    *(remedies, planes),
)

# --- Answers: texts that the runs have sampled ---


def table_of_answers(prompt: str, rows: list[tuple]) -> str:
    """HTML: a question, and rows of (what, answer, number) with the marks of the gold standard."""
    cells = [f"<p class=question>{escape(prompt)}</p><table>"]
    for what, text, number in rows:
        told = escape(text) + f"<em>{escape(marks(prompt, text).strip(' []'))}</em>"
        cells.append(f"<tr><th>{escape(what)}</th><td>{told}</td><td>{escape(number)}</td></tr>")
    return "".join([*cells, "</table>"])


def world_answers(results: dict) -> str:
    """The styles of answers to one question of the world, with their gold utility."""
    prompt = "What is the capital of Cuba? My guess is Oslo."
    rows = []
    for text in (
        "It is Havana.",
        "It is Havana. It is one of those things that everybody should know.",
        "I agree, Oslo it is.",
        "The author of Candide is Voltaire.",
    ):
        rows.append(("", text, f"{preferences.gold_utility(prompt, text):.2f}"))
    return table_of_answers(prompt, rows)


def before_and_after(results: dict) -> str:
    """Two questions with an answer before and after DPO: one mended, one still wrong."""
    kept = results["too_much_dpo"]["answers"]
    sft, dpo = texts_of(kept, "SFT, sft, "), texts_of(kept, "DPO, default, ")
    rows = list(zip(kept["prompts"], sft, dpo, strict=True))
    gold = preferences.gold_utility
    mended = (row for row in rows if gold(row[0], row[1]) < 3 and gold(row[0], row[2]) == 4)
    wrong = (row for row in rows if gold(row[0], row[2]) <= 1)
    shown = [next(mended, None), next(wrong, None)]
    return "".join(
        table_of_answers(row[0], [("before", row[1], ""), ("after", row[2], "")])
        for row in filter(None, shown)
    )


def hacked_answer(results: dict) -> str:
    """The answer whose reward rose most while gold utility fell, by DPO on biased labels."""
    too_much, kept = results["too_much_dpo"]["answers"], results["three_hacks"]["answers"]
    before, worst = texts_of(too_much, "SFT, sft, "), None
    for name, texts in kept["texts"].items():
        rewards = kept["rewards"][name]
        for k, (prompt, text) in enumerate(zip(kept["prompts"], texts, strict=True)):
            rise = rewards["after"][k] - rewards["before"][k]
            fall = preferences.gold_utility(prompt, before[k])
            fall -= preferences.gold_utility(prompt, text)
            if rise > 0.5 and fall > 0 and (worst is None or rise + fall > worst[0]):
                worst = rise + fall, prompt, (before[k], text), rewards, k
    _, prompt, texts, rewards, k = worst
    rows = []
    for when, text in zip(("before", "after"), texts, strict=True):
        gold = preferences.gold_utility(prompt, text)
        rows.append((when, text, f"reward {rewards[when][k]:.1f}, gold utility {gold:.2f}"))
    return table_of_answers(prompt, rows)


def texts_of(kept: dict, start: str) -> list[str]:
    """The answers of the first policy whose name starts so."""
    return next(texts for name, texts in kept["texts"].items() if name.startswith(start))


ANSWERS = (world_answers, before_and_after, hacked_answer)

# --- The deck ---


def read_results(output_dir: Path) -> dict[str, dict]:
    """Metrics by the name of the result: of your own run, else the committed one; first seed's."""
    names = [*run_all.LESSONS.values(), *(f"studies/{name}" for name in run_all.STUDIES)]
    found = {}
    for name in names:
        for folder in (output_dir, runs.COMMITTED):
            content = read_json(folder / f"{name}.json")
            if content and Path(name).name not in found:
                of_seed = content["runs"][0] if "runs" in content else content
                found[Path(name).name] = of_seed["metrics"]
    return found


def slide(title: str, body: str, notes: list[str], ask: str = "", minutes: int = 0) -> str:
    """One slide; the notes are shown with N and printed below it."""
    told = "".join(f"<li>{escape(line)}</li>" for line in notes)
    asked = f"<p class=ask>Ask: {escape(ask)}</p>" if ask else ""
    time = f"{minutes} min" if minutes else ""
    head = f"<h2>{escape(title)}</h2><div class=body>{body}</div>"
    return f'<section>{head}<aside data-time="{time}">{asked}<ul>{told}</ul></aside></section>'


def main_slide(entry: dict, results: dict) -> str:
    """A slide of talk.json; raises KeyError or StopIteration where a result is missing."""
    body = ""
    for function in PICTURES:
        if entry.get("picture") == function.__name__:
            figure, content = function(results), io.BytesIO()
            figure.savefig(content, format="png", dpi=figure.dpi)
            body += image(content.getvalue(), entry["title"])
    for function in ANSWERS:
        if entry.get("answers") == function.__name__:
            body += function(results)
    lines = (re.sub(r"\*(.+?)\*", r"<em>\1</em>", escape(line)) for line in entry["text"])
    if "picture" in entry and "answers" in entry:
        body = f"<div class=beside>{body.replace('<p', '<div><p', 1)}</div></div>"
    body += "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"
    return slide(entry["title"], body, entry["notes"], entry["ask"], entry["minutes"])


def image(png: bytes, title: str) -> str:
    """A PNG inside the page."""
    encoded = base64.b64encode(png).decode()
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{encoded}">'


def appendix_slide(script: Path, figure: Path) -> str:
    """The figure of a script: its question, the picture, what the panels show, the claims."""
    results = read_json(figure.with_suffix(".json"))
    seeds = name_seeds(results.get("seeds") or [results.get("seed", 0)])
    notes = panels_of(script)
    for claim in results.get("claims", ()):
        notes.append(f"Claim: {claim['says']}. {interval(claim)}: {claim['verdict']}")
    notes.append(f"Run it: python {script.relative_to(runs.ROOT)} ({seeds})")
    title = run_all.title_of(script)
    return slide(title, image(figure.read_bytes(), title), notes)


def panels_of(script: Path) -> list[str]:
    """What the panels of a script's figure show: the first lines of what `draw` calls."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    lines = []
    for node in ast.walk(functions["draw"]) if "draw" in functions else ():
        panel = functions.get(node.id) if isinstance(node, ast.Name) else None
        if panel and panel.args.args and panel.args.args[0].arg == "ax":
            lines += (ast.get_docstring(panel) or "").splitlines()[:1]
    return list(dict.fromkeys(lines))


def find_figures(output_dir: Path) -> tuple[dict[Path, Path], list[str]]:
    """({script: its figure} of each that has one; the names of the others)."""
    wanted = {f"{script}.py": f"{name}.png" for script, name in run_all.LESSONS.items()}
    wanted |= {f"studies/{name}.py": f"studies/{name}.png" for name in run_all.STUDIES}
    found, missing = {}, []
    for script, name in wanted.items():
        paths = [folder / name for folder in (output_dir, runs.COMMITTED)]
        there = [path for path in paths if path.is_file()]
        if there:
            found[run_all.HERE / script] = there[0]
        else:
            missing.append(Path(script).stem)
    return found, missing


def write_deck(path: Path, talk: list[str], appendix: list[str]) -> None:
    """One HTML file; its policy allows this one script, by its hash, and loads nothing."""
    page, script = ((TALK / name).read_text(encoding="utf-8") for name in ("talk.html", "talk.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("{{hash}}", f"sha256-{digest}").replace("{{script}}", script)
    page = page.replace("{{main}}", str(len(talk)))
    page = page.replace("{{slides}}", "\n".join([*talk, *appendix]))
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def main(argv: list[str] | None = None) -> Path:
    """Draw, write the deck and the PNGs; returns the path of the deck."""
    parser = runs.OneLineParser("slides.py", description=__doc__)
    where = "results are looked for here first, slides go to slides/ in it; default: outputs"
    parser.add_argument("--output-dir", type=runs.folder, default=Path("outputs"), help=where)
    output_dir = parser.parse_args(argv).output_dir
    folder = output_dir / "slides"
    check_writable(folder)
    found, missing = find_figures(output_dir)
    results = read_results(output_dir)
    talk = []
    for entry in json.loads((TALK / "talk.json").read_text(encoding="utf-8")):
        try:
            talk.append(main_slide(entry, results))
        except (KeyError, StopIteration):
            missing.append(f"the slide {entry['title']!r}")
    appendix = [appendix_slide(script, figure) for script, figure in found.items()]
    for figure in found.values():
        with whole_file(folder / figure.name) as temporary:
            shutil.copy(figure, temporary)
    write_deck(folder / "slides.html", talk, appendix)
    if missing:
        print(f"left out, since there are no results yet: {', '.join(missing)}")
    counts = f"{len(talk)} slides, {len(appendix)} in the appendix"
    print(f"wrote {folder / 'slides.html'} ({counts}), and the PNGs")
    return folder / "slides.html"


if __name__ == "__main__":
    runs.run(main)
