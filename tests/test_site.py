"""The pages: the door, and that every route has a role."""

from pathlib import Path

from puna.text.tokenizer import Tokenizer
from tests.pages import serving_pages


def test_a_page_comes_with_its_headers_and_me_is_for_those_who_are_known(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tokenizer) as pages:
        anna = pages.person("Anna")
        home = anna.http.get("/")
        assert home.status_code == 200
        assert "default-src 'none'" in home.headers["content-security-policy"]
        me = anna.http.get("/api/me").json()
        assert me == {"name": "Anna", "role": "annotator", "csrf": anna.csrf}
        assert pages.running.http().get("/api/me").status_code == 401
        assert pages.running.http().get("/v1/models").status_code == 200
