# SPDX-License-Identifier: Apache-2.0
"""Where kernel functions begin and end."""

from __future__ import annotations

from cap_exporter.sources.kallsyms import Symbols

TABLE = b"""0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000100 t cap_capable.cold
ffffffff81000180 T cap_capable_wrapper
ffffffff81000200 T cap_capable
ffffffff81000200 T __pfx_alias
ffffffff81000300 t has_capability_noaudit.isra.0
ffffffff81000340 T next
ffffffff81000400 D data
ffffffffc0000000 t cap_capable_module\t[some]
"""


def test_a_function_ends_where_the_next_symbol_with_another_address_begins() -> None:
    assert Symbols(TABLE).ranges("cap_capable") == [
        (0xFFFFFFFF81000200, 0xFFFFFFFF81000300),
        (0xFFFFFFFF81000100, 0xFFFFFFFF81000180),
    ]


def test_a_name_that_the_compiler_changed_is_found() -> None:
    assert Symbols(TABLE).ranges("has_capability_noaudit") == [
        (0xFFFFFFFF81000300, 0xFFFFFFFF81000340)
    ]
    assert Symbols(TABLE).ranges("nothing") == []


def test_only_the_asked_for_function_tells_whether_addresses_are_hidden() -> None:
    """The first symbol of many kernels has the address 0."""
    assert not Symbols(TABLE).restricted
    hidden = b"\n".join(b"0" * 16 + line[16:] for line in TABLE.splitlines())
    assert Symbols(hidden).restricted
    assert Symbols(b"").restricted


def test_an_address_of_data() -> None:
    assert Symbols(TABLE).address("data") == 0xFFFFFFFF81000400
    assert Symbols(TABLE).address("fixed_percpu_data") is None
    assert Symbols(TABLE).address("missing") is None
