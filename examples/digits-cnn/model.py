"""A small convolutional network for 8×8 digits. `build` is the entrypoint that model.yaml names."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    """Convolution, batch normalisation, GELU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(self.norm(self.conv(images)))


class DigitsCNN(nn.Module):
    """Pixels in 0..1, float32 [batch, 1, 8, 8] → logits, float32 [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block(1, 16)
        self.second = Block(16, 32)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.LayerNorm([32, 4, 4])
        self.hidden = nn.Linear(32 * 4 * 4, 64)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(64, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.pool(self.second(self.first(pixels))))
        hidden = torch.relu(self.hidden(features.flatten(1)))
        return self.head(self.dropout(hidden))


def build() -> nn.Module:
    """The network without its weights."""
    return DigitsCNN()
