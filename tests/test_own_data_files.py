"""Where rows come from: packed files, every form of JSON, tables, folders, the hub's cache."""

import bz2
import gzip
import json
import sys

import pytest
from own_data.read import load_preferences, read_data

from common import models
from common.basics import UserError

datasets = pytest.importorskip("datasets")

ROWS = [
    {"prompt": "p", "chosen": "c", "rejected": "r"},
    {"prompt": '第二\n行, "x"', "chosen": "d", "rejected": ""},
]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
CSV = 'prompt,chosen,rejected\np,c,r\n"第二\n行, ""x""",d,\n'


def arrow(text: str, kind: str) -> bytes:
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, kind) as file:
        file.write(text.encode())
    return sink.getvalue().to_pybytes()


FILES = {
    "a.ndjson": LINES.encode(),
    "a.jsonl": f"\n{LINES}\n\n".encode(),
    "b.jsonl": b"\xef\xbb\xbf" + LINES.encode(),  # with a byte order mark
    "c.jsonl": json.dumps(ROWS).encode(),  # a list, whatever the name says
    "d.jsonl": LINES.replace("\n", "\r").encode(),  # ends of lines of an old Mac
    "a.json": json.dumps(ROWS, indent=2).encode(),
    "b.json": LINES.encode(),
    "e.jsonl": f"{{}}\n{LINES}".encode(),  # an empty row
    "c.json": json.dumps(COLUMNS).encode(),
    "d.json": json.dumps({"data": ROWS}, indent=2).encode(),
    "e.json": json.dumps({"version": "1", "train": ROWS, "test": ROWS[:1]}).encode(),
    "f.json": json.dumps({"rows": ROWS}).encode(),
    "g.json": json.dumps({n: dict(enumerate(cells)) for n, cells in COLUMNS.items()}).encode(),
    "h.json": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),  # jq .
    "a.csv": CSV.encode(),
    "g.csv": CSV.replace("行,", "行").replace(",", ";").encode(),
    "b.csv": b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode(),
    "c.csv": ("sep=,\n" + CSV).encode(),
    "d.csv": ("sep=;\r\n" + CSV.replace("行,", "行").replace(",", ";")).encode(),
    "e.csv": 'prompt,chosen,rejected\rp,c,r\r"第二\n行, ""x""",d,\r'.encode(),
    "f.csv": CSV.replace("p,c,r", "p,c,r,,").encode() + b",,\n,,\n",  # empty cells, empty rows
    "a.tsv": 'prompt\tchosen\trejected\np\tc\tr\n"第二\n行, ""x""\td\t\n'.encode(),
    "a.jsonl.gz": gzip.compress(LINES.encode()),
    "a.jsonl.bz2": bz2.compress(LINES.encode()),
    "a.jsonl.zst": arrow(LINES, "zstd"),
    "my.own.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "A.CSV.GZ": gzip.compress(CSV.encode()),
}
FILES["a.tsv"] = FILES["a.tsv"].replace(b'""x""\t', b'""x"""\t')


