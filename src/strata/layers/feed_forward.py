"""The two-layer perceptron of Transformer-like blocks (Vaswani et al. 2017, section 3.3), the same for every place."""

from __future__ import annotations

from torch import Tensor, nn

from strata.layers.activations import Activation, activation
from strata.layers.recompute import made_again


class FeedForward(nn.Module):
    """Linear, activation, linear, on the last dimension: (..., width) to (..., width).

    Dropout follows each of the two linear layers, as in Dosovitskiy et al. 2021, appendix B.1.
    """

    def __init__(self, width: int, hidden: int, *, kind: Activation = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.act = activation(kind)
        self.dropout1 = nn.Dropout(dropout)
        self.down = nn.Linear(hidden, width)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return what each place makes of what it holds."""
        read = self.up(x)
        active = self.act(read)
        if self.training and self.dropout1.p > 0:  # what it drops is kept in any case
            return self.dropout2(self.down(self.dropout1(active)))
        with made_again(active, lambda: self.act.forward(read)):
            return self.dropout2(self.down(active))
