"""Who may connect, and who may only read: the rules, the lines on the wire, the log, and the options."""

from __future__ import annotations

import ipaddress
import os
import pwd
import socket
import struct
import sys
import tempfile
import unittest
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock

from discosbackend import server as server_module
from discosbackend import unix_peer
from discosbackend.access import Access, AccessRules, network_of
from discosbackend.backend import Backend, command
from discosbackend.cli import server
from discosbackend.commands import COMMANDS, Field
from discosbackend.embedding import serve
from discosbackend.exchanges import ConnectionEvent
from discosbackend.grammar import Message
from discosbackend.handlers import DBProtocolHandler, Handler
from discosbackend.protocol import DBFactory
from discosbackend.server import listen, run_server
from discosbackend.simulator.faults.protocol import FaultyFactory
from discosbackend.unix_peer import peer_of

from .in_memory import GREETING, Connection, Later, Scripted, Wire, ok
from .program_in_memory import served_in_memory
from .programs import InMemory, run_program
from .serving import SCRIPT, Server, ask, read_line, served
from .settings import PATIENCE, wait_until

ALL, READ_ONLY, NONE = Access.ALL, Access.READ_ONLY, Access.NONE
NOT_ALLOWED = b",fail,not allowed from this address\r\n"
READS = sorted(name for name, row in COMMANDS.items() if row.lane == "reads")
OTHERS = sorted(set(COMMANDS) - set(READS))


def connection(factory: DBFactory, host: str | None) -> Connection:
    """A client with this address; None: a client of a Unix socket."""
    wire = Wire()
    kind = IPv6Address if host and ":" in host else IPv4Address
    wire.peerAddr = UNIXAddress(None) if host is None else kind("TCP", host, 4711)
    return Connection(factory, wire)


def factory_of(handler: Handler, allow: Sequence[str] = (), read_only: Sequence[str] = (), **options: Any) -> DBFactory:
    return DBFactory(handler, reactor=Clock(), access=AccessRules(allow, read_only), **options)


