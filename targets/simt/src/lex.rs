//! LLVM's text as tokens.

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A keyword, type name, number or label: letters, digits, `.`, `-`, `+`, `_`, `$`.
    Word(String),
    /// `%name` without the sign.
    Local(String),
    /// `@name` without the sign.
    Global(String),
    /// `c"..."`, its escapes resolved.
    Bytes(Vec<u8>),
    /// `"..."`, as it is.
    Text(String),
    /// `#0`, `!dbg`: attributes and metadata.
    Note(String),
    /// Any other character.
    Sign(char),
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-+$".contains(c)
}

/// The tokens of a line; a comment ends it.
pub(crate) fn line(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        rest = match first {
            ' ' | '\t' => after,
            ';' => break,
            '"' => {
                let (quoted, after) = string(after)?;
                tokens.push(Token::Text(quoted.to_owned()));
                after
            }
            'c' if after.starts_with('"') => {
                let (quoted, after) = string(&after[1..])?;
                tokens.push(Token::Bytes(unescape(quoted)?));
                after
            }
            '%' | '@' => {
                let (name, after) = match after.strip_prefix('"') {
                    Some(quoted) => string(quoted)?,
                    None => word(after),
                };
                tokens.push(if first == '%' { Token::Local(name.to_owned()) } else { Token::Global(name.to_owned()) });
                after
            }
            '#' | '!' => {
                let (name, after) = word(after);
                tokens.push(Token::Note(name.to_owned()));
                after
            }
            c if is_word(c) => {
                let (word, after) = word(rest);
                tokens.push(Token::Word(word.to_owned()));
                after
            }
            sign => {
                tokens.push(Token::Sign(sign));
                after
            }
        };
    }
    Ok(tokens)
}

fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c| !is_word(c)).unwrap_or(text.len()))
}

/// The text up to the closing quote, and what follows it.
fn string(text: &str) -> Result<(&str, &str), String> {
    text.split_once('"').ok_or_else(|| "a string does not end".to_owned())
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16)).ok_or("a broken escape");
        bytes.push((digit(rest.next())? * 16 + digit(rest.next())?) as u8);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_token() {
        use Token::*;
        let words = |text: &str| line(text).unwrap();
        assert_eq!(
            words(r#"@"a b" = c"\0Ax", %1.2 -0.5e+3 #0, !dbg "t" ; rest"#),
            [
                Global("a b".into()),
                Sign('='),
                Bytes(vec![10, b'x']),
                Sign(','),
                Local("1.2".into()),
                Word("-0.5e+3".into()),
                Note("0".into()),
                Sign(','),
                Note("dbg".into()),
                Text("t".into()),
            ]
        );
        assert!(line("c\"\\0").is_err());
    }
}
