"""The typed schema of a run.

Types live here, values in `conf/`, each once. This module imports neither torch nor MLflow, so that a bad
override is answered in well under a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WHOLE, LEARNED = "whole", "learned"
"""What a run keeps of its best weights."""


@dataclass
class ModelConfig:
    """Which network, and what it knows before training."""

    name: str
    """The library's name of the network, e.g. `resnet50`; timm's with or without a tag of weights behind a dot."""
    library: str
    """Whose network it is: `torchvision` (and what plugins bring), or `timm`."""
    weights: str | None
    """`DEFAULT`, a name that the library gives (an entry of torchvision, a tag of timm), `glyphs` (embedded), a file, a
    folder as timm's hub has it, `runs:/<run>` or a run's folder, or null: none."""
    sha256: str | None
    """Expected sha256 of the weights file, or null where none is known."""
    image_size: int | None
    """Side of the square input in pixels; null takes it from the weights."""


@dataclass
class RuleConfig:
    """One pattern over parameters and what it says about them; the first rule that matches a parameter decides."""

    match: str
    """Glob over `stage/layer kind/leaf/name`, e.g. `head/*`, `stage-1/*`, `*/norm/*`; `{stage}` in a stepwise phase."""
    lr_scale: float = 1.0
    """Multiplies the learning rate; 0 freezes."""
    lr_decay: float = 1.0
    """Multiplies the learning rate once more for each stage below the head."""


@dataclass
class PhaseConfig:
    """A stretch of the run during which the frost line stays where it is."""

    rules: list[RuleConfig]
    """Ordered; first match wins; together they cover every parameter."""
    share: float = 1.0
    """Relative length among all phases: whole epochs, at least one each; with fewer epochs than phases steps."""
    lr_scale: float = 1.0
    """Multiplies the learning rate of the whole phase."""
    stepwise: bool = False
    """Repeat the phase once per stage from the top; rules with `{stage}` then cover the stages reached so far."""


@dataclass
class AdapterConfig:
    """What layers that stay frozen get beside them, which learns in their place.

    In the end it is merged into them; what no weight can stand for, `bottleneck` and `prompt`, the network keeps.
    """

    kind: str = "none"
    """`none`, `lora`, `dora`, `ia3`, `ssf`, `bottleneck` or `prompt`."""
    where: list[str] = field(default_factory=list)
    """Globs over the addresses of the weights that get one, of `bottleneck` and `prompt` over those of modules, `stage/
    kind/name`; of what they match, what the kind can adapt."""
    where_inputs: list[str] = field(default_factory=list)
    """`ia3`: those of the weights whose inputs are scaled, and not their outputs."""
    rank: int = 8
    """`lora`, `dora`: rows of A and columns of B; `bottleneck`: its dimensions, at most those of the module."""
    alpha: float = 16.0
    """`lora`, `dora`: the product of the two counts `alpha / rank` times."""
    dropout: float = 0.0
    """`lora`: of the inputs of A while it learns, in linear layers that the network calls; attention has none.
    `bottleneck`: in the middle; `prompt`: of the tokens."""
    parallel: bool = False
    """`bottleneck`: whether it sees what its module takes, and not what that gives."""
    scale: float = 1.0
    """`bottleneck`: what it adds counts so many times."""
    tokens: int = 10
    """`prompt`: how many there are, in the sequence of one block."""
    deep: bool = True
    """`prompt`: whether every block has tokens of its own, which leave behind it; else those of the lowest go on."""


@dataclass
class FreezeModeConfig:
    """Which parameters learn, and when."""

    name: str
    """What runs are called by; the file has the same name."""
    norm_stats: str
    """`learn`: norm layers whose parameters learn use and update batch statistics; `frozen`: none ever does."""
    phases: list[PhaseConfig]
    """What learns, one phase after the other."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """What is put beside frozen layers; its parameters have the kind `adapter` in their addresses."""
    solver: str | None = None
    """How the head comes about: null by training steps; at once by `probe` (regularised logistic regression),
    `centroid` (nearest class mean) or `knn` (votes of the nearest training images, which leave no head)."""
    l2: list[float] = field(default_factory=list)
    """`probe`: strengths of the L2 penalty, the best of which by validation is taken."""
    k: list[int] = field(default_factory=list)
    """`knn`: how many neighbours vote; the best of several by validation is taken."""
    temperature: float | None = None
    """`knn`, `centroid`: what cosine similarities are divided by."""
    space: dict[str, Any] = field(default_factory=dict)
    """What a search takes for this mode: a range by key; `lr`, which `lr=auto` takes, by the optimizer's name."""


