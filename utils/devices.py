"""What a step computes on: the device, the precision, and its place among several processes."""

import warnings
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from parameter import Parameters
from utils.errors import UnusableSetting, UserError, one_line, warn
from utils.launch import Launch, read_launch

# The other processes wait while the first one downloads and decodes a data set.
LONGEST_WAIT = timedelta(hours=12)
CPUINFO = Path("/proc/cpuinfo")
PLAIN_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Context:
    """Resolved once for a step: where it computes, in which precision, in how many processes.

    `dtype` is what a network computes in; its first layer and Aug-Conv are always float32.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    rank: int = 0
    world: int = 1

    @property
    def precision(self) -> str:
        """The name of `dtype`, such as float32."""
        return str(self.dtype).removeprefix("torch.")


@contextmanager
def joined_processes(p: Parameters):
    """Joins the other processes under torchrun, and gives the Context of this one.

    Float32 products and convolutions are full float32 from then on, forward and backward: TF32 has
    10 bits, and Aug-Conv undoes a morphing whose entries are large against the features.

    Raises UserError if the device is not available, or torchrun's variables make no sense.
    """
    launch = read_launch()
    device = _find_device(p.device, launch)
    use_full_float32()
    context = Context(device, choose_dtype(p.precision, device), launch.rank, launch.world)
    if launch.world == 1:
        yield context
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
    except (RuntimeError, ValueError, OSError) as error:
        reason = one_line(error)
        raise UserError(f"the other processes of torchrun are not reached ({reason}): start them "
                        "together, or unset WORLD_SIZE") from None
    yield context
    dist.barrier()
    dist.destroy_process_group()         # not after an error: it would wait for those that live on


def _find_device(name: str, launch: Launch) -> torch.device:
    chosen = name
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    if launch.world > 1 and chosen.startswith("cuda:"):
        raise UserError(f"--device {name} would put all processes on one GPU: choose --device cuda")
    if launch.world > 1 and chosen == "cuda":
        chosen = f"cuda:{launch.local_rank}"
    try:
        device = torch.device(chosen)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        advice = "choose --device auto or cpu"
        if chosen.startswith("cuda:") and launch.world > 1:
            advice = "start as many processes as there are GPUs, or choose --device cpu"
        raise UserError(f"device {chosen} is not available: {advice}")
    return device


def use_full_float32():
    """No TF32 and no bfloat16 in products and convolutions of float32 tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                  # PyTorch 2.9 announces another interface
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False          # or libraries that read it would stop
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn,
                    torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv):
        backend.fp32_precision = "ieee"


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What a network computes in: `auto` is bfloat16 where the processor multiplies in it."""
    if precision == "bf16":
        return torch.bfloat16
    if precision == "fp32":
        return torch.float32
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = multiplies_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for it, by the flags that Linux shows."""
    if not CPUINFO.exists():
        return False
    flags = set(CPUINFO.read_text(encoding="utf-8").split())
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16"})


def rank() -> int:
    """The number of this process, from 0 on; 0 where there is only one. It is known before the
    processes are joined."""
    return dist.get_rank() if dist.is_initialized() else read_launch().rank


def world() -> int:
    """How many processes work together; 1 until they are joined."""
    return dist.get_world_size() if dist.is_initialized() else 1


def say(*words, sep: str = " "):
    """Prints, once for all processes; no words, no line."""
    if words and rank() == 0:
        print(*words, sep=sep, flush=True)


def progress(items: Iterable, what: str) -> tqdm:
    """The items, under a bar with the time left, which the first process alone shows; none where
    stderr is no terminal."""
    hidden = True if rank() > 0 else None                # None: hidden where there is no terminal
    return tqdm(items, desc=what, leave=False, mininterval=0.5, disable=hidden)


def warn_once(message: str):
    """Prints a warning, once for all processes."""
    if rank() == 0:
        warn(message)


def wait_for_all():
    """Returns once every process has come here."""
    if world() > 1:
        dist.barrier()


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place."""
    if world() > 1:
        dist.all_reduce(x)
    return x


def largest_over_processes(x: Tensor) -> Tensor:
    """The largest of a tensor's values in all processes, in place."""
    if world() > 1:
        dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


def any_process(answer: bool, device: torch.device) -> bool:
    """Whether the answer is yes in one of the processes; the same in all of them."""
    return bool(largest_over_processes(torch.tensor(int(answer), device=device)))


@contextmanager
def first_process_first():
    """The first process runs the block before the others: what it downloads or keeps, they find.
    Where it fails there, the others end too, without a word: it says why.
    """
    if world() == 1:
        yield
        return
    has_succeeded = [False]
    if rank() == 0:
        try:
            yield
            has_succeeded = [True]
        finally:
            dist.broadcast_object_list(has_succeeded)
    else:
        dist.broadcast_object_list(has_succeeded)
        if not has_succeeded[0]:
            raise SystemExit(1)
        yield


def share_network(network: nn.Module, context: Context, compiled: bool) -> nn.Module:
    """The same network as all processes train it, compiled if so wished.

    On CUDA, batch normalisation sees the images of all processes. On the CPU, each process
    normalises with the statistics of its own images. Raises UserError if that is not possible,
    UnusableSetting if it cannot be compiled here.
    """
    if context.world > 1:
        network = _distributed(network, context)
    if not compiled:
        return network
    require_compiler(context.device)
    # On CUDA into graphs: small kernels take longer to launch than to run.
    return torch.compile(network, mode="reduce-overhead" if context.device.type == "cuda" else None)


def require_compiler(device: torch.device):
    """Raises UnusableSetting where torch.compile does not work on a device, as without a C++
    compiler: by compiling a function of one line."""
    def double(x: Tensor) -> Tensor:
        return 2 * x

    try:
        torch.compile(double)(torch.ones(2, device=device))
    except Exception as error:                           # Dynamo's, Inductor's or a compiler's own
        cause = getattr(error, "inner_exception", error)
        reason = one_line(cause)
        raise UnusableSetting(f"--compile does not work here ({reason}): install a C++ compiler "
                              "such as g++, or name one in the variable CXX, or leave --compile "
                              "out") from None


def _distributed(network: nn.Module, context: Context) -> nn.Module:
    device_ids = None
    if context.device.type == "cuda":
        _check_batch_norm(network)
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        device_ids = [context.device]
    else:
        say("on the CPU, each process normalises with the statistics of its own images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)   # its new name is not in PyTorch 2.9
        return DistributedDataParallel(network, broadcast_buffers=False, device_ids=device_ids)


def _check_batch_norm(network: nn.Module):
    """Raises UserError for a batch normalisation that does more than PyTorch's.

    SyncBatchNorm would take its place and leave out what it does besides, such as an activation.
    """
    for name, module in network.named_modules():
        is_batch_norm = isinstance(module, PLAIN_BATCH_NORM)
        if is_batch_norm and type(module) not in PLAIN_BATCH_NORM:
            raise UserError(f"{name} is a {type(module).__name__}, which several processes cannot "
                            "share: train in one process")


def share_buffers(network: nn.Module):
    """Gives all processes the first one's buffers, such as the running means of batch norm."""
    if world() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)
