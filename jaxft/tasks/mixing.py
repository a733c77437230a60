"""Pairs of a batch's examples that are mixed; see `jaxft.objectives.mixup`, which puts them there."""

from jaxft.models import Head, nn
from jaxft.types import Array, Batch, Params, Shaped

SHARE, PARTNER = "mixup/share", "mixup/partner"
"""In a batch: the share `[]` that is an example's own; which slot, counted over all rows, makes the rest."""


def partners_of(x: Shaped[Array, "rows slots *rest"], batch: Batch) -> Shaped[Array, "rows slots *rest"]:
    """Returns for each slot what its partner's has."""
    return x.reshape(-1, *x.shape[2:])[batch[PARTNER]]


def mixed(head: Head, batch: Batch) -> Head:
    """Returns the head, applied to mixtures of the vectors of examples, `[rows, slots, width]`."""

    def apply(params: Params, x: Array, run: nn.Run) -> Array:
        share = batch[SHARE].astype(x.dtype)
        return head.apply(params, share * x + (1 - share) * partners_of(x, batch), run)

    return head._replace(apply=apply)
