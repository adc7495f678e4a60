//! Rules M1 to M6: the life of every row.

use crate::{Event, Found};
use q35_tsp::geometry::{Queue, ROWS, SLICES, Slice, Unit};
use q35_tsp::isa::Instr;
use q35_tsp::lanes::Run;
use q35_tsp::program::{Block, Data, Image, Input, Place, Quad};
use q35_tsp::timing::Timing;
use std::collections::{BTreeMap, BTreeSet};

/// What a row holds before the first cycle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// A constant, or a vector of weights of a tile by number.
    Image(Option<usize>),
    /// A vector of a tile that holds no weights.
    Spare,
    /// What the host writes before each step.
    Input,
    /// A row of a zeroed region, by number.
    Region(usize),
}

/// Something that happens to a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Access {
    Write,
    Read,
}

fn bytes(quad: &Quad) -> [Place; 4] {
    [0, 1, 2, 3].map(|i| Place { slice: Slice::new(quad.side, (quad.group % 11) * 4 + i), address: quad.address })
}

/// The columns of a tile that hold a block's weights, its guest's among them.
fn columns(block: &Block) -> impl Iterator<Item = &Run> {
    let guest = block.guest.as_ref().map(|guest| &guest.outputs);
    [Some(&block.outputs), guest].into_iter().flatten().flat_map(|lanes| &lanes.0)
}

/// Every row that an image or input fills.
fn contents(data: &Data, found: &mut Found) -> BTreeMap<Place, Content> {
    let mut rows = BTreeMap::new();
    let mut fill = |place: Place, content: Content| {
        let exists = place.slice.number < SLICES && place.address < ROWS && !place.slice.reserved();
        found.unless(exists, "M1", || format!("an image or input lies at {place:?}"));
        // Half of a vector of scales is an image of its own only where lanes are different; two images never share a row.
        let before = rows.insert(place, content);
        found.unless(before.is_none(), "M1", || format!("two images or inputs lie at {place:?}"));
    };
    for (number, image) in data.images.iter().enumerate() {
        match image {
            Image::Words { quad, .. } | Image::Numbers { quad, .. } | Image::Scales { quad, .. } => {
                bytes(quad).into_iter().for_each(|place| fill(place, Content::Image(None)));
            }
            Image::Bytes { place, .. } => fill(*place, Content::Image(None)),
            Image::Zeros { quad, count } => {
                for at in 0..*count {
                    let quad = Quad { address: quad.address.saturating_add(at), ..*quad };
                    bytes(&quad).into_iter().for_each(|place| fill(place, Content::Region(number)));
                }
            }
            Image::Tile { slices, address, stride, blocks, .. } => {
                let runs = || blocks.iter().flat_map(columns);
                let last = runs().map(|run| run.lane.saturating_add(run.count)).max().unwrap_or(0);
                for column in 0..last.min(320).next_multiple_of(16) {
                    let count = slices.len().max(1);
                    let weights = runs().any(|run| (run.lane..run.lane.saturating_add(run.count)).contains(&column));
                    if let Some(slice) = slices.get(column as usize % count) {
                        let address = address.saturating_add(stride.saturating_mul((column as usize / count) as u16));
                        let content = if weights { Content::Image(Some(number)) } else { Content::Spare };
                        fill(Place { slice: *slice, address }, content);
                    }
                }
            }
        }
    }
    for input in &data.inputs {
        match input {
            Input::Entry { place } => fill(*place, Content::Input),
            Input::Embedding { quad, .. } | Input::Angles { quad, .. } | Input::Seen { quad, .. } => {
                bytes(quad).into_iter().for_each(|place| fill(place, Content::Input));
            }
        }
    }
    rows
}

/// Weights of two blocks of a tile would hide one another in a lane that both have.
fn tiles(data: &Data, found: &mut Found) {
    for (number, image) in data.images.iter().enumerate() {
        let Image::Tile { blocks, .. } = image else { continue };
        let mut lanes: Vec<(u32, u32)> =
            blocks.iter().flat_map(|block| &block.inputs.0).map(|run| (run.lane, run.lane.saturating_add(run.count))).collect();
        lanes.sort_unstable();
        let apart = lanes.windows(2).all(|pair| pair[0].1 <= pair[1].0);
        found.unless(apart, "M1", || format!("two blocks of image {number} share a lane"));
    }
}

