//! Sizes, sections, and bytes that have been checked against them.
//!
//! A packed matrix is up to three sections. `codes` holds the rows, one after the other, [`PackedSpec::row_bytes`]
//! each. `scales`, and `offsets` where the spec has them, hold one little-endian float per row and group, row-major.
//! The float codecs have codes only: plain little-endian values.

use serde::{Deserialize, Serialize};

use crate::codec::Storage;
use crate::{Codec, FormatError, Group, stream};

/// The float type of scales and offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleType {
    /// IEEE half precision. Scales below 6e-5 lose precision, below 3e-8 they are 0.
    F16,
    /// IEEE single precision.
    F32,
}

impl ScaleType {
    /// Bytes of one scale.
    pub fn bytes(self) -> usize {
        match self {
            ScaleType::F16 => 2,
            ScaleType::F32 => 4,
        }
    }

    /// The nearest value of this type, ties to even; out of range, the largest finite value.
    pub fn round(self, value: f32) -> f32 {
        match self {
            ScaleType::F16 => half::f16::from_f32(value.clamp(-65504.0, 65504.0)).to_f32(),
            ScaleType::F32 => value,
        }
    }

    /// Reads entry `index` of a section.
    pub(crate) fn read(self, section: &[u8], index: usize) -> f32 {
        match self {
            ScaleType::F16 => half::f16::from_le_bytes([section[2 * index], section[2 * index + 1]]).to_f32(),
            ScaleType::F32 => {
                let at = 4 * index;
                f32::from_le_bytes([section[at], section[at + 1], section[at + 2], section[at + 3]])
            }
        }
    }

    /// Appends `value`, which is of this type already.
    pub fn push(self, section: &mut Vec<u8>, value: f32) {
        match self {
            ScaleType::F16 => section.extend(half::f16::from_f32(value).to_le_bytes()),
            ScaleType::F32 => section.extend(value.to_le_bytes()),
        }
    }
}

/// Shape and storage of a packed matrix `W[rows, cols]`: `rows` output channels, `cols` inputs (K).
///
/// Fields are private so that every spec in existence has sizes that can be computed without overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct PackedSpec(Fields);

/// A spec before it is checked, and its form in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    rows: usize,
    cols: usize,
    codec: Codec,
    group: Group,
    scale: ScaleType,
    /// Offsets beside the scales.
    asymmetric: bool,
}

impl PackedSpec {
    /// A symmetric spec with f16 scales. The float codecs take `Group::Row` only.
    ///
    /// Fails where rows or cols is 0, where a size would overflow, or where the codec does not know such groups.
    pub fn new(rows: usize, cols: usize, codec: Codec, group: Group) -> Result<Self, FormatError> {
        Fields { rows, cols, codec, group, scale: ScaleType::F16, asymmetric: false }.try_into()
    }

    /// The same with scales of another type.
    pub fn with_scale(self, scale: ScaleType) -> Result<Self, FormatError> {
        Fields { scale, ..self.0 }.try_into()
    }

    /// The same with an offset beside every scale (`w = scale * a + offset`); `split` only.
    pub fn with_offsets(self) -> Result<Self, FormatError> {
        Fields { asymmetric: true, ..self.0 }.try_into()
    }

    /// The same for another number of rows.
    pub fn with_rows(self, rows: usize) -> Result<Self, FormatError> {
        Fields { rows, ..self.0 }.try_into()
    }

    /// Output channels.
    pub fn rows(&self) -> usize {
        self.0.rows
    }

    /// Weights per output channel, K.
    pub fn cols(&self) -> usize {
        self.0.cols
    }

    /// How weights are stored.
    pub fn codec(&self) -> Codec {
        self.0.codec
    }

    /// Which weights share a scale.
    pub fn group(&self) -> Group {
        self.0.group
    }

    /// Float type of scales and offsets.
    pub fn scale(&self) -> ScaleType {
        self.0.scale
    }

    /// Whether there are offsets.
    pub fn asymmetric(&self) -> bool {
        self.0.asymmetric
    }

    /// Bytes of one row of codes.
    pub fn row_bytes(&self) -> usize {
        self.0.row_bytes().unwrap_or(usize::MAX)
    }

    /// Groups per row; 0 for the codecs without scales.
    pub fn groups(&self) -> usize {
        if self.0.codec.has_scales() { self.0.group.count(self.0.cols) } else { 0 }
    }

    /// Scales of the matrix (as many as offsets, where there are any).
    pub fn scale_count(&self) -> usize {
        self.0.rows * self.groups()
    }

