"""The OpenAPI document is true: schemathesis finds no fault and no answer beside it."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from puna.web.keys import Keys
from tests.test_web_keys import ALICE, key
from tests.web import serving

CHECKS = [
    *(not_a_server_error, status_code_conformance, content_type_conformance),
    *(response_schema_conformance, response_headers_conformance, negative_data_rejection),
    *(unsupported_method, ignored_auth),
]
PATHS = (
    *("/health", "/metrics", "/v1/models", "/v1/models/{name}", "/v1/chat/completions"),
    *("/v1/completions", "/v1/embeddings", "/v1/tokenize", "/v1/detokenize", "/v1/render"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_tokenizer):
    keys = Keys([key("alice", ALICE, admin=True)])
    folder = tmp_path_factory.mktemp("web")
    with serving(folder, tiny_tokenizer, keys=keys, token=ALICE) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_schemathesis_finds_nothing(server, path):
    headers = {"Authorization": f"Bearer {ALICE}"}
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=headers)
    [operation] = [found.ok() for found in schema.get_all_operations() if found.ok().path == path]

    @settings(
        max_examples=40,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def one(case):
        if case.meta.generation.mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body["model"] = "tiny"  # a right one, so that more than its name is read
        case.call_and_validate(headers=headers, checks=CHECKS)

    given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))(one)()
    if operation.body:  # a wrong body; the other routes take nothing that could be wrong
        given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))(one)()
    assert server.alive()
    assert server.fake.asked or path != "/v1/completions"  # some of it was let through
