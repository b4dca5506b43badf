"""The commands of common cheat sheets, with ``sockrec ss RECORDING`` put for ``ss``: all answer."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from datetime import UTC
from io import StringIO
from pathlib import Path

import pytest
import typer

from analyzer.cli_ss import app, read_options
from analyzer.reading.recording import open_recording
from analyzer.reading.sources import Sources
from analyzer.ss.rows import Rows
from analyzer.ss.show import Recorded, Show

HEALTHY = Path(__file__).resolve().parents[3] / "samples" / "healthy" / "recording"
COMMAND = typer.main.get_command(app)

SHEET = r"""
ss
ss -a
ss -l
ss -t
ss -ta
ss -t -a
ss -tl
ss -tln
ss -tlnp
ss -lntp
ss -ltn4
ss -tulpn
ss -tulwn
ss -plunt
ss -nltup
ss -tunap
ss -tupn
ss -antp
ss -antop
ss -aut
ss -u -a
ss -lun
ss -ua
ss -w
ss -wa
ss -x
ss -xa
ss -lx
ss -xp
ss -0
ss -n
ss -r -t
ss -p
ss -o
ss -tno
ss -e
ss -te
ss -m
ss -tm
ss -tmi
ss -i
ss -ti
ss -tin
ss -tie state established
ss -s
ss -4
ss -6
ss -4 state listening
ss -6 -a
ss -tl -f inet
ss -lt -f inet6
ss -f unix
ss -f link -a
ss -A tcp
ss -A tcp,udp -a
ss -A unix_stream
ss --query=tcp
ss -A all
ss -H -t
ss -tHO
ss -Q -t
ss --tcp --listening --numeric
ss --processes --tcp
ss -t4 state established
ss -t state all
ss -tan state time-wait
ss -4 state time-wait
ss -tn state close-wait
ss -t state connected
ss -t state syn-sent
ss state all sport = :ssh
ss -o state established '( dport = :ssh or sport = :ssh )'
ss -o state established '( dport = :smtp or sport = :smtp )'
ss -o state fin-wait-1 '( sport = :http or sport = :https )' dst 193.233.7/24
ss -a -A 'all,!tcp'
ss state established
ss exclude listening
ss -at '( dport = :22 or sport = :22 )'
ss -nt '( dst :443 or dst :80 )'
ss -tn dst 10.0.0.11
ss dst 192.168.1.0/24
ss -tn src 10.0.0.10
ss src 127.0.0.1:80
ss -tn dst 10.0.0.11:6379
ss -nt dport = :80
ss -nt sport = :80
ss -nt dport != :80
ss -tn 'dport > :1024'
ss -tn sport gt :500
ss -tn sport lt :500
ss -tn 'sport eq :80'
ss -t '! sport = :80'
ss -tn not dport = :80 and dst 10.0.0.11
ss -tnp 'dport = :6379' | grep redis
ss -tuna | wc -l
ss -M
ss -S
ss -d
ss -tn --cgroup
ss -tn --tos
ss -tn --inet-sockopt
ss -E
ss -N all -tln
ss -T -t
ss -b -0
ss --vsock
ss --xdp
ss --tipc
ss -ntl sport :443
ss -ntl src :443
ss -tiepm
ss -ntim dst :5201
ss -4ti
ss -ti dst 8.8.8.8
ss -it
ss -itmp
ss -tuln
ss -tulnp
ss -anp
ss -tanp
ss -lnp
ss -nlp
ss -nat
ss -tpn
ss -tnpe
ss -tunlp4
ss -Htan
ss -tln6
ss -t6
ss -ua4
ss -aunp
ss -x -a -p
ss -xlp
ss -a --raw
ss --tcp --all --numeric --processes
ss --summary
ss --udp --listening
ss --unix --all
ss --options --tcp
ss --info --tcp
ss --memory --tcp
ss --extended --tcp
ss --family=inet6 --tcp
ss --no-header --oneline -tin
ss -A inet
ss -A tcp,udp,unix -l
ss -A raw,packet -a
ss -A 'inet,!udp'
ss -tn state listening
ss -tn state close-wait '( dport = :80 )'
ss -tn state fin-wait-2
ss -tn state last-ack
ss -tn state syn-recv sport = :443
ss -4 state time-wait sport = :80
ss -tn exclude time-wait exclude close-wait
ss -tno state established '( sport = :22 )'
ss -o state all '( dport = :443 or dport = :80 )' dst 10.0.0.0/8
ss -tn 'dport = :3306 and dst 10.0.0.11'
ss -tn 'dst = 10.0.0.11 and ( dport = 5432 or dport = 6379 )'
ss -tnp dport eq 6379
ss -tn sport le :1024
ss -tn 'sport >= :1024 and sport <= :65535'
ss -tn dport ge 30000 dport lt 60000
ss -tn dst '[::1]'
ss -tn 'src [fe80::]/10'
ss -ln src 0.0.0.0
ss -tn src 10.0.0.10:6379
ss -tn dst 10.0.0/24
ss -ant 'not dport = :22'
ss -ant '! ( sport = :22 or dport = :22 )'
ss -tap state established
ss -tn dev lo
ss -tan fwmark = 1
ss -xn src '/run/*'
ss -x src 'unix:/var/run/docker.sock'
ss -a cgroup /
ss -t -o -i -m -e -p
ss -tOin state established dport = :443
ss -TtlnH
ss -tln | awk '{print $4}'
ss -s | head -3
ss -lt4n 'sport = :http'
ss -tu autobound
ss -u state connected
ss -i -t sport == 80 '||' dport == 80
""".strip().splitlines()
"""Of the manual page, tldr, and the pages, notes and magazines that search engines show first."""

REFUSED = {
    "ss -K dst 192.168.1.17": "closes no sockets",
    "ss -D dump": "sockrec record",
    "ss -tZ": "SELinux",
    "ss -z": "SELinux",
    "ss -tK dst 10.0.0.11": "closes no sockets",
}


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recorded]:
    with Rows(Sources([open_recording(HEALTHY)])) as rows:
        yield Recorded(rows, UTC)


def ours(recorded: Recorded, line: str) -> list[str]:
    words = shlex.split(line.partition(" | ")[0])[1:]
    with COMMAND.make_context("ss", ["RECORDING", *words]) as ctx:
        asked = read_options(ctx, ctx.params["words"][1:])
    out = StringIO()
    Show(recorded, asked, out, lambda text: None).run()
    return out.getvalue().splitlines()


@pytest.mark.parametrize("line", SHEET)
def test_it_answers(recorded: Recorded, line: str) -> None:
    lines = ours(recorded, line)
    if re.search(r" -s$| --summary| -s ", line):
        assert lines[0].startswith("Total: ")
    elif re.search(r" --no-header| -\w*H", line):
        assert lines
        assert "Address" not in lines[0]
    else:
        assert "Address" in lines[0], lines[:1]


@pytest.mark.parametrize(
    ("line", "least"),
    [
        ("ss -tlnp", 2),
        ("ss -tan state time-wait", 1),
        ("ss -tn dst 10.0.0.11:6379", 6),
        ("ss -o state established '( dport = :6379 or sport = :6379 )'", 12),
        ("ss -x", 6),
        ("ss -s", 8),
    ],
)
def test_what_is_there_is_shown(recorded: Recorded, line: str, least: int) -> None:
    assert len(ours(recorded, line)) > least


@pytest.mark.parametrize("line", REFUSED)
def test_what_a_recording_cannot_do_says_so(recorded: Recorded, line: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        ours(recorded, line)
    assert REFUSED[line] in str(caught.value)
