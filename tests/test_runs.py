"""What a run is: when a result is replaced, what tells runs apart, and what lines compare them."""

import copy
import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from parameter import Parameters
from tests.records import training_record
from utils import devices
from utils.artifacts import Saving, write_alone
from utils.delivery import standardiser
from utils.devices import Context, joined_processes
from utils.errors import UserError
from utils.examples import PreparedImages, Source
from utils.first_layers import FirstLayer
from utils.names import duration
from utils.records import (
    NEEDED,
    Run,
    choices_of,
    compare,
    differences,
    option_of,
    plain_data,
    record_name,
)
from utils.runs import is_finished
from utils.settings import Settings
from utils.training import check_batches, count_right, evaluate, say_accuracies

CONTEXT = Context(torch.device("cpu"))


def run_of(folder, record: dict) -> Run:
    """The run that a record is of."""
    return Run(folder, record["run"], record["settings"], record["data"],
               record["network_sample"], record["frozen_layer"])


def finished(folder, run: str = "pretrained", accuracy: float = 0.5, **changes) -> dict:
    """The record of a run that has left its result in the folder."""
    record = training_record(run, accuracy, **changes)
    with Saving(folder) as new:
        new.save(f"{run}.pt", {"network": {}})
        new.save(f"{run}.json", json.dumps(record))
    return record


def changed(record: dict, **changes) -> dict:
    """A copy of a record with other settings or data."""
    record = copy.deepcopy(record)
    for name, value in changes.items():
        place = record if name in record else record["settings"]
        if name in record["data"]:
            place = record["data"]
        assert name in place
        place[name] = value
    return record


# When a result is replaced

def test_a_run_that_has_left_its_result_is_not_trained_again(tmp_path, capsys):
    run = run_of(tmp_path, finished(tmp_path))
    assert is_finished(run, Settings())
    assert "finished already" in capsys.readouterr().out
    assert not is_finished(run, Settings(restart=True))


def test_an_unfinished_run_beside_it_does_not_hide_a_result(tmp_path, capsys):
    record = finished(tmp_path)
    run = run_of(tmp_path, record)
    longer = run_of(tmp_path, changed(record, epochs=9))
    write_alone(run.checkpoint, {"identity": longer.identity})
    assert is_finished(run, Settings())
    said = capsys.readouterr().out
    assert "finished already; --restart trains again, and gives up" in said
    assert run.checkpoint.exists()
    assert not is_finished(longer, Settings())           # it goes on
    assert not is_finished(run_of(tmp_path, changed(record, epochs=5)), Settings())
    write_alone(run.checkpoint, {"identity": run.identity})
    assert not is_finished(run, Settings())              # begun again, and not over


@pytest.mark.parametrize("more", [{}, {"precision": "bfloat16"}], ids=["alone", "precision"])
def test_the_same_images_under_another_name_are_the_same_run(tmp_path, capsys, more):
    record = finished(tmp_path)
    assert is_finished(run_of(tmp_path, changed(record, dataset="renamed", **more)), Settings())
    assert "finished already" in capsys.readouterr().out
    other = run_of(tmp_path, changed(record, dataset="renamed", test_digest="3" * 64))
    assert not is_finished(other, Settings())            # another data set


def test_restart_says_whose_checkpoint_it_gives_up(tmp_path, capsys):
    record = finished(tmp_path)
    run = run_of(tmp_path, record)
    write_alone(run.checkpoint, {"identity": run_of(tmp_path, changed(record, epochs=9)).identity})
    assert not is_finished(run, Settings(restart=True)) and not run.checkpoint.exists()
    assert "of another run is given up" in capsys.readouterr().out


@pytest.mark.parametrize("state", [{}, {"identity": {}}, {"identity": {"settings": 3}}])
def test_a_checkpoint_that_is_none_is_left_to_resume(tmp_path, state):
    run = run_of(tmp_path, finished(tmp_path))
    write_alone(run.checkpoint, state)
    assert not is_finished(run, Settings())


