"""Your own data: pairs, or answers with a label, read from a file or the hub, counted and split.

Rows are read twice: to find their shape, and to take them apart, into a file that is mapped.
"""

import csv
import hashlib
import io
import json
import re
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, product
from pathlib import Path

import numpy as np

from common import models, prompts, scoring
from common.basics import UserError, show_progress
from common.preferences import SIDES
from common.prompts import Prompt, as_messages, as_text, distinct_prompts
from common.runs import DATA_ENDINGS, PACKED, data_place
from own_data import conversations as talk
from own_data import shapes
from own_data.conversations import DroppedRow, refuse
from own_data.shapes import FEW_ODD, clean_name, find_column, holds_something

Dataset = Sequence[dict]  # a `datasets.Dataset`
MOST_HELD = 1000  # pairs at most: an accuracy is then known to 0.03
CONTRARY = "labelled both ways, and kept"
CUT = "blanks at the ends of answers, which the model's template cuts"
LONGEST = 1024  # tokens of a prompt with its answer, unless --max-length says otherwise
LABELLED = {"completion": "string", "label": "bool"}
TYPES = {"pairs": dict.fromkeys(SIDES, "string"), "labels": LABELLED, "prompts": {}}
SAYS_MORE = re.compile(r"status|rating|score|prefer|winner|label|tie|agree|choice|vote|rank")


def load_preferences(path: str, **reading: str | None) -> Dataset:
    """Your own pairs: a `datasets.Dataset` of prompt, chosen, rejected.

    `reading` may be split, config, prompt_column, chosen_column, rejected_column. A missing answer
    is empty. A prompt is a text, or a list of messages where it has several turns or a system
    message. Raises UserError with file, row (from 1) and reason.
    """
    return read_data(path, "pairs", **reading).rows.remove_columns("row")


def own_pairs(
    path: str,
    tokenizer,
    seed: int,
    *,
    pairs: int | None = None,
    prompts: int = 16,
    max_new_tokens: int | None = 48,
    max_length: int = LONGEST,
    labelled: bool = False,
    alone: bool = False,
    held_out: str | None = None,
    **reading: str | None,
) -> tuple[Dataset, Dataset, list[Prompt]]:
    """(training rows, held-out rows, held-out prompts) for a language model.

    Rows are prompt, chosen, rejected; of a file with other rows prompt, completion, label if
    `labelled`, and prompts if these will do (`alone`). What is left out is said in one line.
    """
    kinds = ["pairs", *["labels"] * labelled, *["prompts"] * alone]
    found = [read_data(path, *kinds, **reading)]
    found += [read_data(held_out, found[0].kind, **reading)] if held_out else []
    rows = [say_usable(usable(file, tokenizer, max_new_tokens, max_length)) for file in found]
    train, held = split_rows(*rows, seed=seed, most=pairs)
    for rows in (train, held):
        if found[0].kind == "labels" and len(set(rows["label"])) < 2:
            reason = f"{len(rows)} training or held-out answers all have the same label"
            raise UserError(f"--dataset: {reason}; KTO needs both: more rows, or another --seed")
    return train, held, distinct_prompts(held["prompt"])[:prompts]


def own_reward_pairs(path: str, tokenizer, seed: int, **reading) -> tuple[Dataset, Dataset]:
    """(training rows, held-out rows) for a reward model, which writes no answers."""
    return own_pairs(path, tokenizer, seed, max_new_tokens=None, **reading)[:2]


