"""An HTML page as tests ask about it."""

import base64
import re
from html.parser import HTMLParser

VOID = {"meta", "img", "link", "br", "hr", "input"}
"""Tags without an end."""


class Page(HTMLParser):
    """Collects tags, and texts with the tags around them; fails on tags that do not nest."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((list(self.open), " ".join(data.split())))

    @property
    def text(self):
        return " ".join(text for _, text in self.texts)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def texts_in(self, *tags):
        return [text for around, text in self.texts if all(tag in around for tag in tags)]

    def section(self, word):
        """HTML of the section whose heading begins with a word."""
        (found,) = (part for part in self.source.split("<section") if re.search(rf"<h2[^>]*>{word}", part))
        return found

    def pictures(self):
        """Pixels' files of all images, in their order."""
        return [base64.b64decode(image["src"].partition("base64,")[2]) for image in self.all("img")]
