//! Text to tokens. Comments end here.

use crate::{Fault, Result};

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// A name or a keyword.
    Word(String),
    /// `@name`.
    Builtin(String),
    Int(i64),
    Float(f64),
    Text(String),
    /// Operators and punctuation, longest first.
    Sign(&'static str),
    End,
}

/// Operators and punctuation; a sign stands before its own prefixes.
const SIGNS: &[&str] = &[
    "<<", ">>", "==", "!=", "<=", ">=", "->", "+=", "-=", "*=", "/=", "(", ")", "{", "}", "[", "]", ",", ";", ":", ".", "=",
    "+", "-", "*", "/", "%", "<", ">", "&", "|", "^", "!", "~",
];

/// Tokens with the lines on which they stand; the last is [`Token::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<(Token, u32)>> {
    let bytes = text.as_bytes();
    let (mut at, mut line, mut out) = (0, 1u32, Vec::new());
    let run = |from: usize, holds: fn(u8) -> bool| bytes[from..].iter().take_while(|b| holds(**b)).count();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    while at < bytes.len() {
        let rest = &text[at..];
        let byte = bytes[at];
        if byte == b'\n' {
            line += 1;
            at += 1;
        } else if byte.is_ascii_whitespace() {
            at += 1;
        } else if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if byte.is_ascii_digit() {
            let len = number(bytes, at);
            out.push((literal(&text[at..at + len]).map_err(|what| Fault::new(what).at("", line))?, line));
            at += len;
        } else if byte.is_ascii_alphabetic() || byte == b'_' {
            let len = run(at, word);
            out.push((Token::Word(text[at..at + len].to_owned()), line));
            at += len;
        } else if byte == b'@' {
            let len = run(at + 1, word);
            out.push((Token::Builtin(text[at + 1..at + 1 + len].to_owned()), line));
            at += 1 + len;
        } else if byte == b'"' {
            let len = run(at + 1, |b| b != b'"' && b != b'\n');
            if bytes.get(at + 1 + len) != Some(&b'"') {
                return Err(Fault::new("a string does not end").at("", line));
            }
            out.push((Token::Text(text[at + 1..at + 1 + len].to_owned()), line));
            at += len + 2;
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
            let sign = sign
                .ok_or_else(|| Fault::new(format!("'{}' begins no token", rest.chars().next().unwrap_or(' '))).at("", line))?;
            out.push((Token::Sign(sign), line));
            at += sign.len();
        }
    }
    out.push((Token::End, line));
    Ok(out)
}

/// Bytes of the number that starts at `at`.
fn number(bytes: &[u8], at: usize) -> usize {
    let hex = bytes[at] == b'0' && bytes.get(at + 1) == Some(&b'x');
    let mut end = at;
    while let Some(&byte) = bytes.get(end) {
        let sign_of_exponent = !hex && matches!(byte, b'-' | b'+') && matches!(bytes[end - 1], b'e' | b'E');
        if !(byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_' || sign_of_exponent) {
            break;
        }
        end += 1;
    }
    end - at
}

fn literal(text: &str) -> std::result::Result<Token, String> {
    let wrong = || format!("'{text}' is no number");
    if let Some(hex) = text.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16).map(Token::Int).map_err(|_| wrong());
    }
    if text.contains(['.', 'e', 'E']) {
        return text.parse().map(Token::Float).map_err(|_| wrong());
    }
    text.parse().map(Token::Int).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_tokens_with_lines() {
        let found = tokens("const a: u16 = 0x1f; // not this\n@fmovs(d, 1.5e-3, \"s\");").unwrap();
        let words: Vec<String> = found.iter().map(|(token, line)| format!("{line}{token:?}")).collect();
        assert_eq!(words[..4], [r#"1Word("const")"#, r#"1Word("a")"#, r#"1Sign(":")"#, r#"1Word("u16")"#]);
        assert!(words.contains(&"1Int(31)".to_owned()) && words.contains(&"2Float(0.0015)".to_owned()));
        assert!(words.contains(&r#"2Builtin("fmovs")"#.to_owned()) && words.contains(&r#"2Text("s")"#.to_owned()));
        for bad in ["\"open", "1x2", "$"] {
            assert!(tokens(bad).is_err(), "{bad}");
        }
    }
}
