"""PyTorch sources of the corpus: small, with every kind of layer that exports are known to get wrong.

Weights are random and seeded; statistics of normalisation layers are moved away from their initial values, so that
training mode and inference mode differ. Submodules have names, because divergence is told by them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Normalise(nn.Module):
    """Images from 0…1 to the mean and deviation that the weights were trained with."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image - self.mean) / self.deviation


class Residual(nn.Module):
    """A convolution beside a way around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class Vision(nn.Module):
    """Images → probabilities: normalisation, convolutions, BatchNorm, GELU, a residual block, bilinear upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.stem, self.norm, self.activation = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU()
        self.block = Residual(8)
        self.pool = nn.AvgPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.mix = nn.Conv2d(8, 4, 3, stride=2, padding=1)
        self.drop, self.head, self.softmax = nn.Dropout(0.2), nn.Linear(64, 10), nn.Softmax(dim=1)
        for norm in (self.norm, self.block.norm):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.norm(self.stem(self.normalise(image))))
        x = self.mix(self.up(self.pool(self.block(x))))
        return self.softmax(self.head(self.drop(x.flatten(1))))


class Attention(nn.Module):
    """One head, with a mask that hides padding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.softmax = nn.Softmax(dim=-1)
        self.width = width

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) / self.width**0.5
        return self.softmax(scores.masked_fill(hidden.unsqueeze(1), -1e4)) @ self.value(x)


class Encoder(nn.Module):
    """Token ids and a mask → logits and states: embeddings, attention, LayerNorm, GELU. Mask 1 is text, 0 padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(12, 16)
        self.attention, self.norm = Attention(16), nn.LayerNorm(16)
        self.wide, self.activation, self.narrow = nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)
        self.last, self.head = nn.LayerNorm(16), nn.Linear(16, 4)
        for norm in (self.norm, self.last):
            nn.init.normal_(norm.weight, 1, 0.2)
            nn.init.normal_(norm.bias, 0, 0.2)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        x = self.norm(x + self.attention(x, mask == 0))
        x = self.last(x + self.narrow(self.activation(self.wide(x))))
        return self.head(x[:, 0]), x


class Tabular(nn.Module):
    """Three inputs, five outputs: scores in columns and flat, a class, and whole numbers without a sign."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds, self.first, self.second = nn.Embedding(6, 4), nn.Linear(3, 4), nn.Linear(3, 4)
        self.norm, self.drop = nn.BatchNorm1d(12), nn.Dropout(0.2)
        self.hidden, self.activation, self.head = nn.Linear(12, 16), nn.ELU(), nn.Linear(16, 3)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, before: torch.Tensor, after: torch.Tensor, kind: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = torch.cat([self.first(before), self.second(after), self.kinds(kind)], dim=1)
        factors = self.head(self.activation(self.hidden(self.drop(self.norm(x)))))
        score, total = factors.sum(1, keepdim=True), torch.tanh(factors).sum(1)
        level = torch.clamp(after * 20, 0, 255).to(torch.uint8)
        return factors, score, total, torch.floor(factors).argmax(1), level


def module(kind: type[nn.Module], seed: int = 0) -> Any:
    """A seeded instance in inference mode."""
    torch.manual_seed(seed)
    return kind().eval().requires_grad_(requires_grad=False)
