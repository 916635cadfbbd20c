"""Colours that people with any colour vision can tell apart, shared by all plots and pages.

Source: Okabe and Ito 2008, "Color Universal Design". Their black is not listed, since it is the text's colour.
"""

SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
"""Blue, orange, bluish green, reddish purple, vermilion, sky blue, yellow, so that neighbours also differ in lightness.

More series than colours also need another property, such as a dash pattern: see `DASHES`.
"""

DASHES = ((), (5.0, 2.0), (1.5, 1.5))
"""Dash patterns, in line widths, of the first, second and third round through `SERIES`; an empty one is a solid line."""

OTHER = "#9A9A9A"
"""Everything that isn't one of the named series."""


def colour(number: int) -> str:
    """Return the colour of a series by its number, from 0; colours repeat after the last one."""
    return SERIES[number % len(SERIES)]


def ink_on(background: str) -> str:
    """Return black or white, whichever is easier to read on a colour given as "#RRGGBB"."""
    red, green, blue = (int(background[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in (red, green, blue)]
    luminance = sum(share * value for share, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000000" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "#FFFFFF"  # contrast as in WCAG
