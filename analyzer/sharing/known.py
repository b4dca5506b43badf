"""What tells nothing of a host: names that are the same everywhere, and words of our own."""

from __future__ import annotations

import os
import re
from functools import cache

from analyzer.sharing.addresses import parse
from recorder.schema import MOMENTS, TABLES

PROGRAMS = frozenset(
    """
    apache2 avahi-daemon bash beam.smp caddy chronyd clickhouse-serv clickhouse-server consul
    containerd containerd-shim coredns cron crond cupsd curl dbus-broker dbus-daemon dhclient dhcpcd
    dnsmasq docker docker-proxy dockerd dotnet envoy etcd exim4 fluent-bit gitlab-runner grafana
    gunicorn haproxy httpd init influxd iperf3 iscsid java journald kafka keepalived kubelet
    kube-apiserver kube-proxy kube-scheduler login lighttpd mariadbd master memcached mongod
    mongos mysqld named nats-server NetworkManager nc ncat netdata nfsd nginx node node_exporter
    ntpd openvpn perl php php-fpm podman postgres postmaster prometheus proxysql python python3 qmgr
    rabbitmq-server redis-sentinel redis-server rpcbind rpc.statd rsyslogd ruby runc sh smbd snmpd
    socat sockrec squid ss sshd sshd-session sssd stunnel sudo systemd systemd-journal
    systemd-journald systemd-logind systemd-network systemd-networkd systemd-resolve
    systemd-resolved systemd-timesyn systemd-timesyncd systemd-udevd telegraf tomcat traefik
    unbound uvicorn uwsgi varnishd vault vsftpd wget wpa_supplicant xinetd zabbix_agentd zookeeper
    """.split()
)
"""Programs that are told by name; also as systemd's units and as the end of a path."""

USERS = frozenset(
    """
    root nobody daemon bin sys adm mail www-data nginx apache http postgres mysql redis mongodb
    rabbitmq memcache memcached haproxy envoy sshd messagebus dbus systemd-network systemd-resolve
    systemd-timesync syslog chrony _chrony ntp bind named unbound dnsmasq postfix kafka zookeeper
    elasticsearch prometheus grafana etcd consul vault jenkins tomcat git docker polkitd avahi
    """.split()
)

UNITS = frozenset(
    """
    -.slice system.slice user.slice machine.slice kubepods.slice init.scope system user machine
    docker.socket dbus.socket sshd.socket ssh.service cron.service docker.service
    network-manager.service NetworkManager.service
    """.split()
)

UNIX_NAMES = frozenset(
    """
    * /run/systemd/journal/socket /run/systemd/journal/stdout /run/systemd/journal/dev-log
    /run/systemd/journal/syslog /run/systemd/notify /run/systemd/private /run/udev/control
    /run/dbus/system_bus_socket /var/run/dbus/system_bus_socket /run/docker.sock
    /var/run/docker.sock /run/containerd/containerd.sock /var/run/nscd/socket /run/nscd/socket
    /dev/log /run/systemd/resolve/io.systemd.Resolve /run/systemd/userdb/io.systemd.DynamicUser
    /run/rpcbind.sock /tmp/.X11-unix/X0 @/tmp/.X11-unix/X0 /run/avahi-daemon/socket
    """.split()
)
"""Unix sockets that are where the distributions put them."""

_PROTOCOLS = frozenset(
    """
    * rtnl unused usersock fw tcpdiag nflog xfrm selinux iscsi audit fiblookup connector nft ip6fw
    dec-rt uevent genl scsi-trans ecryptfs rdma crypto ip arp ipv6 lldp loop all eapol
    """.split()
)
"""Addresses that are protocols of netlink and packet sockets."""

_DEVICES = re.compile(
    r"lo|(?:eth|wlan|tun|tap|bond|br|wg|docker|virbr|cni|ib|team)\d{1,3}|en(?:p\d+s\d+(?:f\d+)?|[os]\d+)"
)
_NUMBER = re.compile(r"[\d,]{1,20}|\[\d{1,10}\]")
_PLACES = ("/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/usr/local/bin/", "/usr/local/sbin/")
_UNIT = re.compile(r"([\w.-]+?)(?:@\d{1,4})?\.(?:service|socket)")

_OURS = """
a about all an and announce announced another any are as asked at be because been before behind
between but by called cannot cap_net_admin cap_sys_ptrace capability carried change closed command
could cpu current damage damaged data denied descriptor descriptors did died directory do does done
duration ended error events every fell file files first for found from full gave gone had handler
happened has have held host how if in inode inodes into io ip is it its journal journals keep kept
kernel killed known last late left less limit linux longer lost made many may memory met mib
missing module more much namespace namespaces needs net netlink netns never nlmsg_done nlmsg_error
no none not nothing number numbers of on one only open opened or other others out over own owner
owners partial process processes raised rather read reader reason recorded recorder redacted
refused returned root row rows runs sample sampled samples sealed sealing seconds segment segments
sent shows signal since skipped so sock_diag socket sockets started status step such system table
tables taken than that the their them then there they this thread threads time to told too try turn
unavailable under unexplained unknown until up user users was went were what when where which while
who why will with within without would written
""".split()

_WORD = re.compile(r"[\w.@/:%+-]+")
_PIECE = re.compile(r"[A-Za-z_]+|\d+")


def is_known(kind: str, value: str) -> bool:
    """Tell whether a value of a kind of pseudonyms.KINDS is the same on many hosts."""
    if kind == "app":
        return value in PROGRAMS
    if kind == "user":
        return value in USERS
    if kind == "dev":
        return _DEVICES.fullmatch(value) is not None
    if kind in ("unit", "slice"):
        unit = _UNIT.fullmatch(value)
        return value in UNITS or (unit is not None and unit[1] in PROGRAMS)
    if kind == "exe":
        place = next((place for place in _PLACES if value.startswith(place)), "")
        return bool(place) and value.removeprefix(place) in PROGRAMS
    if kind == "cgroup":
        return value == "/" or all(is_known("unit", part) for part in value.split("/")[1:])
    return kind == "unix-path" and value in UNIX_NAMES


def is_protocol(value: str) -> bool:
    """Tell whether a local or peer address is a protocol or a number, as of netlink and vsock."""
    return value in _PROTOCOLS or _NUMBER.fullmatch(value) is not None


@cache
def vocabulary() -> frozenset[str]:
    """Return the words, in small letters, that the recorder, its schema and the kernel use."""
    texts = [table.doc for table in TABLES.values()]
    columns = [*MOMENTS, *(column for table in TABLES.values() for column in table.columns)]
    texts += [f"{column.name} {column.doc} {column.unit}" for column in columns]
    texts += [os.strerror(number) for number in range(1, 134)]
    texts += [*TABLES, *_OURS]
    return frozenset(word.lower() for text in texts for word in _PIECE.findall(text))


def scrub(text: str) -> tuple[str, list[str]]:
    """Return a text with … for each word that is not ours, and those words."""
    removed: list[str] = []

    def judged(match: re.Match[str]) -> str:
        word = match[0].strip(".:-/")
        pieces = _PIECE.findall(word)
        digits = sum(piece.isdigit() for piece in pieces)
        if parse(word) is None and digits <= 2:
            known = vocabulary()
            if all(piece.isdigit() or piece.lower() in known for piece in pieces):
                return match[0]
        removed.append(word)
        return match[0].replace(word, "…")

    return _WORD.sub(judged, text), removed
