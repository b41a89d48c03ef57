//! The two checkpoints, as files of a plain Hugging Face folder each.

use std::fs;
use std::io;
use std::path::Path;

macro_rules! files {
    ($($model:literal: [$($name:literal),*]),*) => {
        &[$($((
            concat!($model, "/", $name),
            include_bytes!(concat!("../models/", $model, "/", $name)).as_slice(),
        ),)*)*]
    };
}

/// Path below the folder, and content.
static FILES: &[(&str, &[u8])] = files!(
    "assistant": [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja"
    ],
    "critic": [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja"
    ]
);

/// Writes the folders `assistant` and `critic` below a folder; files that hold the same
/// already are left.
///
/// # Errors
/// A file that cannot be written.
pub fn write_models(folder: &Path) -> io::Result<()> {
    for (name, content) in FILES {
        let path = folder.join(name);
        // Not by size alone: models that were made anew have the size of the old ones.
        let same = fs::read(&path).is_ok_and(|old| old == *content);
        if !same {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, content)?;
        }
    }
    Ok(())
}
