"""The published prompt sets that studies of traits use: address, revision, licence, reference; never their texts.

A set is fetched when a run asks for it (prompt_sets/fetch.py) and never shipped: some of the texts are harmful, and the
licences are their publishers'. A revision that is a commit names one content for good; "main" is whatever the publisher
serves on that day, and only the checksum recorded at the first fetch then says whether it has changed since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_interp.errors import DataError, nearest

GITHUB = "https://raw.githubusercontent.com"
HUB = "https://huggingface.co/datasets"
SPLITS = ("train", "choose", "test")


@dataclass(frozen=True)
class PromptSet:
    """One published set. Paths are below `repository` at `revision`; {language} in them is filled in."""

    name: str
    kind: str
    """"harmful", "harmless", or "choice" (two options, one of which shows a behaviour)."""
    repository: str
    revision: str
    paths: Mapping[str, str]
    """File by split; "all" where the publisher gives none, and we cut by a seed."""
    licence: str
    reference: str
    field: str = "instruction"
    """Which field of a row is the prompt; "" for files of one prompt a line."""
    keep: tuple[str, str] | None = None
    """Only rows whose field has this value."""
    languages: tuple[str, ...] = ("en",)
    english: str = ""
    """Name of the set that this one is a translation of, taken where English is asked for."""

    def sha256(self, split: str) -> str:
        """The checksum that a split's file is known to have; "" where none is, and the first fetch records it."""
        return ARDITI_SHA256.get(self.paths[split], "") if self.revision == ARDITI_AT else ""

    def address(self, split: str, language: str) -> str:
        """Where a split's file is. Raises DataError for a language that the set does not have."""
        if language not in self.languages:
            raise DataError(
                f"prompt set {self.name!r} is not there in {language!r}: {nearest(language, self.languages)}"
                f"it has {', '.join(self.languages)}"
            )
        path = self.paths[split].format(language=language)
        between = "/resolve" if self.repository.startswith(HUB) else ""
        return f"{self.repository}{between}/{self.revision}/{path}"


ARDITI = f"{GITHUB}/andyrdt/refusal_direction"
ARDITI_AT = "9d852fae1a9121c78b29142de733cb1340770cc3"
ARDITI_SHA256 = {
    "dataset/splits/harmful_train.json": "8f5c0eac0efd2a7f99084bbe8d0de2c465e31b1997184783c917969d9de9ece1",
    "dataset/splits/harmful_val.json": "305f1d1e6dfa6c50a32d24a18ef815f42b5441eb83e6d7767d242107162fd9f4",
    "dataset/splits/harmful_test.json": "5e12ae102c3791dee083a69ab6269a78e033411c629bc3f66f75d2fde196d9ef",
    "dataset/splits/harmless_train.json": "86623b1f8a25aa35df153fc97a556dbcebb6a7c881538ae43ee479ca17f2e002",
    "dataset/splits/harmless_val.json": "772010758e7d771ef4c7e5e4acdfd7598dcece1a6f383f20d382f640913a2a4d",
    "dataset/splits/harmless_test.json": "1b5930ce5e855ada758b3116ce7c4aaea9b9d05f8cdd77b385511d4c84173b19",
    "dataset/processed/jailbreakbench.json": "3a5aefa80c4a35f75a5306303aa8e69801e4ca4584e1f598bd2ddcf3e7fbbcdd",
}
"""As public projects state them that pin this commit; no publisher gives any, and of other sets none is known."""
WANG = f"{GITHUB}/mainlp/Multilingual-Refusal"
WANG_AT = "23b7e9495b97693f77b5e33f49b437626a66af1c"
RIMSKY = f"{GITHUB}/nrimsky/CAA"
RIMSKY_AT = "main"
POLYREFUSE_LANGUAGES = ("de", "es", "fr", "it", "nl", "pl", "ru", "zh", "ja", "ko", "ar", "th", "yo")
"""Without English, which is the set of Arditi et al.; see "arditi-harmful"."""
CAA_BEHAVIOURS = (
    *("coordinate-other-ais", "corrigible-neutral-HHH", "hallucination", "myopic-reward", "refusal"),
    *("survival-instinct", "sycophancy"),
)


def _collected(name: str, file: str, licence: str, reference: str, kind: str = "harmful") -> PromptSet:
    """A set as Arditi et al. keep it: one JSON file of the prompts alone, at one commit."""
    return PromptSet(name, kind, ARDITI, ARDITI_AT, {"all": f"dataset/processed/{file}.json"}, licence, reference)


def _split(name: str, kind: str) -> PromptSet:
    files = {"train": "train", "choose": "val", "test": "test"}
    paths = {split: f"dataset/splits/{kind}_{file}.json" for split, file in files.items()}
    return PromptSet(name, kind, ARDITI, ARDITI_AT, paths, "Apache-2.0", "Arditi et al. (2024), arXiv 2406.11717")


