"""Settings: the reference's by default, from the command line, and mistakes in one line."""

from dataclasses import asdict, dataclass, fields, replace

import pytest

from parameter import PRESETS, Parameters
from tests.steps import INFERENCE, STEPS
from utils import settings as cli
from utils.provenance import provenance
from utils.records import identity
from utils.settings import check, documented, parse, steps_of

TRAINING = ("pretrain.py", "train_with_ac.py", "train_no_ac.py")


def test_defaults_are_the_references():
    p = Parameters()
    assert (p.dataset, p.model, p.momentum, p.batch_size, p.lr, p.decay_epochs, p.epochs) == (
        "cifar10", "vgg16", 0.9, 64, 0.001, 60, 300)
    assert (p.dropout, p.weight_decay, p.kappa, p.morph_distribution, p.image_padding) == (
        0.5, 5e-6, 1, "uniform", 0)
    assert p.morphed_weight_decay == pytest.approx(p.weight_decay / 10)
    assert (p.tile, p.delivery_dtype, p.shuffle_channels) == (0, "float32", True)
    assert p.morph_seed is None and p.schedule == "halve" and check(p) == p


def demo():
    return replace(Parameters(), **{name: new for name, (_, new) in PRESETS["demo"].items()})


def test_command_line_over_preset_over_default():
    assert parse("", []) == Parameters()
    assert parse("", ["--preset", "demo"]) == demo() != Parameters()
    assert parse("", ["--lr", "0.5", "--preset", "demo"]).lr == 0.5
    assert parse("", ["--morph_seed", "12345678901234567890123"]).morph_seed > 2**64
    assert parse("", ["--morph_seed", "none"]).morph_seed is None
    assert parse("", ["--shuffle_channels", "no"]).shuffle_channels is False
    assert parse("", ["--pixel_range", "-5", "1e3"]).pixel_range == (-5, 1000)
    assert parse("", ["--delivery", "a", "b", "--delivery", "c"]).delivery == ("a", "b", "c")


def test_an_edited_default_over_a_preset(monkeypatch):
    """A person who sweeps epochs by editing the file keeps them under --preset demo."""
    @dataclass(frozen=True)
    class Edited(Parameters):
        epochs: int = 7

    documented()                                         # which reads the source of the class
    monkeypatch.setattr(cli, "Parameters", Edited)
    assert asdict(parse("", ["--preset", "demo"])) == asdict(demo()) | {"epochs": 7}


def test_a_home_folder_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    p = parse("", ["--data_dir", "~/mole", "--images", "~/a.png", "b.png"])
    assert p.data_dir == "/home/somebody/mole" and p.images == ("/home/somebody/a.png", "b.png")


def test_every_setting_is_documented_and_belongs_to_steps_that_there_are():
    known = {*STEPS, *INFERENCE, "attack.py", "reproduce_tables.py"}
    listed = [name for _, _, settings in documented() for name in settings]
    assert listed == [field.name for field in fields(Parameters)]
    for field in fields(Parameters):
        assert steps_of(field.name) == ["every", "step"] or set(steps_of(field.name)) <= known


@pytest.mark.parametrize("step", [*STEPS, *INFERENCE])
def test_help_lists_each_setting_with_default_and_meaning(step, capsys):
    """A step's own settings first, then the others with the steps that use them."""
    with pytest.raises(SystemExit) as stop:
        parse("what the step does", ["--help"], step)
    text = "".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and "whatthestepdoes" in text
    own, others = text.split("notusedhere", 1)
    for _, steps, settings in documented():
        for name, meaning in settings.items():
            entry = f"{meaning} (default: {getattr(Parameters(), name)})".replace(" ", "")
            assert f"--{name}" in text
            assert entry in (own if step in steps or steps == ["every", "step"] else others), name


@pytest.mark.parametrize("step", [*STEPS, *INFERENCE])
def test_a_setting_that_a_step_does_not_use_is_refused_by_name(step, capsys):
    """It would promise what does not happen; the line says which steps it is for."""
    for _, steps, settings in documented():
        if step not in steps and steps != ["every", "step"]:
            name = next(iter(settings))
            default = getattr(Parameters(), name)
            with pytest.raises(SystemExit) as stop:
                parse("", [f"--{name}", *(["0", "1"] if name == "pixel_range" else
                          ["yes"] if type(default) is bool else [str(default or 1)])], step)
            error = capsys.readouterr().err
            assert stop.value.code == 2 and error.count("\n") == 1, error
            assert f"--{name} is not used here, but by {', '.join(steps)}" in error


@pytest.mark.parametrize("arguments, message", [
    (["--kapa", "3"], "--kapa"), (["--epoch", "3"], "--epoch"), (["--epochs", "ten"], "epochs"),
    (["--epochs", "0"], "epochs"), (["--epochs", "1.5"], "epochs"), (["--lr", "nan"], "lr"),
    (["--dropout", "1"], "dropout"), (["--batch_size", "1"], "batch_size"),
    (["--preset", "fast"], "fast"), (["--kappa", "-1"], "kappa"), (["--tile", "-1"], "tile"),
    (["--image_size", "3"], "image_size"), (["--channels", "2"], "channels"),
    (["--seed", "-1"], "seed"), (["--predict_batch", "0"], "predict_batch"),
    (["--shuffle_channels", "maybe"], "maybe"), (["--delivery_dtype", "int4"], "int4"),
    (["--pixel_range", "5", "5"], "pixel_range"), (["--pixel_range", "0"], "pixel_range"),
    (["--max_pixels", "0"], "max_pixels"), (["--images"], "images"), (["stray"], "stray")])
def test_a_mistake_ends_with_one_line_and_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse("", arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


@pytest.mark.parametrize("wrong", [
    dict(epochs=2.0), dict(lr="fast"), dict(restart=1), dict(morph_seed=-1), dict(channels=True),
    dict(images="cat.png"), dict(delivery=("a", 1)), dict(pixel_range=(1, 0)),
    dict(pixel_range=5), dict(pixel_range=("0", "1")), dict(init=None), dict(precision="fp16")])
def test_a_wrong_value_edited_into_the_file_is_named(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is "):
        check(Parameters(**wrong))


def test_records_do_not_tell_the_secret_seed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gen_augconv.py", "--morph_seed", "987654321"])
    p = Parameters(morph_seed=987654321)
    assert "987654321" not in str(provenance(p))
    monkeypatch.setattr("sys.argv", ["gen_augconv.py", "--morph_seed=987654321"])
    assert "987654321" not in str(provenance(p))
    assert all("morph_seed" not in identity(p, step) for step in TRAINING)


def test_a_run_is_another_where_what_it_computes_is():
    """Whatever a training step is told; not where its files lie or what it runs on."""
    p = Parameters()
    for step in TRAINING:
        used = {name for name in asdict(p) if step in steps_of(name)}
        assert {"model", "epochs", "lr", "seed", "precision"} <= identity(p, step).keys() <= used
        assert not {"data_dir", "device", "restart", "dataset_dir"} & identity(p, step).keys()
