"""The fenced blocks of a document, with the sentences around them."""


class Block:
    """A fenced block of the document: its language, and the sentences before and after it."""

    def __init__(self, line, language, text, before, after):
        self.line, self.language, self.text, self.before, self.after = (
            line,
            language,
            text,
            before,
            after,
        )


def blocks_of(document):
    lines, blocks, index = document.splitlines(), [], 0
    while index < len(lines):
        if lines[index].startswith("```"):
            last = index + 1 + lines[index + 1 :].index("```")
            before = paragraph(lines[:index][::-1])[::-1]
            after = paragraph(lines[last + 1 :])
            text = "\n".join(lines[index + 1 : last]) + "\n"
            blocks.append(
                Block(index + 1, lines[index][3:], text, " ".join(before), " ".join(after))
            )
            index = last
        index += 1
    return blocks


def paragraph(lines):
    """The first one: up to an empty line."""
    while lines and not lines[0]:
        lines = lines[1:]
    return lines[: lines.index("")] if "" in lines else lines
