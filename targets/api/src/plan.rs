//! The memory planner: where each value of a step's program lies while it lives.
//!
//! What enters: buffers, each so many bytes per row of one section of the arena, with the launches between which it holds something
//! that is still needed. What leaves: an offset per row for each, such that no two buffers that live at the same time overlap,
//! whatever the number of rows: a buffer's address is `base + rows * offset`, so offsets and sizes scale together.
//!
//! Larger buffers are placed first, each at the lowest offset where it fits between those that live with it; equal ones in the order
//! given. The result depends on nothing else.

use q35_bundle::Rows;

/// Alignment of offsets, bytes.
pub const ALIGN: u64 = 64;

/// A value that needs memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// The section of the arena.
    pub rows: Rows,
    /// Bytes per row.
    pub bytes: u64,
    /// The launch that writes it.
    pub first: usize,
    /// The last launch that reads it, not before `first`.
    pub last: usize,
}

/// Where the buffers lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Bytes per row before each buffer, in the order of the buffers; multiples of [`ALIGN`].
    pub offsets: Vec<u64>,
    /// Bytes per row of the [`Rows::Tokens`] section.
    pub bytes_per_token: u64,
    /// Bytes per row of the [`Rows::Logits`] section.
    pub bytes_per_logit_row: u64,
}

/// Places buffers.
pub fn place(buffers: &[Buffer]) -> Placement {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&at| (std::cmp::Reverse(buffers[at].bytes), at));
    let mut placement = Placement { offsets: vec![0; buffers.len()], ..Placement::default() };
    let mut placed: Vec<usize> = Vec::new();
    for at in order {
        let buffer = &buffers[at];
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .filter(|&&other| live_together(buffer, &buffers[other]))
            .map(|&other| (placement.offsets[other], placement.offsets[other] + buffers[other].bytes))
            .collect();
        taken.sort_unstable();
        let mut offset = 0u64;
        for (start, end) in taken {
            if offset + buffer.bytes <= start {
                break;
            }
            offset = offset.max(end.next_multiple_of(ALIGN));
        }
        placement.offsets[at] = offset;
        placed.push(at);
        let section = match buffer.rows {
            Rows::Tokens => &mut placement.bytes_per_token,
            Rows::Logits => &mut placement.bytes_per_logit_row,
        };
        *section = (*section).max((offset + buffer.bytes).next_multiple_of(ALIGN));
    }
    placement
}

/// What holds something that is still needed while a launch runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Live {
    /// Bytes per row of the [`Rows::Tokens`] section.
    pub bytes_per_token: u64,
    /// Bytes per row of the [`Rows::Logits`] section.
    pub bytes_per_logit_row: u64,
}

/// The memory plan over time: what buffers hold during each of so many launches. No placement needs less than the most of it.
pub fn live(buffers: &[Buffer], launches: usize) -> Vec<Live> {
    let mut live = vec![Live::default(); launches];
    for buffer in buffers {
        for of in live.iter_mut().take(buffer.last.saturating_add(1)).skip(buffer.first) {
            match buffer.rows {
                Rows::Tokens => of.bytes_per_token += buffer.bytes,
                Rows::Logits => of.bytes_per_logit_row += buffer.bytes,
            }
        }
    }
    live
}

fn live_together(a: &Buffer, b: &Buffer) -> bool {
    a.rows == b.rows && a.first <= b.last && b.first <= a.last
}

/// A range of a section that a launch reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which value should be there.
    pub value: u32,
    /// The section.
    pub rows: Rows,
    /// Bytes per row before it.
    pub offset: u64,
    /// Bytes per row.
    pub bytes: u64,
}

/// What a launch does to the arena.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// Values it reads.
    pub reads: Vec<Access>,
    /// Values it writes.
    pub writes: Vec<Access>,
}

