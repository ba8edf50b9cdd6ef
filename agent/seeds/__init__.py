"""Seeds: the content that this host already has and that an arriving disk may use.

Each image of a tenant is described by an index, block fingerprint -> block number, that a receiver
asks before it asks the network. docs/dedup.md tells who may use what. `fingerprints` is pure;
`scopes` keeps the secret behind the keys; `spill`, `building` and `index` make and read the file of
one image; `builds` makes them one at a time; `sources` reads blocks for one session; `catalogue`
joins them.

Promises: an answer is a hint that costs time when it is wrong and never correctness, because the
caller checks the digest of what it assembles; a scope sees its own images and public ones only;
indexes are caches that anyone may delete at any time. Never: writes to an image, knows what a
transfer, a frame or a virtual machine is.
"""
