"""The typed config schema of a run.

Types are here, default values in `conf/`. This module imports neither torch nor MLflow, so that a bad override is
reported in well under a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WHOLE, LEARNED = "whole", "learned"
"""Values of `save_weights`: which of its best weights a run saves."""


@dataclass
class ModelConfig:
    """The network and its pretrained weights."""

    name: str
    """Name of the network in its library, e.g. `resnet50`; a timm name may end in a dot and a tag of weights."""
    library: str
    """Library of the network: `torchvision` (also for networks of plugins) or `timm`."""
    weights: str | None
    """`DEFAULT`, a name from the library (an entry of torchvision, a tag of timm), `glyphs` (embedded), a file, a
    folder in the format of timm's hub, `runs:/<run>`, a run's folder, or null for random initial weights."""
    sha256: str | None
    """Expected sha256 of the weights file; null for no check."""
    image_size: int | None
    """Side of the square input in pixels; null takes the size that the weights were made for."""


@dataclass
class RuleConfig:
    """A pattern over parameters and their learning rate; the first rule that matches a parameter applies."""

    match: str
    """Glob over `stage/layer kind/leaf/name`, e.g. `head/*`, `stage-1/*`, `*/norm/*`; `{stage}` in a stepwise phase."""
    lr_scale: float = 1.0
    """Multiplies the learning rate; 0 freezes."""
    lr_decay: float = 1.0
    """Multiplies the learning rate once per stage below the head."""


@dataclass
class PhaseConfig:
    """A part of the run during which the same parameters learn."""

    rules: list[RuleConfig]
    """Ordered; first match wins; together they cover every parameter."""
    share: float = 1.0
    """Length relative to the other phases. A phase has whole epochs, at least one; if there are fewer epochs than
    phases, it has a number of steps."""
    lr_scale: float = 1.0
    """Multiplies the learning rate of the whole phase."""
    stepwise: bool = False
    """Repeat the phase once per stage, from the top; `{stage}` in a rule then matches the stages reached so far."""


@dataclass
class AdapterConfig:
    """Adapters: small modules that learn beside frozen layers.

    After training they are merged into the weights. `bottleneck` and `prompt` cannot be merged: the network keeps them.
    """

    kind: str = "none"
    """`none`, `lora`, `dora`, `ia3`, `ssf`, `bottleneck` or `prompt`."""
    where: list[str] = field(default_factory=list)
    """Globs over the addresses of the adapted weights; for `bottleneck` and `prompt`, over the addresses of modules,
    `stage/kind/name`. Matches that the kind cannot adapt are skipped."""
    where_inputs: list[str] = field(default_factory=list)
    """`ia3`: globs over those of the adapted weights whose inputs are scaled instead of their outputs."""
    rank: int = 8
    """`lora`, `dora`: rows of A and columns of B; `bottleneck`: its hidden dimension, at most that of the module."""
    alpha: float = 16.0
    """`lora`, `dora`: the product B·A is scaled by `alpha / rank`."""
    dropout: float = 0.0
    """Dropout probability. `lora`: on the inputs of A during training, in linear layers that the network calls, not in
    attention; `bottleneck`: on the hidden units; `prompt`: on the tokens."""
    parallel: bool = False
    """`bottleneck`: true reads the input of its module, false its output."""
    scale: float = 1.0
    """`bottleneck`: factor of its output before that is added."""
    tokens: int = 10
    """`prompt`: number of tokens in the sequence of a block."""
    deep: bool = True
    """`prompt`: true gives every block its own tokens, removed after the block; false passes the tokens of the lowest
    block on to the others."""


@dataclass
class FreezeModeConfig:
    """Which parameters learn, and when."""

    name: str
    """Name of the mode in tables and run names; the file has the same name."""
    norm_stats: str
    """`learn`: norm layers whose parameters learn use and update batch statistics; `frozen`: no norm layer does."""
    phases: list[PhaseConfig]
    """Phases of training, in order."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """Adapters beside frozen layers; their parameters have the kind `adapter` in their addresses."""
    solver: str | None = None
    """How the head is found. null: by training steps. Without steps: `probe` (regularised logistic regression),
    `centroid` (nearest class mean) or `knn` (votes of the nearest training images, which leaves no head)."""
    l2: list[float] = field(default_factory=list)
    """`probe`: strengths of the L2 penalty to try; validation chooses the best."""
    k: list[int] = field(default_factory=list)
    """`knn`: numbers of voting neighbours to try; validation chooses the best."""
    temperature: float | None = None
    """`knn`, `centroid`: divisor of the cosine similarities."""
    space: dict[str, Any] = field(default_factory=dict)
    """Search ranges of this mode, by key; the ranges of `lr`, used by `lr=auto`, by the optimizer's name."""


