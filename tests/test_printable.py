"""Printable names of files and labels for terminals, logs, csv, HTML and JSON."""

import io
import json
import logging
import sys

import pytest

from timesformer_jax.errors import InputError, check_utf8
from timesformer_jax.printable import as_utf8, escape_unencodable, printable, to_json

HOSTILE = "a\nb\tc\x1b[31m\x7f\x9b\u2028\u202e\u2066\u200f\udce9\ud800"


@pytest.mark.parametrize(
    "name", ["run ", " ", "", "قفز", "跑步", "😀", "é", "family 👨\u200d👩", r"back\slash", r"caf\xe9", "$x_1$ <b> 100%"]
)
def test_printable_text_is_unchanged(name: str):
    assert printable(name) == as_utf8(name) == json.loads(to_json(name)) == name


def test_control_characters_are_escaped():
    assert printable(HOSTILE) == r"a\nb\tc\x1b[31m\x7f\x9b\u2028\u202e\u2066\u200f\xe9\ud800"
    assert printable(printable(HOSTILE)) == printable(HOSTILE)
    assert printable("a\n\x1b", newlines=True) == "a\n\\x1b"


def test_as_utf8_changes_only_surrogates():
    assert as_utf8(HOSTILE) == HOSTILE[:-2] + r"\xe9\ud800"


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "ascii", "cp1252"])
def test_json_is_utf8_that_every_loader_reads_alike(encoding: str):
    value = {"video": HOSTILE, "label": "跑 😀 é"}
    text = to_json(value, encoding=encoding, indent=1)
    assert json.loads(text.encode("utf-8")) == value
    assert printable(text, newlines=True) == text
    assert ("跑 😀 é" in text) == encoding.lower().startswith("utf")
    assert text.isascii() or encoding.lower().startswith("utf")


def test_streams_escape_unencodable_characters(monkeypatch: pytest.MonkeyPatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252", errors="strict"))
    escape_unencodable()
    print("é 跑 😀 \udce9", flush=True)
    assert written.getvalue() == b"\xe9 \\u8dd1 \\U0001f600 \\udce9\n"


def test_errors_and_log_lines_are_printable(caplog: pytest.LogCaptureFixture):
    assert str(InputError(f"There is no {HOSTILE}.")) == f"There is no {printable(HOSTILE)}."
    log = logging.getLogger("timesformer_jax")
    log.warning("%s: %d of %.1f", "a\n\x1b", 1, 2.0)
    log.warning("%s of:\n%s", "a\nb", "one\x1b\ntwo")
    log.warning("100 %")
    assert [record.getMessage() for record in caplog.records] == [r"a\n\x1b: 1 of 2.0", "a\\nb of:\none\\x1b\ntwo", "100 %"]


def test_folders_that_libraries_cannot_write_to_are_rejected():
    check_utf8("--workdir", "/runs/跑 ")
    with pytest.raises(InputError, match=r"--workdir=/runs/caf\\xe9 isn't UTF-8"):
        check_utf8("--workdir", "/runs/caf\udce9")
