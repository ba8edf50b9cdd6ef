"""The disks that are moved, made once and kept in a cache.

Promises: every image is made of the same tree with fixed identifiers, so that two runs on one cache
move the same bytes; an image in the cache is whole.

Never: hands out an image to write to; `Cache` gives paths to copy from.
"""

from bench.images.cache import Cache, cache_folder
from bench.images.measure import compressed_bytes, unique_compressed_bytes

__all__ = ["Cache", "cache_folder", "compressed_bytes", "unique_compressed_bytes"]
