"""Answers of the model in this folder, with onnxruntime, tokenizers and numpy only.

    python predict.py "a text" "another text"            # prints a JSON object for each text
    python predict.py "a question" --context "a passage"
    python predict.py "a text" --pair "the second text"
    python predict.py < rows.jsonl                       # each line: a text, or a JSON object with the model's fields

    from predict import Model
    Model(".").predict([{"text": "a text"}])

The key "tinybert" of config.json has the model's settings: kind of task, fields, max_length, labels, …
"""

import argparse
import json
import math
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

INT8 = "onnx/model_quantized.onnx"
FILES = {"int8": INT8, "onnx": "onnx/model.onnx"}
# A word may hold other characters (state-of-the-art, 3.14), but not at its ends.
WORD = re.compile(r"\w(?:\S*\w)?|[^\w\s]")
BLANK = re.compile(r"\s")
NO_ENTITY = "O"
ANSWERS = {  # kind of task → the fields of an answer
    "text_classification": ("label", "probabilities"),
    "multi_label": ("labels", "probabilities"),
    "regression": ("number",),
    "named_entities": ("tags", "entities"),
    "question_answering": ("answer", "start"),
}
Forward = Callable[[dict[str, np.ndarray]], np.ndarray]  # model inputs (B, S) → class logits (B, P, C)
Part = tuple[Encoding, np.ndarray]  # a sequence, and its class logits (P, C)


