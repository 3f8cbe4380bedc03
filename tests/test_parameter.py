"""The settings of a step: defaults, presets, options, help, and mistakes in one line."""

from dataclasses import fields
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from parameter import PRESETS, Parameters
from tests.steps import INFERENCE, STEPS
from utils.declaration import EVERY_STEP, About, setting, settings
from utils.errors import UserError
from utils.known_settings import KNOWN, completed
from utils.parameter_file import ParameterFile, parameter_file
from utils.provenance import provenance
from utils.settings import Settings, check, options_of, parse

OTHER_PROGRAMS = ("attack.py",)
PROGRAMS = (*STEPS, *INFERENCE, *OTHER_PROGRAMS)


def values(p) -> dict:
    return {field.name: getattr(p, field.name) for field in fields(Parameters)}


def refusal(capsys, arguments: list[str], step: str = "") -> str:
    """The one line that a command line ends with, with status 2."""
    with pytest.raises(SystemExit) as stop:
        parse("", arguments, step)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1, error
    return error


def help_of(capsys, step: str, *arguments: str) -> str:
    """What --help prints, without spaces and line ends."""
    with pytest.raises(SystemExit) as stop:
        parse("what the step does", [*arguments], step)
    assert stop.value.code == 0
    return "".join(capsys.readouterr().out.split())


# Defaults and presets

def test_defaults_are_the_references():
    p = Parameters()
    assert (p.dataset, p.model, p.dropout) == ("cifar10", "vgg16", 0.5)
    assert (p.epochs, p.batch_size, p.lr, p.decay_epochs) == (300, 64, 0.001, 60)
    assert (p.schedule, p.momentum, p.augment) == ("halve", 0.9, "none")
    assert p.weight_decay == 5e-6
    assert p.morphed_weight_decay == pytest.approx(p.weight_decay / 10)
    assert (p.kappa, p.tile, p.image_padding) == (1, 0, 0)
    assert (p.morph_distribution, p.morph_seed) == ("uniform", None)
    assert (p.delivery_dtype, p.shuffle_channels, p.mirrored) == ("float32", True, False)
    assert check(p) is p


def test_the_preset_paper_has_every_default_written_out():
    assert PRESETS["paper"] == values(Parameters())


def test_a_step_gets_the_defaults_and_nothing_is_given():
    p = parse("", [])
    assert isinstance(p, Parameters) and isinstance(p, Settings)
    assert values(p) == values(Parameters())
    assert p.given == frozenset()


def test_a_preset_is_the_papers_values_with_its_own_in_their_place():
    p = parse("", ["--preset", "demo"])
    assert values(p) == PRESETS["paper"] | PRESETS["demo"]
    assert p.given == set(PRESETS["demo"])


def test_an_option_wins_over_a_preset_in_either_order():
    assert parse("", ["--lr", "0.5", "--preset", "demo"]).lr == 0.5
    assert parse("", ["--preset=demo", "--lr=0.5"]).lr == 0.5


def test_an_option_is_given_also_where_it_says_the_papers_value():
    p = parse("", ["--kappa", "1", "--lr", "0.1"])
    assert p.given == {"kappa", "lr"}


# Options

@pytest.mark.parametrize("option, name, value", [
    ("--morph_seed 12345678901234567890123", "morph_seed", 12345678901234567890123),
    ("--morph_seed none", "morph_seed", None),
    ("--shuffle_channels no", "shuffle_channels", False),
    ("--restart", "restart", True),
    ("--pixel_range -5 1e3", "pixel_range", (-5.0, 1000.0)),
    ("--delivery a b --delivery c", "delivery", ("a", "b", "c")),
    ("--data-dir elsewhere", "data_dir", "elsewhere"),
    ("--data-dir=a-b", "data_dir", "a-b"),
    ("--augment crop_flip", "augment", "crop_flip"),
    ("--key 0123-ab", "key", "0123-ab"),
    ("--channels 1000", "channels", 1000),
    ("--lr 1", "lr", 1.0)])
def test_an_option_is_taken_as_it_is_meant(option, name, value):
    p = parse("", option.split())
    assert getattr(p, name) == value
    assert type(getattr(p, name)) is type(value)


@pytest.mark.parametrize("option, name, value", [
    ("--init none", "init", ""), ("--key=none", "key", ""),
    ("--results-dir none", "results_dir", ""),
    ("--first_layer None", "first_layer", ""), ("--delivery none", "delivery", ()),
    ("--pixel_range none", "pixel_range", None), ("--init a --init none", "init", ""),
    ("--init none --init a", "init", "a"), ("--images none b", "images", ("none", "b")),
    ("--name none", "name", "none"), ("--augment none", "augment", "none")])
def test_none_is_what_help_shows_as_none(option, name, value):
    """For settings that may be empty; elsewhere it is a text like others."""
    p = parse("", option.split())
    assert getattr(p, name) == value and name in p.given


