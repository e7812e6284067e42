"""A server answers to its own names alone, so that no web site can pass for it."""

import socket

import pytest

from limbeck.errors import ConfigError
from limbeck.serving.hosts import AllowedHosts


@pytest.mark.parametrize(
    "header",
    ["localhost", "LocalHost:8000", "docs.localhost:1", "127.0.0.1:8000", "127.8.9.1", "[::1]:80"],
)
def test_loopback_is_always_allowed(header: str) -> None:
    assert AllowedHosts().allow(header)
    assert AllowedHosts.of("10.0.0.7", []).allow(header)


@pytest.mark.parametrize(
    "header",
    [
        *("attacker.example", "attacker.example:8000", "localhost.attacker.example", "10.0.0.8"),
        *("127.0.0.1.attacker.example", "[2001:db8::1]:8000", "notlocalhost", "", "[", "[]", "::1"),
        *("localhost:8000@attacker.example", "localhost/", "localhost:a", "[localhost]", "a b"),
    ],
)
def test_other_hosts_are_not(header: str) -> None:
    for hosts in (AllowedHosts(), AllowedHosts.of("127.0.0.1", []), AllowedHosts.of("::1", [])):
        assert not hosts.allow(header)


def test_the_address_it_listens_on_is_allowed() -> None:
    assert AllowedHosts.of("10.0.0.7", []).allow("10.0.0.7:8000")
    assert AllowedHosts.of("search.lan", []).allow("Search.LAN:8000")
    assert AllowedHosts.of("2001:DB8::1", []).allow("[2001:db8:0::1]:8000")


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::", ""])
def test_one_that_listens_everywhere_answers_to_every_address(everywhere: str) -> None:
    hosts = AllowedHosts.of(everywhere, [])
    for header in ("10.0.0.7:8000", "[2001:db8::1]", "0.0.0.0:80", socket.gethostname()):
        assert hosts.allow(header)
    assert not hosts.allow("attacker.example")


def test_names_of_proxies_are_allowed_as_they_are_given() -> None:
    hosts = AllowedHosts.of(
        "127.0.0.1", ["Docs.Example.org:443", "*.lan", "10.0.0.9", "2001:db8::2"]
    )
    for header in ("docs.example.org", "docs.example.org.", "a.lan", "a.b.lan:1", "10.0.0.9"):
        assert hosts.allow(header)
    assert hosts.allow("[2001:db8::2]:8000")
    for header in ("example.org", "lan", "lan.example.org", "10.0.0.10"):
        assert not hosts.allow(header)
    assert AllowedHosts.of("127.0.0.1", ["*"]).allow("attacker.example")


@pytest.mark.parametrize("given", ["https://docs.example.org", "docs.example.org/a", "", "a*b"])
def test_what_is_no_host_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="is not a host"):
        AllowedHosts.of("127.0.0.1", [given])