class Source:
    """A data set that is read row by row, and what was done to its rows, with their places."""

    def __init__(self, path: str, split=None, config=None, **columns: str | None) -> None:
        self.path, self.split, self.config, self.total, self.used = path, split, config, 0, {""}
        self.named = {flag.removesuffix("_column"): name for flag, name in columns.items() if name}
        self.kind, self.rows = "", ()  # a key of TYPES; a data set, with each row's place as `row`
        self.places = defaultdict(set)  # of rows, by what was done to them
        self.dropped, self.why, self.odd = defaultdict(list), {}, Counter()  # rows, by reason
        self.choices = defaultdict(Counter)  # how often a column said what
        self.survey, self.ways = defaultdict(shapes.Column), {}
        for row in self.raw_rows():
            self.total += 1
            for name, cell in row.items():
                self.survey[name].add(cell)
        self.marks = set()  # of templates, in more than a fifth of the cells of a column
        for name, column in self.survey.items():
            self.ways |= {name: column.way} if column.way else {}
            column.example = talk.take_apart(column.example, column.way)
            self.marks |= {m for m, n in column.marks.items() if n > FEW_ODD * column.filled}
        self.rated = shapes.twins(self.survey, shapes.OF_SCORES, SIDES)  # the first is higher

    def raw_rows(self) -> Iterator[dict]:
        """The rows that hold something; once the file is looked over, turns are taken apart."""
        self.place = 0  # of what is true of the whole file
        for cells in read_rows(self):
            self.place += 1
            row = {clean_name(name): self.plain(cell) for name, cell in cells.items()}
            if not any(map(holds_something, row.values())):
                self.note("empty rows left out")
                continue
            for role, column in self.named.items():
                if clean_name(column) not in row and self.place == 1:
                    known = f"{self.path} has no {column}; the columns are {', '.join(row)}"
                    raise UserError(f"--{role}-column: {known}")
            row |= {role: row.get(clean_name(column)) for role, column in self.named.items()}
            for name, way in self.ways.items():
                whole = row.get(name)
                row[name] = talk.take_apart(whole, way)
                if row[name] is not whole:
                    self.note(f"{name} written as {way}, taken apart")
            yield row
        if not self.place:
            raise UserError(f"{self.path}: there are no rows")

    def plain(self, cell):
        """A cell without NaN, and without line ends of Windows."""
        if isinstance(cell, str) and "\r\n" in cell:
            self.note("texts whose lines ended in \\r\\n have \\n")
            return cell.replace("\r\n", "\n")
        if isinstance(cell, list):
            return [self.plain(part) for part in cell]
        if isinstance(cell, dict):
            return {key: self.plain(part) for key, part in cell.items()}
        return None if isinstance(cell, float) and cell != cell else cell

    def note(self, done: str) -> None:
        """Count something that was done to the row at this place; twice is once."""
        self.places[done].add(self.place)

    @property
    def remarks(self) -> list[str]:
        """What to say of it, in phrases; what a column says: winner: A = response_a (9), ..."""
        remarks = []
        for done, places in self.places.items():
            if 0 not in places and len(places) != self.total:
                done += f" ({len(places)} rows, from row {min(places)})"
            remarks.append(done)
        for name, counts in self.choices.items():
            said = [f"{value} ({count})" for value, count in counts.items()]
            remarks.append(f"{name}: {', '.join(said)}")
        unread = {name: column for name, column in self.survey.items() if name not in self.used}
        for name, column in unread.items():
            few = column.is_coded and len(column.values) <= 6
            if few and SAYS_MORE.search(name) and name not in chain(*self.rated):
                remarks.append(f"{name}, which is not read, holds {column.shown()}")
        return remarks + ([f"columns not read: {', '.join(unread)}"] if unread else [])


