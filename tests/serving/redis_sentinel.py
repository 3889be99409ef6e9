"""A master, replicas and a Sentinel on loopback, started, killed and started again by a test."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any, Self

import redis
from serving.redis_server import RedisServer, free_port

NAME = "shop"


class Watched:
    """A master with replicas, and a Sentinel that lets one of them take over within a second.

    Parameters
    ----------
    settings
        Of the servers, as of `RedisServer`.
    """

    def __init__(self, folder: Path, replicas: int = 2, **settings: str) -> None:
        self.folder = folder
        settings = {"repl_diskless_sync_delay": "0", "repl_timeout": "5"} | settings
        self.servers: list[RedisServer] = []
        self.sentinel: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.tls = {k.replace("_", "-"): v for k, v in settings.items() if k.startswith("tls")}
        try:
            for number in range(1 + replicas):
                own = {"replicaof": f"127.0.0.1 {self.servers[0].port}"} if number else {}
                self.servers.append(RedisServer(folder / str(number), **settings, **own))
            self._until(lambda: len(self._attached(self.servers[0])) == replicas)
            self.start_sentinel()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill_sentinel()
        for server in self.servers:
            server.kill()

    @property
    def url(self) -> str:
        return f"redis{'s' if self.tls else ''}+sentinel://127.0.0.1:{self.port}/{NAME}/0"

    def client(self) -> redis.Redis:
        """Of the Sentinel."""
        options = {"ssl": True, "ssl_ca_certs": self.tls["tls-ca-cert-file"]} if self.tls else {}
        return redis.Redis("127.0.0.1", self.port, **options)

    @property
    def master(self) -> RedisServer:
        """The one that the Sentinel names."""
        with self.client() as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def replicas(self) -> list[RedisServer]:
        master = self.master
        return [server for server in self.servers if server is not master]

    def start_sentinel(self, alone: bool = False) -> None:
        """Start it, and wait until it knows master and replicas, unless these are away."""
        config = self.folder / "sentinel.conf"
        if not config.exists():
            lines = [
                f"port {self.port}",
                "bind 127.0.0.1",
                f"logfile {self.folder / 'sentinel.log'}",
                f"dir {self.folder}",
                f"sentinel monitor {NAME} 127.0.0.1 {self.servers[0].port} 1",
                f"sentinel down-after-milliseconds {NAME} 600",
                f"sentinel failover-timeout {NAME} 1000",
                f"sentinel parallel-syncs {NAME} 9",
                *(f"{name} {value}" for name, value in self.tls.items()),
            ]
            if self.tls:
                lines[0] = f"port 0\ntls-port {self.port}"
            config.write_text("\n".join(lines) + "\n")
        self.sentinel = subprocess.Popen(
            ["redis-server", config, "--sentinel"], stdout=subprocess.DEVNULL
        )
        self._until(self._hurry)
        self._until(lambda: alone or all(map(self._is_known, self.replicas)))

    def kill_sentinel(self) -> None:
        if self.sentinel is not None:
            self.sentinel.kill()
            self.sentinel.wait()
            self.sentinel = None

    def kill_master(self) -> RedisServer:
        """kill -9 of the master; -> it, once another one has taken over."""
        killed = self.master
        killed.kill()
        self.until_moved(killed)
        return killed

    def until_moved(self, server: RedisServer) -> None:
        """Wait until another one than this is the master."""
        self._until(lambda: self.master is not server)

    def until_follows(self, server: RedisServer) -> None:
        """Wait until a server is a replica of the master, and the Sentinel knows it."""
        self._until(lambda: server.port in self._attached(self.master) and self._is_known(server))

    def start_as_replica(self, server: RedisServer) -> None:
        """Start a former master as an operator has it: a replica of the one there is now."""
        server.settings["replicaof"] = f"127.0.0.1 {self.master.port}"
        server.start()
        self.until_follows(server)

    def _attached(self, server: RedisServer) -> list[int]:
        """Ports of the replicas that follow a master."""
        with server.client() as client:
            about = client.info("replication")
        found = [about[f"slave{number}"] for number in range(about["connected_slaves"])]
        return [one["port"] for one in found if one["state"] == "online"]

    def _hurry(self) -> bool:
        """Let the Sentinel look every tenth of a second, and not every ten seconds."""
        with self.client() as client:
            for name in ("INFO-PERIOD", "PUBLISH-PERIOD", "PING-PERIOD"):
                client.execute_command("SENTINEL", "DEBUG", name, 100)
        return True

    def _is_known(self, server: RedisServer) -> bool:
        """Whether the Sentinel has it as a replica that follows the master."""
        with self.client() as client:
            found = client.sentinel_slaves(NAME)
        return any(
            one["port"] == server.port
            and one["flags"] == "slave"
            and one["master-link-status"] == "ok"
            and one["master-port"] == self.master.port
            for one in found
        )

    def _until(self, reached: Any) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                if reached():
                    return
            except redis.RedisError:
                pass
            time.sleep(0.01)
        log = self.folder / "sentinel.log"
        raise AssertionError(log.read_text() if log.exists() else "no Sentinel")
