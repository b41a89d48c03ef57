//! What passes between losses and the network.

/// A row of tokens, and those of them that the objective looks at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Same length: tokens whose log-probability matters (the completion's).
    pub wanted: Vec<bool>,
}

impl Row {
    /// A row whose first `prompt` tokens are given and the rest is the completion.
    #[must_use]
    pub fn completion(tokens: Vec<u32>, prompt: usize) -> Self {
        let wanted = (0..tokens.len()).map(|i| i >= prompt.max(1)).collect();
        Row { tokens, wanted }
    }
}

/// Packed rows.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBatch {
    /// All rows' tokens, one row after the other.
    pub tokens: Vec<u32>,
    /// Row r is `tokens[offsets[r]..offsets[r + 1]]`.
    pub offsets: Vec<usize>,
    /// Same length as `tokens`: whose log-probability and entropy are wanted.
    pub wanted: Vec<bool>,
    /// Divides the logits; that of sampling, for PPO.
    pub temperature: f32,
    /// Whether entropies are wanted.
    pub entropy: bool,
}

impl TokenBatch {
    /// Packs rows, at temperature 1 and without entropies.
    #[must_use]
    pub fn pack<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Self {
        let mut batch = TokenBatch {
            tokens: Vec::new(),
            offsets: vec![0],
            wanted: Vec::new(),
            temperature: 1.0,
            entropy: false,
        };
        for row in rows {
            batch.tokens.extend(&row.tokens);
            batch.wanted.extend(&row.wanted);
            batch.offsets.push(batch.tokens.len());
        }
        batch
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Indices of a row's tokens.
    #[must_use]
    pub fn row(&self, r: usize) -> std::ops::Range<usize> {
        self.offsets[r]..self.offsets[r + 1]
    }

    /// Sum over a row's wanted tokens.
    #[must_use]
    pub fn sum(&self, r: usize, values: &[f32]) -> f32 {
        self.row(r)
            .filter(|i| self.wanted[*i])
            .map(|i| f64::from(values[i]))
            .sum::<f64>() as f32
    }
}

/// Per-token outputs, each as long as the batch's tokens, or empty where there are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenOutputs {
    /// log p(token | the row's tokens before it), natural; 0 where not wanted.
    pub logprobs: Vec<f32>,
    /// Entropy in nats of the distribution that predicted the token.
    pub entropy: Vec<f32>,
    /// The scalar head's output at the token.
    pub values: Vec<f32>,
}

/// Gradients with respect to [`TokenOutputs`]; an empty list is zero.
pub type TokenGrads = TokenOutputs;

/// A loss: its value, its gradient, and what is worth watching.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss<M> {
    /// The value.
    pub value: f32,
    /// d value / d outputs.
    pub grads: TokenGrads,
    /// Sums and means, for the log.
    pub metrics: M,
}

/// A network that can be trained through its per-token outputs.
pub trait Trainable {
    /// What the way back needs.
    type Tape;
    /// What can go wrong.
    type Error: std::error::Error;

    /// Outputs with a tape.
    ///
    /// # Errors
    /// The network's own.
    fn forward(&mut self, batch: &TokenBatch) -> Result<(TokenOutputs, Self::Tape), Self::Error>;

    /// Outputs alone.
    ///
    /// # Errors
    /// The network's own.
    fn evaluate(&self, batch: &TokenBatch) -> Result<TokenOutputs, Self::Error>;

    /// Outputs of the frozen reference model.
    ///
    /// # Errors
    /// The network's own.
    fn reference(&self, batch: &TokenBatch) -> Result<TokenOutputs, Self::Error>;

    /// Adds a gradient.
    ///
    /// # Errors
    /// The network's own.
    fn backward(&mut self, tape: Self::Tape, grads: &TokenGrads) -> Result<(), Self::Error>;

    /// Clips, updates, zeroes; returns the gradient's norm before clipping.
    ///
    /// # Errors
    /// A gradient that is not finite: no parameter has been changed.
    fn step(&mut self, lr: f32) -> Result<f32, Self::Error>;
}

/// Why training stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError<E: std::error::Error> {
    /// The network failed.
    #[error(transparent)]
    Model(E),
    /// A loss that is not a number.
    #[error(
        "the loss of step {step} is {value}; the last checkpoint is kept: lower the learning rate"
    )]
    NotFinite {
        /// Which step.
        step: u64,
        /// The value.
        value: f32,
    },
    /// A checkpoint could not be written, or the caller asked to stop.
    #[error("{0}")]
    Stopped(String),
    /// Nothing to train on.
    #[error("{0}")]
    Empty(String),
    /// An iteration would not hold all completions of its prompts.
    #[error("`batch_size` ({batch}) is no multiple of `num_generations` ({group})")]
    Uneven {
        /// Completions an iteration.
        batch: usize,
        /// Completions a prompt.
        group: usize,
    },
}

/// log σ(x) without overflow.
pub(crate) fn log_sigmoid(x: f32) -> f32 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// σ(x) without overflow.
pub(crate) fn sigmoid(x: f32) -> f32 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}