def read_data(path: str, *kinds: str, **reading: str | None) -> Source:
    """Rows of one of these kinds (keys of TYPES), in a mapped file. Raises UserError."""
    try:
        import datasets
        from datasets.arrow_writer import ArrowWriter
        from datasets.fingerprint import get_temporary_cache_files_directory as folder_that_goes
        from huggingface_hub.utils import logging
    except ImportError:
        raise UserError('--dataset needs the package datasets: pip install -e ".[hf]"') from None
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    logging.set_verbosity_error()
    source = Source(path, **reading)
    prompt, label = shapes.first_of(source.survey, "prompt"), shapes.label_column(source.survey)
    kind = "labels" if label else "prompts" if prompt else "pairs"
    file = str(Path(tempfile.mkdtemp(dir=folder_that_goes()), "rows.arrow"))
    try:
        # Of several kinds pairs are the first.
        other = kind in kinds[1:] and not shapes.find_shapes(source)
        source.kind = kind if other else kinds[0]
        types = {**TYPES[source.kind], "row": "int64"}
        features = {"prompt": datasets.Json(), **{n: datasets.Value(of) for n, of in types.items()}}
        with ArrowWriter(path=file, features=datasets.Features(features)) as writer:
            for row in show_progress(read_source(source), "reading rows"):
                # The prompt is dumped, else Json() would read the text 007 as 7.
                writer.write({**row, "prompt": json.dumps(row["prompt"]), "row": source.place})
            count, _ = writer.finalize()
    except UserError as error:
        raise UserError(error if str(error).startswith(path) else f"{path}: {error}") from None
    odd = source.odd.total()
    if odd > FEW_ODD * source.total or not count:
        worst = max(source.dropped, key=lambda why: (source.odd[why], len(source.dropped[why])))
        others = f" ({odd} of {source.total} rows are so)" if odd > 1 else ""
        raise UserError(f"{path}, {source.why[worst]}{others}")
    source.rows = datasets.Dataset.from_file(file)
    return source


def read_source(source: Source) -> Iterator[dict]:
    """The rows as TYPES has them; of one row there may be several, and others are dropped."""
    kind, survey, found, coding = source.kind, source.survey, [], None
    rows = source.raw_rows()
    if kind == "labels":
        coding = shapes.read_labels(survey)
    elif kind == "pairs" or not shapes.first_of(survey, "prompt"):
        for export in [] if source.named else shapes.EXPORTS:
            if {*export["keys"]} <= survey.keys():
                raise refuse("export", tool=export["tool"], line=export["line"])
        found = shapes.find_shapes(source)
        if not found:
            raise shapes.explain_missing(survey)
        if found[0].by_prompt:
            rows = shapes.gather_by_prompt(source, rows, *found[0].columns)
    for row in rows:
        try:
            for one in pairs_in(row, found, source) if found else [row]:
                made = read_row(one, "pairs" if found else kind, source, coding)
                yield {name: made[name] for name in ("prompt", *TYPES[kind])}
        except DroppedRow as drop:
            source.dropped[drop.reason].append(source.place)
            source.why.setdefault(drop.reason, f"row {source.place}: {drop}")
            source.odd[drop.reason] += drop.odd


def pairs_in(row: dict, found: list[shapes.Shape], source: Source) -> list[dict]:
    """The row by the first of the shapes that it has; once for each chosen with each rejected."""
    fits = [shape for shape in found if all(holds_something(row.get(n)) for n in shape.needs)]
    fits += [shape for shape in found if any(name in row for name in shape.needs)]
    if not fits:
        raise refuse("another shape", columns=", ".join(row))
    needs = " and ".join(fits[0].needs)
    if len(found) > 1 or fits[0].said:
        source.note(f"rows of {needs}" if len(found) > 1 else fits[0].said)
    source.used |= {*fits[0].columns}
    try:
        row = fits[0].make(row)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise refuse("not as others", needs=needs) from None
    for better, worse in source.rated:
        numbers = [shapes.as_number(row.get(name)) for name in (better, worse)]
        if None not in numbers and numbers[0] <= numbers[1]:
            source.note(f"{better} is {'below' if numbers[0] < numbers[1] else 'equal to'} {worse}")
    names = [find_column(row, side) for side in SIDES]
    cells = [row.get(name) or "" for name in names]
    asked = find_column(row, "prompt")
    lists = [row.get(asked), *cells]
    if all(map(talk.is_texts, lists)) and len({*map(len, lists)}) == 1:
        source.used.add(asked)
        source.note("lists of texts read turn by turn")
        roles, asked = ["user", "assistant"] * len(lists[0]), row.pop(asked)
        talks = [chain(*zip(asked, cell, strict=True)) for cell in cells]
        cells = [{"role": roles, "content": list(texts)} for texts in talks]
    # Several answers are texts or lists of turns; a list of messages is one.
    sides = [c if isinstance(c, list) and dict not in map(type, c) else [c] for c in cells]
    pairs = list(product(*sides))
    if len(pairs) > 1:
        if talk.is_texts(lists[0]) or any(text in sides[1] for text in sides[0]):
            raise refuse("shared lists")
        source.note(f"lists of answers: each chosen with each rejected, {len(pairs)} pairs a row")
    return [{**row, **dict(zip(names, pair, strict=True))} for pair in pairs]


