"""JSON's hard cases: texts on which parsers are known to differ, and messages with each of them in every place.

Most are here because some parser in use takes, refuses or rounds them differently from the others, or crashes.
"""

import gzip
import zlib
from collections.abc import Iterator

from tickloom.core.model import Side

STAMP = b'"2026-09-21T14:13:20Z"'
VALUE = {Side.PRICES: b"price", Side.VOLUMES: b"volume"}

# fmt: off
NUMBERS = (
    # plain forms
    *(b"0", b"-1", b"17", b"0.5", b"-0.25", b"1e2", b"1E2", b"1e+2", b"1E-2", b"0e0", b"0e-0", b"0E+1", b"20e-1"),
    # the two zeros
    *(b"-0", b"-0.0", b"-0e0", b"-0e-7", b"-0.0E+9", b"0.0"),
    # the edges of the integers that parsers hold
    *(b"2147483648", b"9007199254740993", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809"),
    *(b"18446744073709551615", b"18446744073709551616", b"340282366920938463463374607431768211456", b"1" + b"0" * 400),
    # the edge of what a price may be
    *(
        b"1000000000000000", b"1e15", b"-1e15", b"1000000000000000.0625", b"1000000000000000.125",
        b"1.0000000000000001e15",
    ),
    # rounding: halfway cases, and one digit off them
    *(b"9007199254740993.0", b"9007199254740992.5", b"0.1", b"0.30000000000000004", b"1e23", b"8.5e-320"),
    b"1.00000000000000011102230246251565404236316680908203125",
    b"1.00000000000000011102230246251565404236316680908203124",
    b"1.00000000000000011102230246251565404236316680908203126",
    b"6631236846766476.6236846766476e-307",
    b"0." + b"3" * 200,
    b"123456789012345678901234567890e-20",
    # the small end
    *(b"5e-324", b"3e-324", b"2e-324", b"2.4703282292062327e-324", b"2.4703282292062328e-324"),
    *(b"2.2250738585072011e-308", b"2.2250738585072014e-308", b"1e-400", b"-1e-400", b"0." + b"0" * 330 + b"1"),
    # the large end, and exponents that wrap around in 8, 16, 31, 32 and 64 bits
    *(b"1.7976931348623157e308", b"1.7976931348623159e308", b"1e309", b"-1e400", b"1e256", b"1e65536", b"1e65537"),
    *(b"1e2147483647", b"1e2147483648", b"1e-2147483648", b"1e-2147483649", b"1e4294967295", b"1e4294967296"),
    *(b"1e4294967297", b"-1.5E+4294967298", b"1e-4294967295", b"1e-4294967296", b"1E-4294967297", b"1e8589934592"),
    *(b"1e18446744073709551616", b"1e-18446744073709551617", b"0e4294967297", b"0e99999999999999999999"),
    # exponents with more digits than they need, or that only undo the length of the digits before them
    *(b"1e0000000001", b"1e-00000000000000000000001", b"2" + b"0" * 300 + b"e-300", b"0." + b"0" * 300 + b"2e301"),
    # no JSON
    *(b"", b"+1", b"++1", b"-", b"--1", b"- 1", b".5", b"-.5", b"1.", b"-1.", b"1.e2", b".e1", b"1e", b"1e+", b"1.5e-"),
    *(b"1ee2", b"1e2.5", b"1.2.3", b"1e1e1", b"01", b"-01", b"00", b"-00", b"00.5", b"0x10", b"0b1", b"0o7", b"1_000"),
    *(b"1,5", b"1 2", b"1f", b"1d", b"1L", b"1n", b"1-1", b"1/2", b"1\x00", b"1\xff", b"1e\xe5", b"1a", b"(1)", b"$1"),
    *(b"NaN", b"-NaN", b"nan", b"Infinity", b"-Infinity", b"+Infinity", b"inf", b"-inf", b"Inf", b"1#INF"),
    *("１".encode(), "٣".encode(), "−1".encode(), "1\u00a0".encode(), b"1\x0b", b"1\x0c"),
)

STRINGS = (
    # plain, and every kind of escape
    *(b'""', b'"A"', b'"Z\xc3\xbcrich"', b'"\xe6\x97\xa5\xe6\x9c\xac"', b'"\xf0\x9f\x98\x80"', b'"600519"', b'"-1"'),
    *(
        b'"\\u0041"', b'"\\"\\\\\\/\\b\\f\\n\\r\\t"', b'"a\\/b"', b'"\\u00E9\\u00e9"', b'"\\ud83d\\ude00"',
        b'"\\uD83D\\uDE00x"',
    ),
    *(
        b'"true"', b'"null"', b'"NaN"', b'"{}"', b'"[1]"', b"\"{'a':1}\"", b'"1e5"', b'" A"', b'"A "', b'"//"',
        b'"a,b:c"',
    ),
    # control characters, raw and escaped
    *(
        b'"\x00"', b'"a\x00b"', b'"\t"', b'"\n"', b'"\r"', b'"\x1f"', b'"\x7f"', b'"\\u0000"', b'"\\u001f"',
        b'"\\u007F"',
    ),
    *(
        b'"\\u0085"', b'"\xc2\x85"', b'"\xc2\x9f"', b'"\xc2\xa0"', b'"\\u2028"', b'"\xe2\x80\xa8\xe2\x80\xa9"',
        b'"\xef\xbb\xbf"',
    ),
    # code points without a character: unassigned, private, reserved, the last of all, and one past it
    *(
        b'"\xef\xbf\xbe\xef\xbf\xbf"', b'"\\uFFFF\\uFDD0"', b'"\xee\x80\x80"', b'"\xf4\x8f\xbf\xbf"',
        b'"\xf4\x90\x80\x80"',
    ),
    # surrogates: alone, in the wrong order, halves of a pair, raw as in CESU-8
    *(b'"\\ud800"', b'"\\udc00"', b'"\\udc00\\ud800"', b'"\\ud800\\ud800\\udc00"', b'"\\ud800x"', b'"\\ud800\\n"'),
    *(
        b'"\\ud800\\u0041"', b'"\\ud800\\"', b'"\\uDBFF\\uDFFF"', b'"\xed\xa0\x80"', b'"\xed\xa0\xbd\xed\xb8\x80"',
        b'"\xed\xbf\xbf"',
    ),
    # bytes that are not UTF-8: stray, cut off, too long, too high, other encodings
    *(
        b'"\x80"', b'"\xbf"', b'"\xff"', b'"\xfe"', b'"\xc3"', b'"\xc3\x28"', b'"\xe2\x82"', b'"\xf0\x9f\x98"',
        b'"\xc0\x80"',
    ),
    *(
        b'"\xc0\xaf"', b'"\xc1\xbf"', b'"\xe0\x80\xaf"', b'"\xf0\x80\x80\xaf"', b'"\xf8\x88\x80\x80\x80"',
        b'"Z\xfcrich"',
    ),
    # length, at the limit for a symbol, which counts characters, not bytes or halves of a pair
    *(
        b'"' + b"x" * 64 + b'"', b'"' + b"x" * 65 + b'"', b'"' + "é".encode() * 64 + b'"',
        b'"' + "😀".encode() * 64 + b'"',
    ),
    *(b'"' + b"\\ud83d\\ude00" * 64 + b'"', b'"' + "é".encode() * 65 + b'"', b'"' + b"y" * 5_000 + b'"'),
    # no JSON
    *(
        b'"', b'"A', b'A"', b"A", b"'A'", b"`A`", b'"\\"', b'"\\', b'"\\u"', b'"\\u12"', b'"\\u12G4"', b'"\\uD83D\\u"',
        b'"\\x41"',
    ),
    *(
        b'"\\a"', b'"\\0"', b'"\\\'"', b'"\\\x00"', b'"\\\xf0\x9f\x98\x80"', b'"\\U0001F600"', b'"\\u+041"', b'"A""B"',
        b'"A"B',
    ),
    *("“A”".encode(), b'""""', b'"\\\\\\"', b'"A\\\\""', b'"\\ud800\\x"'),
)

OTHERS = (
    # the other values
    *(
        b"null", b"true", b"false", b"[]", b"{}", b"[1]", b'["A"]', b'[""]', b"[[]]", b'{"a":1}', b'{"":""}', b"[null]",
        b"[[],{}]",
    ),
    *(
        b'{"symbol":"B"}', b'{"a":{"price":2}}', b'{"a":1,"a":2}', b'["a","b"]', b'{"a":"\\u0000"}', b'{"\\ud800":1}',
        b'{"\xff":1}',
    ),
    # misspelled
    *(
        b"Null", b"NULL", b"nul", b"nulll", b"True", b"TRUE", b"tru", b"truth", b"False", b"None", b"nil", b"undefined",
        b"void",
    ),
    # brackets and commas
    *(
        b"[", b"]", b"{", b"}", b"[]]", b"{}}", b"[1,]", b"[,1]", b"[,]", b"[1,,2]", b"[1 2]", b"[1;2]", b"[1:2]",
        b"[1}", b"(1)",
    ),
    *(
        b'{"a"}', b'{"a":}', b"{:1}", b'{"a"::1}', b'{"a" 1}', b'{"a",1}', b'{"a":1,}', b'{,"a":1}', b'{"a":1,,"b":2}',
        b'{"a"=1}',
    ),
    *(
        b"{a:1}", b"{'a':1}", b"{1:1}", b"{null:1}", b'{"a":1 "b":2}', b'{"a":1;"b":2}', b'{"a":1]', b'[{"a":1]',
        b"<null>", b"*",
    ),
    # comments and other dialects
    *(
        b"/**/1", b"1/**/", b"1//", b"1#", b"1/*", b"#", b";", b"...", b"[1...]", b"1;", b"@", b"!1", b"~1", b"%",
        b"\\n",
    ),
    # whitespace: the four that are JSON's, and some of those that are not
    *(
        b" 1", b"1 ", b"\t1\t", b"\r1\r", b"\n1\n", b" \r\n\t1", b"\x0b1", b"1\x0c", b"\x001", b"\x1e1", b"\xa01",
        b"\xc2\xa01",
    ),
    *(
        b"1\xc2\x85", b"\xe2\x80\xa81", b"\xe3\x80\x801", b"\xef\xbb\xbf1", b"\xfe\xff1", b"\xe2\x81\xa01", b"\x1a",
        b"\x00", b" ", b"\n",
    ),
    # depth, near the limit of 512
    *(
        b"[" * 400 + b"]" * 400, b'{"a":' * 510 + b"1" + b"}" * 510, b"[" * 512 + b"]" * 512, b"[" * 5_000,
        b'{"a":' * 5_000,
    ),
    *(
        b"[" * 100_000 + b"]" * 100_000, b"[" * 511 + b'"' + b"[" * 600 + b'\\"]"' + b"]" * 511,
        b"[" * 511 + b"{}" + b"]" * 511,
    ),
    b"[" + b"[],{}," * 5_000 + b"[]]",
    # a long text that never ends, full of quotes: no scan may start again at each of them
    b'["' + b'\\"' * 100_000 + b"[" * 600,
)

TIMES = (
    *(b'"2026-09-21T14:13:20Z"', b'"2026-09-21 14:13:20"', b'"2026-09-21T14:13"', b'"2026-09-21T14:13:20.5+02:00"'),
    *(b'"2026-09-21T14:13:20.123456789123Z"', b'"2026-09-21T14:13:20+0200"', b'"2026-09-21T14:13:20-03"'),
    *(b'"2026-09-21T14:13:20\\u005a"', b'"2026-09-21\\u002014:13:20"', b'"\\u0032026-09-21T14:13:20"'),
    *(
        b'"2026-09-21T14:13:20 "', b'" 2026-09-21T14:13:20"', b'"2026-09-21T14:13:20\\n"',
        b'"2026-09-21T14:13:20\\u0000"',
    ),
    *(
        b'"2026-9-21T14:13:20"', b'"20260921T141320Z"', b'"2026-W39-1"', b'"2026-264"', b'"+002026-09-21T14:13:20Z"',
        b'"-2026-09-21"',
    ),
    *(
        b'"2026-09-21"', b'"14:13:20"', b'"2026-09-21t14:13:20z"', b'"2026-09-21_14:13:20"', b'"2026-09-21T14.5"',
        b'"2026-09-21T14"',
    ),
    *(
        b'"2026-02-29T00:00:00"', b'"2026-09-31T00:00:00"', b'"2026-13-01T00:00:00"', b'"0000-01-01T00:00:00"',
        b'"2026-00-00T00:00:00"',
    ),
    *(
        b'"2026-09-21T24:00:00"', b'"2026-09-21T23:59:60"', b'"2026-09-21T14:60:00"', b'"2026-09-21T14:13:20+24:00"',
        b'"2026-09-21T14:13:20+00:60"',
    ),
    *(
        b'"2026-09-21T14:13:20."', b'"2026-09-21T14:13:20,5"', b'"2026-09-21T14:13:20.5.5"',
        b'"2026-09-21T14:13:20.-5"', b'"2026-09-21T14:13:20ZZ"',
    ),
    *('"２０２６-09-21T14:13:20"'.encode(), '"2026-09-21T14:13:2٠"'.encode(), '"2026‐09‐21T14:13:20"'.encode()),
    *(
        b'"2026-09-21T14:13:20.' + b"9" * 5_000 + b'Z"', b'"2026-09-21T14:13:20' + b"0" * 5_000 + b'"', b'"now"',
        b'"1790000000"',
    ),
    # the ends of the calendar; records of those days are drawn elsewhere
    *(
        b'"0001-01-01T00:00:00+23:59"', b'"9999-12-31T23:59:59.999999-23:59"', b'"9998-12-31T23:59:59Z"',
        b'"9999-01-01T00:00:00Z"',
    ),
    # one instant in all units, with digits that do not count; then the limits between the units
    *(
        b"1790000000", b"1790000000.0", b"179e7", b"1.79e9", b"1.79E+0000000009", b"1790000000" + b"0" * 400 + b"e-400",
        b"1790000000.1234569",
    ),
    *(
        b"1790000000000", b"1790000000000.0009", b"1790000000000000", b"1790000000000000000", b"1790000000000000999",
        b"17900000000e-1",
    ),
    *(
        b"99999999999", b"100000000000", b"99999999999999", b"100000000000000", b"99999999999999999",
        b"100000000000000000", b"1e22", b"-1790000000",
    ),
    *(
        b"1790000000" + b"0" * 20_000, b"0." + b"0" * 20_000 + b"1", b"1790000000" + b"0" * 20_000 + b"e-20000",
        b"1e30", b"1e-30",
    ),
)
# fmt: on

TEXTS = (*NUMBERS, *STRINGS, *OTHERS, *TIMES)

PLACES = (
    b"%(text)s",
    b'%(text)s{"symbol":"A",%(value)s:1.5,"timestamp":%(stamp)s}',
    b'{"symbol":"A",%(value)s:1.5,"timestamp":%(stamp)s}%(text)s',
    b'{"symbol":%(text)s,%(value)s:1.5,"timestamp":%(stamp)s}',
    b'{"symbol":"A",%(value)s:%(text)s,"timestamp":%(stamp)s}',
    b'{"symbol":"A",%(value)s:1.5,"timestamp":%(text)s}',
    b'{"symbol":"A",%(value)s:1.5,"timestamp":%(stamp)s,"low_price":%(text)s}',
    b'{"high_price":%(text)s,"symbol":"A",%(value)s:1.5,"timestamp":%(stamp)s,"low_price":-5}',
    b'{"symbol":"A",%(value)s:1.5,"timestamp":%(stamp)s,"extra":%(text)s}',
    b'{"extra":{"a":[%(text)s]},"symbol":"A",%(value)s:1.5,"timestamp":%(stamp)s}',
    b'{"symbol":"A",%(text)s:1,%(value)s:1.5,"timestamp":%(stamp)s}',
    b'{"symbol":"A",%(value)s:1.5,%(text)s,"timestamp":%(stamp)s}',
    # repeated keys: the last one counts, whatever the type of the others
    b'{"symbol":%(text)s,"symbol":"A",%(value)s:1.5,"timestamp":%(stamp)s}',
    b'{"symbol":"A",%(value)s:1.5,%(value)s:%(text)s,"timestamp":%(stamp)s}',
    b'{"symbol":"A",%(value)s:1.5,"timestamp":%(text)s,"timestamp":%(stamp)s}',
    # as many quotes as in a good message, in the wrong places
    b'{"symbol":%(text)s,%(value)s:1.5,"extra":1,"timestamp":%(stamp)s}',
    b'{"symbol":"A",%(value)s:1.5,"extra":1,"timestamp":%(text)s}',
    b'{"symbol":"A",%(value)s:%(text)s,"timestamp":%(stamp)s, }',
)


def bent(text: bytes, side: Side) -> Iterator[bytes]:
    """Messages with ``text`` in each of the places."""
    named = {b"text": text, b"value": b'"%s"' % VALUE[side], b"stamp": STAMP}
    return (place % named for place in PLACES)


def broken_apart(side: Side) -> Iterator[list[bytes]]:
    """Bad messages that become good ones for a reader of lines, or of a file."""
    first, second = (
        b'{"symbol":"%s","%s":%s,"timestamp":%s}' % (s, VALUE[side], n, STAMP) for s, n in ((b"A", b"1"), (b"B", b"2"))
    )
    for cut in range(1, len(first)):
        yield [first[:cut], first[cut:]]
        yield [first[:cut], first[cut:] + second]
        yield [first + second[:cut], second[cut:]]
    for blank in (
        b" ",
        b"\t",
        b"\r",
        b"\n",
        b"\x0b",
        b"\x0c",
        b"\x00",
        b"\x1e",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b",",
        b"{}",
        b"null",
    ):
        for glue in (b"", b" ", b",", b"\r", b"\n", b"\x0b", b"\x00", b"\x1e", b"\xe2\x80\xa8"):
            yield [first + glue + second, blank]
            yield [blank, first + glue + second]
        yield [blank + first, first + blank, second]
    for mark in (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x1e", b"\xff\xfb"):
        yield [mark + first, second]
    yield [first.decode().encode("utf-16-le"), first.decode().encode("utf-16-be"), first.decode().encode("utf-32")]


def compressed(side: Side) -> Iterator[list[bytes]]:
    """Good messages as compressed files: bytes that are not JSON, from which an overeager library would read rows."""
    for number in range(200):
        message = b'{"symbol":"A%d","%s":1,"timestamp":%s}' % (number, VALUE[side], STAMP)
        size = len(message)
        yield [gzip.compress(message, 0, mtime=number)]
        yield [zlib.compress(message, 0)]
        yield [b"\x28\xb5\x2f\xfd\x20" + bytes([size]) + (size << 3 | 1).to_bytes(3, "little") + message]  # zstd, raw
