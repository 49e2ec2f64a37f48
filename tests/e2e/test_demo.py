"""The whole story over loopback, as `make demo` tells it; its totals recomputed by awk."""

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from local import demo, import_access_log

DATA = Path(__file__).parent / "data" / "access.log"

# Money in cents from the log alone: the fee by days left in May, overage above 5 a day by started fives, started
# megabytes. Time is UTC in this log, so the day is the two digits after the bracket.
AWK = r"""
$4 !~ /^\[/ { next }
{ day = substr($4, 2, 2) + 0; client[$1]; if (!($1 in first) || day < first[$1]) first[$1] = day }
match($0, /" [0-9][0-9][0-9] /) {
  status = substr($0, RSTART + 2, 3) + 0; split(substr($0, RSTART + 6), rest, " ")
  if (status >= 200 && status <= 399) { calls[$1 "," day]++; bytes[$1] += rest[1] == "-" ? 0 : rest[1] }
}
END {
  for (c in client) {
    total += int((2 * 499 * (32 - first[c]) + 31) / 62)
    total += int((bytes[c] + 999999) / 1000000)
    for (d = 1; d <= 31; d++) { above = calls[c "," d] - 5; if (above > 0) total += 10 * int((above + 4) / 5) }
  }
  print total
}
"""


def totals(printed: str) -> dict[str, int]:
    """The four sums that the demo prints, in cents."""
    found = re.findall(
        r"^  (computed by the demo|invoiced by the system|held by Stripe|paid at Stripe) +(\d+)", printed, re.MULTILINE
    )
    return {name: int(cents) for name, cents in found}


def test_the_demo_ends_with_every_invoice_paid_and_every_total_equal(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([]) == 0
    printed = capsys.readouterr().out
    assert set(totals(printed).values()) == {4090}
    assert "Every invoice is paid; every total agrees." in printed


def test_a_log_is_billed_to_the_cent_that_awk_computes(capsys: pytest.CaptureFixture[str]) -> None:
    awk = shutil.which("awk")
    assert awk is not None
    by_awk = subprocess.run([awk, AWK, str(DATA)], check=True, capture_output=True, text=True, timeout=30)  # noqa: S603
    assert demo.main(["--access-log", str(DATA)]) == 0
    printed = capsys.readouterr().out
    assert set(totals(printed).values()) == {int(by_awk.stdout)}
    assert "line 9: skipped, neither the common nor the combined format" in printed


def test_a_demo_on_a_port_in_use_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert demo.main(["--port", str(port)]) == 1
    assert f"port {port} is in use" in capsys.readouterr().err


def test_a_log_without_a_readable_line_ends_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "access.log"
    empty.write_text("nothing\n")
    assert demo.main(["--access-log", str(empty)]) == 1
    assert "holds no line that can be read" in capsys.readouterr().err


def test_a_line_that_came_twice_is_two_events_and_a_file_read_twice_is_the_same_events() -> None:
    lines = [DATA.read_text().splitlines()[0]] * 2
    once, again = (list(import_access_log.read(lines)) for _ in range(2))
    assert len({entry.id for entry in once if isinstance(entry, import_access_log.Entry)}) == 2
    assert once == again


def test_api_gateways_own_log_carries_its_subscription() -> None:
    line = (
        '{"requestId":"r-1","ip":"192.0.2.7","requestTimeEpoch":"1431857103000","httpMethod":"GET","path":"/x",'
        '"status":"200","responseLength":"17","subscription":"sub_1"}'
    )
    (entry,) = import_access_log.read([line])
    assert isinstance(entry, import_access_log.Entry)
    assert (entry.id, entry.subscription, entry.status, entry.bytes) == ("r-1", "sub_1", 200, 17)
    assert entry.at.isoformat() == "2015-05-17T10:05:03+00:00"
