"""Nothing lost: kills, full disks, two runs at once, Ctrl-C, secrets, numbers that are not finite.

The short version of tests/stress.py, together with tests/test_damage.py.
"""

import json
import shutil
import signal

import pytest
import torch
from utils.program import locked

from tests.damage import SEED, SETTINGS, TRAINING, refused, same, snapshot
from tests.steps import (
    free_memory,
    full_disk,
    killed_before,
    not_a_number_after,
    run,
    singular_cores,
    start,
    wait_until,
)
from utils.artifacts import Saving, load

# Kills

@pytest.mark.parametrize("script, renames", [
    ("pretrain.py", (2, 8)), ("gen_morphing_matrix.py", (1, 2, 3)), ("gen_augconv.py", (2, 6)),
    ("train_with_ac.py", (6,))])
def test_killed_while_files_take_their_places(at, stages, script, renames):
    """Between the renames of one folder, or of several: the same command ends as if undisturbed."""
    data = at(script)
    for nth in renames:
        command = (script, *SETTINGS, "--data_dir", data)
        assert run(*command, before=killed_before("replace", nth)).status == -signal.SIGKILL
        assert run(*command).status == 0
        assert same(data, stages, script)
        if nth != renames[-1]:
            shutil.rmtree(data)
            at(script)


def test_a_file_that_a_kill_left_under_its_temporary_name_is_found(at, stages):
    """The manifest is valid once it is renamed; the next step need not wait for a repetition."""
    data = at("gen_augconv.py")
    killed = run("gen_augconv.py", *SETTINGS, "--data_dir", data,
                 before=killed_before("replace", 3))
    assert killed.status == -signal.SIGKILL
    assert sorted(f.name for f in (data / "delivery").glob("*.partial")) == [
        "morphed_test.pt.partial", "morphed_train.pt.partial"]
    assert run("train_no_ac.py", *SETTINGS, "--data_dir", data).status == 0
    accuracy = json.loads((data / "developer" / "no_ac.json").read_text())["accuracy"]
    expected = json.loads((stages["end"] / "developer" / "no_ac.json").read_text())["accuracy"]
    assert accuracy == expected


def test_killed_before_the_manifest_is_renamed_the_old_files_are_whole(at):
    data = at("end")
    before = snapshot(data / "provider")
    killed = run("gen_morphing_matrix.py", *SETTINGS, "--kappa", "3", "--data_dir", data,
                 before=killed_before("replace", 1))
    assert killed.status == -signal.SIGKILL
    assert before.items() <= snapshot(data / "provider").items()
    load(data / "provider" / "morphing_matrix.pt")
    assert run("gen_augconv.py", *SETTINGS, "--data_dir", data).status == 0
    assert not list(data.rglob("*.partial"))


# Resuming

def test_going_on_where_it_stopped(at, stages):
    """Half-way, bit for bit, with a schedule, momentum and dropout."""
    data = at("unfinished")
    result = run("pretrain.py", *SETTINGS, "--data_dir", data)
    assert "going on after epoch 1" in result.out and "epoch   1" not in result.out
    assert same(data, stages, "pretrain.py")
    assert not list(data.rglob("*checkpoint*"))


@pytest.mark.parametrize("name, value", [("lr", "0.5"), ("epochs", "3"), ("train_limit", "60"),
                                         ("schedule", "halve"), ("seed", "1")])
def test_checkpoint_of_other_parameters(stages, name, value):
    data = stages["unfinished"]
    before = snapshot(data)
    result = run("pretrain.py", *SETTINGS, "--data_dir", data, f"--{name}", value)
    assert refused(result, "pretrained.checkpoint.pt", f" {name} = ", value, "--restart")
    assert snapshot(data) == before


def test_restart_begins_anew(at, stages):
    data = at("unfinished")
    result = run("pretrain.py", *SETTINGS, "--data_dir", data, "--restart")
    assert "going on" not in result.out and "epoch   1" in result.out
    assert same(data, stages, "pretrain.py")


@pytest.mark.parametrize("script", TRAINING)
def test_a_finished_run_says_so_and_changes_nothing(stages, script):
    before = snapshot(stages["end"])
    result = run(script, *SETTINGS, "--data_dir", stages["end"])
    assert result.status == 0 and "finished already" in result.out
    assert snapshot(stages["end"]) == before


# Full disks

@pytest.mark.parametrize("script, name, nth", [
    ("gen_morphing_matrix.py", "morphing_matrix.pt", 1),
    ("gen_morphing_matrix.py", "inverse_matrix.pt", 1),
    ("gen_morphing_matrix.py", "manifest.json", 1),
    *(("gen_augconv.py", name, 1) for name in ("aug_conv.pt", "morphed_train.pt",
                                               "morphed_test.pt", "channel_order.pt",
                                               "morphed.png")),
    *(("gen_augconv.py", "manifest.json", nth) for nth in (1, 2, 3))])
def test_full_disk_leaves_all_as_it_was(stages, script, name, nth):
    """With other parameters, so that every file would change."""
    before = snapshot(stages["end"])
    more = ("--kappa", "3", "--morph_seed", "8", "--train_limit", "60", "--test_limit", "30")
    result = run(script, *SETTINGS, *more, "--data_dir", stages["end"],
                 before=full_disk(name, 50, nth))
    assert refused(result, name, "File too large", "was there before is whole")
    assert snapshot(stages["end"]) == before


