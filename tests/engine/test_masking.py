"""Personal data in titles is masked in the forms that people write, and what merely looks like it stays.

The numbers are from ranges set aside for examples where a country has any (Ofcom's drama numbers, 555-01xx, test cards), or
made up.
"""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.masking import mask_personal_data

EMAILS = """
jane@example.com jane.doe@example.com jane.doe+shop@example.co.uk j_d@mail.example.org JANE@EXAMPLE.COM o'hara@example.ie
1234@example.de a@b.io jane-doe@sub.mail.example.com jane%doe@example.com jürgen@müller.example josé@correo.es
info@example.museum very.long.name.of.someone@department.university.example.edu jane@example-shop.com x1@163.com
jane@example.xn--p1ai
""".split()  # noqa: SIM905

# One number in the ways that it is written.
PHONES = (
    """
+91 98765 43210|+91-98765-43210|+919876543210|+91 9876543210|+91-9876543210|98765 43210|98765-43210|9876543210|09876543210
098765 43210|0 98765 43210|91 98765 43210|+91 (98765) 43210|022-2345 6789|(022) 2345 6789|+91 22 2345 6789|080 4567 8901
7012345678|8123456789|6001234567|91-9876543210|9876 543 210|+91 987 654 3210|987-654-3210|+44 20 7946 0958|(020) 7946 0958
020 7946 0958|02079460958|+44 (0)20 7946 0958|+442079460958|0044 20 7946 0958|020-7946-0958|07700 900123|07700900123
+44 7700 900123|+44 (0) 7700 900 123|01632 960123|(01632) 960123|0161 496 0123|0117 496 0999|+1 212 555 0123|+1-212-555-0123
+1 (212) 555-0123|(212) 555-0123|212-555-0123|212.555.0123|212 555 0123|1-800-555-0199|+12125550123|1 (800) 555-0199
1.800.555.0199|(212)555-0123|+1.212.555.0123|001 212 555 0123|011 44 20 7946 0958|+49 30 1234567|030 1234567|030/1234567
0049 30 1234567|(030) 1234567|+49 (0)30 1234567|0171 1234567|0171/1234567|+49 171 1234567|0171-1234567|+49-171-1234567
+4917112345678|030 / 123 45 67|0151 23456789|0049 171 1234567|+49 (30) 123-4567|089 12 34 56 78|+33 1 42 68 53 00
01 42 68 53 00|01.42.68.53.00|0142685300|+33142685300|+33 (0)1 42 68 53 00|0033 1 42 68 53 00|01-42-68-53-00|06 12 34 56 78
+33 6 12 34 56 78|+33.6.12.34.56.78|06.12.34.56.78|+34 612 34 56 78|+34 612 345 678|+34612345678|0034 612 345 678
+34 91 123 45 67|+39 06 1234 5678|06 1234 5678|+39 347 123 4567|0039 347 1234567|02 12345678|+31 6 12345678|06 12345678
06-12345678|020 123 4567|+31 20 123 4567|0031 6 12345678|+32 470 12 34 56|0470 12 34 56|+32 2 123 45 67|+41 44 123 45 67
044 123 45 67|+41 79 123 45 67|079 123 45 67|0041 44 123 45 67|+43 1 1234567|+43 664 1234567|0664 1234567|+45 12 34 56 78
+46 70 123 45 67|070-123 45 67|+47 412 34 567|+358 40 123 4567|040 123 4567|+48 512 345 678|+420 601 123 456|+36 20 123 4567
+40 721 123 456|0721 123 456|+30 694 123 4567|+351 912 345 678|+90 532 123 45 67|0532 123 45 67|(0532) 123 45 67
+7 495 123-45-67|8 (495) 123-45-67|+7 (495) 123-45-67|+380 44 123 4567|+86 138 1234 5678|138 1234 5678|138-1234-5678
+86 10 1234 5678|010-12345678|+8613812345678|+81 3-1234-5678|03-1234-5678|090-1234-5678|+81 90 1234 5678|+82 10-1234-5678
010-1234-5678|+82-2-123-4567|+65 6123 4567|+852 2123 4567|+886 912 345 678|+60 12-345 6789|012-345 6789|+62 812-3456-7890
0812-3456-7890|+63 917 123 4567|0917 123 4567|+66 81 234 5678|081-234-5678|+84 91 234 56 78|+61 4 1234 5678|0412 345 678
(02) 1234 5678|+61 2 1234 5678|02 1234 5678|+64 21 123 4567|021 123 4567|+55 11 91234-5678|(11) 91234-5678|(11) 1234-5678
+55 (11) 91234-5678|+54 9 11 1234-5678|+52 55 1234 5678|+57 300 123 4567|+27 82 123 4567|082 123 4567|+234 803 123 4567
0803 123 4567|+254 712 345 678|0712 345678|+20 100 123 4567|+212 612-345678|+971 50 123 4567|050 123 4567|+966 50 123 4567
+972 50-123-4567|050-123-4567|+92 300 1234567|0300 1234567|0300-1234567|+880 1712-345678|01712-345678|+94 77 123 4567
077 123 4567|+977 984-1234567|+98 912 123 4567|00971 50 123 4567|tel 612 345 678|Tel: 5551234|phone 555-0123|Ph. 2345 6789
call 12345678|mob: 9123 4567|WhatsApp 912345678|Fax 123-4567|mobile no. 2125550123|call us at 2125550123|Tel.: 12 34 56 78
tél. 42 68 53 00|Telefon 123 45 67|phone number: 2125550123|contact no 2125550123|Handy 1711234567|call now 555 0123
sms 6123 4567|móvil 612345678|cell: 82 123 4567|wa 8123456|+49-(0)171-1234567
""".replace("\n", "|")
    .strip("|")
    .split("|")
)

