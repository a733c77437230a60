"""The model card of an export or of an adapter: README.md, whose front matter the Hugging Face Hub reads.

Of that, nothing is guessed: what is not known (a language, a license) is left out.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft.hub.directory import CARD
from jaxft.storage import paths

METRICS = {
    "accuracy": "accuracy",
    "next_accuracy": "accuracy",
    "subset_accuracy": "accuracy",
    "exact": "exact_match",
    "matthews": "matthews_correlation",
    "mse": "mse",
    "pearson": "pearsonr",
    "perplexity": "perplexity",
    "roc_auc": "roc_auc",
    "spearman": "spearmanr",
} | {f"{kind}{mean}": kind for kind in ("precision", "recall", "f1") for mean in ("", "_macro", "_micro")}
"""A metric of `jaxft.metrics` -> what https://huggingface.co/metrics calls it. Those of one class are none of these."""

LOCAL = "local"
"""What `model-index` says as the type of a dataset that is not on the Hub."""


@dataclasses.dataclass(frozen=True)
class About:
    """What a card tells of a model.

    Attributes:
      name: of the model.
      experiment: as `config.to_dict` gives it.
      origins: split -> the file or dataset that its examples come from, as `jaxft.data.sources.Split` says it, as far
        as it is known.
      results: `SPLIT/METRIC` -> value; those of validation and test are told.
      command: that trained it.
      base: the front matter of the base model's card; see `front_matter`.
      pipeline: what the Hub calls the task.
      usage: Python that predicts with the model.
      library: what the Hub calls the library that loads it.
      adapter: whether it is an adapter, which is put on the base model; else it is a model of its own.
    """

    name: str
    experiment: Mapping[str, Any]
    origins: Mapping[str, str]
    results: Mapping[str, float | None]
    command: str
    base: Mapping[str, Any]
    pipeline: str
    usage: str
    library: str = "transformers"
    adapter: bool = False

    @property
    def told(self) -> dict[str, float]:
        """The results of validation and test that are known: in results.json, one that is not is null."""
        known = {key: x for key, x in sorted(self.results.items()) if x is not None and math.isfinite(x)}
        return {key: x for key, x in known.items() if key.split("/")[0] in ("validation", "test")}


def front_matter(directory: Path) -> dict[str, Any]:
    """Returns what the README.md of a model's directory says to the Hub; nothing where there is none to be read."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        return metadata_load(directory / CARD) or {}
    except (OSError, ValueError, yaml.YAMLError):  # somebody else's page, which no run depends on
        return {}


KEPT = ("base_model", "base_model_relation", "datasets", "language", "license", "license_name", "license_link")
"""What a model's front matter says that is true of another form of it as well; its results are not."""


def front_matter_of(base: Mapping[str, Any], library: str, pipeline: str) -> str:
    """Returns the front matter, without its fences, of another form of a model.

    Args:
      base: the model's own; see `front_matter`.
      library, pipeline: as `About` has them.
    """
    from huggingface_hub import ModelCardData

    kept = {key: base[key] for key in KEPT if key in base}
    return ModelCardData(library_name=library, pipeline_tag=pipeline, tags=["jaxft"], **kept).to_yaml()


def model_card(about: About) -> str:
    """Returns the text of README.md: what the model is, what it was trained on, how well it does, how to use it."""
    data, train, optimizer = (about.experiment[section] for section in ("data", "train", "optimizer"))
    base = about.experiment["model"]["path"]
    length = f"{train['steps']} steps" if train["steps"] else f"{train['epochs']:g} epochs"
    table = "\n".join(f"| {key} | {value:.4g} |" for key, value in about.told.items())
    what = f"An adapter of `{base}`, trained by jaxft" if about.adapter else f"`{base}` fine-tuned by jaxft"
    return f"""---
{_header(about).to_yaml()}
---

# {about.name}

{what} for {about.pipeline}.

## Data

`{" ".join(part for part in (data["source"], data["subset"]) if part)}`, split `{data["train"]}`; inputs are cut at \
{data["max_length"]} tokens. Trained for {length} in batches of {train["batch_size"]}, peak learning rate \
{optimizer["learning_rate"]:g}, seed {about.experiment["seed"]}.

## Metrics

| metric | value |
|---|---|
{table}

## How to use

```python
{about.usage}
```

## Command

```sh
{about.command}
```
"""


