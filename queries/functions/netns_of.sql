-- title = "Inode number of a network namespace"
-- description = "ns tells the namespaces of all hosts and boots apart; this is the kernel's number for it."
-- [arguments]
-- ns = "Network namespace of one boot of one host."
ns & 4294967295
