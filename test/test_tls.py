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

from .serving import SCRIPT, Server, ask, read_line
from .settings import PATIENCE, needs_tls

GREETING = b"!version,ok,1.4\r\n"
UNCONFIGURED = b"!get-configuration,ok,unconfigured\r\n"


def write_certificate(path: Path) -> None:
    """A key and a certificate for 127.0.0.1 that nobody else has signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.DNSName("127.0.0.1")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
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


UNKNOWN = b"!x,fail,invalid command 'x'\r\n"


if __name__ == "__main__":
    unittest.main()
