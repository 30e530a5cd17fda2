"""A tiny world to run the pipeline in: a random BERT, word vectors, and sentences that one word decides."""

import csv
import functools
import importlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ruamel.yaml
import torch
from tokenizers import (
    ByteLevelBPETokenizer,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
    RobertaTokenizerFast,
)

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.core.settings import STAGES_A_TASK_MAY_CHANGE, Numerics

ROOT = Path(__file__).parents[1]
COMMON = ("encoder", "word_vectors")
PER_TASK = ("prepare", *STAGES_A_TASK_MAY_CHANGE)  # in the order of the pipeline
OF_ALL = ("summary",)  # after all tasks

ADJECTIVES = {
    "positive": "good great fine lovely superb charming brilliant warm funny touching".split(),
    "negative": "bad awful poor dull boring weak clumsy stale tired empty".split(),
}
NOUNS = "film movie story plot cast scene script actor director ending".split()
FILLERS = "the a this is was with and very quite really but seems".split()
RARE = "unwatchable heartwarming"  # several word pieces each
PIECES = "un ##watch ##able heart ##warm ##ing".split()
SPECIAL = "[PAD] [UNK] [CLS] [SEP] [MASK]".split()
NEARNESS = 0.3
WORDS = [*ADJECTIVES["positive"], *ADJECTIVES["negative"], *NOUNS, *FILLERS]


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """(text, label) with as many of each label, all different."""
    draw, made = random.Random(seed), {}
    while len(made) < count:
        label = ("positive", "negative")[len(made) % 2]
        adjective, noun, other = draw.choice(ADJECTIVES[label]), draw.choice(NOUNS), draw.choice(NOUNS)
        ending = draw.choice(
            [".", "!", " , really .", " , but the " + draw.choice(NOUNS) + " is " + draw.choice(FILLERS)]
        )
        text = (
            f"The {noun} {draw.choice(['is', 'was', 'seems'])} {draw.choice(FILLERS)} {adjective} with {other}{ending}"
        )
        if draw.random() < 0.2:
            text += f" unwatchable {draw.choice(NOUNS)}"
        made.setdefault(text, label)
    return list(made.items())