@dataclass
class OptimizerConfig:
    """Any optimizer of `torch.optim`, by name."""

    name: str
    """Class name in `torch.optim`, upper or lower case, e.g. `adamw`."""
    weight_decay: float
    """Weight decay as the optimizer itself defines it; 0 for none."""
    decay_norm_and_bias: bool
    """Whether weight decay also applies to norm layers, biases, other vectors (LayerScale), and embeddings of positions
    and tokens."""
    options: dict[str, Any]
    """Further keyword arguments of the optimizer, e.g. `momentum`."""


@dataclass
class ScheduleConfig:
    """Learning rate schedule; all positions are fractions of the span."""

    name: str
    """`constant`, `cosine`, `onecycle` or `step`."""
    span: str
    """`phase`: the schedule restarts in every phase; `run`: one schedule over all phases."""
    warmup: float
    """Fraction of the span over which the learning rate rises linearly (onecycle: by a cosine)."""
    final: float
    """Learning rate at the end of `cosine` and `onecycle`, as a fraction of `lr`."""
    milestones: list[float]
    """`step`: positions at which the learning rate is multiplied by `gamma`."""
    gamma: float
    """`step`: factor at each milestone."""


@dataclass
class AugmentConfig:
    """Random augmentation of the training images; validation and test always use the plain centre view."""

    name: str
    """Name of the augmentation in tables and run names."""
    crop: str
    """`none`, `random_resized` (Inception crop) or `pad` (pad, then crop at random)."""
    scale: list[float]
    """Smallest and largest area of a random resized crop, as fractions of the image."""
    ratio: list[float]
    """Smallest and largest aspect ratio of a random resized crop."""
    padding: float
    """`pad`: padding on each side, as a fraction of the image's side."""
    flip: bool
    """Mirror half of the images, if `data.flip` says that a mirrored image keeps its class."""
    color: float
    """Strength of brightness, contrast and saturation jitter; 0 for none."""
    trivial: bool
    """TrivialAugment (arXiv:2103.10158): one random operation of random strength per image."""


