"""A certificate that nobody signed, for a gateway on one's own machine.

What belongs here: making it where there is none. What does not: certificates of the world (FRAUD_GATEWAY_CERTIFICATE).
"""

import ipaddress
import os
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAYS = 397


def make_certificate(certificate: Path, key: Path, now: datetime) -> bool:
    """Make a certificate of localhost and 127.0.0.1 with its key (P-256), unless both are there; says whether it did.

    now: with a time zone; the certificate is good from the day before, for 397 days.
    """
    if certificate.exists() and key.exists():
        return False
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fraud-platform gateway")])
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(secret, hashes.SHA256())
    )
    certificate.parent.mkdir(parents=True, exist_ok=True)
    pem = serialization.Encoding.PEM
    text = secret.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(text)
    certificate.write_bytes(made.public_bytes(pem))
    return True