class RuleTests(unittest.TestCase):
    """The pure part: addresses, rules and what follows."""

    def test_the_table(self) -> None:
        both = (["192.168.200.5", "10.0.0.0/8"], ["192.168.200.0/24", "10.1.0.0/16", "2001:db8::/32"])
        for allow, read_only, expected in (
            ([], [], {"10.0.0.7": ALL, "::1": ALL, "::ffff:10.0.0.7": ALL}),
            (["10.0.0.7"], [], {"10.0.0.7": ALL, "::ffff:10.0.0.7": ALL, "10.0.0.8": NONE, "::1": NONE}),
            (["10.0.0.0/8"], [], {"10.255.255.255": ALL, "11.0.0.0": NONE, "9.255.255.255": NONE}),
            ([], ["10.0.0.0/8"], {"10.0.0.7": READ_ONLY, "::ffff:10.0.0.7": READ_ONLY, "11.0.0.1": ALL, "::1": ALL}),
            (
                *both,
                {
                    "192.168.200.5": ALL,
                    "192.168.200.6": READ_ONLY,
                    "192.168.201.5": NONE,
                    "10.0.0.1": ALL,
                    "10.1.0.1": READ_ONLY,
                    "::ffff:10.1.0.1": READ_ONLY,
                    "2001:db8::1": READ_ONLY,
                    "2001:db9::1": NONE,
                },
            ),
            # The order in which rules are given has no effect, also not within a list.
            (both[0][::-1], both[1][::-1], {"192.168.200.5": ALL, "10.1.0.1": READ_ONLY, "10.0.0.1": ALL}),
            (["::ffff:10.0.0.7"], [], {"10.0.0.7": ALL, "::ffff:10.0.0.7": ALL, "::ffff:10.0.0.8": NONE}),
            (["::ffff:10.0.0.0/104"], [], {"10.9.9.9": ALL, "11.0.0.0": NONE}),
            (["::ffff:0:0/96"], [], {"10.9.9.9": ALL, "::ffff:1.2.3.4": ALL, "::1": NONE}),
            (["::/0"], [], {"::1": ALL, "2001:db8::1": ALL, "10.0.0.7": NONE, "::ffff:10.0.0.7": NONE}),
            (["0.0.0.0/0"], [], {"10.0.0.7": ALL, "::ffff:10.0.0.7": ALL, "::1": NONE}),
            (["10.0.0.7"], ["0.0.0.0/0", "::/0"], {"10.0.0.7": ALL, "10.0.0.8": READ_ONLY, "::1": READ_ONLY}),
            (["fe80::/10"], [], {"fe80::1%eth0": ALL, "fe80::1": ALL, "fd00::1%eth0": NONE}),
            # What is no address fails closed.
            (["0.0.0.0/0"], [], {"": NONE, "None": NONE, "localhost": NONE, "10.0.0.7:4711": NONE, "10.0.0": NONE}),
            ([], ["10.0.0.0/8"], {"": NONE, "/run/backend.sock": NONE}),
        ):
            rules = AccessRules(allow, read_only)
            for address, access in expected.items():
                with self.subTest(rules, address=address):
                    self.assertIs(rules.access_of(address), access)

    def test_a_single_text_is_one_rule(self) -> None:
        self.assertIs(AccessRules("10.0.0.0/8").access_of("10.0.0.7"), ALL)
        self.assertIs(AccessRules(read_only="10.0.0.0/8").access_of("10.0.0.7"), READ_ONLY)

    def test_rules_that_are_refused(self) -> None:
        for text, reason in (
            ("", "'' is neither an address nor a network, such as 192.168.200.5"),
            ("localhost", "'localhost' is neither an address nor a network"),
            ("10.0.0", "is neither"),
            ("10.0.0.7:4711", "is neither"),
            ("10.0.0.0/33", "is neither"),
            ("::/129", "is neither"),
            ("10.0.0.0/", "is neither"),
            ("10.0.0.0/-1", "is neither"),
            ("10.0.0.0/\u0668", "is neither"),
            ("10.0.0.0/255.0.0.0", "is neither"),
            ("10.0.0.0/0.255.255.255", "is neither"),
            ("fe80::1%eth0", "is neither"),
            ("010.0.0.7", "is neither"),
            ("10.0.0.7/8", "'10.0.0.7/8' is an address inside of a network: write 10.0.0.0/8, or 10.0.0.7 for this"),
            ("2001:db8::1/32", "write 2001:db8::/32, or 2001:db8::1 for this host only"),
        ):
            with self.subTest(text), self.assertRaises(ValueError) as caught:
                AccessRules([text])
            self.assertIn(reason, str(caught.exception))

    def test_a_contradiction(self) -> None:
        for allow, read_only in ((["10.0.0.0/8"], ["10.0.0.0/8"]), (["10.0.0.7"], ["::ffff:10.0.0.7/128"])):
            with self.assertRaisesRegex(ValueError, "cannot be both allowed and read-only: leave out one of them"):
                AccessRules(allow, read_only)

    # Close to each other, so that the networks contain some of them, and each other.
    addresses = st.builds(
        lambda first, number: ipaddress.ip_address(first) + number,
        st.sampled_from(
            ["0.0.0.0", "10.0.0.0", "10.0.1.0", "127.0.0.0", "255.255.255.0", "::", "::ffff:10.0.0.0", "::10.0.0.0"]
            + ["fe80::", "2001:db8::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00"]
        ),
        st.integers(0, 255),
    )
    networks = st.builds(
        lambda address, drop: (
            ipaddress.ip_network((int(address), max(address.max_prefixlen - drop, 0)), strict=False)
            if address.version == 4
            else ipaddress.IPv6Network((int(address), max(address.max_prefixlen - drop, 0)), strict=False)
        ),
        addresses,
        st.integers(0, 12) | st.integers(0, 128),
    )

    @given(addresses, st.sets(networks, max_size=4), st.sets(networks, max_size=4))
    def test_any_rules(self, address: Any, allow: set[Any], read_only: set[Any]) -> None:
        """Against the definition: of the rules that contain the address, the longest decides."""
        read_only -= allow
        if {network_of(str(network)) for network in allow} & {network_of(str(network)) for network in read_only}:
            return
        rules = AccessRules(map(str, allow), map(str, read_only))
        mapped = getattr(address, "ipv4_mapped", None) or address
        matching = {
            network.prefixlen: access
            for access, networks in ((ALL, allow), (READ_ONLY, read_only))
            for network in map(network_of, map(str, networks))
            if network.version == mapped.version and mapped in network
        }
        expected = matching[max(matching)] if matching else NONE if allow else ALL
        self.assertIs(rules.access_of(str(address)), expected)

    @given(st.ip_addresses(v=4), st.integers(0, 32))
    def test_mapped_addresses_mean_the_same(self, address: Any, length: int) -> None:
        network = ipaddress.ip_network((int(address), length), strict=False)
        mapped = f"::ffff:{network.network_address}/{96 + length}"
        self.assertEqual(network_of(mapped), network)
        for rule in (str(network), mapped):
            for client in (str(address), f"::ffff:{address}"):
                self.assertIs(AccessRules([rule]).access_of(client), ALL)

    @given(st.text())
    def test_any_text_is_no_address_or_has_an_access(self, text: str) -> None:
        self.assertIn(AccessRules(["10.0.0.0/8"], ["::/0"]).access_of(text), Access)


