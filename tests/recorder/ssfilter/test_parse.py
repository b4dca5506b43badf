"""The filter language of ss: what its words mean, and what is said of those that mean nothing."""

from __future__ import annotations

import pytest

from recorder.ssfilter import (
    And,
    Autobound,
    Cgroup,
    Device,
    FilterError,
    Host,
    Mark,
    Name,
    Network,
    Node,
    Not,
    Or,
    Owner,
    Port,
    parse,
    read_file,
)

HTTP = Host("local", (), 80)
HTTPS = Host("peer", (), 443)
TEN = Host("peer", (Network("inet", bytes([10, 0, 0, 0]), 8),), None)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("sport = :80", HTTP),
        ("sport = 80", HTTP),
        ("sport 80", HTTP),
        ("sport eq :80", HTTP),
        ("sport == http", HTTP),
        ("sport=80", HTTP),
        ("src :80", HTTP),
        ("src = *:80", HTTP),
        ("sport != 80", Not(HTTP)),
        ("sport neq 80", Not(HTTP)),
        ("not sport = 80", Not(HTTP)),
        ("!sport=80", Not(HTTP)),
        ("! ! sport = 80", Not(Not(HTTP))),
        ("sport >= 80", Port("local", 80, None)),
        ("sport ge :0x50", Port("local", 80, None)),
        ("sport leq 0120", Port("local", None, 80)),
        ("sport > 80", Not(Port("local", None, 80))),
        ("sport lt 80", Not(Port("local", 80, None))),
        ("dst 10.0.0.0/8", TEN),
        ("dst 10/8", TEN),
        ("dst = 10.0.0.0/255.0.0.0", TEN),
        ("dst inet:10.0.0.0/8", TEN),
        ("dst any", Host("peer", (), None)),
        ("dst 10.0.0.0/8:443", Host("peer", TEN.networks, 443)),
        ("dst [::1]:443", Host("peer", (Network("inet6", bytes(15) + b"\1", 128),), 443)),
        ("dst [::/0]", Host("peer", (Network("inet6", bytes(16), 0),), None)),
        ("src unix:/run/*", Name("local", "/run/*")),
        (r"src unix:/run/a\ b\)", Name("local", "/run/a b)")),
        ("src unix:[!a](b)", Name("local", "[!a](b)")),
        ("dev lo", Device("lo", None)),
        ("dev != 3", Not(Device("3", 3))),
        ("fwmark 0x5/0xff", Mark(5, 255)),
        ("fwmark = 5", Mark(5, 0xFFFFFFFF)),
        ("cgroup /sys/fs/cgroup/a/b", Cgroup("/a/b")),
        ("cgroup a/b/", Cgroup("/a/b")),
        ("autobound", Autobound()),
        ("process nginx", Owner("process", "nginx")),
        ("pid != 7", Not(Owner("pid", "7"))),
        ("unit = nginx.service", Owner("unit", "nginx.service")),
        ("container 4f2a netns blue", And(Owner("container", "4f2a"), Owner("netns", "blue"))),
    ],
)
def test_a_condition_means_what_ss_means_by_it(text: str, tree: Node) -> None:
    assert parse(text).tree == tree


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("sport = 80 or dport = 443 and dst 10/8", And(Or(HTTP, HTTPS), TEN)),
        ("sport = 80 or dport = 443 dst 10/8", And(Or(HTTP, HTTPS), TEN)),
        ("sport = 80 dport = 443 | dst 10/8", Or(And(HTTP, HTTPS), TEN)),
        ("sport = 80 || ( dport = 443 && dst 10/8 )", Or(HTTP, And(HTTPS, TEN))),
        ("sport=80|(dport=443&dst 10/8)", Or(HTTP, And(HTTPS, TEN))),
        ("not sport = 80 dst 10/8", And(Not(HTTP), TEN)),
        ("not ( sport = 80 dst 10/8 )", Not(And(HTTP, TEN))),
        ("not(sport=80)or(dst=10/8)", Or(Not(HTTP), TEN)),
    ],
)
def test_lists_go_from_left_to_right_and_only_not_binds_tighter(text: str, tree: Node) -> None:
    assert parse(text).tree == tree


