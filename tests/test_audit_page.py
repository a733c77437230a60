"""What the page of an audit, its JSON and the model card say: of a bounded size, and in their places."""

import json
import math
from typing import Any

import numpy as np
from test_report import Reader

from jaxft.audit import card, page
from jaxft.audit.described import Line
from jaxft.audit.exposure import Exposure
from jaxft.audit.found import Audit, Duplicate, Mistake
from jaxft.audit.slices import Slice
from jaxft.audit.thresholds import Curve
from jaxft.explain.explainer import Explained, Explanation
from jaxft.explain.page import Strong
from jaxft.explain.units import Unit
from jaxft.modes import auditing


def mistake(words: int = 400) -> Mistake:
    """Of a long text that was explained, of which the model has read a part."""
    text, units, at = " ".join(f"wordy{n}" for n in range(words)) + " tail" * 4000, [], 0
    for n in range(words):
        units.append(Unit(f"wordy{n}", "text", at, at + len(f"wordy{n}")))
        at += len(f"wordy{n}") + 1
    why = Explanation("good", 2.0, 0.97, [math.sin(n) for n in range(words)], None, {}, None)
    return Mistake(
        "r.csv, row 3", {"text": text}, "<bad>", "good", 0.97,
        Explained({"text": text}, {}, units, [why], "integrated_gradients", "pad", True, 1),
    )  # fmt: skip


