"""The fixtures themselves: a request to another host is seen."""

from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import foreign_urls

pytestmark = pytest.mark.browser


def test_requests_to_other_hosts_are_seen(browser: Any, tmp_path: Path):
    seen: list[str] = []
    (tmp_path / "own.html").write_text('<link rel="stylesheet" href="https://fonts.example/inter.css"><img src="data:,">')
    page = browser.new_page()
    page.on("request", lambda request: seen.extend(foreign_urls(request.url)))
    page.goto((tmp_path / "own.html").as_uri())
    page.close()
    assert seen == ["https://fonts.example/inter.css"]


def test_page_opens_a_file(page: Any, tmp_path: Path):
    (tmp_path / "own.html").write_text("<h1>Here</h1>")
    page.goto((tmp_path / "own.html").as_uri())
    assert page.inner_text("h1") == "Here"
