//! Products of matrices, the same to the bit on every machine.
//!
//! What calibration computes is almost all products: sums over tokens, factors, solutions, layers. They are done in tiles that live in registers, with both matrices copied
//! into the order in which tiles read them. An element of the product is a chain of fused multiply-adds over [`DEPTH`] columns of `a`, in order; the chains are added to the result one
//! after the other. Neither the width of vectors nor the number of threads nor the size of a tile enters.
//!
//! Chains are exact where all partial sums are integers below 2^24: those of int8 products are.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Length of a chain.
pub const DEPTH: usize = 256;
/// Rows of a tile; its columns are two vectors.
const TILE: usize = 6;
/// Rows of the result that are one task.
const TASK: usize = 16 * TILE;

/// A matrix in memory, with any strides.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, E> {
    data: &'a [E],
    rows: usize,
    cols: usize,
    strides: [usize; 2],
}

impl<'a, E: Copy + Sync> View<'a, E> {
    /// The first `cols` columns of rows that lie `stride` apart.
    ///
    /// # Panics
    /// If `data` ends before the last row does.
    pub fn rows(data: &'a [E], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || (rows - 1) * stride + cols <= data.len(), "{rows} rows of {cols} lie in the data");
        Self { data, rows, cols, strides: [stride, 1] }
    }

    /// Rows one behind the other.
    pub fn matrix(data: &'a [E], cols: usize) -> Self {
        Self::rows(data, data.len() / cols, cols, cols)
    }

    /// Rows as columns.
    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, strides: [self.strides[1], self.strides[0]], ..self }
    }

    /// How many rows.
    pub fn count(&self) -> usize {
        self.rows
    }

    /// Every element of a part of the matrix, with its place in that; in the order of memory.
    fn each(&self, [row, col]: [usize; 2], [rows, cols]: [usize; 2], mut f: impl FnMut(usize, usize, E)) {
        let at = |i: usize, j: usize| self.data[(row + i) * self.strides[0] + (col + j) * self.strides[1]];
        if self.strides[0] < self.strides[1] {
            (0..cols).for_each(|j| (0..rows).for_each(|i| f(i, j, at(i, j))));
        } else {
            (0..rows).for_each(|i| (0..cols).for_each(|j| f(i, j, at(i, j))));
        }
    }
}

/// Numbers that chains are computed in.
pub trait Real: Copy + Default + Send + Sync + 'static {
    /// A vector of them.
    type Vector<S: Simd>: Copy;
    /// A vector of equal numbers.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::Vector<S>;
    /// `a b + c`, rounded once.
    fn mul_add<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>, c: Self::Vector<S>) -> Self::Vector<S>;
    /// Numbers as vectors.
    fn vectors<S: Simd>(x: &[Self]) -> &[Self::Vector<S>];
    /// Numbers as vectors.
    fn vectors_mut<S: Simd>(x: &mut [Self]) -> &mut [Self::Vector<S>];
}

macro_rules! real {
    ($t:ident, $vector:ident, $splat:ident, $mul_add:ident, $as:ident, $as_mut:ident) => {
        impl Real for $t {
            type Vector<S: Simd> = S::$vector;
            #[inline(always)]
            fn splat<S: Simd>(simd: S, x: Self) -> S::$vector {
                simd.$splat(x)
            }
            #[inline(always)]
            fn mul_add<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn vectors<S: Simd>(x: &[Self]) -> &[S::$vector] {
                S::$as(x).0
            }
            #[inline(always)]
            fn vectors_mut<S: Simd>(x: &mut [Self]) -> &mut [S::$vector] {
                S::$as_mut(x).0
            }
        }
    };
}

real!(f32, f32s, splat_f32s, mul_add_f32s, as_simd_f32s, as_mut_simd_f32s);
real!(f64, f64s, splat_f64s, mul_add_f64s, as_simd_f64s, as_mut_simd_f64s);