@pytest.mark.parametrize("name", FILES)
def test_rows_of_a_file(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    rows = load_preferences(str(tmp_path / name)).to_list()
    prompts = [row["prompt"].replace("行 ", "行, ") for row in rows]  # the comma of d.csv and g.csv
    assert prompts == COLUMNS["prompt"]
    assert [[row["chosen"], row["rejected"]] for row in rows] == [["c", "r"], ["d", ""]]


def test_empty_rows_and_line_ends_are_said(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'prompt,chosen,rejected,\r\np,"c\r\nd",r,\r\n,,,\r\n,,,\r\n')
    reading = read_data(str(tmp_path / "a.csv"), "pairs")
    assert reading.rows["chosen"][0] == "c\nd"
    assert reading.remarks == [
        "texts whose lines ended in \\r\\n have \\n",
        "empty rows left out (2 rows, from row 2)",
    ]


def test_cells_are_text_as_they_stand(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\n007,None,\n1.50,NA,nan\n")
    assert load_preferences(str(tmp_path / "a.csv")).to_list() == [
        {"prompt": "007", "chosen": "None", "rejected": ""},
        {"prompt": "1.50", "chosen": "NA", "rejected": "nan"},
    ]
    (tmp_path / "a.jsonl").write_text('{"prompt": "p", "chosen": "c", "rejected": NaN}')
    assert load_preferences(str(tmp_path / "a.jsonl"))["rejected"][0] == ""


def test_a_row_of_messages_is_no_table_of_columns(tmp_path):
    said = [{"role": "user", "content": "p"}]
    row = {side: [*said, {"role": "assistant", "content": side[0]}] for side in COLUMNS}
    del row["prompt"]
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert load_preferences(str(tmp_path / "a.jsonl")).to_list() == ROWS[:1]


def test_a_file_has_one_split(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(FILES["e.json"])
    for flag in ("split", "config"):
        with pytest.raises(UserError, match=f"--{flag}: .* is a file, which has only one"):
            load_preferences(str(path), **{flag: "test"})


REFUSED = {
    "c.csv": (CSV.encode("utf-16"), "in UTF-16, not UTF-8; save it in UTF-8"),
    "d.csv": (CSV.encode("utf-16-le"), "in UTF-16, not UTF-8"),
    "e.csv": (b'prompt,chosen,rejected\np,c,r\np,"c,r\n', "row 2: unexpected end of data; a quote"),
    "f.csv": (b"prompt,chosen,chosen\np,c,r", "two columns have the name 'chosen'"),
    "g.csv": (b"prompt,chosen,rejected\n", "no rows"),
    "h.csv": (b"prompt,chosen,rejected\np,c,r,s\n", "row 1: more cells than columns"),
    "i.csv": (b"prompt,chosen,rejected\np,\xff,r\n", "line 2: not UTF-8"),
    "a.jsonl": (LINES.replace("\n", ",\n").encode() + b",", "row 1: a comma behind the object"),
    "b.jsonl": (b'{"prompt": "p"}\n[1]', "row 2: not an object with columns"),
    "c.jsonl": (
        b'{"prompt": "p"}\n{"prompt": }',
        "row 2: cannot be read as JSON: Expecting value.*line 2",
    ),
    "d.jsonl": (b'{"prompt": "\xff"}', "line 1: not UTF-8"),
    "e.jsonl": (b"", "no rows"),
    "a.json": (b'{"data": [\n{"prompt": "p"}\n', "cannot be read as JSON: .*line 3"),
    "b.json": (b"no json", "cannot be read as JSON"),
    "c.json": (b"[]", "no rows"),
    "a.jsonl.gz": (LINES.encode(), "cannot be read"),
    "b.jsonl.gz": (gzip.compress(LINES.encode())[:-9], "cannot be read"),
    "a.parquet": (b"no parquet", "cannot be read"),
    "a.xlsx": (b"x", r"must end in .*and save a spreadsheet as CSV"),
    "a.gz": (b"x", "must end in"),
    "a.txt": (b"x", r"must end in \.json, .*or in one of these and \.gz"),
    "a.zip": (b"x", "must end in .*; unpack any other"),
    "a.jsonl.xz": (b"x", "must end in"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_file_cannot_be_is_one_line(tmp_path, name, capfd):
    content, reason = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=reason) as error:
        load_preferences(str(tmp_path / name))
    assert str(error.value).startswith(str(tmp_path / name))
    assert capfd.readouterr() == ("", "")  # the library's own complaints stay out of the terminal


# --- Folders and the hub ---


def make_shards(folder) -> None:
    table = datasets.Dataset.from_list(ROWS)
    for split, of in (("train_prefs", 2), ("train_prefs", 2), ("test_prefs", 1)):
        k = len(list((folder / "data").glob(f"{split}*")))
        table.to_parquet(folder / "data" / f"{split}-{k:05}-of-{of:05}.parquet")


def test_a_folder_of_shards(tmp_path):
    make_shards(tmp_path)
    with pytest.raises(UserError, match="no split train; choose with --split: test_prefs, train_p"):
        load_preferences(str(tmp_path))
    assert len(load_preferences(str(tmp_path), split="train_prefs")) == 4
    for path in (tmp_path / "data").glob("test*"):
        path.unlink()
    assert len(load_preferences(str(tmp_path))) == 4  # the only split
    with pytest.raises(UserError, match="no split x; choose with --split: train_prefs"):
        load_preferences(str(tmp_path), split="x")


def test_other_splits_of_a_folder_are_named(tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text(LINES, encoding="utf-8")
    remarks = read_data(str(tmp_path), "pairs").remarks
    assert remarks == ["of the splits only train is read, not validation, test"]


def test_a_folder_of_packed_lines_and_configurations(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl.zst").write_bytes(arrow(LINES, "zstd"))
    config = "  - config_name: {0}\n    data_files: {0}/*\n"
    listed = "".join(config.format(name) for name in ("one", "two"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{listed}---\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"pick one among the available configs: .*one.*two"):
        load_preferences(str(tmp_path))
    assert len(load_preferences(str(tmp_path), config="two")) == 2


def test_what_save_to_disk_wrote(tmp_path):
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(tmp_path / "two")
    assert load_preferences(str(tmp_path / "one")).to_list() == ROWS
    assert load_preferences(str(tmp_path / "two"), split="test").to_list() == ROWS[:1]


@pytest.mark.parametrize("name", ["my pairs", "my [1] pairs"])
def test_a_folder_of_one_file_under_any_name(tmp_path, capfd, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "pairs.jsonl").write_text(LINES, encoding="utf-8")
    (folder / "README.md").write_text("My pairs.", encoding="utf-8")
    if "[" in name:
        with pytest.raises(UserError, match="cannot be read: "):
            load_preferences(str(folder))
    else:
        assert load_preferences(str(folder)).to_list() == ROWS
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_data(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read: The directory .* any data files"):
        load_preferences(str(tmp_path))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "./nowhere", "a/b/c", "~/nowhere/pairs"])
def test_no_such_file_does_not_ask_the_hub(name, monkeypatch):
    monkeypatch.setattr(models, "hub_answers", lambda: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="there is no such file"):
        load_preferences(name)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(models, "hub_answers", lambda: False)
    with pytest.raises(UserError, match=r"some/pairs: no such file .* hub: Couldn't reach"):
        load_preferences("some/pairs")


def test_a_hub_dataset(monkeypatch):
    def load_dataset(name, config, split):
        assert (name, config, split) == ("some/pairs", None, "train")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(models, "hub_answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_preferences("some/pairs").to_list() == ROWS


def test_a_cached_data_set_of_the_hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(models, "hub_answers", lambda: False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    make_shards(tmp_path / "pairs")
    cache = tmp_path / "cache" / "some___pairs"
    builder = datasets.load_dataset_builder(str(tmp_path / "pairs"), cache_dir=str(tmp_path / "x"))
    builder.download_and_prepare()
    built = next((tmp_path / "x").glob("pairs/default/*/*"))
    cache.joinpath("default").mkdir(parents=True)
    built.parent.rename(cache / "default" / "0.0.0")
    assert len(load_preferences("some/pairs", split="train_prefs")) == 4
    with pytest.raises(UserError, match=r'Unknown split "train". Should be one of'):
        load_preferences("some/pairs")


def test_datasets_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text(LINES, encoding="utf-8")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[hf\]"'):
        load_preferences(str(tmp_path / "a.jsonl"))