def read_row(row: dict, kind: str, source: Source, coding: dict[str, bool] | None = None) -> dict:
    """A row as TYPES has it; `coding` says which labels are good. Raises DroppedRow."""
    talk.refuse_other_inputs(row)
    columns = {role: find_column(row, role) for role in ("prompt", "system", *TYPES[kind])}
    for role, name in columns.items():
        source.used.add(name)
        if name not in (role, None):
            source.note(f"{role} is column {name}")
    label = coding.get(shapes.normalise(row.get(columns["label"]))) if coding else None
    if coding and label is None:
        raise DroppedRow("without a label")
    sides = [role for role in (*SIDES, "completion") if role in columns]
    answers = [talk.read_turns(row.get(columns[side]), "assistant", side) for side in sides]
    turns = prompt_turns(row, columns["prompt"], source)
    if kind == "labels" and columns["completion"] is None:
        turns, answers = turns[:-1], [turns[-1:]]
    elif kind == "prompts" and turns[1:] and turns[-1][0] == "assistant":
        turns = turns[:-1]  # of a conversation that holds its answer
    elif kind == "pairs" and not turns and all(len(answer) == 1 for answer in answers):
        raise refuse("no prompt", columns=", ".join(row))
    said = talk.read_turns(row.get(columns["system"]), "system", "system")
    system = "\n".join(text for _, text in said)
    prompt = talk.prompt_of_turns(turns, answers, system)
    texts = clean_answers(prompt, [answer[-1][1] for answer in answers], source)
    if turns[-1:] == [("assistant", "")] and any(text.startswith(" ") for text in texts):
        texts = [text.removeprefix(" ") for text in texts]
        source.note("the blank behind the speaker's name cut from answers")
    for text in (as_text(prompt), *texts):
        mark = talk.find_markup(text)
        if re.search("[\ud800-\udfff]", text):
            raise refuse("half a character")
        if mark in source.marks:  # in many rows; in a few it is what they are about
            raise refuse("template mark", mark=mark)
        for what in filter(None, (mark, "a NUL" if "\0" in text else "")):
            source.note(f"{what} in a text, kept as it stands")
    return {"prompt": prompt, **dict(zip(sides, texts, strict=True)), "label": label}


def prompt_turns(row: dict, column: str | None, source: Source) -> list[talk.Turn]:
    """The turns of the prompt's column, behind those of `history`; none without a column."""
    if column is None:
        return []
    cell, history, earlier = row[column], row.get("history"), []
    if cell == row.get("instruction"):
        source.used |= {"instruction", "input"}
        if holds_something(row.get("input")):
            source.note("prompt is columns instruction and input")
            cell = f"{cell}\n{row['input']}"
    if column != "history" and isinstance(history, list):
        source.used.add("history")
        if not all(talk.is_texts(exchange) and len(exchange) == 2 for exchange in history):
            raise refuse("history", shown=f"{history!r:.60}")
        said = [text or "" for text in chain(*history)]
        earlier = zip(("user", "assistant") * len(history), said, strict=True)
    return [*earlier, *talk.read_turns(cell, "user", column)]


def clean_answers(prompt: Prompt, texts: list[str], source: Source) -> list[str]:
    """The answers without a token that ends many, and without a prompt that all of them repeat."""
    for k, text in enumerate(texts):
        mark = talk.end_mark(text)
        if mark in source.marks:
            source.note(f"{mark} cut from the end of answers")
            texts[k] = talk.without_marks(text)
    asked = prompt.strip() if isinstance(prompt, str) else ""
    repeated = texts and all(text.lstrip().startswith(asked) for text in texts)
    if len(asked) < 12 or not repeated:  # a short prompt may well begin an answer
        return texts
    source.note("prompt cut from the beginning of answers")
    rests = [text.lstrip()[len(asked) :] for text in texts]
    return [re.sub(r"\A(\s*\n| )", "", rest) for rest in rests]  # an indented line stays indented


