"""A talk of 45 minutes in one file: slides.html, with every figure as an appendix.

    python 05-preference-tuning/classroom/slides.py       # or: make slides

Takes the results of your own runs (outputs/), else those of the committed run, and trains nothing;
what has no results yet is left out, and named. Writes slides.html, which needs no network, and the
PNGs of all figures to outputs/slides/. In a browser the arrow keys turn the slides and N shows the
speaker's notes; printed, each slide is a page with its notes. What is said stands in talk.json.
"""

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

from common import runs
from common.answers import marks
from common.claims import name_seeds
from common.figures import GOLD, new_figure
from common.intervals import interval
from common.preferences import gold_utility
from common.saving import REMEDY, check_writable, read_json, whole_file

TALK = Path(__file__).parent
OURS = "<title>Preference tuning, measured: a talk</title>"  # of talk.html
DPO_LOSS = r"loss$\,= -\log \sigma\left(\beta \log\frac{\pi(y_w)}{\pi_{ref}(y_w)}"
DPO_LOSS += r" - \beta \log\frac{\pi(y_l)}{\pi_{ref}(y_l)}\right)$"
OBJECTIVE = r"maximise$\quad \mathrm{E}\left[r(x, y)\right] - \beta\,\mathrm{KL}(\pi, \pi_{ref})$"
BRADLEY_TERRY = r"$P(y_w \succ y_l) = \sigma(r_w - r_l)\qquad$loss$\,= -\log \sigma(r_w - r_l)$"
FORMULAS = {"objective": OBJECTIVE, "bradley_terry": BRADLEY_TERRY}  # above the picture
TWO_PANELS = ("bradley_terry", "sides", "five_passes", "candidates", "planes")

# --- Pictures: panels of the lessons, drawn from what the runs have measured ---


def draw(name: str, results: dict):
    """The picture of this name: a figure."""
    figure, axes = new_figure(1, 1 + (name in TWO_PANELS), "", 3.7)
    figure.suptitle(FORMULAS.get(name, ""), x=0.5, ha="center", fontsize=17, parse_math=True)
    left, right = axes[0], axes[-1]
    match name:
        case "cards":
            preference_data_explorer.cards_panel(left, results["preference_data"]["example"])
        case "bradley_terry":
            model = results["reward_model"]
            reward_model.reward_loss_panel(left, model["loss"], model["after"]["limits"])
            reward_hacking.bias_panel(right, results["reward_hacking"]["bias"])
            right.set_title("How often the longer answer wins")
        case "objective":
            rlhf_objectives.memory_panel(left, results["ppo_objectives"]["memory"], 7)
        case "dpo_formula":
            figure.set_figheight(2)
            left.text(0.5, 0.5, DPO_LOSS, ha="center", va="center", fontsize=24)
            left.axis("off")
        case "kinds":
            figure.set_size_inches(4.8, 4.3)  # the answers stand beside it
            dpo_trainer.kinds_panel(left, results["dpo_training"]["looks"])
        case "sides":
            dpo_trainer.log_panel(left, results["dpo_training"]["training"])
            dpo_trainer.sides_panel(right, results["dpo_training"]["looks"])
        case "five_passes":
            titles = "Unbiased annotators", "Annotators who prefer long answers"
            for ax, arm, title in zip(axes, ("unbiased", "biased"), titles, strict=True):
                looks = results["too_much_dpo"]["arms"][arm]["curve"]
                dpo_trainer.kinds_panel(ax, [{**look, "step": look["epoch"]} for look in looks])
                ax.set(title=title, xlabel="passes over the pairs")
        case "candidates":
            lines, found = {"gold": GOLD, "reward": "reward: what chooses"}, results["best_of_n"]
            best_of_n.by_n_panel(left, found["curve"], lines, "The chosen answer by n", "log-odds")
            best_of_n.methods_panel(right, found["methods"])
        case "hacking":
            reward_hacking.gains_panel(left, results["reward_hacking"])
        case "remedies":
            reward_hacking.remedies_panel(left, results["reward_hacking"]["remedies"])
        case "planes":
            found, x_label = results["frontier"], "measured KL from the SFT model (nats)"
            for ax, budget in zip(axes, frontier.BUDGETS, strict=True):
                points = [p for p in found["points"] if frontier.budget_of(p) == budget]
                frontier.plane_of_methods(ax, points, found["limit"])
                ax.set(title=f"{budget:,} labelled pairs", xlabel=x_label)
            figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


