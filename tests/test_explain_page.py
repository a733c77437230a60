"""The page of explanations, and --mode=explain."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jaxft import cli
from jaxft.explain import page
from jaxft.explain.explainer import Explained, Explanation
from jaxft.explain.options import Options
from jaxft.explain.units import Unit

TEXT = "<b>good</b> day & night"
UNITS = [Unit("<b>good</b>", "text", 0, 11), Unit("day", "text", 12, 15), Unit("night", "text", 18, 23)]


def row(scores: list[float], target: str = "yes", **facts: float) -> Explained:
    explanations = [
        Explanation(name, output, chance, [sign * score for score in scores], None, dict(facts), None)
        for name, output, chance, sign in ((target, -0.5, 0.2, 1), ("no", 0.9, 0.8, -1))
    ]
    return Explained({"text": TEXT}, {"prediction": target}, UNITS, explanations, "lime", "delete", False, 500)


class Parsed(HTMLParser):
    """Tags with their attributes, and the text of each element."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_says_numbers_in_their_places():
    made = page.made([row([0.5, -0.25, 0.0], fidelity=0.875)], Options("lime").check(), "/tmp/model", "a.txt")
    parsed = Parsed(made)
    assert not parsed.open, "every tag is closed"
    titled = [attrs for _, attrs in parsed.tags if attrs.get("class", "") and "unit" in str(attrs["class"]).split()]
    assert [attrs["title"] for attrs in titled[:3]] == ["+0.5000 for yes", "-0.2500 for yes", "+0.0000 for yes"]
    assert [attrs["title"] for attrs in titled[3:]] == ["-0.5000 for no", "+0.2500 for no", "-0.0000 for no"]
    depths = [float(re.findall(r",([\d.]+)\)$", str(attrs["style"]))[0]) for attrs in titled[:3]]
    assert depths == pytest.approx([0.65, 0.325, 0], abs=0.006)
    assert [re.findall(r"--(\w+)", str(attrs["style"]))[0] for attrs in titled[:2]] == ["for", "against"]
    assert "&lt;b&gt;good&lt;/b&gt;" in made and "<b>good</b>" not in made, "text is no markup"
    assert "fidelity (weighted R²) 0.875" in made and "500 passes" in made and "LIME" in made
    assert "yes 20.0%" in made and "no 80.0%" in made
    radios = [attrs for tag, attrs in parsed.tags if tag == "input"]
    assert [("checked" in attrs) for attrs in radios] == [False, True], "what is most likely is open"


def test_numbers_that_add_up_fall_from_the_baseline_to_the_output():
    """From 0.25 up by 1, down by 0.5 and up by what the others have, to the output: in parts of the whole width, 1."""
    units = [Unit(str(n), "text", n, n + 1) for n in range(10)]
    scores = [-0.5, 1.0, *[0.0625] * 8]
    one = Explanation("yes", 1.25, 0.5, scores, None, {}, None)
    entries = [("b", 1.0, 0.125), ("a<", -0.5, 0.0)]
    made = page._waterfall(entries, one)
    bars = re.findall(r'<span>([^<]*)</span><span class="fall"><i class="(\w+)" style="left:(.*?)%;width:(.*?)%"', made)
    assert bars == [
        ("without any", "end", "0.0", "0.0"), ("b", "up", "0.0", "100.0"), ("a&lt;", "down", "50.0", "50.0"),
        ("all others", "up", "50.0", "50.0"), ("the text", "end", "100.0", "0.0"),
    ]  # fmt: skip
    assert re.findall(r"<span>([-+\d.± ]+)</span>", made) == ["0.250", "+1.000 ± 0.125", "-0.500", "+0.500", "1.250"]
    alone = page._waterfall([("a", 0.0, 0.0)], Explanation("yes", 2.0, 0.5, [0.0], None, {}, None))
    assert "all others" not in alone and alone.count("left:0.0%;width:0.0%") == 3
    rows = {}
    for name in ("integrated_gradients", "shap", "exact_shap", "occlusion", "lime"):
        explained = Explained({"text": TEXT}, {}, units, [one], name, "pad", False, 1)
        rows[name] = page.made([explained], Options(name).check(), "model", "a.txt")
    assert [("without any" in made) for made in rows.values()] == [True, True, True, False, False]


