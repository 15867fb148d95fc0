"""The named peer: the training loop that a PyTorch tutorial teaches, for a ResNet-18 and for a GPT.

Nothing of Strata is used here. By default everything is as torch gives it: fp32, contiguous NCHW, a DataLoader that
asks a map-style data set for one sample after the other, torch.optim as it comes, ``loss.item()`` only when it is
printed. The GPT and its loop follow nanoGPT (Karpathy 2022): random windows of the text, scaled_dot_product_attention,
AdamW with two groups, gradients clipped to 1. ``tuned=True`` is the same loop at its best, for a reader who knows
torch well: bf16 autocast where the hardware has it, channels-last, fused optimisers, more workers, and compile where
Strata compiles too.

B samples, C channels, H and W pixels, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

LABEL_SMOOTHING = 0.1


@dataclass(frozen=True, kw_only=True)
class Way:
    """How the loop uses the machine."""

    device: str = "cpu"
    tuned: bool = False
    bf16: bool = False
    """Autocast to bf16; only meant together with `tuned`, and only where the hardware multiplies it natively."""
    compile: bool = False
    workers: int = 0
    """Processes that prepare samples for the DataLoader; 0: the main process does it between two steps."""

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the forward pass."""
        return torch.autocast(self.device, dtype=torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    @property
    def fused(self) -> dict[str, bool]:
        """What the optimiser is given beyond its defaults."""
        return {"fused": True} if self.tuned else {}


# ------------------------------------------------------------------------------------------------------- pictures


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures uint8 (N, C, H, W) and labels (N,), each sample transformed when it is asked for.

    The transforms are those of every CIFAR tutorial: to a tensor of 0 to 1, crop with 4 pixels of padding, mirror,
    normalise; written with torch, because torchvision is not at hand on every machine.
    """

    mean_C11 = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    deviation_C11 = torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, padding: int = 4) -> None:
        self.images, self.labels, self.padding = images, labels, padding

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self.images[index]).float() / 255
        height, width = image.shape[1:]
        image = F.pad(image, [self.padding] * 4)
        top, left = torch.randint(0, 2 * self.padding + 1, (2,)).tolist()
        image = image[:, top : top + height, left : left + width]
        if torch.rand(1).item() < 0.5:
            image = image.flip(-1)
        return (image - self.mean_C11) / self.deviation_C11, int(self.labels[index])


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2016) with a 3x3 stem, as tutorials have it for pictures of 32x32."""

    def __init__(self, num_classes: int = 10, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        channels = width
        for stage in range(4):
            for block in range(2):
                blocks.append(BasicBlock(channels, width * 2**stage, stride=2 if stage > 0 and block == 0 else 1))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.blocks(x)
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return self.fc(x)


def train_resnet(
    data: Pictures,
    *,
    batch_size: int,
    way: Way,
    on_step: Callable[[], None],
    width: int = 64,
    num_classes: int = 10,
    log_every: int = 100,
    learning_rate: float = 0.05,
) -> None:
    """Train until ``on_step``, which is called after each step, raises."""
    device = torch.device(way.device)
    model: Any = ResNet18(num_classes, width).to(device)
    loading: dict[str, Any] = {"num_workers": way.workers}
    if way.tuned:
        model = model.to(memory_format=torch.channels_last)
        loading |= {"pin_memory": device.type == "cuda", "persistent_workers": way.workers > 0}
    if way.compile:
        model = torch.compile(model)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4, **way.fused
    )
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, drop_last=True, **loading)
    model.train()
    step, losses = 0, []
    while True:
        for images, labels in loader:
            if way.tuned:
                images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
                labels = labels.to(device, non_blocking=True)
            else:
                images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            with way.autocast():
                loss = F.cross_entropy(model(images), labels, label_smoothing=LABEL_SMOOTHING)
            loss.backward()
            optimizer.step()
            step += 1
            if step % log_every == 0:
                losses.append(loss.item())
            on_step()


# ----------------------------------------------------------------------------------------------------------- text


@dataclass(frozen=True, kw_only=True)
class GPTShape:
    """Sizes of the GPT."""

    num_layers: int
    num_heads: int
    width: int
    context: int
    vocab_size: int
    dropout: float = 0.0
    sdpa: bool = True
    """The peer, as nanoGPT does; False writes attention out as a softmax of scores, as older tutorials do."""