# --- Answers: texts that the runs have sampled ---


def table_of_answers(prompt: str, rows: list[tuple]) -> str:
    """HTML: a question, and rows of (what, answer, number) with the marks of the gold standard."""
    cells = [f"<p class=question>{escape(prompt)}</p><table>"]
    for what, text, number in rows:
        told = escape(text) + f"<em>{escape(marks(prompt, text).strip(' []'))}</em>"
        cells.append(f"<tr><th>{what}</th><td>{told}</td><td>{number}</td></tr>")
    return "".join([*cells, "</table>"])


def world_answers(results: dict) -> str:
    """The styles of answers to one question of the world, with their gold utility."""
    prompt = "What is the capital of Cuba? My guess is Oslo."
    texts = (
        "It is Havana.",
        "It is Havana. It is one of those things that everybody should know.",
        "I agree, Oslo it is.",
        "The author of Candide is Voltaire.",
    )
    rows = [("", text, f"{gold_utility(prompt, text):.2f}") for text in texts]
    return table_of_answers(prompt, rows)


def before_and_after(results: dict) -> str:
    """Two questions with an answer before and after DPO: one mended, one still wrong."""
    kept, mended, wrong = results["likelihood_term"]["answers"], [], []
    sft = texts_of(results["too_much_dpo"]["answers"], "SFT, sft, ")
    texts = sft, texts_of(kept, "DPO, 768, ")
    for prompt, before, after in zip(kept["prompts"], *texts, strict=True):
        table = table_of_answers(prompt, [("before", before, ""), ("after", after, "")])
        if gold_utility(prompt, after) <= 1:
            wrong.append(table)
        elif gold_utility(prompt, before) < 3 and gold_utility(prompt, after) == 4:
            mended.append(table)
    return "".join(mended[:1] + wrong[:1])


def hacked_answer(results: dict) -> str:
    """The answer whose reward rose most while gold utility fell, by DPO on biased labels."""
    before = texts_of(results["too_much_dpo"]["answers"], "SFT, sft, ")
    kept, found = results["three_hacks"]["answers"], []
    for name, after in kept["texts"].items():
        rewards = kept["rewards"][name]["before"], kept["rewards"][name]["after"]
        for prompt, *texts, was, now in zip(kept["prompts"], before, after, *rewards, strict=True):
            gold, gold_now = (gold_utility(prompt, text) for text in texts)
            if now - was > 0.5 and gold > gold_now:
                told = f"reward {was:.1f}, gold utility {gold:.2f}"
                told_now = f"reward {now:.1f}, gold utility {gold_now:.2f}"
                rows = [("before", texts[0], told), ("after", texts[1], told_now)]
                found.append((now - was + gold - gold_now, prompt, rows))
    _, prompt, rows = max(found)
    return table_of_answers(prompt, rows)


def texts_of(kept: dict, start: str) -> list[str]:
    (texts,) = (texts for name, texts in kept["texts"].items() if name.startswith(start))
    return texts


ANSWERS = {write.__name__: write for write in (world_answers, before_and_after, hacked_answer)}

# --- The deck ---