pub(crate) fn check(events: &[Event], data: &Data, timing: &Timing, found: &mut Found) {
    tiles(data, found);
    let contents = contents(data, found);
    let outputs: BTreeSet<Place> = data.outputs.iter().flat_map(|output| bytes(&output.quad)).collect();
    let mut rows: BTreeMap<Place, Vec<(i64, Access, &Event)>> = BTreeMap::new();
    let mut scatters: BTreeMap<(usize, Slice), i64> = BTreeMap::new();
    for event in events {
        let (first, count, access) = match event.issue.instr {
            Instr::Read { address, .. } => (address, 1, Access::Read),
            Instr::Write { address, .. } => (address, 1, Access::Write),
            Instr::Gather { base, limit, .. } => (base, limit, Access::Read),
            Instr::Scatter { base, limit, .. } => (base, limit, Access::Write),
            _ => continue,
        };
        let slice = event.queue.slice();
        let inside = u32::from(first) + u32::from(count) <= u32::from(ROWS) && !slice.reserved();
        found.unless(inside, "M1", || format!("{event}: outside of what programs may use"));
        if let Instr::Scatter { .. } = event.issue.instr {
            let region = |address: u16| match contents.get(&Place { slice, address }) {
                Some(Content::Region(region)) => Some(*region),
                _ => None,
            };
            let of = region(first);
            let within = of.is_some() && (first..first.saturating_add(count)).all(|address| region(address) == of);
            found.unless(within, "M5", || format!("{event}: not within one zeroed region"));
            let starts = of.is_some_and(|of| matches!(&data.images[of], Image::Zeros { quad, .. } if quad.address == first));
            found.unless(starts, "M5", || format!("{event}: not from the start of its region"));
            if let Some(of) = of {
                let before = scatters.insert((of, slice), event.cycle);
                found.unless(before.is_none(), "M5", || format!("{event}: a second scatter into one region"));
            }
            continue;
        }
        for address in first..first.saturating_add(count) {
            rows.entry(Place { slice, address }).or_default().push((event.cycle, access, event));
        }
    }
    let mut claims: BTreeMap<(u32, Place), (Option<u32>, bool)> = BTreeMap::new();
    for (number, op) in (0u32..).zip(&data.ops) {
        for origin in &op.reads {
            for queue in (origin.queue..).take(origin.count.into()).filter_map(Queue::of).filter(|q| q.unit() == Unit::Mem) {
                claims.insert((number, Place { slice: queue.slice(), address: origin.address }), (origin.writer, false));
            }
        }
    }
    let mut readings: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (place, accesses) in &mut rows {
        accesses.sort_by_key(|(cycle, access, _)| (*cycle, *access));
        let content = contents.get(place).copied();
        let mut ready = content.map(|_| i64::MIN);
        let mut unread: Option<&Event> = None;
        let mut reads = 0;
        let mut writer = None;
        for (cycle, access, event) in accesses.iter() {
            match access {
                Access::Read => {
                    found.unless(ready.is_some_and(|ready| ready <= *cycle), "M2", || {
                        format!("{event}: nothing was written there")
                    });
                    unread = None;
                    reads += 1;
                    match claims.get_mut(&(event.issue.op, *place)) {
                        Some((claimed, read)) => {
                            *read = true;
                            let holds = *claimed == writer;
                            found.unless(holds, "M6", || format!("{event}: holds what {writer:?} wrote, not {claimed:?}"));
                        }
                        None => {
                            let tile = matches!(content, Some(Content::Image(Some(_)) | Content::Spare));
                            found.unless(tile, "M6", || format!("{event}: not among what its macro-op reads"));
                        }
                    }
                    if let Some(Content::Region(region)) = content {
                        let scattered = scatters.get(&(region, place.slice));
                        let after = scattered.is_some_and(|scatter| scatter + timing.write <= *cycle);
                        found.unless(after, "M5", || format!("{event}: read before this step's entry is there"));
                    }
                }
                Access::Write => {
                    found.unless(content.is_none(), "M3", || format!("{event}: overwrites an image or input"));
                    found.unless(unread.is_none(), "M3", || format!("{event}: overwrites what nobody has read"));
                    (ready, unread, writer) = (Some(cycle + timing.write), Some(*event), Some(event.issue.op));
                }
            }
        }
        if let Some(event) = unread {
            found.unless(outputs.contains(place), "M3", || format!("{event}: nobody reads it"));
        }
        if let Some(Content::Image(Some(tile))) = content {
            readings.entry(tile).or_default().insert(reads);
        }
    }
    for ((op, place), (_, read)) in claims {
        found.unless(read, "M6", || format!("macro-op {op} does not read {place:?}"));
    }
    for (place, content) in &contents {
        let spare = matches!(content, Content::Region(_) | Content::Spare);
        let read = rows.get(place).is_some_and(|accesses| accesses.iter().any(|(_, access, _)| *access == Access::Read));
        found.unless(spare || read, "M4", || format!("nobody reads the image or input at {place:?}"));
        if let Content::Image(Some(tile)) = content
            && !read
        {
            readings.entry(*tile).or_default().insert(0);
        }
    }
    for (tile, counts) in readings {
        found.unless(counts.len() == 1, "M4", || format!("the vectors of image {tile} are read {counts:?} times"));
    }
    for place in outputs {
        let written = rows.get(&place).is_some_and(|accesses| accesses.iter().any(|(_, access, _)| *access == Access::Write));
        found.unless(written, "M3", || format!("the output at {place:?} is not written"));
    }
}
