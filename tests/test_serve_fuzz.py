"""A service answers any request that its schema can say, and many that it cannot, without a fault of its own."""

import pytest
from hypothesis import HealthCheck, given, settings
from test_serve import opened

from jaxft.serve import app
from jaxft.serve.limits import Limits
from jaxft.serve.service import Service

schemathesis = pytest.importorskip("schemathesis")


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """The schema of a service of a classifier and of embeddings."""
    folder = tmp_path_factory.mktemp("fuzzed")
    names = ("classes", "embeddings")
    service = Service({name: opened(name, folder / name) for name in names}, Limits(tokens=64, texts=4))
    yield schemathesis.openapi.from_asgi("/openapi.json", app.build(service, "", lambda line: None))
    service.close()


@pytest.mark.matrix
def test_no_request_is_a_fault_of_the_server(api):
    tried = []
    for found in api.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy() | operation.as_strategy(schemathesis.GenerationMode.NEGATIVE))
        @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])  # pyright: ignore
        def fuzz(case):
            tried.append(case.call().status_code)
            assert tried[-1] < 500, case.as_curl_command()

        fuzz()
    assert {200, 404, 422} <= set(tried)