def read_rows(source: Source) -> Iterator[dict]:
    """The rows of a file (its ending says the format), a folder, or a hub id. Raises UserError."""
    name, path = source.path, Path(source.path).expanduser()
    if path.is_file() and (source.split or source.config):
        flag = "split" if source.split else "config"
        raise UserError(f"--{flag}: {name} is a file, which has only one")
    try:
        yield from read_file(name) if path.is_file() else read_stored(source)
    except UserError:
        raise
    except Exception as error:  # whatever a library raises, without its example of a call
        told = " ".join(str(error.__cause__ or error).split("\nExample")[0].split())
        what = "cannot be read" if path.exists() else "no such file or folder, and of the hub"
        raise UserError(f"{name}: {what}: {told}") from None


def read_stored(source: Source) -> Iterable[dict]:
    """What `save_to_disk` wrote, or a folder of shards laid out as on the hub; else a hub id."""
    import datasets
    from datasets.fingerprint import get_temporary_cache_files_directory as folder_that_goes
    from huggingface_hub import constants

    name, split, config = source.path, source.split, source.config
    path = Path(name).expanduser()
    if not path.is_dir():
        data_place(name)
        if not models.hub_answers():  # it may be in the cache
            datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
        return datasets.load_dataset(name, config, split=split or "train")
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        saved = datasets.load_from_disk(str(path))
        parts = saved if isinstance(saved, dict) else {"train": saved}
    else:
        builder = datasets.load_dataset_builder(str(path), config, cache_dir=folder_that_goes())
        shards = (builder.config.data_files or {}).items()
        parts = {str(part): chain.from_iterable(map(read_file, files)) for part, files in shards}
    chosen = split or ("train" if len(parts) > 1 else next(iter(parts), "train"))
    others = ", ".join(part for part in parts if part != chosen)
    if chosen not in parts:
        raise UserError(f"{name}: no split {chosen}; choose with --split: {others}")
    if others and not split:
        source.note(f"of the splits only {chosen} is read, not {others}")
    return parts[chosen]


def read_file(name: str) -> Iterator[dict]:
    import pyarrow
    from pyarrow import parquet

    path = Path(name).expanduser()
    *_, ending, last = ("", "", *map(str.lower, path.suffixes))
    ending = ending if last in PACKED else last
    if ending not in DATA_ENDINGS:
        raise refuse("ending", name=name, known=", ".join(DATA_ENDINGS), packed=", ".join(PACKED))
    with pyarrow.input_stream(str(path), compression=PACKED.get(last)) as file:
        if ending == ".parquet":
            for batch in parquet.ParquetFile(file).iter_batches(1000):
                yield from batch.to_pylist()
            return
        content = file.read()
    if b"\0" in content[:4]:
        raise refuse("utf-16", name=name)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise refuse("utf-8", name=name, k=line, error=error.reason) from None
    yield from (rows_of_csv if ending in (".csv", ".tsv") else rows_of_json)(text, name)


def rows_of_csv(text: str, name: str) -> Iterator[dict]:
    """Cells are texts as they stand: 007 is no 7, and None no gap. The header tells the comma."""
    csv.field_size_limit(2**31 - 1)
    text, k = re.sub(r"\A\"?sep=.\"?\r?\n", "", text), 0  # for Excel
    comma = max(",;\t|", key=re.match(r"\s*([^\r\n]*)", text)[1].count)
    lines = io.StringIO(text.lstrip("\r\n"), newline="")  # \r ends one, too
    rows = csv.DictReader(lines, delimiter=comma, strict=True)
    try:
        for column, count in Counter(rows.fieldnames).items():
            if column.strip() and count > 1:
                raise refuse("same name", name=name, column=repr(column))
        for k, row in enumerate(rows, start=1):
            if any(map(str.strip, row.pop(None, []))):
                raise refuse("cells", name=name, k=k)
            yield {n: cell for n, cell in row.items() if n.strip() or holds_something(cell)}
    except csv.Error as error:
        raise refuse("quote", name=name, k=k + 1, error=error) from None


