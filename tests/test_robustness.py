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
    key_folder,
    refused,
    same,
    snapshot,
    step,
    stopped,
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

# A step, and the file before whose rename, write or removal it is killed.
KILLS = [
    ("pretrain.py", "rename", "pretrained.checkpoint.pt"),
    ("pretrain.py", "rename", "developer/first_layer.pt"),
    ("pretrain.py", "rename", "developer/manifest.json"),
    ("pretrain.py", "write", "pretrained.png"),
    ("pretrain.py", "remove", "pretrained.checkpoint.pt"),
    ("gen_morphing_matrix.py", "rename", "morphing_matrix.pt"),
    ("gen_morphing_matrix.py", "rename", "manifest.json"),
    ("gen_morphing_matrix.py", "rename", "provider/current.json"),
    ("gen_augconv.py", "rename", "delivery/labels_train.npy"),
    ("gen_augconv.py", "rename", "delivery/manifest.json"),
    ("gen_augconv.py", "rename", "channel_order.pt"),
    ("gen_augconv.py", "rename", "morphed.png"),
    ("train_with_ac.py", "rename", "developer/with_ac.json"),
    ("morph_images.py", "rename", "queries/labels.npy"),
    ("morph_images.py", "rename", "queries/manifest.json"),
    ("morph_images.py", "write", "names-queries.csv"),
    ("predict.py", "rename", "predictions.csv")]


@pytest.mark.parametrize("script, call, file", KILLS)
def test_killed_while_files_are_saved(at, stages, script, call, file):
    """Between the renames of one folder, or of several: the same command ends as if undisturbed."""
    data = at(script)
    killed = step(script, data, before=killed_before(call, file))
    assert killed.status == -signal.SIGKILL
    assert step(script, data).status == 0
    assert same(data, stages, script)


@pytest.mark.parametrize("file, renamed", [
    ("delivery/labels_train.npy", {"aug_conv.pt"}),
    ("delivery/manifest.json", {"aug_conv.pt", "labels_train.npy", "labels_test.npy",
                                "morphed_train.npy", "morphed_test.npy"})])
def test_half_a_delivery_is_not_taken_for_one(at, file, renamed):
    """Of another key, killed between two renames over a finished one: who reads it says so."""
    data = at("end")
    before = snapshot(data / "delivery")
    more = ("--train_limit", "60", "--test_limit", "30", "--kappa", "3")
    assert step("gen_morphing_matrix.py", data, settings=more).status == 0
    killed = step("gen_augconv.py", data, settings=more, before=killed_before("rename", file))
    assert killed.status == -signal.SIGKILL
    after = snapshot(data / "delivery")
    assert {name for name in before if before[name] != after[name]} == renamed
    assert refused(step("train_with_ac.py", data, "--restart"), "aug_conv.pt is damaged, or not "
                   "the file", "run `python gen_augconv.py` again")
    assert step("gen_augconv.py", data, settings=more).status == 0
    assert step("train_with_ac.py", data).status == 0
    assert contents(data)


def test_a_key_that_was_half_saved_does_not_become_the_current_one(at, stages):
    data = at("end")
    before = snapshot(data / "provider")
    for file in ("morphing_matrix.pt", "current.json"):
        killed = step("gen_morphing_matrix.py", data, settings=("--kappa", "3"),
                      before=killed_before("rename", file))
        assert killed.status == -signal.SIGKILL
        assert before.items() <= snapshot(data / "provider").items()
    assert step("gen_augconv.py", data).status == 0
    assert (contents(data / "delivery")) == contents(stages["end"] / "delivery")


# Resuming

def test_going_on_where_it_stopped(at, stages):
    """Half-way, bit for bit, with a schedule, momentum and dropout."""
    data = at("unfinished")
    result = step("pretrain.py", data)
    assert "going on after epoch 1" in result.out and "epoch   1" not in result.out
    assert same(data, stages, "pretrain.py")
    assert not list(data.rglob("*checkpoint*"))


