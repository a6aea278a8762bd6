"""The page itself, without a training: links, folding, phones, contrast, and what Markdown makes of it."""

import re
from html.parser import HTMLParser

import pytest

pytest.importorskip("jinja2")

from fastloss.train.report import page
from fastloss.train.report.page import Cell, Contents, Figure, Heading, Table, Words

BLOCKS = [
    Heading("Summary"),
    Words(["one [x] *y*", "a < b"], "Said", listed=True),
    Contents(),
    Heading("Paper 2: IoU → BCE (msd)"),
    Table("Table 1", ["loss", "Dice"], [["IoU", Cell("0.70", "0.68", "+0.02")], ["a|b", "c"]], notes=["a note"]),
    Table("Settings", ["setting", "value"], [["epochs", "2"]], folded=True),
    Figure("masks.png", "Masks", b"\x89PNG", caption="slice 3"),
    Heading("Paper 2: IoU → BCE (msd)"),
    Table("Table 1", ["loss"], [["IoU"]]),
]


class Parsed(HTMLParser):
    """Ids, links inside the page, and for each table the elements around it."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.around, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"][1:]] if found.get("href", "").startswith("#") else []
        if tag == "table":
            self.around.append([(name, each.get("class"), each.get("tabindex")) for name, each in self.open])
        if tag not in ("meta", "img", "br"):
            self.open.append((tag, found))

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag


def rendered(text: str) -> str:
    return pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False}).render(text)


@pytest.fixture(scope="module")
def html():
    return page.html("A title", BLOCKS)


@pytest.fixture(scope="module")
def markdown():
    return page.markdown("A title", BLOCKS)


def test_every_link_of_the_contents_has_its_own_anchor(html, markdown):
    for text in (html, rendered(markdown)):
        found = Parsed(text)
        assert len(found.ids) == len(set(found.ids))
        assert set(found.links) <= set(found.ids)
        assert len(found.links) == len(set(found.links)) == 6  # two headings with three and one below; not the summary
    order = [html.index(f">{words}<") for words in ("Summary", "Said", "Contents", "Settings")]
    assert order == sorted(order)


def test_markdown_renders_with_its_tables_lists_folding_and_picture(markdown):
    text = rendered(markdown)
    assert text.count("<table>") == 3 and "| ---" not in text and "<p>|" not in text
    assert "<td>0.70 (paper 0.68, difference +0.02)</td>" in text and "<td>a|b</td>" in text
    assert "<li>one [x] *y*</li>" in text and "<li>a &lt; b</li>" in text
    assert '<img src="masks.png" alt="Masks"' in text and "<p>slice 3</p>" in text
    assert "<p>a note</p>" in text  # and no line of the table before it
    folded = text[text.index("<details>") : text.index("</details>")]
    assert folded.count("<table>") == 1 and "epochs" in folded


def test_tables_scroll_by_themselves_and_settings_are_folded(html):
    around = Parsed(html).around
    assert [each[-1] for each in around] == [("div", "scroll", "0")] * 3  # reached by the keyboard too
    assert [any([name == "details" for name, *_ in each]) for each in around] == [False, True, False]
    assert re.search(r"\.scroll \{ overflow-x: auto; \}", html) and "width=device-width" in html
    assert html.count('<div class="scroll"') == 4  # the picture too


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum([weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear)])


def test_words_have_the_contrast_of_wcag_aa_on_both_grounds(html):
    light, dark = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", rule)) for rule in re.findall(r":root \{(.*)\}", html)]
    assert set(light) == set(dark) == {"back", "text", "grey", "warn", "link"}
    for colours in (light, dark):
        for name, colour in colours.items():
            if name != "back":
                pair = sorted([luminance(colour), luminance(colours["back"])])
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, colour)
