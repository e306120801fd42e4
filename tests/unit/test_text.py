"""Text of objects where people read it: terminals, logs, Events, statuses, probes."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from agent import log
from agent.model.policy import PolicyRef
from agent.model.validated import ValidatedPolicy
from agent.outputs.http import app
from agent.outputs.kube.events import EventSeries
from agent.outputs.kube.policy_status import status_of
from agent.text import json_text, printable
from tests.unit.seen import denial

HOSTILE = "a\n\x1b[2J\r\u202eevil\x9b\u2028\U000e0041b"
SPELLED = r"a\n\x1b[2J\r\u202eevil\x9b\u2028\U000e0041b"


@pytest.mark.parametrize(
    ("text", "shown"), [("plain", "plain"), ("Åsa 雪 €", "Åsa 雪 €"), (HOSTILE, SPELLED), ("\udc80", r"\udc80")]
)
def test_what_has_no_picture_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text, keep="\n") == shown.replace(r"\n", "\n")
    assert printable(shown) == shown


@pytest.mark.parametrize("indent", [None, 2])
def test_json_that_is_shown_is_exact(indent: int | None) -> None:
    value = {HOSTILE: [HOSTILE, "Åsa", 1, None, "\udc80"]}
    text = json_text(value, indent)
    assert json.loads(text) == value
    assert "Åsa" in text
    assert all(c.isprintable() or c == "\n" for c in text)


def test_a_log_line_is_one_line_and_exact() -> None:
    stream = io.StringIO()
    log.configure(stream=stream)
    log.event("object.invalid", problem=HOSTILE)
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    assert json.loads(line)["problem"] == HOSTILE


def test_an_event_s_message_is_one_line() -> None:
    events, found = EventSeries("n1"), denial(HOSTILE, rule=f"TaskNetworkPolicy/etl/p/{HOSTILE}")
    events.add([replace(found, contradiction=HOSTILE)], {found.rule: HOSTILE}, 0.0)
    (write,) = events.due(0.0)
    assert write.body["message"].isprintable()
    assert SPELLED in write.body["message"]


def test_a_status_is_one_line() -> None:
    judged = ValidatedPolicy(PolicyRef("etl", "TaskNetworkPolicy", "p"), 2, 1, None, HOSTILE)
    said = status_of(judged, {}, "now")["conditions"][0]["message"]
    assert said.isprintable()
    assert said.startswith(SPELLED)


def test_probes_say_one_line_for_each_problem() -> None:
    said = app(None, dead=lambda: (HOSTILE, "other"), unready=tuple, lacking=tuple)
    body = b"".join(said({"PATH_INFO": "/livez"}, lambda *_: None))  # type: ignore[arg-type, return-value]
    assert body.decode() == f"{SPELLED}\nother\n"