@dataclass
class DataConfig:
    """The data set and its splits."""

    name: str
    """Name of the data set in tables and run names."""
    source: str
    """Class name in `torchvision.datasets`; `digits`, `glyphs`, `folder`, `table`, `hub`, `shards`; or a plugin's."""
    root: str
    """Folder of the data, a table, a data set of the hub, or a pattern of shards."""
    layout: str
    """How a folder of images is read. `classes`: one folder per class; `splits`: folders such as train and test, above
    the class folders or inside each; `auto`: as the folder names say, an error if they fit both."""
    missing_classes: str
    """`refuse`, or `ok` to allow a folder's val or test to lack images of some classes."""
    download: bool
    """Let torchvision download what is missing."""
    splits: dict[str, dict[str, Any]]
    """Keyword arguments of the dataset class, for each of `train`, `val` and `test` that the data set provides."""
    val_fraction: float
    """Part of the training split that becomes validation if the data set has none; stratified and seeded."""
    test_fraction: float
    """Part of all images that becomes the test split if the data set has none; stratified and seeded."""
    folds: int | None
    """Number of cross-validation folds. A sweep runs every combination once per fold, with the fold as test split;
    null for one test split."""
    fold: int
    """Index of the fold that is the test split, from 0."""
    split_seed: int
    """Seed of the splits that frostline makes; independent of `seed`, so that all runs use the same splits."""
    fraction: float
    """Part of the training split that is used, 0 to 1, stratified; validation and test stay whole."""
    limit: int | None
    """Largest number of training images, stratified; null for all."""
    shots: int | None
    """Number of training images of each class, or all of a class that has fewer; null for all."""
    subset_seed: int | None
    """Seed of the training images that `fraction`, `limit` or `shots` leave; null for that of the splits. `${seed}`
    draws other images for each seed, so that results hold for more than one draw."""
    eval_limit: int | None
    """Largest number of validation images, and of test images, stratified; null for all."""
    pixels: str
    """Images from which random crops are cut. `exact`: the originals, decoded in every epoch; `stored`: images reduced
    as far as the median crop allows; a number: images reduced to this shorter side in pixels; `auto`: `stored`, or the
    originals if they are small. Images that do not fit into half of the store are decoded and reduced in every epoch,
    with the same bits. Views without randomness are always exact."""
    skip_bad: bool
    """Leave out images that cannot be read, and count them in the record; false stops before anything trains."""
    max_pixels: int
    """Largest image, in pixels, that is decoded; an image whose header claims more is reported as bad."""
    range: Any
    """Values that become black and white in images of more than 8 bits: `full` (0 and 65535), `minmax`, `percentile`
    (0.5 and 99.5 of the values), or `[low,high]`. Images of 8 bits are not changed."""
    range_of: str
    """Source of `minmax` and `percentile`. `set`: the training images, for all splits; `image`: each image itself."""
    flip: bool
    """Whether a mirrored image keeps its class."""
    options: dict[str, Any]
    """Further settings of the source, e.g. the glyphs' images per class."""


@dataclass
class TrainConfig:
    """Loss, sampling, regularisation and early stopping."""

    loss: str
    """`cross_entropy`, `focal` (arXiv:1708.02002), or `bce`: a binary cross-entropy per class."""
    focal_gamma: float
    """`focal`: an image whose true class has probability p is weighted by (1 - p)**gamma."""
    class_weights: Any
    """Weights of the classes in the loss: null for equal weights, `balanced` for weights inversely proportional to the
    number of images, or weights by name, e.g. `{cat: 2, dog: 1}`; other classes then have weight 1."""
    sampling: str
    """`shuffled`: every training image once per epoch; `balanced`: as many draws, each class equally often."""
    label_smoothing: float
    """Share of the target that is spread over all classes (arXiv:1512.00567); 0 for none."""
    clip_norm: float | None
    """Largest gradient norm; larger gradients are clipped to it. null for no clipping."""
    mixup: float
    """Alpha of mixup (arXiv:1710.09412); 0 for none."""
    cutmix: float
    """Alpha of CutMix (arXiv:1905.04899); 0 for none. If mixup is on too, each batch gets one of the two."""
    ema_decay: float | None
    """Decay per step of an exponential moving average of the weights, which is evaluated instead of them; null for
    none."""
    patience: int | None
    """Number of epochs without a new best value of `select` after which the run stops, in any phase; null for never."""
    drop_last: bool
    """Skip the last, smaller batch of an epoch (never the only one)."""


@dataclass
class FeaturesConfig:
    """The features cache: outputs of the stages below the frost line, computed once."""

    enabled: bool
    """Keep the output of the frozen stages; false computes it again at each use, with the same bits."""
    views: int | None
    """Number of random views per image that are reused in turn, an approximation; null draws a new view in every
    epoch."""
    lockstep: bool
    """Train heads that learn from the same features together; each gets the same bits as alone."""


