//! Texts for people that must not fail to be recorded: cut at a limit, with a mark, and freed of NUL.

/// How long an error text may be, in bytes, the mark included.
pub(super) const TEXT_BYTES_MAX: usize = 16 << 10;

/// What stands at the end of a text that was cut.
const MARK: &str = "… (cut)";

/// The text as it can be recorded: NUL becomes U+FFFD, and what is longer than `max` bytes is cut, with a mark.
pub(super) fn recordable(text: String, max: usize) -> String {
    let text = if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text };
    if text.len() <= max {
        return text;
    }
    let mut end = max.saturating_sub(MARK.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut text = text;
    text.truncate(end);
    text.push_str(MARK);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_at_the_limit_is_whole_and_one_over_is_cut_with_a_mark() {
        let whole = "x".repeat(TEXT_BYTES_MAX);
        assert_eq!(recordable(whole.clone(), TEXT_BYTES_MAX), whole);
        let cut = recordable("x".repeat(TEXT_BYTES_MAX + 1), TEXT_BYTES_MAX);
        assert_eq!(cut.len(), TEXT_BYTES_MAX);
        assert!(cut.ends_with(MARK));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let cut = recordable("ä".repeat(TEXT_BYTES_MAX), TEXT_BYTES_MAX);
        assert!(cut.len() <= TEXT_BYTES_MAX && cut.ends_with(&format!("ä{MARK}")));
    }

    #[test]
    fn nul_is_replaced() {
        assert_eq!(recordable("a\0b".into(), 100), "a\u{fffd}b");
    }
}
