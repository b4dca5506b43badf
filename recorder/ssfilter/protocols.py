"""Protocols as ss names them: Ethernet's for packet sockets, and those of netlink."""

from __future__ import annotations

from recorder.ssfilter.hosts import number
from recorder.ssfilter.tree import Address

# As ss prints them (iproute2, lib/ll_proto.c), numbers from include/uapi/linux/if_ether.h.
_NUMBERED = (
    "60=loop 200=pup 201=pupat 800=ip 805=x25 806=arp 8ff=bpq a00=ieeepup a01=ieeepupat "
    "6000=dec 6001=dna_dl 6002=dna_rc 6003=dna_rt 6004=lat 6005=diag 6006=cust 6007=sca "
    "8035=rarp 809b=atalk 80f3=aarp 8137=ipx 86dd=ipv6 8863=ppp_disc 8864=ppp_ses "
    "884c=atmmpoa 8884=atmfate 1=802_3 2=ax25 3=* 4=802_2 5=snap 6=ddcmp 7=wan_ppp 8=ppp_mp "
    "9=localtalk 10=ppptalk 11=tr_802_2 15=mobitex 16=control 17=irda 18=econet 88ca=tipc "
    "88a2=aoe c=can 8100=802.1Q"
)
ETHERNET = {
    int(number, 16): name for number, name in (pair.split("=") for pair in _NUMBERED.split())
}

# As ss prints them (iproute2, etc/iproute2/nl_protos).
NETLINK = dict(
    enumerate(
        "rtnl unused usersock fw tcpdiag nflog xfrm selinux iscsi audit fiblookup connector nft "
        "ip6fw dec-rt uevent genl".split()
    )
) | {18: "scsi-trans", 19: "ecryptfs", 20: "rdma", 21: "crypto"}


def protocol_of(one: Address) -> str:
    """Return the protocol, or the CID, of a packet, netlink or vsock socket as it is recorded."""
    known = number(one.address or "")
    match one.family:
        case "link" if known is not None:
            return ETHERNET.get(known, f"[{known}]")
        case "netlink" if known is not None:
            return NETLINK.get(known, str(known))
        case "link" if one.address == "all":
            return "*"
        case _:
            return str(known) if known is not None else one.address or ""
