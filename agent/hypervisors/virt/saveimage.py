"""The header of a saved memory image of libvirt's QEMU driver. Pure.

```
magic(16)  version(4)  data(4)  was running(4)  compressed(4)  cookie(4)  unused(56)    92 bytes
```

Source: virQEMUSaveHeader in libvirt's src/qemu/qemu_saveimage.h; numbers are in the host's order.
The magic becomes the complete one when all else is on the disk. libxl's (libxl_domain.h) is written
first and never changed: of such an image only who saved it knows whether it is complete.
"""

import struct
from dataclasses import dataclass

HEADER_BYTES = 92
_COMPLETE, _PARTIAL = b"LibvirtQemudSave", b"LibvirtQemudPart"
_XEN = b"libvirt-xml\n \0 \r"
_FIELDS = struct.Struct("=16s5I")


@dataclass(frozen=True)
class Image:
    """What the header says."""

    complete: bool | None
    """None where the form does not tell."""
    raw: bool
    """Whether the memory is neither compressed nor of a form that libvirt does not tell."""


def parse(header: bytes) -> Image | None:
    """Reads the first bytes of a file; None when it is no saved image."""
    if len(header) < HEADER_BYTES:
        return None
    magic, _version, _data, _running, compressed, _cookie = _FIELDS.unpack_from(header)
    if magic == _XEN:  # libxl never compresses
        return Image(complete=None, raw=True)
    if magic not in {_COMPLETE, _PARTIAL}:
        return None
    return Image(complete=magic == _COMPLETE, raw=compressed == 0)