def write_file(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_rows(path: Path, count: int = 160, seed: int = 0) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(sentences(count, seed))


def write_kind(folder: Path, kind: str) -> dict:
    """Write rows of a kind, decided by one word as in ``sentences``, to data/raw/<kind>, and rows of other sentences
    without their labels; return the task's entry.
    """
    raw = Path("data", "raw", kind)
    columns = {"text": "one", "pair": "two"} if kind == "text_classification" else {}
    more = {
        "text_classification": {"metric": "accuracy", "max_length": 64},
        "regression": {"metric": "pearson_spearman"},
        "multi_label": {"metric": "micro_f1"},
        "named_entities": {"metric": "f1"},
        "question_answering": {"metric": "f1", "options": {"unanswerable": True}, "max_length": 40},
    }
    labelled, others = _rows_of_kind(kind, 160, seed=0), _rows_of_kind(kind, 40, seed=2)
    unlabelled = [{name: value for name, value in row.items() if name not in LABELS} for row in others]
    (folder / raw).mkdir(parents=True, exist_ok=True)
    for name, part in [("rows.jsonl", labelled), ("text.jsonl", unlabelled)]:
        (folder / raw / name).write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    return {
        "kind": kind,
        "options": None,
        "max_length": 32,
        **more[kind],
        "source": {"location": f"{raw.as_posix()}/rows.jsonl", **columns},
        "unlabelled": {"location": f"{raw.as_posix()}/text.jsonl", "limit": 20, **columns},
    }


LABELS = ("label", "tags", "answers")


def _rows_of_kind(kind: str, count: int, seed: int) -> list[dict]:
    made = sentences(count, seed)
    if kind == "text_classification":  # a pair, decided by its second text
        other = [text for text, _ in sentences(count, seed + 1)]
        return [{"one": one, "two": text, "label": label} for (text, label), one in zip(made, other, strict=True)]
    if kind == "regression":
        return [{"text": text, "label": 4.5 if label == "positive" else 0.5} for text, label in made]
    if kind == "multi_label":
        return [{"text": text, "label": [label, *(["film"] if "film" in text else [])]} for text, label in made]
    if kind == "named_entities":
        return [{"words": text.split(), "tags": _tags(text.split(), label)} for text, label in made]
    return [_question(text, label, number % 4) for number, (text, label) in enumerate(made)]


def _tags(words: list[str], label: str) -> list[str]:
    """The deciding adjective is an entity, with the word before it."""
    at = next(number for number, word in enumerate(words) if word in ADJECTIVES[label])
    return ["O"] * (at - 1) + [f"B-{label}", f"I-{label}"] + ["O"] * (len(words) - at - 1)


def _question(text: str, label: str, kind: int) -> dict:
    """What is the film like? One in four passages does not say it."""
    adjective = next(word for word in text.split() if word in ADJECTIVES[label])
    answers = [{"text": adjective, "answer_start": text.index(f" {adjective} ") + 1}]
    if kind == 0:
        text, answers = text.replace(f" {adjective} ", " "), []
    return {"question": f"is the film {kind}", "context": text, "answers": answers}


def write_text(path: Path, count: int = 60) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text"])
        writer.writerows([text] for text, _ in sentences(count, seed=99))


def write_vectors(path: Path) -> None:
    draw = random.Random(1)
    words = [*WORDS, *RARE.split()]
    path.write_text("".join(f"{word} {' '.join(f'{draw.gauss(0, 1):.4f}' for _ in range(8))}\n" for word in words))


def numerics(seed: int = 1, precision: str = "float32") -> Numerics:
    return Numerics(seed=seed, precision=precision)


def task_settings(kind: str = "text_classification", metric: str = "accuracy", max_length: int = 32, **options):
    values = {"kind": kind, "options": options, "metric": metric, "max_length": max_length, "unlabelled": None}
    source = {"location": "data/raw/tiny/rows.csv"}
    return settings.Task.model_validate({**values, "source": source, **dict.fromkeys(STAGES_A_TASK_MAY_CHANGE)})


def task(labels: list[str], metric: str = "accuracy", max_length: int = 32, kind: str = "text_classification", **more):
    return tasks.create(task_settings(kind, metric, max_length, **more), "tiny", labels)


def tokenizer() -> BertTokenizerFast:
    vocabulary = [*SPECIAL, *WORDS, *PIECES, *".,!'"]
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(vocabulary)}, model_max_length=64)


