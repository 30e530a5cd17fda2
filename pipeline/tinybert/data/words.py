"""Words and sentences in a text of any language, by Unicode's categories and boundaries.

NLTK finds the words between blanks. Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan put no blanks between
words: ICU's dictionaries divide them (Tibetan: into syllables).
"""

import re
from collections.abc import Iterator

import regex
from icu4py.breakers import SentenceBreaker, WordBreaker

Span = tuple[int, int]

UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Tibetan}\p{Line_Break=SA}]")
WITHOUT_SENTENCE_MARKS = regex.compile(r"[\p{Thai}\p{Lao}]")
# Marks are vowel signs and accents; the joiners U+200C and U+200D stand inside words of Persian and Indian languages.
WORD = regex.compile(r"\p{L}[\p{L}\p{M}\u200c\u200d]*")
LETTER_OR_DIGIT = regex.compile(r"[\p{L}\p{N}]")
# Marks such as 。 and । that end a sentence also without a blank behind them. Punkt knows "." "!" and "?" only.
SENTENCE_MARK = regex.compile(r"(?V1)[\p{Sentence_Break=STerm}--[!?]]")
OTHER_MARK = regex.compile("[،؛]")  # Arabic's comma and semicolon, which NLTK leaves on the word as well
# NLTK rewrites double quotes before tokenizing, and then fails to find the rewritten quotes in the text. Replacing them
# by as many spaces avoids this and keeps all offsets.
QUOTES = re.compile("\"|''|``")
ANY_LANGUAGE = "und"


def is_word(text: str) -> bool:
    """Whether a text is one word of letters, with their vowel signs and accents."""
    return WORD.fullmatch(text) is not None


def token_spans(text: str) -> list[Span]:
    """The span of each word and punctuation mark of a text; quotes are left out."""
    from nltk.tokenize import NLTKWordTokenizer  # imports all of NLTK, which most stages do not need

    blanked = QUOTES.sub(lambda quote: " " * len(quote.group()), text)
    return [part for span in NLTKWordTokenizer().span_tokenize(blanked) for part in divide(text, span)]


def spans_with_quotes(text: str) -> list[Span]:
    """The span of each word, punctuation mark and quote of a text."""
    return sorted([*token_spans(text), *(quote.span() for quote in QUOTES.finditer(text))])


def tokens(text: str) -> list[str]:
    """The words, punctuation marks and quotes of a text, in its own characters."""
    return [text[start:end] for start, end in spans_with_quotes(text)]


def divide(text: str, span: Span) -> Iterator[Span]:
    """The words and marks in a span without blanks: the span itself if NLTK knows all its characters, else by ICU."""
    start, end = span
    if not any(pattern.search(text, start, end) for pattern in (UNSPACED, SENTENCE_MARK, OTHER_MARK)):
        yield span
        return
    for part in WordBreaker(text[start:end], ANY_LANGUAGE):
        yield start, start + len(part)
        start += len(part)


def count(text: str) -> int:
    """The number of words of a text; punctuation marks count only between blanks."""
    chunks = text.split()
    return sum(map(_words_in, chunks)) if UNSPACED.search(text) else len(chunks)


def _words_in(chunk: str) -> int:
    words = [span for span in divide(chunk, (0, len(chunk))) if LETTER_OR_DIGIT.search(chunk, *span)]
    return max(1, len(words))


def divide_sentence(sentence: str) -> Iterator[str]:
    """Divide what Punkt takes for a sentence at the sentence marks that Punkt does not know."""
    return iter(SentenceBreaker(sentence, ANY_LANGUAGE)) if SENTENCE_MARK.search(sentence) else iter([sentence])
