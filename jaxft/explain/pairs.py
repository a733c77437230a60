"""Rows of two texts that a model reads each by itself, and compares by their vectors."""

from collections.abc import Sequence

import numpy as np

from jaxft.data import truncation
from jaxft.data.columns import with_text
from jaxft.data.features import Features
from jaxft.data.rows import Rows
from jaxft.data.sources import INPUT, Split, require_columns
from jaxft.errors import UserError
from jaxft.explain import ablation
from jaxft.explain.units import Reading, check_units, joined, reading
from jaxft.predict.predictor import Inputs, Predictor


def read(predictor: Predictor, data: Split | Sequence[str] | Rows, kind: str) -> tuple[Inputs, list[Reading]]:
    """Returns rows of two texts, tokenized, and of each the units of this kind of both.

    Raises:
      UserError: a row that cannot be read, or a text of it that has no unit; names it.
    """
    split = data if isinstance(data, Split) else predictor.split_of(data)
    if not split:
        raise UserError("there are no two texts to compare; give one row or more")
    names = predictor.table.options.texts[:2]
    split = split._replace(key=INPUT)
    require_columns(split, {f"task.texts[{n}]": name for n, name in enumerate(names)})
    for name in names:
        split = with_text(split, name)
    options, both = predictor.experiment.data, []
    for name in names:
        texts, found = split.table.column(name).to_pylist(), []
        with predictor.tokenizer() as tokenizer:
            encodings = tokenizer(texts, truncation=False, max_length=None, verbose=False).encodings
        for row, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
            places: Sequence[int] = range(len(encoding.ids))
            if len(places) > options.max_length:
                places = truncation.kept(encoding.sequence_ids, options.max_length, options.truncate)
            found.append(reading({name: text}, encoding, places, kind))
            check_units(found[-1], split.where(row), [name])
        both.append(found)
    readings = [joined(first, other) for first, other in zip(*both, strict=True)]
    whole = [ablation.features(one, np.ones((1, len(one.units)), bool), None) for one in readings]
    return Inputs(split, Features.joined(whole)), readings
