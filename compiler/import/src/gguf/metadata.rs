//! The values of a GGUF file, by key.

use super::reader::Cursor;
use q35_diag::{Code, Diagnostic};
use std::collections::BTreeMap;

/// Lists of more elements than this are skipped.
const LONGEST: u64 = 4096;

/// Keys of lists that have an element for each token or merge, and may be longer.
const OF_VOCABULARY: &[&str] =
    &["tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores", "tokenizer.ggml.merges"];
const LARGEST_VOCABULARY: u64 = 1 << 20;

/// Lists inside lists deeper than this mean nothing.
const DEEPEST: u32 = 4;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Integer(i64),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    /// A list that was not kept.
    Skipped,
}

/// All values by key.
#[derive(Debug, Default)]
pub(super) struct Metadata(BTreeMap<String, Value>);

/// Numbers of the types.
const STRING: u32 = 8;
const LIST: u32 = 9;

/// Bytes of a value of a fixed size.
fn size(ty: u32) -> Option<u64> {
    match ty {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

impl Metadata {
    /// These values.
    #[cfg(test)]
    pub(super) fn of(values: impl IntoIterator<Item = (String, Value)>) -> Self {
        Self(values.into_iter().collect())
    }

    /// Reads `count` pairs of key and value.
    pub(super) fn read(cursor: &mut Cursor, count: u64) -> Result<Self, Diagnostic> {
        let mut all = BTreeMap::new();
        for _ in 0..count {
            let key = cursor.text()?;
            let ty = cursor.u32()?;
            let longest = if OF_VOCABULARY.contains(&key.as_str()) { LARGEST_VOCABULARY } else { LONGEST };
            let value = value(cursor, ty, longest, 0)?;
            if all.insert(key.clone(), value).is_some() {
                return Err(bad(format!("the key '{key}' is there twice")));
            }
        }
        Ok(Self(all))
    }

    /// A value.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A size; a list of equal ones, one for each layer, is that size.
    pub(super) fn size(&self, key: &str) -> Result<Option<u64>, Diagnostic> {
        let of = |value: &Value| match value {
            Value::Integer(n) => u64::try_from(*n).ok(),
            _ => None,
        };
        match self.get(key) {
            None => Ok(None),
            Some(Value::List(list)) => match list.split_first() {
                Some((first, rest)) if rest.iter().all(|other| other == first) && of(first).is_some() => Ok(of(first)),
                _ => Err(Diagnostic::error(Code::UnsupportedForm, format!("'{key}' differs from layer to layer"))),
            },
            Some(value) => of(value).map(Some).ok_or_else(|| bad(format!("'{key}' is no size"))),
        }
    }

    /// A number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, Diagnostic> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(x)) => Ok(Some(*x)),
            Some(Value::Integer(n)) => Ok(Some(*n as f64)),
            Some(_) => Err(bad(format!("'{key}' is no number"))),
        }
    }
}

fn bad(what: String) -> Diagnostic {
    Diagnostic::error(Code::BadConfig, what)
}

fn value(cursor: &mut Cursor, ty: u32, longest: u64, depth: u32) -> Result<Value, Diagnostic> {
    Ok(match ty {
        0 | 7 => Value::Integer(cursor.array::<1>()?[0].into()),
        1 => Value::Integer(i8::from_le_bytes(cursor.array()?).into()),
        2 => Value::Integer(u16::from_le_bytes(cursor.array()?).into()),
        3 => Value::Integer(i16::from_le_bytes(cursor.array()?).into()),
        4 => Value::Integer(cursor.u32()?.into()),
        5 => Value::Integer(i32::from_le_bytes(cursor.array()?).into()),
        6 => Value::Number(f32::from_le_bytes(cursor.array()?).into()),
        10 => Value::Integer(i64::try_from(cursor.u64()?).unwrap_or(i64::MAX)),
        11 => Value::Integer(i64::from_le_bytes(cursor.array()?)),
        12 => Value::Number(f64::from_le_bytes(cursor.array()?)),
        STRING => Value::Text(cursor.text()?),
        LIST => {
            let (ty, count) = (cursor.u32()?, cursor.u64()?);
            if depth == DEEPEST {
                return Err(bad("its values are lists in lists in lists".into()));
            }
            list(cursor, ty, count, longest, depth + 1)?
        }
        other => return Err(bad(format!("a value has type {other}, which means nothing"))),
    })
}

fn list(cursor: &mut Cursor, ty: u32, count: u64, longest: u64, depth: u32) -> Result<Value, Diagnostic> {
    if count <= longest {
        // An element takes at least a byte of the file, so this is bounded by it.
        return Ok(Value::List((0..count).map(|_| value(cursor, ty, longest, depth)).collect::<Result<_, _>>()?));
    }
    match (ty, size(ty)) {
        (_, Some(size)) => cursor.skip(count.checked_mul(size))?,
        (STRING, None) => {
            for _ in 0..count {
                let length = cursor.u64()?;
                cursor.skip(Some(length))?;
            }
        }
        _ => return Err(bad("it has a list of too many lists".into())),
    }
    Ok(Value::Skipped)
}
