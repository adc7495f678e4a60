//! The codecs and one table of facts about them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::FormatError;

/// How weights are stored. The name (`Display`, `FromStr`, serde) is the command line's and the manifest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // FACTS says what each one is
pub enum Codec {
    F32,
    F16,
    Bf16,
    Q8,
    Split,
    W7,
    W8,
    W9,
    W10,
    W11,
    W12,
    A11,
}

/// What the bytes of a row are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// K IEEE 754 or bfloat16 values, little-endian, without scales.
    Float {
        /// Bytes per value.
        bytes: usize,
    },
    /// K two's complement bytes and scales.
    Int8,
    /// A stream of 7-bit containers, a table indexed by windows of `window` bits, and scales.
    Pairs {
        /// Bits per window, `W = 7 + m`.
        window: u32,
    },
}

/// A row of the table of codecs.
#[derive(Debug)]
pub struct Facts {
    /// The codec.
    pub codec: Codec,
    /// Its name.
    pub name: &'static str,
    /// What its bytes are.
    pub storage: Storage,
    /// Standard deviation, in units of the decoded integers, of the zero-mean Gaussian that a table of pairs serves
    /// best: a Gaussian row starts from `scale = rms / sigma`. 0 where there is no table.
    pub sigma: f32,
    /// Mean squared error per weight on a unit Gaussian source, as measured by this crate's tests. 0 where there is no
    /// table.
    pub mse: f64,
    /// Bits of the window at which the 4-bit fields start whose table entries add up to the pair
    /// ([`parts`](crate::table::parts)). Empty where a table has no such structure.
    pub fields: &'static [u32],
    /// What it is, for listings.
    pub summary: &'static str,
}

/// Bits of a field of an additive table: what one shuffle of a 16-byte register looks up.
pub const FIELD_BITS: u32 = 4;

/// The largest absolute value of an additive table. The sum of two products of such a weight and an activation moved
/// into `u8` stays within `i16`: `2 * 63 * 255 < 2^15`.
pub const ADDITIVE_LIMIT: i8 = 63;

const FLOAT32: Storage = Storage::Float { bytes: 4 };
const FLOAT16: Storage = Storage::Float { bytes: 2 };

const fn pairs(window: u32) -> Storage {
    Storage::Pairs { window }
}

/// Every codec, in the order of [`Codec`]'s variants.
#[rustfmt::skip]
pub const FACTS: [Facts; 12] = [
    Facts { codec: Codec::F32,   name: "f32",   storage: FLOAT32,       sigma: 0.0,  mse: 0.0,    fields: &[], summary: "IEEE single precision: no quantization" },
    Facts { codec: Codec::F16,   name: "f16",   storage: FLOAT16,       sigma: 0.0,  mse: 0.0,    fields: &[], summary: "IEEE half precision" },
    Facts { codec: Codec::Bf16,  name: "bf16",  storage: FLOAT16,       sigma: 0.0,  mse: 0.0,    fields: &[], summary: "bfloat16" },
    Facts { codec: Codec::Q8,    name: "q8",    storage: Storage::Int8, sigma: 0.0,  mse: 0.0,    fields: &[], summary: "8-bit integers, symmetric" },
    Facts { codec: Codec::Split, name: "split", storage: pairs(7),      sigma: 6.52, mse: 0.0251, fields: &[], summary: "3.5 bits: a 4-bit and a 3-bit integer" },
    Facts { codec: Codec::W7,    name: "w7",    storage: pairs(7),      sigma: 41.0, mse: 0.0152, fields: &[], summary: "3.5 bits: 128 points of the plane" },
    Facts { codec: Codec::W8,    name: "w8",    storage: pairs(8),      sigma: 36.0, mse: 0.0127, fields: &[], summary: "3.5 bits: a trellis of 2 states over 256 points" },
    Facts { codec: Codec::W9,    name: "w9",    storage: pairs(9),      sigma: 36.0, mse: 0.0114, fields: &[], summary: "3.5 bits: a trellis of 4 states over 512 points" },
    Facts { codec: Codec::W10,   name: "w10",   storage: pairs(10),     sigma: 36.0, mse: 0.0106, fields: &[], summary: "3.5 bits: a trellis of 8 states over 1024 points" },
    Facts { codec: Codec::W11,   name: "w11",   storage: pairs(11),     sigma: 36.0, mse: 0.0101, fields: &[], summary: "3.5 bits: a trellis of 16 states over 2048 points" },
    Facts { codec: Codec::W12,   name: "w12",   storage: pairs(12),     sigma: 36.0, mse: 0.0097, fields: &[], summary: "3.5 bits: a trellis of 32 states over 4096 points" },
    Facts { codec: Codec::A11,   name: "a11",   storage: pairs(11),     sigma: 15.5, mse: 0.0115, fields: &[0, 3, 7], summary: "3.5 bits: a trellis of 16 states over sums of three 16-entry tables" },
];

/// Bits of a container, the unit of two weights.
pub const CONTAINER_BITS: u32 = 7;

impl Codec {
    /// The codec's row of [`FACTS`].
    pub const fn facts(self) -> &'static Facts {
        &FACTS[self as usize]
    }

    /// The codec's name.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Every codec, in the order of [`FACTS`].
    pub fn all() -> impl Iterator<Item = Codec> {
        FACTS.iter().map(|facts| facts.codec)
    }

    /// Bits per weight without scales: 3.5 for the pair codecs.
    pub fn bits(self) -> f64 {
        match self.facts().storage {
            Storage::Float { bytes } => 8.0 * bytes as f64,
            Storage::Int8 => 8.0,
            Storage::Pairs { .. } => f64::from(CONTAINER_BITS) / 2.0,
        }
    }

    /// Window width `W` in bits of a pair codec.
    pub fn window(self) -> Option<u32> {
        match self.facts().storage {
            Storage::Pairs { window } => Some(window),
            _ => None,
        }
    }

    /// Whether rows carry scales; the float codecs do not.
    pub fn has_scales(self) -> bool {
        !matches!(self.facts().storage, Storage::Float { .. })
    }
}

/// The names of all codecs, separated by commas.
pub fn names() -> String {
    FACTS.map(|facts| facts.name).join(", ")
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Codec {
    type Err = FormatError;

    fn from_str(name: &str) -> Result<Self, FormatError> {
        Codec::all().find(|codec| codec.name() == name).ok_or_else(|| FormatError::UnknownCodec(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_in_the_order_of_the_variants_and_names_round_trip() {
        for (index, codec) in Codec::all().enumerate() {
            assert_eq!(codec as usize, index);
            assert_eq!(codec.name().parse(), Ok(codec));
            assert_eq!(serde_json::to_value(codec).unwrap(), codec.name());
        }
        assert_eq!("q4".parse::<Codec>(), Err(FormatError::UnknownCodec("q4".into())));
    }
}
