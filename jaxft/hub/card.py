"""The model card of an export."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def model_card(
    name: str,
    experiment: Mapping[str, Any],
    results: Mapping[str, float],
    command: str,
    base_model: str,
    *,
    pipeline: str,
    usage: str,
) -> str:
    """The README.md of an export: what the model is, what it was trained on, how well it does, how to use it.

    Args:
      name: of the model.
      experiment: as `config.to_dict` gives it.
      results: `SPLIT/METRIC` -> value; the table shows those of validation and test.
      command: that trained it.
      base_model: the `model.path` that it was fine-tuned from.
      pipeline: what the Hub calls the task.
      usage: Python that predicts with the export.
    """
    from huggingface_hub import ModelCardData

    rows = {key: value for key, value in sorted(results.items()) if key.split("/")[0] in ("validation", "test")}
    metrics = sorted({key.split("/")[-1] for key in rows} - {"loss"})
    # The Hub takes only its own names here, and lets the page of the base model link to this one.
    on_hub = base_model if "://" not in base_model and not Path(base_model).expanduser().exists() else None
    header = ModelCardData(
        library_name="transformers", base_model=on_hub, pipeline_tag=pipeline, metrics=metrics or None, tags=["jaxft"]
    )
    data, train, optimizer = experiment["data"], experiment["train"], experiment["optimizer"]
    length = f"{train['steps']} steps" if train["steps"] else f"{train['epochs']:g} epochs"
    table = "\n".join(f"| {key} | {value:.4g} |" for key, value in rows.items())
    return f"""---
{header.to_yaml()}
---

# {name}

`{base_model}` fine-tuned by jaxft for {pipeline}.

## Data

`{" ".join(part for part in (data["source"], data["subset"]) if part)}`, split `{data["train"]}`; inputs are cut at \
{data["max_length"]} tokens. Trained for {length} in batches of {train["batch_size"]}, peak learning rate \
{optimizer["learning_rate"]:g}, seed {experiment["seed"]}.

## Metrics

| metric | value |
|---|---|
{table}

## How to use

```python
{usage}
```

## Command

```sh
{command}
```
"""
