"""The flags that say how --dataset is read: from the command line to every reader of the pairs."""

import json
import shlex

from support.artifacts import stored_settings
from support.second_look import look_at_pairs
from support.trained import find_trained
from support.training import training_settings

import pytest
from helpers import run_script

from common import cli


def start(tmp_path, *flags: str):
    parser = cli.make_parser("x.py", "a script")
    cli.add_dataset_flag(parser.add_argument_group("data"))
    return cli.start(parser, [*flags, "--output-dir", str(tmp_path)], "x")


def test_what_is_given_stands_in_the_settings_as_one(tmp_path):
    args = start(tmp_path, "--dataset", "a", "--split", "test", "--prompt-column", "ask")
    assert args.reading == {"split": "test", "prompt_column": "ask"}
    assert args.settings["reading"] == args.reading and "split" not in args.settings
    assert args.run_name == "x-dataset-a-prompt-column-ask-split-test"
    settings = training_settings("dpo", model="tiny-gpt2", **args.settings)
    assert settings["reading"] == args.reading


def test_nothing_given_changes_nothing(tmp_path):
    args = start(tmp_path)
    assert args.reading == {} and set(args.settings) == {"seed", "smoke", "dataset"}
    assert "reading" not in training_settings("dpo", model="tiny-gpt2", **args.settings)
    assert args.run_name == "x"


@pytest.mark.parametrize("flag", ["--split", "--config", "--chosen-column"])
def test_they_need_a_data_set(tmp_path, flag):
    with pytest.raises(cli.UserError, match=f"{flag} says how your data are read"):
        start(tmp_path, flag, "a")


@pytest.mark.parametrize("flag", ["--dataset", "--split", "--rejected-column"])
def test_an_empty_name_is_refused(tmp_path, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        start(tmp_path, "--dataset", "a", flag, "")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(f"error: argument {flag}: it is empty")


def test_next_commands_name_them(capsys):
    rows = [{"prompt": f"p{k}", "chosen": "longer", "rejected": "r"} for k in range(4)]
    look = look_at_pairs(rows, rows, "my pairs.jsonl", {"prompt_column": "an ask"})
    capsys.readouterr()
    command = next(asked["next"] for asked in look.questions if asked["check"] == "length")
    flags = ["--dataset", "my pairs.jsonl", "--prompt-column", "an ask"]
    assert shlex.split(command)[-4:] == flags


def test_what_is_trained_lies_where_the_sections_script_puts_it(tmp_path):
    class Part:
        def save_pretrained(self, folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "part").touch()

    asked = {}

    def tune(**settings):
        asked.update(settings)
        return Part(), Part()

    flags = {"model": "tiny-gpt2", "dataset": "a", "reading": {"split": "test"}, "seed": 0}
    machine = {"output_dir": tmp_path, "device": "cpu", "smoke": False}
    folder = find_trained("dpo", tune, **flags, **machine)
    assert folder.name == "dpo-dataset-a-split-test" and asked["reading"] == {"split": "test"}
    assert find_trained("dpo", tune, **flags, **machine) == folder
    other = {**flags, "reading": {"split": "train"}}
    assert find_trained("dpo", tune, **other, **machine) != folder


def test_an_edited_folder_of_data_is_another(tmp_path):
    (tmp_path / "a.jsonl").write_text("1", encoding="utf-8")
    first = stored_settings({"dataset": str(tmp_path)})
    assert stored_settings({"dataset": str(tmp_path)}) == first
    (tmp_path / "a.jsonl").write_text("2", encoding="utf-8")
    assert stored_settings({"dataset": str(tmp_path)}) != first


def test_a_script_reads_by_them(tmp_path):
    rows = [{"ask": f"p{k}", "good": "c", "rejected": "r"} for k in range(6)]
    splits = {"train": rows[:2], "more": rows}
    (tmp_path / "a.json").write_text(json.dumps(splits), encoding="utf-8")
    flags = ("--split", "more", "--prompt-column", "ask", "--chosen-column", "GOOD")
    done = run_script("preference_data_explorer", "--dataset", "a.json", *flags, cwd=tmp_path)
    assert done.returncode == 0 and "6 rows, 6 usable pairs on 6 prompts" in done.stdout