@pytest.mark.parametrize("name, value, words", [
    ("lr", "0.5", "--lr 0.003, not --lr 0.5"), ("epochs", "3", "--epochs 2, not --epochs 3"),
    ("schedule", "halve", "--schedule onecycle, not"), ("seed", "1", "--seed 0, not --seed 1"),
    ("precision", "bf16", "--precision fp32, not --precision bf16"),
    ("train_limit", "60", "other number of training images"),
    ("test_limit", "16", "other number of test images"),
    ("dropout", "0.2", "--dropout 0.1, not"), ("augment", "crop", "--augment none, not"),
    ("model", "vgg11", "--model vgg_small, not --model vgg11")])
def test_checkpoint_of_other_settings(stages, name, value, words):
    data = stages["unfinished"]
    before = snapshot(data)
    result = step("pretrain.py", data, f"--{name}", value)
    assert refused(result, "pretrained.checkpoint.pt", words, "--restart")
    assert snapshot(data) == before


def test_restart_begins_again(at, stages):
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

@pytest.mark.parametrize("script, file, size", [
    ("gen_morphing_matrix.py", "morphing_matrix.pt", 50),
    ("gen_morphing_matrix.py", "inverse_matrix.pt", 50),
    ("gen_morphing_matrix.py", "manifest.json", 50),
    ("gen_augconv.py", "aug_conv.pt", 50), ("gen_augconv.py", "labels_train.npy", 50),
    ("gen_augconv.py", "labels_test.npy", 200), ("gen_augconv.py", "morphed_train.npy", 46_000),
    ("gen_augconv.py", "morphed_test.npy", 50), ("gen_augconv.py", "channel_order.pt", 50),
    ("gen_augconv.py", "delivery/manifest.json", 50),
    ("gen_augconv.py", "{key}/manifest.json", 50),
    ("morph_images.py", "morphed.npy", 4000), ("morph_images.py", "labels.npy", 150),
    ("morph_images.py", "manifest.json", 50), ("predict.py", "predictions.csv", 50)])
def test_full_disk_leaves_all_as_it_was(stages, script, file, size):
    """With other settings, so that every file would change; in the header of an array, and in the
    last of its rows, which a raw write would leave out without an error."""
    data = stages["end"]
    before = snapshot(data)
    more = ()
    if script == "gen_augconv.py":
        more = ("--train_limit", "60", "--test_limit", "30", "--delivery_dtype", "float32")
    if script == "gen_morphing_matrix.py":
        more = ("--kappa", "3")
    file = file.format(key=key_folder(data).name)
    result = step(script, data, settings=more, before=full_disk(file, size))
    assert refused(result, file, "File too large", "no file is half written")
    assert snapshot(data) == before


def test_full_disk_for_the_name_of_the_current_key(at, stages):
    """The new key lies there, and is not used."""
    data = at("end")
    before = snapshot(data)
    result = step("gen_morphing_matrix.py", data, settings=("--kappa", "3"),
                  before=full_disk("current.json", 5))
    assert refused(result, "current.json", "File too large")
    assert before.items() <= snapshot(data).items()
    assert step("gen_augconv.py", data).status == 0
    assert contents(data / "delivery") == contents(stages["end"] / "delivery")


@pytest.mark.parametrize("name", ["queries-3x8x8.npy", "queries-3x8x8.json"])
def test_full_disk_for_decoded_images(at, stages, name):
    data = at("morph_images.py")
    assert refused(step("morph_images.py", data, before=full_disk(name)), name, "File too large")
    assert not list(data.rglob("*.partial"))
    assert step("morph_images.py", data).status == 0 and same(data, stages, "morph_images.py")


@pytest.mark.parametrize("script, name", [
    ("gen_augconv.py", "{key}/morphed.png"), ("train_no_ac.py", "developer/no_ac.png"),
    ("predict.py", "developer/predictions/with_ac/queries/confusion.png")])