def test_a_choice_that_a_record_lacks_replaces_no_result(tmp_path):
    record = finished(tmp_path, choices={"precision": "auto"})
    with pytest.raises(UserError, match="other training images or labels: pass --restart"):
        is_finished(run_of(tmp_path, changed(record, train_digest="3" * 64)),
                    Settings(dataset_dir="elsewhere"))


@pytest.mark.parametrize("restart", [False, True])
def test_a_run_does_not_start_from_the_file_that_it_writes(tmp_path, restart):
    """Typed again, the same command would be another run."""
    run = run_of(tmp_path, finished(tmp_path))
    with pytest.raises(UserError, match="is the file that this run writes: copy it"):
        is_finished(run, Settings(init=str(tmp_path / "pretrained.pt"), restart=restart))


@pytest.mark.parametrize("run, changes, words", [
    ("pretrained", dict(epochs=9), "epochs"), ("pretrained", dict(seed=1, lr=0.5), "learning rate"),
    ("pretrained", dict(dataset="cifar100", train_digest="3" * 64), "dataset"),
    ("pretrained", dict(image_size=16, test_digest="3" * 64), "image size"),
    ("pretrained", dict(init="0" * 64), "starting weights"),
    ("with_ac", dict(deliveries=["another"], keys=["another"]), "delivery")])
def test_another_run_that_is_asked_for_replaces_the_result_with_a_line(
        tmp_path, capsys, run, changes, words):
    record = finished(tmp_path, run)
    assert not is_finished(run_of(tmp_path, changed(record, **changes)), Settings(init="a.pt"))
    out = capsys.readouterr().out
    assert "50.00%, will be replaced: it had other" in out and words in out


@pytest.mark.parametrize("run", ["pretrained", "with_ac"])
@pytest.mark.parametrize("changes, words", [
    (dict(train_digest="3" * 64), "training images or labels"),
    (dict(class_names=list("0123456789")), "classes"),
    (dict(train_images=9_999, train_digest="3" * 64), "number of training images"),
    (dict(network_sample=[1.0, -2.0, 52.0]), "code of the network")])
def test_a_result_is_not_replaced_because_files_have_changed(tmp_path, run, changes, words):
    record = finished(tmp_path, run)
    with pytest.raises(UserError, match=f"other .*{words}.*: pass --restart"):
        is_finished(run_of(tmp_path, changed(record, **changes)), Settings())


def choices(**changes) -> dict:
    """What the user had set for an earlier run; the defaults but for the changes."""
    return choices_of(Settings(**changes))


def test_other_weights_in_the_same_file_are_no_other_setting(tmp_path):
    record = finished(tmp_path, init="0" * 64, choices=choices(init="weights.pt"))
    run = run_of(tmp_path, changed(record, init="1" * 64))
    with pytest.raises(UserError, match="other starting weights: pass --restart"):
        is_finished(run, Settings(init="./weights.pt"))
    assert not is_finished(run, Settings(init="other.pt"))
    assert not is_finished(run_of(tmp_path, changed(record, init=None)), Settings())


def test_another_frozen_layer_is_asked_for_only_by_another_file(tmp_path):
    record = finished(tmp_path, "pretrained_frozen", choices=choices(frozen_first_layer="one.pt"))
    run = run_of(tmp_path, record | {"frozen_layer": "another"})
    with pytest.raises(UserError, match="other frozen first layer: pass --restart"):
        is_finished(run, Settings(frozen_first_layer="./one.pt"))
    assert not is_finished(run, Settings(frozen_first_layer="two.pt"))


FEWER = dict(train_images=300, train_digest="3" * 64)