def test_who_relies_on_the_manual_of_ss_is_warned() -> None:
    for text in ("sport = 80 or dport = 443 and dst 10/8", "( sport = 1 | sport = 2 sport = 3 )"):
        assert "write brackets" in parse(text).warnings[0]
    for text in ("sport = 80 and dport = 443 or dst 10/8", "( sport = 1 or sport = 2 ) dst 10/8"):
        assert parse(text).warnings == ()


def test_states_come_first_and_add_up() -> None:
    assert parse("state established").states == frozenset({"ESTAB"})
    added = parse("state ESTABLISHED state syn-rcv dport = 443").states
    assert added == frozenset({"ESTAB", "SYN-RECV"})
    assert parse("state bucket").states == frozenset({"SYN-RECV", "TIME-WAIT"})
    rest = parse("exclude bucket").states
    assert rest is not None
    assert rest == parse("state big").states
    assert "TIME-WAIT" not in rest
    assert parse("excl all").states == frozenset()
    assert parse("sport = 80").states is None


def test_a_family_holds_for_what_follows_and_the_last_is_the_filters() -> None:
    found = parse("src unix:/a* or src /b*")
    assert found.tree == Or(Name("local", "/a*"), Name("local", "/b*"))
    assert found.family == "unix"
    assert parse("dst inet6:[::1] or dst inet:1.2.3.4").family == "inet"
    assert parse("dst 1.2.3.4").family is None
    assert parse("sport = :22", family="unix").tree == Name("local", ":22")


@pytest.mark.parametrize(
    ("text", "what", "marked"),
    [
        ("sport = :1 state listening", "'state' and its state stand before all other", "state"),
        ("state nonsense", "'nonsense' is no state", "nonsense"),
        ("dst 10.0.0.0/33", "'33' is no length of an address of 32 bits", "10.0.0.0/33"),
        ("dst ::1", "an IPv6 address stands in brackets", "::1"),
        ("dst [::1", "'[::1' lacks its closing bracket", "[::1"),
        ("sport = nosuchservice", "'nosuchservice' does not look like", "nosuchservice"),
        ("sport = 80 foo = 1", "'foo' is no condition of a filter", "foo"),
        ("fwmark red", "'red' is no mark", "red"),
        ("pid nginx", "'nginx' is no number of a process", "nginx"),
        ("sport >= unix:/a", "names of unix sockets have no order", "unix:/a"),
        ("src != 10.0.0.1", "'!=' stands where a value should", "!="),
        ("sport = 80)", "a closing bracket without an opening one", ")"),
    ],
)
def test_an_error_says_what_is_wrong_and_points_at_it(text: str, what: str, marked: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(text)
    said, line, marks = str(caught.value).split("\n")
    assert said.startswith(what)
    assert line == f"  {text}"
    assert line[marks.index("^") : len(marks)] == marked


@pytest.mark.parametrize(
    "text", ["dst", "sport =", "not", "sport = 80 or", "( sport = 80", "state"]
)
def test_what_ends_too_early_is_told_so(text: str) -> None:
    with pytest.raises(FilterError):
        parse(text)


@pytest.mark.parametrize(
    "text",
    ["(" * 5000, "not " * 5000 + "autobound", "!" * 5000 + "autobound", "sport = 80 " * 5000],
)
def test_no_filter_is_too_much_for_the_stack(text: str) -> None:
    try:
        parse(text[: 1 << 16])
    except FilterError:
        return
    assert text.startswith("sport")


def test_a_file_has_comments() -> None:
    assert parse(read_file("# web\nsport = 80\n#or\n or sport = 443\n")).tree == Or(
        HTTP, Host("local", (), 443)
    )


def test_an_error_in_a_file_shows_its_line() -> None:
    with pytest.raises(FilterError, match=r"no condition"):
        parse("sport = 80\n\tfoo bar")
