//! The rules that a program must satisfy before it runs. All violations are reported, each with its number:
//!
//! 1. Every PE has tile code.
//! 2. User colors are 0 to 20: the others belong to the host's streams.
//! 3. Where a PE sends a color to a neighbour, the neighbour receives it from there; where it receives from a neighbour, that one sends.
//!    No route leaves the rectangle.
//! 4. A color has one source at each PE: wavelets from two directions are nobody's order.
//! 5. A color that is delivered to a PE has an input queue there; one that starts there has an output queue.
//! 6. No two queues of one kind of a PE carry one color.
//! 7. The routes of a color form no cycle.
//! 8. Local task ids lie in the pool that is free on the WSE-3: 8 to 20 and 24 to 26.
//! 9. Every name the host knows is exported by every PE with the same type, as a variable where the host may write, and nothing else is exported.
//! 10. Variables, stack and the estimate of code fit the memory of a PE.
//! 11. Where a color starts or is delivered, some operation of the PE's code is over its queue.
//! 12. A local task that the code names is bound.
//!
//! What the rules of the notes ask besides is not a matter of the layout. The reader refuses it where it is written: a color configured or a queue
//! initialized twice, queues outside 2 to 7, names that are exported twice, functions of the host that take other things than numbers, switches and
//! filters, strides, extents and offsets beyond their types, builtins that are not on the list. The fabric refuses it when it happens: operands of
//! different extents, two operations on one queue, two fabric sources, a queue that nobody initialized, a task to activate and one to unblock at one
//! end, an unblocked command stream before the last operation on wavelets has ended or for the second time, wavelets that are left, deadlocks.

use crate::Layout;
use crate::image::Image;
use crate::layout::{DIRECTIONS, RAMP, opposite};
use crate::value::Type;
use std::collections::BTreeSet;

/// Bytes a program may take: what one public physical program was held to.
pub const CEILING: usize = 48_128;
/// Bytes of stack.
pub const STACK: usize = 4_096;
/// Bytes of code per line of CSL (7 words, as a public emitter estimates), and what comes with every program that talks to the host.
pub const CODE_PER_LINE: usize = 14;
/// Bytes of the host's runtime on each PE; an estimate.
pub const MEMCPY: usize = 2_048;

/// Bytes a program takes: variables, code (estimated), stack.
pub fn memory(image: &Image) -> [usize; 3] {
    [2 * image.data_words, MEMCPY + CODE_PER_LINE * image.code_lines, STACK]
}

