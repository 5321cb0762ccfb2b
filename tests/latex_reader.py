"""Read a printed formula back and evaluate it: an independent check of what the printer writes."""

import math
import re

NUMBER = re.compile(r"\d{1,3}(?:\\,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
POWER_OF_TEN = re.compile(r"\\times 10\^\{(-?\d+)\}")
PRODUCT = re.compile(r"\\prod_\{i=1\}\^\{(\d+)\} ")
SPACE = re.compile(r"(?: |\\,|\\cdot|\\allowbreak\{\}|\\!)+")


def value(latex, symbols):
    """Evaluate a formula; ``symbols`` maps printed symbols to numbers, and families to functions of the index."""
    reader = Reader(latex, symbols)
    result = reader.sum()
    reader.skip()
    assert reader.position == len(latex), f"not read: {latex[reader.position :]}"
    return result


class Reader:
    def __init__(self, text, symbols):
        self.text = text
        self.symbols = dict(sorted(symbols.items(), key=lambda item: -len(item[0])))
        self.position = 0
        self.index = None

    def skip(self):
        found = SPACE.match(self.text, self.position)
        self.position = found.end() if found else self.position

    def sees(self, token):
        self.skip()
        return self.text.startswith(token, self.position)

    def takes(self, token):
        if self.sees(token):
            self.position += len(token)
            return True
        return False

    def need(self, token):
        assert self.takes(token), f"expected {token} in {self.text} at {self.text[self.position :]}"

    def matches(self, pattern):
        self.skip()
        found = pattern.match(self.text, self.position)
        if found:
            self.position = found.end()
        return found

    def sum(self):
        total = -self.term() if self.takes("-") else self.term()
        while True:
            if self.takes("+"):
                total += self.term()
            elif self.takes("-"):
                total -= self.term()
            else:
                return total

    def term(self):
        result = self.factor()
        while True:
            if self.takes("/"):
                result /= self.factor()
                continue
            self.skip()
            rest = self.text[self.position :]
            if not rest or rest[0] in "+-})]," or rest.startswith((r"\right", r"\\")):
                return result
            result *= self.factor()

    def factor(self):
        found = self.matches(PRODUCT)
        if found:
            start, outer, result = self.position, self.index, 1.0
            for self.index in range(1, int(found[1]) + 1):
                self.position = start
                result *= self.factor()
            self.index = outer
            return result
        base = self.base()
        if self.takes("^{"):
            power = self.sum()
            self.need("}")
            return base**power
        return base

    def base(self):
        for command, close, function in (
            (r"\left(", r"\right)", float),
            (r"\exp\left(", r"\right)", math.exp),
            (r"\operatorname{erf}\left(", r"\right)", math.erf),
            (r"\sqrt{", "}", math.sqrt),
        ):
            if self.takes(command):
                inside = self.sum()
                self.need(close)
                return function(inside)
        for command in (r"\frac{", r"\tfrac{"):
            if self.takes(command):
                above = self.sum()
                self.need("}{")
                below = self.sum()
                self.need("}")
                return above / below
        for command, choose in ((r"\min\left\{", min), (r"\max\left\{", max)):
            if self.takes(command):
                parts = [self.sum()]
                while self.takes(","):
                    parts.append(self.sum())
                self.need(r"\right\}")
                return choose(parts)
        for symbol, known in self.symbols.items():
            if self.takes(symbol):
                return known(self.index) if callable(known) else known
        for symbol, known in ((r"\pi", math.pi), ("e", math.e)):
            if self.takes(symbol):
                return known
        number = self.matches(NUMBER)
        assert number, f"not a formula: {self.text[self.position :]} in {self.text}"
        result = float(number[0].replace(r"\,", ""))
        if self.takes(r"\ldots"):
            pass
        power = self.matches(POWER_OF_TEN)
        return result * 10 ** int(power[1]) if power else result