def _poly(kind: str) -> PromptSet:
    files = {"train": "train", "choose": "val", "test": "test"}
    return PromptSet(
        name=f"polyrefuse-{kind}",
        kind=kind,
        repository=WANG,
        revision=WANG_AT,
        paths={split: f"PolyRefuse/{kind}_{file}_translated_{{language}}.json" for split, file in files.items()},
        licence="Apache-2.0",
        reference="Wang et al. (2025), arXiv 2505.17306",
        # Rows of test files keep the English prompt under "instruction": see read.PREFERRED. zh has no harmless test.
        english=f"arditi-{kind}",
        languages=POLYREFUSE_LANGUAGES if kind == "harmful" else tuple(x for x in POLYREFUSE_LANGUAGES if x != "zh"),
    )


def _caa(behaviour: str) -> PromptSet:
    return PromptSet(
        name=f"caa-{behaviour}",
        kind="choice",
        repository=RIMSKY,
        revision=RIMSKY_AT,
        paths={
            "train": f"datasets/generate/{behaviour}/generate_dataset.json",
            "test": f"datasets/test/{behaviour}/test_dataset_ab.json",
        },
        licence="MIT; model-written evaluations CC BY 4.0",
        reference="Rimsky et al. (2024), arXiv 2312.06681; Perez et al. (2022), arXiv 2212.09251",
        field="question",
    )


def _xstest(which: str, kind: str) -> PromptSet:
    return PromptSet(
        name=f"xstest-{which}",
        kind=kind,
        repository=f"{GITHUB}/paul-rottger/xstest",
        revision="main",
        paths={"all": "xstest_prompts.csv"},
        licence="CC BY 4.0",
        reference="Röttger et al. (2024), arXiv 2308.01263",
        field="prompt",
        keep=("label", which),
    )


ALL = (
    _collected("advbench", "advbench", "MIT", "Zou et al. (2023), arXiv 2307.15043"),
    _collected("maliciousinstruct", "malicious_instruct", "MIT", "Huang et al. (2023), arXiv 2310.06987"),
    _collected("tdc2023", "tdc2023", "MIT", "Mazeika et al. (2023), Trojan Detection Challenge"),
    _collected("harmbench-val", "harmbench_val", "MIT", "Mazeika et al. (2024), arXiv 2402.04249"),
    _collected("harmbench", "harmbench_test", "MIT", "Mazeika et al. (2024), arXiv 2402.04249"),
    _collected("jailbreakbench", "jailbreakbench", "MIT", "Chao et al. (2024), arXiv 2404.01318"),
    _collected("strongreject", "strongreject", "MIT", "Souly et al. (2024), arXiv 2402.10260"),
    _collected("alpaca", "alpaca", "CC BY-NC 4.0", "Taori et al. (2023), Stanford Alpaca", "harmless"),
    _split("arditi-harmful", "harmful"),
    _split("arditi-harmless", "harmless"),
    _poly("harmful"),
    _poly("harmless"),
    _xstest("unsafe", "harmful"),
    _xstest("safe", "harmless"),
    *(_caa(behaviour) for behaviour in CAA_BEHAVIOURS),
    PromptSet(
        name="truthfulqa",
        kind="choice",
        repository=RIMSKY,
        revision=RIMSKY_AT,
        paths={"all": "datasets/test/truthfulqa/truthful_qa.json"},
        licence="Apache-2.0",
        reference="Lin et al. (2022), arXiv 2109.07958; as two options by Rimsky et al. (2024)",
        field="prompt",
    ),
    PromptSet(
        name="mmlu",
        kind="choice",
        repository=RIMSKY,
        revision=RIMSKY_AT,
        paths={"all": "datasets/test/mmlu/mmlu.json"},
        licence="MIT",
        reference="Hendrycks et al. (2021), arXiv 2009.03300; as two options by Rimsky et al. (2024)",
        field="prompt",
    ),
)
CATALOGUE = {one.name: one for one in ALL}


def named(name: str, kinds: tuple[str, ...] = ()) -> PromptSet:
    """The set of that name. Raises DataError for a name that there is not, or a set of another kind than `kinds`."""
    fitting = [one.name for one in ALL if not kinds or one.kind in kinds]
    if name not in CATALOGUE:
        raise DataError(f"no prompt set {name!r}: {nearest(name, fitting)}there are {', '.join(fitting)}")
    if kinds and CATALOGUE[name].kind not in kinds:
        raise DataError(
            f"prompt set {name!r} is of kind {CATALOGUE[name].kind!r}, not {' or '.join(kinds)}: "
            f"take one of {', '.join(fitting)}"
        )
    return CATALOGUE[name]
