//! 7-bit containers in a row of bytes.
//!
//! Container `j` sits at bits `[7j, 7j+7)` of the row, least significant bit first, bytes in order. A window of `W`
//! bits starts at its container and reaches into the next one; what lies past the end of the row reads as 0.

use crate::codec::CONTAINER_BITS;

/// Containers of a row of `cols` weights: two weights each, the last one padded where `cols` is odd.
pub fn containers(cols: usize) -> usize {
    cols.div_ceil(2)
}

/// Bytes of a row of `cols` weights, or `None` where that does not fit a `usize`.
pub fn row_bytes(cols: usize) -> Option<usize> {
    containers(cols).checked_mul(CONTAINER_BITS as usize).map(|bits| bits.div_ceil(8))
}

/// The window of `width` bits (at most 17) at container `j`.
pub fn window(row: &[u8], j: usize, width: u32) -> u32 {
    let bit = j * CONTAINER_BITS as usize;
    let byte = |i: usize| u32::from(row.get(bit / 8 + i).copied().unwrap_or(0));
    let bits = byte(0) | byte(1) << 8 | byte(2) << 16;
    (bits >> (bit % 8)) & ((1 << width) - 1)
}

/// The first `count` windows of `width` bits (at most 17) of a row, in order.
pub fn windows(row: &[u8], count: usize, width: u32) -> impl Iterator<Item = u32> + '_ {
    let mut bytes = row.iter();
    let mut bits = 0u32;
    let mut have = 0;
    (0..count).map(move |_| {
        while have < width {
            bits |= u32::from(bytes.next().copied().unwrap_or(0)) << have;
            have += 8;
        }
        let window = bits & ((1 << width) - 1);
        bits >>= CONTAINER_BITS;
        have -= CONTAINER_BITS;
        window
    })
}

/// Writes containers (values below 128) as a row of `row_bytes(2 * containers)` bytes; unused bits become 0.
pub fn write(containers: impl IntoIterator<Item = u8>, row: &mut [u8]) {
    let mut bytes = row.iter_mut();
    let mut bits = 0u32;
    let mut have = 0;
    let mut put = |bits: u32| {
        if let Some(byte) = bytes.next() {
            *byte = bits as u8;
        }
    };
    for container in containers {
        bits |= u32::from(container & 127) << have;
        have += CONTAINER_BITS;
        if have >= 8 {
            put(bits);
            bits >>= 8;
            have -= 8;
        }
    }
    if have > 0 {
        put(bits);
    }
}

/// Whether the bits of a row beyond its last container are all 0.
pub fn padding_is_zero(row: &[u8], cols: usize) -> bool {
    let used = containers(cols) * CONTAINER_BITS as usize;
    row.iter().enumerate().skip(used / 8).all(|(i, byte)| {
        let first = used.saturating_sub(8 * i);
        first >= 8 || byte >> first == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bit `i` of a row, by definition.
    fn bit(row: &[u8], i: usize) -> u32 {
        row.get(i / 8).map_or(0, |byte| u32::from(byte >> (i % 8)) & 1)
    }

    fn window_bit_by_bit(row: &[u8], j: usize, width: u32) -> u32 {
        (0..width).map(|b| bit(row, 7 * j + b as usize) << b).sum()
    }

    #[test]
    fn sizes() {
        for (cols, bytes) in [(1, 1), (2, 1), (3, 2), (15, 7), (16, 7), (17, 8), (4096, 1792)] {
            assert_eq!(row_bytes(cols), Some(bytes), "{cols}");
        }
        assert_eq!(row_bytes(usize::MAX), None);
    }

    proptest! {
        #[test]
        fn windows_are_the_definition(row in prop::collection::vec(any::<u8>(), 1..40), width in 7u32..=12) {
            let count = row.len() * 8 / 7 + 3;
            let all: Vec<u32> = windows(&row, count, width).collect();
            prop_assert_eq!(all.len(), count);
            for (j, found) in all.into_iter().enumerate() {
                let expected = window_bit_by_bit(&row, j, width);
                prop_assert_eq!((window(&row, j, width), found), (expected, expected));
            }
        }

        #[test]
        fn written_containers_read_back(codes in prop::collection::vec(0u8..128, 1..60)) {
            let cols = 2 * codes.len();
            let mut row = vec![0xff; row_bytes(cols).unwrap()];
            write(codes.iter().copied(), &mut row);
            let read: Vec<u8> = windows(&row, codes.len(), 7).map(|w| w as u8).collect();
            prop_assert_eq!(&read, &codes);
            prop_assert!(padding_is_zero(&row, cols));
            let used = 7 * codes.len();
            for i in used..8 * row.len() {
                let mut dirty = row.clone();
                dirty[i / 8] |= 1 << (i % 8);
                prop_assert!(!padding_is_zero(&dirty, cols));
            }
        }
    }
}
