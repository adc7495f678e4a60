//! The algebra is sound: a random chain of ops, evaluated symbolically and only then at every index, gives what the ops compute.
//!
//! The other side is a plain evaluator of dense arrays below, which knows nothing of expressions.
#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
mod common;

use common::decoder::Writer;
use common::random::Random;
use q35_graph::source::Attr;
use q35_graph::{Tensor, Value};
use q35_passes::eval::Eval;
use q35_passes::sym::{Arena, Id, Node};
use std::collections::{BTreeMap, HashMap};

/// A dense array and the source value that computes it.
#[derive(Clone)]
struct Known {
    value: Value,
    dims: Vec<usize>,
    data: Vec<f64>,
}

fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for &dim in dims {
        all = all.into_iter().flat_map(|at| (0..dim).map(move |i| [at.clone(), vec![i]].concat())).collect();
    }
    all
}

impl Known {
    fn at(&self, index: &[usize]) -> f64 {
        self.data[index.iter().zip(&self.dims).fold(0, |flat, (i, d)| flat * d + i)]
    }

    fn make(value: Value, dims: Vec<usize>, f: impl Fn(&[usize]) -> f64) -> Self {
        let data = indices(&dims).iter().map(|at| f(at)).collect();
        Self { value, dims, data }
    }
}

fn start(w: &mut Writer, random: &mut Random, integer: bool) -> Known {
    let dims: Vec<usize> = (0..1 + random.below(3)).map(|_| [1, 2, 3, 4, 6][random.below(5)]).collect();
    let count: usize = dims.iter().product();
    let shape = dims.iter().map(|d| *d as u64).collect();
    if integer {
        // Half of them are affine, and fold to their formula.
        let (slope, odd) = (random.below(5) as i64, if random.below(2) == 0 { 0 } else { 3 });
        let numbers: Vec<i64> = (0..count as i64).map(|i| i * slope + if i == 1 { odd } else { 0 }).collect();
        let data = numbers.iter().map(|n| *n as f64).collect();
        return Known { value: w.constant(Tensor::from_i64(shape, &numbers)), dims, data };
    }
    let numbers: Vec<f32> = (0..count).map(|i| i as f32 + 0.5).collect();
    let data = numbers.iter().map(|n| f64::from(*n)).collect();
    Known { value: w.constant(Tensor::from_f32(shape, &numbers)), dims, data }
}