/// Every violation, in the order of rules.
pub fn check(layout: &Layout) -> Vec<String> {
    let mut found = Vec::new();
    let mut no = |rule: u32, what: String| found.push(format!("rule {rule}: {what}"));

    for (pe, _) in layout.tiles.iter().enumerate().filter(|(_, tile)| tile.is_none()) {
        no(1, format!("PE {} has no code", layout.show(pe)));
    }
    for (&(pe, color), config) in &layout.configs {
        let at = || format!("color {color} at PE {}", layout.show(pe));
        if color > 20 {
            no(2, format!("{} belongs to the host", at()));
        }
        for (direction, name) in DIRECTIONS.iter().enumerate().take(RAMP) {
            let other = layout.neighbour(pe, direction);
            let there = other.and_then(|other| layout.configs.get(&(other, color)));
            let bit = |bits: u8| bits >> opposite(direction) & 1 == 1;
            if config.tx >> direction & 1 == 1 && !there.is_some_and(|c| bit(c.rx)) {
                no(3, format!("{} is sent {name}, where nobody receives it", at()));
            }
            if config.rx >> direction & 1 == 1 && !there.is_some_and(|c| bit(c.tx)) {
                no(3, format!("{} is awaited from {name}, where nobody sends it", at()));
            }
        }
        if config.rx.count_ones() != 1 {
            no(4, format!("{} has {} sources", at(), config.rx.count_ones()));
        }
    }
    let used: Vec<[BTreeSet<u8>; 2]> = layout.images.iter().map(Image::queues_used).collect();
    for (pe, tile) in layout.tiles.iter().enumerate() {
        let Some(image) = tile.map(|tile| &layout.images[tile]) else { continue };
        let bound = [(&image.input_queues, "input"), (&image.output_queues, "output")];
        for (queues, kind) in bound {
            let colors: BTreeSet<u8> = queues.values().copied().collect();
            if colors.len() != queues.len() {
                no(6, format!("two {kind} queues of PE {} carry one color", layout.show(pe)));
            }
            let routed = |color: u8| {
                let config = layout.configs.get(&(pe, color));
                config.is_some_and(|c| (if kind == "input" { c.tx } else { c.rx }) >> RAMP & 1 == 1)
            };
            for color in (0..24).filter(|color| routed(*color) && !colors.contains(color)) {
                no(5, format!("PE {} has a route of color {color}, and no {kind} queue for it", layout.show(pe)));
            }
            let used = &used[tile.unwrap_or(0)][usize::from(kind == "output")];
            for (queue, color) in queues.iter().filter(|(queue, color)| routed(**color) && !used.contains(queue)) {
                no(11, format!("color {color} of PE {}: nothing is over {kind} queue {queue}", layout.show(pe)));
            }
        }
    }
    for color in cycles(layout) {
        no(7, format!("color {color} runs in a circle"));
    }
    for (image, file) in layout.images.iter().zip(&layout.files) {
        for id in image.tasks.keys().filter(|id| !matches!(id, 8..=20 | 24..=26)) {
            no(8, format!("{file} binds local task {id}"));
        }
        for id in image.tasks_named().into_iter().filter(|id| !image.tasks.contains_key(id)) {
            no(12, format!("{file} names local task {id}, which is bound to nothing"));
        }
        for (name, export) in &layout.exports {
            let own = match (image.symbols.get(name), image.functions.get(name)) {
                (Some(symbol), None) => Some(Type::Pointer(symbol.elem)),
                (None, Some(function)) => Some(image.type_of(*function)),
                _ => None,
            };
            let mutable = image.symbols.get(name).is_some_and(|symbol| symbol.mutable);
            if own.as_ref() != Some(&export.ty) {
                no(9, format!("{file} does not export '{name}' as the layout says"));
            } else if mutable != export.mutable {
                let is = |mutable: bool| if mutable { "mutable" } else { "const" };
                no(9, format!("{file} exports '{name}' as {}, and the layout as {}", is(mutable), is(export.mutable)));
            }
        }
        for name in image.symbols.keys().chain(image.functions.keys()).filter(|name| !layout.exports.contains_key(*name)) {
            no(9, format!("{file} exports '{name}', which the layout does not name"));
        }
        let bytes: usize = memory(image).iter().sum();
        if bytes > CEILING {
            no(10, format!("{file} takes {bytes} bytes of {CEILING}"));
        }
    }
    found
}

/// Colors whose routes form a cycle: routers left over after taking away, again and again, those that send to nobody left.
fn cycles(layout: &Layout) -> Vec<u8> {
    let colors: BTreeSet<u8> = layout.configs.keys().map(|(_, color)| *color).collect();
    let circular = |color: &u8| {
        let mut left: BTreeSet<usize> = layout.configs.keys().filter(|(_, c)| c == color).map(|(pe, _)| *pe).collect();
        loop {
            let sends = |pe: &usize| {
                let tx = layout.configs[&(*pe, *color)].tx;
                (0..RAMP).any(|d| tx >> d & 1 == 1 && layout.neighbour(*pe, d).is_some_and(|to| left.contains(&to)))
            };
            let next: BTreeSet<usize> = left.iter().copied().filter(sends).collect();
            if next.len() == left.len() {
                return !left.is_empty();
            }
            left = next;
        }
    };
    colors.into_iter().filter(circular).collect()
}
