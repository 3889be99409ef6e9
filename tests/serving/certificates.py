"""Certificates of an authority, a server and a client, made by openssl for a test."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from needs import missing

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]


class Certificates:
    """Files in a folder: an authority's `ca`, and keys and certificates that it signed."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            missing("openssl is not installed (Debian: apt-get install openssl)", "REQUIRE_OPENSSL")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.ca = folder, folder / "ca.pem"
        self._openssl(["req", "-x509", *KEY, "-subj", "/CN=authority"], self.ca, "ca")

    def sign(self, name: str, *names: str) -> tuple[Path, Path]:
        """Certificate and key of somebody with these names, such as IP:127.0.0.1."""
        found = self.folder / f"{name}.pem"
        signed = ["-CA", self.ca, "-CAkey", self.folder / "ca.key"]
        alternative = ["-addext", f"subjectAltName={','.join(names)}"]
        command = ["req", "-x509", *KEY, "-subj", f"/CN={name}", *signed, *alternative]
        self._openssl([*command, "-addext", "basicConstraints=critical,CA:FALSE"], found, name)
        return found, self.folder / f"{name}.key"

    def settings(self, certificate: Path, key: Path, clients: str = "no") -> dict[str, str]:
        """Those of a Redis that has such a certificate."""
        return {
            "tls_cert_file": str(certificate),
            "tls_key_file": str(key),
            "tls_ca_cert_file": str(self.ca),
            "tls_auth_clients": clients,
            "tls_replication": "yes",
        }

    def _openssl(self, command: list[object], certificate: Path, name: str) -> None:
        files = ["-out", certificate, "-keyout", self.folder / f"{name}.key"]
        subprocess.run(
            ["openssl", *map(str, command), *map(str, files)], check=True, capture_output=True
        )
