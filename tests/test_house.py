"""The house stays as it is meant: small, without callbacks, each lesson readable from one file."""

import ast
import importlib
import json
import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from helpers import SCRIPTS

from common.claims import VERDICTS

ROOT = SCRIPTS.parent
FORMULAS = {  # where the tutorial's formulas stand
    "reward_model": ["bradley_terry_loss"],
    "preference_data_explorer": ["plackett_luce_nll"],
    "rlhf_objectives": [
        "clipped_surrogate",
        "generalized_advantage_estimate",
        "kl_regularized_optimum",
        "kl_estimators",
    ],
    "online_rl": ["leave_one_out_advantages"],
    "dpo_trainer": ["dpo_loss"],
    "dpo_variants": ["ipo_loss", "kto_loss"],
    "best_of_n": ["expected_best_of_n", "best_of_n_kl_bound", "best_of_n_policy"],
}
LESSONS = sorted([*FORMULAS, "reward_hacking", "frontier"])
STUDIES = sorted(path.stem for path in (SCRIPTS / "studies").glob("*.py") if path.stem != "lessons")
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "matplotlib"}
# Names that every script has, or that stand for the same thing in each of them.
SHARED_NAMES = {"main", "build_parser", "measure", "draw", "CLAIMS", "HERE", "ROOT"}
# Functions that are handed a function: libraries or the harness call it back, no lesson's piece.
CALLED_BACK = {"load_or_train", "run_study", "run_trainer", "watch", "run"}


