"""What other libraries call our settings and models: RecBole, RecTools, implicit, TorchRec, ….

An unknown key that is one of their words gets an answer in ours, with what differs. Words that are
ours up to a letter or two are found without this (`unknown_key`).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from typing import Any, NamedTuple


class Meaning(NamedTuple):
    """What a word of others stands for.

    Attributes
    ----------
    ours : keys, of which the first that the model has is meant; empty where no setting is.
    note : what differs, a sentence; or, without a key, what to do instead.
    takes_value : whether a value means the same under our key.
    """

    ours: tuple[str, ...]
    note: str = ""
    takes_value: bool = True


_DIM = Meaning(("dim",))
_LENGTH = Meaning(
    ("max_length", "context"), "Whole histories are read where the model can: context cuts them."
)
_DEVICE = Meaning((), "Where to train is no setting: --device cpu, cuda or cuda:1 (device=).")
_COLUMNS = Meaning(
    (), "Columns are named when the log is read: longrec prepare --user --item --time."
)
_EVALUATED = Meaning(
    (),
    "It belongs to the evaluation: longrec evaluate RUN, with --ks, --candidates and --baselines.",
)
_FULL = Meaning((), "Every evaluation ranks the whole catalog; nothing is sampled.")
_SPLIT = Meaning(
    ("protocol",),
    "It says how the log is cut: --set protocol=leave-one-out, global-time or prequential.",
    takes_value=False,
)
_NEGATIVES = Meaning(("negatives",), "Of a batch, shared by its targets; loss=sampled draws them.")

_MEANINGS: dict[str, Meaning] = {
    "lr learning_rate_init initial_lr base_lr": Meaning(("learning_rate",)),
    "epochs epoch n_epochs num_epochs nb_epochs train_epochs num_train_epochs iterations n_iter "
    "num_iterations": Meaning(
        ("max_epochs",), "Or --epochs. Training stops earlier once it has converged."
    ),
    "minutes time_limit max_time": Meaning(("max_minutes",), "Or --minutes."),
    "max_steps": Meaning(
        ("max_epochs",), "Training is limited in epochs, or in max_minutes.", False
    ),
    "batch_size train_batch_size bs per_device_train_batch_size": Meaning(
        ("batch_tokens",),
        "A batch is counted in events with their padding, not in histories: 2000 are 10 histories "
        "of 200.",
        takes_value=False,
    ),
    "eval_batch_size valid_batch_size test_batch_size": Meaning(
        (), "Batches of a validation find their size by themselves."
    ),
    "hidden_size hidden_dim hidden_units hidden embedding_size embedding_dim emb_size emb_dim "
    "embed_dim d_model model_dim n_factors num_factors factors latent_dim": _DIM,
    "n_layers num_layers num_blocks n_blocks blocks num_hidden_layers depth": Meaning(("layers",)),
    "n_heads num_heads num_attention_heads attn_heads nhead": Meaning(("heads",)),
    "inner_size intermediate_size ff_dim dim_feedforward ff_size": Meaning(("ffn_dim",)),
    "max_len maxlen max_seq_len max_seq_length max_sequence_length max_item_list_length "
    "session_max_len seq_len sequence_length n_positions": _LENGTH,
    "dropout_rate dropout_prob hidden_dropout_prob attn_dropout_prob hidden_dropout attn_dropout "
    "emb_dropout p_dropout": Meaning(("dropout",)),
    "regularization reg reg_weight reg_lambda l2_reg wd lambda_reg": Meaning(
        ("l2", "weight_decay")
    ),
    "stopping_step early_stopping early_stopping_patience": Meaning(("patience",)),
    "eval_step valid_every check_val_every_n_epoch eval_every": Meaning(("validate_every",)),
    "random_state random_seed manual_seed": Meaning(("seed",)),
    "loss_type loss_fn loss_function objective": Meaning(
        ("loss",), "full is cross-entropy over all items (CE, softmax).", takes_value=False
    ),
    "n_negatives num_negatives neg_samples negative_samples n_neg num_neg": _NEGATIVES,
    "neg_sampling train_neg_sample_args": _NEGATIVES._replace(takes_value=False),
    "mask_ratio mask_prob mlm_probability masking_prob": Meaning(("mask_share",)),
    "ft_ratio": Meaning(("mask_last",)),
    "gradient_clip_val clip_grad_norm max_grad_norm grad_clip": Meaning(("clip",)),
    "ema ema_decay": Meaning(("average",)),
    "warmup num_warmup_steps n_warmup_steps": Meaning(("warmup_steps",)),
    "num_workers n_workers worker dataloader_num_workers": Meaning(("workers",)),
    "num_threads n_threads n_jobs": Meaning((), "longrec --threads N before the command."),
    "amp enable_amp fp16 bf16 mixed_precision dtype": Meaning(
        ("precision",), "auto, float32 or bfloat16.", takes_value=False
    ),
    "k n_neighbors num_neighbors n_neighbours": Meaning(("neighbours",)),
    "shrink": Meaning(("shrinkage",)),
    "lambda lambda_": Meaning(("l2",)),
    "n_experts num_experts n_interests num_interests k_interests interest_num": Meaning(
        ("experts", "interests")
    ),
    "d_conv conv_kernel": Meaning(("convolution",)),
    "device gpu_id use_gpu use_cuda accelerator devices cuda": _DEVICE,
    "optimizer learner": Meaning(
        (), "AdamW trains every model: learning_rate, beta1, beta2, weight_decay."
    ),
    "item_min_count user_inter_num_interval item_inter_num_interval": Meaning(
        (),
        "The log drops users and items when it is read: longrec prepare --k-core, --min-length.",
    ),
    "user_id_field item_id_field time_field load_col": _COLUMNS,
    "topk top_k metrics valid_metric eval_metrics": _EVALUATED,
    "eval_neg_sample_args n_eval_negatives": _FULL,
    "eval_args eval_setting group_by split_ratio splitter n_folds leave_one_num split": _SPLIT,
    "checkpoint_dir save_dir output_dir": Meaning((), "The run's folder is --out (out=)."),
    "model model_name": Meaning((), "The model is named beside the settings: --model NAME."),
}
_BY_WORD = {word: meaning for words, meaning in _MEANINGS.items() for word in words.split()}

_MODELS = {
    "popularity": "pop popular mostpop mostpopular toppop toppopular",
    "item-knn": "implicititemknnwrapper cosinerecommender tfidfrecommender itemitemrecommender",
}
_MODEL_OF = {word: ours for ours, words in _MODELS.items() for word in words.split()}
_FACTORS = (
    "als alternatingleastsquares implicitalswrapper bpr bprmf bayesianpersonalizedranking "
    "implicitbprwrapper lightfm lightfmwrapper puresvd svd nmf lmf logisticmatrixfactorization mf"
)


def model_meant(name: str, models: Iterable[str]) -> str | None:
    """What a model of another library, or its name in other letters, is here; None: unknown.

    Parameters
    ----------
    name : as given, such as "SASRecModel".
    models : our names.
    """
    plain = _plain(name).removesuffix("model")
    ours = {_plain(one): one for one in models} | _MODEL_OF
    if plain in ours:
        return f"Did you mean {ours[plain]!r}?"
    if plain in _FACTORS.split():
        return "Factors of a matrix are not among them: 'ease' and 'item-knn' read no order either."
    return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def meant_by(key: str, value: Any, known: Container[str]) -> str | None:
    """What a word of another library is here, in a sentence or two; None where it is unknown.

    Parameters
    ----------
    key, value : as given.
    known : our keys, of the model and of training.
    """
    meaning = _BY_WORD.get(key.lower().replace("-", "_"))
    if meaning is None:
        return None
    ours = next((one for one in meaning.ours if one in known), None)
    if ours is None:
        if meaning.ours:
            return f"Here that is {' or '.join(meaning.ours)}, which this model does not have."
        return meaning.note
    example = f": --set {ours}={value}" if meaning.takes_value else ""
    return f"Here that is {ours}{example}. {meaning.note}".rstrip()
