"""Host names and addresses, told apart."""

from __future__ import annotations

import ipaddress


def is_address(name: str) -> bool:
    """Whether a host is named by its IP address, IPv6 without brackets."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