def audit(**changes: Any) -> Audit:
    rng = np.random.default_rng(0)
    rows = 5000
    many = [Slice(f"word: w{n}", 40, 30, 1e-9, 0.01 if n < 60 else 0.2) for n in range(300)]
    twin = Duplicate(0.9, "r.csv, row 1", "long " * 9000, "bad", "t.csv, row 2", "long " * 9000, "good")
    line = {"where": "t.csv, row 9", "text": "so & so", "given": "bad", "confidently": "good", "normalized_margin": 0.1}
    found = Audit(
        rows=rows,
        level=0.95,
        metrics={"accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9, "loss": 0.5, "threshold/x": 0.5},
        sure={"ece": 0.01, "ece_before": 0.09, "log_loss": 0.4, "log_loss_before": 0.5},
        diagrams={"As it is": (rng.integers(0, 3, rows), rng.dirichlet(np.ones(3), rows))},
        mistakes=[mistake()] * 19 + [mistake()._replace(why=None)],
        wrong=1000,
        slices=many,
        duplicates=[twin] * 2000,
        doubtful=[line] * 900,
        notes=["A note <so>."],
        data=[Line("rows", rows, 12000), Line("tokens, median", 17.5, None)],
        words={"good": [Strong("fine", 0.5, 7), Strong("bleak", -0.25, 3)]},
    )
    return found._replace(**changes)


def test_the_page_is_small_and_needs_no_network():
    made = page.made(audit(), "/tmp/run", "r.csv")
    read = Reader(made)
    assert len(made.encode()) < 3e6 and {"script", "link", "iframe"}.isdisjoint(read.tags)
    assert all(source.startswith("data:image/png;base64,") for source in read.sources) and len(read.sources) == 1
    assert "http" not in made.replace("http-equiv", "") and "@import" not in made
    said = "\n".join(read.texts)
    for line in (
        "Audit of run", "/tmp/run · 5,000 rows of r.csv", "A note <so>.", "0.7000 to 0.9000",
        "r.csv, row 3: said good (97.0%), labelled <bad>", "Surest mistakes (20 of 1,000)", "so & so",
        "The rows", "12,000", "17.5", "Strongest words of each answer", "fine (7)", "bleak (3)",
        "2,000 of 5,000 rows are near duplicates", "Doubtful labels (50 of 900)", "t.csv, row 9",
    ):  # fmt: skip
        assert line in said, line
    assert (
        "300 slices of 20 rows or more were tested" in said
        and "60 stand out" in said
        and "1,000 wrong answers (20.0%)" in said
    )
    assert said.count("word: w") == page.LISTED and "word: w60" not in said and "75.0%" in said
    assert "threshold" not in said and made.count('class="unit') == 19 * 400 and "tail tail" in said
    assert "0.0900\n0.0100" in "\n".join(line for line in said.splitlines() if line)


def test_a_page_has_what_there_is():
    bare = audit(sure={}, diagrams={}, mistakes=[], wrong=None, slices=[], duplicates=[], doubtful=[], notes=[])
    bare = bare._replace(data=[], words={})
    assert Reader(page.made(bare, "run", "r.csv")).tags.count("h2") == 1
    right = audit(
        mistakes=[],
        wrong=0,
        slices=[Slice("a", 20, 0, 1.0, 1.0)],
        diagrams={"No numbers": (np.zeros(2, int), np.full((2, 2), np.nan))},
    )
    read = Reader(page.made(right, "run", "r.csv"))
    assert not read.sources and any("0 stand out" in text for text in read.texts)


def test_numbers_are_json():
    values = json.loads(json.dumps(audit(duplicates=audit().duplicates[:1]).to_json()))
    assert values.keys() == {*Audit._fields} - {"diagrams"}
    assert values["slices"][0] == {"name": "word: w0", "rows": 40, "wrong": 30, "p": 1e-9, "corrected": 0.01}
    assert values["data"][1] == {"name": "tokens, median", "measured": 17.5, "known": None}
    assert values["words"]["good"][1]["text"] == "bleak"
    assert values["mistakes"][0]["why"]["units"][0]["text"] == "wordy0" and values["mistakes"][19]["why"] is None


def test_thresholds_have_a_table_and_a_figure():
    curves = [Curve(f"l<{n}", 0.5, 0.25, 0.75, 0.3125, [n / 40] * 99) for n in range(12)]
    made = page.made(audit(curves=curves, diagrams={}), "run", "r.csv")
    read = Reader(made)
    at = read.texts.index("l<11")
    assert [text for text in read.texts[at:] if text][:5] == ["l<11", "0.5000", "0.2500", "0.7500", "0.3125"]
    assert len(read.sources) == 1 and 'style="--width: 660px"' in made and "Thresholds" in read.texts
    assert audit(curves=curves).to_json()["curves"][3]["label"] == "l<3"


def test_the_card_says_it_in_short():
    """Of the slices that stand out the first ten; what ends a cell of a table does not."""
    worse = [Slice(f"word: a|{n}", 40, 30, 1e-9, 0.01) for n in range(12)]
    exposed = [Exposure("c.jsonl, row 1", "7351", 3, 1001, 8.5), Exposure("c.jsonl, row 2", "12", 1, 1001, 10.0)]
    found = audit(slices=[*worse, Slice("b", 40, 2, 0.5, 1.0)], exposures=exposed)
    assert card.section(found, "r.csv").splitlines() == [
        "## Audit", card.MARK, "", "5,000 rows of r.csv, by jaxft's `--mode=audit`.", "",
        "| metric | value | 95% interval |", "|---|---:|---:|", "| accuracy | 0.8000 | 0.7000 to 0.9000 |",
        "| loss | 0.5000 |  |", "| expected calibration error | 0.0100 |  |",
        "| expected calibration error, not calibrated | 0.0900 |  |", "| log loss | 0.4000 |  |",
        "| log loss, not calibrated | 0.5000 |  |", "",
        "13 slices were tested, and 12 are worse than chance gives (hypergeometric law, corrected p below 5%).", "",
        "| worse on | rows | wrong | corrected p |", "|---|---:|---:|---:|",
        *(f"| word: a\\|{n} | 40 | 30 | 0.01 |" for n in range(10)), "",
        "2,000 rows are near duplicates of training data.", "",
        "| canary | exposure |", "|---|---:|", "| c.jsonl, row 2 | 10.0 bits |", "| c.jsonl, row 1 | 8.5 bits |", "",
        "A note <so>.",
    ]  # fmt: skip
    bare = audit(sure={}, slices=[], duplicates=[], notes=[])
    assert card.section(bare, "r.csv").count("\n\n") == 2 and card.section(bare, "r.csv").endswith("0.5000 |  |\n")


def test_a_card_has_one_audit(tmp_path, capsys):
    """The last one, before how the model is used; whatever else somebody wrote there stays, under the same name too."""
    text = "---\ntags: a\n---\n\n# M\n\n## Metrics\n\n1\n\n## How to use\n\nso\n\n## Audit of bees\n\nmine\n"
    section = f"## Audit\n{card.MARK}\n\nfirst\n"
    one = card.with_section(text, section)
    assert one == text.replace("## How", f"{section}\n## How")
    other = card.with_section(one, section.replace("first", "second"))
    assert other == one.replace("first", "second")
    own = text.replace("## Metrics", "## Audit\n\nby hand\n\n## Metrics")
    assert card.with_section(card.with_section(own, section), section) == own.replace("## How", f"{section}\n## How")
    assert card.with_section("# M", section) == f"# M\n\n{section}"
    assert card.with_section("", "## Audit\n") == "## Audit\n"
    (tmp_path / "export").mkdir()
    assert card.of_run(str(tmp_path)) is None
    (tmp_path / "export" / "README.md").write_text(text, encoding="utf-8")
    there = card.of_run(str(tmp_path))
    assert there is not None
    auditing.tell(there, section)
    assert there.read_text() == one and [file.name for file in there.parent.iterdir()] == ["README.md"]
    assert capsys.readouterr().err == f"model card: {there}, Audit\n"
