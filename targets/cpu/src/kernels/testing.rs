//! What the tests of this folder share: arguments, an oracle's tolerance, and running a kernel at levels of every vector width.

use crate::abi::define;
use crate::kernels::Kernel;
use crate::level::Level;
use crate::linear::testing::{Guarded, Random, compile, levels};
use half::f16;
use q35_bundle::CacheDtype;
use q35_launch::layout::act_stride;

/// One kernel argument.
pub(crate) enum Arg {
    /// A buffer with this content.
    Bytes(Vec<u8>),
    /// The buffer of an earlier argument.
    Same(usize),
}

impl Arg {
    /// Any bytes.
    pub(crate) fn bytes(content: &[u8]) -> Self {
        Arg::Bytes(content.to_vec())
    }

    /// f32 without padding.
    pub(crate) fn floats(content: &[f32]) -> Self {
        Self::bytes(&content.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<_>>())
    }

    /// Rows of the cache, whose numbers its element type has.
    pub(crate) fn cached(dtype: CacheDtype, content: &[f32]) -> Self {
        match dtype {
            CacheDtype::F32 => Self::floats(content),
            CacheDtype::F16 => Self::bytes(&content.iter().flat_map(|v| f16::from_f32(*v).to_ne_bytes()).collect::<Vec<_>>()),
        }
    }

    /// i32.
    pub(crate) fn ints(content: &[i32]) -> Self {
        Self::bytes(&content.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<_>>())
    }

    /// Rows of activations; the padding is NaN, so that whoever reads it shows.
    pub(crate) fn rows(content: &[f32], width: usize) -> Self {
        let stride = act_stride(width) / 4;
        let mut padded = Vec::new();
        for row in content.chunks(width) {
            padded.extend_from_slice(row);
            padded.resize(padded.len().next_multiple_of(stride), f32::NAN);
        }
        Self::floats(&padded)
    }

    /// Rows of activations to be written.
    pub(crate) fn zeros(rows: usize, width: usize) -> Self {
        Self::rows(&vec![0.0; rows * width], width)
    }

    /// The content.
    pub(crate) fn content(&self) -> &[u8] {
        match self {
            Arg::Bytes(bytes) => bytes,
            Arg::Same(_) => &[],
        }
    }

    /// The content as f32.
    pub(crate) fn as_floats(&self) -> Vec<f32> {
        self.content().chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

/// The rows of activations without their padding, which must still be NaN.
pub(crate) fn rows(arg: &Arg, width: usize) -> Vec<f32> {
    let stride = act_stride(width) / 4;
    let all = arg.as_floats();
    assert!(all.chunks(stride).all(|row| row[width..].iter().all(|v| v.is_nan())), "padding was written");
    all.chunks(stride).flat_map(|row| row[..width].to_vec()).collect()
}

/// Numbers in [-scale, scale).
pub(crate) fn numbers(count: usize, scale: f32) -> Vec<f32> {
    Random(count as u64).units(count).into_iter().map(|v| v * scale).collect()
}

/// The same as a cache holds them.
pub(crate) fn cached_numbers(dtype: CacheDtype, count: usize, scale: f32) -> Vec<f32> {
    let stored = |x: f32| if dtype == CacheDtype::F16 { f16::from_f32(x).to_f32() } else { x };
    numbers(count, scale).into_iter().map(stored).collect()
}

/// Asserts that every number is within `tolerance` (relative, and absolute below 1) of the exact one.
#[track_caller]
pub(crate) fn close(got: &[f32], exact: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), exact.len(), "{what}");
    for (at, (&got, &exact)) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(got) - exact).abs();
        assert!(error <= tolerance * exact.abs().max(1.0), "{what}: [{at}] is {got}, not {exact}");
    }
}

/// A level of each vector width, which is all that these kernels ask a level for; with `Q35_FULL` every level.
fn widths() -> Vec<Level> {
    let mut found: Vec<Level> = levels().collect();
    if std::env::var_os("Q35_FULL").is_none() {
        found.sort_by_key(|level| (level.bytes(), level.is_plain(), !level.is_here()));
        found.dedup_by_key(|level| level.bytes());
    }
    found
}

/// Runs `kernel` over `tiles` tiles, unevenly split as the executor might, at levels of every width; `check` sees the arguments
/// afterwards.
pub(crate) fn run(kernel: &dyn Kernel, args: impl AsRef<[Arg]>, dims: [i64; 4], tiles: i64, check: impl Fn(Level, &[Arg])) {
    let name = kernel.name();
    assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{name} is no C identifier");
    let wanted = widths();
    let loaded = compile(|module, levels| {
        for &level in levels.iter().filter(|level| wanted.contains(level)) {
            define(module, &name, level, |call| kernel.build(level, call));
        }
    });
    for level in wanted {
        let args = args.as_ref();
        let buffers: Vec<Guarded> = args.iter().map(|arg| Guarded::new(arg.content())).collect();
        let place = |(at, arg): (usize, &Arg)| match arg {
            Arg::Bytes(_) => &buffers[at],
            Arg::Same(earlier) => &buffers[*earlier],
        };
        let places: Vec<&Guarded> = args.iter().enumerate().map(place).collect();
        let cut = tiles / 3;
        for part in [cut..tiles, 0..cut, cut..cut] {
            loaded.call(&name, level, &places, dims, part);
        }
        let after: Vec<Arg> = places.iter().map(|buffer| Arg::Bytes(buffer.read())).collect();
        check(level, &after);
    }
}
