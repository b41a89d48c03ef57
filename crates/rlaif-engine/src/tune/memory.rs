//! What training will take, before it takes it.

use crate::config::LlamaConfig;

/// Bytes of a training run, f32 throughout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Footprint {
    /// The weights.
    pub weights: u64,
    /// Their gradients, or an adapter's.
    pub gradients: u64,
    /// AdamW's two moments of whatever trains.
    pub moments: u64,
    /// What a forward pass keeps for the way back, and both work in.
    pub activations: u64,
}

impl Footprint {
    /// Of training all weights, or an adapter of rank `lora` on all projections, with `tokens` in
    /// memory at once.
    ///
    /// Activations: per token and block the two residual inputs, q, k, v, attention's output and
    /// log-sum-exp, gate and up; once per token what the passes work in.
    #[must_use]
    pub fn of(c: &LlamaConfig, lora: Option<usize>, tokens: u64) -> Self {
        let (d, f) = (c.hidden as u64, c.intermediate as u64);
        let (q, kv) = (
            (c.heads * c.head_dim) as u64,
            (c.kv_heads * c.head_dim) as u64,
        );
        let layers = c.layers as u64;
        let trained = match lora {
            None => c.parameters(),
            // Rank × (in + out) of q, k, v, o, gate, up and down.
            Some(r) => layers * r as u64 * (2 * (d + q) + 2 * (d + kv) + 3 * (d + f)),
        };
        let adapter = if lora.is_some() { trained } else { 0 };
        let kept = 2 * d + 2 * q + 2 * kv + 2 * f + c.heads as u64 + 2;
        let work = 5 * d + 3 * f + 2 * q + 2 * kv;
        Footprint {
            weights: 4 * (c.parameters() + adapter),
            gradients: 4 * trained,
            moments: 8 * trained,
            activations: 4 * tokens * (layers * kept + work),
        }
    }

    /// The sum.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.moments + self.activations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footprint_is_the_sum_of_its_parts() {
        // Vocabulary 10, width 4, 1 block, 2 heads of 2, hidden 6, tied embeddings:
        // 40 + block (16 q + 16 k + 16 v + 16 o + 72 + 8) + 4 = 188 weights.
        let mut c = LlamaConfig::new(10, 4, 6, 1, 2, 2);
        c.tied = true;
        assert_eq!(c.parameters(), 188);
        let full = Footprint::of(&c, None, 3);
        assert_eq!(
            (full.weights, full.gradients, full.moments),
            (752, 752, 1504)
        );
        // Kept: 8 + 8 + 8 + 12 + 2 + 2 = 40; work: 20 + 18 + 8 + 8 = 54; 3 tokens of 4 bytes each.
        assert_eq!(full.activations, 4 * 3 * 94);
        // Rank 1: 2 × 8 + 2 × 8 + 3 × 10 = 62 more.
        let lora = Footprint::of(&c, Some(1), 3);
        assert_eq!((lora.weights, lora.gradients), (752 + 248, 248));
    }
}