/// Another arrangement of the same elements.
fn view(w: &mut Writer, random: &mut Random, x: &Known) -> Known {
    let rank = x.dims.len();
    let axis = random.below(rank);
    match random.below(12) {
        0 => {
            // Reshape: move a factor from one dimension into a new one, or join all.
            let mut to = x.dims.clone();
            let factor = [1, 2, 3].into_iter().filter(|f| to[axis].is_multiple_of(*f)).nth(random.below(2)).unwrap_or(1);
            to[axis] /= factor;
            to.insert(axis + random.below(2), factor);
            if random.below(3) == 0 {
                to = vec![to.iter().product()];
            }
            let target: Vec<i64> = to.iter().map(|d| *d as i64).collect();
            Known { value: w.reshape(x.value, &target), dims: to, data: x.data.clone() }
        }
        1 => {
            let shift = 1 + random.below(rank);
            let perm: Vec<usize> = (0..rank).map(|i| (i + shift) % rank).collect();
            let value = w.transpose(x.value, &perm.iter().map(|p| *p as i64).collect::<Vec<_>>());
            let dims = perm.iter().map(|p| x.dims[*p]).collect();
            Known::make(value, dims, |at| {
                let mut from = vec![0; rank];
                perm.iter().zip(at).for_each(|(p, i)| from[*p] = *i);
                x.at(&from)
            })
        }
        2 => {
            let (start, step) = (random.below(x.dims[axis]), 1 + random.below(2));
            let len = (x.dims[axis] - start).div_ceil(step);
            let bounds = [start as i64, i64::MAX, axis as i64, step as i64].map(|b| w.ints(&[b]));
            let value = w.op("Slice", &[x.value, bounds[0], bounds[1], bounds[2], bounds[3]]);
            let mut dims = x.dims.clone();
            dims[axis] = len;
            Known::make(value, dims, |at| {
                let mut from = at.to_vec();
                from[axis] = start + step * at[axis];
                x.at(&from)
            })
        }
        3 => {
            let value = w.concat(&[x.value, x.value], axis as i64);
            let mut dims = x.dims.clone();
            dims[axis] *= 2;
            Known::make(value, dims, |at| {
                let mut from = at.to_vec();
                from[axis] %= x.dims[axis];
                x.at(&from)
            })
        }
        4 => {
            let (axes, target) = (w.ints(&[axis as i64]), random.below(2) + 2);
            let value = w.op("Unsqueeze", &[x.value, axes]);
            let mut dims = x.dims.clone();
            dims.insert(axis, target);
            let shape = w.ints(&dims.iter().map(|d| *d as i64).collect::<Vec<_>>());
            let value = w.op("Expand", &[value, shape]);
            Known::make(value, dims, |at| {
                let mut from = at.to_vec();
                from.remove(axis);
                x.at(&from)
            })
        }
        5 => {
            let picks: Vec<usize> = (0..1 + random.below(4)).map(|_| random.below(x.dims[axis])).collect();
            let list = w.ints(&picks.iter().map(|p| *p as i64).collect::<Vec<_>>());
            let value = w.call("Gather", &[x.value, list], &[("axis", Attr::Int(axis as i64))]);
            let mut dims = x.dims.clone();
            dims[axis] = picks.len();
            Known::make(value, dims, |at| {
                let mut from = at.to_vec();
                from[axis] = picks[at[axis]];
                x.at(&from)
            })
        }
        6 => {
            let picks: Vec<usize> = (0..x.data.len()).map(|_| random.below(x.dims[axis])).collect();
            let shape = x.dims.iter().map(|d| *d as u64).collect();
            let list = Tensor::from_i64(shape, &picks.iter().map(|p| *p as i64).collect::<Vec<_>>());
            let list = w.constant(list);
            let value = w.call("GatherElements", &[x.value, list], &[("axis", Attr::Int(axis as i64))]);
            Known::make(value, x.dims.clone(), |at| {
                let mut from = at.to_vec();
                from[axis] = picks[at.iter().zip(&x.dims).fold(0, |flat, (i, d)| flat * d + i)];
                x.at(&from)
            })
        }
        7 => {
            // Updates are added wherever they are sent.
            let places: Vec<usize> = (0..x.data.len()).map(|_| random.below(x.dims[axis])).collect();
            let shape = x.dims.iter().map(|d| *d as u64).collect();
            let list = Tensor::from_i64(shape, &places.iter().map(|p| *p as i64).collect::<Vec<_>>());
            let list = w.constant(list);
            let attrs = [("axis", Attr::Int(axis as i64)), ("reduction", Attr::Str("add".to_owned()))];
            let value = w.call("ScatterElements", &[x.value, list, x.value], &attrs);
            let mut data = x.data.clone();
            for (flat, at) in indices(&x.dims).iter().enumerate() {
                let mut to = at.clone();
                to[axis] = places[flat];
                data[to.iter().zip(&x.dims).fold(0, |flat, (i, d)| flat * d + i)] += x.data[flat];
            }
            Known { value, dims: x.dims.clone(), data }
        }
        8 => {
            // The last elements of some leading dimensions are written over a box of them.
            let boxed: Vec<(usize, usize)> = (0..1 + random.below(x.dims.len()))
                .map(|c| {
                    let (first, len) = (random.below(x.dims[c]), 1 + random.below(x.dims[c]));
                    (first, len.min(x.dims[c] - first))
                })
                .collect();
            let counts: Vec<usize> = boxed.iter().map(|(_, len)| *len).collect();
            let places: Vec<i64> = indices(&counts)
                .iter()
                .flat_map(|at| at.iter().zip(&boxed).map(|(i, (first, _))| (i + first) as i64))
                .collect();
            let shape = counts.iter().chain([&boxed.len()]).map(|n| *n as u64).collect();
            let list = w.constant(Tensor::from_i64(shape, &places));
            let mut tail = x.value;
            for (c, len) in counts.iter().enumerate() {
                let bounds = [(x.dims[c] - len) as i64, i64::MAX, c as i64].map(|b| w.ints(&[b]));
                tail = w.op("Slice", &[tail, bounds[0], bounds[1], bounds[2]]);
            }
            let value = w.op("ScatterND", &[x.value, list, tail]);
            Known::make(value, x.dims.clone(), |at| {
                let mut from = at.to_vec();
                if boxed.iter().zip(at).all(|((first, len), at)| (*first..first + len).contains(at)) {
                    boxed.iter().enumerate().for_each(|(c, (first, len))| from[c] = at[c] - first + x.dims[c] - len);
                }
                x.at(&from)
            })
        }
        9 => {
            let exclusive = random.below(2);
            let axes = w.int(axis as i64);
            let value = w.call("CumSum", &[x.value, axes], &[("exclusive", Attr::Int(exclusive as i64))]);
            Known::make(value, x.dims.clone(), |at| {
                let mut from = at.to_vec();
                (0..at[axis] + 1 - exclusive)
                    .map(|i| {
                        from[axis] = i;
                        x.at(&from)
                    })
                    .sum()
            })
        }
        10 => {
            // One element of every row is replaced by the row's first one.
            let mut once = x.dims.clone();
            once[axis] = 1;
            let places: Vec<usize> = indices(&once).iter().map(|_| random.below(x.dims[axis])).collect();
            let shape = once.iter().map(|d| *d as u64).collect();
            let list = w.constant(Tensor::from_i64(shape, &places.iter().map(|p| *p as i64).collect::<Vec<_>>()));
            let bounds = [0, 1, axis as i64].map(|b| w.ints(&[b]));
            let first = w.op("Slice", &[x.value, bounds[0], bounds[1], bounds[2]]);
            let value = w.call("ScatterElements", &[x.value, list, first], &[("axis", Attr::Int(axis as i64))]);
            Known::make(value, x.dims.clone(), |at| {
                let mut row = at.to_vec();
                row[axis] = 0;
                let place = places[row.iter().zip(&once).fold(0, |flat, (i, d)| flat * d + i)];
                if at[axis] == place { x.at(&row) } else { x.at(at) }
            })
        }
        _ => {
            let keep = random.below(2) as i64;
            let axes = w.ints(&[axis as i64]);
            let value = w.call("ReduceSum", &[x.value, axes], &[("keepdims", Attr::Int(keep))]);
            let mut dims = x.dims.clone();
            dims[axis] = 1;
            let kept = Known::make(value, dims.clone(), |at| {
                let mut from = at.to_vec();
                (0..x.dims[axis])
                    .map(|i| {
                        from[axis] = i;
                        x.at(&from)
                    })
                    .sum()
            });
            if keep == 0 {
                dims.remove(axis);
            }
            Known { dims, ..kept }
        }
    }
}