CARDS = (
    """
4111111111111111|4111 1111 1111 1111|4111-1111-1111-1111|4012888888881881|4242 4242 4242 4242|4000056655665556
4000 0566 5566 5556|5555555555554444|5555 5555 5555 4444|5105105105105100|5200 8282 8282 8210|2223003122003222
2223 0031 2200 3222|2720992593319364|378282246310005|3782 822463 10005|3714-496353-98431|371449635398431|378734493671000
3787 344936 71000|6011111111111117|6011 1111 1111 1117|6011000990139424|6011-0009-9013-9424|30569309025904|3056 930902 5904
38520000023237|3852 000002 3237|3530111333300000|3530 1113 3330 0000|3566002020360505|3566-0020-2036-0505|6200000000000005
6200 0000 0000 0005|5019717010103742|6759649826438453|6759 6498 2643 8453
2200 0000 0000 0004
""".replace("\n", "|")
    .strip("|")
    .split("|")
)

# The registry's own examples.
IBANS = (
    """
AD12 0001 2030 2003 5910 0100|AE07 0331 2345 6789 0123 456|AL47 2121 1009 0000 0002 3569 8741|AT61 1904 3002 3457 3201
AZ21 NABZ 0000 0000 1370 1000 1944|BA39 1290 0794 0102 8494|BE68 5390 0754 7034|BG80 BNBG 9661 1020 3456 78
BH67 BMAG 0000 1299 1234 56|BR18 0036 0305 0000 1000 9795 493C 1|CH93 0076 2011 6238 5295 7|CR05 0152 0200 1026 2840 66
CY17 0020 0128 0000 0012 0052 7600|CZ65 0800 0000 1920 0014 5399|DE89 3704 0044 0532 0130 00|DK50 0040 0440 1162 43
DO28 BAGR 0000 0001 2124 5361 1324|EE38 2200 2210 2014 5685|ES91 2100 0418 4502 0005 1332|FI21 1234 5600 0007 85
FO62 6460 0001 6316 34|FR14 2004 1010 0505 0001 3M02 606|GB29 NWBK 6016 1331 9268 19|GE29 NB00 0000 0101 9049 17
GI75 NWBK 0000 0000 7099 453|GL89 6471 0001 0002 06|GR16 0110 1250 0000 0001 2300 695|HR12 1001 0051 8630 0016 0
HU42 1177 3016 1111 1018 0000 0000|IE29 AIBK 9311 5212 3456 78|IL62 0108 0000 0009 9999 999|IS14 0159 2600 7654 5510 7303 39
IT60 X054 2811 1010 0000 0123 456|JO94 CBJO 0010 0000 0000 0131 0003 02|KW81 CBKU 0000 0000 0000 1234 5601 01
KZ86 125K ZT50 0410 0100|LB62 0999 0000 0001 0019 0122 9114|LI21 0881 0000 2324 013A A|LT12 1000 0111 0100 1000
LU28 0019 4006 4475 0000|LV80 BANK 0000 4351 9500 1|MC58 1122 2000 0101 2345 6789 030|MD24 AG00 0225 1000 1310 4168
ME25 5050 0001 2345 6789 51|MK07 2501 2000 0058 984|MT84 MALT 0110 0001 2345 MTLC AST0 01S
MU17 BOMM 0101 1010 3030 0200 000M UR|NL91 ABNA 0417 1643 00|NO93 8601 1117 947|PK36 SCBL 0000 0011 2345 6702
PL61 1090 1014 0000 0712 1981 2874|PS92 PALS 0000 0000 0400 1234 5670 2|PT50 0002 0123 1234 5678 9015 4
RO49 AAAA 1B31 0075 9384 0000|RS35 2600 0560 1001 6113 79|SA03 8000 0000 6080 1016 7519|SE45 5000 0000 0583 9825 7466
SI56 2633 0001 2039 086|SK31 1200 0000 1987 4263 7541|SM86 U032 2509 8000 0000 0270 100|TN59 1000 6035 1835 9847 8831
TR33 0006 1005 1978 6457 8413 26|UA21 3223 1300 0002 6007 2335 6600 1|VG96 VPVG 0000 0123 4567 8901|XK05 1212 0123 4567 8906
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
IBANS += [iban.replace(" ", "") for iban in IBANS] + [IBANS[15].lower(), IBANS[26].replace(" ", "-")]

ADDRESSES = """
192.168.0.1 10.0.0.1 8.8.8.8 203.0.113.195 255.255.255.0 172.16.254.1 1.1.1.1 127.0.0.1 2001:db8::1
2001:0db8:85a3:0000:0000:8a2e:0370:7334 fe80::1 ::1 2001:DB8::FF00:42:8329 ::ffff:192.0.2.128 fe80::1%eth0 2001:db8::
1:2:3:4:5:6:7:8
""".split()  # noqa: SIM905

CASES = [
    *(("e-mail", value) for value in EMAILS),
    *(("phone", value) for value in PHONES),
    *(("card", value) for value in CARDS),
    *(("iban", value) for value in IBANS),
    *(("address", value) for value in ADDRESSES),
]
SURROUNDINGS = (
    "{}",
    "Nike Men Blue Shirt {}",
    "{} Nike Men Blue Shirt",
    "Blue Shirt, {}, size M",
    "Shirt ({})",
    "Shirt: {}.",
    "Shirt 42 - {} !",
)

TRAPS = (
    """
Nike Men 599404-471 Air Max|iPhone 15 Pro 256GB|Size 42-44|100% cotton|2x 500 ml|Levi's 501 W32 L34|Collection 2019/2020
Rs. 1,299.00|€ 49,90|30x40x50 cm|30 x 40 x 50|Version 1.2.3|4006381333931|EAN 4006381333931|ISBN 978-3-16-148410-0
9783161484100|UPC 036000291452|036000291452|GTIN 10614141000415|10614141000415|SKU 9876543210|Art. 0171-1234567
Art.-Nr. 030 1234567|Ref 01 42 68 53 00|Model: 212-555-0123|ISBN 0306406152|Item no. 7012345678|Style #98765-43210
MPN 4111111111|5 pcs @ 20.00|Casio G-Shock DW-5600E-1VER|ADIDAS Men B22705|Puma 18735101|Fossil ES3077|Asics T4D3N-9001
New Balance 574|Samsung SM-G991B|24 x 36 inch|12 12 2019|31.12.2019 10:30|01/02/2019|2019-12-31|10:30:00|16:9|1:64 scale
3-in-1|24/7|Pack of 6|Set of 12 (500 ml)|0-3 Months|06-07 Years|Size 06 07 08 09|S M L 38 40 42 44 46 48
36 37 38 39 40 41 42|EU 38/39 40/41 42/43|32 34 36 38 40 42 44|205/55 R16 91V|225 45 17|1000 1500 2000 ml|350 500 1000 ml
12 V 7.2 Ah|220-240 V 50/60 Hz|3000-6500 K|+1.50 +2.00 +2.50|-2.25|SPF 50+ 100 ml|18 kt 750 gold|925 silver|5,000 mAh
10000 mAh|1920 x 1080|3840x2160|1200 TC|800 x 600 x 400 mm|0.3 Mpx|0.5-0.7 mm|Ray-Ban RB3025 001/58 58-14|RB2132 622 52-18
Casio MTP-1183A-7ADF (A166)|Seiko 5 SNK809|Nikon D3500 18-55|50 60 70 80 90 100|1/2 3/4 5/8|1234567|12345678|123456789012345
4111111111111112|5555 5555 5555 4445|DE89370400440532013001|GB82WEST12345698765433|GB12 Great Britain|NO93 shoes|AT61|IT60X
XX12 3456 7890 1234|999.999.999.999|1.2.3.4.5|256.1.1.1|Ada::Bec|a::b|std::vector|Ratio 1:2:3|@nike #shoes|Puma @ Home
me@work|user@localhost|T-Shirt@19.99|@|a@|:|::|+|+91|(020)|00491|+1|call of duty 4|Nokia 3310|Phone case 15
No. 5 Chanel 100 ml|4711 Cologne 400 ml|1001 Nights|Casio F-91W|Y-3 2019 SS19|Lot 20190412|Serial 00123456789
MFG 2018 EXP 2021|#9876543210|0038336_873|648_724_9847|94580_73021|0620_3240_1320|0496_23155|4314 134520519133
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


def test_nearly_all_labelled_cases_are_masked_and_nothing_around_them() -> None:
    missed = []
    for kind, value in CASES:
        for surrounding in SURROUNDINGS:
            masked = mask_personal_data(surrounding.format(value))
            # A word such as "call" may stay; what stands around must.
            digits_left = any(character.isdigit() for character in masked.replace("42", ""))
            left, right = surrounding.split("{}")
            whole = masked.startswith(left.rstrip("(")) and masked.endswith(right.lstrip(")"))
            if digits_left or "@" in masked or "::" in masked or not whole:
                missed.append((kind, surrounding, value, masked))
    count = len(CASES) * len(SURROUNDINGS)
    print(f"\nmasked {count - len(missed)} of {count} ({len(CASES)} values)")  # noqa: T201
    assert len(missed) <= count // 100, missed[:20]


@pytest.mark.parametrize("title", TRAPS)
def test_what_looks_like_personal_data_stays(title: str) -> None:
    assert mask_personal_data(title) == title


def test_every_piece_is_masked_where_there_are_several() -> None:
    numbers = "+91 98765 43210, DE89 3704 0044 0532 0130 00 / 4111 1111 1111 1111"
    title = f"Shirt jane@example.com {numbers} from 10.0.0.1 and fe80::1 size 42"
    assert mask_personal_data(title).split() == ["Shirt", ",", "/", "from", "and", "size", "42"]


@pytest.mark.parametrize("after", ["_", "-", "@", "/path", ":8080", ">", "'"])
def test_a_sign_after_an_address_does_not_save_it(after: str) -> None:
    assert "jane" not in mask_personal_data(f"Shirt jane@example.com{after}")


def test_an_address_in_quotes_is_masked_with_its_name() -> None:
    assert mask_personal_data('Shirt "jane doe"@example.com').split() == ["Shirt"]


def test_digits_of_other_scripts_count() -> None:
    assert mask_personal_data("قميص +٩٧١ ٥٠ ١٢٣ ٤٥٦٧").strip() == "قميص"
    assert mask_personal_data("シャツ ０９０-１２３４-５６７８").strip() == "シャツ"


@given(st.text(max_size=200))
def test_any_text_comes_back_shorter_or_the_same(text: str) -> None:
    masked = mask_personal_data(text)
    assert masked == text or len(masked) < len(text)
    assert mask_personal_data(masked) == masked or len(mask_personal_data(masked)) < len(masked)


@given(st.text(alphabet="0123456789 +-().@:/ab.", max_size=120))
def test_any_mixture_of_signs_is_survived(text: str) -> None:
    assert len(mask_personal_data(text)) <= len(text)


# Two thousand characters each, made to send a careless pattern back and forth.
ADVERSARIAL = (
    "1", "1 ", "1 1-", "12 ", "12-34 ", "123 ", "1234 ", "12345 ", "123456 ", "1111111 ", "1234567890 ", "a@", "@", "a.",
    "a.@", "x@y.", "x@y-", "1.", "1.1", "1:", "a:", "::", ":1", "f:", "%", "DE89", "DE89 ", "DE89 1", "AB12 ", "GB29 A ",
    "0049 ", "+", "+1", "+1 ", "(", "(1", "(1) ", "tel ", "tel 1", "call 1", "no no ", "art. 1 ", "01-", "91 98765 ",
    "0 1 2", "()()", "1()", " ", "\u00a01", "٩", "٩ ", "é@",
    '"', '"a', '"a"@', "a@b.xn--", "1_", "1-(",
)  # fmt: skip


@pytest.mark.parametrize("part", ADVERSARIAL)
def test_two_thousand_characters_take_milliseconds(part: str) -> None:
    text = (part * 2000)[:2000]
    took_s, counting_s = [], []
    for _ in range(5):
        started = time.thread_time()
        mask_personal_data(text)
        took_s.append(time.thread_time() - started)
        started = time.thread_time()
        for _ in range(100_000):
            pass
        counting_s.append(time.thread_time() - started)
    # Three times what the worst takes at rest: the suite's processes share cores and caches. On a slow machine, the time in
    # which it counts as far as others do in that. A pattern that goes back and forth takes hundreds of milliseconds.
    assert min(took_s) < max(0.012, 8 * min(counting_s))


def test_time_grows_with_the_length_alone() -> None:
    def seconds(part: str, repeats: int) -> float:
        text, took_s = part * repeats, []
        for _ in range(3):
            started = time.thread_time()
            mask_personal_data(text)
            took_s.append(time.thread_time() - started)
        return min(took_s)

    for part in ADVERSARIAL:
        assert seconds(part, 2400) < 8 * seconds(part, 600) + 0.01, part


@pytest.mark.data
def test_real_titles_are_left_alone() -> None:
    folder = os.environ.get("ITEMLENS_DATA")
    if not folder:
        pytest.skip("ITEMLENS_DATA does not name the folder with fashion/")
    with (Path(folder) / "fashion" / "styles.csv").open(encoding="utf-8", newline="") as file:
        titles = [row["productDisplayName"] for row in csv.DictReader(file)]
    altered = [title for title in titles if mask_personal_data(title) != title]
    print(f"\naltered {len(altered)} of {len(titles)} titles")  # noqa: T201
    assert len(titles) > 10_000
    assert len(altered) <= len(titles) // 1000, altered[:20]
