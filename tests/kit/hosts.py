"""Hosts that bootstrap and doctor are tested with."""

from __future__ import annotations

import dataclasses

from pipeline.host import Host

BOOKWORM = Host(
    system="Linux",
    machine="x86_64",
    python=(3, 11),
    glibc=(2, 36),
    libstdcxx="/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    missing=("GLIBCXX_3.4.32", "CXXABI_1.3.15"),
    distribution="debian",
    codename="bookworm",
)
TRIXIE = dataclasses.replace(BOOKWORM, glibc=(2, 41), missing=(), codename="trixie")
