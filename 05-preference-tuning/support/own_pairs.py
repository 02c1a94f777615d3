"""The pairs that a script works on: your own, read, counted and split by prompt, or the world's.

Your rows stay in a mapped file, so that memory does not grow with their number.
"""

import atexit
import functools
import glob
import hashlib
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.cli import UserError, show_progress
from common.models import (
    REWARD_LENGTH,
    encode_for_reward,
    encode_prompt,
    encode_response,
    hub_answers,
    is_embedded,
)
from common.preferences import COLUMNS, SIDES, make_pairs, questions

if TYPE_CHECKING:
    from datasets import Dataset

HELD_OUT = 1000  # pairs at most: an accuracy is then known to 0.03
MAX_LENGTH = 1024  # tokens of a prompt with its answer, as DPOTrainer reads it

# --- Reading ---


def load_preferences(path_or_hub_id: str) -> "Dataset":
    """Your own pairs: a `datasets.Dataset` of prompt, chosen, rejected as plain stripped text, mapped, not in memory.

    Reads JSON, JSONL, CSV or Parquet by file ending, otherwise the hub's split "train". Answers are texts or messages;
    the prompt is a column, or what both answers begin with. A missing answer becomes an empty one.
    Raises UserError with the file, the row (from 1) and the reason.
    """
    table = _read_table(path_or_hub_id)
    return table.map(
        lambda row, k: _plain_row(row, f"{path_or_hub_id}, row {k + 1}"),
        with_indices=True,
        remove_columns=table.column_names,
        cache_file_name=str(_scratch_folder() / "pairs.arrow"),
        new_fingerprint=uuid.uuid4().hex,
    )


def _scratch_folder() -> Path:
    """A new folder for files that `datasets` maps into memory; it goes when the process ends."""
    folder = tempfile.mkdtemp(prefix="preference-pairs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _read_table(name: str) -> "Dataset":
    """At least one row as it stands in a file or on the hub."""
    try:
        import datasets
    except ImportError:
        raise UserError('--dataset needs the package datasets: pip install -e ".[hf]"') from None
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    kind, path = datasets.Dataset, Path(name).expanduser()
    as_text = dict.fromkeys(COLUMNS, str)  # pandas would make 007 a 7 and "None" a gap
    read_csv = functools.partial(kind.from_csv, converters=as_text, keep_default_na=False)
    readers = {
        ".json": kind.from_json,
        ".jsonl": kind.from_json,
        ".csv": read_csv,
        ".parquet": kind.from_parquet,
    }
    reader, endings = readers.get(path.suffix.lower()), ", ".join(readers)
    hub = not (reader or path.exists()) and re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)
    if not hub and not (reader and path.is_file()):
        reason = (
            f"the name of the file must end in {endings}"
            if path.is_file()
            else "there is no such file"
        )
        raise UserError(f"{name}: {reason}")
    if hub and not hub_answers():
        raise UserError(
            f"{name}: no such file, and the hub cannot be reached; give a file ({endings})"
        )
    if not hub and reader is not kind.from_parquet:
        _check_encoding(path)
    table: Sequence = ()
    try:
        file = {"path_or_paths": glob.escape(str(path)), "cache_dir": str(_scratch_folder())}
        table = datasets.load_dataset(name, split="train") if hub else reader(**file)
    except (
        Exception
    ) as error:  # whatever the reader of the format raises; rows are counted from 0 there
        reason = re.sub(
            r"row (\d+)", lambda row: f"row {int(row[1]) + 1}", str(error.__cause__ or error)
        )
        if not (isinstance(error, StopIteration) or "corresponds to no data" in reason):
            raise UserError(f"{name}: cannot be read: {reason}") from None
    if not len(table):
        raise UserError(f"{name}: there are no rows")
    if (
        path.suffix.lower() == ".csv" and "__index_level_0__" in table.column_names
    ):  # pandas shifted the columns
        raise UserError(
            f"{name}, row 1: more cells than columns; a text that holds a comma must stand in quotes"
        )
    return table


def _check_encoding(path: Path) -> None:
    with path.open("rb") as lines:
        for k, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, line {k}: not UTF-8 ({error.reason}); save the file in UTF-8"
                ) from None


