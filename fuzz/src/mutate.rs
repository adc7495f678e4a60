//! Damage: what transfers, editors and attackers do to files, from a seeded generator.

/// Numbers at which readers go wrong.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    3,
    7,
    8,
    31,
    127,
    128,
    255,
    256,
    0x7FFF,
    0x8000,
    0xFFFF,
    1 << 20,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 32,
    1 << 40,
    1 << 53,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// What JSON's parts may become.
const TOKENS: &[&str] = &[
    "0",
    "-1",
    "1e999",
    "18446744073709551615",
    "99999999999999999999",
    "0.5",
    "null",
    "true",
    "\"\"",
    "\"../../x\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "{\"a\":",
    "\"\\u0000\"",
    "1099511627776",
];

/// A generator of numbers (xorshift64*), the same on every machine.
pub struct Random(u64);

impl Random {
    /// A generator for one round.
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not give neighbouring numbers, and 0 gives nothing.
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// One kind of damage; some change the length.
type Damage = fn(&mut Random, &mut Vec<u8>, &[u8]);

const DAMAGES: &[Damage] = &[flip, set, edge, varint, cut, remove, repeat, splice, token];

/// The bytes after one to four kinds of damage; `other` is a file to take parts from.
pub fn mutate(random: &mut Random, original: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..=random.below(4) {
        random.pick(DAMAGES)(random, &mut bytes, other);
    }
    bytes
}

/// A range of at most `most` bytes; the beginning of a file is where its structure is.
fn range(random: &mut Random, bytes: &[u8], most: usize) -> std::ops::Range<usize> {
    if bytes.is_empty() {
        return 0..0;
    }
    let within = if random.below(2) == 0 { bytes.len() } else { bytes.len().min(512) };
    let start = random.below(within);
    start..(start + 1 + random.below(most)).min(bytes.len())
}

#[allow(clippy::ptr_arg)] // one type for all kinds
fn flip(random: &mut Random, bytes: &mut Vec<u8>, _: &[u8]) {
    if let Some(at) = range(random, bytes, 1).next() {
        bytes[at] ^= 1 << random.below(8);
    }
}

#[allow(clippy::ptr_arg)] // one type for all kinds
fn set(random: &mut Random, bytes: &mut Vec<u8>, _: &[u8]) {
    let value = random.below(256) as u8;
    for at in range(random, bytes, 4) {
        bytes[at] = value;
    }
}

/// An integer of 4 or 8 bytes becomes one at which readers go wrong.
#[allow(clippy::ptr_arg)] // one type for all kinds
fn edge(random: &mut Random, bytes: &mut Vec<u8>, _: &[u8]) {
    let raw = random.pick(EDGES).to_le_bytes();
    let width = [4, 8][random.below(2)];
    let at = range(random, bytes, width);
    let count = at.len();
    bytes[at].copy_from_slice(&raw[..count]);
}

/// An integer in groups of 7 bits, put over or between bytes.
fn varint(random: &mut Random, bytes: &mut Vec<u8>, _: &[u8]) {
    let mut value = *random.pick(EDGES);
    let mut raw = Vec::new();
    while value >= 128 {
        raw.push(value as u8 | 128);
        value >>= 7;
    }
    raw.push(value as u8);
    let at = range(random, bytes, 2);
    bytes.splice(at, raw);
}

fn cut(random: &mut Random, bytes: &mut Vec<u8>, _: &[u8]) {
    let at = range(random, bytes, 1).start;
    bytes.truncate(at);
}

fn remove(random: &mut Random, bytes: &mut Vec<u8>, _: &[u8]) {
    let at = range(random, bytes, 64);
    bytes.drain(at);
}

/// A part comes again, many times.
fn repeat(random: &mut Random, bytes: &mut Vec<u8>, _: &[u8]) {
    let at = range(random, bytes, 64);
    let again = bytes[at.clone()].repeat(1 + random.below(200));
    bytes.splice(at.end..at.end, again);
}

/// A part of another file.
fn splice(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let part = other[range(random, other, 256)].to_vec();
    let at = range(random, bytes, 256);
    bytes.splice(at, part);
}

/// A number or a string of a text becomes something else.
fn token(random: &mut Random, bytes: &mut Vec<u8>, _: &[u8]) {
    let start = range(random, bytes, 1).start;
    let is_end = |b: &u8| matches!(b, b',' | b'}' | b']' | b'\n');
    let Some(colon) = bytes[start..].iter().position(|b| *b == b':').map(|n| start + n + 1) else { return };
    let end = bytes[colon..].iter().position(is_end).map_or(bytes.len(), |n| colon + n);
    let new = random.pick(TOKENS).bytes();
    bytes.splice(colon..end, new);
}
