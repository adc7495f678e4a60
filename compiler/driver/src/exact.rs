//! Records as JSON that gives back the same floats to the last bit, which decimal digits and their reader do not promise: a record that comes from a file is the record that was measured.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value, json};

/// The one field of the object that stands for a float.
const BITS: &str = "f64 bits";

/// As JSON, each float an object with its bits; `None` for what is no JSON.
pub(crate) fn to_json(record: &impl Serialize) -> Option<Value> {
    fn hidden(value: Value) -> Value {
        match value {
            Value::Number(number) if number.is_f64() => json!({ BITS: number.as_f64().map(f64::to_bits) }),
            Value::Array(all) => all.into_iter().map(hidden).collect(),
            Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, hidden(value))).collect(),
            other => other,
        }
    }
    serde_json::to_value(record).ok().map(hidden)
}

/// The inverse of [`to_json`]; `None` for anything else.
pub(crate) fn from_json<T: DeserializeOwned>(value: Value) -> Option<T> {
    fn shown(value: Value) -> Value {
        let float = |fields: &Map<String, Value>| Number::from_f64(f64::from_bits(fields.get(BITS)?.as_u64()?));
        match value {
            Value::Array(all) => all.into_iter().map(shown).collect(),
            Value::Object(fields) => match float(&fields) {
                Some(number) => Value::Number(number),
                None => fields.into_iter().map(|(name, value)| (name, shown(value))).collect(),
            },
            other => other,
        }
    }
    serde_json::from_value(shown(value)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_quantize::{Calibrated, Record, Thin, WorstRow};

    #[test]
    fn floats_come_back_to_the_last_bit() {
        // Digits of a hard case: a reader that is one bit off for one float in many shows in a thousand.
        for step in 1u32..1000 {
            let x = f64::from(step).sqrt() / 7.0;
            let record = Record {
                source: Some("u4".to_owned()),
                effective_bits: x,
                relative_error: x.sin().abs(),
                snr_db: (step % 2 == 0).then_some(-x.ln()),
                worst_row: WorstRow { row: step.into(), relative_error: x.exp() },
                accumulator_bound: Some(1 << 30),
                calibrated: Some(Calibrated {
                    weighted_error: x / 3.0,
                    tokens: 7,
                    damping: 0.0,
                    thin_experts: vec![Thin { expert: 1, tokens: 2, lent: 3 }],
                }),
            };
            let text = serde_json::to_string(&to_json(&record).unwrap()).unwrap();
            assert_eq!(from_json::<Record>(serde_json::from_str(&text).unwrap()), Some(record));
        }
        assert_eq!(from_json::<Record>(json!({ "effective_bits": 1 })), None);
    }
}
