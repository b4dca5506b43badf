"""The network beneath the sockets: interfaces, qdiscs, addresses, routes and neighbours."""