@dataclass
class EvalConfig:
    """What is measured on the test split in addition to accuracy and loss."""

    shift: bool
    """Also measure accuracy under common corruptions (arXiv:1903.12261): noise, blur, contrast, pixelate, JPEG."""


@dataclass
class CheckpointConfig:
    """When a run writes a checkpoint, from which it can resume.

    A run always writes one when it is interrupted, and at the end of an epoch if writing takes less than 2% of the time
    since the last one.
    """

    every_seconds: float | None
    """Seconds since the last checkpoint after which another is written, also in the middle of an epoch; null for no
    such limit."""


@dataclass
class StoreConfig:
    """The store: a cache on disk of decoded pixels and features, shared by all runs."""

    enabled: bool
    """Keep pixels and features from one run to the next."""
    path: str | None
    """Folder; null takes FROSTLINE_STORE, else `frostline` in the user's cache directory."""
    budget_gb: float
    """Largest size on disk in 10**9 bytes, never exceeded; the least recently used entries are evicted first, entries
    in use never. A twentieth of the disk always stays free."""
    memory_gb: float | None
    """Memory for pixels and features together, in 10**9 bytes; the rest is read as needed. null takes a third of the
    free memory."""


@dataclass
class SearchConfig:
    """Search for the best values of keys that have a range, in each cell of the other keys separately."""

    name: str
    """`grid`, which has no ranges, or a sampler of Optuna: `random`, `qmc`, `tpe`, `gp` or `cmaes`."""
    options: dict[str, Any]
    """Further keyword arguments of the sampler, e.g. `n_startup_trials`."""
    seed: int
    """Seed of the sampler; each trial has its own random generator, so that a search can be resumed."""
    batch: int | None
    """Number of trials of a cell that are suggested at once; null for as many as keep the workers busy."""
    prune: str
    """Rule that stops bad trials early: `none`, `median`, `hyperband` (as ASHA) or `wilcoxon`."""
    confirm: int
    """Number of fresh seeds with which the best trial of each cell runs again; only these runs are compared on the test
    split."""
    budget: str
    """Unit of the budget, which is equal for all cells: `trials`, `epochs` or `seconds` of training. With the last two,
    a freeze mode with cheaper trials, or trials stopped early, gets more of them. A trial starts while any budget is
    left."""
    amount: float | None
    """Budget of a cell in epochs or seconds; null, with epochs, for the epochs of `trials` full trials."""
    storage: str | None
    """Storage that several searches share: a database, by Optuna's storage URL, or a journal file.

    null for a file in the sweep's folder."""
    objective: list[str] | None
    """Several objectives, e.g. `val/accuracy,cost/train_seconds`: validation accuracy, the metric of `select`, and
    `cost/` metrics of a run. The result is a Pareto front. null for the metric of `select` alone."""
    past: bool
    """Start from the finished runs of earlier sweeps that differ only in the searched keys.

    They count neither in the budget nor in the comparison. They influence which values are tried, so that the same
    command may try other values later."""
    space: dict[str, Any]
    """Ranges for one freeze mode, by its name and the key, e.g. `search.space.full.lr='interval(1e-6,1e-3)'`."""


@dataclass
class TrackingConfig:
    """Where and what MLflow records."""

    uri: str | None
    """MLflow tracking URI; null takes MLFLOW_TRACKING_URI, else `mlruns/mlflow.db` of the project."""
    artifacts: str | None
    """Artifact location of a new experiment: a folder, or `s3://bucket/prefix`; null for a folder beside the database,
    or the default of the tracking server. An existing experiment keeps its location."""
    system_metrics: bool
    """Also record the use of CPU, memory and GPU every ten seconds."""


