"""Nothing lost: kills, full disks, two runs at once, Ctrl-C, secrets, numbers that are not finite.

The short version of tests/stress.py, together with tests/test_damage.py.
"""

import signal

import pytest
import torch

from tests.damage import (
    SEED,
    TRAINING,
    contents,
    refused,
    same,
    snapshot,
    step,
    with_settings,
)
from tests.steps import (
    full_disk,
    killed_before,
    not_a_number_after,
    singular_cores,
    start,
    wait_until,
)
from utils.artifacts import Saving, load, read_tensors
from utils.step import locked

# Kills

@pytest.mark.parametrize("script, function, nth", [
    *(("pretrain.py", "replace", nth) for nth in (2, 4, 7, 8)), ("pretrain.py", "unlink", 12),
    *(("gen_morphing_matrix.py", "replace", nth) for nth in (1, 2, 3)),
    *(("gen_augconv.py", "replace", nth) for nth in (2, 6, 7, 8, 9)),
    ("train_with_ac.py", "replace", 5), ("morph_images.py", "replace", 4),
    ("predict.py", "replace", 1)])
def test_killed_while_files_take_their_places(at, stages, script, function, nth):
    """Between the renames of one folder, or of several: the same command ends as if undisturbed."""
    data = at(script)
    assert step(script, data, before=killed_before(function, nth)).status == -signal.SIGKILL
    assert step(script, data).status == 0
    assert same(data, stages, script)


@pytest.mark.parametrize("nth, names", [(2, {"aug_conv.pt"}), (5, {
    "aug_conv.pt", "labels_train.npy", "labels_test.npy", "morphed_train.npy"})])
def test_half_a_delivery_is_not_taken_for_one(at, nth, names):
    """Of another key, killed between two renames over a finished one: who reads it says so."""
    data = at("end")
    before = snapshot(data / "delivery")
    more = ("--train_limit", "60", "--test_limit", "30", "--kappa", "3")
    assert step("gen_morphing_matrix.py", data, settings=more).status == 0
    assert step("gen_augconv.py", data, settings=more,
                before=killed_before("replace", nth)).status == -signal.SIGKILL
    after = snapshot(data / "delivery")
    assert {name for name in before if before[name] != after[name]} == names
    assert refused(step("train_with_ac.py", data, "--restart"), "aug_conv.pt is damaged, or not "
                   "the file", "run `python gen_augconv.py` again")
    assert step("gen_augconv.py", data, settings=more).status == 0
    assert step("train_with_ac.py", data).status == 0
    assert contents(data)


def test_killed_before_the_first_rename_the_old_files_are_whole(at, stages):
    data = at("end")
    before = snapshot(data / "provider")
    killed = step("gen_morphing_matrix.py", data, settings=("--kappa", "3"),
                  before=killed_before("replace", 1))
    assert killed.status == -signal.SIGKILL
    assert before.items() <= snapshot(data / "provider").items()
    assert step("gen_augconv.py", data).status == 0
    assert contents(data) == contents(stages["end"])


# Resuming

def test_going_on_where_it_stopped(at, stages):
    """Half-way, bit for bit, with a schedule, momentum and dropout."""
    data = at("unfinished")
    result = step("pretrain.py", data)
    assert "going on after epoch 1" in result.out and "epoch   1" not in result.out
    assert same(data, stages, "pretrain.py")
    assert not list(data.rglob("*checkpoint*"))


@pytest.mark.parametrize("name, value, words", [
    ("lr", "0.5", "lr = 0.003, not 0.5"), ("epochs", "3", "epochs = 2, not 3"),
    ("schedule", "halve", "schedule = 'onecycle', not 'halve'"), ("seed", "1", "seed = 0, not 1"),
    ("train_limit", "60", "other pixels"), ("test_limit", "16", "other pixels"),
    ("model", "vgg13", "model = 'vgg11', not 'vgg13'")])
def test_checkpoint_of_other_parameters(stages, name, value, words):
    data = stages["unfinished"]
    before = snapshot(data)
    result = step("pretrain.py", data, f"--{name}", value)
    assert refused(result, "pretrained.checkpoint.pt", words, "--restart")
    assert snapshot(data) == before


def test_restart_begins_anew(at, stages):
    data = at("unfinished")
    result = step("pretrain.py", data, "--restart")
    assert "going on" not in result.out and "epoch   1" in result.out
    assert same(data, stages, "pretrain.py")


