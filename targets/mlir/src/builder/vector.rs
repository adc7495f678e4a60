//! Lanes: broadcasting, picking, shuffling, reducing. All of it accepts one lane too, so that a kernel written for `n` lanes is
//! also the scalar kernel.

use super::Val;

impl<'k> Val<'k> {
    /// The scalar in each of `lanes` lanes.
    #[track_caller]
    pub fn splat(self, lanes: u32) -> Val<'k> {
        assert_eq!(self.ty.lanes, 1, "kernel {}: splat of a vector", self.b.name);
        if lanes == 1 { self } else { self.b.value("vector.broadcast", &[self], self.ty.x(lanes), &[]) }
    }

    /// The lane at `index`.
    #[track_caller]
    pub fn lane(self, index: u32) -> Val<'k> {
        assert!(index < self.ty.lanes, "kernel {}: lane {index} of {}", self.b.name, self.ty);
        if self.ty.lanes == 1 {
            return self;
        }
        let position = self.b.attr(&format!("array<i64: {index}>"));
        self.b.value("vector.extract", &[self], self.ty.x(1), &[("static_position", position)])
    }

    /// The lane at an index known only at run time.
    #[track_caller]
    pub fn lane_at(self, index: Val<'k>) -> Val<'k> {
        if self.ty.lanes == 1 { self } else { self.b.value("llvm.extractelement", &[self, index], self.ty.x(1), &[]) }
    }

    /// The vector with `lane` at `index`.
    #[track_caller]
    pub fn with_lane(self, index: u32, lane: Val<'k>) -> Val<'k> {
        assert!(index < self.ty.lanes, "kernel {}: lane {index} of {}", self.b.name, self.ty);
        if self.ty.lanes == 1 {
            return lane;
        }
        let position = self.b.attr(&format!("array<i64: {index}>"));
        self.b.value("vector.insert", &[lane, self], self.ty, &[("static_position", position)])
    }

    /// Lanes picked from `self` followed by `other`, by constant indices.
    #[track_caller]
    pub fn shuffle(self, other: Val<'k>, indices: &[u32]) -> Val<'k> {
        assert_eq!(self.ty, other.ty, "kernel {}: shuffle", self.b.name);
        assert!(indices.iter().all(|&at| at < 2 * self.ty.lanes), "kernel {}: shuffle {indices:?}", self.b.name);
        if let &[index] = indices {
            return if index < self.ty.lanes { self.lane(index) } else { other.lane(index - self.ty.lanes) };
        }
        if self.ty.lanes == 1 {
            let zero = self.splat(indices.len() as u32);
            let picked = indices.iter().enumerate().filter(|&(_, &source)| source == 1);
            return picked.fold(zero, |vector, (at, _)| vector.with_lane(at as u32, other));
        }
        let list: Vec<String> = indices.iter().map(u32::to_string).collect();
        let mask = self.b.attr(&format!("array<i64: {}>", list.join(", ")));
        self.b.value("vector.shuffle", &[self, other], self.ty.x(indices.len() as u32), &[("mask", mask)])
    }

    /// `count` lanes from `start` on.
    #[track_caller]
    pub fn slice(self, start: u32, count: u32) -> Val<'k> {
        if (start, count) == (0, self.ty.lanes) {
            return self;
        }
        self.shuffle(self, &(start..start + count).collect::<Vec<_>>())
    }

    /// The lanes of `self` followed by those of `other`.
    #[track_caller]
    pub fn concat(self, other: Val<'k>) -> Val<'k> {
        self.shuffle(other, &(0..2 * self.ty.lanes).collect::<Vec<_>>())
    }

    /// `self[0], other[0], self[1], other[1], ...`.
    #[track_caller]
    pub fn interleave(self, other: Val<'k>) -> Val<'k> {
        let lanes = self.ty.lanes;
        self.shuffle(other, &(0..lanes).flat_map(|at| [at, lanes + at]).collect::<Vec<_>>())
    }

    /// All lanes (a power of two) combined in a fixed order: the lower half with the upper half, until one is left.
    #[track_caller]
    pub fn reduce(self, combine: impl Fn(Val<'k>, Val<'k>) -> Val<'k>) -> Val<'k> {
        assert!(self.ty.lanes.is_power_of_two(), "kernel {}: reduce {}", self.b.name, self.ty);
        let mut all = self;
        while all.ty.lanes > 1 {
            let half = all.ty.lanes / 2;
            all = combine(all.slice(0, half), all.slice(half, half));
        }
        all
    }

    /// The sum of all lanes, in [`reduce`](Val::reduce)'s order.
    #[track_caller]
    pub fn sum(self) -> Val<'k> {
        self.reduce(|left, right| left + right)
    }

    /// The largest lane; NaN lanes count as [`max`](Val::max) says.
    #[track_caller]
    pub fn max_lane(self) -> Val<'k> {
        self.reduce(|left, right| left.max(right))
    }

    /// The sums of vectors: lane `i` of the result is the sum of the lanes of `vectors[i]`, of which there are as many as lanes (a
    /// power of two). Neighbouring lanes are added first; this takes fewer shuffles than summing one vector after another.
    #[track_caller]
    pub fn sums(vectors: &[Val<'k>]) -> Val<'k> {
        let lanes = vectors.len() as u32;
        assert!(lanes.is_power_of_two() && vectors.iter().all(|v| v.ty.lanes == lanes), "sums of {lanes} vectors");
        let every_second = |from: u32| (from..2 * lanes).step_by(2).collect::<Vec<_>>();
        let mut rest = vectors.to_vec();
        while rest.len() > 1 {
            let add =
                |pair: &[Val<'k>]| pair[0].shuffle(pair[1], &every_second(0)) + pair[0].shuffle(pair[1], &every_second(1));
            rest = rest.chunks(2).map(add).collect();
        }
        rest[0]
    }
}