/// Plays the launches on a model of the arena in which every 64 bytes remember whose they are, and reports the first violation of:
/// 1. offsets are aligned, and every access ends inside its section;
/// 2. a launch does not write what it reads, nor anything twice;
/// 3. all that is read was written, as the value that is expected, and by no other value since.
pub fn check(launches: &[Launch], bytes_per_token: u64, bytes_per_logit_row: u64) -> Result<(), String> {
    let mut owners: std::collections::BTreeMap<(Rows, u64), u32> = Default::default();
    let lines = |access: &Access| {
        let rows = access.rows;
        (access.offset / ALIGN..(access.offset + access.bytes).div_ceil(ALIGN)).map(move |line| (rows, line))
    };
    for (at, launch) in launches.iter().enumerate() {
        for access in launch.reads.iter().chain(&launch.writes) {
            let section = match access.rows {
                Rows::Tokens => bytes_per_token,
                Rows::Logits => bytes_per_logit_row,
            };
            let inside = access.offset.checked_add(access.bytes).is_some_and(|end| end <= section);
            if !inside || !access.offset.is_multiple_of(ALIGN) {
                return Err(format!("invariant 1: launch {at}: {access:?} in a section of {section} bytes"));
            }
        }
        for access in &launch.reads {
            if let Some(line) = lines(access).find(|line| owners.get(line) != Some(&access.value)) {
                return Err(format!("invariant 3: launch {at}: {access:?} finds {:?}", owners.get(&line)));
            }
        }
        let mut used: std::collections::BTreeSet<(Rows, u64)> = launch.reads.iter().flat_map(lines).collect();
        for access in &launch.writes {
            if lines(access).any(|line| !used.insert(line)) {
                return Err(format!("invariant 2: launch {at}: {access:?}"));
            }
            owners.extend(lines(access).map(|line| (line, access.value)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(bytes: u64, first: usize, last: usize) -> Buffer {
        Buffer { rows: Rows::Tokens, bytes, first, last }
    }

    /// Launch `i` writes the buffers that start there and reads those that live past their start and have not ended.
    fn launches(buffers: &[Buffer], placement: &Placement) -> Vec<Launch> {
        let access = |at: usize| Access {
            value: at as u32,
            rows: buffers[at].rows,
            offset: placement.offsets[at],
            bytes: buffers[at].bytes,
        };
        let end = buffers.iter().map(|b| b.last + 1).max().unwrap_or(0);
        let select =
            |holds: &dyn Fn(&Buffer) -> bool| (0..buffers.len()).filter(|&at| holds(&buffers[at])).map(access).collect();
        (0..end)
            .map(|now| Launch { reads: select(&|b| b.first < now && now <= b.last), writes: select(&|b| b.first == now) })
            .collect()
    }

    fn checked(buffers: &[Buffer]) -> Placement {
        let placement = place(buffers);
        let result = check(&launches(buffers, &placement), placement.bytes_per_token, placement.bytes_per_logit_row);
        assert_eq!(result, Ok(()), "{buffers:?} {placement:?}");
        placement
    }

    #[test]
    fn what_lives_during_a_launch_is_counted() {
        let logits = Buffer { rows: Rows::Logits, bytes: 7, first: 1, last: 9 };
        let found = live(&[buffer(100, 0, 1), buffer(30, 1, 1), logits], 3);
        let of = |bytes_per_token, bytes_per_logit_row| Live { bytes_per_token, bytes_per_logit_row };
        assert_eq!(found, [of(100, 0), of(130, 7), of(0, 7)]);
    }

    #[test]
    fn memory_is_used_again() {
        // A chain: each buffer is read by the launch that writes the next.
        let chain: Vec<Buffer> = (0..9).map(|at| buffer(100, at, at + 1)).collect();
        let placement = checked(&chain);
        assert_eq!(placement.bytes_per_token, 256);
        assert_eq!(placement.offsets, [0, 128, 0, 128, 0, 128, 0, 128, 0]);
        // A residual that outlives the chain keeps its place; a small one fits into a gap.
        let placement = checked(&[buffer(64, 0, 9), buffer(640, 1, 2), buffer(64, 2, 3), buffer(320, 3, 4)]);
        assert_eq!(placement.bytes_per_token, 64 + 640 + 64);
    }

    #[test]
    fn sections_do_not_share() {
        let placement = checked(&[buffer(64, 0, 1), Buffer { rows: Rows::Logits, ..buffer(8, 0, 1) }]);
        assert_eq!((placement.bytes_per_token, placement.bytes_per_logit_row), (64, 64));
        assert_eq!(placement.offsets, [0, 0]);
    }

    #[test]
    fn random_lifetimes_never_collide() {
        let mut state = 1u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..200 {
            let buffers: Vec<Buffer> = (0..random(30))
                .map(|_| {
                    let first = random(20) as usize;
                    let rows = if random(4) == 0 { Rows::Logits } else { Rows::Tokens };
                    Buffer { rows, ..buffer(1 + random(1000), first, first + random(8) as usize) }
                })
                .collect();
            let placement = checked(&buffers);
            let whole: u64 = buffers.iter().map(|b| b.bytes.next_multiple_of(ALIGN)).sum();
            assert!(placement.bytes_per_token + placement.bytes_per_logit_row <= whole);
            assert_eq!(place(&buffers), placement);
        }
    }

    #[test]
    fn the_checker_sees_each_violation() {
        let buffers = [buffer(64, 0, 2), buffer(64, 1, 2)];
        let good = place(&buffers);
        let run = |placement: &Placement, bytes| check(&launches(&buffers, placement), bytes, 0).unwrap_err();
        assert!(run(&good, 64).contains("invariant 1"));
        assert!(run(&Placement { offsets: vec![0, 8], ..good.clone() }, 128).contains("invariant 1"));
        assert!(run(&Placement { offsets: vec![0, 0], ..good.clone() }, 128).contains("invariant 2"));
        let twins = Launch {
            writes: [0, 1].map(|value| Access { value, rows: Rows::Tokens, offset: 0, bytes: 8 }).into(),
            reads: vec![],
        };
        assert!(check(&[twins], 64, 0).unwrap_err().contains("invariant 2"));
        let lost = [buffer(64, 0, 3), buffer(64, 1, 1)];
        let overwritten = Placement { offsets: vec![0, 0], ..good };
        let mut events = launches(&lost, &overwritten);
        events[1].reads.clear();
        assert!(check(&events, 128, 0).unwrap_err().contains("invariant 3"));
    }
}