@pytest.mark.parametrize("script", TRAINING)
def test_a_finished_run_says_so_and_changes_nothing(stages, script):
    before = snapshot(stages["end"])
    result = step(script, stages["end"])
    assert result.status == 0 and "finished already" in result.out
    assert snapshot(stages["end"]) == before


# Full disks

@pytest.mark.parametrize("script, name, size, nth", [
    *(("gen_morphing_matrix.py", name, 50, 1) for name in (
        "morphing_matrix.pt", "inverse_matrix.pt", "manifest.json")),
    *(("gen_augconv.py", name, 50, 1) for name in (
        "aug_conv.pt", "labels_train.npy", "morphed_test.npy", "channel_order.pt")),
    ("gen_augconv.py", "morphed_train.npy", 46_000, 1), ("gen_augconv.py", "labels_test", 200, 1),
    ("gen_augconv.py", "manifest.json", 50, 1), ("gen_augconv.py", "manifest.json", 50, 2),
    ("morph_images.py", "morphed.npy", 4000, 1), ("morph_images.py", "labels.npy", 150, 1),
    ("morph_images.py", "manifest.json", 50, 1), ("predict.py", "predictions.csv", 50, 1)])
def test_full_disk_leaves_all_as_it_was(stages, script, name, size, nth):
    """With other settings, so that every file would change; in the header of an array, and in the
    last of its rows, which a raw write would leave out without an error."""
    before = snapshot(stages["end"])
    more = ("--kappa", "3", "--train_limit", "60", "--test_limit", "30", "--predict_batch", "1")
    result = step(script, stages["end"], settings=more if script != "morph_images.py" else (),
                  before=full_disk(name, size, nth))
    assert refused(result, name, "File too large", "existing files are unchanged")
    assert snapshot(stages["end"]) == before


@pytest.mark.parametrize("name", ["queries-3x8x8.npy", "queries-3x8x8.json"])
def test_full_disk_for_decoded_images(at, stages, name):
    data = at("morph_images.py")
    assert refused(step("morph_images.py", data, before=full_disk(name)), name, "File too large")
    assert not list(data.rglob("*.partial"))
    assert step("morph_images.py", data).status == 0 and same(data, stages, "morph_images.py")


@pytest.mark.parametrize("script, name", [
    ("gen_augconv.py", "provider/morphed.png"), ("train_no_ac.py", "developer/no_ac.png"),
    ("predict.py", "developer/predictions/queries/confusion.png")])
def test_full_disk_for_a_picture_costs_no_more_than_it(at, stages, script, name):
    data = at(script)
    result = step(script, data, before=full_disk(name.split("/")[-1]))
    assert result.status == 0 and result.message.startswith("warning: ") and name in result.message
    assert same(data, stages, script, but=name)
    assert step(script, data, *(["--restart"] if script in TRAINING else [])).status == 0
    assert same(data, stages, script)


def test_full_disk_while_training(at, stages):
    """At the second checkpoint and at files of the end; with space again, it completes."""
    data = at("pretrain.py")
    result = step("pretrain.py", data, before=full_disk("pretrained.checkpoint.pt", 10**6, 2))
    assert refused(result, "pretrained.checkpoint.pt", "File too large")
    result = step("pretrain.py", data, before=full_disk("pretrained.pt", 10**6))
    assert "going on after epoch 1" in result.out
    before = snapshot(data)
    for name in ("first_layer.pt", "pretrained.csv", "pretrained.json", "manifest.json"):
        result = step("pretrain.py", data, before=full_disk(name, 20))
        assert refused(result, name, "File too large")
        assert snapshot(data) == before
    assert step("pretrain.py", data).status == 0
    assert same(data, stages, "pretrain.py")


def test_results_folder_that_cannot_be_written_loses_no_result(at, tmp_path):
    data, wrong = at("pretrain.py"), tmp_path / "results"
    wrong.write_text("a file")
    command = ("pretrain.py", data, "--epochs", "1", "--results_dir", wrong)
    assert refused(step(*command), str(wrong))
    wrong.unlink()
    result = step(*command)
    assert result.status == 0 and "going on after epoch 1" in result.out
    assert len(list(wrong.glob("*seed0.json"))) == 1


# One at a time, Ctrl-C

def test_two_runs_on_one_folder(at):
    """The second stops; the lock of a killed run does not stay behind."""
    data = at("pretrain.py")
    first = start("pretrain.py", "--data_dir", data, "--epochs", "1000",
                  settings=with_settings(data))
    wait_until(lambda: "training on" in first.out)
    assert refused(step("gen_morphing_matrix.py", data), "another step")
    assert not (data / "provider").exists()
    assert first.kill().status == -signal.SIGKILL
    assert step("gen_morphing_matrix.py", data).status == 0
    with locked(data):
        assert refused(step("gen_morphing_matrix.py", data), "another step")


