"""The device of a process, and how several processes under torchrun work as one."""

import os
import warnings
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from parameter import Parameters
from utils.settings import UserError


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def say(*words, sep: str = " "):
    """Prints, once for all processes; no words, no line."""
    if words and rank() == 0:
        print(*words, sep=sep, flush=True)


def wait_for_all():
    """Returns once every process has come here."""
    if world() > 1:
        dist.barrier()


def summed(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place."""
    if world() > 1:
        dist.all_reduce(x)
    return x


@contextmanager
def first_process_first():
    """The first process runs the block before the others: what it downloads or keeps, they find."""
    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0:
        wait_for_all()


@contextmanager
def processes(p: Parameters):
    """Joins the other processes under torchrun; gives the device of this one.

    Also sets, once for all, that float32 products and convolutions are float32, forward and
    backward: TF32 has 10 bits, and Aug-Conv undoes a morphing whose entries are large against the
    features. Raises UserError where the device cannot be had.
    """
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    name = p.device
    if several and "LOCAL_RANK" not in os.environ:
        raise UserError("WORLD_SIZE is set, but LOCAL_RANK is not: start several processes with "
                        "torchrun, or unset WORLD_SIZE")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if several and name.startswith("cuda:"):
        raise UserError(f"--device {name} would put all processes on one GPU: choose --device cuda")
    if several and name == "cuda":
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"device {p.device} cannot be had here: choose --device auto or cpu")
    full_float32()
    if not several:
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield device
    dist.barrier()
    dist.destroy_process_group()         # not after an error: it would wait for those that live on


def full_float32():
    """No TF32 and no bfloat16 in products and convolutions of float32 tensors."""
    torch.set_float32_matmul_precision("highest")
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn.conv,
                    torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv):
        backend.fp32_precision = "ieee"


def compute_dtype(p: Parameters, device: torch.device) -> torch.dtype:
    """What the network computes in: `auto` is bfloat16 where the processor multiplies in it."""
    if p.precision != "auto":
        return torch.bfloat16 if p.precision == "bf16" else torch.float32
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(_, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    backward = forward


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """nn.SyncBatchNorm for processes on the CPU, which PyTorch's refuses.

    Mean and variance of (B, C, H, W) are those of all processes' images, so that a batch split
    among processes is normalised as it is on one.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        exact = x if x.dtype == torch.float64 else x.float()
        count = torch.tensor(float(exact[:, 0].numel()))
        dist.all_reduce(count)
        mean = SumOverProcesses.apply(exact.sum((0, 2, 3))) / count
        centred = exact - mean.view(-1, 1, 1)
        variance = SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(x.dtype)


def shared_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """Makes a network's batch normalisation see all processes' batches; changes it in place."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CPUSyncBatchNorm2d
    return network


def in_processes(network: nn.Module, p: Parameters, device: torch.device) -> nn.Module:
    """The same network as all processes train it, compiled if so wished: on CUDA into CUDA graphs,
    since small kernels take longer to launch than to run."""
    if world() > 1:
        # Batch statistics are shared already; broadcasting them would make processes with fewer
        # test batches wait for ever.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)      # its new name is not in 2.9
            network = DistributedDataParallel(
                shared_batch_norm(network, device), broadcast_buffers=False,
                device_ids=[device] if device.type == "cuda" else None)
    graphs = "reduce-overhead" if device.type == "cuda" else None
    return torch.compile(network, mode=graphs) if p.compile else network
