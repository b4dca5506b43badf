"""Netlink framing, the columns of one dump, bytes to text."""