def test_ctrl_c(at):
    data = at("pretrain.py")
    running = start("pretrain.py", "--data_dir", data, "--epochs", "1000",
                    settings=with_settings(data))
    checkpoint = data / "developer" / "pretrained.checkpoint.pt"
    wait_until(checkpoint.exists)
    running.send(signal.SIGINT)
    assert refused(running.wait(), "pretrain.py: stopped", "last finished epoch")
    assert not list(data.rglob("*.partial"))
    assert read_tensors(checkpoint, "")["curve"]


@pytest.mark.parametrize("function, nth", [("fsync", 2), ("replace", 2), ("replace", 3)])
def test_ctrl_c_while_saving(at, stages, function, nth):
    data = at("gen_morphing_matrix.py")
    command = ("gen_morphing_matrix.py", data)
    assert refused(step(*command, before=killed_before(function, nth, signal.SIGINT)), "stopped")
    assert not list(data.rglob("*.partial"))
    assert step(*command).status == 0 and same(data, stages, "gen_morphing_matrix.py")


# Secrets

def test_secrets_stay_with_the_provider(stages):
    """Neither the seed nor a piece of core, inverse or order is anywhere else, logs included."""
    provider = stages["end"] / "provider"
    assert provider.stat().st_mode & 0o777 == 0o700
    assert {f.name for f in provider.iterdir()} == {
        "manifest.json", "morphing_matrix.pt", "inverse_matrix.pt", "channel_order.pt",
        "morphed.png"}
    assert all(f.stat().st_mode & 0o777 == 0o600 for f in provider.iterdir())

    secret = [SEED.encode(), int(SEED).to_bytes(8, "little"), hex(int(SEED))[2:].encode()]
    for name in ("morphing_matrix", "inverse_matrix"):
        core = load(provider / f"{name}.pt")["core"]
        for rows in (core, core.T.contiguous(), core.double()):
            secret += [bytes(rows[i, 5:9].numpy()) for i in (0, 77, 191)]
        secret += [f"{core[0, 0]:.6g}".encode()]
    order = load(provider / "channel_order.pt")["order"]
    secret += [bytes(order[:4].numpy()), bytes(order[:4].int().numpy()),
               b", ".join(str(x).encode() for x in order[:5].tolist())]
    public = [f for folder in (stages["end"], stages["results"]) for f in folder.rglob("*")
              if f.is_file() and provider not in f.parents]
    assert len(public) > 20
    for file in public:
        content = file.read_bytes()
        assert not [x for x in secret if x in content], file
    own = (provider / "morphing_matrix.pt").read_bytes()
    assert any(x in own for x in secret), "the search would find nothing anywhere"


def test_permissions_do_not_depend_on_what_was_there(tmp_path):
    folder = tmp_path / "provider"
    folder.mkdir(mode=0o755)
    (folder / "channel_order.pt").touch(0o644)
    with Saving(folder, secret=True, anew=True) as new:
        new.save("channel_order.pt", {"order": torch.arange(3)})
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "channel_order.pt").stat().st_mode & 0o777 == 0o600


# Numbers

def test_loss_that_is_not_finite(at):
    """The epoch before is kept, whole, and the weights of the bad one are not."""
    data = at("pretrain.py")
    result = step("pretrain.py", data, "--epochs", "3",
                  before=not_a_number_after(7))          # the last of the second epoch's four
    assert refused(result, "not finite in epoch 2", "--lr", "--standardise")
    state = read_tensors(data / "developer" / "pretrained.checkpoint.pt", "")
    assert len(state["curve"]) == 1
    assert all(x.isfinite().all() for x in state["network"].values())
    result = step("pretrain.py", data, "--epochs", "3")
    assert result.status == 0 and "going on after epoch 1" in result.out


def test_ill_conditioned_core_is_drawn_again_a_few_times(at):
    data = at("gen_morphing_matrix.py")
    assert refused(step("gen_morphing_matrix.py", data, before=singular_cores(100)),
                   "in a row were numerically singular")
    assert not (data / "provider").exists()
    result = step("gen_morphing_matrix.py", data, before=singular_cores(3))
    assert result.status == 0
    assert float(result.out.split("condition number ")[1].split(",")[0]) < 1e5
