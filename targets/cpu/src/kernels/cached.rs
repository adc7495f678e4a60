//! Rows of the KV cache: f32 outside, the cache's element type in memory.

use q35_bundle::CacheDtype;
use q35_mlir::builder::Val;
use q35_mlir::types::{F32, I16};

use super::columns::Lanes;
use crate::level::Level;

/// How rows of the cache are read and written.
#[derive(Clone, Copy)]
pub(super) struct Cached {
    pub(super) dtype: CacheDtype,
    pub(super) level: Level,
}

impl Cached {
    /// Bytes of a row `width` wide.
    pub(super) fn bytes(self, width: u64) -> i64 {
        (self.dtype.bytes() * width) as i64
    }

    /// These columns of a row, as f32; lanes past the last column are 0.
    pub(super) fn load<'k>(self, at: Lanes<'k>, row: Val<'k>) -> Val<'k> {
        match self.dtype {
            CacheDtype::F32 => at.load(row),
            CacheDtype::F16 => self.level.halves_to_f32(at.load_as(row, I16)),
        }
    }

    /// Writes f32 as these columns of a row.
    pub(super) fn store<'k>(self, at: Lanes<'k>, row: Val<'k>, value: Val<'k>) {
        debug_assert_eq!(value.ty().elem, F32.elem, "rows are f32 outside the cache");
        let largest = f64::from(CacheDtype::F16_MAX);
        match self.dtype {
            CacheDtype::F32 => at.store(row, value),
            CacheDtype::F16 => at.store(row, self.level.f32_to_halves(value.max(-largest).min(largest))),
        }
    }
}
