"""A cluster of three RabbitMQ nodes, each in a network namespace of its own, so that nodes can be cut off from each other.

    with Cluster() as cluster:
        Settings.load(broker_url=cluster.url, queue_type="quorum")
        cluster.nodes[0].kill9()
        cluster.cut_off(cluster.nodes[1])

A node that is cut off still talks to its clients, as behind a switch that lost its link to the others. It needs root and
`ip`. What the kernel holds for the namespaces is removed by a guard, however this process ends.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from typing import Self

from tests import provision
from tests.services import _ERLANG, RabbitServer

_GUARD = """while read -r line; do :; done
ip link del $1; shift
for name; do ip netns del $name; done
"""
_AMQP_PORT, _EPMD_PORT, _DIST_PORT = 5672, 4369, 25672


class Node(RabbitServer):
    """One node. It comes back under its address."""

    kind = "RabbitMQ node"
    _listen = "0.0.0.0"  # of a network of its own

    def __init__(self, namespace: str, address: str, cookie: str, peers: list[str], newer: bool) -> None:
        super().__init__(newer=newer)
        self.kind = f"RabbitMQ node {address}"
        self.namespace, self.address, self.port = namespace, address, _AMQP_PORT
        self.node = f"rabbit@{address}"
        self._cookie = cookie
        self._epmd_port = _EPMD_PORT
        self._url = f"amqp://guest:guest@{address}:{_AMQP_PORT}//"
        self.config = [
            "loopback_users = none",
            "cluster_partition_handling = pause_minority",
            "cluster_formation.peer_discovery_backend = classic_config",
            *(f"cluster_formation.classic_config.nodes.{at} = rabbit@{peer}" for at, peer in enumerate(peers, 1)),
        ]

    def _prepare(self) -> None:
        super()._prepare()
        cookie = self.home / ".erlang.cookie"
        cookie.chmod(0o600)
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_DIST_PORT": str(_DIST_PORT),
            # A peer that is silent is given up after some seconds instead of a minute.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel net_ticktime 8 {_ERLANG}",
        }

    def inside(self, command: list[str]) -> list[str]:
        """The command line that runs a command in this node's network."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def cut(self, peers: list[Node], *, heal: bool = False) -> None:
        """Drop (or no longer drop) what goes to these peers, both ways."""
        for one, other in [(self, peer) for peer in peers] + [(peer, self) for peer in peers]:
            route = ["ip", "route", "del" if heal else "add", "blackhole", f"{other.address}/32"]
            subprocess.run(one.inside(route), check=True)


class Cluster:
    """Three nodes. `url` names all of them, as `AIKI_BROKER_URL` does."""

    def __init__(self, *, newer: bool = True) -> None:
        if os.geteuid() != 0 or not provision.program("ip"):
            raise provision.NoServer(
                "a cluster of RabbitMQ nodes needs network namespaces: root, and the program ip (iproute2)"
            )
        tag = secrets.token_hex(3)
        self._bridge = f"aiki{tag}"
        names = [f"aiki{tag}-{number}" for number in range(3)]
        network = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(250)}"
        addresses = [f"{network}.{number + 11}" for number in range(3)]
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", self._bridge, *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{network}.1/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number, (name, address) in enumerate(zip(names, addresses, strict=True)):
            link = f"a{tag}{number}"
            _ip("netns", "add", name)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", link, "master", self._bridge, "up")
            for command in (
                ["addr", "add", f"{address}/24", "dev", "eth0"],
                ["link", "set", "eth0", "up"],
                ["link", "set", "lo", "up"],
            ):
                _ip("-n", name, *command)
        cookie = secrets.token_hex(16)
        self.nodes = [Node(name, address, cookie, addresses, newer) for name, address in zip(names, addresses, strict=True)]

    @property
    def url(self) -> str:
        """All nodes."""
        return ";".join(node.url for node in self.nodes)

    def start(self) -> Self:
        """All nodes, which find each other."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_ready()
        deadline = time.monotonic() + 60
        while not all(node.address in self.nodes[0].ctl("cluster_status", "--formatter", "json") for node in self.nodes):
            if time.monotonic() > deadline:
                raise RuntimeError("the nodes have not found each other: " + self.nodes[0].ctl("cluster_status"))
            time.sleep(0.2)
        return self

    def cut_off(self, node: Node) -> None:
        """Cut a node off from the others: their packets to each other are dropped."""
        node.cut([peer for peer in self.nodes if peer is not node])

    def heal(self, node: Node) -> None:
        """Connect it again."""
        node.cut([peer for peer in self.nodes if peer is not node], heal=True)

    def close(self) -> None:
        """End the nodes, and remove their networks."""
        for node in self.nodes:
            node.close()
        self._guard.communicate()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, stdin=subprocess.DEVNULL, capture_output=True)