def test_full_disk_while_training(at, stages):
    """At the second checkpoint and at files of the end; with space again, it completes."""
    data = at("pretrain.py")
    command = ("pretrain.py", *SETTINGS, "--data_dir", data)
    result = run(*command, before=full_disk("pretrained.checkpoint.pt", 10**6, 2))
    assert refused(result, "pretrained.checkpoint.pt", "File too large")
    load(data / "developer" / "pretrained.checkpoint.pt")
    assert "going on after epoch 1" in run(*command, before=full_disk("pretrained.pt", 10**6)).out
    before = snapshot(data)
    for name in ("first_layer.pt", "pretrained.json", "manifest.json"):
        assert refused(run(*command, before=full_disk(name, 20)), name, "File too large")
        assert snapshot(data) == before
    assert run(*command).status == 0
    assert same(data, stages, "pretrain.py")


def test_results_folder_that_cannot_be_written_loses_no_result(at, tmp_path):
    data, wrong = at("pretrain.py"), tmp_path / "results"
    wrong.write_text("a file")
    command = ("pretrain.py", *SETTINGS, "--epochs", "1", "--data_dir", data,
               "--results_dir", wrong)
    assert refused(run(*command), str(wrong))
    wrong.unlink()
    result = run(*command)
    assert result.status == 0 and "going on after epoch 1" in result.out
    assert len(list(wrong.glob("*seed0.json"))) == 1


# One at a time, Ctrl-C

def test_two_runs_on_one_folder(at):
    """The second stops; the lock of a killed run does not stay behind."""
    data = at("pretrain.py")
    first = start("pretrain.py", *SETTINGS, "--epochs", "1000", "--data_dir", data)
    wait_until(lambda: "training on" in first.out)
    assert refused(run("gen_morphing_matrix.py", *SETTINGS, "--data_dir", data), "another step")
    assert not (data / "provider").exists()
    assert first.kill().status == -signal.SIGKILL
    assert run("gen_morphing_matrix.py", *SETTINGS, "--data_dir", data).status == 0
    with locked(data):
        assert refused(run("gen_morphing_matrix.py", *SETTINGS, "--data_dir", data), "another step")


def test_ctrl_c(at):
    data = at("pretrain.py")
    step = start("pretrain.py", *SETTINGS, "--epochs", "1000", "--data_dir", data)
    checkpoint = data / "developer" / "pretrained.checkpoint.pt"
    wait_until(checkpoint.exists)
    step.send(signal.SIGINT)
    assert refused(step.wait(), "pretrain.py: stopped", "last finished epoch")
    assert not list(data.rglob("*.partial"))
    load(checkpoint)


@pytest.mark.parametrize("function, nth", [("fsync", 2), ("replace", 2), ("replace", 3)])
def test_ctrl_c_while_saving(at, stages, function, nth):
    data = at("gen_morphing_matrix.py")
    command = ("gen_morphing_matrix.py", *SETTINGS, "--data_dir", data)
    assert refused(run(*command, before=killed_before(function, nth, signal.SIGINT)), "stopped")
    assert not list(data.rglob("*.partial"))
    assert run(*command).status == 0 and same(data, stages, "gen_morphing_matrix.py")


# Secrets

def test_secrets_stay_with_the_provider(stages):
    """Neither the seed nor a piece of core, inverse or order is anywhere else, logs included."""
    provider = stages["end"] / "provider"
    assert provider.stat().st_mode & 0o777 == 0o700
    assert {f.name for f in provider.iterdir()} == {
        "manifest.json", "morphing_matrix.pt", "inverse_matrix.pt", "channel_order.pt"}
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


# Numbers and memory

def test_loss_that_is_not_finite(at):
    """The epoch before is kept, whole, and the weights of the bad one are not."""
    data = at("pretrain.py")
    result = run("pretrain.py", *SETTINGS, "--epochs", "3", "--data_dir", data,
                 before=not_a_number_after(7))           # the last of the second epoch's four
    assert refused(result, "not finite in epoch 2", "--lr", "--standardise")
    state = load(data / "developer" / "pretrained.checkpoint.pt")
    assert len(state["curve"]) == 1
    assert all(x.isfinite().all() for x in state["network"].values())
    result = run("pretrain.py", *SETTINGS, "--epochs", "3", "--data_dir", data)
    assert result.status == 0 and "going on after epoch 1" in result.out


def test_ill_conditioned_core_is_drawn_again_a_few_times(at):
    data = at("gen_morphing_matrix.py")
    command = ("gen_morphing_matrix.py", *SETTINGS, "--data_dir", data)
    assert refused(run(*command, before=singular_cores(100)), "in a row were numerically singular")
    assert not (data / "provider").exists()
    result = run(*command, before=singular_cores(3))
    assert result.status == 0
    assert float(result.out.split("condition number ")[1].split(",")[0]) < 1e5


def test_memory_says_what_would_fit_and_it_does(at):
    data = at("gen_augconv.py")
    command = ("gen_morphing_matrix.py", *SETTINGS, "--data_dir", data)
    free = free_memory(48 * 70 ** 2)                     # a core 70x70 and no larger
    assert refused(run(*command, before=free), "a core of 192x192", "--kappa 3 would fit")
    assert run(*command, "--kappa", "3", before=free).status == 0
    command = ("gen_augconv.py", *SETTINGS, "--data_dir", data)
    free = free_memory(4 * 192 * (64 * 64 + 50) + 5 * 10**8)
    assert refused(run(*command, before=free), "96 morphed images", "50 images would fit")
    limits = ("--train_limit", "40", "--test_limit", "10")
    assert run(*command, *limits, before=free).status == 0
    command = ("train_with_ac.py", *SETTINGS, "--feature_cache", "on", "--data_dir", data)
    assert refused(run(*command, before=free_memory(10**4)), "morphed images", "fewer")
    result = run(*command, before=free_memory(10**5))
    assert result.status == 1 and "--feature_cache off" in result.message
