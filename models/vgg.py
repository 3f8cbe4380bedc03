"""VGG for small images, as the reference scripts of the paper build it."""

import math

from torch import Tensor, nn

from models.aug_conv import full_float32

# Outputs of the 3x3 convolutions; a 2x2 max-pool follows each group.
GROUPS = {
    "vgg11": [[64], [128], [256, 256], [512, 512], [512, 512]],
    "vgg13": [[64, 64], [128, 128], [256, 256], [512, 512], [512, 512]],
    "vgg16": [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]],
    "vgg19": [[64, 64], [128, 128], [256] * 4, [512] * 4, [512] * 4],
}


class VGG(nn.Module):
    """Images (B, channels, side, side), or whatever `first_layer` takes, to logits (B, classes).

    The first convolution is linear: nothing but channel dropout follows it, so that Aug-Conv can
    replace it. `behind` is the rest of the network, on first-layer features (B, 64, n, n).
    `first_padding` 0 is for images that come with their zeros (`image_padding`); an odd or small
    side is no problem (pools round up), so `behind` ends at ceil(n / 32) pixels a side.
    """

    def __init__(self, model: str, classes: int, channels: int = 3, side: int = 32,
                 dropout: float = 0.5, first_padding: int = 1):
        super().__init__()
        groups = GROUPS[model]
        width = groups[0][0]
        self.first_layer = nn.Conv2d(channels, width, 3, padding=first_padding, bias=False)
        layers: list[nn.Module] = [nn.Dropout2d(dropout)]
        inputs = width
        for g, group in enumerate(groups):
            for i, outputs in enumerate(group):
                if g == i == 0:
                    continue                              # that one is first_layer
                if i > 0 and not isinstance(layers[-1], nn.Dropout2d):
                    layers.append(nn.Dropout2d(dropout))  # none behind a pool
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
                           nn.BatchNorm2d(outputs)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        n = side + 2 * first_padding - 2
        self.behind = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(inputs * math.ceil(n / 32) ** 2, classes))

    def forward(self, x: Tensor) -> Tensor:
        # As precise as Aug-Conv in every network, so that they differ in nothing else: bfloat16
        # would round away most of an image that a uniform core has morphed.
        with full_float32():
            features = self.first_layer(x)
        return self.behind(features)