    /// Bytes of the codes section.
    pub fn codes_bytes(&self) -> usize {
        self.0.rows * self.row_bytes()
    }

    /// Bytes of the scales section.
    pub fn scales_bytes(&self) -> usize {
        self.scale_count() * self.0.scale.bytes()
    }

    /// Bytes of the offsets section.
    pub fn offsets_bytes(&self) -> usize {
        if self.0.asymmetric { self.scales_bytes() } else { 0 }
    }

    /// Bytes of all sections.
    pub fn total_bytes(&self) -> usize {
        self.codes_bytes() + self.scales_bytes() + self.offsets_bytes()
    }

    /// Bits per weight including scales and offsets.
    pub fn effective_bits(&self) -> f64 {
        8.0 * self.total_bytes() as f64 / (self.0.rows as f64 * self.0.cols as f64)
    }
}

impl Fields {
    fn row_bytes(&self) -> Option<usize> {
        match self.codec.facts().storage {
            Storage::Float { bytes } => self.cols.checked_mul(bytes),
            Storage::Int8 => Some(self.cols),
            Storage::Pairs { .. } => stream::row_bytes(self.cols),
        }
    }

    /// An upper bound of every size, so that no later computation can overflow.
    fn fits(&self) -> Option<usize> {
        let row = self.row_bytes()?.checked_add(8usize.checked_mul(self.group.count(self.cols))?)?;
        let total = row.max(self.cols.checked_mul(4)?).checked_mul(self.rows)?;
        (total <= isize::MAX as usize).then_some(total)
    }
}

impl TryFrom<Fields> for PackedSpec {
    type Error = FormatError;

    fn try_from(fields: Fields) -> Result<Self, FormatError> {
        let Fields { rows, cols, codec, group, asymmetric, .. } = fields;
        let unsupported = |what| Err(FormatError::Unsupported { codec: codec.name(), what });
        if let Group::Columns(columns) = group {
            if !Group::COLUMNS.contains(&columns) {
                return Err(FormatError::UnknownGroup(columns.to_string()));
            }
            if !codec.has_scales() {
                return unsupported("column groups");
            }
        }
        if asymmetric && codec != Codec::Split {
            return unsupported("offsets");
        }
        if rows == 0 || cols == 0 || fields.fits().is_none() {
            return Err(FormatError::Size { rows, cols });
        }
        Ok(PackedSpec(fields))
    }
}

impl From<PackedSpec> for Fields {
    fn from(spec: PackedSpec) -> Fields {
        spec.0
    }
}

/// A packed matrix in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Shape and storage.
    pub spec: PackedSpec,
    /// The rows.
    pub codes: Vec<u8>,
    /// The scales.
    pub scales: Vec<u8>,
    /// The offsets.
    pub offsets: Vec<u8>,
}

impl Packed {
    /// Checks the sections and borrows them.
    pub fn view(&self) -> Result<PackedView<'_>, FormatError> {
        PackedView::new(self.spec, &self.codes, &self.scales, &self.offsets)
    }
}

/// A packed matrix in borrowed memory, such as a mapped file. Its sections obey the crate's invariants.
#[derive(Debug, Clone, Copy)]
pub struct PackedView<'a> {
    pub(crate) spec: PackedSpec,
    pub(crate) codes: &'a [u8],
    pub(crate) scales: &'a [u8],
    pub(crate) offsets: &'a [u8],
}

impl<'a> PackedView<'a> {
    /// Borrows sections after checking invariants 1 to 3. Reads all scales and the last byte of each row.
    pub fn new(spec: PackedSpec, codes: &'a [u8], scales: &'a [u8], offsets: &'a [u8]) -> Result<Self, FormatError> {
        let sizes = [
            ("codes", spec.codes_bytes(), codes.len()),
            ("scales", spec.scales_bytes(), scales.len()),
            ("offsets", spec.offsets_bytes(), offsets.len()),
        ];
        for (section, expected, found) in sizes {
            if expected != found {
                return Err(FormatError::SectionSize { section, expected, found });
            }
        }
        if spec.codec().window().is_some() {
            let mut rows = codes.chunks_exact(spec.row_bytes());
            if let Some(row) = rows.position(|row| !stream::padding_is_zero(row, spec.cols())) {
                return Err(FormatError::Padding { row });
            }
        }
        for (section, bytes) in [("scales", scales), ("offsets", offsets)] {
            let mut values = (0..bytes.len() / spec.scale().bytes()).map(|i| spec.scale().read(bytes, i));
            if let Some(index) = values.position(|value| !value.is_finite()) {
                return Err(FormatError::NotFinite { section, index });
            }
        }
        Ok(PackedView { spec, codes, scales, offsets })
    }