class WireTests(unittest.TestCase):
    """What clients get."""

    def test_every_command_of_every_client(self) -> None:
        """Clients, by their addresses, and all commands: either all reply lines, or none and no greeting."""
        clients = {"10.0.0.7": ALL, "10.0.0.8": READ_ONLY, "::ffff:10.0.0.8": READ_ONLY, "10.0.1.1": NONE, "::1": NONE}
        for host, access in clients.items():
            handler = Scripted(ok)
            factory = factory_of(handler, ["10.0.0.7"], ["10.0.0.0/24"])
            client = connection(factory, host)
            with self.subTest(host):
                requests = b"".join(b"?%s\r\n" % name.encode() for name in COMMANDS)
                received = client.received() + client.ask(requests)
                replies = [
                    b"!" + name.encode() + (b",ok\r\n" if access is ALL or name in READS else NOT_ALLOWED)
                    for name in COMMANDS
                ]
                self.assertEqual(received, b"" if access is NONE else GREETING + b"".join(replies))
                asked = {ALL: list(COMMANDS), READ_ONLY: [name for name in COMMANDS if name in READS], NONE: []}
                self.assertEqual(handler.requests, [f"?{name}" for name in asked[access]])

    def test_the_lanes_are_those_of_the_protocol(self) -> None:
        self.assertTrue({"status", "time", "version", "get-configuration"} <= set(READS))
        self.assertTrue(
            {"start", "stop", "set-configuration", "get-tpi", "convert-data", "set-filename"} <= set(OTHERS)
        )

    def test_in_their_place_in_the_order(self) -> None:
        """Pipelined, in any pieces, among lines of every kind: only the refused replies differ from those of others."""
        requests = (
            b"?start\r\n?get-configuration\r\nx\r\n?nonesuch,1\r\n!status,ok\r\n?stop,\r\n\r\n?set-section,1,2\r\n?own\n"
            b"?9\r\n?get-tpi\r\n?version,1\r\n?watch\r\n?" + b"x" * 9000 + b"\r\n?set-enable,1,2\r\n?version\r\n"
        )
        refused = {b"!start", b"!set-section", b"!own", b"!get-tpi", b"!set-enable"}
        for piece in (None, 1, 7):
            replies = []
            for allow, read_only in ((["10.0.0.0/8"], []), ([], ["10.0.0.0/8"])):
                client = connection(factory_of(DBProtocolHandler(Own()), allow, read_only), "10.0.0.7")
                client.received()
                replies.append(client.ask(requests, piece).splitlines(keepends=True))
            with self.subTest(piece):
                names = [line.partition(b",")[0] for line in replies[0]]
                self.assertLessEqual(refused, set(names))
                expected = [
                    name + NOT_ALLOWED if name in refused else line
                    for name, line in zip(names, replies[0], strict=True)
                ]
                self.assertEqual(replies[1], expected)
                self.assertIn(b"!nonesuch,fail,invalid command 'nonesuch'\r\n", replies[1])
                self.assertIn(b"!watch,ok,7\r\n", replies[1])

    def test_a_refusal_waits_for_the_read_before_it(self) -> None:
        later = Later()
        handler = Scripted(lambda message: later(message) if message.name == "status" else ok(message))
        client = connection(factory_of(handler, [], ["10.0.0.0/8"]), "10.0.0.7")
        client.received()
        self.assertEqual(client.ask(b"?status\r\n?start\r\n?time\r\n"), b"")
        later.end("0")
        self.assertEqual(client.ask(b""), b"!status,ok,0\r\n!start" + NOT_ALLOWED + b"!time,ok\r\n")

    def test_the_backend_is_not_asked(self) -> None:
        backend = Own()
        client = connection(factory_of(DBProtocolHandler(backend), [], ["10.0.0.0/8"]), "10.0.0.7")
        client.ask(b"".join(b"?%s\r\n" % name.encode() for name in (*OTHERS, "own", "watch")))
        self.assertEqual(backend.called, ["watch"])

    def test_commands_that_users_put_into_the_handler(self) -> None:
        """A callable has the lane of the protocol's command with its name, or else `device`."""
        handler = DBProtocolHandler(Own())
        client = connection(factory_of(handler, [], ["10.0.0.0/8"]), "10.0.0.7")
        client.received()
        handler.commands["mine"] = handler.commands["status"] = handler.commands["stop"] = lambda arguments: "mine"
        handler.commands["look"] = handler.commands["watch"]
        handler.commands["touch"] = handler.commands["own"]
        self.assertEqual(
            client.ask(b"?mine\r\n?status\r\n?stop\r\n?look\r\n?touch\r\n"),
            b"!mine" + NOT_ALLOWED + b"!status,ok,mine\r\n!stop" + NOT_ALLOWED + b"!look,ok,7\r\n!touch" + NOT_ALLOWED,
        )

    def test_a_handler_that_answers_itself(self) -> None:
        """It may carry out a name that no command has, so it is not asked."""

        class Mine(DBProtocolHandler):
            def handle(self, message: Message) -> Message:
                return ok(message, "carried out")

        for handler in (Mine(Own()), Scripted(lambda message: ok(message, "carried out"))):
            client = connection(factory_of(handler, [], ["10.0.0.0/8"]), "10.0.0.7")
            client.received()
            with self.subTest(handler):
                self.assertEqual(
                    client.ask(b"?sweep\r\n?status\r\n?start\r\n"),
                    b"!sweep" + NOT_ALLOWED + b"!status,ok,carried out\r\n!start" + NOT_ALLOWED,
                )

    def test_a_server_that_stops(self) -> None:
        factory = factory_of(Scripted(ok), [], ["10.0.0.0/8"])
        client = connection(factory, "10.0.0.7")
        client.received()
        factory.finish(1.0)
        self.assertEqual(client.ask(b"?start\r\n"), b"!start,fail,server is stopping\r\n")

    def test_with_faults(self) -> None:
        factory = FaultyFactory(Scripted(ok), reactor=Clock(), access=AccessRules(["10.0.0.7"], ["10.0.0.8"]))
        factory.pause()
        client, stranger = connection(factory, "10.0.0.8"), connection(factory, "10.0.0.9")
        factory.resume()
        self.assertEqual(client.ask(b"?start\r\n"), GREETING + b"!start" + NOT_ALLOWED)
        self.assertEqual(stranger.received(), b"")

    def test_a_unix_socket_has_no_address(self) -> None:
        client = connection(factory_of(Scripted(ok), ["10.0.0.7"], ["10.0.0.8"]), None)
        self.assertEqual(client.ask(b"?start\r\n"), GREETING + b"!start,ok\r\n")

    def test_without_rules_nothing_is_decided(self) -> None:
        """The function that executes requests is the same one that it was, so that requests cost the same."""
        factory = DBFactory(Scripted(ok), reactor=Clock())
        client = connection(factory, "10.0.0.7")
        self.assertIs(client.protocol._execute, factory.execute)


