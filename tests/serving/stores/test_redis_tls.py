"""Redis with TLS, alone and behind a Sentinel: what fits works, and what does not is told."""

from __future__ import annotations

import pytest
from serving.certificates import Certificates
from serving.redis_sentinel import Watched
from serving.redis_server import RedisServer
from serving.stores.store_properties import event, events_of, log

from longrec.core.errors import UsageError
from longrec.serving.stores import redis_client
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import StoreUnavailable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(certificates, tmp_path_factory):
    """A server with TLS that does not ask clients for certificates."""
    own = certificates.settings(*certificates.sign("server", "IP:127.0.0.1"))
    with RedisServer(tmp_path_factory.mktemp("secure"), **own) as started:
        yield started


def test_a_store_over_tls(secure, certificates):
    store = open_store(f"{secure.url}?ssl_ca_certs={certificates.ca}")
    assert store.url == secure.url
    log(store, b"u", event(1))
    assert events_of(store, b"u") == [event(1)]
    store.close()
    open_store(f"{secure.url}?ssl_cert_reqs=none&prefix=x:").close()


@pytest.mark.parametrize(
    ("url", "mend"),
    [
        ("rediss://127.0.0.1:{port}/0", r"certificate is not trusted: .*\?ssl_ca_certs=/path"),
        (
            "rediss://localhost:{port}/0?ssl_ca_certs={ca}",
            r"not trusted: .*by a name that stands in the certificate.*(mismatch|localhost)",
        ),
        (
            "rediss://127.0.0.1:{plain}/0?ssl_ca_certs={ca}&socket_connect_timeout=0.3",
            "speaks no TLS here: write redis://",
        ),
        ("redis://127.0.0.1:{port}/0", r"cannot be reached: .*TLS here: write rediss://"),
        ("rediss://127.0.0.1:{port}/0?ssl_ca_certs={key}", r"a file of \?ssl_… is no certificate"),
    ],
)
def test_what_does_not_fit_is_one_line_with_the_mend(
    secure, server, certificates, monkeypatch, url, mend
):
    """A certificate that does not fit is told at once, not after trying for seconds."""
    monkeypatch.setattr(redis_client, "PATIENCE", 20.0 if "not trusted" in mend else 0.1)
    files = {"ca": certificates.ca, "key": certificates.folder / "ca.key"}
    with pytest.raises(StoreUnavailable, match=mend) as raised:
        open_store(url.format(port=secure.port, plain=server.port, **files))
    assert "\n" not in str(raised.value)


def test_a_server_may_want_certificates_of_its_clients(certificates, tmp_path, monkeypatch):
    monkeypatch.setattr(redis_client, "PATIENCE", 0.1)
    own = certificates.settings(*certificates.sign("strict", "IP:127.0.0.1"))
    with RedisServer(tmp_path, **own) as strict:
        with strict.client() as client:
            client.config_set("tls-auth-clients", "yes")
        url = f"{strict.url}?ssl_ca_certs={certificates.ca}"
        with pytest.raises(StoreUnavailable, match=r"wants (a )?certificate.*\?ssl_certfile="):
            open_store(url)
        certificate, key = certificates.sign("client", "DNS:client")
        store = open_store(f"{url}&ssl_certfile={certificate}&ssl_keyfile={key}")
        log(store, b"u", event(1))
        store.close()


def test_options_and_files_that_there_are_not(tmp_path):
    for option, words in (
        ("ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs is '/nowhere/ca.pem'"),
        ("ssl_ocsp_context=1", "'ssl_ocsp_context' is no option"),
    ):
        with pytest.raises(UsageError, match=words):
            open_store(f"rediss://127.0.0.1:1/0?{option}")


def test_fail_over_with_tls(certificates, tmp_path, monkeypatch):
    monkeypatch.setattr(redis_client, "PATIENCE", 60.0)
    own = certificates.settings(*certificates.sign("watched", "IP:127.0.0.1"))
    with Watched(tmp_path, **own) as watched:
        store = open_store(f"{watched.url}?ssl_ca_certs={certificates.ca}")
        log(store, b"u", event(1))
        watched.kill_master()
        log(store, b"u", event(2))
        assert events_of(store, b"u") == [event(1), event(2)]
        store.close()
        monkeypatch.setattr(redis_client, "PATIENCE", 3.0)
        with pytest.raises(StoreUnavailable, match="certificate is not trusted"):
            open_store(watched.url)
