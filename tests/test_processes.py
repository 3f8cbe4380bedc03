"""Several processes under torchrun work as one.

On the CPU each normalises with the statistics of its own images, so a network with batch norm
learns otherwise in two processes than in one; without batch norm, the same.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from images import shapes
from models.build import build
from parameter import Parameters
from tests.damage import place, refused
from tests.own_networks import UnusedPart
from tests.steps import ENVIRONMENT, FORKED, ROOT, STEPS, TINY, call, one_of_several, start
from utils import devices, examples, memory
from utils.devices import Context, share_buffers, share_network, use_full_float32
from utils.errors import UserError
from utils.examples import Data, Features, FrozenLayer, PreparedImages, Source, keep_features
from utils.launch import read_launch
from utils.networks import seed_everything
from utils.records import Run, training_settings
from utils.settings import options_of
from utils.step import locked
from utils.training import make_optimizer, split_into_batches, train, train_epoch

CPU = torch.device("cpu")
WITHOUT_NORM, WITH_NORM = "tests.own_networks:small_vit", "tests.own_networks:strided"


def torchrun(script, *arguments, settings=TINY):
    """Runs a step in two processes; gives what they print."""
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         script, *options_of(script, settings), *map(str, arguments)],
        cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def run_in_two(script, *arguments, settings=TINY):
    """As torchrun, but in processes that start at once."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = [start(script, *arguments, settings=settings, before=one_of_several(rank, 2, port))
               for rank in (0, 1)]
    results = [process.wait() for process in running]
    assert [result.status for result in results] == [0, 0], results
    return results[0].out + results[1].out


