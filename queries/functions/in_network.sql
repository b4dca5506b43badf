-- title = "Whether an address is in a network"
-- description = "Of the same family; nothing if one of them is no address."
-- uses = ["address_bits"]
-- [arguments]
-- addr = "Address."
-- network = "First address of the network."
-- prefix_len = "Length of its prefix in bits."
(addr LIKE '%:%') = (network LIKE '%:%')
AND left(address_bits(addr), prefix_len // 4) = left(address_bits(network), prefix_len // 4)
AND (
  prefix_len % 4 = 0
  OR (strpos('0123456789abcdef', substr(address_bits(addr), prefix_len // 4 + 1, 1)) - 1) >> (4 - prefix_len % 4)
    = (strpos('0123456789abcdef', substr(address_bits(network), prefix_len // 4 + 1, 1)) - 1) >> (4 - prefix_len % 4)
)