    /// Shape and storage.
    pub fn spec(&self) -> PackedSpec {
        self.spec
    }

    /// The codes of row `row` (below `rows`).
    pub fn row(&self, row: usize) -> &'a [u8] {
        let bytes = self.spec.row_bytes();
        &self.codes[row * bytes..][..bytes]
    }

    /// Scale of a row and group.
    pub fn scale(&self, row: usize, group: usize) -> f32 {
        self.spec.scale().read(self.scales, row * self.spec.groups() + group)
    }

    /// Offset of a row and group, 0 in a symmetric matrix.
    pub fn offset(&self, row: usize, group: usize) -> f32 {
        if self.spec.asymmetric() { self.spec.scale().read(self.offsets, row * self.spec.groups() + group) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let spec = |rows, cols, codec, group| PackedSpec::new(rows, cols, codec, group).unwrap();
        let w8 = spec(3, 131, Codec::W8, Group::Columns(64));
        assert_eq!((w8.row_bytes(), w8.groups(), w8.scales_bytes(), w8.total_bytes()), (58, 3, 18, 174 + 18));
        let split = spec(2, 64, Codec::Split, Group::Row).with_offsets().unwrap().with_scale(ScaleType::F32).unwrap();
        assert_eq!((split.codes_bytes(), split.scales_bytes(), split.offsets_bytes()), (56, 8, 8));
        let f32 = spec(2, 5, Codec::F32, Group::Row);
        assert_eq!((f32.total_bytes(), f32.groups()), (40, 0));
        assert_eq!(spec(7, 4096, Codec::W8, Group::Row).effective_bits(), 3.5 + 16.0 / 4096.0);
    }

    #[test]
    fn impossible_specs_are_refused() {
        let new = PackedSpec::new;
        assert!(matches!(new(0, 4, Codec::W8, Group::Row), Err(FormatError::Size { .. })));
        assert!(matches!(new(4, 0, Codec::W8, Group::Row), Err(FormatError::Size { .. })));
        assert!(matches!(new(1 << 40, 1 << 40, Codec::W8, Group::Row), Err(FormatError::Size { .. })));
        assert!(matches!(new(1, usize::MAX, Codec::Q8, Group::Columns(64)), Err(FormatError::Size { .. })));
        assert!(matches!(new(4, 4, Codec::W8, Group::Columns(32)), Err(FormatError::UnknownGroup(_))));
        assert!(matches!(new(4, 4, Codec::F16, Group::Columns(64)), Err(FormatError::Unsupported { .. })));
        assert!(matches!(new(4, 4, Codec::W8, Group::Row).unwrap().with_offsets(), Err(FormatError::Unsupported { .. })));
    }

    #[test]
    fn json_is_checked_too() {
        let spec = PackedSpec::new(3, 131, Codec::Split, Group::Columns(64)).unwrap();
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(text, r#"{"rows":3,"cols":131,"codec":"split","group":"64","scale":"f16","asymmetric":false}"#);
        assert_eq!(serde_json::from_str::<PackedSpec>(&text).unwrap(), spec);
        assert!(serde_json::from_str::<PackedSpec>(&text.replace("131", "0")).is_err());
        assert!(serde_json::from_str::<PackedSpec>(&text.replace("131", "18446744073709551615")).is_err());
    }

    #[test]
    fn damaged_sections_are_refused() {
        let spec = PackedSpec::new(2, 3, Codec::W7, Group::Row).unwrap();
        let good = Packed { spec, codes: vec![0xff, 0x3f, 0xff, 0x3f], scales: vec![0, 0x3c, 0, 0x3c], offsets: vec![] };
        assert_eq!(good.view().unwrap().scale(1, 0), 1.0);
        let damage = |change: fn(&mut Packed)| {
            let mut packed = good.clone();
            change(&mut packed);
            packed.view().unwrap_err()
        };
        assert_eq!(damage(|p| p.codes[3] = 0x7f), FormatError::Padding { row: 1 });
        assert_eq!(damage(|p| p.scales[3] = 0x7c), FormatError::NotFinite { section: "scales", index: 1 });
        assert!(matches!(
            damage(|p| p.codes.truncate(3)),
            FormatError::SectionSize { section: "codes", expected: 4, found: 3 }
        ));
        assert!(matches!(damage(|p| p.offsets.push(0)), FormatError::SectionSize { section: "offsets", .. }));
    }
}
