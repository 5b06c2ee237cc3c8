"""Whether something answers at an address or could listen there. Only the standard library: these are asked often."""

from __future__ import annotations

import socket
from typing import Final

TIMEOUT_S: Final = 2.0


def answers(url: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether a GET there is answered with a 2xx. Proxies are not asked."""
    from http.client import HTTPException  # 20 ms that the other commands do without
    from urllib.request import ProxyHandler, build_opener

    if not url.startswith(("http://", "https://")):
        return False
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=timeout_s) as answer:
            return 200 <= int(answer.status) < 300
    except (OSError, HTTPException, ValueError):
        return False


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            tried.listen(1)
    except OSError:
        return False
    return True
