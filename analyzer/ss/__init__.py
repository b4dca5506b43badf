"""The view of ss, at any moment of a recording: rows → the text that ss 6.1 prints, or JSON.

Follows misc/ss.c of iproute2 6.1: what its options choose, the words it prints, how it lays them
out. Nothing here asks the machine it runs on, but for names of services and protocols, and those of
hosts if that is asked for.
"""
