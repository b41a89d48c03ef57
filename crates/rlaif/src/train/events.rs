//! TensorBoard's event files: length-delimited `tensorflow.Event` messages with masked CRC-32C.
//!
//! A record is the length (u64), its checksum (u32), the message, its checksum (u32), all
//! little-endian (tensorflow/core/lib/io/record_writer.h). Of `Event` (tensorflow/core/util/
//! event.proto) this writes `wall_time` (1), `step` (2), `file_version` (3) and `summary` (5),
//! which holds values (1) with `tag` (1) and `simple_value` (2).

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// A record with every number of a log line, objects inside it by dotted names. The first step's
/// comes after the record that begins a file.
#[must_use]
pub fn scalars(step: u64, line: &Value) -> Vec<u8> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64());
    let mut out = Vec::new();
    if step <= 1 {
        let mut event = wall_time(now);
        field(&mut event, 3, b"brain.Event:2");
        record(&mut out, &event);
    }
    let mut summary = Vec::new();
    collect("", line, &mut summary);
    let mut event = wall_time(now);
    event.push(2 << 3);
    varint(&mut event, step);
    field(&mut event, 5, &summary);
    record(&mut out, &event);
    out
}

fn collect(name: &str, value: &Value, summary: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let name = if name.is_empty() {
                    key.clone()
                } else {
                    format!("{name}.{key}")
                };
                collect(&name, value, summary);
            }
        }
        Value::Number(n) => {
            let mut scalar = Vec::new();
            field(&mut scalar, 1, name.as_bytes());
            scalar.push(2 << 3 | 5);
            scalar.extend((n.as_f64().unwrap_or(f64::NAN) as f32).to_le_bytes());
            field(summary, 1, &scalar);
        }
        _ => {}
    }
}

fn wall_time(seconds: f64) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(seconds.to_le_bytes());
    event
}

/// A length-delimited field.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn record(out: &mut Vec<u8>, message: &[u8]) {
    let length = (message.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(message);
    out.extend(masked(message).to_le_bytes());
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's polynomial, reflected. A log line has a few hundred bytes: bit by bit will do.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_rfc() {
        // RFC 3720, appendix B.4: 32 bytes of zeros, of ones, and rising.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46dd_794e);
    }

    #[test]
    fn numbers_are_written_under_their_names() {
        let line =
            serde_json::json!({"loss": 0.5, "eval": {"pairs": 3}, "note": "x", "none": null});
        let bytes = scalars(7, &line);
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(bytes.len(), 8 + 4 + length + 4);
        let message = &bytes[12..12 + length];
        // wall_time is nine bytes; then step 7, and a summary.
        assert_eq!(&message[9..11], [2 << 3, 7]);
        let shown = |tag: &str, value: f32| {
            let mut want = tag.as_bytes().to_vec();
            want.push(2 << 3 | 5);
            want.extend(value.to_le_bytes());
            message.windows(want.len()).any(|w| w == want)
        };
        assert!(shown("loss", 0.5) && shown("eval.pairs", 3.0));
        assert!(!message.windows(4).any(|w| w == b"note"));
    }
}
