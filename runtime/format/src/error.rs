//! What can be wrong with a spec or with bytes that claim to follow one.

/// A spec that cannot exist, or bytes that do not fit theirs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A name that is no codec.
    #[error("unknown codec `{0}`; known are {list}", list = crate::codec::names())]
    UnknownCodec(String),
    /// A name that is no group.
    #[error("unknown group `{0}`; known are row, 64, 128")]
    UnknownGroup(String),
    /// A matrix without elements, or too large to address.
    #[error("a packed matrix of {rows} x {cols} weights has no representable size")]
    Size {
        /// Output channels.
        rows: usize,
        /// Weights per output channel.
        cols: usize,
    },
    /// The codec has no scale that could vary by column group, or no offsets.
    #[error("codec `{codec}` does not support {what}")]
    Unsupported {
        /// The codec's name.
        codec: &'static str,
        /// The property asked for.
        what: &'static str,
    },
    /// A section with another number of bytes than the spec says.
    #[error("{section} section has {found} bytes, {expected} expected")]
    SectionSize {
        /// `codes`, `scales` or `offsets`.
        section: &'static str,
        /// Bytes the spec asks for.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// Invariant 2 of the crate is broken.
    #[error("row {row}: bits after the last container are not zero")]
    Padding {
        /// The first such row.
        row: usize,
    },
    /// Invariant 3 of the crate is broken.
    #[error("{section}: entry {index} is not finite")]
    NotFinite {
        /// `scales` or `offsets`.
        section: &'static str,
        /// Index of the first such entry.
        index: usize,
    },
}