@dataclass
class OptimizerConfig:
    """Any optimizer of `torch.optim`, by name."""

    name: str
    """Class name in `torch.optim`, in any case, e.g. `adamw`."""
    weight_decay: float
    """Decay of the weights, as the optimizer itself defines it; 0 for none."""
    decay_norm_and_bias: bool
    """Whether weight decay also applies to norm layers and biases."""
    options: dict[str, Any]
    """Further keyword arguments of the optimizer, e.g. `momentum`."""


@dataclass
class ScheduleConfig:
    """How the learning rate moves; all positions are fractions of the span."""

    name: str
    """`constant`, `cosine`, `onecycle` or `step`."""
    span: str
    """`phase`: the schedule starts anew in every phase; `run`: one schedule over all phases."""
    warmup: float
    """Fraction of the span over which the learning rate rises linearly (onecycle: by a cosine)."""
    final: float
    """Learning rate at the end of `cosine` and `onecycle`, as a fraction of `lr`."""
    milestones: list[float]
    """Where `step` multiplies the learning rate by `gamma`."""
    gamma: float
    """Factor of `step` at each of its milestones."""


@dataclass
class AugmentConfig:
    """Random views of the training images; validation and test always see the plain centre view."""

    name: str
    """What runs are called by."""
    crop: str
    """`none`, `random_resized` (Inception crop) or `pad` (pad, then crop at random)."""
    scale: list[float]
    """Smallest and largest area of a random resized crop, as fractions of the image."""
    ratio: list[float]
    """Smallest and largest aspect ratio of a random resized crop."""
    padding: float
    """Padding on each side for `pad`, as a fraction of the image's side."""
    flip: bool
    """Mirror half of the images, where the data says that a mirrored image keeps its class."""
    color: float
    """Strength of brightness, contrast and saturation jitter; 0 for none."""
    trivial: bool
    """TrivialAugment (arXiv:2103.10158): one random operation of random strength per image."""


@dataclass
class DataConfig:
    """Which images, and how they are split."""

    name: str
    """What runs are called by."""
    source: str
    """Class name in `torchvision.datasets`; `digits`, `glyphs`, `folder`, `table`, `hub`, `shards`; or a plugin's."""
    root: str
    """Folder that holds the data; a table; a data set of the hub; or which shards are meant."""
    layout: str
    """How a folder of pictures is read: `classes`, one folder each; `splits` such as train and test, with the classes
    in them or within each class; `auto` as its names say, which asks where they say two things."""
    missing_classes: str
    """`refuse`, or `ok` where a folder's val or test may lack pictures of some classes."""
    download: bool
    """Let torchvision download what is missing."""
    splits: dict[str, dict[str, Any]]
    """Keyword arguments of the dataset class for each split it has of its own, of `train`, `val`, `test`."""
    val_fraction: float
    """Part of the training split that becomes validation where the dataset has none; stratified and seeded."""
    test_fraction: float
    """Part of the whole that becomes the test split where the dataset has none; stratified and seeded."""
    folds: int | None
    """Cross-validation: into how many parts the whole is cut, each of which is the test split of a run of its own, so
    that a sweep has each run as often; null for one test split."""
    fold: int
    """Which of the `folds` is the test split, from 0."""
    split_seed: int
    """Seed of the splits that are made here: of another one than `seed`, so that all runs see the same ones."""
    fraction: float
    """Part of the training split that is used, 0 to 1, stratified; validation and test stay whole."""
    limit: int | None
    """At most so many training images, stratified; null for all."""
    eval_limit: int | None
    """At most so many images for validation and as many for the test, stratified; null for all."""
    pixels: str
    """What random crops of training images are cut from: `exact` the originals, decoded in every epoch; `stored`
    pictures reduced as far as the median crop allows; a shorter side in pixels; `auto` the same as `stored`, or the
    originals where these are small. What does not fit into half of the store is decoded and reduced in every epoch, to
    the same bits. Views in which nothing is random are exact in any case."""
    skip_bad: bool
    """Leave out pictures that cannot be read, and count them in the record; false stops before anything trains."""
    max_pixels: int
    """Largest picture, in pixels, that is decoded: what claims to be larger is reported as bad."""
    range: Any
    """What is black and white where values have more than 8 bits: `full` (0 and 65535), `minmax`, `percentile` (0.5 and
    99.5 of the values), or `[low,high]`. Pictures of 8 bits stay as they are."""
    range_of: str
    """`set`: `minmax` and `percentile` are those of the training pictures, for all splits; `picture`: its own."""
    flip: bool
    """Whether a mirrored image keeps its class."""
    options: dict[str, Any]
    """Further settings of the source, e.g. the glyphs' images per class."""


