//! Pages of lists: how long they are, and the tokens that say where a list goes on, bound to what is listed.

use uuid::Uuid;

use super::check::Invalid;

/// Entries of a page, and what an unnamed size means.
const PAGE_SIZE_MAX: u32 = 1_000;
const PAGE_SIZE_DEFAULT: u32 = 100;

/// How many entries a page has at most.
pub(super) fn size(asked: u32) -> Result<u32, Invalid> {
    match asked {
        0 => Ok(PAGE_SIZE_DEFAULT),
        1..=PAGE_SIZE_MAX => Ok(asked),
        _ => Err(Invalid::new("page_size", format!("is {asked}; the limit is {PAGE_SIZE_MAX}"))),
    }
}

/// The token of the page that goes on behind this number of the same list.
pub(super) fn token(last: i64, filters: Uuid) -> String {
    format!("{last:x}.{:08x}", filters.as_fields().0)
}

/// Reads a token; it must be one of the same list.
pub(super) fn parse(token: &str, filters: Uuid) -> Result<Option<i64>, Invalid> {
    if token.is_empty() {
        return Ok(None);
    }
    let malformed =
        || Invalid::new("page_token", "is no token of this list; give it back as it came, with the same filters");
    let (last, check) = token.split_once('.').ok_or_else(malformed)?;
    let last = i64::from_str_radix(last, 16).ok().filter(|last| *last > 0).ok_or_else(malformed)?;
    if check != format!("{:08x}", filters.as_fields().0) {
        return Err(malformed());
    }
    Ok(Some(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_on_with_the_same_list_only() {
        let (one, two) = (Uuid::from_u128(1 << 96), Uuid::from_u128(2 << 96));
        let token = token(4_711, one);
        assert_eq!(parse(&token, one), Ok(Some(4_711)));
        assert!(parse(&token, two).is_err() && parse("x", one).is_err() && parse("-1.00000001", one).is_err());
        assert_eq!(parse("", one), Ok(None));
    }
}
