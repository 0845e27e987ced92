"""What a notebook can be asked: one schema for each, of names, types, ranges, combinations and help.

A schema checks what a notebook, a command line or a sweep hands over, and writes the notebook's parameters cell.
"""

from helpers.parameters.digits import (
    ARCHITECTURES,
    METHODS,
    PERMUTED,
    PLANTED_TASKS,
    SEEDS,
    SIZES,
    TRAINED,
    DigitSaliency,
)
from helpers.parameters.reading import BadParameter, assigned, meaning, read, texts
from helpers.parameters.schema import Parameters
from helpers.parameters.subspaces import (
    AdaptersTogether,
    ModelAtlas,
    PublishedPictures,
    RandomBaselines,
    SubspaceSimilarity,
)
from helpers.parameters.training import (
    DigitModels,
    LanguageModelAdapters,
    LoraAdapters,
    MergedAdapters,
    PlantedModels,
    SpeedOfDirections,
)

__all__ = [
    "ARCHITECTURES",
    "METHODS",
    "PERMUTED",
    "PLANTED_TASKS",
    "SCHEMAS",
    "SEEDS",
    "SIZES",
    "TRAINED",
    "AdaptersTogether",
    "BadParameter",
    "DigitModels",
    "DigitSaliency",
    "LanguageModelAdapters",
    "LoraAdapters",
    "MergedAdapters",
    "ModelAtlas",
    "Parameters",
    "PlantedModels",
    "PublishedPictures",
    "RandomBaselines",
    "SpeedOfDirections",
    "SubspaceSimilarity",
    "assigned",
    "meaning",
    "read",
    "texts",
]

SCHEMAS = {
    "01_subspace_similarity": SubspaceSimilarity,
    "02_random_baselines": RandomBaselines,
    "03_digit_saliency": DigitSaliency,
    "04_published_pictures": PublishedPictures,
    "05_model_atlas": ModelAtlas,
    "06_adapters_together": AdaptersTogether,
    "lora_adapters": LoraAdapters,
    "language_model_adapters": LanguageModelAdapters,
    "merged_adapters": MergedAdapters,
    "digit_models": DigitModels,
    "planted_models": PlantedModels,
    "speed_of_directions": SpeedOfDirections,
}