@pytest.mark.parametrize("earlier, now", [(200, 300), (200, 0), (0, 300)])
def test_another_number_of_images_is_asked_for_by_a_limit(tmp_path, capsys, earlier, now):
    """As an option or in parameter.py: both end in the settings."""
    record = finished(tmp_path, choices=choices(train_limit=earlier))
    assert not is_finished(run_of(tmp_path, changed(record, **FEWER)), Settings(train_limit=now))
    assert "will be replaced: it had other number of training images" in capsys.readouterr().out


@pytest.mark.parametrize("earlier, now", [
    (dict(dataset_dir="a/images"), dict(dataset_dir="b/images")),
    (dict(), dict(pixel_range=(0.0, 200.0))), (dict(pixel_range=(0.0, 4095.0)), dict())])
def test_other_images_are_asked_for_by_their_folder_or_range(tmp_path, capsys, earlier, now):
    record = finished(tmp_path, choices=choices(**earlier))
    run = run_of(tmp_path, changed(record, train_digest="3" * 64))
    assert not is_finished(run, Settings(**now))
    assert "will be replaced: it had other training images" in capsys.readouterr().out
    with pytest.raises(UserError, match="pass --restart"):
        is_finished(run, Settings(**earlier))


@pytest.mark.parametrize("limit", [5000, 0])
def test_fewer_images_under_the_same_limit_are_no_other_run(tmp_path, limit):
    """Files are gone: no setting says that this is meant."""
    record = finished(tmp_path, choices=choices(train_limit=limit))
    with pytest.raises(UserError, match=r"other number of training images .*: pass --restart"):
        is_finished(run_of(tmp_path, changed(record, **FEWER)), Settings(train_limit=limit))


def test_a_precision_that_another_machine_chose_is_no_other_run(tmp_path, capsys):
    record = finished(tmp_path)
    run = run_of(tmp_path, changed(record, precision="bfloat16"))
    assert is_finished(run, Settings())
    assert ("finished already, in float32 (--precision auto is bfloat16 here)"
            in capsys.readouterr().out)
    other = run_of(tmp_path, changed(record, precision="bfloat16", train_digest="3" * 64))
    with pytest.raises(UserError, match="other precision and training images or labels"):
        is_finished(other, Settings())
    assert not is_finished(run, Settings(precision="bf16"))


def test_settings_that_parameter_py_lacks_are_no_choice():
    """A person may delete what the steps in use do not need."""
    @dataclass
    class Fewer:
        precision: str = "auto"

    assert choices_of(Fewer()) == {"precision": "auto"}


def test_a_record_of_another_version_is_named_in_a_line(tmp_path):
    """Whatever it lacks; and it is compared with nothing."""
    whole = finished(tmp_path)
    for name in NEEDED:
        with Saving(tmp_path) as new:
            record = {key: value for key, value in whole.items() if key != name}
            new.save("pretrained.json", json.dumps(record))
        with pytest.raises(UserError, match="is of another version of this program: pass --rest"):
            is_finished(run_of(tmp_path, whole), Settings())
    assert "of another version" in "".join(compare(tmp_path, ["pretrained"], []))


def test_a_record_is_said_to_be_elsewhere_only_if_it_is(tmp_path, capsys):
    record = finished(tmp_path / "developer")
    p = Settings(results_dir=str(tmp_path / "results"))
    run = run_of(tmp_path / "developer", changed(record, epochs=9))
    is_finished(run, p)
    assert "its record is also in" not in capsys.readouterr().out
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / record_name(record)).touch()
    is_finished(run, p)
    assert f"its record is also in {tmp_path}/results" in capsys.readouterr().out


# What tells runs apart

@pytest.mark.parametrize("run, name, value, option", [
    ("pretrained", "precision", "bfloat16", "--precision bf16"),
    ("pretrained", "weight_decay", 5e-6, "--weight_decay 5e-06"),
    ("with_ac", "weight_decay", 5e-7, "--morphed_weight_decay 5e-07"),
    ("no_ac", "standardise", True, "--standardise yes"),
    ("pretrained", "processes", 2, "torchrun --nproc_per_node 2"),
    ("pretrained", "processes", 1, "one process")])
