"""Settings: the reference's by default, from the command line, and mistakes in one line."""

from dataclasses import fields

import pytest

from parameter import PRESETS, Parameters, parse


def test_defaults_are_the_references():
    p = Parameters()
    assert (p.dataset, p.model, p.momentum, p.batch_size, p.lr, p.decay_epochs, p.epochs) == (
        "cifar10", "vgg16", 0.9, 64, 0.001, 60, 300)
    assert (p.dropout, p.weight_decay, p.kappa, p.morph_distribution, p.image_padding) == (
        0.5, 5e-6, 1, "uniform", 0)
    assert p.morphed_weight_decay == pytest.approx(p.weight_decay / 10)
    assert p.morph_seed is None and p.schedule == "halve"


def test_command_line_over_preset_over_default():
    assert parse("", []) == Parameters()
    demo = parse("", ["--preset", "demo"])
    assert demo == Parameters(**PRESETS["demo"]) != Parameters()
    assert parse("", ["--lr", "0.5", "--preset", "demo"]).lr == 0.5
    assert parse("", ["--morph_seed", "12345678901234567890123"]).morph_seed > 2**64
    assert parse("", ["--morph_seed", "none"]).morph_seed is None


def test_help_lists_each_setting_with_default_and_meaning(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("what the step does", ["--preset", "demo", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and "what the step does" in text
    for field in fields(Parameters):
        default = PRESETS["demo"].get(field.name, field.default)
        meaning = " ".join(field.metadata["help"].split())
        assert f"--{field.name}" in text
        assert f"{meaning} (default: {default})".replace(" ", "") in text.replace(" ", "")


@pytest.mark.parametrize("arguments, message", [
    (["--kapa", "3"], "--kapa"), (["--epoch", "3"], "--epoch"), (["--epochs", "ten"], "epochs"),
    (["--epochs", "0"], "epochs"), (["--epochs", "1.5"], "epochs"), (["--lr", "nan"], "lr"),
    (["--dropout", "1"], "dropout"), (["--batch_size", "1"], "batch_size"),
    (["--preset", "fast"], "fast"), (["--model", "resnet"], "resnet"), (["--kappa", "-1"], "kappa"),
    (["--image_size", "64"], "image_size"), (["--seed", "-1"], "seed"), (["stray"], "stray")])
def test_a_mistake_ends_with_one_line_and_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse("", arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


@pytest.mark.parametrize("wrong", [dict(epochs=2.0), dict(lr="fast"), dict(restart=1),
                                   dict(morph_seed=-1), dict(dataset="mnist")])
def test_a_wrong_value_edited_into_the_file_is_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Parameters(**wrong)


def test_records_do_not_tell_the_secret_seed():
    assert 987654321 not in Parameters(morph_seed=987654321).public().values()
    assert 987654321 not in Parameters(morph_seed=987654321).experiment().values()
