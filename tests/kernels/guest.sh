#!/bin/bash
# The first process of the guest: loads modules, which are below $1, runs the rest in folder $2, and notes that it ended.
trap 'busybox poweroff -f' EXIT
modules=$1 folder=$2
shift 2
missing=()
mkdir -p /lib/modules
ln -s "$modules/lib/modules/$(uname -r)" /lib/modules/ # where the kernel looks for kinds of links and qdiscs
modprobe -q nf_conntrack enable_hooks=1 # or else it follows what a rule asks for only
for name in unix_diag inet_diag tcp_diag udp_diag raw_diag netlink_diag mptcp_diag \
  sctp sctp_diag dccp dccp_ipv4 dccp_ipv6 dccp_diag smc smc_diag tipc net-pf-16-proto-4-type-30 vsock vsock_loopback vsock_diag xsk_diag \
  af_packet_diag tls tcp_bbr tcp_dctcp tcp_vegas xfrm_user nf_conntrack sch_netem veth; do
  modprobe -q "$name" || missing+=("$name")
done
echo "${missing[*]}" >/out/missing
uname -r >/out/release
ip link set lo up
ulimit -Hn 524288 # as systemd has it
cd "$folder" || exit
"$@" </dev/null
touch /out/ended
