"""Waiting for a daemon at the destination."""

import contextlib
import socket
import subprocess
import time

START_SECONDS_MAX = 10.0


def await_listening(control: str, port: int, process: "subprocess.Popen[bytes]") -> None:
    """Until a port takes connections, tried beside the link: nothing of it is counted, and no
    connection over the link is open. Raises RuntimeError.
    """
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        with contextlib.suppress(OSError), socket.create_connection((control, port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"nobody serves on port {port}; see its log in the work folder")
        time.sleep(0.02)
