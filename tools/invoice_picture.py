"""Draws docs/images/invoice.png: the page of a real invoice, as a browser prints it.

    .venv/bin/python tools/invoice_picture.py

Rates the month of tests/support/accounting_samples.py with docs/price-sheet.toml, writes the HTML
and lets a headless Chromium (CHROMIUM, or the first one on PATH) take the picture.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from manager.accounting import rendering  # noqa: E402
from tests.support import accounting_samples  # noqa: E402

SECONDS_MAX = 120
SIZE = "860,1260"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main() -> None:
    """Draw it, or say which program is missing."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit("no Chromium on PATH: install Debian's chromium, or set CHROMIUM to one")
    picture = ROOT / "docs" / "images" / "invoice.png"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "invoice.html"
        page.write_text(rendering.to_html(accounting_samples.invoice()), encoding="utf-8")
        subprocess.run(
            [
                found,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--force-device-scale-factor=1",
                f"--user-data-dir={folder}/profile",
                f"--window-size={SIZE}",
                f"--screenshot={picture}",
                page.as_uri(),
            ],
            check=True,
            timeout=SECONDS_MAX,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    print(picture.relative_to(ROOT), picture.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
