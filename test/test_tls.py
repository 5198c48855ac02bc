"""A server on an `ssl:` endpoint, with the clients that people have: Python's ssl, and openssl s_client."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.testing import MemoryReactorClock

from discosbackend.endpoints import endpoint_from

from .serving import SCRIPT, Server, ask, read_line
from .settings import PATIENCE, needs_tls

GREETING = b"!version,ok,1.4\r\n"
UNCONFIGURED = b"!get-configuration,ok,unconfigured\r\n"


def write_certificate(path: Path, authority: Path | None = None, common_name: str = "127.0.0.1") -> None:
    """A key and a certificate for 127.0.0.1, signed by the authority with this file, or by nobody else."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    signer: Any = key
    if authority is not None:
        pem = authority.read_bytes()
        signer = serialization.load_pem_private_key(pem, None)
        issuer = x509.load_pem_x509_certificate(pem).subject
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.DNSName("127.0.0.1")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )


@needs_tls
class TlsTests(unittest.TestCase):
    """Protocol section 1 through TLS."""

    server: Server
    certificate: Path

    @classmethod
    def setUpClass(cls) -> None:
        folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.certificate = folder / "server.pem"
        write_certificate(cls.certificate)
        cls.server = cls.served("--greeting-delay", "0")

    @classmethod
    def served(cls, *options: str) -> Server:
        where = f"ssl:0:interface=127.0.0.1:privateKey={cls.certificate}:certKey={cls.certificate}"
        server = Server([sys.executable, str(SCRIPT), "--no-data", "--listen", where, *options])
        cls.addClassCleanup(server.end)
        return server

    @contextlib.contextmanager
    def connected(
        self, server: Server | None = None, version: ssl.TLSVersion | None = None, patience: float = PATIENCE
    ) -> Iterator[ssl.SSLSocket]:
        """A connection whose handshake is done; nothing was read."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        plain = socket.create_connection((server or self.server).address, patience)
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            yield connection

    def test_python(self) -> None:
        for version in (None, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with self.subTest(version), self.connected(version=version) as connection:
                self.assertEqual(read_line(connection), GREETING)
                self.assertEqual(ask(connection, b"?get-configuration", b"?x"), [UNCONFIGURED, UNKNOWN])

    def test_many_requests_at_once(self) -> None:
        """More than may pile up, and more replies than one TLS record or the transport's buffer holds."""
        with self.connected() as connection:
            self.assertEqual(read_line(connection), GREETING)
            replies = ask(connection, *[b"?get-configuration"] * 5000)
            self.assertEqual((set(replies), len(replies)), ({UNCONFIGURED}, 5000))

    def test_a_handshake_in_single_bytes(self) -> None:
        context = ssl.create_default_context(cafile=str(self.certificate))
        ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(theirs, ours, server_hostname="localhost")
        with socket.create_connection(self.server.address, PATIENCE) as plain:
            received = b""
            tls.pending()
            request = b"?get-configuration\r\n"
            while not received.endswith(UNCONFIGURED):
                try:
                    tls.do_handshake()
                    if request:
                        tls.write(request)
                        request = b""
                    received += tls.read(65536)
                    continue
                except ssl.SSLWantReadError:
                    pass
                for byte in ours.read():
                    plain.sendall(bytes([byte]))
                theirs.write(plain.recv(65536))
        self.assertEqual(received, GREETING + UNCONFIGURED)

    def test_a_greeting_that_waits(self) -> None:
        server = self.served("--greeting-delay", "60")
        with self.connected(server) as connection:
            self.assertEqual(ask(connection, b"?get-configuration"), [UNCONFIGURED])

    @unittest.skipUnless(shutil.which("openssl"), "needs the program openssl")
    def test_openssl(self) -> None:
        host, port = self.server.address
        command = ["openssl", "s_client", "-connect", f"{host}:{port}", "-CAfile", str(self.certificate)]
        command += ["-verify_return_error", "-quiet"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            assert process.stdin is not None and process.stdout is not None
            timer = threading.Timer(PATIENCE, process.kill)
            timer.start()
            try:
                self.assertEqual(process.stdout.readline(), GREETING)
                process.stdin.write(b"?get-configuration\r\n?x\r\n")
                process.stdin.flush()
                self.assertEqual(process.stdout.readline(), UNCONFIGURED)
                self.assertEqual(process.stdout.readline(), UNKNOWN)
            finally:
                timer.cancel()
                process.kill()

    def test_one_who_does_not_read_costs_bounded_memory(self) -> None:
        """The server stops reading, so what such a client can send is what the system's buffers hold."""
        with self.connected(patience=2.0) as connection:
            sent = 0
            with self.assertRaises(TimeoutError):
                while sent < 10**8:
                    connection.sendall(b"?get-configuration\r\n" * 1000)
                    sent += 20000
            self.assertLess(sent, 5 * 10**7)
            with self.connected() as other:
                self.assertEqual(read_line(other), GREETING)
                self.assertEqual(ask(other, b"?get-configuration"), [UNCONFIGURED])

    def test_one_who_speaks_no_tls(self) -> None:
        with socket.create_connection(self.server.address, PATIENCE) as plain:
            plain.sendall(b"?start\r\n" * 10)
            while plain.recv(65536):
                pass
        with self.connected() as connection:
            self.assertEqual(read_line(connection), GREETING)
            self.assertRegex(ask(connection, b"?status")[0], rb",ok,0\r\n\Z")

    def test_a_server_that_stops(self) -> None:
        server = self.served()
        with self.connected(server) as connection:
            self.assertEqual(read_line(connection), GREETING)
            self.assertEqual(server.stop(15), 0)
            self.assertEqual(connection.recv(100), b"", "closed as TLS wants it")


@needs_tls
class ClientCertificateTests(unittest.TestCase):
    """`clientCA=`: only clients whose certificate an authority has signed get anything."""

    @classmethod
    def setUpClass(cls) -> None:
        # A colon in a path is quoted in an endpoint string.
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="a:b")))
        cls.paths = {name: cls.folder / f"{name}.pem" for name in ("server", "ca", "other_ca", "client", "stranger")}
        write_certificate(cls.paths["server"])
        write_certificate(cls.paths["ca"], common_name="Control room")
        write_certificate(cls.paths["other_ca"], common_name="Somebody else")
        write_certificate(cls.paths["client"], cls.paths["ca"], "observer")
        write_certificate(cls.paths["stranger"], cls.paths["other_ca"], "observer")
        # Two authorities in one file. The clients have certificates of the second one.
        authorities = cls.folder / "authorities.pem"
        write_certificate(authorities, common_name="Guests")
        authorities.write_bytes(authorities.read_bytes() + cls.paths["ca"].read_bytes())
        cls.server = Server([sys.executable, str(SCRIPT), "--no-data", "--listen", cls.endpoint(authorities)])
        cls.addClassCleanup(cls.server.end)

    folder: Path
    paths: dict[str, Path]
    server: Server

    @classmethod
    def endpoint(cls, authorities: Path) -> str:
        quoted = {name: str(path).replace(":", r"\:") for name, path in cls.paths.items()}
        authority = str(authorities).replace(":", r"\:")
        return (
            f"ssl:0:clientCA={authority}:interface=127.0.0.1:privateKey={quoted['server']}:certKey={quoted['server']}"
        )

    def received(self, certificate: str | None, version: ssl.TLSVersion) -> bytes:
        """All that a client receives for a request; b"" if it is refused."""
        context = ssl.create_default_context(cafile=str(self.paths["server"]))
        context.minimum_version = context.maximum_version = version
        if certificate is not None:
            context.load_cert_chain(self.paths[certificate])
        received = b""
        with socket.create_connection(self.server.address, PATIENCE) as plain:
            try:
                with context.wrap_socket(plain, server_hostname="localhost") as connection:
                    connection.sendall(b"?get-configuration\r\n")
                    while not received.endswith(UNCONFIGURED) and (piece := connection.recv(4096)):
                        received += piece
            except OSError:
                # The server has sent an alert and closed the connection.
                pass
        return received

    def test_who_is_answered(self) -> None:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for certificate, expected in (
                ("client", GREETING + UNCONFIGURED),
                (None, b""),
                ("stranger", b""),
                ("server", b""),
                ("client", GREETING + UNCONFIGURED),
            ):
                with self.subTest(version, certificate=certificate):
                    self.assertEqual(self.received(certificate, version), expected)
        self.assertRegex(self.server.log(), r" lost: TLS: peer did not return a certificate\n")
        self.assertNotIn("Traceback", self.server.log())

    def test_what_is_refused(self) -> None:
        empty, broken = self.folder / "empty.pem", self.folder / "broken.pem"
        empty.write_bytes(b"")
        broken.write_bytes(b"-----BEGIN CERTIFICATE-----\nxxxx\n-----END CERTIFICATE-----\n")
        for authorities, more, reason in (
            (self.folder / "none.pem", "", "none.pem cannot be read: No such file or directory"),
            (empty, "", "empty.pem contains no certificate: it needs one in PEM format"),
            (broken, "", "broken.pem contains a certificate that cannot be read"),
            (self.paths["ca"], ":sslmethod=TLSv1_METHOD", "sslmethod cannot be combined with clientCA: leave it out"),
        ):
            with self.subTest(reason), self.assertRaises(ValueError) as caught:
                endpoint_from(MemoryReactorClock(), self.endpoint(authorities) + more)
            self.assertTrue(str(caught.exception).endswith(reason), caught.exception)


UNKNOWN = b"!x,fail,invalid command 'x'\r\n"


if __name__ == "__main__":
    unittest.main()
