"""Batch normalisation over the batches of all processes."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
        exact = x.float()
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