/// A combination of a value with a rearrangement of itself, or with its own index.
fn combine(w: &mut Writer, random: &mut Random, x: &Known, integer: bool) -> Known {
    let last = *x.dims.last().unwrap();
    let (zero, limit, one) = (w.int(0), w.int(last as i64), w.int(1));
    let range = w.op("Range", &[zero, limit, one]);
    let own = |at: &[usize]| *at.last().unwrap() as f64;
    let bound = w.int(random.below(last + 1) as i64);
    let of_bound = |w: &Writer| match &w.graph.node(bound.node).op {
        q35_graph::source::SourceOp::Const(t) => t.number(0),
        _ => unreachable!(),
    };
    let limit = of_bound(w);
    match random.below(if integer { 6 } else { 3 }) {
        0 => {
            let before = w.op("Less", &[range, bound]);
            let double = w.op("Add", &[x.value, x.value]);
            let value = w.op("Where", &[before, double, x.value]);
            Known::make(value, x.dims.clone(), |at| if own(at) < limit { 2.0 * x.at(at) } else { x.at(at) })
        }
        1 => {
            let value = w.op("Mul", &[x.value, x.value]);
            let value = w.op("Sub", &[value, x.value]);
            Known::make(value, x.dims.clone(), |at| x.at(at) * x.at(at) - x.at(at))
        }
        2 => {
            let value = w.op("Max", &[x.value, x.value]);
            Known { value, ..x.clone() }
        }
        3 => {
            let five = w.int(5);
            let shifted = w.op("Add", &[range, five]);
            let product = w.op("Mul", &[shifted, range]);
            let value = w.op("Add", &[x.value, product]);
            Known::make(value, x.dims.clone(), |at| x.at(at) + (own(at) + 5.0) * own(at))
        }
        4 => {
            let divisor = w.int([1, 2, 3, 4][random.below(4)]);
            let d = match &w.graph.node(divisor.node).op {
                q35_graph::source::SourceOp::Const(t) => t.number(0),
                _ => unreachable!(),
            };
            let sum = w.op("Add", &[x.value, range]);
            let op = if random.below(2) == 0 { "Div" } else { "Mod" };
            let value = w.op(op, &[sum, divisor]);
            Known::make(value, x.dims.clone(), |at| {
                let sum = x.at(at) + own(at);
                if op == "Div" { (sum / d).floor() } else { sum.rem_euclid(d) }
            })
        }
        _ => {
            let equal = w.op("Equal", &[x.value, range]);
            let less = w.op("LessOrEqual", &[range, bound]);
            let both = w.op("And", &[equal, less]);
            let number = w.call("Cast", &[both], &[("to", Attr::Int(7))]);
            let value = w.op("Add", &[number, x.value]);
            Known::make(value, x.dims.clone(), |at| x.at(at) + f64::from(u8::from(x.at(at) == own(at) && own(at) <= limit)))
        }
    }
}

