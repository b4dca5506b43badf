"""Pseudonyms: one for each value, the same everywhere, of the same class, and back again."""

from __future__ import annotations

import stat
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.sharing.addresses import PrefixPreserving, class_of, is_kept
from analyzer.sharing.pseudonyms import MapError, Pseudonyms, read_map, unredact, write_map

KEY = b"k" * 32

SPECIAL = [
    ip_network(text)
    for text in (
        "127.0.0.0/8 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 169.254.0.0/16 "
        "224.0.0.0/4 fe80::/10 fc00::/7 ff00::/8 2001:db8::/32"
    ).split()
]
V4 = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.sampled_from([n for n in SPECIAL if n.version == 4]).flatmap(
        lambda n: st.integers(int(n[0]), int(n[-1])).map(IPv4Address)
    ),
)
V6 = st.one_of(
    st.integers(0, 2**128 - 1).map(IPv6Address),
    st.integers(0, 2**125 - 1).map(lambda n: IPv6Address(n | 1 << 125)),
    st.sampled_from([n for n in SPECIAL if n.version == 6]).flatmap(
        lambda n: st.integers(int(n[0]), int(n[-1])).map(IPv6Address)
    ),
)
ADDRESSES = st.one_of(V4, V6)


def kind(address: IPv4Address | IPv6Address) -> tuple[object, ...]:
    """Return what a report may tell of an address; public ones are told by what they are not."""
    return (
        address.version,
        address.is_loopback,
        address.is_unspecified,
        address.is_link_local,
        address.is_multicast,
        class_of(address) in (ip_network("0.0.0.0/0"), ip_network("::/0")),
    )


@given(st.sets(ADDRESSES, max_size=60))
def test_numbered_addresses_are_different_of_their_class_and_none_that_was_recorded(
    found: set[IPv4Address | IPv6Address],
) -> None:
    values = {str(address) for address in found if not is_kept(address)}
    pseudonyms = Pseudonyms(KEY)
    pseudonyms.add({"address": values})
    made = pseudonyms.names["address"]
    assert made.keys() == values
    assert len(set(made.values())) == len(values)
    assert not values & set(made.values())
    for value, name in made.items():
        before, after = ip_address(value), ip_address(name)
        private = ip_network("172.16.0.0/12"), ip_network("192.168.0.0/16")
        if before.version == 4 and any(before in network for network in private):
            assert after in ip_network("10.0.0.0/8")
        elif class_of(before) == ip_network("0.0.0.0/0"):
            assert after in ip_network("198.18.0.0/15")
        elif class_of(before) == ip_network("::/0"):
            assert after in ip_network("2001:db8::/32")
        else:
            assert kind(before) == kind(after), (value, name)


@given(st.sets(ADDRESSES, min_size=2, max_size=20))
def test_prefix_preserving_keeps_the_length_of_every_shared_prefix_and_every_class(
    found: set[IPv4Address | IPv6Address],
) -> None:
    exchange = PrefixPreserving(KEY)
    made = {address: exchange.pseudonym(address) for address in found}
    for one, other in ((a, b) for a in found for b in found if a.version == b.version):
        size = one.max_prefixlen
        before = size - (int(one) ^ int(other)).bit_length()
        after = size - (int(made[one]) ^ int(made[other])).bit_length()
        assert is_kept(one) or is_kept(other) or before == after
        assert (one == other) == (made[one] == made[other])
    for address, name in made.items():
        assert class_of(address) == class_of(name)
        assert is_kept(address) == (address == name and is_kept(name))


@given(st.sets(ADDRESSES.map(str), max_size=20), st.sets(st.text(max_size=9), max_size=20))
def test_a_map_that_is_used_again_gives_the_same_names_and_only_adds(
    first: set[str], names: set[str]
) -> None:
    addresses = {value for value in first if not is_kept(ip_address(value))}
    one = Pseudonyms(KEY)
    one.add({"address": addresses, "app": names})
    again = Pseudonyms(KEY, {kind: dict(found) for kind, found in one.names.items()})
    again.add({"address": addresses | {"203.0.113.77"}, "app": names | {"new-one"}})
    for kind_, found in one.names.items():
        assert again.names[kind_].items() >= found.items()
        assert len(set(again.names[kind_].values())) == len(again.names[kind_])


def test_what_looks_like_a_pseudonym_is_not_made_one() -> None:
    pseudonyms = Pseudonyms(KEY)
    pseudonyms.add({"app": {"app-1", "app-3", "shop"}, "address": {"198.18.0.1", "203.0.113.9"}})
    assert not {"app-1", "app-3"} & set(pseudonyms.names["app"].values())
    assert "198.18.0.1" not in pseudonyms.names["address"].values()


def test_numbers_do_not_follow_the_order_of_values() -> None:
    values = [f"203.0.113.{n}" for n in range(100)]
    one, other = Pseudonyms(KEY), Pseudonyms(b"o" * 32)
    one.add({"address": values})
    other.add({"address": values})
    assert one.names["address"] != other.names["address"]
    made = [ip_address(one.names["address"][value]) for value in values]
    assert made != sorted(made, key=int)


def test_a_map_is_for_its_owner_only_is_not_replaced_and_is_read_again(tmp_path: Path) -> None:
    pseudonyms = Pseudonyms(KEY, prefixes=True, shift_us=-5)
    pseudonyms.add({"app": {"shop\n\udcff"}, "address": {"10.1.2.3"}})
    place = tmp_path / "map.json"
    write_map(place, pseudonyms, new=True)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        write_map(place, pseudonyms, new=True)
    found = read_map(place)
    assert (found.key, found.names, found.prefixes, found.shift_us) == (
        KEY,
        pseudonyms.names,
        True,
        -5,
    )
    for wrong in ("", "[]", "{}", '{"sockrec_map":2}', '{"sockrec_map":1,"names":[]}'):
        place.write_text(wrong)
        with pytest.raises(MapError):
            read_map(place)


def test_an_answer_is_turned_back_word_by_word() -> None:
    pseudonyms = Pseudonyms(KEY)
    pseudonyms.add(
        {
            "app": {f"prog{n}" for n in range(12)},
            "address": {"203.0.113.9", "10.9.8.7", "2a00:1450::5"},
            "unix-path": {"/srv/shop.sock"},
        }
    )
    names = {value: name for found in pseudonyms.names.values() for value, name in found.items()}
    for value, name in names.items():
        told = f"See {name}, ({name}) and {name}:443 but not {name}0 nor x{name}."
        if value == "2a00:1450::5":  # a port behind it would be a part of it
            told = told.replace(f"{name}:443", f"[{name}]:443")
        back = unredact(told, pseudonyms)
        assert back.count(value) == 3, (told, back)
        assert f"x{name}" in back
    within = IPv4Address(names["203.0.113.9"])
    told = f"[::ffff:{within}]:443, ::ffff:{within} and {IPv6Address('64:ff9b::') + int(within)}"
    back = "[::ffff:203.0.113.9]:443, ::ffff:203.0.113.9 and 64:ff9b::cb00:7109"
    assert unredact(told, pseudonyms) == back
