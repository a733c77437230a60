"""What docs/ tells a reader to type works, and shows what it says."""

import re

from runs import ROOT

from jaxft import config
from jaxft.attack.options import METHODS
from jaxft.audit import duplicates, slices
from jaxft.audit.findings import SURES
from jaxft.audit.page import LISTED, RISK
from jaxft.cli.arguments import OF_MODES
from jaxft.cli.modes import LIMITS, MODES
from jaxft.generate.answers import Answer
from jaxft.metrics import texts
from jaxft.modes import comparing
from jaxft.modes.chatting import LONG
from jaxft.modes.compressing import EXAMPLES, RECORD
from jaxft.out.vocabulary import NEEDED
from jaxft.report.exporter import Exporter
from jaxft.report.watch import Watch
from jaxft.serve.limits import Limits
from jaxft.serve.measures import Measures
from jaxft.sharding import RULES
from jaxft.sure import bootstrap, conformal, groups, temperature
from jaxft.sure.calibration import SHARES


def test_the_sharding_page_names_every_axis_and_key():
    page = (ROOT / "docs" / "sharding.md").read_text()
    for axis, over in RULES.axes.items():
        assert re.search(rf"^\| `{axis}` \| .* \| `{re.escape('+'.join(over))}` \|$", page, re.MULTILINE)
    for key in config.keys(config.Mesh()):
        assert f"config.mesh.{key}`" in page
    assert "[docs/sharding.md](docs/sharding.md)" in (ROOT / "README.md").read_text()


def test_the_page_of_the_service_names_its_metrics_and_limits():
    page = (ROOT / "docs" / "serve.md").read_text()
    for family in Measures().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}`" in page
    assert {*LIMITS} == {*vars(Limits())}
    for name, default in vars(Limits()).items():
        assert f"`--serve.{name}`" in page and OF_MODES[f"serve.{name}"][0] == default
        assert name in ("tokens", "log_texts") or re.search(rf"^\| `--serve\.{name}` .*\b{default:,}\b", page, re.M)
    assert "[docs/serve.md](docs/serve.md)" in (ROOT / "README.md").read_text()


def test_the_page_of_runs_names_what_prometheus_reads():
    page = (ROOT / "docs" / "runs.md").read_text()
    families = list(Exporter(Watch()).collect())
    assert len(families) == len({family.name for family in families}) == 13
    for family in families:
        assert f"`{family.name}_total`" in page if family.type == "counter" else f"`{family.name}`" in page


def test_the_page_of_how_sure_names_every_flag_and_kind_of_sets():
    page = (ROOT / "docs" / "sure.md").read_text()
    for flag in (name for name in OF_MODES if name.startswith("calibrate.")):
        assert f"| `--{flag}` |" in page
    for kind in conformal.SETS:
        assert f"- `{kind}`: " in page
    assert f"between {1 / temperature.MOST:g} and {temperature.MOST:g}" in page
    assert f"surest {', '.join(f'{100 * share:g}' for share in SHARES[1:-1])} and {100 * SHARES[-1]:g}%" in page
    assert "[docs/sure.md](docs/sure.md)" in (ROOT / "README.md").read_text()


def test_the_page_of_how_sure_names_what_evaluate_takes():
    page = (ROOT / "docs" / "sure.md").read_text()
    for flag in (*(name for name in OF_MODES if name.startswith("evaluate.")), "compare"):
        assert f"--{flag}=" in page
    for kind in comparing.KINDS:
        assert f"`{kind}`" in page
    assert f"fewer than {groups.FEWEST} rows" in page and f"makes {groups.MOST} groups at most" in page
    assert f"first {comparing.SHOWN} of each" in page and f"{bootstrap.RESAMPLES:,} draws" in page


def test_the_page_of_audits_names_its_flags_and_numbers():
    page = (ROOT / "docs" / "audit.md").read_text()
    for flag in MODES["audit"].flags:
        assert f"| `--{flag}` |" in page
    for said in (
        f"the {SURES} wrong answers", f"slices of {slices.FEWEST} rows or more", f"the {slices.WORDS} of most rows",
        f"{groups.MOST} [groups]", f"similarity of {duplicates.NEAR:g} or more", f"the first {LISTED} of a crossfit",
        f"corrected p is below {RISK:.0%}", f"{bootstrap.LEVEL:.0%} [intervals]",
    ):  # fmt: skip
        assert said in page, said
    assert (slices.PARTS, duplicates.GRAM) == (5, 5) and "five parts" in page and "five in a" in page
    assert "[docs/audit.md](docs/audit.md)" in (ROOT / "README.md").read_text()


def test_the_page_of_what_is_written_names_every_flag_and_part():
    page = (ROOT / "docs" / "generate.md").read_text()
    for flag in (name for name in OF_MODES if name.startswith(("generate.", "chat."))):
        default = OF_MODES[flag][0]
        assert f"| `--{flag}` | {default if default != '' else 'none'} |" in page
    for part in Answer._fields:
        assert f"| `{part}` |" in page
    for name in texts.measured(["a"], ["a"]):
        assert f"`{name}`" in page
    assert f"where it is {LONG} |" in page
    assert "[docs/generate.md](docs/generate.md)" in (ROOT / "README.md").read_text()


def test_the_page_of_noisy_votes_names_every_flag():
    page = (ROOT / "docs" / "private.md").read_text()
    for flag in (name for name in OF_MODES if name.startswith("pate.")):
        assert re.search(
            rf"^\| `--{re.escape(flag)}` \| {OF_MODES[flag][0]:.7g}".replace("1e-05", "0.00001"), page, re.M
        )
    assert "[docs/private.md](docs/private.md)" in (ROOT / "README.md").read_text()


def test_the_page_of_attacks_names_every_flag_and_method():
    page = (ROOT / "docs" / "robustness.md").read_text()
    for flag in (name for name in OF_MODES if name.startswith("attack.")):
        default = OF_MODES[flag][0]
        assert re.search(rf"^\| `--{re.escape(flag)}` \| .*\b{default}\b", page, re.MULTILINE)
    for method in METHODS:
        assert f"| `{method}` |" in page
    assert "[docs/robustness.md](docs/robustness.md)" in (ROOT / "README.md").read_text()


def test_the_page_of_smaller_models_names_every_flag_and_kind():
    page = (ROOT / "docs" / "compress.md").read_text()
    for flag in (name for name in OF_MODES if name.startswith("compress.")):
        assert f"| `--{flag}=" in page
    for kind in NEEDED:
        assert f"- **{kind}** keeps" in page
    assert f"{EXAMPLES:,} rows of validation" in page and f"`DIR/{RECORD}`" in page
    assert "[docs/compress.md](docs/compress.md)" in (ROOT / "README.md").read_text()