def slide(entry: dict, picture: bytes = b"", answers: str = "") -> str:
    """An entry of talk.json with its PNG and HTML; the notes are shown with N, printed below it."""
    title, body = escape(entry["title"]), answers
    if picture:
        source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        body = f'<img alt="{title}" src="{source}">'
        body = f"<div class=beside>{body}<div>{answers}</div></div>" if answers else body
    if "text" in entry:
        lines = (re.sub(r"\*(.+?)\*", r"<em>\1</em>", escape(line)) for line in entry["text"])
        body += "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"
    notes = "".join(f"<li>{escape(line)}</li>" for line in entry["notes"])
    asked = f"<p class=ask>Ask: {escape(entry['ask'])}</p>" if "ask" in entry else ""
    time = f"{entry['minutes']} min" if "minutes" in entry else ""
    head = f"<h2>{title}</h2><div class=body>{body}</div>"
    return f'<section>{head}<aside data-time="{time}">{asked}<ul>{notes}</ul></aside></section>'


def appendix_slide(script: Path, figure: Path, results: dict) -> str:
    """The figure of a script: its question, the picture, the claims."""
    notes = []
    for claim in results.get("claims", ()):
        notes.append(f"Claim: {claim['says']}. {interval(claim)}: {claim['verdict']}")
    seeds = name_seeds(results.get("seeds") or [results.get("seed", 0)])
    notes.append(f"Run it: python {script.relative_to(runs.ROOT)} ({seeds})")
    return slide({"title": run_all.title_of(script), "notes": notes}, figure.read_bytes())


def write_deck(path: Path, talk: list[str], appendix: list[str]) -> None:
    """One HTML file; its policy allows this one script, by its hash, and loads nothing."""
    page, script = ((TALK / name).read_text(encoding="utf-8") for name in ("talk.html", "talk.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("{{hash}}", f"sha256-{digest}").replace("{{main}}", str(len(talk)))
    page = page.replace("{{script}}", script).replace("{{slides}}", "\n".join([*talk, *appendix]))
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def main(argv: list[str] | None = None) -> Path:
    """Draw, write the deck and the PNGs; returns the path of the deck."""
    parser = runs.OneLineParser("slides.py", description=__doc__)
    where = "results are looked for here first, slides go to slides/ in it; default: outputs"
    parser.add_argument("--output-dir", type=runs.folder, default=Path("outputs"), help=where)
    output_dir = parser.parse_args(argv).output_dir
    folder = output_dir / "slides"
    deck = folder / "slides.html"
    check_writable(folder)
    if any(folder.glob("*")) and OURS not in (deck.read_text("utf-8") if deck.is_file() else ""):
        raise runs.UserError(f"{folder} holds what the lab did not write; {REMEDY}")
    metrics, talk, appendix, missing = {}, [], [], []
    figures = run_all.LESSONS | {f"studies/{name}": f"studies/{name}" for name in run_all.STUDIES}
    for script, name in figures.items():
        places = (where / f"{name}.png" for where in (output_dir, runs.COMMITTED))
        figure = next(filter(Path.is_file, places), None)
        if figure is None:
            missing.append(script)
            continue
        results = read_json(figure.with_suffix(".json"))
        metrics[figure.stem] = results.get("runs", [results])[0].get("metrics", {})
        appendix.append(appendix_slide(run_all.HERE / f"{script}.py", figure, results))
        with whole_file(folder / figure.name) as temporary:
            shutil.copy(figure, temporary)
    for entry in json.loads((TALK / "talk.json").read_text(encoding="utf-8")):
        picture, asked = io.BytesIO(), entry.get("answers")
        try:
            if "picture" in entry:
                draw(entry["picture"], metrics).savefig(picture, format="png")
            answers = ANSWERS[asked](metrics) if asked else ""
            talk.append(slide(entry, picture.getvalue(), answers))
        except (LookupError, ValueError):
            missing.append(f"the slide {entry['title']!r}")
    write_deck(deck, talk, appendix)
    if missing:
        print(f"left out, since there are no results yet: {', '.join(missing)}")
    print(f"wrote {deck} ({len(talk)} slides, {len(appendix)} in the appendix), and the PNGs")
    return deck


if __name__ == "__main__":
    runs.run(main)
