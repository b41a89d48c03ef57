//! A byte-level BPE vocabulary of the world's own text, and a chat template.

use std::fs;
use std::path::Path;

use rlaif_feedback::{Purpose, Template};
use rlaif_world::{Composer, Dimension, Manner, Rng, Use, World};
use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// Id of the token that ends a turn.
pub const END: u32 = 0;
/// Id of the token that fills a batch.
pub const PAD: u32 = 1;

const TURNS: [&str; 5] = [
    "<|end|>",
    "<|pad|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
];

/// Ids below this mark turns.
pub const TURN_TOKENS: u32 = TURNS.len() as u32;

/// Answers to the questions that are asked of the models beside their own text while they learn. They
/// are never part of a text.
pub fn grade(class: usize) -> String {
    format!("<|grade_{class}|>")
}

/// Which dimension a principle is about; 8 is none.
pub fn dimension(index: usize) -> String {
    format!("<|dimension_{index}|>")
}

/// What a sentence does.
pub fn category(index: usize) -> String {
    format!("<|category_{index}|>")
}

/// A grade in a dimension, where no principle is given.
pub fn quality(dimension: usize, class: usize) -> String {
    format!("<|quality_{dimension}_{class}|>")
}

fn special() -> Vec<String> {
    let mut all: Vec<String> = TURNS.map(str::to_owned).into();
    all.extend((0..5).map(grade));
    all.extend((0..9).map(dimension));
    all.extend((0..18).map(category));
    all.extend((0..8).flat_map(|d| (0..5).map(move |class| quality(d, class))));
    all
}

/// The options of a comparison are one token each.
const WHOLE: [&str; 2] = ["(A)", "(B)"];

const VOCABULARY: usize = 4_094;

const TEMPLATE: &str = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\
    {% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

/// Rounded up so that rows of the output matrix fill whole lanes.
pub fn padded(vocab: usize) -> usize {
    vocab.next_multiple_of(32)
}

/// Texts of every kind that the models read or write, open side only.
fn corpus(world: &World) -> Vec<String> {
    let c = Composer::open(world);
    let mut rng = Rng::of(0, &["tokenizer"]);
    let mut texts = Vec::new();
    for _ in 0..40_000 {
        let scene = c.scene(&mut rng, 0.4);
        let answer = c.answer(&mut rng, scene.topic, &Manner::VARIED);
        texts.push(scene.prompt.to_text());
        texts.push(answer.text());
        let d = Dimension::ALL[rng.below(8)];
        for kind in [Use::Preference, Use::Critique, Use::Revision] {
            texts.push(c.wording(&mut rng, Some(d), kind));
        }
        texts.push(c.critique(&mut rng, scene.topic, &answer, d));
    }
    for _ in 0..4_000 {
        texts.push(c.wording(&mut rng, None, Use::Preference));
    }
    // The fixed words of the revision template.
    if let Ok(t) = Template::shipped("cai", Purpose::Revise) {
        let fixed = super::data::fixed_words(&t);
        texts.extend(std::iter::repeat_n(fixed, 4_000));
    }
    texts
}

/// Trains the vocabulary.
pub fn train(world: &World) -> Result<Tokenizer, String> {
    let text = |e: tokenizers::Error| format!("the tokenizer cannot be trained: {e}");
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(VOCABULARY)
        .min_frequency(4)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(
            special()
                .into_iter()
                .map(|t| AddedToken::from(t, true))
                .collect(),
        )
        .build();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer
        .train(
            &mut TrainerWrapper::from(trainer),
            corpus(world).into_iter(),
        )
        .map_err(text)?;
    let whole: Vec<AddedToken> = WHOLE.iter().map(|t| AddedToken::from(*t, false)).collect();
    tokenizer.add_tokens(&whole);
    println!("tokenizer: {} tokens", tokenizer.get_vocab_size(true));
    Ok(tokenizer)
}

/// Writes the tokenizer's files as `transformers` reads them.
pub fn write(tokenizer: &Tokenizer, folder: &Path) -> Result<(), String> {
    let io = |e: std::io::Error| format!("cannot write in `{}`: {e}", folder.display());
    fs::create_dir_all(folder).map_err(io)?;
    tokenizer
        .save(folder.join("tokenizer.json"), false)
        .map_err(|e| format!("cannot write in `{}`: {e}", folder.display()))?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": TURNS[END as usize],
        "pad_token": TURNS[PAD as usize],
        "clean_up_tokenization_spaces": false,
        "model_max_length": 512,
    });
    let pretty = serde_json::to_string_pretty(&config).unwrap_or_default();
    fs::write(folder.join("tokenizer_config.json"), pretty + "\n").map_err(io)?;
    fs::write(folder.join("chat_template.jinja"), TEMPLATE).map_err(io)
}
