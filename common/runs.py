"""How every script starts and ends: flags, one-line errors, the files that it writes.

Nothing here imports torch, so that `--help` answers at once.
"""

import argparse
import contextlib
import inspect
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.basics import UserError
from common.saving import check_results, name_run, versions, write_json
from common.training import is_main_process, process_count

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "figures"  # the committed run; only `make figures` writes there
NOT_A_SETTING = ("output_dir", "device", "resume", "merge")  # flags that change no measurement
DATA_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
# Flags that say how --dataset is read.
READING = ("split", "config", "held_out", "prompt_column", "chosen_column", "rejected_column")
READING += ("completion_column", "label_column", "max_length")
MODEL_FLAGS = ("model", "reward_backbone", "judge")  # a hub id, a folder, or an embedded model
# Flags that shape what one lesson trains for another.
OF_TRAINED = ("model", "reward_backbone", "dataset", "pairs", "seed", "sft_steps", "smoke")
OF_TRAINED += READING
HELP = {"beta": "how strongly the policy is held to its reference"}
HELP |= {"epochs": "passes over the data", "lora_r": "rank of the LoRA adapter"}
HELP |= {"batch_size": "rows a step, over all processes"}
HELP |= {"updates": "steps of the policy", "prompts_per_update": "prompts to answer in each"}
HELP |= {"samples": "answers to each prompt", "max_new_tokens": "tokens of an answer, at most"}


# --- Flags ---


class OneLineParser(argparse.ArgumentParser):
    """A parser that shows a docstring as it is written, and whose errors are one line."""

    def __init__(self, *args, **options):
        as_written = argparse.RawDescriptionHelpFormatter
        super().__init__(*args, formatter_class=as_written, allow_abbrev=False, **options)

    def error(self, message: str):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def make_parser(script: str, description: str) -> argparse.ArgumentParser:
    """The parser of a script (its __file__ and __doc__), with the flags that all scripts have."""
    parser = bare_parser(script, description)
    seed = "seed of data, training and sampling; default: 0"
    parser.add_argument("--seed", type=whole_number(0), default=0, help=seed)
    devices = ("auto", "cuda", "mps", "cpu")
    parser.add_argument("--device", default="auto", choices=devices, help="where to compute")
    return parser


def bare_parser(script: str | Path, description: str) -> argparse.ArgumentParser:
    """The parser of a script, with what studies take as well: where to write, and --smoke."""
    parser = OneLineParser(Path(script).name, "%(prog)s [flags]", description=description)
    where = "results, figures and what was trained go here; default: outputs"
    parser.add_argument("--output-dir", type=folder, default=Path("outputs"), help=where)
    smoke = "the smallest run that still takes every path"
    parser.add_argument("--smoke", action="store_true", help=smoke)
    return parser


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    """--dataset: the user's own pairs, and how they are read (READING)."""
    formats = "JSON, JSONL, CSV, Parquet, packed or not, a folder, a hub id"
    own = f"your own pairs (prompt, chosen, rejected): {formats}; default: the lab's world"
    parser.add_argument("--dataset", type=data_place, help=own)
    parser.add_argument("--split", type=non_empty, help="of --dataset; default: train")
    parser.add_argument("--config", type=non_empty, help="of --dataset, where it has several")
    held = "another file: its rows are held out, not an eighth of the prompts of --dataset"
    parser.add_argument("--held-out", type=data_place, metavar="FILE", help=held)
    longest = "tokens of a prompt with its answer; longer rows are left out; default: 1024"
    parser.add_argument("--max-length", type=whole_number(8), metavar="N", help=longest)
    for role in ("prompt", "chosen", "rejected", "completion", "label"):
        column = f"the column of --dataset that holds it; default: {role}, or a usual name for it"
        parser.add_argument(f"--{role}-column", type=non_empty, metavar="COLUMN", help=column)


def add_hyperparameters(parser: argparse.ArgumentParser, train: Callable, **texts: str) -> None:
    """A flag for every keyword-only number or text of `train`, with the default that stands there.

    A default of None depends on the model; `texts` says how. A text with "default" says all.
    """
    group = parser.add_argument_group("training")
    kinds = {int: whole_number(1), float: positive_float, str: non_empty}
    for name, default in hyperparameters(train).items():
        kind = kinds[float if default is None else type(default)]
        told = str(texts.get(name, default))
        if "default" not in told:
            told = f"{HELP.get(name, name.replace('_', ' '))}; default: {told}"
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, type=kind, default=default, metavar="X", help=told)


def hyperparameters(train: Callable) -> dict:
    """The keyword-only numbers and texts that a training function takes, with their defaults."""
    kinds, others = (int, float, str, float | None), ("seed", "name")
    return {
        name: flag.default
        for name, flag in inspect.signature(train).parameters.items()
        if flag.kind is flag.KEYWORD_ONLY and flag.annotation in kinds and name not in others
    }


def whole_number(minimum: int) -> Callable[[str], int]:
    """argparse type: an integer of at least `minimum`, and less than 2**32 (NumPy's seeds)."""

    def parse(text: str) -> int:
        if not minimum <= int(text) < 2**32:
            raise argparse.ArgumentTypeError(f"{text} is not between {minimum} and {2**32 - 1}")
        return int(text)

    parse.__name__ = "whole number"
    return parse


def positive_float(text: str) -> float:
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return float(text)


def non_empty(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def folder(text: str) -> Path:
    return Path(non_empty(text))


def data_place(name: str) -> str:
    """argparse type: a file or folder that is there, or what may be a hub id; else UserError."""
    path = Path(non_empty(name))
    with contextlib.suppress(RuntimeError):  # ~somebody, who is nobody here
        path = path.expanduser()
    hub_id = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)
    if not path.exists() and (not hub_id or path.suffix.lower() in (*DATA_ENDINGS, *PACKED)):
        raise UserError(f"{name}: there is no such file or folder")
    return name