@dataclass
class TrainConfig:
    """What happens in a step, beside forward and backward."""

    loss: str
    """What is minimised: `cross_entropy`, `focal` (arXiv:1708.02002), or `bce`, each class against the others."""
    focal_gamma: float
    """Of `focal`: images that are right with probability p count (1 - p)**gamma times."""
    class_weights: Any
    """What a class's images count in the loss: null for all alike, `balanced` in inverse proportion to their number, or
    by name, as `{cat: 2, dog: 1}`; classes that are not named count 1."""
    sampling: str
    """`shuffled`: every training image once per epoch; `balanced`: as many, of every class equally often."""
    label_smoothing: float
    """Share of the target that is spread over all classes (arXiv:1512.00567); 0 for none."""
    clip_norm: float | None
    """Largest norm of the gradient; null for no clipping."""
    mixup: float
    """Alpha of mixup (arXiv:1710.09412); 0 for none."""
    cutmix: float
    """Alpha of CutMix (arXiv:1905.04899); 0 for none. With mixup too, each batch takes one of the two."""
    ema_decay: float | None
    """Decay per step of an exponential moving average of the weights, which is then evaluated; null for none."""
    patience: int | None
    """Stop after so many epochs in which `select` was not better than before, in any phase; null for never."""
    drop_last: bool
    """Leave out the last, smaller batch of an epoch (never the only one)."""


@dataclass
class FeaturesConfig:
    """What is computed once because it lies below the frost line."""

    enabled: bool
    """Keep the output of the frozen stages; false computes it whenever it is asked for, which gives the same bits."""
    views: int | None
    """Reuse so many random views per image in turn, an approximation; null shows a fresh view in every epoch."""
    lockstep: bool
    """Make the steps of heads that learn from the same features together, which gives each the bits it gets alone."""


@dataclass
class EvalConfig:
    """What is measured on the test split beside accuracy and loss."""

    shift: bool
    """Also measure accuracy under common corruptions (arXiv:1903.12261): noise, blur, contrast, pixelate, JPEG."""


@dataclass
class CheckpointConfig:
    """When the state from which a run can go on is written: when it is interrupted, and with epochs that are worth it.

    An epoch is where less than 2% of the time since the last one goes into that.
    """

    every_seconds: float | None
    """Also as soon as so many seconds have passed since the last one, in the middle of an epoch or at its end."""


@dataclass
class StoreConfig:
    """Where decoded pixels and features are kept, for every run that asks for them."""

    enabled: bool
    """Whether pixels and features are kept from one run to the next."""
    path: str | None
    """Folder; null takes FROSTLINE_STORE, else `frostline` in the user's cache directory."""
    budget_gb: float
    """Largest size on disk in 10**9 bytes, at every moment; what was used least recently goes first, but nothing that
    is in use. A twentieth of the disk is left to others in any case."""
    memory_gb: float | None
    """What pixels and features may take together; the rest is read as needed. Null takes a third of the free memory."""


@dataclass
class SearchConfig:
    """How values are found for keys that are given a range, each cell of the other keys for itself."""

    name: str
    """`grid`, which has no ranges; else the sampler of Optuna: `random`, `qmc`, `tpe`, `gp` or `cmaes`."""
    options: dict[str, Any]
    """Further keyword arguments of the sampler, e.g. `n_startup_trials`."""
    seed: int
    """Seed of the sampler; each trial draws from a generator of its own, so that a search can go on."""
    batch: int | None
    """How many trials of a cell are suggested at once; null for as many as keep the workers busy."""
    prune: str
    """Stop trials early that do worse than others did: `none`, `median`, `hyperband` (as ASHA) or `wilcoxon`."""
    confirm: int
    """With how many fresh seeds the best trial of each cell is run; these runs alone are compared on the test split."""
    budget: str
    """What each cell gets as much of as any other: `trials`, or `epochs` or `seconds` of training, of which a cheaper
    freeze mode, or one whose trials are stopped early, gets more trials. One begins as long as some of it is left."""
    amount: float | None
    """How many epochs or seconds that are; null with epochs for as many as `trials` trials have in full."""
    storage: str | None
    """Where other searches may have part in the studies: a database, by Optuna's storage URL, or a journal file.

    Null stands for a file in the sweep's folder."""
    objective: list[str] | None
    """Several things at once, as `val/accuracy,cost/train_seconds`: accuracy or the metric of `select` on validation,
    and `cost/` metrics of a run. The answer is a Pareto front. Null for what stands in `select` alone."""
    past: bool
    """Begin with what is known from finished runs of earlier sweeps that differ in nothing but what is searched.

    They count neither in the budget nor in the comparison; but which there are decides what is tried, so that the same
    command typed later may try other values."""
    space: dict[str, Any]
    """Ranges of one freeze mode by its name and the key, e.g. `search.space.full.lr='interval(1e-6,1e-3)'`."""