def test_none_empties_a_setting_that_was_edited_or_preset(monkeypatch):
    file = parameter_file()
    edited = {**file.presets, "mine": {"init": "weights.pt", "images": ("a",)}}
    monkeypatch.setattr("utils.settings.parameter_file", lambda: file._replace(presets=edited))
    p = parse("", ["--preset", "mine", "--init", "none", "--images", "none"])
    assert (p.init, p.images) == ("", ())


def test_a_setting_of_ones_own_that_is_a_number_or_none(monkeypatch):
    @settings
    class Parameters:
        share: float | None = setting(0.5, "a number or none")

    file = ParameterFile(Parameters, {"paper": {}})
    monkeypatch.setattr("utils.settings.parameter_file", lambda: file)
    assert parse("", ["--share", "0.25"]).share == 0.25
    assert parse("", ["--share", "none"]).share is None


def test_a_home_folder_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    p = parse("", ["--data_dir", "~/mole", "--images", "~/a.png", "b.png", "--public", "~"])
    assert p.data_dir == "/home/somebody/mole"
    assert p.images == ("/home/somebody/a.png", "b.png")
    assert p.public == "/home/somebody"


@pytest.mark.parametrize("arguments, words", [
    ("--kapa 3", "--kapa 3; did you mean kappa?"),
    ("--epoch 3", "--epoch 3; did you mean epochs?"),
    ("--epochs ten", "epochs"),
    ("--epochs 0", "epochs is 0, but must be a whole number of at least 1"),
    ("--epochs 1.5", "epochs"),
    ("--lr nan", "lr is nan, but must be a number of at least 0"),
    ("--lr inf", "lr is inf"),
    ("--dropout 1", "dropout is 1.0, but must be a number of at least 0 and below 1"),
    ("--batch_size 1", "batch_size is 1, but must be a whole number of at least 2"),
    ("--preset fast", "'fast' (choose from"),
    ("--kappa -1", "kappa is -1"),
    ("--tile -1", "tile is -1, but must be a whole number from 0 to 9999"),
    ("--image_size 3", "image_size is 3, but must be 0, or a whole number from 4 to 9999"),
    ("--channels 1001", "channels is 1001, but must be a whole number from 0 to 1000"),
    ("--seed -1", "seed is -1"),
    ("--morph_seed secret", "invalid int value: 'secret'"),
    ("--epochs none", "invalid int value: 'none'"),
    ("--predict_batch 0", "predict_batch"),
    ("--shuffle_channels maybe", "maybe"),
    ("--delivery_dtype int4", "int4"),
    ("--augment flip", "flip"),
    ("--pixel_range 5 5", "must be two numbers, the lower first"),
    ("--pixel_range 0 nan", "must be two numbers, the lower first"),
    ("--pixel_range 0", "pixel_range"),
    ("--name ../up", "name is '../up', but must be of letters, digits"),
    ("--key a/b", "key is 'a/b', but must be of letters, digits"),
    ("--max_pixels 9", "--max_pixels"),
    ("--hide_names", "--hide_names"),
    ("--images", "images"),
    ("--help everything", "everything"),
    ("stray", "stray")])
def test_a_mistake_ends_with_one_line_and_status_2(arguments, words, capsys):
    assert words in refusal(capsys, arguments.split())


@pytest.mark.parametrize("step", PROGRAMS)
def test_a_setting_that_a_step_does_not_use_is_refused_by_name(step, capsys):
    """It would promise what does not happen; the line says which steps it is for."""
    for name, about in parameter_file().abouts.items():
        if about.group.has(step):
            continue
        words = f"{step}: --{name} is not used here, but by {about.group.listed()};"
        assert words in refusal(capsys, [f"--{name}", "1"], step)
        assert words in refusal(capsys, [f"--{name.replace('_', '-')}=1"], step)


def test_of_a_command_line_for_several_steps_one_takes_what_it_uses():
    words = ["--preset", "demo", "--kappa", "3", "--data-dir", "d", "--images", "a", "b", "--lr=1"]
    assert options_of("gen_morphing_matrix.py", words) == words[:6]
    assert options_of("morph_images.py", words) == [*words[:2], *words[4:9]]
    assert options_of("train_no_ac.py", words) == [*words[:2], *words[4:6], "--lr=1"]


def test_of_a_command_line_for_several_steps_no_unknown_option_is_taken():
    with pytest.raises(UserError, match="--kapa is not a setting; did you mean kappa"):
        options_of("pretrain.py", ["--kapa", "3"])
    with pytest.raises(UserError, match="stray is not an option"):
        options_of("pretrain.py", ["stray"])


# Help

@pytest.mark.parametrize("step", PROGRAMS)
def test_help_has_a_steps_own_settings_and_help_all_every_one(step, capsys):
    own = help_of(capsys, step, "--help")
    every = help_of(capsys, step, "--help", "all")
    assert "whatthestepdoes" in own and "whatthestepdoes" in every
    for name, about in parameter_file().abouts.items():
        meaning = about.help.replace(" ", "")
        is_own = about.group.has(step)
        assert meaning, f"{name} has no help"
        assert (f"--{name}" in own and meaning in own) == is_own, name
        assert f"--{name}" in every and meaning in every
    assert "notusedhere" in every and "notusedhere" not in own


