"""What a training run is: frozen dataclasses with bounds.

Owns the names, units, defaults and bounds of everything that a user may choose about training. Refuses to know where
the values come from (`scripts.config`) and to load data or build networks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from scripts.config_reading import Between


@dataclass(frozen=True, slots=True)
class PhotoSource:
    """A folder or zip of photos. `aspect_ratio` (width / height) undoes a squash to a square; None keeps the file's.

    A folder stands in for a missing zip of the same name, and the other way round. An `optional` source that is missing
    is noted in the report; any other is an error.
    """

    path: Path
    aspect_ratio: Annotated[float | None, Between(0.05, 20)] = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class CatalogueConfig:
    """Where the rows are and which columns mean what.

    `kind`: `table` (CSV or JSONL), `mnist` (Keras' own loader, or a local `mnist.npz`), `tfds` (a TensorFlow Datasets
    image set by name). `table` needs `label_columns` and at least one of `image_column`, `text_column`.
    `image_pattern` builds a photo's path from the row ("images/{id}.jpg") where no column holds it.
    """

    kind: Literal["table", "mnist", "tfds"] = "table"
    path: Path | None = None
    """The CSV or JSONL file; for `mnist` an `mnist.npz` or its folder; for `tfds` the folder that holds its data sets."""
    dataset: str | None = None
    """`tfds`: the data set's name, with a version if that matters ("fashion_mnist:3.0.1")."""
    image_column: str | None = None
    """A path, a file name, or a bare id; the extension may be missing."""
    image_pattern: str | None = None
    photos: tuple[PhotoSource, ...] = ()
    """Searched in order; none means the folder of `path`."""
    extra_photos: tuple[PhotoSource, ...] = ()
    """Further photos of the same rows (other sizes or views); used for training only."""
    text_column: str | None = None
    id_column: str | None = None
    """Names rows in reports; none means a column called "id", else the line number."""
    label_columns: tuple[str, ...] = ()
    auxiliary_columns: tuple[str, ...] = ()
    """Labels that help training (a brand) but are not published by the model."""
    hierarchy: tuple[str, ...] = ()
    """Label columns from coarse to fine, each implied by the next."""
    split_column: str | None = None
    """Holds train, val (also valid, validation, dev) or test; none means a split by title."""
    optional_columns: tuple[str, ...] = ()
    """Those of the columns above that a catalogue may lack; the run then goes without them, and says so."""
    unknown_labels: tuple[str, ...] = ("NA", "N/A", "NaN", "nan", "NULL", "null")
    """Spellings of "unknown" besides the empty cell."""
    min_label_count: Annotated[int, Between(1, 1_000_000)] = 1
    """A label seen in fewer training rows is treated as unknown."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Sizes of the network. `image_height` x `image_width` in pixels; 0 means no image branch."""

    image_height: Annotated[int, Between(0, 512)] = 80
    image_width: Annotated[int, Between(0, 512)] = 60
    stem: Literal["small", "stride2", "stride4"] = "stride4"
    """`small` keeps the full resolution in the first stage (28x28 digits); `stride2` halves it, `stride4` starts at a
    quarter."""
    widths: Annotated[tuple[int, ...], Between(1, 4096)] = (64, 128, 256)
    depths: Annotated[tuple[int, ...], Between(1, 64)] = (2, 2, 2)
    photo_heads_width: Annotated[int, Between(0, 8192)] = 0
    """Hidden width of the photo's own heads, which speak where there is no title; 0 means none."""
    title_heads_width: Annotated[int, Between(0, 8192)] = 0
    """Filters of each window of the title's own heads, which are heard wherever there is a title; 0 means none."""
    max_tokens: Annotated[int, Between(0, 512)] = 24
    """0 means no text branch."""
    vocabulary_size: Annotated[int, Between(257, 200_000)] = 4096
    """At least the 256 bytes and the padding."""
    token_width: Annotated[int, Between(4, 2048)] = 128
    recurrent_width: Annotated[int, Between(4, 2048)] = 128
    fused_width: Annotated[int, Between(4, 4096)] = 384
    embedding_width: Annotated[int, Between(4, 4096)] = 256
    dimensions: Annotated[tuple[int, ...], Between(2, 4096)] = (32, 64, 128, 256)
    """Lengths at which the embedding may be cut; rising, the last is `embedding_width`."""
    dropout: Annotated[float, Between(0, 0.9)] = 0.2


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How long and how hard to train."""

    epochs: Annotated[int, Between(0, 10_000)] = 20
    """0, for a run that starts from a bundle (`--from`): only what follows the epochs."""
    batch_size: Annotated[int, Between(1, 65_536)] = 256
    learning_rate: Annotated[float, Between(1e-8, 10)] = 3e-3
    weight_decay: Annotated[float, Between(0, 1)] = 0.02
    warmup_fraction: Annotated[float, Between(0, 1)] = 0.05
    label_smoothing: Annotated[float, Between(0, 0.9)] = 0.05
    contrastive_weight: Annotated[float, Between(0, 100)] = 0.3
    ema_decay: Annotated[float, Between(0, 0.999999)] = 0.995
    image_augmentation: Literal["none", "digits", "products"] = "products"
    mixed_photo_share: Annotated[float, Between(0, 1)] = 0.0
    """How many training photos are mixed with another item's. It keeps a long run from learning its photos by heart; a short
    one is better off without."""
    handheld_photo_share: Annotated[float, Between(0, 1)] = 0.0
    """How many training photos show the product on a made ground, as a phone would (`scripts.handheld_photos`). For
    catalogues whose products are shown on a plain one."""
    taught_epochs: Annotated[int, Between(0, 10_000)] = 0
    """Epochs of a second round with photos of full size. It starts from the first round's averaged weights, at half of the
    learning rate, and learns from what those weights answer beside the labels (`scripts.teaching`)."""
    unmixed_epochs: Annotated[int, Between(0, 10_000)] = 0
    """Epochs of a last round with photos of full size, none of which is mixed with another's, at a fifth of the learning rate.
    What mixing blurs (a colour, a pattern) is learned then."""
    bfloat16: bool = True
    """Multiply in bfloat16 while fitting, where the CPU (TensorFlow) or the accelerator (JAX) can; weights and sums stay in
    float32."""
    progressive_resizing: bool = True
    """Early epochs see smaller photos: 0.6 of the side at first, full size for the last 40 % of the epochs."""
    title_changes: Annotated[float, Between(0, 1)] = 0.6
    """How often training titles are changed at random (`scripts.title_augmentation`), from never to the full recipe. The
    full recipe hides the words that most titles are read by so often that they are learned late."""
    finishing_passes: Annotated[int, Between(0, 100)] = 4
    """Passes after the last epoch, for a model that reads both, in which the photo branch is held and only what reads
    titles and joins the two is trained, on titles that are changed less. One costs a sixth of an epoch with photos."""
    seed: Annotated[int, Between(0, 2**31 - 1)] = 1

    @property
    def all_epochs(self) -> int:
        """Of all rounds."""
        return self.epochs + self.taught_epochs + self.unmixed_epochs

    @property
    def strokes_are_outliers(self) -> bool:
        """Whether bare line drawings may be shown as unfamiliar; a model of handwriting must not learn to refuse them."""
        return self.image_augmentation != "digits"


@dataclass(frozen=True, slots=True)
class TeachersConfig:
    """Larger networks that read photos alone. They are trained first and never served: in every step the network learns from
    what they say of the same changed photos (`scripts.photo_teachers`). Work for an accelerator."""

    count: Annotated[int, Between(0, 100)] = 0
    """0 means none. Several are asked for the mean of their answers."""
    epochs: Annotated[int, Between(1, 10_000)] = 60
    unmixed_epochs: Annotated[int, Between(0, 10_000)] = 0
    """As `training.unmixed_epochs`. Ten are worth half a point of a teacher's articles."""
    stem: Literal["small", "stride2", "stride4"] = "stride2"
    widths: Annotated[tuple[int, ...], Between(1, 4096)] = (64, 128, 256, 512)
    depths: Annotated[tuple[int, ...], Between(1, 64)] = (2, 2, 3, 2)
    dropout: Annotated[float, Between(0, 0.9)] = 0.2
    batch_size: Annotated[int, Between(1, 65_536)] = 512
    mixed_photo_share: Annotated[float, Between(0, 1)] = 0.6
    """A teacher that knows its training photos by heart says of them what their labels say, and teaches nothing more."""
    handheld_photo_share: Annotated[float, Between(0, 1)] = 0.05
    """Fewer than the network's own see: what a product is, a teacher learns from the photo as it is."""
    taught_share: Annotated[float, Between(0, 1)] = 0.7
    """How much of the photo's loss is the teachers' answer; the rest is the label's."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A whole run: `name` becomes the model's name under `models/`."""

    name: str
    catalogue: CatalogueConfig
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    teachers: TeachersConfig = field(default_factory=TeachersConfig)
    description: str = ""
    """What it is, its command, its time on two cores, the score to expect; shown by `--help` and in the model card."""
