//! The two texts that name a database in one line, as libpq reads them: a URL, and a line of keywords.
//!
//! Errors never repeat the text, since it may hold a password.

/// The longest text that is read.
const DSN_BYTES_MAX: usize = 8_192;

/// A keyword of libpq with its value, in the order of the text; a later one replaces an earlier one.
pub(super) type Pair = (String, String);

/// Why a text names no database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DsnError {
    /// It is neither of the two.
    #[error(
        "it is neither a URL such as postgres://user@host:5432/database nor a line of keywords such as \
         \"host=db.example.com dbname=app\""
    )]
    NeitherOfBoth,
    /// The URL is for something else.
    #[error("a URL must begin with postgres:// or postgresql://, not with {0}://")]
    Scheme(String),
    /// A `%` that does not begin an encoded byte.
    #[error("its {0} has a % that two hexadecimal digits do not follow: write %25 for the character itself")]
    Percent(&'static str),
    /// Bytes that are no text.
    #[error("its {0} is not UTF-8, or holds a NUL")]
    NoText(&'static str),
    /// `[` without `]`, or something odd behind.
    #[error("an IPv6 address is written [::1], with :port behind it or nothing")]
    Brackets,
    /// `name` without `=value`.
    #[error("{0:?} has no value: write {0}=value")]
    NoValue(String),
    /// A value with an open quote.
    #[error("the value of {0} begins with a quote that is never closed")]
    OpenQuote(String),
    /// Larger than anything sensible.
    #[error("it is longer than {DSN_BYTES_MAX} bytes")]
    TooLong,
}

/// Reads either of the two.
pub(super) fn parse(text: &str) -> Result<Vec<Pair>, DsnError> {
    if text.len() > DSN_BYTES_MAX {
        return Err(DsnError::TooLong);
    }
    if text.contains('\0') {
        return Err(DsnError::NoText("text"));
    }
    let text = text.trim();
    for scheme in ["postgres://", "postgresql://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return url(rest);
        }
    }
    if let Some((scheme, _)) = text.split_once("://")
        && scheme.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter))
    {
        return Err(DsnError::Scheme(scheme.to_owned()));
    }
    if text.contains('=') { keywords(text) } else { Err(DsnError::NeitherOfBoth) }
}

/// `user:password@host:port,host:port/database?keyword=value&…`
fn url(text: &str) -> Result<Vec<Pair>, DsnError> {
    let mut pairs = Vec::new();
    let (before, query) = text.split_once('?').map_or((text, None), |(before, query)| (before, Some(query)));
    let (authority, database) =
        before.split_once('/').map_or((before, None), |(authority, database)| (authority, Some(database)));
    // The last @, so that one in a password does no harm.
    let (user_info, hosts) =
        authority.rsplit_once('@').map_or((None, authority), |(user_info, hosts)| (Some(user_info), hosts));
    let mut say = |key: &str, value: String| {
        if !value.is_empty() {
            pairs.push((key.to_owned(), value));
        }
    };
    if let Some(user_info) = user_info {
        let (user, password) =
            user_info.split_once(':').map_or((user_info, None), |(user, password)| (user, Some(password)));
        say("user", decode(user, "user")?);
        say("password", decode(password.unwrap_or_default(), "password")?);
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = host_and_port(host)?;
        names.push(decode(name, "host")?);
        ports.push(decode(port, "port")?);
    }
    // A list of nothing but commas says nothing.
    for (key, list) in [("host", names), ("port", ports)] {
        if list.iter().any(|item| !item.is_empty()) {
            say(key, list.join(","));
        }
    }
    say("dbname", decode(database.unwrap_or_default(), "name of the database")?);
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decode(key, "list of parameters")?;
        if value.is_empty() {
            return Err(DsnError::NoValue(key));
        }
        match (key.as_str(), value) {
            // As JDBC says it, and libpq understands it.
            ("ssl", "true") => pairs.push(("sslmode".to_owned(), "require".to_owned())),
            _ => pairs.push((key, decode(value, "list of parameters")?)),
        }
    }
    Ok(pairs)
}

fn host_and_port(text: &str) -> Result<(&str, &str), DsnError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (name, behind) = rest.split_once(']').ok_or(DsnError::Brackets)?;
        return match behind.strip_prefix(':') {
            Some(port) => Ok((name, port)),
            None if behind.is_empty() => Ok((name, "")),
            None => Err(DsnError::Brackets),
        };
    }
    let (name, port) = text.split_once(':').unwrap_or((text, ""));
    if port.contains(':') { Err(DsnError::Brackets) } else { Ok((name, port)) }
}

fn decode(text: &str, part: &'static str) -> Result<String, DsnError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or(DsnError::Percent(part));
        let (high, low) = (digit()?, digit()?);
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or(DsnError::NoText(part))
}