def _plain_row(row: dict, where: str) -> dict:
    """One question and its two answers as plain text. Raises UserError where the row is not that."""
    missing = [side for side in SIDES if side not in row]
    if missing:
        raise UserError(
            f"{where}: no column {', '.join(missing)}; the columns are {', '.join(row)}"
        )
    if "prompt" not in row and all(isinstance(row[side], str) for side in SIDES):
        same = takewhile(
            lambda two: two[0] == two[1], zip(row["chosen"], row["rejected"], strict=False)
        )
        shared = re.match(r".*\s|", "".join(letter for letter, _ in same), re.DOTALL)[
            0
        ]  # up to a word's end
        if not shared.strip():
            columns = ", ".join(row)
            raise UserError(
                f"{where}: no column prompt; the columns are {columns}, which do not begin with one prompt"
            )
        row = {"prompt": shared, **{side: row[side][len(shared) :] for side in SIDES}}
    chosen, rejected = (_turns(row[side], "assistant", f"{where}: {side}") for side in SIDES)
    prompt = _turns(row["prompt"], "user", f"{where}: prompt") if "prompt" in row else chosen[:-1]
    if rejected[:-1] != chosen[:-1] or chosen[:-1] not in ([], prompt):
        raise UserError(f"{where}: chosen and rejected do not answer the same prompt")
    roles, texts = zip(*prompt, chosen[-1], rejected[-1], strict=True)
    if roles != ("user", "assistant", "assistant"):
        raise UserError(
            f"{where}: supported is one user turn and one assistant turn a side, not {list(roles)}"
        )
    if not texts[0]:
        raise UserError(f"{where}: the prompt is empty")
    return dict(zip(COLUMNS, texts, strict=True))


def _turns(cell: str | list | None, role: str, where: str) -> list[tuple[str, str]]:
    """The (role, text) turns of a cell that holds a text (one turn of the given role) or messages."""
    if cell is None or isinstance(cell, str):
        return [(role, (cell or "").strip())]
    try:
        return [(message["role"], message["content"].strip()) for message in cell] or [(role, "")]
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"{where} is {cell!r:.60}, neither a text nor a list of messages") from None


# --- Counting ---


def usable_pairs(rows: Sequence[dict]) -> tuple[list[int], dict[str, list[int]]]:
    """Which rows (from 0) teach something, and which do not: they are empty, identical or an exact duplicate."""
    kept, known, dropped = [], set(), {"empty": [], "identical": [], "duplicate": []}
    for k, row in enumerate(show_progress(rows, "reading pairs")):
        _, chosen, rejected = texts = tuple(row[key] for key in COLUMNS)
        same = fingerprint(*texts)
        fault = (
            "empty"
            if not (chosen and rejected)
            else "identical"
            if chosen == rejected
            else "duplicate"
        )
        if fault == "duplicate" and same not in known:
            known.add(same)
            kept.append(k)
        else:
            dropped[fault].append(k)
    return kept, dropped


def pick(rows: Sequence[dict], indices: Sequence[int]) -> Sequence[dict]:
    """The rows of these numbers: a list of a list, a mapped dataset of a mapped dataset."""
    return [rows[i] for i in indices] if isinstance(rows, list) else rows.select(indices)


def count_by_reason(dropped: dict[str, list[int]]) -> str:
    """How many rows were dropped for each reason, and the first of them, counted from 1."""
    return ", ".join(
        f"{len(which)} {reason} (row {which[0] + 1})" for reason, which in dropped.items() if which
    )


def fingerprint(*texts: str) -> int:
    """A number for the texts, the same in every process: what is remembered of a row of a file of any size."""
    joined = json.dumps(texts).encode()
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "big")


def load_own_pairs(path: str | None) -> "Dataset | None":
    """The pairs of --dataset that teach something, or None where there is no --dataset.

    What is dropped is counted in one line, by reason, with a first row. Contradictory pairs (the
    same two answers, both ways round) are kept, since people do disagree, and counted.
    """
    if path is None:
        return None
    rows = load_preferences(path)
    kept, dropped = usable_pairs(rows)
    reasons = count_by_reason(dropped)
    if not kept:
        raise UserError(f"{path}: no pair is left to learn from (dropped: {reasons})")
    rows = rows.add_column("row", np.arange(1, len(rows) + 1)).select(kept)
    against = contradictory(rows)
    counts = [f"{len(rows)} pairs"]
    if reasons:
        counts.append(f"dropped: {reasons}")
    if against:
        first = rows[against[0]]["row"]
        counts.append(f"{len(against)} contradict another one (row {first}; kept)")
    print(f"{path}: {'; '.join(counts)}")
    return rows


def contradictory(rows: Sequence[dict]) -> list[int]:
    """Which rows (from 0) say of two answers the contrary of what another row says."""
    labelled = {
        fingerprint(*(row[key] for key in COLUMNS))
        for row in show_progress(rows, "comparing pairs")
    }
    return [
        k
        for k, row in enumerate(rows)
        if fingerprint(row["prompt"], row["rejected"], row["chosen"]) in labelled
    ]


# --- Training and held-out rows ---