class Model:
    """The model in a folder. ``labels`` are in the order of its outputs.

    file: the ONNX file in the folder. settings: by default those in config.json.
    forward: another way to compute class logits, and ``inputs``: the names of its inputs.
    """

    def __init__(
        self,
        folder: str | Path = ".",
        file: str = INT8,
        settings: dict | None = None,
        forward: Forward | None = None,
        inputs: Iterable[str] = (),
    ):
        config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
        self.settings = settings or config["tinybert"]
        self.labels = self.settings.get("labels", [])
        self.padding = config["pad_token_id"]
        self.tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
        self.tokenizer.no_padding()
        self.forward, self.inputs = (forward, list(inputs)) if forward else onnx_forward(Path(folder, file))
        self.truncated = 0  # rows so far whose text was cut at max_length

    def predict(self, rows: list[dict], batch_size: int = 1) -> list[dict]:
        """One answer for each row, a dictionary with the fields of the model.

        Keep ``batch_size`` 1 for the int8 file: it scales activations over the whole batch, so that other texts would
        change an answer. Raises ValueError if the model's outputs are not finite.
        """
        parts: list[list[Part]] = [[] for _ in rows]
        sequences = self._encode(rows)
        for (number, encoding), logits in zip(
            sequences, self._logits([of for _, of in sequences], batch_size), strict=True
        ):
            parts[number].append((encoding, logits))
        decode = getattr(self, "_" + self.settings["kind"])
        return [decode(row, of_row) for row, of_row in zip(rows, parts, strict=True)]

    def _encode(self, rows: list[dict]) -> list[tuple[int, Encoding]]:
        """The sequences of the rows, each with the number of its row: one a row, or several windows of a passage."""
        kind, longest = self.settings["kind"], self.settings["max_length"]
        if kind == "question_answering":
            questions = self._cut_questions([row["question"].strip() for row in rows], longest // 2)
            stride = min(self.settings["stride"], longest // 4)
            self.tokenizer.enable_truncation(longest, stride=stride, strategy="only_second")
            pairs = [(question, row["context"].strip()) for question, row in zip(questions, rows, strict=True)]
            found = self.tokenizer.encode_batch(pairs)
            return [(number, window) for number, first in enumerate(found) for window in (first, *first.overflowing)]
        texts: Any
        if kind == "named_entities":
            texts = self._without_empty_words([words_of(row) for row in rows])
        else:
            of_rows = [tuple(row[field].strip() for field in self.settings["fields"]) for row in rows]
            texts = [of_row if len(of_row) > 1 else of_row[0] for of_row in of_rows]
        self.tokenizer.enable_truncation(longest)
        found = self.tokenizer.encode_batch(texts, is_pretokenized=kind == "named_entities")
        self.truncated += sum(bool(encoding.overflowing) for encoding in found)
        return list(enumerate(found))

    def _cut_questions(self, questions: list[str], longest: int) -> list[str]:
        self.tokenizer.no_truncation()
        found = self.tokenizer.encode_batch(questions, add_special_tokens=False)
        return [
            question[: encoding.offsets[longest - 1][1]] if len(encoding) > longest else question
            for question, encoding in zip(questions, found, strict=True)
        ]

    def _without_empty_words(self, rows: list[list[str]]) -> list[list[str]]:
        """Words that have no word piece (a variation selector, for example) become the unknown token."""
        self.tokenizer.no_truncation()
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        found = iter(self.tokenizer.encode_batch([word for words in rows for word in words], add_special_tokens=False))
        return [[word if len(next(found)) or not unknown else unknown for word in words] for words in rows]

    def _logits(self, sequences: list[Encoding], batch_size: int) -> list[np.ndarray]:
        """The class logits (P, C) of each sequence. Batches hold sequences of like lengths."""
        order = sorted(range(len(sequences)), key=lambda number: -len(sequences[number]))
        logits: list[np.ndarray] = [np.empty(0)] * len(sequences)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            longest = len(sequences[chosen[0]])
            values = {name: np.zeros((len(chosen), longest), dtype=np.int64) for name in self.inputs}
            values["input_ids"][:] = self.padding
            for row, number in enumerate(chosen):
                of, length = sequences[number], len(sequences[number])
                known = {"input_ids": of.ids, "attention_mask": of.attention_mask, "token_type_ids": of.type_ids}
                for name in self.inputs:
                    values[name][row, :length] = known[name]
            computed = self.forward(values)
            if not np.isfinite(computed).all():
                raise ValueError("the model's outputs are not finite (NaN or infinite)")
            for row, number in enumerate(chosen):
                logits[number] = computed[row, : len(sequences[number])]
        return logits

    # One method for each kind of task: the answer for a row.

    def _text_classification(self, row: dict, parts: list[Part]) -> dict:
        [(_, logits)] = parts
        exponents = np.exp(logits[0] - logits[0].max())
        answer = {"label": self.labels[int(logits[0].argmax())]}
        return {**answer, "probabilities": self._probabilities(exponents / exponents.sum())}

    def _regression(self, row: dict, parts: list[Part]) -> dict:
        [(_, logits)] = parts
        return {"number": float(f"{logits[0, 0]:.6g}")}

    def _multi_label(self, row: dict, parts: list[Part]) -> dict:
        [(_, logits)] = parts
        threshold = math.log(self.settings["threshold"] / (1 - self.settings["threshold"]))
        chosen = sorted(self.labels[number] for number in np.flatnonzero(logits[0] >= threshold))
        return {"labels": chosen, "probabilities": self._probabilities(1 / (1 + np.exp(-logits[0])))}

    def _probabilities(self, values: np.ndarray) -> dict[str, float]:
        return {label: round(float(value), 4) for label, value in zip(self.labels, values, strict=True)}

    def _named_entities(self, row: dict, parts: list[Part]) -> dict:
        """Tags of the words in the scheme of the training data, and the entities. ``start`` and ``end`` count the
        characters of the text, if the row has one.
        """
        [(encoding, logits)] = parts
        words = words_of(row)
        tags, before = [NO_ENTITY] * len(words), None  # words cut at max_length are in no entity
        for word, values in zip(encoding.word_ids, logits, strict=True):
            if word is not None and word != before:
                tags[word] = self.labels[int(values.argmax())]
            before = word
        found = entities(tags)
        spans = _places(words, row["text"]) if "text" in row else None
        return {
            "tags": in_scheme(tags, found, self.settings.get("scheme", "IOB2")),
            "entities": [
                {"type": kind, "words": words[first:end], "first": first}
                | ({"start": spans[first][0], "end": spans[end - 1][1]} if spans else {})
                for kind, first, end in found
            ],
        }

    def _question_answering(self, row: dict, parts: list[Part]) -> dict:
        """The best answer of all windows; an empty one if the margin of "no answer" is above the threshold."""
        passage, windows = row["context"].strip(), []
        before = len(row["context"]) - len(row["context"].lstrip())
        for encoding, logits in parts:
            inside = [part == 1 for part in encoding.sequence_ids]
            spans = [span for span, is_inside in zip(encoding.offsets, inside, strict=True) if is_inside]
            windows.append((spans, logits[inside], float(logits[0].sum())))  # the first position means "no answer"
        whole = _with_dropped_characters({span for spans, _, _ in windows for span in spans}, passage)
        best, answer = -math.inf, dict[str, Any](answer="")
        for spans, logits, _ in windows:
            score, first, last = _best_span(logits, self.settings["longest_answer"])
            if score > best:
                start, end = whole[spans[first]][0], whole[spans[last]][1]
                best, answer = score, {"answer": passage[start:end], "start": start + before}
        threshold = self.settings.get("threshold")
        if threshold is not None and min(none for _, _, none in windows) - best > threshold:
            return {"answer": ""}
        return answer if answer["answer"] else {"answer": ""}


def onnx_forward(path: Path) -> tuple[Forward, list[str]]:
    """A function that computes the class logits with onnxruntime, and the names of its inputs."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads slow other programs
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(inputs: dict[str, np.ndarray]) -> np.ndarray:
        outputs = session.run(None, inputs)
        logits = np.stack(outputs, axis=-1) if len(outputs) == 2 else outputs[0]  # starts and ends of answers
        return logits if logits.ndim == 3 else logits[:, None]

    return forward, [taken.name for taken in session.get_inputs()]


def words_of(row: dict) -> list[str]:
    """The words of a row; those of its text if it has none."""
    return row["words"] if "words" in row else words_in(row["text"])


def words_in(text: str) -> list[str]:
    """The words and marks of a text, which are taken in order and do not overlap."""
    words, end = [], 0
    while match := WORD.search(text, end):
        end = match.end()
        while end < len(text) and unicodedata.category(text[end])[0] == "M":  # combining: a vowel sign, an accent
            end += 1
        words.append(text[match.start() : end])
    return words


def entities(tags: list[str]) -> list[tuple[str, int, int]]:
    """The entities in IOB2 tags: (type, first word, word after the last). An I- that continues no entity is none."""
    found, kind, start = [], "", -1
    for number, tag in enumerate([*tags, NO_ENTITY]):
        if start >= 0 and tag != f"I-{kind}":
            found.append((kind, start, number))
            start = -1
        if tag.startswith("B-"):
            kind, start = tag[2:], number
    return found


def in_scheme(tags: list[str], found: list[tuple[str, int, int]], scheme: str) -> list[str]:
    """IOB2 tags with the entities ``found`` in another scheme: IOB1 or BIOES."""
    if scheme == "IOB2":
        return tags
    converted = [NO_ENTITY] * len(tags)
    for kind, start, end in found:
        if scheme == "BIOES":
            marks = "S" if end - start == 1 else f"B{'I' * (end - start - 2)}E"
        else:  # IOB1: B- only right behind another entity of the type
            touches = start > 0 and converted[start - 1][1:] == f"-{kind}"
            marks = ("B" if touches else "I") + "I" * (end - start - 1)
        converted[start:end] = [f"{mark}-{kind}" for mark in marks]
    return converted


def _places(words: list[str], text: str) -> list[tuple[int, int]]:
    """The span of each word in the text that was divided into words."""
    spans, end = [], 0
    for word in words:
        start = text.index(word, end)
        end = start + len(word)
        spans.append((start, end))
    return spans


def _with_dropped_characters(spans: set[tuple[int, int]], text: str) -> dict[tuple[int, int], tuple[int, int]]:
    """Each span of a word piece, and the same with the characters beside it that the tokenizer drops (accents, marks
    of direction): they belong to the piece before them, or else to the one behind them.
    """
    ordered = sorted(spans)
    if sum(end - start for start, end in ordered) == sum(map(len, text.split())):  # nothing is dropped
        return {span: span for span in ordered}
    following = [*(start for start, _ in ordered[1:]), len(text)]
    extended, before = {}, 0
    for (start, end), behind in zip(ordered, following, strict=False):
        first = start - len(BLANK.split(text[before:start])[-1])
        before = end + len(BLANK.split(text[end:behind])[0])
        extended[start, end] = first, before
    return extended


def _best_span(logits: np.ndarray, longest: int) -> tuple[float, int, int]:
    """(score, first, last) of the best span of at most ``longest`` positions by start and end logits (P, 2)."""
    if not len(logits):
        return -math.inf, 0, 0
    sums = logits[:, 0, None] + logits[None, :, 1]
    allowed = np.triu(np.tri(len(logits), k=longest - 1, dtype=bool))
    first, last = divmod(int(np.where(allowed, sums, -np.inf).argmax()), len(logits))
    return float(sums[first, last]), first, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="*", metavar="text", help="default: the lines of the standard input")
    parser.add_argument(
        "--context", "--pair", dest="other", metavar="TEXT", help="the passage of all questions, or all second texts"
    )
    parser.add_argument("--model", choices=FILES, default="int8", help="default: int8; onnx: float32")
    options = parser.parse_intermixed_args()
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    model, has_failed = Model(Path(__file__).parent, FILES[options.model]), False
    fields = model.settings["fields"]
    more = dict.fromkeys(fields[1:], options.other) if options.other is not None else {}
    taken = {*ANSWERS[model.settings["kind"]], "error"}
    for number, line in enumerate(options.texts or sys.stdin.buffer, 1):
        try:
            text = text_in(line)
            if not text and not options.texts:
                continue
            row = read_line(text, fields, more)
            shown = {**with_free_names(row, taken), **model.predict([{**more, **row}])[0]}
        except BadLineError as error:
            shown, has_failed = {"error": f"line {number}: {error}"}, True
        print(json.dumps(shown, ensure_ascii=False), flush=True)
    sys.exit(has_failed)


def with_free_names(fields: dict, taken: set) -> dict:
    """The fields, of which those with a name that is ``taken`` become ``input_<name>``, and none is lost."""
    found = {}
    for name, value in fields.items():
        free = name
        while free in taken or (free != name and free in fields):
            free = f"input_{free}"
        found[free] = value
    return found


def text_in(line: str | bytes) -> str:
    """A line of a file without blanks around it, or a text of the command line. BadLineError if it is not UTF-8."""
    try:
        text = line.decode("utf-8-sig").strip() if isinstance(line, bytes) else line
        text.encode("utf-8")  # bytes of the command line that are not UTF-8 become surrogates
    except UnicodeError:
        raise BadLineError("not UTF-8") from None
    return text


def read_line(line: str, fields: list[str], more: dict[str, str]) -> dict:
    """The row of a JSON object, or of a text of the first field. Raises BadLineError if one of the ``fields`` has no
    text in the row or ``more``.
    """
    first, *second = ["text" if field == "words" else field for field in fields]
    try:
        row = json.loads(line) if line.startswith("{") else {first: line}
    except (ValueError, RecursionError) as error:
        raise BadLineError(f"not valid JSON: {error}") from None
    if not _is_unicode({**more, **row}):
        raise BadLineError("half of a surrogate pair, which is no character")
    words = row.get("words")
    if "words" in fields and isinstance(words, list) and words and all(isinstance(word, str) for word in words):
        return row
    for field in (first, *second):
        text = {**more, **row}.get(field)
        if not isinstance(text, str):
            remedy = ": give --context or --pair" if field in second else ""
            raise BadLineError(f"expected a text as {field!r}{remedy}")
        if all(unicodedata.category(character)[0] in "CZ" for character in text):  # blanks, control characters
            raise BadLineError(f"an empty text as {field!r}")
    return row


def _is_unicode(row: dict) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class BadLineError(Exception):
    """What is wrong with a line of the input."""


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