def config(layers: int = 4, hidden: int = 24, heads: int = 2, feed_forward: int = 48, **more) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer()),
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=feed_forward,
        **{"max_position_embeddings": 64, **more},
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def write_checkpoint(folder: Path, kind: type = BertModel, seed: int = 0, **shape) -> None:
    torch.manual_seed(seed)
    model = kind(config(**shape))
    teach_adjectives(model)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def write_family(folder: Path, family: str, words=None) -> None:
    """A random encoder of another family, with the tokenizer ``words``, by default one of its kind."""
    of_its_kind = {
        "roberta": byte_level_tokenizer,
        "modernbert": byte_level_tokenizer,
        "xlm-roberta": unigram_tokenizer,
        "deberta-v2": unigram_tokenizer,
        "albert": unigram_tokenizer,
        "mpnet": shifted_tokenizer,
    }
    words = words or of_its_kind.get(family, tokenizer)()
    size = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}
    if family == "distilbert":
        size = {"dim": 24, "n_layers": 4, "n_heads": 2, "hidden_dim": 48}
    if family in ("roberta", "xlm-roberta"):  # two positions are taken, and there is one type
        size |= {"type_vocab_size": 1}
    size |= {"pad_token_id": words.pad_token_id}
    if family == "modernbert":
        ends = {"cls_token_id": words.cls_token_id, "sep_token_id": words.sep_token_id}
        special = {"bos_token_id": words.cls_token_id, "eos_token_id": words.sep_token_id, **ends}
        size |= {"global_attn_every_n_layers": 2, "local_attention": 8, **special}
    if family == "deberta-v2":  # as in version 3
        size |= {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
        size |= {"position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True, "type_vocab_size": 0}
    config = AutoConfig.for_model(
        family,
        vocab_size=len(words),
        max_position_embeddings=64 + 2 * (family in ("roberta", "xlm-roberta", "mpnet")),
        initializer_range=0.1,
        **({"embedding_size": 16} if family in ("electra", "albert") else {}),
        **size,
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    teach_adjectives(model, words)
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def byte_level_tokenizer():
    """RoBERTa's kind: cased, a space belongs to the word after it."""
    text = [text for text, _ in sentences(160, seed=0)]
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(text * 20, vocab_size=600, special_tokens=special, show_progress=False)
    state = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in state["merges"]]
    return RobertaTokenizerFast(vocab=state["vocab"], merges=merges, model_max_length=64)


def unigram_tokenizer():
    """XLM-R's kind: sentence pieces, cased."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    text = [text for text, _ in sentences(160, seed=0)]
    special = {name: number for number, name in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])}
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=list(special), unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(text * 20, trainer)
    return _with_special_tokens(made, special)


def shifted_tokenizer():
    """MPNet's kind: BERT's word pieces with other numbers, and other special tokens."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *WORDS, *PIECES, *".,!'", "<mask>"]
    special = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(vocab=special, unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return _with_special_tokens(made, special)


def _with_special_tokens(made: Tokenizer, numbers: dict[str, int]) -> PreTrainedTokenizerFast:
    begin_and_end = [(name, numbers[name]) for name in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=begin_and_end
    )
    names = {
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **names)


@torch.no_grad()
def teach_adjectives(model: torch.nn.Module, words=None) -> None:
    """What pre-training leaves: adjectives of a kind are near one another. So a few steps learn the task."""
    words = words or tokenizer()
    embeddings = model.get_input_embeddings().weight

    def number(adjectives: list[str]) -> list[int]:
        return [words(f" {word}", add_special_tokens=False)["input_ids"][-1] for word in adjectives]

    direction = torch.randn(embeddings.size(1)) * NEARNESS
    embeddings[number(ADJECTIVES["positive"])] += direction
    embeddings[number(ADJECTIVES["negative"])] -= direction


def masked_language_model(seed: int = 0, **shape) -> BertForMaskedLM:
    torch.manual_seed(seed)
    return BertForMaskedLM(config(**shape)).eval()


def write_params(path: Path, **changes) -> None:
    """The repository's params.yaml with the tiny world in place of the real one; ``changes`` as ``{"a.b": value}``."""
    yaml = ruamel.yaml.YAML()
    params = yaml.load(path.read_text())
    texts = {
        folder: {"location": f"data/raw/{folder}/text.csv", "text": "text", "limit": 60}
        for folder in ("encoder", "general_student", "tiny")
    }
    shape = {"layers": 2, "hidden": 24, "heads": 2, "feed_forward": 48}
    tiny = {
        "run": ["tiny"],
        "precision": "float32",
        "encoder.checkpoint": "data/raw/encoder/checkpoint",
        "encoder.masked_language_model.text": texts["encoder"],
        "encoder.masked_language_model.steps": 3,
        "word_vectors.location": "data/raw/word_vectors/vectors.txt",
        "general_student.shape": shape,
        "general_student.layers": [1, 2],
        "general_student.distillation.text": texts["general_student"],
        "general_student.distillation.max_length": 32,
        "finetune_teacher.epochs": 3,
        "finetune_teacher.min_steps": None,
        "finetune_teacher.learning_rate": 4.0e-3,
        "finetune_teacher.batch_size": 8,
        "finetune_teacher.similarity_steps": 3,
        "augment.variants": 2,
        "augment.new_pairs": 20,
        "augment.general_texts": 20,
        "distill_intermediate.epochs": 1,
        "distill_intermediate.min_steps": None,
        "distill_intermediate.layer_map": "uniform",
        "distill_intermediate.losses.attention": 1,
        "distill_intermediate.learning_rate": 1.0e-3,
        "distill_prediction.epochs": 2,
        "distill_prediction.min_steps": None,
        "distill_prediction.learning_rate": 4.0e-3,
        "distill_prediction.batch_size": 16,
        "finetune_student.epochs": 2,
        "finetune_student.min_steps": None,
        "finetune_student.learning_rate": [2.0e-3, 4.0e-3],
        "finetune_student.batch_size": 8,
        "evaluate.resamples": 20,
        "benchmark.seconds": 0,
        "tasks": {
            "tiny": {
                "kind": "text_classification",
                "options": None,
                "source": {"location": "data/raw/tiny/rows.csv", "text": "text", "label": "label"},
                "unlabelled": texts["tiny"],
                "metric": "accuracy",
                "max_length": 32,
                **dict.fromkeys(STAGES_A_TASK_MAY_CHANGE),
            }
        },
    }
    for key, value in {**tiny, **changes}.items():
        *groups, last = key.split(".")
        target = params
        for group in groups:
            target = target[group]
        if value is DELETE:
            del target[last]
        else:
            target[last] = value
    yaml.dump(params, path)


def set_value(key: str, value) -> Callable[[str], str]:
    """A change of params.yaml's text: ``key`` (a.b) gets this value."""

    def change(text: str) -> str:
        yaml = ruamel.yaml.YAML()
        params = yaml.load(text)
        *groups, last = key.split(".")
        group = params
        for name in groups:
            group = group[name]
        group[last] = value
        written = io.StringIO()
        yaml.dump(params, written)
        return written.getvalue()

    return change


DELETE = object()


def write_world(folder: Path, **changes) -> None:
    """Everything that the stages read, in a folder that has the repository's params.yaml."""
    raw = folder / "data" / "raw"
    for name in ("encoder", "word_vectors", "general_student", "finetune_teacher", "tiny"):
        (raw / name).mkdir(parents=True, exist_ok=True)
        if name not in ("word_vectors", "finetune_teacher"):
            write_text(raw / name / "text.csv")
    write_rows(raw / "tiny" / "rows.csv")
    write_vectors(raw / "word_vectors" / "vectors.txt")
    write_checkpoint(raw / "encoder" / "checkpoint")
    write_params(folder / "params.yaml", **changes)


def write_task(folder: Path, kind: str, **changes) -> None:
    """A task of this kind, and no other."""
    entry = {**write_kind(folder, kind), **dict.fromkeys(STAGES_A_TASK_MAY_CHANGE)}
    write_params(folder / "params.yaml", run=[kind], tasks={kind: entry}, **changes)


@functools.cache
def outputs(stage: str) -> list[str]:
    """What a stage writes, as dvc.yaml names it: with ``${item.task}`` for the task."""
    entry = ruamel.yaml.YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"][stage]
    listed = [path for part in ("outs", "metrics", "plots") for path in entry.get(part, [])]
    return [path if isinstance(path, str) else next(iter(path)) for path in listed]


def delete_outputs(stage: str, task: str = "tiny") -> None:
    """As DVC does before it runs a stage."""
    for name in outputs(stage):
        path = Path(name.replace("${item.task}", task))
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def run_stage(stage: str, task: str = "tiny") -> None:
    """A stage in this process, in the working folder: the start of a process of its own takes seconds."""
    importlib.import_module(f"pipeline.{stage}").main(*([] if stage in (*COMMON, *OF_ALL) else [task]))


def start_python(*arguments: str, processes: int = 1, **options) -> subprocess.Popen:
    """A Python process in the working folder that finds the pipeline, and the tests; its output and errors as text."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "TINYBERT_PROCESSES": str(processes)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]
