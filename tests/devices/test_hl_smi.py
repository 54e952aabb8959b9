"""What the vendor's tool prints, of all three generations."""

import pytest

from bridgetower_train.devices.hl_smi import Card, parse_cards, parse_driver

HEAD = """\
+-----------------------------------------------------------------------------+
| HL-SMI Version:                              hl-{version}-fw-58.1.1.1          |
{nic}| Driver Version:                                     {driver}          |
|-------------------------------+----------------------+----------------------+
| AIP  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncorr. ECC |
| Fan  Temp  Perf  Pwr:Usage/Cap|         Memory-Usage | AIP-Util  Compute M. |
|===============================+======================+======================|
|   0  {board:20}N/A  | 0000:33:00.0     N/A |                   0  |
| N/A   29C   N/A    87W / 600W |    768MiB / 98304MiB |     0%           N/A |
+-------------------------------+----------------------+----------------------+
"""
NIC = "| Nic Driver Version:                                 1.24.1-e4fe12d          |\n"

GAUDI2 = """\
0, 3, HL-225, 98304 MiB, 768 MiB
1, 2, HL-225, 98304 MiB, 78000 MiB
"""


@pytest.mark.parametrize(
    ("driver", "nic", "expected"),
    [
        ("1.21.1-3bf9e81", "", "1.21.1"),
        ("1.24.1-6ba9c02", NIC.replace("1.24.1", "1.23.0"), "1.24.1"),
        ("1.4.0-d8f95f4 ", "", "1.4.0"),
    ],
)
def test_the_driver_is_that_of_the_cards_and_not_of_the_nics(driver, nic, expected):
    assert parse_driver(HEAD.format(version="1.21.1", driver=driver, nic=nic, board="HL-225")) == expected


def test_no_driver_in_an_error():
    assert parse_driver("Failed to initialize driver: -19\n") is None


def test_cards():
    assert parse_cards(GAUDI2) == [Card(0, 3, "HL-225", 98304, 768), Card(1, 2, "HL-225", 98304, 78000)]
    assert parse_cards("7, 7, HL-325L, 131072 MiB, 672 MiB\n")[0].board == "HL-325L"
    assert parse_cards("0, 0, HL-205, 32768 MiB, N/A\n")[0].used_mib == 0


@pytest.mark.parametrize(
    "text", ["", "hl-smi: command not found\n", "index, module_id, name, memory.total, memory.used\n"]
)
def test_lines_that_are_no_card_are_left_out(text):
    assert parse_cards(text) == []