class RefusedTests(unittest.TestCase):
    """A client that may not connect."""

    def test_it_leaves_no_trace_but_one_line(self) -> None:
        handler = Scripted(ok)
        factory = factory_of(handler, ["10.0.0.7"], greeting_delay=1.0)
        events: list[Any] = []
        factory.listeners.append(events.append)
        with self.assertLogs("discosbackend.protocol") as logs:
            clients = [connection(factory, "10.0.0.8") for _ in range(7)]
            for client in clients:
                self.assertTrue(client.transport.disconnected, "aborted")
                client.send(b"?start\r\n" * 1000)
                client.half_close()
                client.protocol.resumeProducing()
                client.clock.advance(2)
                client.lose(ConnectionResetError("reset"))
                self.assertEqual(client.received(), b"")
            factory.rate_limited_logger.sum_up()
        self.assertEqual((handler.requests, events, factory.connections), ([], [], set()))
        line = "WARNING:discosbackend.protocol:refused a connection from 10.0.0.8:4711, which is not allowed to connect"
        left_out = "WARNING:discosbackend.protocol:2 more lines of this kind left out: connections refused"
        self.assertEqual(logs.output, [line] * 5 + [left_out])

    def test_the_numbers_of_connections_have_no_holes(self) -> None:
        factory = factory_of(Scripted(ok), ["10.0.0.7"])
        events: list[ConnectionEvent] = []
        factory.listeners.append(events.append)
        with self.assertLogs("discosbackend.protocol"):
            for host in ("10.0.0.7", "10.0.0.8", "10.0.0.7"):
                connection(factory, host)
        self.assertEqual([event.connection for event in events], [1, 2])