def _header(about: About) -> Any:
    """Returns the front matter, a `huggingface_hub.ModelCardData`."""
    from huggingface_hub import ModelCardData

    results, base, further = _eval_results(about), _base(about), dict[str, Any](_license(about))
    if base:
        further["base_model_relation"] = "adapter" if about.adapter else "finetune"
    return ModelCardData(
        base_model=base,
        datasets=_dataset(about),
        eval_results=results or None,
        language=_language(about.base.get("language")),
        library_name=about.library,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=about.name if results else None,
        pipeline_tag=about.pipeline,
        tags=["jaxft", about.experiment["adapt"]] if about.adapter else ["jaxft"],
        **further,
    )


def _base(about: About) -> str | None:
    """Returns the name on the Hub of the model that this one was fine-tuned from; None: it is not known.

    A copy on this machine has the page of its original, which names what that was fine-tuned from in turn. An adapter
    fits no other model than the one it was trained on.
    """
    path = about.experiment["model"]["path"]
    if _on_hub(path):
        return path
    there = about.base.get("base_model")
    only = there[0] if isinstance(there, list) and len(there) == 1 else there
    return only if isinstance(only, str) and not about.adapter else None


def _on_hub(path: str) -> bool:
    """Whether a path that was used is none of this machine, nor the URL of another place."""
    return "://" not in path and paths.resolve(path) is None and not paths.looks_local(path)


def _dataset(about: About) -> str | None:
    """Returns the name of the dataset on the Hub; None: it is not there."""
    source, origin = about.experiment["data"]["source"], about.origins.get("train", "")
    return source if _on_hub(source) and origin.startswith((f"{source}, ", f"{source} (")) else None


def _language(there: Any) -> str | None:
    """Returns the one language that a base model's card names. Of several the data may be in any."""
    one = there[0] if isinstance(there, list) and len(there) == 1 else there
    one = "no" if one is False else one  # Norwegian, which YAML takes for a truth value
    return one if isinstance(one, str) and one != "multilingual" else None


def _license(about: About) -> dict[str, str]:
    """Returns what a base model's card says of its license, a link only where it leads somewhere from here too."""
    told = {key: about.base.get(key) for key in ("license", "license_name", "license_link")}
    found = {key: value for key, value in told.items() if isinstance(value, str)}
    if "://" not in found.get("license_link", "://"):
        file, path = found.pop("license_link"), about.experiment["model"]["path"]
        if _on_hub(path):
            found["license_link"] = f"https://huggingface.co/{path}/blob/main/{file}"
    return found


def _eval_results(about: About) -> list[Any]:
    """Returns the results that have a name on the Hub, a `huggingface_hub.EvalResult` each, for `model-index`."""
    from huggingface_hub import EvalResult

    data, dataset = about.experiment["data"], _dataset(about)
    found = []
    for key, value in about.told.items():
        split, _, metric = key.partition("/")
        if metric not in METRICS:
            continue
        carved = split in about.origins and about.origins[split] == about.origins.get("train")
        result = EvalResult(
            task_type=about.pipeline,
            dataset_type=dataset or LOCAL,
            dataset_name=dataset or Path(data["source"]).name,
            dataset_config=data["subset"] or None,
            dataset_split=f"{split} (carved off {data['train']})" if carved else data[split],
            metric_type=METRICS[metric],
            metric_name=metric,
            metric_value=value,
        )
        found.append(result)
    return found
