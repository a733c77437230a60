"""--mode=explain: which words of new inputs speak for the model's answers."""

import json
from pathlib import Path

from jaxft.devices import distributed
from jaxft.errors import UserError
from jaxft.explain import page
from jaxft.explain.explainer import explained
from jaxft.explain.options import Options
from jaxft.modes.predicting import beside, opened, read_inputs
from jaxft.predict.predictor import Predictor
from jaxft.storage import paths

PAGE = (".html", ".htm")
LINES = (".jsonl", ".json", "")


def checked_suffix(output: str) -> str:
    """Returns how the name of an output ends, in small letters.

    Raises:
      UserError: neither as a page does nor as JSON lines do.
    """
    suffix = Path(output).suffix.lower()
    if suffix not in PAGE + LINES:
        raise UserError(f"--output {output}: a page is FILE.html, numbers are FILE.jsonl; choose one of the two")
    return suffix


def explain(workdir: str, inputs: str, output: str = "", adapter: str = "", options: Options | None = None) -> None:
    """Explains each row of a file that `--mode=predict` takes, and writes a page or JSON lines.

    Args:
      workdir, inputs, adapter: see `jaxft.modes.predicting.predict`.
      output: FILE.html, a page that needs nothing else, or FILE.jsonl, a JSON line for each row: the row and, beside
        it, what `Explained` holds; written whole or not at all. Empty: lines on standard output.
      options: how; None: the defaults.

    Raises:
      UserError: a file, a method, a target or a row that cannot be explained, or an output that cannot be written.
    """
    paths.file_of("--input", inputs)
    options = (options or Options()).check()
    suffix = checked_suffix(output)
    predictor = Predictor.open(workdir, adapter)
    split = read_inputs(inputs, predictor)
    rows = list(explained(predictor, split, options))

    def write() -> None:
        with opened(output) as out:
            if suffix in PAGE:
                out.write(page.made(rows, options, name=workdir.rstrip("/"), origin=Path(inputs).name))
                return
            for row, one in zip(split.table.to_pylist(), rows, strict=True):
                found = one.to_json()
                del found["row"]  # it stands beside, with all its columns
                out.write(json.dumps(beside(row, found), ensure_ascii=False, default=str) + "\n")

    distributed.once(write)