def in_two(function, tmp_path, *arguments):
    """Calls function(rank, *arguments) in two processes that know each other."""
    store = f"file://{tmp_path}/store"
    processes = [FORKED.Process(target=_joined, args=(rank, store, function, arguments))
                 for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0


def _joined(rank, store, function, arguments):
    torch.set_num_threads(1)
    use_full_float32()
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    function(rank, *arguments)
    torch.distributed.destroy_process_group()


def train_exactly(rank, name, path, world=2):
    """Two epochs in float64, a last batch of 6 among batches of 8; the weights go to a file."""
    context = Context(CPU, torch.float64, rank, world)
    p = Parameters(epochs=2, batch_size=8, lr=0.01)
    images, labels = shapes.draw(86, 16, seed=0)
    seed_everything(p.seed)
    network = build(name, 10, (3, 16, 16)).double()
    data = PreparedImages(Source(images.double() / 255 - 0.5, nn.Identity()), labels, context)
    batches = split_into_batches(torch.arange(86), p.batch_size, world)
    optimizer, scheduler = make_optimizer(network, p, p.weight_decay, len(batches))
    module = share_network(network, context, compiled=False).train()
    losses = []
    for epoch in (1, 2):
        losses.append(train_epoch(module, data, p, epoch, optimizer, scheduler, context))
    share_buffers(network)
    torch.save({"network": network.state_dict(), "losses": losses}, f"{path}-{rank}.pt")


@pytest.fixture(scope="module")
def in_one_and_two(tmp_path_factory):
    """Weights and losses of one process, and of both of two, by the network's name."""
    found = {}
    for name in (WITHOUT_NORM, WITH_NORM):
        folder = tmp_path_factory.mktemp("processes")
        train_exactly(0, name, folder / "one", world=1)
        in_two(train_exactly, folder, name, folder / "two")
        found[name] = [torch.load(folder / f"{file}.pt", weights_only=True)
                       for file in ("one-0", "two-0", "two-1")]
    return found


def test_without_batch_norm_two_processes_train_as_one_does(in_one_and_two):
    """Losses and weights, to rounding in float64."""
    one, two, _ = in_one_and_two[WITHOUT_NORM]
    torch.testing.assert_close(one["network"], two["network"], rtol=1e-9, atol=1e-9)
    assert one["losses"] == pytest.approx(two["losses"], rel=1e-6)      # summed up in float32


def test_with_batch_norm_both_processes_have_one_network(in_one_and_two):
    """Its running means too, which are the first one's; it learns what one process does, nearly."""
    one, first, second = in_one_and_two[WITH_NORM]
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first["losses"] == pytest.approx(one["losses"], rel=0.1)
    assert first["losses"] != pytest.approx(one["losses"], rel=1e-6)
    assert first["losses"][1] < first["losses"][0]


def test_two_processes_end_where_one_does(tmp_path):
    """The step itself, in float32, of a network without batch norm."""
    settings = (*TINY, "--model", WITHOUT_NORM, "--image_size", "16", "--train_limit", "48")
    folders = {name: tmp_path / name for name in ("one", "two", "doubled")}
    for script in STEPS[:3]:
        assert call(script, "--data_dir", folders["one"], settings=settings).status == 0
    for name in ("two", "doubled"):
        (folders[name] / "developer").mkdir(parents=True)
        (folders[name] / "delivery").symlink_to(folders["one"] / "delivery")
    for name, lr in (("one", 0.003), ("doubled", 0.006)):
        assert call("train_with_ac.py", "--data_dir", folders[name], "--lr", lr,
                    settings=settings).status == 0
    out = torchrun("train_with_ac.py", "--data_dir", folders["two"], "--lr", "0.003",
                   settings=settings)
    assert "2 processes" in out and out.count("epoch   2") == 1        # one of them speaks
    assert out.count("statistics of its own images") == 1
    weights = {}
    for name, folder in folders.items():
        network = torch.load(folder / "developer" / "with_ac.pt", weights_only=True)["network"]
        weights[name] = torch.cat([weight.flatten() for weight in network.values()])
    one = weights["one"]
    assert (one - weights["two"]).norm() <= 1e-5 * one.norm()
    # What gradients that are summed and not averaged would give is far outside that bound.
    assert (one - weights["doubled"]).norm() > 1e-3 * one.norm()


def test_what_the_first_process_refuses_is_said_once(tmp_path):
    """The others end with it, and say nothing of their own."""
    data = tmp_path / "data"
    for script in STEPS[:3]:
        assert call(script, "--data_dir", data, settings=TINY).status == 0
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = [start("morph_images.py", "--data_dir", data, "--images", tmp_path / "nowhere",
                     settings=TINY, before=one_of_several(rank, 2, port)) for rank in (0, 1)]
    first, second = (process.wait() for process in running)
    assert (first.status, second.status) == (1, 1)
    assert "there is no file or folder" in first.err and first.err.count("\n") == 1
    assert not second.err and not second.out


def test_two_processes_decode_image_files_once(tmp_path):
    """And morph them to the same values as one does."""
    shapes.write_files(tmp_path / "new", 40, 8)
    data = tmp_path / "data"
    for script in STEPS[:3]:
        assert call(script, "--data_dir", data, settings=TINY).status == 0
    queries = []
    for run_it in (call, run_in_two):
        run_it("morph_images.py", "--data_dir", data, "--images", tmp_path / "new", settings=TINY)
        queries.append((data / "queries" / "queries" / "morphed.npy").read_bytes())
        shutil.rmtree(data / "decoded", ignore_errors=True)
    assert queries[0] == queries[1]


def test_two_processes_make_the_same_delivery_and_query(tmp_path):
    """Bit for bit: each morphs a block, and int8 has one step for both."""
    settings = (*TINY, "--epochs", "1", "--morph_distribution", "orthogonal", "--tile", "4",
                "--delivery_dtype", "int8")
    for script in STEPS[:2]:
        assert call(script, "--data_dir", tmp_path, settings=settings).status == 0
    limits = ("--train_limit", "600", "--data_dir", tmp_path)
    assert call("gen_augconv.py", *limits, settings=settings).status == 0
    delivery = tmp_path / "delivery" / "manifest.json"
    one = json.loads(delivery.read_text())
    out = run_in_two("gen_augconv.py", *limits, settings=settings)
    assert out.count("relative error against the plain first layer") == 1
    assert json.loads(delivery.read_text()) == one
    assert place(tmp_path, "KEY/channel_order.pt").exists()

    images = shapes.draw(600, 8, seed=9)[0].numpy()
    file = tmp_path / "images.npy"
    np.save(file, images)
    query = tmp_path / "queries" / "queries" / "manifest.json"
    command = ("morph_images.py", "--images", file, "--data_dir", tmp_path)
    assert call(*command, settings=settings).status == 0
    one = json.loads(query.read_text())
    assert run_in_two(*command, settings=settings).count("goes to the developer") == 1
    assert json.loads(query.read_text()) == one


def keep_with_unequal_memory(rank, folder):
    """The first process has memory for the features, the other one has none."""
    examples.free_memory = lambda device: 10**12 if rank == 0 else 1
    context = Context(CPU, rank=rank, world=2)
    layer = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)
    source = Source(torch.rand(6, 3, 8, 8), nn.Identity())
    parts = [Features([(FrozenLayer(layer), source)], [torch.zeros(6).long()], context)] * 2
    data = keep_features(*parts, "auto", mirrored=False, context=context)
    (folder / f"{rank}.txt").write_text(type(data.train).__name__)


def test_all_processes_keep_features_or_none_does(tmp_path):
    """Otherwise those that keep them would wait for the others without end."""
    in_two(keep_with_unequal_memory, tmp_path, tmp_path)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["Features"] * 2


@pytest.mark.parametrize("flags, dtype", [
    ("flags : fpu avx2 avx512f avx512_bf16 amx_tile", torch.bfloat16),
    ("flags : avx512f amx_bf16", torch.bfloat16),
    ("flags : fpu avx2 avx512f avx512_vnni", torch.float32), (None, torch.float32)],
    ids=["AVX-512 with bfloat16", "AMX", "without", "not Linux"])
def test_bfloat16_is_chosen_where_the_processor_multiplies_in_it(flags, dtype, tmp_path,
                                                                 monkeypatch):
    monkeypatch.setattr(devices, "CPUINFO", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert devices.choose_dtype("auto", CPU) == dtype
    assert devices.choose_dtype("fp32", CPU) == torch.float32


# What torchrun says, and what cannot be shared

ONE_OF_TWO = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_PORT": "29500",
              "MASTER_ADDR": "localhost"}