def test_bars_go_from_the_middle_to_their_side():
    made = page._bars([("a<", 1.0, 0.125), ("b", -0.5, 0.0), ("c", 0.0, 0.0)], 2.0)
    found = re.findall(r'<span>([^<]*)</span><span class="bar"><i style="left:(.*?)%;width:(.*?)%;\S*--(\w+)\)', made)
    assert found == [
        ("a&lt;", "50.0", "25.0", "for"),
        ("b", "37.5", "12.5", "against"),
        ("c", "50.0", "0.0", "against"),
    ]
    assert "+1.000 ± 0.125" in made and "-0.500</span>" in made
    assert "width:0.0%" in page._bars([("a", 0.0, 0.0)], 0.0)


def test_the_page_needs_no_network():
    rows = [row([0.5, -0.25, 0.125])] * 3
    made = page.made(rows, Options("lime").check(), "model", "a.txt")
    parsed = Parsed(made)
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "img", "iframe"}
    assert not re.search(r"\b(?:src|href|url)\b\s*[=(]|@import|https?:", made)


def test_the_strongest_words_are_means_over_all_rows():
    words = page.strongest([row([1.0, -0.5, 0.0]), row([2.0, -1.0, 0.5])], "yes")
    assert words == [("<b>good</b>", 1.5, 2), ("night", 0.25, 2), ("day", -0.75, 2)]
    made = page.made([row([1.0, -0.5, 0.0])] * 2, Options("lime").check(), "model", "a.txt")
    assert "Strongest words: yes" in made and "day (2)" in made


def test_long_pages_end():
    made = page.made([row([0.5, -0.25, 0.125])] * (page.SHOWN + 5), Options("lime").check(), "model", "a.txt")
    assert made.count('class="card row"') == page.SHOWN and "The first 200 of 205 rows" in made


def test_mode_explain(finished, tmp_path, capsys):
    (tmp_path / "texts.csv").write_text("id,text\n7,what a day\n8,never again\n", encoding="utf-8")
    argv = ["run.py", "--mode=explain", f"--workdir={finished}", f"--input={tmp_path / 'texts.csv'}"]
    assert cli.main([*argv, f"--output={tmp_path / 'why.html'}", "--explain.target=all"], None) == 0
    made = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert "Integrated gradients" in made and "completeness error" in made and ">never</span>" in made
    lines = tmp_path / "why.jsonl"
    given = ["--explain.method=occlusion", "--explain.faithfulness", "--explain.baseline=pad"]
    assert cli.main([*argv, f"--output={lines}", *given], None) == 0
    found = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [one["id"] for one in found] == ["7", "8"] and found[0]["method"] == "occlusion"
    assert [unit["text"] for unit in found[0]["units"]] == ["what", "a", "day"]
    assert len(found[0]["explanations"][0]["scores"]) == 3 and found[0]["baseline"] == "pad"
    assert found[0]["explanations"][0]["faithfulness"]["sufficiency"].keys() >= {"area", "random"}
    capsys.readouterr()
    assert cli.main([*argv, "--explain.method=leave_one_out"], None) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines() if line[0] == "{"] == ["7", "8"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--explain.method=lim"], "explain.method 'lim': there is no such method; did you mean 'lime'?"),
        (["--output=why.pdf"], "--output why.pdf: a page is FILE.html, numbers are FILE.jsonl; choose one of the two"),
        (["--explain.target=nobody"], "explain.target 'nobody': the model has no such label; "),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(finished, tmp_path, capsys, given, said):
    (tmp_path / "texts.txt").write_text("what a day\n")
    argv = ["run.py", "--mode=explain", f"--workdir={finished}", f"--input={tmp_path / 'texts.txt'}"]
    output = [] if "--output" in given[0] else [f"--output={tmp_path / 'why.html'}"]
    assert cli.main([*argv, *output, *given], None) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {said}")
    assert [file.name for file in Path(tmp_path).iterdir()] == ["texts.txt"]