/// Writes sums over a fixed extent out.
fn unfolded(sym: &mut Arena, mut id: Id) -> Id {
    loop {
        let mut fold = None;
        sym.visit(id, |at, node| match node {
            Node::Fold(_, bound, body) => {
                fold = Some((at, *bound, *body));
                false
            }
            _ => true,
        });
        let Some((at, bound, body)) = fold else { return id };
        let extent = sym.bound_extent(bound).unwrap();
        let mut terms = Vec::new();
        for i in 0..sym.as_int(extent).unwrap() {
            let i = sym.int(i);
            terms.push((sym.subst(body, &HashMap::from([(bound, i)])), 1.0));
        }
        let sum = sym.linear(&terms, 0.0);
        id = sym.subst(id, &HashMap::from([(at, sum)]));
    }
}

fn check(seed: u64, integer: bool) {
    let mut random = Random(seed);
    let mut w = Writer::default();
    let mut known = start(&mut w, &mut random, integer);
    for _ in 0..2 + random.below(5) {
        let next = if random.below(3) == 0 {
            combine(&mut w, &mut random, &known, integer)
        } else {
            view(&mut w, &mut random, &known)
        };
        if next.dims.is_empty() || next.data.len() > 600 || next.data.iter().any(|x| x.abs() > 1e9) {
            break;
        }
        known = next;
    }
    let mut eval = Eval::new(&w.graph, Arena::default(), BTreeMap::new());
    let shape = eval.shape(known.value).unwrap_or_else(|f| panic!("seed {seed}: {}", f.why));
    let dims: Vec<i64> = shape.iter().map(|d| eval.sym.as_int(*d).unwrap()).collect();
    assert_eq!(dims, known.dims.iter().map(|d| *d as i64).collect::<Vec<_>>(), "seed {seed}");
    let vars = eval.index_vars(known.value, "i").unwrap();
    let element = match eval.element(known.value, &vars) {
        Ok(element) => element,
        // Division by what may be negative has no meaning there; nothing is claimed then.
        Err(_) => return,
    };
    for at in indices(&known.dims) {
        let mut map = HashMap::new();
        for (var, i) in vars.iter().zip(&at) {
            // A variable of extent 1 is the number 0 already.
            if eval.sym.as_number(*var).is_none() {
                map.insert(*var, eval.sym.int(*i as i64));
            }
        }
        let got = eval.sym.subst(element, &map);
        let got = unfolded(&mut eval.sym, got);
        let want = known.at(&at);
        let number = eval.sym.as_number(got);
        let near = number.is_some_and(|x| (x - want).abs() <= 1e-9 * want.abs().max(1.0));
        assert!(near, "seed {seed}, index {at:?}: {} is {} instead of {want}", eval.sym.show(element), eval.sym.show(got));
    }
}

#[test]
fn chains_over_real_numbers_are_sound() {
    (0..1500).for_each(|seed| check(seed, false));
}

#[test]
fn chains_over_integers_are_sound() {
    (0..1500).for_each(|seed| check(seed + 1_000_000, true));
}
