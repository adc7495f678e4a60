//! Cycles, each with its source, from a file: no constant of timing is in code.

use serde::Deserialize;

/// The timing of the first-generation chip.
pub const TSP1: &str = include_str!("../timing/tsp1.toml");

/// A number and where it is from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constant {
    /// The number.
    pub value: i64,
    /// What kind of evidence there is: `isca2020`, `isca2022`, `comments`, `derived`, `assumed`.
    pub source: String,
    /// What it means.
    pub note: String,
}

macro_rules! timing {
    ($($table:ident { $($(#[$doc:meta])* $name:ident: $field:literal,)* })*) => {
        /// Cycles by name; see the file for what each means.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Timing {
            /// Cycles per microsecond.
            pub clock_mhz: i64,
            $($($(#[$doc])* pub $name: i64,)*)*
        }

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[allow(dead_code)]
            name: String,
            clock_mhz: Constant,
            $($table: std::collections::BTreeMap<String, Constant>,)*
        }

        impl Timing {
            /// Reads a timing file; an error says what is missing, unknown or without a source.
            pub fn parse(text: &str) -> Result<Self, String> {
                let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
                let known: &[(&str, &str)] = &[$($((stringify!($table), $field)),*),*];
                $(for field in file.$table.keys() {
                    if !known.contains(&(stringify!($table), field)) {
                        return Err(format!("[{}] {field} is not known", stringify!($table)));
                    }
                })*
                let checked = |constant: &Constant| match constant.source.as_str() {
                    "isca2020" | "isca2022" | "comments" | "derived" | "assumed" if (0..1 << 20).contains(&constant.value) => Ok(constant.value),
                    source => Err(format!("{} from '{source}'", constant.value)),
                };
                let clock_mhz = checked(&file.clock_mhz)?;
                $($(let $name = checked(file.$table.get($field).ok_or(concat!("[", stringify!($table), "] has no ", $field))?)?;)*)*
                Ok(Self { clock_mhz, $($($name,)*)* })
            }
        }
    };
}

timing! {
    mem {
        /// Dispatch to stream register.
        read: "read",
        /// Dispatch to the first read that sees it.
        write: "write",
    }
    vxm {
        /// Stream register to ALU.
        enter: "enter",
        /// An ALU's op.
        op: "op",
    }
    sxm {
        /// A map reaches the permutor.
        map: "map",
        /// Through the permutor.
        permute: "permute",
        /// Through a transposer.
        transpose: "transpose",
    }
    mxm {
        /// Stream register to weight buffer.
        weights: "weights",
        /// Weight buffer to array.
        install: "install",
        /// Activation to accumulator.
        multiply: "multiply",
        /// Accumulator to stream register.
        result: "result",
        /// Accumulators per plane, vectors.
        accumulators: "accumulators",
    }
    c2c {
        /// From one chip to the next.
        hop: "hop",
        /// Shortest latency of a link.
        latency_min: "latency_min",
        /// Longest latency of a link.
        latency_max: "latency_max",
        /// A received vector to stream register.
        receive: "receive",
        /// Vectors that can wait at the end of a link.
        buffer: "buffer",
        /// Cycles of an epoch.
        epoch: "epoch",
        /// A vector on a link.
        link: "link",
    }
    phases {
        /// Vector phases of a layer.
        vector: "vector",
        /// The same per 1000 columns.
        vector_column: "vector_column",
        /// Attention, per entry of the cache and pair of vectors of queries.
        vector_entry: "vector_entry",
    }
    icu {
        /// Bytes of an instruction in memory.
        instruction_bytes: "instruction_bytes",
    }
}

impl Timing {
    /// The first-generation chip.
    pub fn tsp1() -> Self {
        Self::parse(TSP1).unwrap_or_else(|what| unreachable!("the file is checked by a test: {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At full rate, from the earliest arrival to the receive.
    #[test]
    fn what_waits_at_the_end_of_a_link_fits_there() {
        let timing = Timing::tsp1();
        assert!(timing.latency_min <= timing.latency_max && timing.latency_max <= timing.hop);
        assert_eq!((timing.hop - timing.latency_min) / timing.link + 1, timing.buffer);
        assert!(timing.epoch < 256);
    }

    #[test]
    fn the_file_is_complete_and_strict() {
        let timing = Timing::parse(TSP1).unwrap();
        assert_eq!((timing.read, timing.permute), (1, 52));
        assert!(Timing::parse(&TSP1.replace("install ", "instal ")).is_err());
        assert!(Timing::parse(&TSP1.replacen("\"comments\"", "\"hearsay\"", 1)).is_err());
    }

    /// Superlane 19 gets the last operand 19 cycles after superlane 0 got the first, and superlane 0 has its result before that unless the
    /// latency covers it.
    #[test]
    fn what_mixes_superlanes_covers_the_skew() {
        assert!(Timing::tsp1().permute >= 19);
    }
}
