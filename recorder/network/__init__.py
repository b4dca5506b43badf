"""The network beneath the sockets: interfaces, qdiscs, addresses, routes, rules and neighbours."""
