"""A run over several commands: whether it is finished, goes on or is replaced; what it leaves."""

from pathlib import Path

from torch import nn

from parameter import Parameters
from utils.artifacts import Saving, load, read_tensors, write_alone
from utils.devices import rank, say
from utils.errors import UserError, is_out_of_memory
from utils.networks import Trained
from utils.plots import curve_png, draw
from utils.records import (
    CHOSEN_DATA,
    CURVE,
    Run,
    choices_of,
    curve_csv,
    differences,
    in_words,
    make_record,
    option_of,
    read_record,
    record_name,
    to_json,
)
from utils.settings import Settings


def is_finished(run: Run, p: Settings) -> bool:
    """Whether this very run has left its result already, which is then said.

    An earlier result is replaced, with a line, if the user asks for another run: with other
    settings, or on other deliveries. If it differs in nothing that the user chose, but images,
    labels, the network's code or its first weights have changed on the disk, that may be a mistake,
    and hours of training would be lost: UserError, unless --restart. A precision that this
    processor chose by itself makes no other run, nor do the same images under another name.

    A checkpoint of this run means that it is not over. One of another run is kept where this run's
    result is there; otherwise `resume` refuses it. Raises UserError, too, if the result is damaged,
    or if --init is the file that this run writes.
    """
    refuse_own_result(run, p.init)
    if p.restart:
        give_up_checkpoint(run)
        return False
    has_checkpoint = run.checkpoint.exists()
    if has_checkpoint and not is_of_another_run(run):
        return False
    record = read_record(run.folder, run.name)
    if record is None:
        return False
    other = find_differences(run, record)
    chosen = [name for name in other if is_chosen(name, run, p, record)]
    if not chosen and set(other) <= {"precision"}:
        load(run.folder / f"{run.name}.pt")              # raises if it is damaged
        _say_finished(run, p, record, has_checkpoint)
        return True
    if has_checkpoint:
        return False
    if not chosen:
        raise UserError(f"{run.folder / run.name}.json is the result of a run with other "
                        f"{in_words(other)}: pass --restart to train on what is there now")
    _say_replaced(run, p, record, other)
    return False


def find_differences(run: Run, earlier: dict) -> list[str]:
    """What a run and an earlier record or identity differ in. The name of a data set does not
    count where its images and labels are the same."""
    other = differences(run.identity, earlier)
    if {"train_digest", "test_digest"} & set(other):
        return other
    return [name for name in other if name != "dataset"]


def give_up_checkpoint(run: Run):
    """Deletes a run's checkpoint, or it would come back if this run stops. Says so if another run
    left it."""
    if rank() > 0 or not run.checkpoint.exists():
        return
    try:
        if is_of_another_run(run):
            say(f"{run.checkpoint} of another run is given up")
    except UserError:                                    # a damaged one
        pass
    run.checkpoint.unlink()


def _say_finished(run: Run, p: Settings, record: dict, has_checkpoint: bool):
    """Also leaves the record in --results_dir, which the finished run may not have had."""
    precision = describe_precision(run, record)
    again = "--restart trains again"
    if has_checkpoint:
        again += f", and gives up {run.checkpoint} of another run"
    say(f"this run is finished already{precision}; {again}")
    if p.results_dir and rank() == 0:
        write_alone(Path(p.results_dir) / record_name(record), to_json(record))


def _say_replaced(run: Run, p: Settings, record: dict, other: list[str]):
    kept = ""
    if p.results_dir and (Path(p.results_dir) / record_name(record)).exists():
        kept = f" (its record is also in {p.results_dir})"
    say(f"the earlier {run.kind.title}, {record['accuracy']:.2%}, will be replaced: it had other "
        f"{in_words(other)}{kept}")


def refuse_own_result(run: Run, init: str):
    """Raises UserError where a run would write over the weights that it starts from: typed again,
    its command would be another run."""
    own = run.folder / f"{run.name}.pt"
    if init and Path(init).resolve() == own.resolve():
        raise UserError(f"--init {init} is the file that this run writes: copy it to another name "
                        "first")


def is_of_another_run(run: Run) -> bool:
    """Whether the checkpoint in a run's folder is of other settings or data than the run. A file
    that is no checkpoint of ours is refused by `resume`."""
    state = read_tensors(run.checkpoint, "pass --restart to begin again")
    try:
        return bool(find_differences(run, state["identity"]))
    except (KeyError, TypeError, AttributeError):
        return False


def describe_precision(run: Run, record: dict) -> str:
    """In words, a precision of an earlier run that is not what this processor would choose."""
    its, own = record["settings"]["precision"], run.settings["precision"]
    return "" if its == own else f", in {its} (--precision auto is {own} here)"