def rows_of_json(text: str, name: str) -> Iterator[dict]:
    """Rows in JSON: one object after the other, a list of them, columns, or rows under a key."""
    decoder, blank, k = json.JSONDecoder(), re.compile(r"\s*"), 0
    place = blank.match(text).end()
    while place < len(text):
        if k and text[place] == ",":
            raise refuse("comma", name=name, k=k)
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise refuse("json", name=name, k=k + 1, error=error) from None
        place = blank.match(text, place).end()
        alone = k == 0 and place == len(text)
        for row in rows_of_value(value) if alone else [value]:
            k += 1
            if not isinstance(row, dict):
                raise refuse("no object", name=name, k=k, shown=f"{row!r:.40}")
            yield row


def rows_of_value(value) -> Iterable:
    """The rows in the one value of a file: a list, rows under a key, columns, or itself a row."""
    if not isinstance(value, dict):
        return value if isinstance(value, list) else [value]
    cells = list(value.values())
    lists = {key.lower(): cell for key, cell in value.items() if cell and isinstance(cell, list)}
    tables = {key: cell for key, cell in lists.items() if isinstance(cell[0], dict)}
    for key in ("train", "data", *(tables if len(value) == 1 else ())):
        if key in tables and not talk.is_message(tables[key]):
            return tables[key]
    if all(isinstance(cell, dict) and "0" in cell for cell in cells):  # as pandas writes columns
        cells = [list(cell.values()) for cell in cells]
    columns = all(isinstance(cell, list) and cell for cell in cells) and not tables
    if not columns or len({*map(len, cells)}) > 1:
        return [value]
    return [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]


def usable(source: Source, tokenizer=None, room=None, limit=LONGEST) -> Source:
    """The same without rows that teach nothing, or that a model that writes `room` cannot read."""
    kept, places = [], {}
    for k, row in enumerate(show_progress(source.rows, "looking at rows")):
        place, answers, label = row["row"], answers_of(row), row.get("label")
        said = key_of(row["prompt"], *answers, label)
        opposite = key_of(row["prompt"], *reversed(answers), None if label is None else not label)
        fault = "duplicate" if said in places else ""
        if not all(map(str.strip, answers)):
            fault = "empty"
        elif len(answers) == 2 and answers[0] == answers[1]:
            fault = "identical"
        elif tokenizer and not fault:
            try:
                fault = find_fault(row, tokenizer, room, limit)
            except UserError as error:  # of the chat template
                raise UserError(f"{source.path}, row {place}: {error}") from None
        if fault:
            source.dropped[fault].append(place)
        else:
            kept.append(k)
            if opposite in places:
                source.places[CONTRARY] |= {places[opposite], place}
            for text in answers if tokenizer and room else ():
                turns = [*as_messages(row["prompt"]), {"role": "assistant", "content": text}]
                if text != text.strip() and text not in prompts.write_turns(tokenizer, turns):
                    source.places[CUT].add(place)
        places.setdefault(said, place)
    source.rows = source.rows.select(kept)
    return source


def say_usable(source: Source) -> Dataset:
    """The rows of what is usable; what they are is said in one line."""
    path, rows, empty = source.path, source.rows, source.dropped["empty"]
    reasons = count_by_reason(source.dropped)
    if not len(rows):
        raise UserError(f"{path}: no row is left to learn from (dropped: {reasons})")
    if len(empty) > FEW_ODD * (len(rows) + sum(map(len, source.dropped.values()))):
        raise UserError(f"{path}, row {empty[0]}: an answer is empty ({len(empty)} rows are so)")
    what, dropped = source.kind, [f"dropped: {reasons}"] if reasons else []
    if what == "labels":
        what = "answers, {1} good and {0} bad".format(*np.bincount(rows["label"], minlength=2))
    print(f"{path}: {'; '.join([f'{len(rows)} {what}', *dropped, *source.remarks])}")
    return rows