/// Numbers of a matrix, as chains read them.
pub trait Element<T>: Copy + Send + Sync {
    /// The number, rounded if it must be.
    fn number(self) -> T;
}

macro_rules! element {
    ($($from:ident => $to:ident),*) => { $(
        impl Element<$to> for $from {
            fn number(self) -> $to {
                self as $to
            }
        }
    )* };
}

element!(f32 => f32, f64 => f32, i8 => f32, f32 => f64, f64 => f64);

/// Which elements of the result are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// Those on and below the diagonal. Others may get their share too, or not.
    Lower,
}

/// Adds `sign * a b` to the first columns of the rows of `c`, which lie `stride` apart; `T` is what chains are computed in.
///
/// # Panics
/// If the sizes do not fit.
pub fn add_product<T, C, A, B>(c: &mut [C], stride: usize, sign: T, a: View<'_, A>, b: View<'_, B>, part: Part)
where
    T: Real + std::ops::Mul<Output = T>,
    C: Copy + Send + std::ops::AddAssign + From<T>,
    A: Element<T>,
    B: Element<T>,
{
    assert!(a.cols == b.rows && b.cols <= stride && c.len() >= (a.rows * stride).saturating_sub(stride - b.cols));
    if a.rows == 0 || b.cols == 0 {
        return;
    }
    let width = Arch::new().dispatch(Width(std::marker::PhantomData::<T>));
    let mut panels = vec![T::default(); b.cols.next_multiple_of(width) * DEPTH.min(b.rows)];
    for start in (0..a.cols).step_by(DEPTH) {
        let depth = (a.cols - start).min(DEPTH);
        let panels = &mut panels[..b.cols.next_multiple_of(width) * depth];
        panels.par_chunks_mut(width * depth).enumerate().for_each(|(panel, out)| {
            let (at, columns) = (panel * width, (b.cols - panel * width).min(width));
            b.each([start, at], [depth, columns], |k, n, x: B| out[k * width + n] = x.number());
        });
        let panels: &[T] = panels;
        c.par_chunks_mut(TASK * stride).take(a.rows.div_ceil(TASK)).enumerate().for_each(|(task, c)| {
            let first = task * TASK;
            let rows = (a.rows - first).min(TASK);
            let mut tiles = vec![T::default(); rows.next_multiple_of(TILE) * depth];
            a.each([first, start], [rows, depth], |m, k, x: A| {
                tiles[m / TILE * (TILE * depth) + k * TILE + m % TILE] = sign * x.number();
            });
            let cols = if part == Part::Lower { (first + rows).min(b.cols) } else { b.cols };
            Arch::new().dispatch(Task { c, stride, rows, cols, depth, tiles: &tiles, panels });
        });
    }
}

/// Columns of a tile.
struct Width<T>(std::marker::PhantomData<T>);

impl<T: Real> WithSimd for Width<T> {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        2 * size_of::<T::Vector<S>>() / size_of::<T>()
    }
}

/// Some rows of the result, both matrices in the order of tiles.
struct Task<'a, T, C> {
    c: &'a mut [C],
    stride: usize,
    rows: usize,
    cols: usize,
    depth: usize,
    /// By [`TILE`] rows; then by column of `a`.
    tiles: &'a [T],
    /// By the columns of a tile; then by row of `b`.
    panels: &'a [T],
}

impl<T: Real, C: Copy + std::ops::AddAssign + From<T>> WithSimd for Task<'_, T, C> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { c, stride, rows, cols, depth, tiles, panels } = self;
        let width = 2 * size_of::<T::Vector<S>>() / size_of::<T>();
        let mut sums = vec![T::default(); TILE * width];
        for (panel, b) in panels.chunks_exact(width * depth).take(cols.div_ceil(width)).enumerate() {
            let columns = (cols - panel * width).min(width);
            for (tile, a) in tiles.chunks_exact(TILE * depth).enumerate() {
                chains(simd, a, b, &mut sums);
                for m in 0..TILE.min(rows - tile * TILE) {
                    let c = &mut c[(tile * TILE + m) * stride + panel * width..][..columns];
                    c.iter_mut().zip(&sums[m * width..]).for_each(|(c, sum)| *c += C::from(*sum));
                }
            }
        }
    }
}

