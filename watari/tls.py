"""TLS 1.3 only (RFC 8446), for every connection that this process makes or takes.

gRPC's Python package has no setting for the version. It has one for the cipher suites of TLS 1.2
and earlier (GRPC_SSL_CIPHER_SUITES), and takes it from the environment while it is being imported.
The one suite that is left to them here needs an RSA certificate, and every certificate of Watari is
ECDSA: with an earlier version no handshake comes about, while TLS 1.3 has suites of its own.

So this module must be imported before `grpc`: `watari` and every service do that first of all, and
`watari.rpc` refuses to work where it came too late.
"""

import os
import sys

VARIABLE = "GRPC_SSL_CIPHER_SUITES"
NONE_OF_OURS = "ECDHE-RSA-AES256-GCM-SHA384"

IN_FORCE = "grpc" not in sys.modules or os.environ.get(VARIABLE) == NONE_OF_OURS
"""Whether gRPC was told in time."""

os.environ[VARIABLE] = NONE_OF_OURS
