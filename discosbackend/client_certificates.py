"""TLS with client certificates: an `ssl:` endpoint that accepts only clients that a certificate authority has signed.

The endpoint strings of Twisted have no key for this, so server.py takes `clientCA=FILE` out of the string.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from twisted.internet.ssl import Certificate, CertificateOptions, trustRootFromCertificates

from discosbackend.errors import reason_of

__all__ = ["require_client_certificates"]

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def require_client_certificates(endpoint: Any, path: str) -> None:
    """Make an endpoint accept only clients whose certificate was signed by one of the authorities in a file.

    Parameters
    ----------
    endpoint
        The SSL4ServerEndpoint for the endpoint string without `clientCA`.
    path
        The file with the certificates of the authorities, in PEM format.

    Raises
    ------
    ValueError
        If the file cannot be read, or contains no certificate.
    """
    try:
        found = _PEM.findall(Path(path).read_bytes())
    except OSError as problem:
        raise ValueError(f"the certificates of clientCA={path} cannot be read: {reason_of(problem)}") from problem
    try:
        authorities = [Certificate.loadPEM(each) for each in found]
    except Exception as problem:  # pyOpenSSL has an exception of its own, which is imported by nothing else here
        raise ValueError(f"clientCA={path} contains a certificate that cannot be read") from problem
    if not authorities:
        raise ValueError(f"clientCA={path} contains no certificate: it needs one in PEM format")
    given = endpoint._sslContextFactory  # noqa: SLF001  # Twisted has no other way to get the key and the certificate
    endpoint._sslContextFactory = CertificateOptions(  # noqa: SLF001  # as above
        privateKey=given.privateKey,
        certificate=given.certificate,
        extraCertChain=given.extraCertChain,
        dhParameters=given.dhParameters,
        trustRoot=trustRootFromCertificates(authorities),
    )
