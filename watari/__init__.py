"""The foundation that every Watari service and the command line stand on.

Promises: one error vocabulary (`errors`), one identity and trust model (`identity`, `authz`), one
way to serve and call (`rpc`), one way to read settings (`config`), to log (`logs`), to tell time
(`clock`) and to retry (`retry`). The generated contract is in `watari.v1`.

Never: imports a service (`agent`, `broker`, `directory`, `manager`), keeps settings in globals, or
starts work when it is imported.
"""

from watari import tls as tls

__version__ = "0.1.0"
