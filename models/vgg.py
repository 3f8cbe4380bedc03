"""VGG for small images, as the authors' scripts build it."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Outputs of the 3x3 convolutions; a 2x2 max-pool follows each group.
GROUPS = {
    "vgg_small": [[64], [64], [128], [128]],             # the demo's, not the paper's
    "vgg11": [[64], [128], [256, 256], [512, 512], [512, 512]],
    "vgg13": [[64, 64], [128, 128], [256, 256], [512, 512], [512, 512]],
    "vgg16": [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]],
    "vgg19": [[64, 64], [128, 128], [256] * 4, [512] * 4, [512] * 4],
}
SMALL_MAP = 16                      # pixels of a map up to which one product may be faster


class Conv3x3(nn.Conv2d):
    """A convolution with kernel 3 and padding 1 that is fast on small maps.

    On the CPU, on maps of 4×4 and less, it is one product of matrices where that is faster: oneDNN
    takes longer there for the gradients of the weight. That is so in bfloat16, and in float32 on
    processors without AVX-512.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        if x.is_cuda or rows * columns > SMALL_MAP or not _product_is_faster():
            return super().forward(x)
        padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
        shifted = [padded[:, i:i + rows, j:j + columns] for i in range(3) for j in range(3)]
        patches = torch.cat(shifted, 3)
        filters = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches, filters, self.bias).permute(0, 3, 1, 2)


def _product_is_faster() -> bool:
    """On small maps, in the precision and on the processor at hand."""
    in_bfloat16 = torch.is_autocast_enabled("cpu")
    return in_bfloat16 or torch.backends.cpu.get_cpu_capability() == "AVX2"


class VGG(nn.Module):
    """Images (B, channels, side, side) to logits (B, classes).

    Nothing but channel dropout follows the first convolution, which has no bias. Pools round up, so
    that an odd or small side is no problem: after g groups, ceil(side / 2^g) pixels a side are left
    for the classifier.
    """

    def __init__(self, model: str, classes: int, channels: int = 3, side: int = 32,
                 dropout: float = 0.5):
        super().__init__()
        groups = GROUPS[model]
        inputs = groups[0][0]
        self.first_layer = nn.Conv2d(channels, inputs, 3, padding=1, bias=False)
        layers: list[nn.Module] = [nn.Dropout2d(dropout)]
        for number, group in enumerate(groups):
            outputs_left = group[1:] if number == 0 else group      # the first one is first_layer
            for place, outputs in enumerate(outputs_left):
                if place > 0:
                    layers.append(nn.Dropout2d(dropout))  # none after a pool
                layers += [Conv3x3(inputs, outputs), nn.ReLU(), nn.BatchNorm2d(outputs)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        side_left = math.ceil(side / 2 ** len(groups))
        self.rest = nn.Sequential(*layers, nn.Flatten(),
                                  nn.Linear(inputs * side_left ** 2, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first_layer(x))
