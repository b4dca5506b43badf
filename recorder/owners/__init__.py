"""Who holds a socket, now and before."""