def split_by_prompt(
    rows: "Dataset", seed: int, most: int | None = None, share: float = 1 / 8
) -> tuple["Dataset", "Dataset"]:
    """(training rows, held-out rows) in random order: all rows of a prompt on one side, `most` to train on.

    What is held out depends on the prompts and the seed alone, so it is the same in every script. Raises UserError
    below two prompts.
    """
    prompts = np.array([fingerprint(str(seed), row["prompt"]) for row in rows], dtype=np.uint64)
    distinct = np.unique(prompts)
    if len(distinct) < 2:
        raise UserError(
            f"--dataset: {len(distinct)} distinct prompts; at least 2 are needed to hold some out"
        )
    held = np.isin(prompts, distinct[: max(1, round(share * len(distinct)))])
    order = np.random.default_rng(seed).permutation(len(rows))
    return rows.select(order[~held[order]][:most]), rows.select(order[held[order]][:HELD_OUT])


def within_context(rows: "Dataset", length: Callable[[dict], int], limit: int) -> "Dataset":
    """The rows of at most `limit` tokens: a cut answer would be another answer.

    What is left out is counted.
    """
    lengths = np.array([length(row) for row in show_progress(rows, "counting tokens")])
    beyond = np.flatnonzero(lengths > limit)
    if len(beyond) == len(rows):
        raise UserError(f"--dataset: every pair is longer than the {limit} tokens of the model")
    if len(beyond):
        numbers = [rows[int(k)]["row"] for k in beyond]
        first = int(np.argmin(numbers))
        print(
            f"{len(beyond)} pairs left out, longer than the {limit} tokens that the model reads "
            f"(the first is row {numbers[first]} with {lengths[beyond[first]]})"
        )
    return rows.select(np.flatnonzero(lengths <= limit))


def split_for_policy(
    rows: "Dataset", tokenizer, seed: int, max_new_tokens: int, most: int | None = None
) -> tuple["Dataset", "Dataset"]:
    """(training rows, held-out rows) for a language model, with room for sampled answers."""

    def length(row: dict) -> int:
        answers = [len(encode_response(tokenizer, row[side])) for side in SIDES]
        return len(encode_prompt(tokenizer, row["prompt"])) + max(max_new_tokens, *answers)

    limit = min(MAX_LENGTH, tokenizer.model_max_length)
    train, held = split_by_prompt(rows, seed, most)
    return within_context(train, length, limit), within_context(held, length, limit)


def split_for_reward_model(
    rows: "Dataset", tokenizer, seed: int, most: int | None = None
) -> tuple["Dataset", "Dataset"]:
    """(training rows, held-out rows) for a reward model."""

    def length(row: dict) -> int:
        answers = [row[side] for side in SIDES]
        both = encode_for_reward(tokenizer, [row["prompt"]] * 2, answers, cut=False)
        return both["input_ids"].shape[1]

    limit = min(REWARD_LENGTH, tokenizer.model_max_length)
    train, held = split_by_prompt(rows, seed, most)
    return within_context(train, length, limit), within_context(held, length, limit)


# --- What a policy is trained on and asked, in the world or of your own ---


class PolicyData(NamedTuple):
    """Pairs to train on, held-out pairs, held-out prompts, and those watched during training."""

    train: Sequence[dict]
    held: Sequence[dict]
    prompts: list[str]
    watched: list[str]
    has_gold: bool


def policy_data(
    rows: "Dataset | None",
    tokenizer,
    pairs: int | None,
    seed: int,
    max_new_tokens: int,
    prompts: int | None = None,
    held_out: int = 500,
) -> PolicyData:
    """The user's rows, split; or, for None, the world's pairs. `prompts` is how many are asked.

    In the world the watched prompts are validation prompts, since settings are chosen by them.
    """
    if rows is not None:
        train, held = split_for_policy(rows, tokenizer, seed, max_new_tokens, pairs)
        asked = sorted(set(held["prompt"]))[: prompts or 16]
        return PolicyData(train, held, asked, asked[:8], has_gold=False)
    prompts = prompts or 256
    test = [question.prompt for question in questions("test")[:prompts]]
    watched = [question.prompt for question in questions("validation")[: 5 * prompts // 16]]
    train, held = make_pairs(pairs, seed=seed), make_pairs(held_out, "test", seed=seed)
    return PolicyData(train, held, test, watched, has_gold=True)


def tell_limits(
    model: str, dataset: str | None, train: Sequence[dict], epochs: int, batch_size: int
) -> None:
    """Say of a run on the user's own pairs what its result cannot be worth."""
    steps = epochs * -(-len(train) // batch_size)
    if dataset and is_embedded(model):
        print(f"{model} knows only the lab's own world; give your own model with --model")
    if dataset and steps < 20:
        print(f"{len(train)} pairs make only {steps} steps: too few to teach a model much")