def count_by_reason(dropped: dict[str, list[int]]) -> str:
    """How many rows were dropped for each reason, and the first of their places, from 1."""
    return ", ".join(f"{len(at)} {why} (row {min(at)})" for why, at in dropped.items() if at)


def answers_of(row: dict) -> list[str]:
    return [row[side] for side in (*SIDES, "completion") if side in row]


def key_of(*texts: Prompt | bool) -> int:
    """A number for the texts, the same in every process: what is remembered of a row."""
    joined = json.dumps(texts).encode()
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "big")


def split_rows(rows: Dataset, held: Dataset | None = None, *, seed: int, most=None) -> tuple:
    """(training rows, held-out rows): shuffled; an eighth of the prompts by hash, or `held`."""
    keys = np.array([key_of(str(seed), prompt) for prompt in rows["prompt"]], dtype=np.uint64)
    if held is None:
        distinct = np.unique(keys)
        if len(distinct) < 2:
            reason = f"{len(distinct)} distinct prompts; at least 2 are needed to hold some out"
            raise UserError(f"--dataset: {reason}, or another file: --held-out")
        held_out = np.isin(keys, distinct[: max(1, round(len(distinct) / 8))])
    else:
        asked = {key_of(str(seed), prompt) for prompt in held["prompt"]}
        held_out = np.array([int(key) in asked for key in keys])
        if held_out.any():
            print(f"{held_out.sum()} rows left out of training: their prompts are held out")
    order = np.random.default_rng(seed).permutation(len(rows))
    train, rest = (rows.select(order[kept[order]]) for kept in (~held_out, held_out))
    if not len(train):
        raise UserError("--held-out: all prompts of --dataset are held out")
    train, held = train.select(range(len(train))[:most]), rest if held is None else held
    known = {bare_prompt(prompt) for prompt in train["prompt"]}
    near = sum(bare_prompt(prompt) in known for prompt in distinct_prompts(held["prompt"]))
    if near:
        print(f"{near} held-out prompts are in training but for case, marks or blanks")
    return train, held.select(range(len(held))[:MOST_HELD])


def bare_prompt(prompt: Prompt) -> str:
    """A prompt without case, marks, blanks, NULs, and ways to write a letter."""
    text = unicodedata.normalize("NFKC", as_text(prompt)).casefold()
    return re.sub(r"[\W\0]+", " ", text).strip()


def find_fault(row: dict, tokenizer, room: int | None, limit: int) -> str:
    """Why a model cannot read a row uncut, as it stands; nothing where it can. Raises UserError."""
    asked, answers = row["prompt"], answers_of(row)
    for token in tokenizer.all_special_tokens:
        if re.match(r"[<\[|]", token) and any(token in t for t in (as_text(asked), *answers)):
            return f"with {token}, a token of the model"  # which would end or begin a turn
    limit = min(limit, tokenizer.model_max_length)
    if room is None:
        limit, prompt = min(limit, scoring.REWARD_LENGTH), []
        both = [scoring.encode_for_reward(tokenizer, [asked], [t], cut=False) for t in answers]
        encoded = [one["input_ids"][0].tolist() for one in both]
    else:
        prompt, *encoded = prompts.encode_answers(tokenizer, asked, answers)
        shown, turns = prompts.format_prompt(tokenizer, asked), as_messages(asked)
        kept = [turns[-1]["content"], *(m["content"] for m in turns if m["role"] == "system")]
        parted = tokenizer.decode(prompts.encode_prompt(tokenizer, asked)[len(prompt) :]).strip()
        if parted or not all(text.strip() in shown for text in kept):
            return "whose prompt the model's template writes otherwise before an answer"
    length = len(prompt) + max([room or 0, *map(len, encoded)])
    if length > limit:
        reserved = f" with {room} of an answer (--max-new-tokens)" if room else ""
        return f"longer than the {limit} tokens that the model reads{reserved}"
    if len(encoded) > 1 and encoded[0] == encoded[1]:
        return "with answers that are the same to the model (unknown characters)"
    return ""
