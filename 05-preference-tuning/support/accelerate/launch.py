"""Run a script in several processes: `accelerate launch`, with failures told in one line.

    python 05-preference-tuning/support/accelerate/launch.py ddp --num_processes 4 SCRIPT
    python 05-preference-tuning/support/accelerate/launch.py fsdp --num_processes 4 SCRIPT

The first word names a file beside this one (ddp, fsdp, nodes); what follows is as for
`accelerate launch`: its options, the script, the script's flags. That command by itself answers a
process that dies with a traceback of its own and a report, forty lines in all.
"""

import logging
import os
import signal
import sys
from pathlib import Path

CONFIGURATIONS = Path(__file__).resolve().parent
SAID = 2  # the exit code of a script whose first process has said what is wrong
STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM)  # since another process had failed


def main(argv: list[str]) -> int:
    """Launch; returns the exit code: 0, or that of the process that failed first."""
    names = sorted(path.stem for path in CONFIGURATIONS.glob("*.yaml"))
    if argv[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if len(argv) < 2 or argv[0] not in names:
        return say(f"error: first {' or '.join(names)}, then the script (see --help)", SAID)
    os.environ.setdefault("LOGLEVEL", "CRITICAL")  # of the launcher's own remarks
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    options = ["--config_file", str(CONFIGURATIONS / f"{argv[0]}.yaml"), *argv[1:]]
    try:
        launch_command(launch_command_parser().parse_args(options))
    except ChildFailedError as error:
        return tell_failure(error.failures)
    except SignalException as stop:
        code = 128 + stop.sigval
        return code if stop.sigval == signal.SIGINT else say("interrupted", code)
    return 0


def tell_failure(failures: dict) -> int:
    """Say which process failed first, unless the script has said why; the exit code.

    `failures` are PyTorch's ProcessFailure by rank.
    """
    if 0 in failures and failures[0].exitcode == SAID:
        return SAID
    first = {rank: one for rank, one in failures.items() if one.exitcode not in STOPPED}
    rank, failure = min((first or failures).items(), key=lambda item: item[1].timestamp)
    code = failure.exitcode
    if code >= 0:
        return say(f"error: process {rank} ended with exit code {code}", code)
    killed = f"error: process {rank} was killed ({failure.signal_name()})"
    memory = ": has the memory run out? A smaller --per-device-train-batch-size needs less"
    return say(killed + (memory if code == -signal.SIGKILL else ""), 128 - code)


def say(message: str, code: int) -> int:
    """Print a line to stderr; the code."""
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
