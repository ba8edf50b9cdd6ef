"""`python -m manager --config FILE`, also installed as `watari-manager`."""

from manager.assembly import assemble
from manager.settings import Settings
from watari import service


def main() -> None:
    """Serve until told to stop."""
    service.main("manager", Settings, assemble)


if __name__ == "__main__":
    main()