def test_a_setting_is_named_as_it_is_typed(tmp_path, run, name, value, option):
    record = training_record(run, 0.5)
    assert option_of(run_of(tmp_path, record), name, value) == option


@pytest.mark.parametrize("other, same", [
    ([1.0, -2.0, 50.0], True), ([1.3, -2.3, 50.3], True), ([1.0, -2.0, 51.0], False),
    ([1.0, -2.0], False), ([1.0, -2.0, float("nan")], False)])
def test_networks_differ_if_logits_differ_by_more_than_rounding(other, same):
    """Measured by the largest logit: small ones have its rounding errors too."""
    one = training_record("pretrained", 0.5)
    assert (differences(one, one | {"network_sample": other}) == []) == same
    tiny, tenth = [1e-5, 1e-6], [1e-6, 1e-6]
    assert differences(one | {"network_sample": tiny}, one | {"network_sample": tenth})


def test_a_frozen_layer_is_named_before_the_networks_code():
    one = training_record("with_ac", 0.5)
    other = one | {"network_sample": [0.0, 0.0, 0.0], "frozen_layer": "another"}
    assert differences(one, other) == ["frozen_layer", "network_sample"]


def test_an_edited_network_of_ones_own_has_a_record_of_its_own():
    """Another processor's rounding does not make another network."""
    one = training_record("pretrained", 0.5, model="mine:net")
    rounded = one | {"network_sample": [1.0000001, -2.0, 50.00001]}
    edited = one | {"network_sample": [1.1, -2.0, 50.0]}
    assert record_name(one) == record_name(rounded) != record_name(edited)
    built_in = changed(one, model="vgg11")
    assert record_name(built_in) == record_name(built_in | {"network_sample": [0.0]})


def test_how_files_become_square_is_recorded_of_files_alone():
    class Split:
        images, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)
        classes, digest = ["a", "b"], ""

    fits = [plain_data(Parameters(dataset=name), name, Split, Split, (), ())["image_fit"]
            for name in ("folder", "cifar10", "arrays")]
    assert fits == ["crop", None, None]


# Lines that compare runs

def test_the_plain_network_is_compared_with_whatever_the_order(tmp_path):
    finished(tmp_path, "pretrained", 0.5)
    finished(tmp_path, "with_ac", 0.52)
    lines = compare(tmp_path, ["with_ac", "pretrained"], ["delivery 0"])
    assert "52.00%, 2.00 points above plain" in lines[0] and lines[1].endswith("50.00%")


def test_a_damaged_plain_record_is_said_to_be_damaged(tmp_path):
    finished(tmp_path, "pretrained")
    finished(tmp_path, "with_ac")
    (tmp_path / "pretrained.json").write_text("{}")
    plain, morphed = compare(tmp_path, ["pretrained", "with_ac"], [])
    assert "is damaged" in plain and "the plain network's record cannot be read" in morphed
    assert "no plain network" not in morphed


@pytest.mark.parametrize("own, asking, is_marked", [
    (["a"], ["a"], False), (["a", "b"], ["b", "a"], False), (["a", "b"], ["a"], True),
    (["a"], ["b"], True), (["a"], [], False)])
def test_a_run_on_other_deliveries_is_marked(tmp_path, own, asking, is_marked):
    finished(tmp_path, "with_ac", deliveries=own)
    [line] = compare(tmp_path, ["with_ac"], asking)
    assert line.endswith("(another delivery)") == is_marked


@pytest.mark.parametrize("run, frozen_layer, ending", [
    ("with_ac", "another", "below plain (the two differ in first layer)"),
    ("with_ac", "own", "below plain"), ("pretrained_frozen", "own", "below plain"),
    ("pretrained_frozen", "another", "below plain (the two differ in first layer)"),
    ("no_ac", None, "below plain")])
