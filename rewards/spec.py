"""The form a completion is asked to have. Parser, system prompt and training targets all read it here."""

from dataclasses import astuple, dataclass


def visible(text: str) -> bool:
    """Whether `text` shows a reader anything: white space and zero-width characters do not."""
    return any(character.isprintable() and not character.isspace() for character in text)


@dataclass(frozen=True)
class TagSpec:
    """The four tags of a completion: reasoning first, then one answer. Tags are case-sensitive."""

    think_open: str = "<think>"
    think_close: str = "</think>"
    answer_open: str = "<answer>"
    answer_close: str = "</answer>"

    def __post_init__(self) -> None:
        tags = self.tags
        if any(not tag.strip() or tag in other for tag in tags for other in tags if tag is not other):
            raise ValueError(f"tags {tags} cannot be told apart: give four that do not contain each other")

    @property
    def tags(self) -> tuple[str, ...]:
        """think_open, think_close, answer_open, answer_close."""
        return astuple(self)

    def render(self, think: str, answer: str) -> str:
        """Return the completion that holds this reasoning and this answer, as `parse` reads it back.

        Raises ValueError where `parse` would not: one of the two is blank or contains a tag.
        """
        for name, text in (("think", think), ("answer", answer)):
            if not visible(text):
                raise ValueError(f"{name} {text!r} is blank: write something to render")
            if any(tag in text for tag in self.tags):
                raise ValueError(f"{name} {text[:80]!r} contains one of the tags {self.tags}: remove it")
        return (
            f"{self.think_open}\n{think}\n{self.think_close}\n{self.answer_open}{answer}{self.answer_close}"
        )

    def system_prompt(self) -> str:
        """Return the instruction for the model: the form it shows is one that `parse` accepts."""
        form = self.render("reasoning", "result")
        return f"Think step by step, then answer. Reply in exactly this form:\n{form}"


SPECS: dict[str, TagSpec] = {"think_answer": TagSpec()}
