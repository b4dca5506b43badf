-- title = "Whether an address is in a network"
-- description = "Both as address_bits gives them; not where they are of different families, nothing if one of them is no address."
-- [arguments]
-- bits = "The address."
-- network_bits = "First address of the network."
-- prefix_len = "Length of its prefix in bits."
length(bits) = length(network_bits)
AND left(bits, prefix_len // 4) = left(network_bits, prefix_len // 4)
AND (
  prefix_len % 4 = 0
  OR (strpos('0123456789abcdef', substr(bits, prefix_len // 4 + 1, 1)) - 1) >> (4 - prefix_len % 4)
    = (strpos('0123456789abcdef', substr(network_bits, prefix_len // 4 + 1, 1)) - 1) >> (4 - prefix_len % 4)
)