@dataclass
class ClusterConfig:
    """Where runs are executed, and the resources of each job; further launcher settings are `hydra.launcher.*`."""

    name: str
    """`local`: worker processes on this machine, which ignore the other keys of this section; `slurm` or `ray`."""
    partition: str | None
    """Slurm partition; null for the cluster's default."""
    gpus: int
    """GPUs per job."""
    hours: float
    """Time limit of a job in hours; a run that is not done by then writes a checkpoint, and its job is requeued."""
    cpus: int
    """CPU cores per job."""
    memory_gb: int | None
    """Memory per job in GB; null for the cluster's default."""
    at_once: int
    """Largest number of jobs that run at the same time."""
    requeues: int
    """How often a job may be requeued after its time limit; preemption does not count."""
    pack: Any
    """Number of runs per job, one after the other; `auto` gives one job all head runs that learn from the same
    features, and every other run its own job."""
    check: str
    """Where data and weights are checked before anything trains: `job`, in a first job on the cluster, or `here`."""
    detach: bool
    """Return as soon as the jobs are queued (`--detach`); `frostline watch` shows their progress."""


@dataclass
class Config:
    """The config of one run; commas on the command line make a sweep of runs."""

    experiment_name: str
    """MLflow experiment in which the sweep is recorded."""
    seed: int
    """Seed of new weights, of the order of the samples and of augmentation."""
    epochs: int
    """Passes over the training images, in all phases together."""
    lr: float
    """Learning rate; phases, rules and the schedule scale it."""
    batch_size: int
    """Images per training step."""
    eval_batch_size: int
    """Images per batch of evaluation; frozen stages take no more, and at most 32 on a CPU or 256 on a GPU."""
    device: str
    """`auto`, `cpu`, `cuda` or `cuda:<n>`."""
    devices: int
    """Number of devices on which a run trains, each with its share of every batch; on a CPU, the number of
    processes."""
    fsdp: bool
    """Shard the learning parameters, their gradients and their optimizer state over the devices."""
    threads: int | None
    """CPU threads of torch, on which the last bits of a result depend; null for torch's default."""
    precision: str
    """`auto` (bf16 on a GPU that has it, else fp32), `fp32` or `bf16`."""
    channels_last: bool
    """Use torch's channels-last memory format, which is faster for convolutions."""
    deterministic: bool
    """Bit-identical metrics when the same command runs twice on one machine; false allows faster kernels."""
    compile: str
    """`auto` compiles the network if the run is long enough to pay for it; `on` or `off`."""
    select: str
    """Validation metric that chooses the best epoch and the best cell: `val/accuracy`, `val/loss`,
    `val/balanced_accuracy`, `val/macro_f1`, `val/map` or `val/auroc` (the last two rank each class against the others,
    mean over classes)."""
    resume: bool
    """Skip runs that an earlier sweep finished, and resume interrupted ones; false starts over."""
    save_weights: str
    """`whole`: a run's `best.safetensors` has all weights; `learned`: it has those that the run could change, and the
    sweep's folder has the rest once, for all runs that start from it."""
    trials: int
    """Budget of a search: the number of runs that each cell has to find the best values.

    See `search.budget`."""
    dry_run: bool
    """Print the plan, write plan.json, train nothing."""
    model: ModelConfig
    freeze_mode: FreezeModeConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    augment: AugmentConfig
    data: DataConfig
    train: TrainConfig
    features: FeaturesConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    store: StoreConfig
    search: SearchConfig
    cluster: ClusterConfig
    tracking: TrackingConfig


BASES = "weights"
"""Folder, in a sweep's folder and among its artifacts, of the initial weights of runs with `save_weights=learned`."""
EMBEDDED = ("digits", "glyphs")
"""Data sources that come with the package or are drawn: they read no folder."""
OWN_FILES = ("folder", "table", "hub", "shards")
"""Data sources that read the user's own files and define their own splits."""
KEPT = ("bottleneck", "prompt")
"""Kinds of adapters that cannot be merged, so that the trained network keeps them."""
