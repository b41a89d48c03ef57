//! Models in memory: checkpoints, tokenizers, chat templates, generation, forward and backward.
