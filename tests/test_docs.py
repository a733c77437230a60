"""What docs/ tells a reader to type works, and shows what it says."""

import re

from runs import ROOT

from jaxft import config
from jaxft.sharding import RULES


def test_the_sharding_page_names_every_axis_and_key():
    page = (ROOT / "docs" / "sharding.md").read_text()
    for axis, over in RULES.axes.items():
        assert re.search(rf"^\| `{axis}` \| .* \| `{re.escape('+'.join(over))}` \|$", page, re.MULTILINE)
    for key in config.keys(config.Mesh()):
        assert f"config.mesh.{key}`" in page
    assert "[docs/sharding.md](docs/sharding.md)" in (ROOT / "README.md").read_text()