class LogTests(unittest.TestCase):
    def test_refused_commands_are_logged_five_times_a_minute(self) -> None:
        factory = factory_of(Scripted(ok), [], ["10.0.0.0/8"])
        client = connection(factory, "10.0.0.7")
        with self.assertLogs("discosbackend.protocol", "INFO") as logs:
            client.ask(b"?set-configuration,SK00\r\n" * 9)
            factory.rate_limited_logger.sum_up()
        self.assertEqual(len(logs.output), 6)
        self.assertRegex(
            logs.output[0], "set-configuration from 10.0.0.7:4711: 'SK00' -> fail 'not allowed from this address' in"
        )
        self.assertIn("4 more lines of this kind left out: set-configuration refused for 10.0.0.7", logs.output[5])

    def test_the_exchange(self) -> None:
        factory = factory_of(Scripted(ok), [], ["10.0.0.0/8"])
        client = connection(factory, "10.0.0.7")
        exchanges: list[Any] = []
        factory.listeners.append(exchanges.append)
        client.ask(b"?start\r\n")
        (exchange,) = exchanges
        self.assertEqual(
            (exchange.name, exchange.code, exchange.reply), ("start", "fail", b"!start" + NOT_ALLOWED[:-2])
        )


class OptionTests(unittest.TestCase):
    def test_wrong_options(self) -> None:
        for options, text in (
            (["--allow", "localhost"], "argument --allow: 'localhost' is neither an address nor a network, such as"),
            (["--read-only", "10.0.0.7/8"], "argument --read-only: '10.0.0.7/8' is an address inside of a network"),
            (["--allow", "::1", "--read-only", "::1"], "::1/128 cannot be both allowed and read-only: leave out one"),
            (["--allow", "::1", "--listen", "haproxy:tcp:0"], "every client has the address of the proxy, so set the"),
            (["--read-only", "::1", "--listen", "unix:/x"], "the permissions of the socket decide who may connect"),
            (["--allow", "::1", "--listen", "systemd:domain=UNIX:index=0"], "the permissions of the socket decide"),
        ):
            with self.subTest(options):
                found = run_program(server.main, *options)
                self.assertEqual((found.status, found.out), (2, ""))
                self.assertIn(text, found.err.splitlines()[-1])

    def test_they_do_something(self) -> None:
        options = ("--no-data", "--allow", "10.0.0.7", "--allow", "10.0.0.8", "--read-only", "10.0.0.0/24")
        for more in ((), ("--control", "0")):
            with self.subTest(more), served_in_memory(*options, *more) as program:
                for host, received in (
                    ("10.0.0.7", GREETING + b"!set-configuration,fail,missing argument: configuration\r\n"),
                    ("10.0.0.8", GREETING + b"!set-configuration,fail,missing argument: configuration\r\n"),
                    ("10.0.0.9", GREETING + b"!set-configuration" + NOT_ALLOWED),
                    ("10.0.1.1", b""),
                ):
                    client = connection(program.factory, host)
                    self.assertEqual(client.ask(b"?set-configuration\r\n"), received, host)
                    client.lose()

    def test_library(self) -> None:
        reactor = InMemory()
        listen(Scripted(ok), 0, reactor=reactor, allow=["10.0.0.7"], read_only="10.0.0.8")
        factory: Any = reactor.tcpServers[-1][1]
        for host, received in (
            ("10.0.0.7", GREETING + b"!start,ok\r\n"),
            ("10.0.0.8", GREETING + b"!start" + NOT_ALLOWED),
            ("10.0.0.9", b""),
        ):
            self.assertEqual(connection(factory, host).ask(b"?start\r\n"), received)
        rules: list[Any] = [serve(Scripted(ok), 0, allow=["10.0.0.7"], read_only=["10.0.0.8"])._access]
        with (
            mock.patch.object(server_module, "run_until_stopped") as run_until_stopped,
            mock.patch.object(server_module, "check_can_run"),
        ):
            run_server(0, Scripted(ok), allow=["10.0.0.7"], read_only=["10.0.0.8"])
            rules.append(run_until_stopped.call_args.args[0].factory._access)
            run_server(0, Scripted(ok))
            self.assertIsNone(run_until_stopped.call_args.args[0].factory._access)
        for each in rules:
            self.assertEqual(repr(each), "AccessRules(allow=['10.0.0.7/32'], read_only=['10.0.0.8/32'])")
        with self.assertRaisesRegex(ValueError, "'10.0.0.7/8' is an address inside of a network"):
            listen(Scripted(ok), 0, reactor=reactor, allow="10.0.0.7/8")