def test_full_disk_for_a_picture_costs_no_more_than_it(at, stages, script, name):
    data = at(script)
    key = key_folder(stages["end"]).relative_to(stages["end"])
    name = name.format(key=key)
    result = step(script, data, before=full_disk(name))
    assert result.status == 0 and result.message.startswith("warning: ") and name in result.message
    assert same(data, stages, script, but=name)
    restart = ["--restart"] if script in TRAINING else []
    assert step(script, data, *restart).status == 0
    assert same(data, stages, script)


def test_full_disk_while_training(at, stages):
    """At the second checkpoint and at files of the end; with space again, it completes."""
    data = at("pretrain.py")
    result = step("pretrain.py", data, before=full_disk("pretrained.checkpoint.pt", 10**5, nth=2))
    assert refused(result, "pretrained.checkpoint.pt", "File too large")
    result = step("pretrain.py", data, before=full_disk("pretrained.pt", 10**5))
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
    assert stopped(running.wait(), "pretrain.py: stopped", "last checkpoint")
    assert not list(data.rglob("*.partial"))
    assert read_tensors(checkpoint, "")["curve"]


@pytest.mark.parametrize("call, file", [
    ("flush", "inverse_matrix.pt"), ("rename", "inverse_matrix.pt"), ("rename", "manifest.json")])
def test_ctrl_c_while_saving(at, stages, call, file):
    data = at("gen_morphing_matrix.py")
    command = ("gen_morphing_matrix.py", data)
    assert stopped(step(*command, before=killed_before(call, file, by=signal.SIGINT)))
    assert not list(data.rglob("*.partial"))
    assert step(*command).status == 0 and same(data, stages, "gen_morphing_matrix.py")


# Secrets

def test_secrets_stay_with_the_provider(stages):
    """Neither the seed nor a piece of core, inverse or order is anywhere else, logs included."""
    provider = stages["end"] / "provider"
    key = key_folder(stages["end"])
    for path in (provider, *provider.rglob("*")):
        others = path.stat().st_mode & 0o077
        assert not others or path == provider / "keys", path     # no one enters provider/
    assert {file.name for file in key.iterdir()} == {
        "manifest.json", "morphing_matrix.pt", "inverse_matrix.pt", "channel_order.pt",
        "morphed.png"}

    secret = [SEED.encode(), int(SEED).to_bytes(8, "little"), hex(int(SEED))[2:].encode()]
    for name in ("morphing_matrix", "inverse_matrix"):
        core = load(key / f"{name}.pt")["core"]
        for rows in (core, core.T.contiguous(), core.double()):
            secret += [bytes(rows[i, 5:9].numpy()) for i in (0, 77, 191)]
        secret += [f"{core[0, 0]:.6g}".encode()]
    order = load(key / "channel_order.pt")["order"]
    secret += [bytes(order[:4].numpy()), bytes(order[:4].int().numpy()),
               b", ".join(str(x).encode() for x in order[:5].tolist())]
    public = [f for folder in (stages["end"], stages["results"]) for f in folder.rglob("*")
              if f.is_file() and provider not in f.parents]
    assert len(public) > 20
    for file in public:
        content = file.read_bytes()
        assert not [x for x in secret if x in content], file
    own = (key / "morphing_matrix.pt").read_bytes()
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
    assert refused(result, "not finite in epoch 2", "last checkpoint", "--restart", "lower --lr")
    assert "--standardise" not in result.err             # a setting of morphed images
    state = read_tensors(data / "developer" / "pretrained.checkpoint.pt", "")
    assert len(state["curve"]) == 1
    assert all(x.isfinite().all() for x in state["network"].values())
    result = step("pretrain.py", data, "--epochs", "3")
    assert result.status == 0 and "going on after epoch 1" in result.out


def test_ill_conditioned_core_is_drawn_again_a_few_times(at):
    data = at("gen_morphing_matrix.py")
    assert refused(step("gen_morphing_matrix.py", data, before=singular_cores(100)),
                   "in a row had condition numbers above")
    assert not (data / "provider").exists()
    result = step("gen_morphing_matrix.py", data, before=singular_cores(3))
    assert result.status == 0
    assert float(result.out.split("condition number ")[1].split(",")[0]) < 1e5