# By what a record has: the settings without whose change it may have changed all the same, such as
# by other files, or by a processor for which auto is another precision.
OF_IMAGES = ("dataset_dir", "pixel_range")
DECIDED_BY = {
    "precision": ("precision",), "init": ("init",), "frozen_layer": ("frozen_first_layer",),
    "train_images": ("train_limit", *OF_IMAGES), "test_images": ("test_limit", *OF_IMAGES),
    "train_digest": ("train_limit", *OF_IMAGES), "test_digest": ("test_limit", *OF_IMAGES),
    "class_names": OF_IMAGES}
PATHS = ("init", "frozen_first_layer", "dataset_dir")


def is_chosen(name: str, run: Run, p: Settings, record: dict) -> bool:
    """Whether the user has chosen what differs from an earlier run's record under this name.

    What a setting decides is chosen if the setting has changed, as an option or in parameter.py.
    If it has not, the images, a file's content or the processor have.
    """
    if name not in DECIDED_BY:
        return name in run.settings or name in CHOSEN_DATA
    now, earlier = choices_of(p), record["choices"]
    known = [setting for setting in DECIDED_BY[name] if setting in now and setting in earlier]
    return any(has_changed(setting, now[setting], earlier[setting]) for setting in known)


def has_changed(setting: str, now, earlier) -> bool:
    """Whether a setting has another value, as JSON has it; a path may be written in another way."""
    if setting in PATHS and now and earlier:
        return Path(now).resolve() != Path(earlier).resolve()
    return now != earlier


def resume(run: Run, network: nn.Module, optimizer, scheduler, restart: bool) -> list[dict]:
    """Goes on from a run's checkpoint if there is one; gives the curve so far.

    Raises UserError if the checkpoint is damaged, or of other settings or data.
    """
    if restart or not run.checkpoint.exists():
        return []
    state = read_tensors(run.checkpoint, "pass --restart to begin again")
    try:
        _check_same_run(run, state["identity"])
        if state["scheduler"].keys() != scheduler.state_dict().keys():  # it would take any
            raise ValueError
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        _check_momentum(optimizer)
        if any(tuple(epoch) != CURVE for epoch in state["curve"]):
            raise ValueError
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as wrong:
        if is_out_of_memory(wrong):
            raise
        raise UserError(f"{run.checkpoint} is of another network: pass --restart to begin "
                        "again") from None
    say(f"going on after epoch {len(state['curve'])}")
    return state["curve"]


def _check_same_run(run: Run, old: dict):
    """Raises UserError if an unfinished run had other settings or data."""
    other = find_differences(run, old)
    if not other:
        return
    name = other[0]
    if name in run.settings and name != "init":
        before = option_of(run, name, old["settings"][name])
        now = option_of(run, name, run.settings[name])
        what = f"{before}, not {now}"
    else:
        what = f"other {in_words([name])}"
    advice = "give the run up with --restart, which begins this one"
    if "deliveries" not in other:                        # an earlier delivery cannot be had back
        advice = f"set it back to continue that run, or {advice}"
    raise UserError(f"{run.checkpoint} is of an unfinished run with {what}: {advice}")


def _check_momentum(optimizer):
    """Raises ValueError if a momentum buffer does not fit its weight."""
    for weight, state in optimizer.state.items():
        buffer = state.get("momentum_buffer")
        if buffer is not None and buffer.shape != weight.shape:
            raise ValueError


def save_checkpoint(run: Run, network: nn.Module, optimizer, scheduler, curve: list[dict]):
    """One file, so that a kill leaves either the old or the new one; it checks itself when read."""
    if rank() > 0:
        return
    write_alone(run.checkpoint, {
        "network": network.state_dict(), "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(), "curve": curve, "identity": run.identity})


def save_result(run: Run, p: Parameters, curve: list[dict], trained: Trained,
                trained_parameters: int, more: dict[str, dict] | None = None):
    """Saves a trained network, the record of its run, and its curve; `more`: other files by name.

    The picture comes after all that counts, and the checkpoint is deleted last: a kill in between
    then loses nothing.
    """
    if rank() > 0:
        return
    record = make_record(run, p, curve, trained_parameters)
    if p.results_dir:
        path = Path(p.results_dir) / record_name(record)
        if path.exists():
            say(f"replacing the earlier record {path}")
        write_alone(path, to_json(record))
    with Saving(run.folder) as new:
        new.save(f"{run.name}.pt", trained.to_dict(run))
        for name, content in (more or {}).items():
            new.save(name, content)
        new.save(f"{run.name}.csv", curve_csv(curve))
        new.save(f"{run.name}.json", to_json(record))
    draw(run.folder / f"{run.name}.png", curve_png, curve,
         f"{run.kind.title}, {run.data['dataset']}")
    run.checkpoint.unlink(missing_ok=True)


