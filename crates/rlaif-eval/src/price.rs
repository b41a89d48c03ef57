//! What a preference label costs, by who gives it and who says so.

/// What one label costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelPrice {
    /// Short name.
    pub name: &'static str,
    /// Who labels, in words.
    pub rater: &'static str,
    /// US dollars a label.
    pub usd: f64,
    /// Where the figure is from.
    pub source: &'static str,
}

/// Named prices of a label, cheapest first.
pub const LABEL_PRICES: [LabelPrice; 5] = [
    LabelPrice {
        name: "ai_cent",
        rater: "AI, a small model",
        usd: 0.01,
        source: "the order of magnitude that RLAIF is known for",
    },
    LabelPrice {
        name: "ai_lee",
        rater: "AI, a large model",
        usd: 0.06,
        source: "Lee et al. 2023, appendix: 830 prompt and 61 generated tokens, twice, at GPT-4's price",
    },
    LabelPrice {
        name: "human_alpaca_farm",
        rater: "people, crowd workers",
        usd: 0.30,
        source: "Dubois et al. 2023: $300 for 1,000 labels",
    },
    LabelPrice {
        name: "human_lee",
        rater: "people, paid by the words to read",
        usd: 0.67,
        source: "Lee et al. 2023, appendix: 304 words at $0.11 for 50",
    },
    LabelPrice {
        name: "human_dollar",
        rater: "people, experts",
        usd: 1.00,
        source: "the order of magnitude of expert annotation: a dollar and more a label",
    },
];

/// A named price; `None` for a name that the table lacks.
#[must_use]
pub fn label_price(name: &str) -> Option<LabelPrice> {
    LABEL_PRICES.into_iter().find(|p| p.name == name)
}
