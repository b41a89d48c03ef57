//! The templates supplied with the tool, by name and purpose.

use super::Purpose;

macro_rules! shipped {
    ($($name:literal, $purpose:ident, $file:literal;)*) => {
        &[$((
            $name,
            Purpose::$purpose,
            include_str!(concat!("../../templates/", $file, ".toml")),
        )),*]
    };
}

pub(super) const SHIPPED: &[(&str, Purpose, &str)] = shipped![
    "pair", Pair, "pair";
    "pair_brief", Pair, "pair_brief";
    "bai", Pair, "bai";
    "lee_summary", Pair, "lee_summary";
    "lee_helpful", Pair, "lee_helpful";
    "lee_harmless", Pair, "lee_harmless";
    "zheng", Pair, "zheng";
    "alpaca_eval", Pair, "alpaca_eval";
    "prometheus", Pair, "prometheus";
    "reason_after", ReasonAfter, "reason_after";
    "score", Score, "score";
    "lee_direct", Score, "lee_direct";
    "zheng_single", Score, "zheng_single";
    "prometheus_single", Score, "prometheus_single";
    "ultrafeedback", Score, "ultrafeedback";
    "structured", Critique, "critique_structured";
    "json", Critique, "critique_json";
    "cai", Critique, "critique_cai";
    "cai", Revise, "revise_cai";
];