@pytest.fixture
def environment(monkeypatch):
    for name in (*ONE_OF_TWO, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_place_among_processes_is_read_from_the_environment(environment):
    assert (read_launch().world, read_launch().rank) == (1, 0)
    for name, value in ONE_OF_TWO.items():
        environment.setenv(name, value)
    launch = read_launch()
    assert (launch.world, launch.rank, launch.local_rank) == (2, 1, 1)
    assert devices.rank() == 1                           # known before the processes are joined


def test_memory_is_that_of_all_processes_of_a_machine(environment):
    for name, value in ONE_OF_TWO.items():
        environment.setenv(name, value)
    environment.setattr(memory, "free_memory", lambda device: 10 * 10**9)
    take = partial(memory.require_memory, 6 * 10**9, "a matrix", "choose another",
                   for_each_process=True)
    with pytest.raises(UserError, match="a matrix takes 2 times 6"):
        take()
    environment.setenv("LOCAL_WORLD_SIZE", "1")          # the other one is on another machine
    take()


WRONG_VALUES = [
    ("RANK", None), ("RANK", ""), ("RANK", "one"), ("RANK", "-1"), ("RANK", "2"),
    ("WORLD_SIZE", "two"), ("WORLD_SIZE", "0"), ("LOCAL_RANK", None), ("LOCAL_RANK", ""),
    ("LOCAL_RANK", "first"), ("MASTER_ADDR", None), ("MASTER_ADDR", ""), ("MASTER_PORT", None),
    ("MASTER_PORT", "http")]


@pytest.mark.parametrize("name, value", WRONG_VALUES, ids=str)
def test_half_an_environment_of_torchrun_is_refused(environment, name, value, tmp_path):
    """In one line, by a step as by what reads it."""
    for other, number in ONE_OF_TWO.items():
        environment.setenv(other, number)
    if value is None:
        environment.delenv(name)
    else:
        environment.setenv(name, value)
    with pytest.raises(UserError, match=f"{name} is .*unset WORLD_SIZE for one"):
        read_launch()
    result = call("gen_morphing_matrix.py", "--data_dir", tmp_path, settings=TINY)
    assert refused(result, f"{name} is", "unset WORLD_SIZE for one")


@pytest.mark.parametrize("size", [None, "", " ", "1"], ids=["no size", "empty", "a space", "one"])
def test_variables_that_another_program_has_left_count_for_nothing(environment, size, tmp_path):
    """Not even for the lock of the data folder."""
    for name in ONE_OF_TWO:
        environment.setenv(name, "7")
    if size is None:
        environment.delenv("WORLD_SIZE")
    else:
        environment.setenv("WORLD_SIZE", size)
    assert (read_launch().world, read_launch().rank) == (1, 0)
    result = call("gen_morphing_matrix.py", "--data_dir", tmp_path, settings=TINY)
    assert result.status == 0, result
    with locked(tmp_path), pytest.raises(UserError, match="another step is running"), \
            locked(tmp_path):
        pass


@pytest.mark.parametrize("script", ["gen_morphing_matrix.py", "predict.py", "attack.py"])
def test_a_step_that_shares_no_work_is_for_one_process(environment, script, tmp_path):
    for name, value in (ONE_OF_TWO | {"RANK": "0"}).items():
        environment.setenv(name, value)
    result = call(script, "--data_dir", tmp_path, settings=TINY)
    assert refused(result, "runs in one process: start it without torchrun")


@pytest.fixture
def group(tmp_path):
    """A group of processes with this one alone, as DistributedDataParallel needs one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0,
                                         world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_an_unused_head_is_named_and_not_pytorchs_reduction(group, tmp_path):
    p = Parameters(epochs=1, batch_size=8)
    context = Context(CPU, world=2)
    source = Source(torch.randn(32, 3, 8, 8), nn.Identity())
    images = PreparedImages(source, torch.zeros(32).long(), context)
    run = Run(tmp_path, "pretrained", training_settings(p, context, 0.0), {}, [])
    with pytest.raises(UserError, match=r"a part of the network is not used .* in one process"):
        train(UnusedPart(10), Data(images, images), p, run, context)


class NormAndActivation(nn.BatchNorm2d):
    """As timm has them: SyncBatchNorm in its place would leave the activation out."""

    def forward(self, x):
        return torch.relu(super().forward(x))


def test_a_batch_norm_that_does_more_is_not_shared_on_cuda():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), NormAndActivation(4))
    with pytest.raises(UserError, match=r"1 is a NormAndActivation, .* train in one process"):
        share_network(network, Context(torch.device("cuda"), world=2), compiled=False)


def test_any_network_is_shared_on_the_cpu(group):
    """A batch norm of the user's own too: each process has its own statistics anyway."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), NormAndActivation(4))
    shared = share_network(network, Context(CPU, world=2), compiled=False)
    assert isinstance(shared, DistributedDataParallel)