def has_ipv6() -> bool:
    """Whether this host has an IPv6 address that a server can listen on."""
    try:
        with socket.socket(socket.AF_INET6) as bound:
            bound.bind(("::", 0))
    except OSError:
        return False
    return True


class SocketTests(unittest.TestCase):
    """Real sockets. A client chooses among the addresses of this host by binding its socket."""

    def received_from(self, source: str, port: int, request: bytes) -> bytes:
        """All that a client with this address receives for a request."""
        received = b""
        try:
            with socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=(source, 0)) as client:
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                while piece := client.recv(4096):
                    received += piece
        except ConnectionError:
            # A refused connection is reset, perhaps before create_connection() has returned.
            pass
        return received

    def check(self, *options: str) -> None:
        rules = ("--allow", "127.0.0.1", "--read-only", "127.0.0.2/31", "--allow", "127.0.0.3")
        with served(*rules, *options) as process:
            for source, received in (
                ("127.0.0.1", GREETING + b"!stop,fail,not acquiring\r\n!get-configuration,ok,unconfigured\r\n"),
                ("127.0.0.2", GREETING + b"!stop" + NOT_ALLOWED + b"!get-configuration,ok,unconfigured\r\n"),
                ("127.0.0.3", GREETING + b"!stop,fail,not acquiring\r\n!get-configuration,ok,unconfigured\r\n"),
                ("127.0.0.4", b""),
            ):
                with self.subTest(source):
                    found = self.received_from(source, process.address[1], b"?stop\r\n?get-configuration\r\n")
                    self.assertEqual(found, received)
            wait_until(lambda: "127.0.0.4" in process.log())
            log = process.log()
            self.assertRegex(log, r"refused a connection from 127\.0\.0\.4:\d+, which is not allowed to connect")
            self.assertRegex(log, r"stop from 127\.0\.0\.2:\d+ -> fail 'not allowed from this address'")

    def test_ipv4(self) -> None:
        self.check("--interface", "127.0.0.1")

    @unittest.skipUnless(has_ipv6(), "this host has no IPv6")
    def test_ipv4_clients_of_an_ipv6_port(self) -> None:
        self.check("--interface", "::")