def test_help_shows_the_defaults_of_the_preset(capsys):
    text = help_of(capsys, "pretrain.py", "--preset", "demo", "--help")
    assert "passesoverthetrainingimages(default:5;thepaper's:300)" in text
    text = help_of(capsys, "pretrain.py", "--help")
    assert "passesoverthetrainingimages(default:300)" in text


def test_every_setting_belongs_to_programs_that_there_are():
    for about in parameter_file().abouts.values():
        steps = about.group.steps
        assert steps == EVERY_STEP or set(steps.split()) <= set(PROGRAMS)


# Values

@pytest.mark.parametrize("wrong", [
    dict(epochs=2.0), dict(lr="fast"), dict(restart=1), dict(morph_seed=-1), dict(channels=True),
    dict(images="cat.png"), dict(delivery=("a", 1)), dict(pixel_range=(1, 0)),
    dict(pixel_range=5), dict(pixel_range=("0", "1")), dict(init=None), dict(precision="fp16"),
    dict(tile=[4, 8]), dict(tile=np.array([4, 8])), dict(lr=10**400), dict(momentum=1.0)], ids=str)
def test_a_value_of_a_wrong_type_or_size_is_named(wrong):
    [name] = wrong
    with pytest.raises(ValueError, match=f"^{name} is .*, but must be "):
        check(Parameters(**wrong))


@pytest.mark.parametrize("right", [
    dict(lr=1), dict(tile=np.int64(8)), dict(lr=np.float32(0.5)), dict(restart=np.bool_(True)),
    dict(data_dir=Path("data")), dict(images=["a", "b"]), dict(pixel_range=[0, 255])], ids=str)
def test_a_value_of_the_same_meaning_is_accepted(right):
    assert check(Parameters(**right))


def test_limits_are_known_also_where_an_edit_leaves_them_out():
    """utils/known_settings.py says of each setting what parameter.py says, and of no other one."""
    declared = {field.name: field.metadata["about"] for field in fields(Parameters)}
    for name, about in declared.items():
        bare = About(kind=type(about.kind), help=about.help, group=about.group)
        known = completed(name, bare)
        if about.kind not in (int, float, str, bool):
            assert known.kind == about.kind, f"{name}: utils/known_settings.py has {known.kind}"
        assert (known.least, known.below, known.also, known.pattern) == (
            about.least, about.below, about.also, about.pattern), f"{name}: see KNOWN"
    assert KNOWN.keys() <= declared.keys()


def test_the_steps_of_a_setting_are_known_also_where_an_edit_leaves_them_out():
    """Each setting as a bare value, in another order than in the file."""
    declared = parameter_file().abouts
    names = sorted(declared)
    bare = settings(type("Bare", (), {
        "__annotations__": {name: declared[name].kind for name in names},
        **{name: getattr(Parameters, name) for name in names}}))
    for name, about in ParameterFile(bare, {}).abouts.items():
        assert about.group == declared[name].group, name


def test_an_own_setting_is_of_the_group_above_it():
    @settings
    class Own:
        first: int = setting(0, "", "predict.py")
        second: int = 1
        tile: int = 8
        third: int = setting(2, "a number")

    groups = [about.group.steps for about in ParameterFile(Own, {}).abouts.values()]
    assert groups == ["predict.py", "predict.py", *["gen_morphing_matrix.py"] * 2]


def with_settings(monkeypatch, parameters: type):
    file = ParameterFile(parameters, {"paper": {}})
    monkeypatch.setattr("utils.settings.parameter_file", lambda: file)


def test_an_option_of_a_setting_without_its_limits_has_them_all_the_same(monkeypatch, capsys):
    @settings
    class Bare:
        batch_size: int = 32
        augment: str = "none"
        images: tuple = ()
        pixel_range: tuple = (0, 4095)

    with_settings(monkeypatch, Bare)
    assert "batch_size is 1, but must be a whole number of at least 2" in refusal(
        capsys, ["--batch_size", "1"])
    assert "invalid choice: 'flip'" in refusal(capsys, ["--augment", "flip"])
    p = parse("", ["--images", "ab"])
    assert p.images == ("ab",) and p.pixel_range == (0.0, 4095.0)


def test_limits_and_choices_of_ones_own_stand(monkeypatch):
    @settings
    class Own:
        epochs: int = setting(0, least=0)
        schedule: Literal["halve", "cosine"] = "cosine"

    with_settings(monkeypatch, Own)
    p = parse("", [])
    assert (p.epochs, p.schedule) == (0, "cosine")


# Records

def test_records_do_not_tell_the_secret_seed(monkeypatch):
    p = Parameters(morph_seed=987654321)
    for words in (["--morph_seed", "987654321"], ["--morph_seed=987654321"],
                  ["--morph-seed", "987654321"], ["--morph-seed=987654321"]):
        monkeypatch.setattr("sys.argv", ["gen_augconv.py", *words])
        assert "987654321" not in str(provenance(p))
