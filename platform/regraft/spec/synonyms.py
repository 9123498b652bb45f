"""Names that other tools have for keys of a spec, so that a message can give ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from regraft.plugins import Frozen

_OTHER_NAMES = {
    "base": "model model_name model_name_or_path pretrained_model_name_or_path base_model pretrained backbone",
    "task": "task_type problem_type pipeline pipeline_tag task_name",
    "method": "peft peft_type adapter adapters finetuning_type finetuning tuner",
    "losses": "loss loss_function criterion",
    "store": "output output_dir out_dir save_dir logging_dir workdir work_dir",
    "name": "run_name model_id hub_model_id experiment experiment_name project",
    "stages": "stage pretraining pre_training continued_pretraining pretrain before",
    "data.train": (
        "train_file train_files train_data train_dataset train_path training_file training_data dataset dataset_name "
        "data_files path file"
    ),
    "data.eval": (
        "validation validation_file validation_data validation_split eval_file eval_data eval_dataset eval_split dev "
        "dev_file valid val val_split test_size"
    ),
    "data.test": "test_file test_files test_data test_dataset test_split test_path holdout",
    "data.target": "target_file target_data unlabeled unlabelled unlabeled_data target_domain",
    "data.target_labels": "labeled_target labelled_target target_labeled target_train",
    "data.columns": "column column_mapping column_names features input_features rename_columns",
    "data.format": "source reader file_format file_type",
    "data.labels": "label_names label_list classes class_names id2label label2id",
    "data.bad_rows": "on_error on_bad_lines errors",
    "data.group": "group_by groups group_column",
    "data.augment": "augmentation augmentations transforms",
    "training.epochs": "num_train_epochs num_epochs n_epochs max_epochs nb_epoch epoch",
    "training.steps": "max_steps max_train_steps num_steps total_steps",
    "training.batch_size": (
        "per_device_train_batch_size per_gpu_train_batch_size train_batch_size micro_batch_size batch batchsize bs"
    ),
    "training.accumulation": "gradient_accumulation_steps gradient_accumulation accumulate_grad_batches",
    "training.optimizer": "optim optimizer_type optimiser",
    "training.lr": "learning_rate base_lr max_lr peak_lr learn_rate",
    "training.weight_decay": "wd l2",
    "training.schedule": "lr_scheduler lr_scheduler_type learning_rate_scheduler lr_schedule scheduler_type",
    "training.warmup": "warmup_ratio warmup_steps warmup_proportion num_warmup_steps",
    "training.clip": "max_grad_norm grad_clip gradient_clip gradient_clipping gradient_clip_val",
    "training.layer_decay": "layerwise_lr_decay layer_wise_lr_decay llrd lr_decay",
    "training.head_factor": "head_lr head_lr_multiplier head_learning_rate",
    "training.class_weights": "class_weight label_weights",
    "training.label_smoothing": "label_smoothing_factor smoothing",
    "training.dropout": "dropout_rate hidden_dropout hidden_dropout_prob",
    "training.bucketing": "group_by_length length_bucketing train_sampling_strategy",
    "training.early_stopping": "early_stopping_patience patience early_stop",
    "training.eval_steps": "eval_strategy evaluation_strategy eval_every evaluation_steps val_check_interval",
    "training.checkpoint_steps": "save_steps save_strategy save_every",
    "training.keep": "save_total_limit",
    "training.soup": "model_soup checkpoint_averaging average_checkpoints swa greedy_soup",
    "training.seed": "random_seed random_state manual_seed data_seed",
    "compute.workers": "num_workers n_workers nproc_per_node world_size",
    "compute.gpus": "gpu num_gpus n_gpu n_gpus devices",
    "compute.cpus": "cpu num_cpus n_cpus threads num_threads",
    "compute.precision": "fp16 bf16 mixed_precision amp dtype torch_dtype",
    "compute.strategy": "distributed distributed_strategy ddp fsdp deepspeed",
    "compute.compile": "torch_compile",
    "compute.activation_checkpointing": "gradient_checkpointing",
    "budget.seconds": "max_time time_limit max_seconds deadline max_runtime walltime",
    "budget.memory_gb": "max_memory memory_limit max_memory_gb",
    "budget.store_gb": "max_disk disk_gb disk_limit storage_gb",
    "search.space": "param_space search_space hp_space parameters",
    "search.trials": "n_trials num_trials num_samples max_trials",
    "search.seconds": "timeout time_budget time_budget_s",
    "search.sampler": "search_alg algorithm",
    "search.concurrency": "max_concurrent_trials parallelism",
    "rank": "r lora_r lora_rank",
    "alpha": "lora_alpha",
    "targets": "target_modules lora_target lora_target_modules",
    "feedforward": "feedforward_modules",
    "dora": "use_dora",
    "rslora": "use_rslora",
    "max_length": "max_len max_seq_length max_seq_len max_sequence_length model_max_length sequence_length cutoff_len",
    "block_size": "max_seq_length max_seq_len max_length model_max_length sequence_len cutoff_len context_length",
    "max_source_length": "max_input_length max_length max_seq_length",
    "max_target_length": "max_output_length max_new_tokens generation_max_length",
    "template": "chat_template",
}
"""Names elsewhere by ours, dotted from the spec's root; a name without a dot is that of a task's or method's field too.
"""
_BY_WORD: dict[str, list[str]] = {}
for _key, _names in _OTHER_NAMES.items():
    for _name in _names.split():
        _BY_WORD.setdefault(_name, []).append(_key)


def meant(name: str, known: list[str], root: type[Frozen]) -> str:
    """Return our key for what `name` says in another tool, or in another section of the spec; empty if there is none.

    `known` are the keys allowed where it is written: one of them is returned bare, others dotted from the root.
    """
    fields = _fields(root)
    word = name.lower().replace("-", "_")
    ours = _BY_WORD.get(word, [])
    here = next((last for key in ours if (last := key.rpartition(".")[2]) in known), "")
    elsewhere = (key for key in [*ours, *(key for key in fields if key.endswith(f".{word}"))] if key in fields)
    return here or next(elsewhere, "")


def _fields(root: type[Frozen]) -> Mapping[str, Any]:
    """Return the fields of a spec and of its sections by their dotted names."""
    found: dict[str, Any] = dict(root.model_fields)
    for name, field in root.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Frozen):
                found.update({f"{name}.{inner}": one for inner, one in kind.model_fields.items()})
    return found