class UnixTests(unittest.TestCase):
    """The clients of a Unix socket have the names of their users."""

    def test_a_real_client(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "s")
            with served_at(path) as process, socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(str(path))
                self.assertEqual(read_line(client), GREETING)
                self.assertEqual(ask(client, b"?stop"), [b"!stop,fail,not acquiring\r\n"])
                user = pwd.getpwuid(os.getuid()).pw_name
                expected = f"stop from user {user}, pid {os.getpid()} -> fail 'not acquiring'"
                wait_until(lambda: expected in process.log(), expected)

    def test_names(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, tempfile.TemporaryDirectory() as folder:
            users = Path(folder, "passwd")
            for text, name in (
                (f"other:x:{os.getuid()}7:0::/:\nsomebody\x1b:x:{os.getuid()}:5::/:\n", r"user somebody\x1b"),
                (f"a:x:{os.getuid()}1:5::/:\n:\nbroken\n+::::::\n", f"uid {os.getuid()}"),
                (None, f"uid {os.getuid()}"),
            ):
                users.unlink(missing_ok=True)
                if text is not None:
                    users.write_text(text)
                unix_peer._user_text.cache_clear()
                self.addCleanup(unix_peer._user_text.cache_clear)
                with self.subTest(text), mock.patch.object(unix_peer, "_USERS", str(users)):
                    self.assertEqual(peer_of(ours), (name, f"{name}, pid {os.getpid()}"))

    def test_what_the_system_may_report(self) -> None:
        unix_peer._user_text.cache_clear()
        unknown = 2**31 - 2
        with socket.socket(socket.AF_UNIX) as handle, mock.patch.object(socket.socket, "getsockopt") as asked:
            for credentials, names in (
                (struct.pack("3i", 12, unknown, 0), (f"uid {unknown}", f"uid {unknown}, pid 12")),
                (struct.pack("3i", 0, unknown, 0), (f"uid {unknown}", f"uid {unknown}")),
                (struct.pack("3i", 0, -1, -1), None),
                (b"", None),
            ):
                asked.return_value = credentials
                self.assertEqual(peer_of(handle), names)
            asked.side_effect = OSError
            self.assertIsNone(peer_of(handle))
        self.assertIsNone(peer_of(None))
        with mock.patch.object(unix_peer, "socket", mock.Mock(spec=[])):
            self.assertIsNone(peer_of(None))

    def test_peer_and_host(self) -> None:
        """The host has no process, because a client has a new one at each connection."""

        class UnixWire(Wire):
            def getHandle(self) -> object:
                return ours

        ours, theirs = socket.socketpair()
        with ours, theirs:
            wire = UnixWire()
            wire.peerAddr = UNIXAddress(None)
            client = Connection(Scripted(ok), wire)
            host, peer = peer_of(ours) or ("", "")
            self.assertEqual((client.protocol.host, client.protocol.peer, str(client.protocol)), (host, peer, peer))
            self.assertEqual(peer, f"{host}, pid {os.getpid()}")


class Own(Backend):
    """Has commands of its own, one of them in the lane `reads`, and remembers what was called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def get_configuration(self) -> str:
        self.called.append("get-configuration")
        return "SK00"

    def start(self, timestamp: object = None) -> None:
        self.called.append("start")

    def stop(self, timestamp: object = None) -> None:
        self.called.append("stop")

    @command("own")
    def own(self) -> None:
        self.called.append("own")

    @command("watch", lane="reads", reply=[Field("seven", "integer")])
    def watch(self) -> int:
        self.called.append("watch")
        return 7


@contextmanager
def served_at(path: Path) -> Iterator[Server]:
    """The program on a Unix socket."""
    process = Server([sys.executable, str(SCRIPT), "--no-data", "--listen", f"unix:{path}:mode=600"])
    try:
        assert process.announced
        yield process
    finally:
        process.end()


if __name__ == "__main__":
    unittest.main()
