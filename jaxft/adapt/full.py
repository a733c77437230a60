"""Full fine-tuning: every parameter learns."""

from typing import Any


def split(params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return params, {}


def join(trainable: dict[str, Any], frozen: dict[str, Any]) -> dict[str, Any]:
    return trainable