# --- The start of a script, and of several ---


def start(parser, argv: list[str] | None, name: str, train=None, smoke=None) -> argparse.Namespace:
    """Parse the command line and check all that can be checked before work begins.

    Adds: `changed`, the flags that differ from their defaults; `settings`, all that shape what is
    measured; `reading`, those given of READING; `training`, what `train` takes; `sft`, what
    `load_sft_model` takes; `run_name`, under which the run writes its files. With --smoke the
    numbers of `smoke`, by flag, are upper limits.
    """
    typed = sys.argv[1:] if argv is None else argv
    flags = [flag.split("=")[0] for flag in typed]
    for flag in ("--dataset", *(flag for flag in flags if flag.endswith("-column"))):
        if flags.count(flag) > 1:
            parser.error(f"{flag} is given twice, and one would be lost")
    args = parser.parse_args(argv)
    given = {flag: value for flag, value in vars(args).items() if flag not in NOT_A_SETTING}
    args.changed = {k: v for k, v in given.items() if v != parser.get_default(k)}
    args.run_name = name_run(name, args.changed)
    args.script, args.started = parser.prog, time.time()
    for flag, most in smoke.items() if smoke and args.smoke else ():
        setattr(args, flag, most if given[flag] is None else min(given[flag], most))
    args.reading = {flag: given[flag] for flag in READING if given.get(flag)}
    if args.reading and not args.dataset:
        flag = next(iter(args.reading)).replace("_", "-")
        raise UserError(f"--{flag} says how your data are read: give them with --dataset")
    args.settings = {flag: getattr(args, flag) for flag in given}
    args.training = {"seed": args.seed}
    args.training |= {flag: getattr(args, flag) for flag in hyperparameters(train)} if train else {}
    args.sft = {"seed": args.seed, "output_dir": args.output_dir}
    args.sft |= {"own_data": bool(given.get("dataset")), "sft_steps": given.get("sft_steps")}
    check_results(args.output_dir, args.run_name)
    names = [getattr(args, flag, None) for flag in MODEL_FLAGS]
    if any(names):
        from common.models import find_model, init_compute

        for model in filter(None, names):
            find_model(model)
        args.device = init_compute(args.device)
    return args


def trained_folder(args: argparse.Namespace, name: str, without: tuple[str, ...] = ()) -> Path:
    """Where the lesson that trains NAME keeps it, with the flags of this run that are its, too."""
    shared = {k: v for k, v in args.changed.items() if k in OF_TRAINED and k not in without}
    return args.output_dir / name_run(name, shared)


def run_side_by_side(commands: dict[Path, Sequence], jobs: int) -> None:
    """Scripts with their flags, by the file for what each prints; `jobs` at a time, of one thread.

    Raises UserError with the last line of the first that fails, once all are done.
    """

    def run_one(log: Path) -> str | None:
        started = time.time()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:
            command = [sys.executable, *map(str, commands[log])]
            one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
            code = subprocess.run(command, stdout=file, stderr=file, env=one_thread).returncode
        result = "failed" if code else "done"
        print(f"{log.stem:<32} {result} in {time.time() - started:.0f} s", flush=True)
        if code == 0:
            return None
        last = (log.read_text(encoding="utf-8").strip() or "it said nothing").splitlines()[-1]
        return f"{log.stem}: {last.removeprefix('error: ')} (see {log})"

    with ThreadPoolExecutor(jobs) as pool:
        failed = [message for message in pool.map(run_one, commands) if message]
    if failed:
        raise UserError(failed[0])


# --- The end ---


def finish(args, metrics: dict, figure, next_step: str, trained: Iterable[Path] = ()) -> dict:
    """Write the JSON and the figure, say where (`trained`: also the folders), and what to try."""
    from common.figures import save_figure

    seconds = round(time.time() - args.started, 1)
    written = [args.output_dir / f"{args.run_name}.{end}" for end in ("png", "json")]
    about = {"script": args.script, "settings": args.settings, "versions": versions()}
    about |= {"seed": args.seed, "device": args.device}
    # Before the figure: a PNG without its JSON would be nobody's.
    write_json(written[1], {**about, "wall_seconds": seconds, "metrics": metrics})
    save_figure(figure, written[0])
    print(f"\nwrote {', '.join(map(str, [*written, *trained]))}   ({seconds:.0f} s)")
    proposed = [asked["next"] for asked in metrics.get("second_look", {}).get("questions", ())]
    print(f"next  {next(filter(None, proposed), next_step)}")
    return metrics


def run(main: Callable[[], object]) -> None:
    """Run a script: a UserError becomes one line on stderr and exit code 2, Ctrl-C one and 130."""
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and process_count() == 1:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` cleans up like Ctrl-C
    streams = (sys.stdout, sys.stderr) if is_main_process() else (io.StringIO(), io.StringIO())
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            main()
        return
    except BrokenPipeError:  # the reader of our output (head, less) is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    except (UserError, OSError) as error:  # OSError: a full disk, a folder that became unwritable
        message, code = f"error: {error}", 2
    except NotImplementedError as error:
        if error.args:  # a library's
            raise
        message, code = "error: a gap of this exercise is still to be filled", 2
    except KeyboardInterrupt:
        message, code = "interrupted", 128 + signal.SIGINT
    if is_main_process():
        print(" ".join(message.split()), file=sys.stderr)
    sys.exit(code)
