"""What happens beside a training of TRL: progress, looks at the policy, checkpoints, divergence."""

from collections.abc import Callable, Sequence
from pathlib import Path

from support.divergence import check_finite
from support.resuming import note_sizes


def watch(name: str, see: Callable[[int, object], None] | None, look_at: Sequence[int]):
    """A callback of transformers: the progress bar, and `see(step, model)` when it is time.

    The training stops with Diverged at the first loss or gradient that is not a number.
    """
    from accelerate import PartialState
    from tqdm import tqdm
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **_):
            hidden = None if state.is_world_process_zero else True  # None: shown in a terminal
            bar = {"total": state.max_steps, "initial": state.global_step, "desc": name}
            self.bar = tqdm(**bar, leave=False, disable=hidden)
            if see and not state.global_step:
                see(0, model)

        def on_log(self, args, state, control, logs=None, model=None, **_):
            if "loss" not in logs:  # at the very end: how long it took
                return
            self.bar.update()
            values = {"loss": logs["loss"], "gradient": logs.get("grad_norm", 0.0)}
            settings = {"learning rate": args.learning_rate, "beta": getattr(args, "beta", 0)}
            used = {what: value for what, value in settings.items() if value}
            check_finite(name, state.global_step, values, used)
            step = state.global_step
            due = step in look_at or (not look_at and step % state.eval_steps == 0)
            if see and (due or step == state.max_steps):
                see(step, model)

        def on_save(self, args, state, control, **_):
            PartialState().wait_for_everyone()  # each process has files of its own there
            if state.is_world_process_zero:
                note_sizes(Path(args.output_dir, f"checkpoint-{state.global_step}"))

        def on_train_end(self, args, state, control, **_):
            self.bar.close()

    return Watch()


def training_history(trainer) -> dict[str, list[float]]:
    """TRL's metrics of every step, by name."""
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    names = ["step", "loss", *(name for name in logs[0] if name.startswith("rewards/"))]
    history = {}
    for name in names:
        history[name] = [float(entry[name]) for entry in logs if name in entry]
    return history
