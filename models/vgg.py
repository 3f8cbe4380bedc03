"""VGG for small images, as the reference scripts of the paper build it."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Outputs of the 3x3 convolutions; a 2x2 max-pool follows each group.
GROUPS = {
    "vgg11": [[64], [128], [256, 256], [512, 512], [512, 512]],
    "vgg13": [[64, 64], [128, 128], [256, 256], [512, 512], [512, 512]],
    "vgg16": [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]],
    "vgg19": [[64, 64], [128, 128], [256] * 4, [512] * 4, [512] * 4],
}


class Conv3x3(nn.Conv2d):
    """With kernel 3 and padding 1; on maps of 4×4 and less, in bfloat16 on the CPU, one product of
    matrices: a convolution's weight gradients take longer there."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        if rows * columns > 16 or x.is_cuda or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        x = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
        patches = [x[:, i:i + rows, j:j + columns] for i in range(3) for j in range(3)]
        filters = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(torch.cat(patches, 3), filters, self.bias).permute(0, 3, 1, 2)


class VGG(nn.Module):
    """Images (B, channels, side, side) to logits (B, classes).

    Nothing but channel dropout follows the first convolution, which has no bias. An odd or small
    side is no problem: pools round up, so the classifier sees ceil(side / 32) pixels a side.
    """

    def __init__(self, model: str, classes: int, channels: int = 3, side: int = 32,
                 dropout: float = 0.5):
        super().__init__()
        groups = GROUPS[model]
        inputs = groups[0][0]
        self.first_layer = nn.Conv2d(channels, inputs, 3, padding=1, bias=False)
        layers: list[nn.Module] = [nn.Dropout2d(dropout)]
        for g, group in enumerate(groups):
            for i, outputs in enumerate(group):
                if g == i == 0:
                    continue                              # that one is first_layer
                if i > 0 and not isinstance(layers[-1], nn.Dropout2d):
                    layers.append(nn.Dropout2d(dropout))  # none after a pool
                layers += [Conv3x3(inputs, outputs, 3, padding=1), nn.ReLU(),
                           nn.BatchNorm2d(outputs)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.rest = nn.Sequential(*layers, nn.Flatten(),
                                  nn.Linear(inputs * math.ceil(side / 32) ** 2, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first_layer(x))