/// `host=a port=5432 password='it''s'` with `\` before whatever is meant as it is.
fn keywords(text: &str) -> Result<Vec<Pair>, DsnError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|letter: char| letter == '=' || letter.is_whitespace()).unwrap_or(rest.len());
        let key = &rest[..end];
        let value = rest[end..].trim_start().strip_prefix('=').ok_or_else(|| DsnError::NoValue(word(key)))?;
        let (value, behind) = keyword_value(value.trim_start(), key)?;
        if key.is_empty() {
            return Err(DsnError::NeitherOfBoth);
        }
        pairs.push((key.to_owned(), value));
        rest = behind.trim_start();
    }
    Ok(pairs)
}

/// What may be shown of a word without `=`: it could be the end of a password that was not quoted.
fn word(text: &str) -> String {
    let is_keyword = text.len() <= 30 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if is_keyword { text.to_owned() } else { "a word".to_owned() }
}

fn keyword_value<'a>(text: &'a str, key: &str) -> Result<(String, &'a str), DsnError> {
    let quoted = text.strip_prefix('\'');
    let body = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut letters = body.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            '\'' if quoted.is_some() => return Ok((value, &body[at + 1..])),
            letter if quoted.is_none() && letter.is_whitespace() => return Ok((value, &body[at..])),
            letter => value.push(letter),
        }
    }
    if quoted.is_some() { Err(DsnError::OpenQuote(key.to_owned())) } else { Ok((value, "")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn urls_are_read_as_libpq_does() {
        let whole = [("user", "me"), ("password", "p@ss:/"), ("host", "db"), ("port", "5433"), ("dbname", "a b")];
        assert_eq!(read("postgres://me:p%40ss%3A%2F@db:5433/a%20b"), pairs(&whole));
        assert_eq!(read("postgresql://"), []);
        assert_eq!(read("postgres:///app"), pairs(&[("dbname", "app")]));
        let socket = [("host", "/run/pg"), ("dbname", "app")];
        assert_eq!(read("postgres://%2Frun%2Fpg/app"), pairs(&socket));
        assert_eq!(read("postgres:///app?host=/run/pg"), pairs(&[("dbname", "app"), ("host", "/run/pg")]));
        assert_eq!(read("postgres://db?ssl=true"), pairs(&[("host", "db"), ("sslmode", "require")]));
        assert_eq!(read("postgres://me:p@ss@db"), pairs(&[("user", "me"), ("password", "p@ss"), ("host", "db")]));
    }

    #[test]
    fn urls_name_several_hosts_and_ipv6_addresses() {
        let several = [("host", "a,::1,c"), ("port", "1,2,"), ("dbname", "db")];
        assert_eq!(read("postgres://a:1,[::1]:2,c/db"), pairs(&several));
        assert_eq!(read("postgres://[fe80::1]"), pairs(&[("host", "fe80::1")]));
        for bad in ["postgres://[::1/db", "postgres://[::1]5432/db", "postgres://::1/db"] {
            assert_eq!(parse(bad), Err(DsnError::Brackets), "{bad}");
        }
    }

    #[test]
    fn keywords_are_read_as_libpq_does() {
        let line = r"  host = a,b port=1,2 password='it\'s \\ here' dbname = app user=m\ e ";
        let said = [("host", "a,b"), ("port", "1,2"), ("password", r"it's \ here"), ("dbname", "app"), ("user", "m e")];
        assert_eq!(read(line), pairs(&said));
        assert_eq!(read("host='' dbname=app"), pairs(&[("host", ""), ("dbname", "app")]));
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_showing_a_password() {
        let refused = [
            ("db.example.com", DsnError::NeitherOfBoth),
            ("=x", DsnError::NeitherOfBoth),
            ("mysql://me:secret@db", DsnError::Scheme("mysql".to_owned())),
            ("postgres://me:50%secret@db", DsnError::Percent("password")),
            ("postgres://me:%00secret@db", DsnError::NoText("password")),
            ("postgres://me:%FFsecret@db", DsnError::NoText("password")),
            ("postgres://db?sslmode", DsnError::NoValue("sslmode".to_owned())),
            ("host=a password='secret", DsnError::OpenQuote("password".to_owned())),
            ("host=a password=my Secret1", DsnError::NoValue("a word".to_owned())),
        ];
        for (text, error) in refused {
            let found = parse(text).expect_err(text);
            assert_eq!(found, error, "{text}");
            assert!(!found.to_string().contains("ecret"), "{found}");
        }
        assert_eq!(parse(&format!("host={}", "x".repeat(DSN_BYTES_MAX))), Err(DsnError::TooLong));
    }
}
