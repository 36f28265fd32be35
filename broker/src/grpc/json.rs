//! Checks JSON text without changing a byte of it.

use serde::de::IgnoredAny;

/// How deep arguments and results may be nested.
pub(super) const DEPTH_MAX: usize = 64;

/// What is wrong with a JSON text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum JsonError {
    #[error("is not UTF-8")]
    NotUtf8,
    #[error("is nested more than {DEPTH_MAX} deep")]
    TooDeep,
    #[error("is not JSON: {0}")]
    Syntax(String),
}

/// Checks that these bytes are one JSON text, nested no deeper than [`DEPTH_MAX`].
pub(super) fn check(bytes: &[u8]) -> Result<(), JsonError> {
    // What most jobs without arguments send.
    if bytes == b"{}" {
        return Ok(());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| JsonError::NotUtf8)?;
    if depth(bytes) > DEPTH_MAX {
        return Err(JsonError::TooDeep);
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(IgnoredAny) => Ok(()),
        Err(error) => Err(JsonError::Syntax(error.to_string())),
    }
}

/// How deep the brackets outside of strings go. Exact for valid JSON, and bounded work for any bytes.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = rest.next() {
                    match byte {
                        b'\\' => {
                            rest.next();
                        }
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_every_kind_passes_byte_for_byte() {
        for text in ["{}", " {} ", "null", "12345678901234567890123", "1e999", r#"{"a":[1,"[[[\"{"]}"#, r#""\u0000""#] {
            assert_eq!(check(text.as_bytes()), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for bytes in [&b""[..], b"{", b"{} {}", b"{'a':1}", b"\"\x00\"", b"nul", b"\xef\xbb\xbf{}", b"[1,]"] {
            assert!(matches!(check(bytes), Err(JsonError::Syntax(_))), "{bytes:?}");
        }
        assert_eq!(check(b"\"\xff\""), Err(JsonError::NotUtf8));
        assert_eq!(check(b"\"\xed\xa0\x80\""), Err(JsonError::NotUtf8));
    }

    #[test]
    fn depth_is_counted_at_the_edge_and_one_over() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check(nested(DEPTH_MAX).as_bytes()), Ok(()));
        assert_eq!(check(nested(DEPTH_MAX + 1).as_bytes()), Err(JsonError::TooDeep));
        assert_eq!(check(nested(100_000).as_bytes()), Err(JsonError::TooDeep));
    }
}