/// The chains of one tile.
#[inline(always)]
fn chains<T: Real, S: Simd>(simd: S, a: &[T], b: &[T], out: &mut [T]) {
    let mut sums = [[T::splat(simd, T::default()); 2]; TILE];
    for (a, b) in a.chunks_exact(TILE).zip(T::vectors::<S>(b).chunks_exact(2)) {
        for (sums, a) in sums.iter_mut().zip(a) {
            let a = T::splat(simd, *a);
            sums[0] = T::mul_add(simd, a, b[0], sums[0]);
            sums[1] = T::mul_add(simd, a, b[1], sums[1]);
        }
    }
    T::vectors_mut::<S>(out).copy_from_slice(sums.as_flattened());
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_format::gauss::Gauss;

    fn gauss(seed: u64, count: usize) -> Vec<f32> {
        Gauss::new(seed).take(count).collect()
    }

    /// Chains by their definition.
    fn plain(c: &mut [f64], a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) {
        for i in 0..m {
            for j in 0..n {
                for start in (0..k).step_by(DEPTH) {
                    let range = start..(start + DEPTH).min(k);
                    c[i * n + j] += f64::from(range.fold(0.0f32, |sum, l| a[i * k + l].mul_add(b[l * n + j], sum)));
                }
            }
        }
    }

    #[test]
    fn products_are_the_definition_to_the_bit() {
        for [m, k, n] in [[1, 1, 1], [7, 300, 33], [130, 513, 40]] {
            let (a, b) = (gauss(1, m * k), gauss(2, k * n));
            let mut expected: Vec<f64> = gauss(3, m * n).into_iter().map(f64::from).collect();
            let start = expected.clone();
            plain(&mut expected, &a, &b, [m, k, n]);
            let at: Vec<f32> = (0..m * k).map(|i| a[i % m * k + i / m]).collect();
            for (a, threads) in [(View::matrix(&a, k), 1), (View::matrix(&at, m).transposed(), 3)] {
                let mut c = start.clone();
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| add_product(&mut c, n, 1.0f32, a, View::matrix(&b, n), Part::Whole));
                assert_eq!(c, expected, "{m} {k} {n}");
            }
        }
    }

    #[test]
    fn the_lower_part_and_strides() {
        let (n, k) = (150, 20);
        let x = gauss(4, k * n);
        let view = View::matrix(&x, n);
        let mut whole = vec![0.0f64; n * n];
        add_product(&mut whole, n, 1.0f32, view.transposed(), view, Part::Whole);
        let mut lower = vec![0.0f64; n * (n + 5)];
        add_product(&mut lower, n + 5, -1.0f32, view.transposed(), view, Part::Lower);
        for i in 0..n {
            assert!((0..=i).all(|j| lower[i * (n + 5) + j] == -whole[i * n + j]), "{i}");
            assert_eq!(lower[i * (n + 5) + n..][..5], [0.0; 5]);
        }
    }

    #[test]
    fn int8_products_are_exact() {
        let (k, x) = (1000, [127i8, -127, 126]);
        let a: Vec<i8> = (0..2 * k).map(|i| x[i % 3]).collect();
        let mut c = vec![0.0f64; 4];
        let view = View::matrix(&a, k);
        add_product(&mut c, 2, 1.0f32, view, view.transposed(), Part::Whole);
        let exact = |i: usize, j: usize| -> i64 { (0..k).map(|l| i64::from(a[i * k + l]) * i64::from(a[j * k + l])).sum() };
        assert_eq!(c, [exact(0, 0), exact(0, 1), exact(1, 0), exact(1, 1)].map(|x| x as f64));
    }
}
