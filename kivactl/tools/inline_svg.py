"""Makes the SVG that matplotlib wrote a part of a page: small, with names of its own, in the page's colours and letters; pure.

Colours become variables of the page's style sheet (`--tone-blue`), with the colour itself where the page sets none: so the same
picture is readable on white and on black.
"""

from __future__ import annotations

import re
from html import escape

from kivactl.tools.chart import Tone
from kivactl.tools.chart_axes import CROSSES, DOTS

_HEAD = re.compile(r"\A.*?(?=<svg\b)", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_STYLE = re.compile(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", re.DOTALL)
_ROOT = re.compile(r"<svg\b[^>]*?viewBox=\"([^\"]*)\"[^>]*>")
_PATH = re.compile(r"\bd=\"([^\"]*)\"")
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_PLACE = re.compile(r"\b(x|y|transform)=\"([^\"]*)\"")
_STILL = re.compile(r" transform=\"rotate\(-?0 [^\"]*\)\"")
_FONT = re.compile(r"font-family: [^;\"]*;? ?")
_SHORT_FONT = re.compile(r"font: ([\d.]+px) [^;\"]*")
_NAME = re.compile(r" id=\"([^\"]*)\"")
_USED = re.compile(r"(?:url\(#|href=\"#)([^)\"]*)")
_BETWEEN = re.compile(r">\s+<")
_STROKE = re.compile(r"M ?([\d.-]+) ([\d.-]+) ?L ?[\d.-]+ [\d.-]+ ?")
_GROUP = re.compile(rf"(<g id=\"({DOTS}|{CROSSES})-(\d+)-\d+\"[^>]*>\s*<path )d=\"([^\"]*)\"")
_CSS_NAMES = {str(tone): tone.name.lower() for tone in Tone}


def inline_svg(svg: str, name: str, description: str) -> str:
    """The picture as an element of a page.

    Args:
        svg: As matplotlib wrote it, with texts as texts.
        name: Goes before the names within, so that two pictures on a page do not share any.
        description: For those who do not see it.
    """
    text = _STYLE.sub("", _METADATA.sub("", _HEAD.sub("", svg)))
    text = _PATH.sub(lambda found: f'd="{_short_path(found[1])}"', text)
    text = _GROUP.sub(lambda found: f'{found[1]}d="{_strokes(found[4], found[2], int(found[3]))}"', text)
    text = _STILL.sub("", text).replace("xlink:href", "href")
    text = _PLACE.sub(lambda found: f'{found[1]}="{_rounded(found[2])}"', text)
    text = _SHORT_FONT.sub(r"font-size: \1", _FONT.sub("", text))
    for colour, tone in _CSS_NAMES.items():
        text = text.replace(colour, f"var(--tone-{tone},{colour})")
    used = set(_USED.findall(text))
    text = _NAME.sub(lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    text = _ROOT.sub(lambda found: _root(found[1], description), text, count=1)
    return _BETWEEN.sub("><", text).strip()


def _root(box: str, description: str) -> str:
    return f'<svg class="chart" viewBox="{box}" role="img" aria-label="{escape(description)}" stroke-linejoin="round">'


def _short_path(path: str) -> str:
    return _rounded(" ".join(path.split())).replace(" L ", "L").replace("M ", "M").replace(" M", "M").replace(" z", "z")


def _rounded(text: str) -> str:
    """A tenth of a point is finer than any screen."""
    return _NUMBER.sub(lambda found: f"{round(float(found[0]), 1) + 0.0:g}", text)


def _strokes(path: str, group: str, size: int) -> str:
    """Dots as strokes of no length with round ends, crosses as two strokes."""
    arm = size / 2
    shape = r"M\1 \2h0" if group == DOTS else rf"M\1 \2m-{arm:g}-{arm:g}l{size} {size}m-{size} 0l{size}-{size}"
    return _STROKE.sub(shape, path)