@dataclass
class TrackingConfig:
    """Where the record goes."""

    uri: str | None
    """MLflow tracking URI; null takes MLFLOW_TRACKING_URI, else `mlruns/mlflow.db` of the project."""
    artifacts: str | None
    """Where a new experiment keeps its artifacts: a folder, or `s3://bucket/prefix`; null for beside the database, or
    where the tracking server keeps them. An experiment that is there keeps its place."""
    system_metrics: bool
    """Also record how busy CPU, memory and GPU are, every ten seconds."""


@dataclass
class ClusterConfig:
    """Who carries runs out, and what each job there asks for; what else the launcher knows is `hydra.launcher.*`."""

    name: str
    """`local`: worker processes of this machine, for which nothing else here is read; `slurm` or `ray`."""
    partition: str | None
    """Slurm's partition; null for its default."""
    gpus: int
    """GPUs of a job."""
    hours: float
    """Time limit of a job: a run that is not done by then writes a checkpoint, and its job is queued again."""
    cpus: int
    """CPU cores of a job."""
    memory_gb: int | None
    """Memory of a job in GB; null for the cluster's default."""
    at_once: int
    """Jobs that run at the same time, at most."""
    requeues: int
    """How often a job may be queued again after its time limit; preemption does not count."""
    pack: Any
    """Runs of a job, one after the other: a number, or `auto`, which gives a job all runs of a head that learn from the
    same features, and any other run a job of its own."""
    check: str
    """Where data and weights are looked at before anything trains: `job`, a first job of the cluster, or `here`."""
    detach: bool
    """Return as soon as the jobs are queued (`--detach`); `frostline watch` shows how far they are."""


@dataclass
class Config:
    """One run, or with commas on the command line a sweep of runs."""

    experiment_name: str
    """The experiment in MLflow under which the sweep is recorded."""
    seed: int
    """Seed of new weights, of the order of the samples and of their augmentation."""
    epochs: int
    """How often all training images are seen, in all phases together."""
    lr: float
    """The learning rate, which phases, rules and the schedule scale."""
    batch_size: int
    """Images per step."""
    eval_batch_size: int
    """Images at once where nothing is learned."""
    device: str
    """`auto`, `cpu`, `cuda` or `cuda:<n>`."""
    devices: int
    """On how many devices a run trains at once, each with its share of every batch; on a CPU, in so many processes."""
    fsdp: bool
    """Whether of what learns each of several devices holds a share alone, with its gradients and optimizer state."""
    threads: int | None
    """CPU threads of torch, on which the last bits of a result depend; null for as many as torch takes by itself."""
    precision: str
    """`auto` (bf16 where a GPU has it), `fp32` or `bf16`."""
    channels_last: bool
    """Have images lie in memory pixel by pixel, which convolutions like better than colour by colour."""
    deterministic: bool
    """Bit-identical metrics when the same command runs twice on one machine; false allows faster kernels."""
    compile: str
    """`auto` compiles the network where the run is long enough to pay for it, `on`, or `off`."""
    select: str
    """What the best epoch and the best cell are chosen by, on the validation split: `val/accuracy`, `val/loss`,
    `val/balanced_accuracy`, `val/macro_f1`, `val/map` or `val/auroc` (the last two rank each class against the others,
    mean over classes)."""
    resume: bool
    """Leave out what an earlier sweep finished, and go on with what was interrupted; false starts over."""
    save_weights: str
    """`whole`: the file of a run's best weights has all of them; `learned`: those that the run could change, and the
    rest lies once in the sweep's folder, for all runs that begin with it."""
    trials: int
    """The budget of a search: how many runs each cell has to find the best values of what is given a range.

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
"""In a sweep's folder, and among its artifacts: that of the weights with which runs began that keep what they learn."""
EMBEDDED = ("digits", "glyphs")
"""Sources of pictures that lie in no folder."""
OWN_FILES = ("folder", "table", "hub", "shards")
"""Sources of pictures that people have, with splits that they tell of themselves."""
KEPT = ("bottleneck", "prompt")
"""Kinds of adapters that cannot be merged, so that the trained network has them for good."""
