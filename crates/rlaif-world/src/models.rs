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

/// What was measured of the models when they were made, as JSON.
pub const MEASURED: &str = include_str!("../models/measured.json");

/// Writes the folders `assistant` and `critic` below a folder; files that are there already with
/// the right size are left.
///
/// # Errors
/// A file that cannot be written.
pub fn write_models(folder: &Path) -> io::Result<()> {
    for (name, content) in FILES {
        let path = folder.join(name);
        let same = fs::metadata(&path).is_ok_and(|m| m.len() == content.len() as u64);
        if !same {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, content)?;
        }
    }
    Ok(())
}

/// Bytes of all files.
#[must_use]
pub fn models_bytes() -> usize {
    FILES.iter().map(|(_, content)| content.len()).sum()
}
