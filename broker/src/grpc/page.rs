//! Page tokens: where a list goes on, bound to what is listed.

use uuid::Uuid;

use crate::core::types::JobId;

use super::check::Invalid;

/// The token of the page that goes on below this id of the same list.
pub(super) fn token(below: JobId, filters: Uuid) -> String {
    format!("{:x}.{:08x}", below.0, filters.as_fields().0)
}

/// Reads a token; it must be one of the same list.
pub(super) fn parse(token: &str, filters: Uuid) -> Result<Option<JobId>, Invalid> {
    if token.is_empty() {
        return Ok(None);
    }
    let malformed =
        || Invalid::new("page_token", "is no token of this list; give it back as it came, with the same filters");
    let (id, check) = token.split_once('.').ok_or_else(malformed)?;
    let id = i64::from_str_radix(id, 16).ok().filter(|id| *id > 0).ok_or_else(malformed)?;
    if check != format!("{:08x}", filters.as_fields().0) {
        return Err(malformed());
    }
    Ok(Some(JobId(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_on_with_the_same_list_only() {
        let (one, two) = (Uuid::from_u128(1 << 96), Uuid::from_u128(2 << 96));
        let token = token(JobId(4_711), one);
        assert_eq!(parse(&token, one), Ok(Some(JobId(4_711))));
        assert!(parse(&token, two).is_err() && parse("x", one).is_err() && parse("-1.00000001", one).is_err());
        assert_eq!(parse("", one), Ok(None));
    }
}