class Attention(nn.Module):
    """Causal self-attention."""

    mask: Tensor

    def __init__(self, shape: GPTShape) -> None:
        super().__init__()
        self.shape = shape
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.proj = nn.Linear(shape.width, shape.width, bias=False)
        self.attention_dropout = nn.Dropout(shape.dropout)
        self.dropout = nn.Dropout(shape.dropout)
        mask = torch.tril(torch.ones(shape.context, shape.context, dtype=torch.bool))
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        heads = self.shape.num_heads
        q, k, v = self.qkv(x).split(D, dim=2)
        q = q.view(B, T, heads, D // heads).transpose(1, 2)
        k = k.view(B, T, heads, D // heads).transpose(1, 2)
        v = v.view(B, T, heads, D // heads).transpose(1, 2)
        if self.shape.sdpa:
            y = F.scaled_dot_product_attention(
                q, k, v, dropout_p=self.shape.dropout if self.training else 0.0, is_causal=True
            )
        else:
            scores = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))
            scores = scores.masked_fill(~self.mask[:T, :T], float("-inf"))
            y = self.attention_dropout(F.softmax(scores, dim=-1)) @ v
        return self.dropout(self.proj(y.transpose(1, 2).contiguous().view(B, T, D)))


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and added to what came in."""

    def __init__(self, shape: GPTShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, bias=False)
        self.attention = Attention(shape)
        self.norm2 = nn.LayerNorm(shape.width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(shape.width, 4 * shape.width, bias=False),
            nn.GELU(),
            nn.Linear(4 * shape.width, shape.width, bias=False),
            nn.Dropout(shape.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """A GPT with nanoGPT's initial weights: deviation 0.02, the layers that end a block's part divided by sqrt(2 L)."""

    def __init__(self, shape: GPTShape) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(shape.vocab_size, shape.width)
        self.position_embedding = nn.Embedding(shape.context, shape.width)
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.Sequential(*[Block(shape) for _ in range(shape.num_layers)])
        self.norm = nn.LayerNorm(shape.width, bias=False)
        self.head = nn.Linear(shape.width, shape.vocab_size, bias=False)
        self.head.weight = self.token_embedding.weight
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, mean=0.0, std=0.02)
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.proj.weight", "mlp.2.weight")):
                nn.init.normal_(parameter, mean=0.0, std=0.02 / math.sqrt(2 * shape.num_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) for tokens (B, T)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))
        return self.head(self.norm(self.blocks(x)))


@dataclass(frozen=True, kw_only=True)
class GPTTraining:
    """nanoGPT's settings for characters of Shakespeare."""

    batch_size: int
    steps: int
    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-4
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.1
    clip: float = 1.0
    log_every: int = 100

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then half a cosine down to the smallest."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / (self.warmup + 1)
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        share = 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))
        return self.min_learning_rate + share * (self.learning_rate - self.min_learning_rate)


def train_gpt(
    shape: GPTShape,
    tokens: np.ndarray,
    training: GPTTraining,
    *,
    way: Way,
    on_step: Callable[[int, nn.Module], None],
) -> None:
    """Train on a text's tokens (N,) for all steps, or until ``on_step`` raises; it is called after each step."""
    device = torch.device(way.device)
    plain = GPT(shape).to(device)
    decayed = [p for p in plain.parameters() if p.dim() >= 2]
    others = [p for p in plain.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=training.learning_rate,
        betas=training.betas,
        **way.fused,
    )
    model: Any = torch.compile(plain) if way.compile else plain

    def get_batch() -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(tokens) - shape.context, (training.batch_size,)).tolist()
        x = torch.stack([torch.from_numpy(tokens[i : i + shape.context].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + shape.context].astype(np.int64)) for i in starts])
        if device.type == "cuda":
            return x.pin_memory().to(device, non_blocking=True), y.pin_memory().to(device, non_blocking=True)
        return x, y

    model.train()
    losses = []  # a tutorial prints them; a terminal's speed is not to be measured
    x, y = get_batch()
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.rate(step)
        with way.autocast():
            logits = model(x)
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))
        x, y = get_batch()  # while a GPU is still busy with the forward pass, as nanoGPT does
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % training.log_every == 0:
            losses.append(loss.item())
        on_step(step + 1, plain)