def test_a_run_behind_another_first_layer_than_the_plain_runs_says_so(
        tmp_path, run, frozen_layer, ending):
    layer = nn.Conv2d(3, 4, 3)
    first = FirstLayer(layer, (0.5,) * 3, (0.5,) * 3, 32, "crop", "vgg11", "cifar10", 10_000)
    finished(tmp_path, "pretrained", 0.5)
    with Saving(tmp_path) as new:
        new.save("first_layer.pt", first.to_dict())
    finished(tmp_path, run, 0.49,
             frozen_layer=first.fingerprint if frozen_layer == "own" else frozen_layer)
    [line] = compare(tmp_path, [run], ["delivery 0"])
    assert line.endswith(f"1.00 points {ending}")
    (tmp_path / "first_layer.pt").write_bytes(b"damaged")
    [line] = compare(tmp_path, [run], ["delivery 0"])
    assert line.endswith("1.00 points below plain")


# What training counts and says

@pytest.mark.parametrize("seconds, words", [
    (40, "40 s"), (89.6, "90 s"), (90, "2 min"), (3580, "1 h 0 min"), (7190, "2 h 0 min"),
    (5400, "1 h 30 min"), (86_390, "1 d 0 h"), (172_000, "1 d 23 h"), (172_790, "2 d 0 h")])
def test_a_duration_has_no_60_minutes_and_no_24_hours(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize("count, batch_size, world, words", [
    (1, 64, 1, "1 training images are too few: at least 2"), (7, 64, 4, "start fewer processes"),
    (1000, 3, 2, "--batch_size 4 or more or start fewer processes")])
def test_batches_too_small_for_batch_statistics_say_what_would_do(count, batch_size, world, words):
    with pytest.raises(UserError, match=words):
        check_batches(count, batch_size, world)
    check_batches(2 * world, 2 * world, world)


@pytest.fixture
def parts():
    """300 and then 400 images of one number, of which 200 and 100 have it for their label."""
    labels = torch.tensor([1] * 200 + [0] * 100 + [0] * 300 + [1] * 100)
    rows = torch.tensor([[0.0, 1.0]]).expand(len(labels), 2)
    return PreparedImages(Source(rows, lambda images: images), labels, CONTEXT)


def test_images_are_counted_between_any_two(parts):
    def forward(images):
        return images

    assert count_right(forward, parts, 0, 300, CONTEXT) == 200
    assert count_right(forward, parts, 300, 700, CONTEXT) == 100
    assert count_right(forward, parts, 199, 201, CONTEXT) == 1
    assert evaluate(forward, parts, CONTEXT) == 300 / 700


def test_two_providers_of_one_name_are_two(parts, capsys):
    say_accuracies(nn.Identity(), parts, [("delivery", 300), ("delivery", 400)], CONTEXT)
    assert capsys.readouterr().out.splitlines() == [
        "test accuracy on delivery: 66.67% of 300 images",
        "test accuracy on delivery: 25.00% of 400 images"]


@pytest.mark.parametrize("count", [1, 5])
def test_an_entry_that_never_changes_is_not_blown_up(count):
    values = torch.stack([torch.full((count,), 0.1), torch.zeros(count)], 1)
    standardise = standardiser(values, 1.0)
    assert standardise(values).abs().max() < 1e-6
    assert standardise(values + 0.5).sub(0.5).abs().max() < 1e-6


def test_processes_wait_for_hours_while_the_first_one_decodes(monkeypatch):
    waits = []
    monkeypatch.setattr(devices, "read_launch", lambda: devices.Launch(world=2))
    monkeypatch.setattr(devices.dist, "init_process_group",
                        lambda backend, timeout: waits.append(timeout))
    monkeypatch.setattr(devices.dist, "barrier", lambda: None)
    monkeypatch.setattr(devices.dist, "destroy_process_group", lambda: None)
    with joined_processes(Parameters(device="cpu")):
        pass
    assert waits[0].total_seconds() >= 3600