def python_files() -> list[Path]:
    """The lab's Python without its tests and benchmarks."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    names = [name for name in listed.stdout.split() if not name.startswith(("tests/", "bench"))]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def project_module(name: str | None) -> bool:
    """Whether an import is of the lab itself."""
    top = (name or "").split(".")[0]
    return top in {"common", "own_data", "run_all", *LESSONS}


def imported_names(path: Path) -> set[str]:
    """The names of the lab that a file imports."""
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and project_module(node.module):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if project_module(alias.name)}
    return names


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef)]


def test_it_is_small():
    files = [path for path in python_files() if path.name != "page.py"]
    lines = sum(path.read_text(encoding="utf-8").count("\n") for path in files)
    assert lines <= 12_500 and len(files) <= 85, (lines, len(files))


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_can_be_read_from_its_own_file(name):
    names = imported_names(SCRIPTS / f"{name}.py")
    assert len(names) <= 12, sorted(names)


@pytest.mark.parametrize("lesson", FORMULAS)
def test_formulas_stand_in_their_lesson(lesson):
    here = {function.name for function in functions(SCRIPTS / f"{lesson}.py")}
    assert set(FORMULAS[lesson]) <= here


def test_common_and_own_data_know_no_lesson():
    for folder in ("common", "05-preference-tuning/own_data"):
        for path in (ROOT / folder).rglob("*.py"):
            modules = {name.split(".")[0] for name in imported_names(path)}
            assert not modules & {*LESSONS, "run_all"}, path
            assert folder != "common" or "own_data" not in modules, path


def test_nothing_imports_a_study():
    for path in python_files():
        text = path.read_text(encoding="utf-8")
        for study in STUDIES:
            assert not re.search(rf"^\s*(from|import) (studies\.)?{study}\b", text, re.M), path


def test_functions_are_not_handed_down():
    found = []
    for path in python_files():
        if "exercises" in path.parts:  # a checker calls what the reader wrote
            continue
        for function in functions(path):
            for argument in [*function.args.args, *function.args.kwonlyargs]:
                kind = ast.unparse(argument.annotation) if argument.annotation else ""
                if "Callable" in kind and argument.arg not in ("look", "train", "draw", "measure"):
                    found.append(f"{path.name}: {function.name}({argument.arg})")
    assert len(found) <= 12, found


def test_args_stop_in_main():
    for path in [*(SCRIPTS / f"{name}.py" for name in LESSONS), SCRIPTS / "run_all.py"]:
        for function in functions(path):
            names = [argument.arg for argument in function.args.args]
            assert "args" not in names, f"{path.name}: {function.name}"


@pytest.mark.parametrize("name", [*LESSONS, *(f"studies/{study}" for study in STUDIES), "run_all"])
def test_heavy_libraries_are_imported_where_they_are_used(name):
    for node in tree_of(SCRIPTS / f"{name}.py").body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        assert not {module.split(".")[0] for module in names} & HEAVY, ast.unparse(node)


def test_a_name_means_one_thing():
    names = Counter()
    for path in python_files():
        if "exercises" in path.parts or path.name == "recipe.py":
            continue
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                names[node.name] += 1
            elif isinstance(node, ast.Assign):
                names.update(n.id for t in node.targets for n in ast.walk(t) if type(n) is ast.Name)
    twice = {name for name, count in names.items() if count > 1} - SHARED_NAMES
    assert not twice, sorted(twice)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_one_question_in_one_file(name):
    tree = tree_of(SCRIPTS / "studies" / f"{name}.py")
    top = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"measure", "draw"} <= top
    first = ast.get_docstring(tree).splitlines()[0]
    assert first.rstrip().endswith("?"), first
    last = ast.unparse(tree.body[-1])
    assert (
        last.startswith("if __name__ == '__main__'") and "run_study(CLAIMS, measure, draw)" in last
    )


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_has_no_claims_and_says_what_it_does(name):
    text = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    assert "CLAIMS" not in text and "Claim(" not in text
    docstring = ast.get_docstring(tree_of(SCRIPTS / f"{name}.py"))
    assert docstring.splitlines()[0].rstrip().endswith("?")
    assert f"python 05-preference-tuning/{name}.py" in docstring
    for line in ("judged by", "writes"):
        assert re.search(rf"^{line} ", docstring, re.M), line


def test_functions_can_be_taken_in_at_a_glance():
    long, all_of_them = [], 0
    for path in python_files():
        for function in functions(path):
            lines = function.end_lineno - function.lineno + 1
            all_of_them += 1
            if lines > 50:
                long.append(f"{path.name}: {function.name} ({lines})")
    assert len(long) <= 0.01 * all_of_them, long


def test_nothing_speaks_of_where_it_was_made():
    words = r"\.\./shared|/work/main|\bissue (#|\d)|\bsubagent\b|\bClaude\b|\.library"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.split():
        path = ROOT / name
        of_text = path.suffix in (".py", ".md", ".toml", ".js", ".html") and path.is_file()
        if of_text and path != Path(__file__):
            assert not re.search(words, path.read_text(encoding="utf-8")), name


# --- Claims ---

CLAIMS = [(study, claim) for study in STUDIES for claim in importlib.import_module(study).CLAIMS]
PUBLISHED = json.loads((SCRIPTS / "studies" / "published.json").read_text(encoding="utf-8"))
AGREES = ("agrees", "differs", "conditional", "not tested at scale")
READ = r"(abstract|abstract, theory|second hand|page)"


def test_claims_are_few_and_each_has_a_name_of_its_own():
    names = [claim.id for _, claim in CLAIMS]
    assert len(names) <= 60 and sorted(set(names)) == sorted(names) == sorted(PUBLISHED)


@pytest.mark.parametrize(("study", "claim"), CLAIMS, ids=[claim.id for _, claim in CLAIMS])
def test_a_claim_was_predicted_and_says_what_is_published(study, claim):
    assert claim.predicted in VERDICTS
    agrees, _, found = PUBLISHED[claim.id].partition(": ")
    assert agrees in AGREES and len(found.split()) <= 25
    if not found.startswith("nothing found"):
        assert re.match(rf".* \d{{4}} \(arXiv \d{{4}}\.\d{{5}}; {READ}\): \w", found), found
